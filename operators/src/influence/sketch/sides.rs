//! The matrices of a sketch: what is multiplied with the gradients of each layer from both sides.

use std::sync::{Arc, OnceLock};

use gristmill_kernels::gemm::{GemmError, Matrix, PackedWeights, Precision, Values};
use gristmill_kernels::signs::{Block, SequentialSigns, Signs, unit_scale};
use gristmill_kernels::workers::Serial;

use super::super::modules::layer_name;
use super::{LARGEST_DIMENSION, SMALLEST_DIMENSION, SignSource, SketchSpec};
use crate::models::gradients::{Projection, Projections};
use crate::models::{Model, Parameter};

/// A projection of the gradients of some linear layers of a model. See the [module](super).
///
/// ```no_run
/// use gristmill_operators::Resources;
/// use gristmill_operators::influence::sketch::{Sketch, SketchSpec};
/// use gristmill_operators::models::{LoadOptions, Model};
///
/// let (model, _) = Model::load("EleutherAI/pythia-70m", &Resources::local(), LoadOptions::default())?;
/// let sketch = Sketch::new(&model, &SketchSpec { dimension: 16, ..SketchSpec::default() })?;
/// // Six layers of four linear ones each.
/// assert_eq!(sketch.width(), 6 * 4 * 16 * 16);
/// for module in sketch.modules() {
///     println!("{} begins at {}", module.name, module.offset);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Sketch {
    modules: Vec<SketchModule>,
    /// By the index of a parameter, which module its weights are.
    places: Vec<Option<usize>>,
    width: usize,
    /// The sides as products with many tokens read them, once somebody needs them.
    packed: OnceLock<Vec<Packed>>,
    /// Another one whenever a side changes.
    version: Arc<()>,
}

/// What a sketch has of one linear layer, y = W·x with W of `[outputs, inputs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SketchModule {
    /// The layer's name in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// The index of its weights in [`Model::parameters`].
    pub parameter: usize,
    /// Outputs of the layer.
    pub outputs: usize,
    /// Inputs of the layer.
    pub inputs: usize,
    /// Rows of L; `outputs` without projection.
    pub p: usize,
    /// Rows of R; `inputs` without projection.
    pub q: usize,
    /// Where its p·q numbers, `[p, q]`, begin in a row.
    pub offset: usize,
    /// L, `[p, outputs]`; the identity where there is none.
    pub left: Option<Vec<f32>>,
    /// R, `[q, inputs]`; the identity where there is none.
    pub right: Option<Vec<f32>>,
}

impl SketchModule {
    /// How many numbers of a row are its own.
    pub const fn size(&self) -> usize {
        self.p * self.q
    }
}

/// Both sides of a module.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) left: Option<PackedWeights>,
    pub(super) right: Option<PackedWeights>,
}

impl Sketch {
    /// The sketch of a model's linear layers that `spec` takes, in the order of [`Model::parameters`].
    ///
    /// # Errors
    /// A dimension that is not allowed, or is larger than a side of a layer; layers that the model does not have; a seed for signs that have none.
    pub fn new(model: &Model, spec: &SketchSpec) -> Result<Self, String> {
        let &SketchSpec { dimension, seed, signs, .. } = spec;
        if dimension != 0 && !(SMALLEST_DIMENSION..=LARGEST_DIMENSION).contains(&dimension) {
            return Err(format!(
                "a projection of {dimension} rows; {SMALLEST_DIMENSION} to {LARGEST_DIMENSION} are allowed, and 0 for none"
            ));
        }
        if signs == SignSource::Bergson026 && seed != 0 {
            return Err(format!("signs of bergson-0.26 have no seed, and {seed} is given; 0 is allowed"));
        }
        let mut modules = Vec::new();
        let mut places = vec![None; model.parameters().len()];
        let mut offset = 0_usize;
        for (name, parameter) in spec.modules.of(model)? {
            let [outputs, inputs] = parameter.sides();
            if dimension > outputs.min(inputs) {
                return Err(format!(
                    "the layer {name} has {outputs} outputs and {inputs} inputs, fewer than the {dimension} rows of its projection; at most {} are \
                     allowed with it, and `modules` can leave it out",
                    outputs.min(inputs)
                ));
            }
            places[parameter.index()] = Some(modules.len());
            let side = |side, columns| {
                let names = (name.as_str(), strip_base(model.kind(), &name));
                (dimension > 0).then(|| matrix(spec, names, side, columns)).transpose()
            };
            let (left, right) = (side("left", outputs)?, side("right", inputs)?);
            let (p, q) = if dimension > 0 { (dimension, dimension) } else { (outputs, inputs) };
            modules.push(SketchModule {
                name: name.clone(),
                parameter: parameter.index(),
                outputs,
                inputs,
                p,
                q,
                offset,
                left,
                right,
            });
            let size = p.checked_mul(q).and_then(|size| offset.checked_add(size));
            offset = size.ok_or_else(|| format!("the gradients of {} layers are too large", modules.len()))?;
        }
        Ok(Self { modules, places, width: offset, packed: OnceLock::new(), version: Arc::new(()) })
    }

