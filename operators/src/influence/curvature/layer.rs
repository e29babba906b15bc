//! The layers whose gradients are looked at, and the parts that gradients of documents are made from.

use std::borrow::Cow;
use std::ops::Range;

use gristmill_kernels::gemm::{GemmOptions, Layout, Matrix, MatrixMut, Precision, Values, gemm};

use crate::influence::Modules;
use crate::models::gradients::{Gradient, LinearGradient};
use crate::models::{Compute, Model, ModelError, Module, Parameter};

/// A linear layer, as matrices of its size know it: its gradient is `[outputs, columns]`, whatever the layout of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Its name in the checkpoint.
    pub name: String,
    /// Elements of a row of what it gives.
    pub outputs: usize,
    /// Elements of a row of what it reads, and one more where the gradient of the bias is the last column.
    pub columns: usize,
    /// Whether the last column is the gradient of the bias.
    pub bias: bool,
}

impl Layer {
    fn of(module: &Module, bias: bool) -> Self {
        let bias = bias && module.bias().is_some();
        let (name, columns) = (module.name().to_owned(), module.inputs() + usize::from(bias));
        Self { name, outputs: module.outputs(), columns, bias }
    }

    /// Elements of its gradient.
    pub const fn elements(&self) -> usize {
        self.outputs * self.columns
    }
}

/// Which layers of a model are taken, and whether the gradient of a layer's bias is a further column of the gradient of its weights, as in
/// kronfluence: x is then followed by a 1.
#[derive(Clone, Debug)]
pub struct Layers {
    /// By the index of the parameter.
    wanted: Vec<bool>,
    bias: bool,
}

impl Layers {
    /// The layers of a model that patterns take.
    ///
    /// # Errors
    /// As of [`Modules::of`].
    pub fn of(model: &Model, modules: &Modules, bias: bool) -> Result<Self, String> {
        let mut wanted = vec![false; model.parameters().len()];
        modules.of(model)?.iter().for_each(|(_, parameter)| wanted[parameter.index()] = true);
        Ok(Self { wanted, bias })
    }

    /// Whether the weights of a layer are among them.
    pub fn take(&self, parameter: &Parameter) -> bool {
        self.wanted.get(parameter.index()).copied().unwrap_or(false)
    }

    /// What the gradient of one of these layers is made from; `None` where it is not that of a linear layer.
    pub(super) fn rows<'a>(&self, gradient: &'a Gradient<'a>) -> Option<Rows<'a>> {
        let Gradient::Linear(LinearGradient { module, x, delta, offsets }) = *gradient else { return None };
        let layer = Layer::of(module, self.bias);
        let x = if layer.bias {
            let mut with_ones = Vec::with_capacity(x.len() / module.inputs().max(1) * layer.columns);
            for row in x.chunks_exact(module.inputs().max(1)) {
                with_ones.extend_from_slice(row);
                with_ones.push(1.0);
            }
            Cow::Owned(with_ones)
        } else {
            Cow::Borrowed(x)
        };
        Some(Rows { index: module.weight().index(), layer, x, delta, offsets })
    }
}

/// x and δ of a layer.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    /// The index of the parameter.
    pub(super) index: usize,
    pub(super) layer: Layer,
    /// `[rows, columns]`.
    pub(super) x: Cow<'a, [f32]>,
    /// `[rows, outputs]`.
    pub(super) delta: &'a [f32],
    pub(super) offsets: &'a [i64],
}

impl Rows<'_> {
    pub(super) fn documents(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// How many rows there are in all.
    pub(super) fn count(&self) -> usize {
        self.delta.len() / self.layer.outputs.max(1)
    }

    /// The rows of a document.
    pub(super) fn range(&self, document: usize) -> Range<usize> {
        self.offsets[document] as usize..self.offsets[document + 1] as usize
    }

    /// x of a document.
    pub(super) fn x(&self, document: usize) -> &[f32] {
        let (rows, width) = (self.range(document), self.layer.columns);
        &self.x[rows.start * width..rows.end * width]
    }

    /// δ of a document.
    pub(super) fn delta(&self, document: usize) -> &[f32] {
        let (rows, width) = (self.range(document), self.layer.outputs);
        &self.delta[rows.start * width..rows.end * width]
    }

    /// Overwrites the gradient of a document, `[outputs, columns]`.
    pub(super) fn gradient(&self, compute: Compute<'_>, document: usize, to: &mut Vec<f32>) -> Result<(), ModelError> {
        to.resize(self.layer.elements(), 0.0);
        product_of_rows(compute, self.delta(document), self.x(document), self.range(document).len(), to)
    }
}

/// Overwrites `to` with aᵀ·b, where a and b have so many rows.
pub(crate) fn product_of_rows(
    compute: Compute<'_>,
    a: &[f32],
    b: &[f32],
    rows: usize,
    to: &mut [f32],
) -> Result<(), ModelError> {
    if rows == 0 {
        to.fill(0.0);
        return Ok(());
    }
    let (width_a, width_b) = (a.len() / rows, b.len() / rows);
    let a = Matrix::row_major(Values::F32(a), rows, width_a)?.transposed();
    let b = Matrix::row_major(Values::F32(b), rows, width_b)?;
    Ok(gemm(a, b, MatrixMut::row_major(to, width_a, width_b)?, &options(compute, false))?)
}

/// Products in single precision.
pub(crate) const fn options(compute: Compute<'_>, accumulate: bool) -> GemmOptions {
    GemmOptions { precision: Precision::F32, accumulate, threads: compute.threads, engine: None }
}

/// Some columns of a matrix with rows of `width` elements.
pub(super) fn columns(
    values: &[f32],
    rows: usize,
    width: usize,
    columns: Range<usize>,
) -> Result<Matrix<'_>, ModelError> {
    let layout = Layout { rows, columns: columns.len(), row_stride: width, column_stride: 1 };
    Ok(Matrix::strided(Values::F32(&values[columns.start.min(values.len())..]), layout)?)
}
