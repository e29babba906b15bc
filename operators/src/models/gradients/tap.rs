//! What a backward pass hands out: the gradient of each parameter, not summed over documents, and in the form in which it is smallest.

use std::ops::Range;
use std::sync::Arc;

use gristmill_kernels::gemm::{GemmOptions, Matrix, MatrixMut, Precision, Values, gemm};
use gristmill_kernels::linear_ce::{self, Gradients, HeadGradients, Ids, LinearCe};

use super::loss::expect_length;
use crate::models::error::Result;
use crate::models::layers::Compute;
use crate::models::parameters::{Module, Parameter};
use crate::models::transformer::add;

/// Takes the gradients of parameters while a backward pass goes from the last layer to the first.
///
/// A backward pass computes no weight gradients; a tap makes of them what it needs: a projection, statistics of an optimiser, norms, or
/// the gradients themselves ([`ParameterGradients`](super::ParameterGradients), [`DocumentGradients`](super::DocumentGradients)).
///
/// ```
/// use gristmill_operators::models::gradients::{Gradient, Tap};
/// use gristmill_operators::models::{Compute, Parameter, ParameterKind, Result};
///
/// /// Σ |δ|² of each linear layer, last layer first.
/// #[derive(Default)]
/// struct Squares(Vec<(String, f32)>);
///
/// impl Tap for Squares {
///     fn wants(&self, parameter: &Parameter) -> bool {
///         parameter.kind() == ParameterKind::Linear
///     }
///
///     fn take(&mut self, _: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
///         if let Gradient::Linear(linear) = gradient {
///             let squares = linear.delta.iter().map(|delta| delta * delta).sum();
///             self.0.push((linear.module.name().to_owned(), squares));
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Tap {
    /// Whether the gradient of a parameter is wanted. The answer may not change during a pass: nothing is computed that nobody wants, and
    /// no layer below the first of which something is wanted.
    fn wants(&self, parameter: &Parameter) -> bool;

    /// Takes the gradient of a parameter that is wanted, once in a pass.
    ///
    /// # Errors
    /// Any: the pass ends with it. [`ModelError::Tap`](crate::models::ModelError::Tap) is for errors that are not of models.
    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<()>;

    /// Projections of gradients that are taken in place of them, if there are any. On a device they are made there, of all documents, and handed out by
    /// [`Tap::take_projected`]; parameters that have one are then not handed to [`Tap::take`]. The CPU never asks: it has x and δ at hand.
    fn projections(&self) -> Option<Projections<'_>> {
        None
    }

    /// Takes the projections of a batch, `[documents, width]`, when the pass has ended.
    ///
    /// # Errors
    /// As of [`Tap::take`].
    fn take_projected(&mut self, _rows: Vec<f32>) -> Result<()> {
        Ok(())
    }

    /// Whether [`Tap::take_inputs`] is wanted.
    fn wants_inputs(&self) -> bool {
        false
    }

    /// Takes the gradient of what the embeddings give for each token, `[tokens, hidden]`, before their norm where there is one, and after their projection
    /// where their tables are of another width; documents have the rows `offsets[d]..offsets[d + 1]`.
    ///
    /// # Errors
    /// As of [`Tap::take`].
    fn take_inputs(&mut self, _compute: Compute<'_>, _delta: &[f32], _offsets: &[i64]) -> Result<()> {
        Ok(())
    }
}

/// Two-sided projections of the gradients of linear layers, L·g·Rᵀ, whose elements lie one behind the other in a row for each document.
#[derive(Clone, Debug)]
pub struct Projections<'a> {
    /// Is another one when any matrix changes: what a device has of them is kept as long as there is a copy of this.
    pub version: &'a Arc<()>,
    /// Elements of a row.
    pub width: usize,
    /// One for each layer; their places in a row may not overlap.
    pub modules: Vec<Projection<'a>>,
}

/// The projection of the gradients of one linear layer's weights.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// [`Parameter::index`] of the weights.
    pub parameter: usize,
    /// Rows of L.
    pub p: usize,
    /// Rows of R.
    pub q: usize,
    /// Where its p·q elements, `[p, q]`, begin in a row.
    pub offset: usize,
    /// L, `[p, outputs]`.
    pub left: &'a [f32],
    /// R, `[q, inputs]`.
    pub right: &'a [f32],
}

