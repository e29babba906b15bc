//! Operators that let models read texts: `classify` and `rethreshold`, `embed`, `perplexity`, `next_token`; and write some: `judge`, `generate`.
//!
//! A model is loaded once for all splits (`loaded`), and computes on the CPU or on a GPU (`device`). A pass packs the texts of its batch one behind the other up to 2,048 tokens, so
//! nothing is spent on padding, and texts have the same numbers whatever is beside them (`reader`). The four operators that read
//! texts differ in their configuration and in the columns they make; the rest of them is one (`model_operator`).
//!
//! `judge` and `generate` ask a language model for text, one of this process or one behind an endpoint ([`asking`]).

#[cfg(test)]
mod adapter_tests;
pub mod asking;
mod classify;
pub(crate) mod device;
mod embed;
pub mod generate;
pub mod judge;
mod loaded;
mod model_operator;
mod next_token;
mod perplexity;
pub(crate) mod reader;
mod rethreshold;
#[cfg(test)]
mod tests;
mod windows;

pub use classify::{ClassifyConfig, ClassifyKind, Label, Score};
pub use device::Device;
pub use embed::{EmbedConfig, EmbedKind, Embedding, Pooling};
pub use generate::{GenerateConfig, GenerateKind};
pub use judge::{JudgeConfig, JudgeKind};
pub use next_token::{NextTokenConfig, NextTokenKind};
pub use perplexity::{PerplexityConfig, PerplexityKind};
pub use reader::Precision;
pub use rethreshold::{RethresholdConfig, RethresholdKind};
pub use windows::Windows;
