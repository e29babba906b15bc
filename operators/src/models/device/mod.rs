//! Models on a device: weights uploaded once, batches computed by the kernels of `gristmill-kernels`, and a queue between them and those
//! who ask.
//!
//! Weights and what layers compute have one type, f32 or bf16 as the model's precision says (or f16); sums are f32, and so are the residual stream, norms' parameters and
//! biases: what all layers add to should not be rounded at each of them. Embeddings have the type of weights, so that a head that is tied to them is not stored
//! twice.
//!
//! As on the CPU, a document has the same bits alone and in any batch: no kernel here adds up in an order that depends on other rows. Bits differ from
//! those of the CPU, and between kinds of GPUs.
//!
//! The parts: `weights` walks over a model and uploads it, `forward` computes a batch, `heads` what stands on it, `queue` collects what is asked by all
//! splits and packs it, and `serve` puts a model on a thread behind that queue. Gradients do not go through the queue: who asks has a tap of its own, and a batch of
//! its own, and has the device while the batch goes forward and back. `differentiate` does that, `loss` stands at its end, `back` goes through a layer, and `taps` hands to the tap what it wants.
//!
//! Nothing of this has been run on a GPU yet; tests run the same kernels on the CPU.

mod back;
mod differentiate;
mod forward;
#[cfg(test)]
mod gradient_tests;
mod heads;
mod loss;
mod queue;
mod serve;
mod taps;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use serve::Served;

use gristmill_kernels::pool::Pool;

/// What is asked of a batch; each document has its own result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Hidden states, `[tokens, hidden]`: what a layer leaves, or those after the last norm.
    States { layer: Option<usize> },
    /// The same made one row, `[hidden]`.
    Pooled { layer: Option<usize>, pool: Pool },
    /// Logits of the classifier, `[labels]`.
    Classify,
    /// The loss of each token, `[tokens]`; 0 for the first.
    Losses,
    /// Logits of the token to come, `[vocabulary]`.
    NextLogits,
}
