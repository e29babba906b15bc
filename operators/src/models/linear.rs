//! Linear layers: their weights in the form in which they are kept, and the products with them.

use std::sync::Arc;

use gristmill_kernels::gemm::{MatmulOptions, Matrix, MatrixMut, PackedWeights, Values};

use super::LoadOptions;
use super::adapters::LowRank;
use super::error::{ModelError, Result};
use super::four_bits::FourBits;
use super::layers::Compute;
use super::parameters::{Module, Place};

/// y = x·Wᵀ + b, to which an adapter may add.
#[derive(Debug)]
pub(crate) struct Linear {
    weights: Kept,
    /// The same for δ·W, where gradients are wanted.
    transposed: Option<PackedWeights>,
    bias: Option<Vec<f32>>,
    low_rank: Option<Box<LowRank>>,
    /// What the layer is in the checkpoint.
    place: Place,
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
    /// `[out, in]` weights, row by row; `out` is the number of outputs of the place, and `in` that of its module's inputs.
    pub(crate) fn new(weights: &[f32], bias: Option<Vec<f32>>, place: Place, options: LoadOptions) -> Result<Self> {
        let inputs = place.module.inputs;
        let outputs = place.outputs.iter().map(ExactSizeIterator::len).sum();
        let weights = Matrix::row_major(Values::F32(weights), outputs, inputs)?;
        let transposed = options.gradients.then(|| PackedWeights::pack(weights.transposed(), options.precision));
        Ok(Self {
            weights: Kept::Packed(PackedWeights::pack(weights, options.precision)?),
            transposed: transposed.transpose()?,
            bias,
            low_rank: None,
            place,
        })
    }

    /// The same in four bits, for inference.
    pub(crate) const fn of_four_bits(weights: FourBits, bias: Option<Vec<f32>>, place: Place) -> Self {
        Self { weights: Kept::FourBits(weights), transposed: None, bias, low_rank: None, place }
    }

    /// A layer whose weights are somewhere else: it has neither inputs nor outputs.
    pub(crate) fn nothing() -> Result<Self> {
        let place = Place::whole(Arc::new(Module::nothing()));
        Self::new(&[], None, place, LoadOptions::default())
    }

    /// What the layer is in the checkpoint.
    pub(crate) const fn place(&self) -> &Place {
        &self.place
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
        let Self { weights, transposed: _, bias, low_rank, place: _ } = self;
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

    /// Overwrites the gradient of x, `[rows, in]`, given that of y, `[rows, out]`.
    pub(crate) fn backward(&self, compute: Compute<'_>, dy: &[f32], dx: &mut Vec<f32>) -> Result<()> {
        dx.resize(dy.len() / self.outputs().max(1) * self.inputs(), 0.0);
        self.product_backward(compute, dy, dx, false)
    }

    /// Adds to the gradient of x.
    pub(crate) fn add_backward(&self, compute: Compute<'_>, dy: &[f32], dx: &mut [f32]) -> Result<()> {
        self.product_backward(compute, dy, dx, true)
    }

    fn product_backward(&self, compute: Compute<'_>, dy: &[f32], dx: &mut [f32], accumulate: bool) -> Result<()> {
        let weights = self.transposed.as_ref().ok_or(ModelError::WithoutGradients)?;
        let rows = dx.len() / self.inputs().max(1);
        let options = MatmulOptions { bias: None, accumulate, threads: compute.threads, engine: None };
        let dy = Matrix::row_major(Values::F32(dy), rows, weights.inputs())?;
        let dx = MatrixMut::row_major(dx, rows, weights.outputs())?;
        Ok(weights.matmul(dy, dx, &options)?)
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
