//! Gradients as Adam would apply them: what LESS compares queries with.

use gristmill_kernels::gemm::{Matrix, MatrixMut, Values as Numbers, gemm};

use super::documents::{Collect, Values};
use super::engine::{nothing, values_of};
use super::products::Products;
use crate::influence::curvature::{gemm_options, product_of_rows};
use crate::influence::sketch::{Sketch, SketchModule};
use crate::models::gradients::{Gradient, LinearGradient, Tap};
use crate::models::{Batch, Compute, Model, ModelError, ModelFiles, Parameter, Weights};
use crate::{ResourceIdentity, Resources};

/// What PyTorch calls the means of gradients, and of their squares.
const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";

/// How Adam makes steps of gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) betas: [f64; 2],
    pub(super) epsilon: f64,
}

/// The state of an optimiser for the layers of a sketch.
#[derive(Debug)]
pub(super) struct AdamState {
    rule: Rule,
    /// First and second moments, `[outputs, inputs]` each, by the number of the module.
    moments: Vec<[Vec<f32>; 2]>,
}

impl AdamState {
    /// Reads `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` of each layer, in the shape of the parameter, from a safetensors file.
    pub(super) fn read(
        location: &str,
        rule: Rule,
        model: &Model,
        sketch: &Sketch,
        resources: &Resources,
    ) -> Result<(Self, Vec<ResourceIdentity>), ModelError> {
        let (folder, file) = location.rsplit_once('/').unwrap_or((".", location));
        let files = ModelFiles::new(folder, resources);
        let weights = Weights::open_one(&files, file, &[])?;
        let moments = sketch.modules().iter().map(|module| {
            let parameter = model.parameters().nth(module.parameter);
            let parameter =
                parameter.ok_or_else(|| ModelError::Tap(format!("no parameter {}", module.parameter).into()))?;
            let shape = parameter.shape();
            let moment = |key: &str| {
                let name = format!("{}.{key}", parameter.name());
                let values = weights.read(&name, shape)?;
                // Squares have no negative means; with one every row would be at fault.
                let least = if key == SECOND { 0.0 } else { f32::MIN };
                if let Some(place) = values.iter().position(|value| !(value.is_finite() && *value >= least)) {
                    let what = if key == SECOND { "at least 0" } else { "finite" };
                    let message =
                        format!("tensor '{name}' has {} at element {place}; it must be {what}", values[place]);
                    return Err(ModelError::Malformed { path: files.path(file), message });
                }
                Ok::<_, ModelError>(match parameter.is_transposed() {
                    true => transposed(&values, module.inputs, module.outputs),
                    false => values,
                })
            };
            Ok([moment(FIRST)?, moment(SECOND)?])
        });
        let moments = moments.collect::<Result<_, ModelError>>()?;
        Ok((Self { rule, moments }, files.identities()))
    }

    /// (β₁m + (1 - β₁)g) / √(β₂v + (1 - β₂)g² + ε), element by element.
    fn apply(&self, number: usize, gradient: &mut [f32]) {
        let Rule { betas: [first, second], epsilon } = self.rule;
        let Some([means, squares]) = self.moments.get(number) else { return };
        for ((value, &mean), &square) in gradient.iter_mut().zip(means).zip(squares) {
            let g = f64::from(*value);
            let mean = first * f64::from(mean) + (1.0 - first) * g;
            let square = second * f64::from(square) + (1.0 - second) * g * g;
            *value = (mean / (square + epsilon).sqrt()) as f32;
        }
    }
}

/// `[rows, columns]` as `[columns, rows]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|place| values[place % rows * columns + place / rows]).collect()
}

/// Projects what Adam makes of each document's gradient, which is formed for that.
pub(super) struct AdamSteps<'s> {
    sketch: &'s Sketch,
    state: &'s AdamState,
    products: &'s Products,
    rows: Vec<f32>,
    gradient: Vec<f32>,
    half: Vec<f32>,
}

impl<'s> AdamSteps<'s> {
    pub(super) const fn new(sketch: &'s Sketch, state: &'s AdamState, products: &'s Products) -> Self {
        Self { sketch, state, products, rows: Vec::new(), gradient: Vec::new(), half: Vec::new() }
    }

    fn document(&mut self, compute: Compute<'_>, number: usize, document: usize) -> Result<(), ModelError> {
        let module = &self.sketch.modules()[number];
        self.state.apply(number, &mut self.gradient);
        let begin = document * self.sketch.width() + module.offset;
        let row = &mut self.rows[begin..begin + module.size()];
        let SketchModule { p, q, outputs, inputs, .. } = *module;
        let options = gemm_options(compute, false);
        let Some(left) = &module.left else {
            row.copy_from_slice(&self.gradient);
            return Ok(());
        };
        self.half.resize(p * inputs, 0.0);
        let left = Matrix::row_major(Numbers::F32(left), p, outputs)?;
        let gradient = Matrix::row_major(Numbers::F32(&self.gradient), outputs, inputs)?;
        gemm(left, gradient, MatrixMut::row_major(&mut self.half, p, inputs)?, &options)?;
        let Some(right) = &module.right else { return Ok(()) };
        let right = Matrix::row_major(Numbers::F32(right), q, inputs)?.transposed();
        let half = Matrix::row_major(Numbers::F32(&self.half), p, inputs)?;
        Ok(gemm(half, right, MatrixMut::row_major(row, p, q)?, &options)?)
    }
}

impl Tap for AdamSteps<'_> {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.sketch.module_of(parameter).is_some()
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        let Gradient::Linear(linear) = gradient else { return Ok(()) };
        let LinearGradient { module, x, delta, offsets } = *linear;
        let Some(number) = self.sketch.module_of(module.weight()) else { return Ok(()) };
        let (outputs, inputs) = (module.outputs(), module.inputs());
        for (document, place) in offsets.windows(2).enumerate() {
            let (start, end) = (place[0] as usize, place[1] as usize);
            self.gradient.resize(outputs * inputs, 0.0);
            let sides = (&delta[start * outputs..end * outputs], &x[start * inputs..end * inputs]);
            product_of_rows(compute, sides.0, sides.1, end - start, &mut self.gradient)?;
            self.document(compute, number, document)?;
        }
        Ok(())
    }
}

impl Collect for AdamSteps<'_> {
    fn prepare(&mut self, batch: &Batch) {
        self.rows.clear();
        self.rows.resize(batch.documents() * self.sketch.width(), 0.0);
    }

    fn collect(&mut self, documents: usize) -> Result<Vec<Result<Values, String>>, ModelError> {
        let width = self.sketch.width();
        let rows = std::mem::take(&mut self.rows);
        let wrong = rows.chunks_exact(width.max(1)).take(documents).map(|row| {
            let value = row.iter().find(|value| !value.is_finite())?;
            Some(format!("what Adam makes of its gradient has {value}"))
        });
        let wrong = wrong.collect();
        values_of(rows, width, wrong, Some(self.products))
    }

    fn nothing(&self) -> Values {
        nothing(self.sketch.width(), Some(self.products))
    }

    fn held(&self) -> usize {
        self.sketch.width()
    }
}
