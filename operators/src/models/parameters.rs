//! Parameters of a model: the tensors of its checkpoint that results depend on, each by its name and in its own layout.
//!
//! A layer of an architecture need not be a tensor of the checkpoint: GPT-NeoX keeps queries, keys and values of all heads in one
//! tensor, and GPT-2 keeps its weights with inputs as rows. A [`Module`] is a linear layer as the checkpoint has it, and a [`Place`] says
//! which of its outputs a layer of the architecture is.

use std::cell::RefCell;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// What a parameter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParameterKind {
    /// Weights of a linear layer.
    Linear,
    /// A bias, or the weight of a norm.
    Vector,
    /// A table of which tokens, positions, distances or segments are rows; that of tokens is the head of a language model, too, where they are tied.
    Embedding,
    /// The head of a language model, where it has weights of its own.
    Head,
}

/// A tensor of the checkpoint that results depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    kind: ParameterKind,
    index: usize,
    transposed: bool,
}

impl Parameter {
    /// Its name in the checkpoint, such as `model.layers.0.self_attn.q_proj.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape in the checkpoint. A gradient has the same.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// What it does.
    pub const fn kind(&self) -> ParameterKind {
        self.kind
    }

    /// Outputs and inputs of the linear layer whose weights it is, however it is stored; the rows of any other tensor, and the elements of each.
    pub fn sides(&self) -> [usize; 2] {
        let (rows, rest) = self.shape.split_first().map_or((1, &[][..]), |(rows, rest)| (*rows, rest));
        let columns = rest.iter().product();
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }

    /// Whether its rows are inputs of the layer, and not outputs.
    pub(crate) const fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// Its place in [`Model::parameters`](super::Model::parameters).
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A linear layer as the checkpoint has it: y = x·Wᵀ + b.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub(crate) name: String,
    pub(crate) weight: Arc<Parameter>,
    pub(crate) bias: Option<Arc<Parameter>>,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) transposed: bool,
}

impl Module {
    /// One without inputs and outputs.
    pub(crate) fn nothing() -> Self {
        let weight = Parameter {
            name: String::new(),
            shape: vec![0, 0],
            kind: ParameterKind::Linear,
            index: 0,
            transposed: false,
        };
        let (name, weight) = (String::new(), Arc::new(weight));
        Self { name, weight, bias: None, outputs: 0, inputs: 0, transposed: false }
    }

    /// Its name in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its weights.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// Its bias, where it has one.
    pub fn bias(&self) -> Option<&Parameter> {
        self.bias.as_deref()
    }

    /// Elements of a row of y.
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// Elements of a row of x.
    pub const fn inputs(&self) -> usize {
        self.inputs
    }

    /// Whether weights are stored `[in, out]`, as GPT-2 has them, and not `[out, in]`.
    pub const fn is_transposed(&self) -> bool {
        self.transposed
    }
}

/// Which outputs of a module a layer has.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) module: Arc<Module>,
    /// In the order of the layer's outputs, those that follow one another as one range.
    pub(crate) outputs: Vec<Range<usize>>,
}

impl Place {
    /// All outputs.
    pub(crate) fn whole(module: Arc<Module>) -> Self {
        let all = 0..module.outputs;
        Self { module, outputs: vec![all] }
    }

    /// Some outputs, in this order.
    pub(crate) fn of(module: Arc<Module>, outputs: impl Iterator<Item = usize>) -> Self {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for output in outputs {
            match ranges.last_mut() {
                Some(range) if range.end == output => range.end += 1,
                _ => ranges.push(output..output + 1),
            }
        }
        Self { module, outputs: ranges }
    }

    /// Whether the layer is the module.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(&self.outputs[..], [only] if *only == (0..self.module.outputs))
    }

    /// Copies rows of the layer's outputs to their places in rows of all outputs of the module.
    pub(crate) fn spread(&self, from: &[f32], to: &mut [f32]) {
        let width = self.outputs.iter().map(ExactSizeIterator::len).sum::<usize>().max(1);
        for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(self.module.outputs.max(1))) {
            let mut start = 0;
            for range in &self.outputs {
                to[range.clone()].copy_from_slice(&from[start..start + range.len()]);
                start += range.len();
            }
        }
    }
}

/// A parameter with its values.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) values: Vec<f32>,
    pub(crate) parameter: Arc<Parameter>,
}

impl Values {
    /// None of them: they are somewhere else.
    pub(crate) fn nothing() -> Self {
        Self { values: Vec::new(), parameter: Module::nothing().weight }
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

/// The parameters of a model, as they are loaded.
#[derive(Debug, Default)]
pub(crate) struct Registry(RefCell<Vec<Arc<Parameter>>>);

impl Registry {
    /// Notes a parameter, which gets the next index; `transposed` weights have inputs as rows.
    pub(crate) fn add(&self, name: String, shape: &[usize], kind: ParameterKind, transposed: bool) -> Arc<Parameter> {
        let mut all = self.0.borrow_mut();
        let parameter = Arc::new(Parameter { name, shape: shape.into(), kind, index: all.len(), transposed });
        all.push(Arc::clone(&parameter));
        parameter
    }

    /// All that were noted.
    pub(crate) fn parameters(&self) -> Vec<Arc<Parameter>> {
        self.0.borrow().clone()
    }
}
