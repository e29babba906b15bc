//! Linear layers: packed weights, and the products with them.

use gristmill_kernels::gemm::{MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};

use super::error::Result;
use super::layers::Compute;

/// y = x·Wᵀ + b.
#[derive(Debug)]
pub(crate) struct Linear {
    weights: PackedWeights,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// `[out, in]` weights, row by row.
    pub(crate) fn new(
        weights: &[f32],
        outputs: usize,
        inputs: usize,
        bias: Option<Vec<f32>>,
        precision: Precision,
    ) -> Result<Self> {
        let weights = Matrix::row_major(Values::F32(weights), outputs, inputs)?;
        Ok(Self { weights: PackedWeights::pack(weights, precision)?, bias })
    }

    /// Columns of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.weights.outputs()
    }

    /// Overwrites y `[rows, out]`.
    pub(crate) fn forward(&self, compute: Compute<'_>, x: &[f32], y: &mut Vec<f32>) -> Result<()> {
        let rows = x.len() / self.weights.inputs().max(1);
        y.resize(rows * self.outputs(), 0.0);
        self.product(compute, rows, x, y, false)
    }

    /// Adds to y `[rows, out]`.
    pub(crate) fn add(&self, compute: Compute<'_>, x: &[f32], y: &mut [f32]) -> Result<()> {
        self.product(compute, y.len() / self.outputs().max(1), x, y, true)
    }

    fn product(&self, compute: Compute<'_>, rows: usize, x: &[f32], y: &mut [f32], accumulate: bool) -> Result<()> {
        let options = MatmulOptions { bias: self.bias.as_deref(), accumulate, threads: compute.threads, engine: None };
        let x = Matrix::row_major(Values::F32(x), rows, self.weights.inputs())?;
        let y = MatrixMut::row_major(y, rows, self.outputs())?;
        Ok(self.weights.matmul(x, y, &options)?)
    }
}
