//! What an adapter adds to one matrix of weights.

use gristmill_kernels::gemm::{GemmOptions, Matrix, MatrixMut, Values, gemm};

use crate::models::error::Result;

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// `[out, in]`, as linear layers are.
    Outputs,
    /// `[in, out]`, as embeddings are, of which an input is a token, and the layers of GPT-2.
    Inputs,
}

/// B·A of a layer with weights W `[out, in]`, and the magnitudes that DoRA (Liu and others, 2024) gives to outputs.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    pub(crate) rank: usize,
    pub(crate) inputs: usize,
    /// A, `[rank, in]`.
    pub(crate) down: Vec<f32>,
    /// B, `[out, rank]`, times the adapter's scaling.
    pub(crate) up: Vec<f32>,
    /// The length that the weights of each output have.
    pub(crate) magnitudes: Option<Vec<f32>>,
}

impl Delta {
    fn outputs(&self) -> usize {
        self.up.len() / self.rank.max(1)
    }

    /// Changes weights in place: W + B·A, and with magnitudes each output scaled to its own.
    pub(crate) fn merge(&self, weights: &mut [f32], stored: Stored) -> Result<()> {
        let (rank, inputs, outputs) = (self.rank, self.inputs, self.outputs());
        let down = Matrix::row_major(Values::F32(&self.down), rank, inputs)?;
        let up = Matrix::row_major(Values::F32(&self.up), outputs, rank)?;
        let options = GemmOptions { accumulate: true, ..GemmOptions::default() };
        match stored {
            Stored::Outputs => gemm(up, down, MatrixMut::row_major(weights, outputs, inputs)?, &options)?,
            Stored::Inputs => {
                gemm(down.transposed(), up.transposed(), MatrixMut::row_major(weights, inputs, outputs)?, &options)?;
            }
        }
        let Some(magnitudes) = &self.magnitudes else { return Ok(()) };
        let factors = factors(magnitudes, &lengths(weights, outputs, inputs, stored));
        match stored {
            Stored::Outputs => {
                for (row, factor) in weights.chunks_exact_mut(inputs.max(1)).zip(&factors) {
                    row.iter_mut().for_each(|weight| *weight *= factor);
                }
            }
            Stored::Inputs => {
                for row in weights.chunks_exact_mut(outputs.max(1)) {
                    row.iter_mut().zip(&factors).for_each(|(weight, factor)| *weight *= factor);
                }
            }
        }
        Ok(())
    }

    /// With magnitudes, what each output of x·(W + B·A)ᵀ is multiplied by, for weights `[out, in]`.
    pub(crate) fn factors(&self, weights: &[f32]) -> Result<Option<Vec<f32>>> {
        let Some(magnitudes) = &self.magnitudes else { return Ok(None) };
        let mut sum = weights.to_vec();
        Self { magnitudes: None, ..self.clone() }.merge(&mut sum, Stored::Outputs)?;
        Ok(Some(factors(magnitudes, &lengths(&sum, self.outputs(), self.inputs, Stored::Outputs))))
    }
}

fn factors(magnitudes: &[f32], lengths: &[f64]) -> Vec<f32> {
    magnitudes.iter().zip(lengths).map(|(&magnitude, length)| (f64::from(magnitude) / length) as f32).collect()
}

/// The Euclidean length of each output's weights.
fn lengths(weights: &[f32], outputs: usize, inputs: usize, stored: Stored) -> Vec<f64> {
    let square = |weight: &f32| f64::from(*weight).powi(2);
    match stored {
        Stored::Outputs => {
            weights.chunks_exact(inputs.max(1)).map(|row| row.iter().map(square).sum::<f64>().sqrt()).collect()
        }
        Stored::Inputs => {
            let mut sums = vec![0.0; outputs];
            for row in weights.chunks_exact(outputs.max(1)) {
                sums.iter_mut().zip(row).for_each(|(sum, weight)| *sum += square(weight));
            }
            sums.iter_mut().for_each(|sum| *sum = sum.sqrt());
            sums
        }
    }
}
