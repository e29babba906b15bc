//! `gradient`: the gradients of a language model's losses on texts, projected, with their norms.
//!
//! Added is column `<name>`, the projected gradient of each text (see [`sketch`](super::sketch)): for each linear layer that `modules` takes p·p numbers, in the order in
//! which the field's metadata names them. Its type follows from `output`:
//!
//! | `output` | type, of `width` numbers | a number is |
//! |---|---|---|
//! | `f32` | fixed-size list of Float32 | itself |
//! | `f16` | fixed-size list of Float16 | rounded to the nearest; a text with one of 65520 or more is an error of its row |
//! | `bf16` | fixed-size list of UInt16 | the upper half of the bits of the Float32, rounded to the nearest: many readers have no such type |
//! | `int8` | struct of `values`, a fixed-size list of Int8, and `scales`, one Float32 for each layer | value times the scale of its layer, the largest number of the layer over 127 |
//! | `signs` | struct of `values`, FixedSizeBinary with number k in bit k mod 8 of byte k div 8, 1 for numbers of at least 0, and `scales` | the scale of its layer, the mean of its numbers without their signs, with that sign |
//!
//! With `per_token` it is a list of these: one for each token but the last, the place t that predicts token t + 1. They are what δₜxₜᵀ adds to the gradient, and sum to
//! that of the text. Places before a span or an answer have a share in it, too, since later places attend to them.
//!
//! And column `<name>_metadata`, a struct of
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `loss` | Float64 | mean or sum of the negative log-likelihoods of the tokens that are targets |
//! | `tokens` | UInt32 | how many these are |
//! | `truncated` | UInt32 | how many tokens were cut off since the text is longer than `context_length` |
//! | `norm` | Float64 | L2 norm of the gradient of all chosen layers, neither projected nor rounded; with `norms: total` or `modules` |
//! | `module_norms` | fixed-size list of Float32 | the same of each layer; with `norms: modules` |
//!
//! Both are null where the text, or its answer, is null. A text of fewer than two tokens, or without a target, has zeros, and `tokens` is 0. A text whose loss or gradient is not
//! finite, whose span is none, or that cannot be tokenised is quarantined. Never is anything divided by a number of texts, and a text has the same numbers alone and beside others.
//!
//! # What is the loss of
//!
//! All tokens of the text but the first, encoded with the special tokens that the tokenizer adds. With `span` only the tokens at places `start` to before `end` of these are targets, counted from
//! 0, special tokens included. With `answer` text and answer are encoded as one text, and the answer's tokens are the targets: all from the first one on that the text by itself does not have at
//! that place, so that a token in which both meet is the answer's, and special tokens at the end are, too. The same is done with the prompt and the completion of a query.
//!
//! Of a text that is too long the first `context_length` tokens are read; with `answer` the last ones.
//!
//! # Reading such a column
//!
//! The field's metadata has one JSON under [`METADATA_KEY`], which is a [`SketchDescription`]: the model by the hash of its files, the projection with each layer's name, offset and shape, the loss, and the encoding.
//! [`SketchDescription::decode`] gives rows of Float32 back, and [`SketchDescription::expect_same`] says what differs from another.
//!
//! ```
//! use std::sync::Arc;
//! use arrow_array::{RecordBatch, StringArray};
//! use gristmill_operators::influence::gradient::SketchDescription;
//! use gristmill_operators::{OperatorSpec, Registry, Resources, apply};
//! use serde_json::json;
//!
//! let texts = StringArray::from(vec!["one text", "and another one"]);
//! let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)])?;
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/llama");
//! let spec = OperatorSpec::new("gradient", json!({"model": model, "dimension": 8, "output": "int8"}));
//! let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local())?;
//! let output = apply(operator.as_ref(), [batch])?;
//! let field = output.batches[0].schema();
//! let description = SketchDescription::of(field.field_with_name("gradient")?)?;
//! let rows = description.decode(&output.batches[0]["gradient"])?;
//! assert_eq!(rows.values.len(), 2 * description.width());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod decode;
mod description;
pub(super) mod documents;
mod encode;
mod operator;

#[cfg(test)]
mod tests;

pub(in crate::influence) use config::TEXT;
pub use config::{GradientConfig, Norms, Position, Reduction, Span};
pub use decode::SketchRows;
pub use description::{
    LossDescription, METADATA_KEY, ModelDescription, ModuleDescription, ProjectionDescription, SketchDescription,
};
pub use encode::Encoding;
pub use operator::GradientKind;
