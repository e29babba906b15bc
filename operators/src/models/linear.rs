//! Linear layers: their weights in the form in which they are kept, and the products with them.

use gristmill_kernels::gemm::{MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};

use super::adapters::LowRank;
use super::error::{ModelError, Result};
use super::four_bits::FourBits;
use super::layers::Compute;

/// y = x·Wᵀ + b, to which an adapter may add.
#[derive(Debug)]
pub(crate) struct Linear {
    weights: Kept,
    bias: Option<Vec<f32>>,
    low_rank: Option<Box<LowRank>>,
}

/// Weights `[out, in]`.
#[derive(Debug)]
pub(crate) enum Kept {
    /// In the precision that products have.
    Packed(PackedWeights),
    /// In four bits.
    FourBits(FourBits),
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
        Ok(Self { weights: Kept::Packed(PackedWeights::pack(weights, precision)?), bias, low_rank: None })
    }

    /// The same in four bits.
    pub(crate) fn of_four_bits(weights: FourBits, bias: Option<Vec<f32>>) -> Self {
        Self { weights: Kept::FourBits(weights), bias, low_rank: None }
    }

    /// With what an adapter adds, kept beside the weights.
    pub(crate) fn with(self, low_rank: Option<LowRank>) -> Self {
        Self { low_rank: low_rank.map(Box::new), ..self }
    }

    /// Columns of the result.
    pub(crate) fn outputs(&self) -> usize {
        match &self.weights {
            Kept::Packed(weights) => weights.outputs(),
            Kept::FourBits(weights) => weights.outputs(),
        }
    }

    /// Columns of what it takes.
    pub(crate) fn inputs(&self) -> usize {
        match &self.weights {
            Kept::Packed(weights) => weights.inputs(),
            Kept::FourBits(weights) => weights.inputs(),
        }
    }

    /// Bytes that the weights take, without the bias and what an adapter adds.
    pub(crate) fn memory(&self) -> usize {
        match &self.weights {
            Kept::Packed(weights) => weights.memory(),
            Kept::FourBits(weights) => weights.memory(),
        }
    }

    /// Its weights and its bias, where these are all that it computes with: what a device can take.
    pub(crate) fn parts(&self) -> Result<(&PackedWeights, Option<&[f32]>)> {
        let Self { weights, bias, low_rank } = self;
        match (weights, low_rank) {
            (_, Some(_)) => Err(ModelError::NotOnDevice { what: "adapters that are kept beside the weights" }),
            (Kept::FourBits(_), None) => Err(ModelError::NotOnDevice { what: "weights in four bits" }),
            (Kept::Packed(weights), None) => Ok((weights, bias.as_deref())),
        }
    }

    /// Overwrites y `[rows, out]`.
    pub(crate) fn forward(&self, compute: Compute<'_>, x: &[f32], y: &mut Vec<f32>) -> Result<()> {
        let rows = x.len() / self.inputs().max(1);
        y.resize(rows * self.outputs(), 0.0);
        self.product(compute, rows, x, y, false)
    }

    /// Adds to y `[rows, out]`.
    pub(crate) fn add(&self, compute: Compute<'_>, x: &[f32], y: &mut [f32]) -> Result<()> {
        self.product(compute, y.len() / self.outputs().max(1), x, y, true)
    }

    fn product(&self, compute: Compute<'_>, rows: usize, x: &[f32], y: &mut [f32], accumulate: bool) -> Result<()> {
        let bias = self.bias.as_deref();
        let options = |bias| MatmulOptions { bias, accumulate, threads: compute.threads, engine: None };
        let Some(low_rank) = &self.low_rank else { return self.multiply(rows, x, y, &options(bias)) };
        let Some(factors) = low_rank.factors() else {
            self.multiply(rows, x, y, &options(bias))?;
            return low_rank.add(compute, rows, x, y);
        };
        // What the factors do not scale, the bias and what was there, is added after them.
        let mut scaled = vec![0.0; y.len()];
        self.multiply(rows, x, &mut scaled, &MatmulOptions { accumulate: false, ..options(None) })?;
        low_rank.add(compute, rows, x, &mut scaled)?;
        let width = self.outputs().max(1);
        for (y, scaled) in y.chunks_exact_mut(width).zip(scaled.chunks_exact(width)) {
            for (output, (y, scaled)) in y.iter_mut().zip(scaled).enumerate() {
                let own = scaled * factors[output] + bias.map_or(0.0, |bias| bias[output]);
                *y = if accumulate { *y + own } else { own };
            }
        }
        Ok(())
    }

    /// Of the weights alone, with what the options say.
    fn multiply(&self, rows: usize, x: &[f32], y: &mut [f32], options: &MatmulOptions<'_>) -> Result<()> {
        match &self.weights {
            Kept::Packed(weights) => {
                let x = Matrix::row_major(Values::F32(x), rows, weights.inputs())?;
                let y = MatrixMut::row_major(y, rows, weights.outputs())?;
                Ok(weights.matmul(x, y, options)?)
            }
            Kept::FourBits(weights) => weights.multiply(rows, x, y, options),
        }
    }
}