/// The gradient of a parameter for each document of a batch.
#[derive(Debug)]
#[non_exhaustive]
pub enum Gradient<'a> {
    /// Of the weights of a linear layer.
    Linear(LinearGradient<'a>),
    /// Of a bias, or the weight of a norm.
    Vector(VectorGradient<'a>),
    /// Of embeddings, of a head, or of both where they are tied.
    Table(TableGradient<'a>),
}

impl Gradient<'_> {
    /// Whose gradient it is.
    pub fn parameter(&self) -> &Parameter {
        match self {
            Self::Linear(linear) => linear.module.weight(),
            Self::Vector(vector) => vector.parameter,
            Self::Table(table) => table.parameter,
        }
    }

    /// How many documents the batch has.
    pub fn documents(&self) -> usize {
        let offsets = match self {
            Self::Linear(linear) => linear.offsets,
            Self::Vector(VectorGradient { parameter, gradients }) => {
                return gradients.len() / parameter.elements().max(1);
            }
            Self::Table(TableGradient { lookups: Some(lookups), .. }) => lookups.offsets,
            Self::Table(TableGradient { head: Some(head), .. }) => head.offsets,
            Self::Table(TableGradient { lookups: None, head: None, .. }) => &[],
        };
        offsets.len().saturating_sub(1)
    }

    /// Adds the gradient of one document's loss, in the layout of the checkpoint. The bits of what is added depend on the document alone.
    ///
    /// # Errors
    /// A `to` that has not [`Parameter::elements`] elements.
    ///
    /// # Panics
    /// Where the batch has no such document.
    pub fn add_document(&self, compute: Compute<'_>, document: usize, to: &mut [f32]) -> Result<()> {
        expect_length("elements of a gradient", to.len(), self.parameter().elements())?;
        match self {
            Self::Linear(linear) => linear.add_document(compute, document, to),
            Self::Vector(VectorGradient { parameter, gradients }) => {
                let width = parameter.elements();
                add(to, &gradients[document * width..(document + 1) * width]);
                Ok(())
            }
            Self::Table(table) => table.add_document(compute, document, to),
        }
    }
}

/// The gradient of a linear layer's weights: that of document d is Σ δₜ xₜᵀ over its rows t, `offsets[d]..offsets[d + 1]`.
///
/// Rows are the tokens of a document, but for these: a classifier's last layers have one row for each document. In attention with relative positions
/// (DeBERTa), the layers that make keys or queries of the embeddings of distances have a row for each of these that the document's distances reach: behind
/// those of its tokens where a layer makes them of tokens, too, else these alone. What a convolution reads of a token are its neighbours,
/// `[in, kernel]`.
#[derive(Clone, Copy, Debug)]
pub struct LinearGradient<'a> {
    /// The layer, as the checkpoint has it.
    pub module: &'a Module,
    /// What the layer read, `[rows, in]`.
    pub x: &'a [f32],
    /// The gradient of what it gave, `[rows, out]`.
    pub delta: &'a [f32],
    /// Where documents begin, `[documents + 1]`.
    pub offsets: &'a [i64],
}

impl LinearGradient<'_> {
    fn add_document(&self, compute: Compute<'_>, document: usize, to: &mut [f32]) -> Result<()> {
        let (inputs, outputs) = (self.module.inputs(), self.module.outputs());
        let rows = range(self.offsets, document);
        let x = &self.x[rows.start * inputs..rows.end * inputs];
        let delta = &self.delta[rows.start * outputs..rows.end * outputs];
        let x = Matrix::row_major(Values::F32(x), rows.len(), inputs)?;
        let delta = Matrix::row_major(Values::F32(delta), rows.len(), outputs)?;
        let options =
            GemmOptions { precision: Precision::F32, accumulate: true, threads: compute.threads, engine: None };
        if self.module.is_transposed() {
            return Ok(gemm(x.transposed(), delta, MatrixMut::row_major(to, inputs, outputs)?, &options)?);
        }
        Ok(gemm(delta.transposed(), x, MatrixMut::row_major(to, outputs, inputs)?, &options)?)
    }
}

