//! Operators that let models read texts: `classify` and `rethreshold`, `embed`, `perplexity`, `next_token`.
//!
//! A model is loaded once for all splits. Each pass packs the texts of its batch one behind the other up to 2,048 tokens, so nothing is
//! spent on padding, and texts have the same numbers whatever is beside them.

mod classify;
mod embed;
mod loaded;
mod next_token;
mod perplexity;
mod rethreshold;
#[cfg(test)]
mod tests;
mod windows;

pub use classify::{ClassifyConfig, ClassifyKind, Label, Score};
pub use embed::{EmbedConfig, EmbedKind, Embedding, Pooling};
pub use next_token::{NextTokenConfig, NextTokenKind};
pub use perplexity::{PerplexityConfig, PerplexityKind};
pub use rethreshold::{RethresholdConfig, RethresholdKind};
pub use windows::Windows;

use std::sync::Arc;

use arrow_array::RecordBatch;
use gristmill_kernels::workers::Serial;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::invalid;
use crate::models::{Batch, Compute, LoadOptions, Model, ModelError};
use crate::tokens::Tokenizer;
use crate::{OperatorError, ResourceIdentity, Resources, Result, TextColumn};

/// A batch has at most so many tokens, unless a single window has more. It bounds memory, and does not change results.
const BATCH_TOKENS: usize = 2048;

/// A pass computes on the thread that calls it: splits are what runs side by side.
const COMPUTE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// What weights are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision, 4 bytes a weight.
    #[default]
    F32,
    /// bfloat16, 2 bytes a weight; sums are f32. Faster where the processor has instructions for it (AVX-512 BF16, AMX).
    Bf16,
}

impl From<Precision> for LoadOptions {
    fn from(precision: Precision) -> Self {
        let precision = match precision {
            Precision::F32 => crate::models::Precision::F32,
            Precision::Bf16 => crate::models::Precision::Bf16,
        };
        Self { precision }
    }
}

fn default_column() -> String {
    "text".to_owned()
}

/// A model with its tokenizer.
#[derive(Debug)]
struct Reader {
    kind: &'static str,
    column: String,
    model: Arc<Model>,
    tokenizer: Tokenizer,
    windows: Windows,
    /// The most tokens of a window, special tokens included.
    context_length: usize,
    identities: Vec<ResourceIdentity>,
}

/// What a configuration says of a [`Reader`].
struct Reading<'a> {
    model: &'a str,
    tokenizer: Option<&'a str>,
    column: &'a str,
    precision: Precision,
    windows: Windows,
    context_length: Option<usize>,
    /// Where `context_length` is not given: what the model's own files say, if they do.
    preferred_length: Option<usize>,
}

impl Reader {
    fn new(kind: &'static str, reading: Reading<'_>, resources: &Resources) -> Result<Self> {
        let Reading { model: location, tokenizer, column, precision, windows, context_length, preferred_length } =
            reading;
        let (model, mut identities) = loaded::load(location, precision, resources)?;
        let (tokenizer, identity) = Tokenizer::load(tokenizer.unwrap_or(location), resources)?;
        identities.push(identity);
        if tokenizer.vocab_size() > model.vocabulary() {
            let message = format!(
                "its vocabulary has {} tokens, and the tokenizer gives ids up to {}; they do not belong together",
                model.vocabulary(),
                tokenizer.vocab_size() - 1
            );
            return Err(OperatorError::Resource { location: location.to_owned(), message });
        }
        let around = tokenizer.prefix().len() + tokenizer.suffix().len();
        let most = model.most_positions().unwrap_or(usize::MAX);
        let context_length = match context_length {
            Some(length) if length <= around || length > most => {
                let allowed =
                    format!("{length} tokens; {} to {most} are allowed, {around} of them special tokens", around + 1);
                return Err(invalid(kind, "context_length", allowed));
            }
            Some(length) => length,
            None => preferred_length.filter(|&length| length > around).map_or(most, |length| length.min(most)),
        };
        Ok(Self { kind, column: column.to_owned(), model, tokenizer, windows, context_length, identities })
    }

    /// Refuses a model that does not predict tokens, or sees those to come.
    fn expect_language_model(&self, location: &str) -> Result<()> {
        if self.model.is_language_model() {
            return Ok(());
        }
        let message = format!("a model of the kind '{}' without the head of a language model", self.model.kind());
        Err(OperatorError::Resource { location: location.to_owned(), message })
    }

    /// Windows of all texts of a batch, and for each row how many it has; none where the text is null.
    fn windows(&self, batch: &RecordBatch, first_row: u64) -> Result<(Vec<Vec<u32>>, Vec<usize>)> {
        let texts = TextColumn::of(self.kind, batch, &self.column)?;
        let (mut windows, mut counts) = (Vec::new(), Vec::with_capacity(batch.num_rows()));
        for (row, text) in (first_row..).zip(texts.iter()) {
            let before = windows.len();
            if let Some(text) = text {
                self.windows
                    .cut(&self.tokenizer, text, self.context_length, &mut windows)
                    .map_err(|message| OperatorError::Row { kind: self.kind.to_owned(), row, message })?;
            }
            counts.push(windows.len() - before);
        }
        Ok((windows, counts))
    }

    /// Calls `each` with batches of consecutive windows.
    fn batches(&self, windows: &[Vec<u32>], mut each: impl FnMut(&Batch) -> Result<(), ModelError>) -> Result<()> {
        let mut rest = windows;
        while !rest.is_empty() {
            let mut batch = Batch::default();
            let mut taken = 0;
            while taken < rest.len() && (taken == 0 || batch.tokens() + rest[taken].len() <= BATCH_TOKENS) {
                batch.push(&rest[taken]);
                taken += 1;
            }
            rest = &rest[taken..];
            each(&batch).map_err(|error| invalid(self.kind, "model", error.to_string()))?;
        }
        Ok(())
    }
}

fn unusable(location: &str, error: &ModelError) -> OperatorError {
    OperatorError::Resource { location: location.to_owned(), message: error.to_string() }
}