    /// The layers, in the order of their numbers in a row.
    pub fn modules(&self) -> &[SketchModule] {
        &self.modules
    }

    /// Numbers of a row: the sum of p·q over all layers.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// The number of the module whose weights a parameter is, if it is one.
    pub fn module_of(&self, parameter: &Parameter) -> Option<usize> {
        let number = self.places.get(parameter.index()).copied().flatten()?;
        (self.modules[number].name == layer_name(parameter.name())).then_some(number)
    }

    /// Scales the gradients of a module before they are projected: element (i, j) by `rows[i] · columns[j]`, as Adafactor's factored second moments do. `None` leaves
    /// a side as it is.
    ///
    /// Without projection a side becomes a matrix of its own, as in [`Sketch::multiply_sides`].
    ///
    /// # Errors
    /// No such module, or not as many factors as it has outputs or inputs.
    pub fn scale_sides(&mut self, module: usize, rows: Option<&[f64]>, columns: Option<&[f64]>) -> Result<(), String> {
        self.change_sides(module, [rows, columns], |factors, side, len| {
            if factors.len() != len {
                return Err(format!("{} factors, and {len} are needed", factors.len()));
            }
            let mut matrix = side.take().unwrap_or_else(|| identity(len));
            for row in matrix.chunks_exact_mut(len) {
                row.iter_mut().zip(factors).for_each(|(value, factor)| *value = (f64::from(*value) * factor) as f32);
            }
            *side = Some(matrix);
            Ok(())
        })
    }

    /// Multiplies the gradients of a module by dense matrices before they are projected: L becomes L·A with an A of `[outputs, outputs]`, and R becomes
    /// R·B with a B of `[inputs, inputs]`, so that g becomes A·g·Bᵀ. `None` leaves a side as it is. Sums are f64.
    ///
    /// Without projection the side is A or B itself, and each token costs a product with it.
    ///
    /// # Errors
    /// No such module, or a matrix of another size.
    pub fn multiply_sides(&mut self, module: usize, left: Option<&[f64]>, right: Option<&[f64]>) -> Result<(), String> {
        self.change_sides(module, [left, right], |matrix, side, len| {
            if len.checked_mul(len) != Some(matrix.len()) {
                return Err(format!("a matrix of {} elements, and {len} times {len} are needed", matrix.len()));
            }
            *side = Some(match side.take() {
                None => matrix.iter().map(|&value| value as f32).collect(),
                Some(side) => multiplied(&side, matrix, len),
            });
            Ok(())
        })
    }