/// The gradient of a bias, or of a norm's weight.
#[derive(Clone, Copy, Debug)]
pub struct VectorGradient<'a> {
    /// Whose it is.
    pub parameter: &'a Parameter,
    /// Of each document, `[documents, elements]`.
    pub gradients: &'a [f32],
}

/// The gradient of a table, `[rows of the table, width]`.
#[derive(Debug)]
pub struct TableGradient<'a> {
    /// Whose it is.
    pub parameter: &'a Parameter,
    /// What it is as embeddings.
    pub lookups: Option<Lookups<'a>>,
    /// What it is as the head of a language model.
    pub head: Option<HeadGradient<'a>>,
}

/// The gradient of embeddings: δₜ for the row of each token t, or for each row that a document's distances reach.
#[derive(Clone, Copy, Debug)]
pub struct Lookups<'a> {
    /// Rows of the table, `[rows]`.
    pub rows: &'a [u32],
    /// `[rows, width of the table]`.
    pub delta: &'a [f32],
    /// Where documents begin, `[documents + 1]`.
    pub offsets: &'a [i64],
}

/// The gradient of the head of a language model: that of document d is Σ wₜ (softmax(W hₜ) - onehot(targetₜ)) hₜᵀ over the rows t of those of its
/// tokens whose next one is a target, `offsets[d]..offsets[d + 1]`.
#[derive(Debug)]
pub struct HeadGradient<'a> {
    /// What the head read, `[rows, hidden]`.
    pub states: &'a [f32],
    /// What it was to predict, `[rows]`.
    pub targets: &'a [i64],
    /// What each loss counts, `[rows]`.
    pub weights: &'a [f32],
    /// Log-sum-exp of each row's logits, `[rows]`.
    pub log_sums: &'a [f32],
    /// Where documents begin, `[documents + 1]`.
    pub offsets: &'a [i64],
    pub(super) head: &'a linear_ce::Head,
    pub(super) linear_ce: LinearCe,
}

impl HeadGradient<'_> {
    /// Overwrites `delta`, `[rows of the range, vocabulary]`, with the gradient of these rows' logits. It is large: take few rows at a time.
    ///
    /// # Errors
    /// A `delta` of another length.
    ///
    /// # Panics
    /// Where there are no such rows.
    pub fn delta(&self, rows: Range<usize>, delta: &mut [f32]) -> Result<()> {
        let LinearCe { width, vocabulary, .. } = self.linear_ce;
        self.head.logits(&self.states[rows.start * width..rows.end * width], delta)?;
        for (row, delta) in rows.zip(delta.chunks_exact_mut(vocabulary.max(1))) {
            let (log_sum, weight) = (self.log_sums[row], self.weights[row]);
            delta.iter_mut().for_each(|value| *value = (*value - log_sum).exp() * weight);
            // Targets are tokens of the vocabulary: the loss was computed with them.
            delta[self.targets[row] as usize] -= weight;
        }
        Ok(())
    }

    fn add_document(&self, compute: Compute<'_>, document: usize, to: &mut [f32]) -> Result<()> {
        let (rows, width) = (range(self.offsets, document), self.linear_ce.width);
        Ok(self.linear_ce.backward(
            compute.workers,
            &self.states[rows.start * width..rows.end * width],
            self.head,
            Ids::I64(&self.targets[rows.clone()]),
            &self.log_sums[rows.clone()],
            &self.weights[rows],
            Gradients { hidden: None, head: Some(HeadGradients { weights: to, bias: None }) },
        )?)
    }
}

impl TableGradient<'_> {
    fn add_document(&self, compute: Compute<'_>, document: usize, to: &mut [f32]) -> Result<()> {
        if let Some(head) = &self.head {
            head.add_document(compute, document, to)?;
        }
        if let Some(Lookups { rows, delta, offsets }) = self.lookups {
            let width = self.parameter.shape().last().copied().unwrap_or(0);
            let tokens = range(offsets, document);
            let deltas = delta[tokens.start * width..tokens.end * width].chunks_exact(width.max(1));
            for (&row, delta) in rows[tokens].iter().zip(deltas) {
                add(&mut to[row as usize * width..(row as usize + 1) * width], delta);
            }
        }
        Ok(())
    }
}

/// The rows of a document.
pub(super) fn range(offsets: &[i64], document: usize) -> Range<usize> {
    offsets[document] as usize..offsets[document + 1] as usize
}
