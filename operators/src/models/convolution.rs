//! The convolution over neighbouring tokens that the larger models of DeBERTa-v2 have beside their first layer.

use super::error::Result;
use super::heads::HeadActivation;
use super::layers::{Compute, Norm};
use super::linear::Linear;
use super::transformer::{add, after};

/// act(conv(embeddings)), added to what a layer leaves, and a norm of the sum. What lies beyond a document counts as zeros.
#[derive(Debug)]
pub(crate) struct Convolution {
    /// From a token and its neighbours to a token.
    pub(crate) weights: Linear,
    /// Tokens that are seen, an odd number.
    kernel: usize,
    pub(crate) activation: HeadActivation,
    pub(crate) norm: Option<Norm>,
}

impl Convolution {
    /// Of weights from `[hidden, kernel]` to hidden.
    pub(crate) const fn new(weights: Linear, kernel: usize, activation: HeadActivation, norm: Norm) -> Self {
        Self { weights, kernel, activation, norm: Some(norm) }
    }

    /// What is added, `[tokens, hidden]`, of embeddings.
    pub(crate) fn forward(&self, compute: Compute<'_>, offsets: &[i64], embedded: &[f32]) -> Result<Vec<f32>> {
        let mut convolved = Vec::new();
        self.weights.forward(compute, &self.seen(offsets, embedded), &mut convolved)?;
        self.activation.apply(compute, &mut convolved)?;
        Ok(convolved)
    }

    /// What the weights read, `[tokens, hidden, kernel]`: each token and its neighbours, in the order of the checkpoint.
    pub(crate) fn seen(&self, offsets: &[i64], embedded: &[f32]) -> Vec<f32> {
        let hidden = self.weights.outputs();
        let mut seen = vec![0.0; embedded.len() * self.kernel];
        self.neighbours(offsets, |token, place, neighbour| {
            let from = &embedded[neighbour * hidden..(neighbour + 1) * hidden];
            let to = &mut seen[token * hidden * self.kernel + place..];
            to.iter_mut().step_by(self.kernel).zip(from).for_each(|(to, from)| *to = *from);
        });
        seen
    }

    /// Adds the gradient of what the weights read to that of embeddings.
    pub(crate) fn add_seen(&self, offsets: &[i64], delta: &[f32], embedded: &mut [f32]) {
        let hidden = self.weights.outputs();
        self.neighbours(offsets, |token, place, neighbour| {
            let from = &delta[token * hidden * self.kernel + place..];
            let to = &mut embedded[neighbour * hidden..(neighbour + 1) * hidden];
            to.iter_mut().zip(from.iter().step_by(self.kernel)).for_each(|(to, from)| *to += from);
        });
    }

    /// Each token, each place of the kernel, and the token of the same document that is there.
    fn neighbours(&self, offsets: &[i64], mut each: impl FnMut(usize, usize, usize)) {
        for document in offsets.windows(2) {
            let document = document[0] as usize..document[1] as usize;
            for token in document.clone() {
                for place in 0..self.kernel {
                    let neighbour = (token + place).checked_sub(self.kernel / 2);
                    if let Some(neighbour) = neighbour.filter(|neighbour| document.contains(neighbour)) {
                        each(token, place, neighbour);
                    }
                }
            }
        }
    }

    /// Adds it to what a layer leaves, and leaves the sum before the norm.
    pub(crate) fn add(
        &self,
        compute: Compute<'_>,
        convolved: &[f32],
        x: &mut Vec<f32>,
        sum: &mut Vec<f32>,
    ) -> Result<()> {
        add(x, convolved);
        after(compute, &self.norm, x, sum)
    }
}
