//! `gradient_pairs`: from which of some originals was a sample made, by the gradients of a language model?
//!
//! A row is a sample, such as a conversation that was rewritten. It is compared with originals: the most similar ones by words (BM25 over the first messages of
//! users), or those that the row names. Compared are the gradients of the loss of both samples' answers, by each tensor of the checkpoint, so that similarities by any
//! choice of tensors follow from the numbers that are kept. (Such a study of paraphrased instructions found that gradients by a few well-chosen tensors find
//! originals better than those by all.)
//!
//! # Samples
//!
//! A sample is a list of messages, a list of structs with `role` and `content` or the same as JSON in a text, put into a text with the model's chat template; or two texts, a
//! prompt and an answer, around which the tokenizer's special tokens stand. The loss is the mean negative log-likelihood of the answer's tokens: of the last message,
//! which is the assistant's, with what the template writes behind it. Nothing is cut. The gradient is that of this one sample, by all parameters, each tensor of
//! the checkpoint once, in single precision.
//!
//! # Columns
//!
//! `<name>` is a list of structs, one for each original in the order of the search or of the row's list. Of *T* tensors, whose names are in the field's metadata under
//! [`TENSORS`] as a JSON list:
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `original` | Utf8 | its id |
//! | `row` | UInt64 | its row in the table of originals |
//! | `is_truth` | Boolean | whether the row was made from it; null without `truth` |
//! | `bm25` | Float64 | its score in the search; null where candidates are given |
//! | `cosine` | Float64 | cosine of both gradients by all tensors; null where one of them is 0 |
//! | `products` | FixedSizeList\<Float64, T\> | ⟨g, h⟩ by each tensor, g of the row and h of the original |
//! | `self_products` | FixedSizeList\<Float64, T\> | ⟨h, h⟩ |
//! | `projected` | FixedSizeList\<Float64\> | cosines after random projection, one for each share; with `projection`. The numbers of dimensions are in the metadata under [`PROJECTIONS`] |
//!
//! `<name>_metadata` is a struct of `loss` (Float64), `tokens` (UInt32, those of the answer) and `self_products` (FixedSizeList\<Float64, T\>, ⟨g, g⟩). Both are null
//! where the row has no sample.
//!
//! # What results depend on
//!
//! The numbers of a pair have the same bits whatever rows stand beside it and in whatever order, for any batches, splits and workers, and whatever is kept
//! in the cache. So the results of parts of the rows are those of all of them.
//!
//! # Memory
//!
//! A row is one forward and backward pass over its sample and those originals whose gradients are not kept, packed, in the memory that
//! [`gradients`](crate::models::gradients) states. Beside it there are a gradient of the largest tensor for each of these samples, and what `cache_bytes` allows.

mod cache;
mod candidates;
mod columns;
mod config;
mod measure;
mod operator;
mod products;
mod projection;
mod samples;
mod study;
#[cfg(test)]
mod tests;

pub use crate::analysis::pairs::{PROJECTIONS, TENSORS};
pub use config::{GradientPairsConfig, GradientPairsKind, OnError, OriginalsConfig};
pub use products::Accumulate;
pub use projection::{ProjectionConfig, dimensions, tensor_dimensions};

const KIND: &str = "gradient_pairs";
