//! The parts that architectures are assembled from, with their weights: linear layers, norms, attention, feed-forward layers.

use gristmill_kernels::attention::{self, Mask};
use gristmill_kernels::glu::Activation;
use gristmill_kernels::norms;
use gristmill_kernels::workers::Workers;

use super::disentangled::Disentangled;
use super::error::Result;
use super::linear::Linear;
use super::parameters::Values;

/// Who computes.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "workers need not be shown")]
pub struct Compute<'a> {
    /// Who does the work of the kernels other than products.
    pub workers: &'a dyn Workers,
    /// At most this many threads for a product.
    pub threads: usize,
}

/// RMSNorm or LayerNorm with its parameters, of which each may be left out.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) norm: norms::Norm,
    pub(crate) weight: Option<Values>,
    pub(crate) bias: Option<Values>,
}

impl Norm {
    /// Overwrites y.
    pub(crate) fn forward(&self, compute: Compute<'_>, x: &[f32], y: &mut Vec<f32>) -> Result<()> {
        y.resize(x.len(), 0.0);
        let slices =
            norms::Forward { x, weight: self.weight.as_deref(), bias: self.bias.as_deref(), y: y.as_mut_slice() };
        Ok(self.norm.forward(compute.workers, slices)?)
    }
}

/// Attention of a layer.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    /// Norms of queries and keys before they are turned, over a head or over all heads: as wide as the norm is.
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    /// Queries, keys and values are kept within this magnitude.
    pub(crate) clip: Option<f32>,
    /// Which of the model's rotary embeddings turns queries and keys.
    pub(crate) rope: Option<usize>,
    /// What relative positions add to scores; attention of this kind sees all of a document, whatever the mask.
    pub(crate) relative: Option<Disentangled>,
    pub(crate) heads: Heads,
    pub(crate) mask: Mask,
}

impl Attention {
    /// Whether projected queries, keys and values are changed otherwise than by turning them.
    pub(crate) const fn changes_projections(&self) -> [bool; 3] {
        let clips = self.clip.is_some();
        [clips || self.query_norm.is_some(), clips || self.key_norm.is_some(), clips]
    }

    pub(crate) const fn kernel(&self) -> attention::Attention {
        self.heads.kernel(self.mask)
    }
}

/// Numbers of heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Heads {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

impl Heads {
    /// What computes attention of such heads.
    pub(crate) const fn kernel(self, mask: Mask) -> attention::Attention {
        let Self { queries, keys, width, scale } = self;
        attention::Attention { query_heads: queries, key_heads: keys, width, scale, mask }
    }
}

/// A feed-forward layer: down(act(up(x))), or down(act(gate(x)) * up(x)).
#[derive(Debug)]
pub(crate) struct FeedForward {
    pub(crate) gate: Option<Linear>,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

/// How a layer's parts and its norms are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// x += attention(norm(x)); x += feed_forward(norm(x)).
    Before,
    /// x += attention(norm(x)) + feed_forward(other_norm(x)), both of the same x.
    Parallel,
    /// x = norm(x + attention(x)); x = norm(x + feed_forward(x)).
    AfterSum,
    /// x += norm(attention(x)); x += norm(feed_forward(x)).
    AfterPart,
}

/// A layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) order: Order,
    pub(crate) attention_norm: Option<Norm>,
    pub(crate) attention: Attention,
    pub(crate) feed_forward_norm: Option<Norm>,
    pub(crate) feed_forward: FeedForward,
}

impl Layer {
    /// All linear layers of it.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let Attention { query, key, value, output, relative, .. } = &self.attention;
        let FeedForward { gate, up, down, .. } = &self.feed_forward;
        let all = [Some(query), Some(key), Some(value), Some(output), gate.as_ref(), Some(up), Some(down)];
        let own = relative.as_ref().map_or([None; 2], Disentangled::own);
        all.into_iter().chain(own).flatten()
    }
}

/// Whether a bias belongs to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    None,
    Required,
}

impl From<bool> for Bias {
    fn from(has: bool) -> Self {
        if has { Self::Required } else { Self::None }
    }
}