    /// Calls `change` for both sides with what is given for them, the side's matrix, and its number of columns.
    fn change_sides<T: Copy>(
        &mut self,
        module: usize,
        given: [Option<T>; 2],
        change: impl Fn(T, &mut Option<Vec<f32>>, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        let count = self.modules.len();
        let Some(module) = self.modules.get_mut(module) else {
            return Err(format!("there is no layer {module}; there are {count}"));
        };
        let SketchModule { name, outputs, inputs, left, right, .. } = module;
        for (given, side, len, what) in [(given[0], left, *outputs, "outputs"), (given[1], right, *inputs, "inputs")] {
            let Some(given) = given else { continue };
            change(given, side, len).map_err(|message| format!("the {what} of {name}: {message}"))?;
        }
        (self.packed, self.version) = (OnceLock::new(), Arc::new(()));
        Ok(())
    }

    /// Both sides of all modules as they are, if none is the identity or larger than projections are made for.
    pub(super) fn projections(&self) -> Option<Projections<'_>> {
        let modules = self.modules.iter().map(|module| {
            let &SketchModule { parameter, p, q, offset, .. } = module;
            let (left, right) = (module.left.as_deref()?, module.right.as_deref()?);
            (p.max(q) <= LARGEST_DIMENSION).then_some(Projection { parameter, p, q, offset, left, right })
        });
        Some(Projections { version: &self.version, width: self.width, modules: modules.collect::<Option<_>>()? })
    }

    /// Both sides of all modules, packed for products with many tokens.
    pub(super) fn packed(&self) -> Result<&[Packed], GemmError> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let pack = |side: &Option<Vec<f32>>, columns: usize| {
            let Some(values) = side else { return Ok(None) };
            let matrix = Matrix::row_major(Values::F32(values), values.len() / columns.max(1), columns)?;
            PackedWeights::pack(matrix, Precision::F32).map(Some)
        };
        let packed: Result<Vec<Packed>, GemmError> = self
            .modules
            .iter()
            .map(|module| {
                let (left, right) = (pack(&module.left, module.outputs)?, pack(&module.right, module.inputs)?);
                Ok(Packed { left, right })
            })
            .collect();
        let packed = packed?;
        Ok(self.packed.get_or_init(|| packed))
    }
}

/// The matrix of one side of a layer, given the layer's names in the checkpoint and in its base model.
fn matrix(spec: &SketchSpec, names: (&str, &str), side: &str, columns: usize) -> Result<Vec<f32>, String> {
    let (name, in_base) = names;
    let SketchSpec { dimension, seed, signs, .. } = *spec;
    let scale = unit_scale(dimension);
    let mut values = vec![0.0; dimension * columns];
    let block = Block::first(columns);
    let filled = match signs {
        SignSource::Gristmill => Signs::named(seed, &format!("{name}/{side}")).fill(&Serial, block, scale, &mut values),
        SignSource::Bergson2 => {
            let seed = if seed == 0 { String::new() } else { format!("/seed{seed}") };
            Signs::bergson_2(&format!("{in_base}/{side}{seed}")).fill(&Serial, block, scale, &mut values)
        }
        SignSource::Bergson026 => {
            let signs = SequentialSigns::bergson_0_26(&format!("{in_base}/{side}"));
            signs.fill(&Serial, columns, 0, scale, &mut values)
        }
    };
    filled.map_err(|error| format!("the projection of {name}: {error}"))?;
    Ok(values)
}

/// The name of a layer in its model without a head, as bergson has it: transformers keeps that model under a name of its own.
fn strip_base<'n>(kind: &str, name: &'n str) -> &'n str {
    let base = match kind {
        "gpt2" => "transformer",
        "gpt_neox" | "bert" | "roberta" | "distilbert" => kind,
        "xlm-roberta" | "camembert" => "roberta",
        _ => "model",
    };
    name.strip_prefix(base).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
}

fn identity(len: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; len * len];
    matrix.iter_mut().step_by(len + 1).for_each(|value| *value = 1.0);
    matrix
}

/// `side`, `[rows, len]`, times `matrix`, `[len, len]`.
fn multiplied(side: &[f32], matrix: &[f64], len: usize) -> Vec<f32> {
    let mut product = Vec::with_capacity(side.len());
    let mut sums = vec![0.0_f64; len];
    for row in side.chunks_exact(len.max(1)) {
        sums.fill(0.0);
        for (&value, row) in row.iter().zip(matrix.chunks_exact(len)) {
            let value = f64::from(value);
            sums.iter_mut().zip(row).for_each(|(sum, element)| *sum += value * element);
        }
        product.extend(sums.iter().map(|&sum| sum as f32));
    }
    product
}
