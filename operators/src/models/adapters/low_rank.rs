//! What an adapter adds to a layer whose weights stay as they are.

use gristmill_kernels::gemm::{MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};

use super::delta::Delta;
use crate::models::error::Result;
use crate::models::layers::Compute;

/// (x·Aᵀ)·Bᵀ in single precision, and with DoRA a factor for each output of the sum with x·Wᵀ.
#[derive(Debug)]
pub(crate) struct LowRank {
    /// A.
    down: PackedWeights,
    /// B.
    up: PackedWeights,
    factors: Option<Vec<f32>>,
}

impl LowRank {
    /// Of the rows of B that are the layer's outputs; factors are of all rows.
    pub(crate) fn new(
        delta: &Delta,
        factors: Option<&[f32]>,
        rows: impl Iterator<Item = usize> + Clone,
    ) -> Result<Self> {
        let Delta { rank, inputs, down, up, .. } = delta;
        let own: Vec<f32> = rows.clone().flat_map(|row| &up[row * rank..(row + 1) * rank]).copied().collect();
        let outputs = rows.clone().count();
        let pack = |values: &[f32], rows, columns| {
            PackedWeights::pack(Matrix::row_major(Values::F32(values), rows, columns)?, Precision::F32)
        };
        Ok(Self {
            down: pack(down, *rank, *inputs)?,
            up: pack(&own, outputs, *rank)?,
            factors: factors.map(|factors| rows.map(|row| factors[row]).collect()),
        })
    }

    /// What each output is multiplied by before the bias is added.
    pub(crate) fn factors(&self) -> Option<&[f32]> {
        self.factors.as_deref()
    }

    /// Adds to y `[rows, out]`.
    pub(crate) fn add(&self, compute: Compute<'_>, rows: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
        let mut inner = vec![0.0; rows * self.down.outputs()];
        let options = |accumulate| MatmulOptions { accumulate, threads: compute.threads, ..MatmulOptions::default() };
        let x = Matrix::row_major(Values::F32(x), rows, self.down.inputs())?;
        self.down.matmul(x, MatrixMut::row_major(&mut inner, rows, self.down.outputs())?, &options(false))?;
        let inner = Matrix::row_major(Values::F32(&inner), rows, self.up.inputs())?;
        Ok(self.up.matmul(inner, MatrixMut::row_major(y, rows, self.up.outputs())?, &options(true))?)
    }
}
