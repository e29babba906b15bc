//! Two-sided random projections of documents' gradients, without the gradients.
//!
//! The gradient of a document's loss by the weights of a linear layer is g = Σ δₜxₜᵀ over its tokens, `[outputs, inputs]`. A [`Sketch`] has two small
//! matrices for each layer, L of `[p, outputs]` and R of `[q, inputs]`, and a [`Projector`] makes L·g·Rᵀ = Σ (Lδₜ)(Rxₜ)ᵀ while a backward pass goes by:
//! p + q numbers for each token and layer, and p·q for each document and layer. The rows of all layers lie one behind the other.
//!
//! The elements of L and R are random signs times 1/√p, so that products of two projected gradients are, on average over seeds, those of the gradients: for one
//! layer, E⟨L·g·Rᵀ, L·h·Rᵀ⟩ = ⟨g, h⟩, with a standard deviation that falls like 1/√p. (Choe and others, *What is your data worth to GPT? LLM-scale data
//! valuation with influence functions*, 2024; Chang and others, *Scalable influence and fact tracing for large language model pretraining*, 2024.) A sign is a
//! function of the seed, the layer's name, its side, row and column alone ([`gristmill_kernels::signs`]).
//!
//! What is multiplied with gradients from the left or the right costs nothing for a token: it is multiplied into L and R once. See
//! [`Sketch::scale_sides`] and [`Sketch::multiply_sides`].
//!
//! ```no_run
//! use gristmill_kernels::workers::Serial;
//! use gristmill_operators::Resources;
//! use gristmill_operators::influence::sketch::{Projector, Sketch, SketchSpec};
//! use gristmill_operators::models::gradients::{Backward, Loss, Reduction, TokenLoss, token_weights};
//! use gristmill_operators::models::{Batch, Compute, LoadOptions, Model};
//!
//! let options = LoadOptions { gradients: true, ..LoadOptions::default() };
//! let (model, _) = Model::load("EleutherAI/pythia-70m", &Resources::local(), options)?;
//! let sketch = Sketch::new(&model, &SketchSpec::default())?;
//! let batch = Batch::of(&[12092, 13, 1533]);
//! let weights = token_weights(&batch, Reduction::Mean, |_, _| true);
//! let mut projector = Projector::new(&sketch);
//! projector.prepare(&batch);
//! let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
//! Backward::new(&model)?.run(Compute { workers: &Serial, threads: 1 }, &batch, loss, &mut projector)?;
//! assert_eq!(projector.row(0).len(), sketch.width());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What results depend on
//!
//! The row of a document has the same bits alone and in any batch, in any order and on any number of threads. Sums are f32: within a layer over
//! its inputs or outputs, and then over the tokens of a document, one after another.

mod norms;
mod projector;
mod sides;

#[cfg(test)]
mod tests;

pub use projector::{NormsOf, Projector, RowsOf};
pub use sides::{Sketch, SketchModule};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Modules;

/// The smallest number of rows of a projection.
pub const SMALLEST_DIMENSION: usize = 4;
/// The largest.
pub const LARGEST_DIMENSION: usize = 128;

/// How gradients are projected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SketchSpec {
    /// Rows p of both projections of a layer, 4 to 128 and at most as many as the layer has inputs and outputs: p² numbers for each layer.
    /// With 0 gradients are not projected, and there are as many as a layer has weights.
    #[serde(default = "default_dimension")]
    pub dimension: usize,
    /// Other numbers give other projections.
    #[serde(default)]
    pub seed: u64,
    /// Where signs come from.
    #[serde(default)]
    pub signs: SignSource,
    /// The linear layers.
    #[serde(default)]
    pub modules: Modules,
}

impl Default for SketchSpec {
    fn default() -> Self {
        let (signs, modules) = (SignSource::default(), Modules::default());
        Self { dimension: default_dimension(), seed: 0, signs, modules }
    }
}

/// What makes the signs of projections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignSource {
    /// Philox4x32-10 by seed, and name of the layer in the checkpoint.
    #[default]
    Gristmill,
    /// As bergson 0.26 draws them, without a seed: only 0 is allowed.
    #[serde(rename = "bergson-0.26")]
    Bergson026,
    /// As bergson 2 draws them. Seed 0 stands for its `projection_seed` left out, others for that number.
    #[serde(rename = "bergson-2")]
    Bergson2,
}

pub(crate) const fn default_dimension() -> usize {
    16
}
