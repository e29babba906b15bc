//! Gradients in the basis of eigenvectors, and back.

use gristmill_kernels::gemm::{MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values, gemm};

use super::error::Result;
use super::layer::{Layer, Rows, options, product_of_rows};
use super::symmetric::Eigen;
use crate::models::{Compute, ModelError};

/// Q_S and Q_A of a layer, in single precision.
#[derive(Debug)]
pub(super) struct Rotation {
    outputs: usize,
    columns: usize,
    /// Q_S, row by row.
    gradients: Vec<f32>,
    /// Q_A, row by row.
    activations: Vec<f32>,
    /// For δ·Q_S.
    packed_gradients: PackedWeights,
    /// For x·Q_A and g·Q_A.
    packed_activations: PackedWeights,
}

/// Memory for what is on its way.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    x: Vec<f32>,
    delta: Vec<f32>,
    gradient: Vec<f32>,
}

impl Rotation {
    pub(super) fn new(layer: &Layer, gradients: &Eigen, activations: &Eigen) -> Result<Self> {
        let (outputs, columns) = (layer.outputs, layer.columns);
        let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let (gradients, activations) = (single(&gradients.vectors), single(&activations.vectors));
        Ok(Self {
            packed_gradients: packed(&gradients, outputs)?,
            packed_activations: packed(&activations, columns)?,
            outputs,
            columns,
            gradients,
            activations,
        })
    }

    /// Overwrites `to` with Q_Sᵀ g Q_A of a document, `[outputs, columns]`.
    ///
    /// Either x and δ of all tokens are turned, or the gradient, whichever is less work: the length of the document decides, and nothing else.
    pub(super) fn document(
        &self,
        compute: Compute<'_>,
        rows: &Rows<'_>,
        document: usize,
        scratch: &mut Scratch,
        to: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let (outputs, columns, tokens) = (self.outputs, self.columns, rows.range(document).len());
        to.resize(outputs * columns, 0.0);
        if tokens * (outputs * outputs + columns * columns) <= outputs * columns * (outputs + columns) {
            matmul(compute, &self.packed_activations, rows.x(document), tokens, &mut scratch.x)?;
            matmul(compute, &self.packed_gradients, rows.delta(document), tokens, &mut scratch.delta)?;
            return product_of_rows(compute, &scratch.delta, &scratch.x, tokens, to);
        }
        let mut gradient = std::mem::take(&mut scratch.gradient);
        rows.gradient(compute, document, &mut gradient)?;
        self.turn(compute, &gradient, scratch, to)?;
        scratch.gradient = gradient;
        Ok(())
    }

    /// Overwrites `to` with Q_Sᵀ g Q_A, `[outputs, columns]`.
    pub(super) fn turn(
        &self,
        compute: Compute<'_>,
        gradient: &[f32],
        scratch: &mut Scratch,
        to: &mut [f32],
    ) -> Result<(), ModelError> {
        matmul(compute, &self.packed_activations, gradient, self.outputs, &mut scratch.x)?;
        product_of_rows(compute, &self.gradients, &scratch.x, self.outputs, to)
    }

    /// Overwrites `to` with Q_S g Q_Aᵀ, `[outputs, columns]`.
    pub(super) fn turn_back(
        &self,
        compute: Compute<'_>,
        gradient: &[f32],
        scratch: &mut Scratch,
        to: &mut [f32],
    ) -> Result<(), ModelError> {
        let (outputs, columns) = (self.outputs, self.columns);
        scratch.x.resize(outputs * columns, 0.0);
        let activations = Matrix::row_major(Values::F32(&self.activations), columns, columns)?.transposed();
        let gradient = Matrix::row_major(Values::F32(gradient), outputs, columns)?;
        let half = MatrixMut::row_major(&mut scratch.x, outputs, columns)?;
        gemm(gradient, activations, half, &options(compute, false))?;
        let gradients = Matrix::row_major(Values::F32(&self.gradients), outputs, outputs)?;
        let half = Matrix::row_major(Values::F32(&scratch.x), outputs, columns)?;
        Ok(gemm(gradients, half, MatrixMut::row_major(to, outputs, columns)?, &options(compute, false))?)
    }
}

/// Weights for y = x·Q.
fn packed(vectors: &[f32], n: usize) -> Result<PackedWeights, ModelError> {
    let vectors = Matrix::row_major(Values::F32(vectors), n, n)?.transposed();
    Ok(PackedWeights::pack(vectors, Precision::F32)?)
}

/// Overwrites y `[rows, outputs]` with x·Wᵀ.
pub(super) fn matmul(
    compute: Compute<'_>,
    weights: &PackedWeights,
    x: &[f32],
    rows: usize,
    y: &mut Vec<f32>,
) -> Result<(), ModelError> {
    y.resize(rows * weights.outputs(), 0.0);
    let options = MatmulOptions { threads: compute.threads, ..MatmulOptions::default() };
    let x = Matrix::row_major(Values::F32(x), rows, weights.inputs())?;
    Ok(weights.matmul(x, MatrixMut::row_major(y, rows, weights.outputs())?, &options)?)
}
