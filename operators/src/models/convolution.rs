//! The convolution over neighbouring tokens that the larger models of DeBERTa-v2 have beside their first layer.

use super::error::Result;
use super::heads::HeadActivation;
use super::layers::{Compute, Norm};
use super::linear::Linear;

/// act(conv(embeddings)), added to what a layer leaves, and a norm of the sum. What lies beyond a document counts as zeros.
#[derive(Debug)]
pub(crate) struct Convolution {
    /// From a token and its neighbours, one behind the other, to a token.
    weights: Linear,
    /// Tokens that are seen, an odd number.
    kernel: usize,
    activation: HeadActivation,
    norm: Norm,
}

impl Convolution {
    /// Of weights from `[kernel, hidden]` to hidden.
    pub(crate) fn new(weights: Linear, kernel: usize, activation: HeadActivation, norm: Norm) -> Self {
        Self { weights, kernel, activation, norm }
    }

    /// What is added, `[tokens, hidden]`, of embeddings.
    pub(crate) fn forward(&self, compute: Compute<'_>, offsets: &[i64], embedded: &[f32]) -> Result<Vec<f32>> {
        let (hidden, before) = (self.weights.outputs(), self.kernel / 2);
        let mut seen = Vec::with_capacity(embedded.len() * self.kernel);
        for document in offsets.windows(2) {
            let document = document[0] as usize..document[1] as usize;
            for token in document.clone() {
                for place in token..token + self.kernel {
                    match place.checked_sub(before).filter(|place| document.contains(place)) {
                        Some(place) => seen.extend_from_slice(&embedded[place * hidden..(place + 1) * hidden]),
                        None => seen.resize(seen.len() + hidden, 0.0),
                    }
                }
            }
        }
        let mut convolved = Vec::new();
        self.weights.forward(compute, &seen, &mut convolved)?;
        self.activation.apply(compute, &mut convolved)?;
        Ok(convolved)
    }

    /// Adds it to what a layer leaves.
    pub(crate) fn add(&self, compute: Compute<'_>, convolved: &[f32], x: &mut Vec<f32>) -> Result<()> {
        x.iter_mut().zip(convolved).for_each(|(x, convolved)| *x += convolved);
        let mut normed = Vec::new();
        self.norm.forward(compute, x, &mut normed)?;
        *x = normed;
        Ok(())
    }
}
