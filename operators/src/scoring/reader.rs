//! A model with its tokenizer, and the ways in which operators give texts to it.

use std::sync::Arc;

use arrow_array::RecordBatch;
use gristmill_kernels::workers::Serial;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::device::Device;
use super::loaded;
use crate::config::invalid;
use crate::models::{Apply, Batch, Compute, LoadOptions, Model, ModelError};
use crate::tokens::Tokenizer;
use crate::{OperatorError, ResourceIdentity, Resources, Result, TextColumn};

/// A batch has at most so many tokens, unless a single window has more. It bounds memory, and does not change results.
const BATCH_TOKENS: usize = 2048;

/// The same where a device computes: it packs what all passes give it.
const DEVICE_BATCH_TOKENS: usize = 65_536;

/// A pass computes on the thread that calls it: splits are what runs side by side.
pub(crate) const COMPUTE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// What weights of linear layers and heads, and the activations that they are multiplied with, are rounded to. Everything else is single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision, 4 bytes a weight.
    #[default]
    F32,
    /// bfloat16, 2 bytes a weight; sums are f32. Faster where the processor has instructions for it (AVX-512 BF16, AMX).
    Bf16,
    /// NF4 with double quantisation, as bitsandbytes quantises when a model is loaded: 0.516 bytes a weight, heads of language models and embeddings
    /// stay as they are. Products are in single precision.
    Nf4,
    /// The same with products in bfloat16, and heads in it.
    Nf4Bf16,
}

impl Precision {
    /// An adapter of weights in four bits was trained beside them.
    pub(crate) fn apply(self) -> Apply {
        match self {
            Self::F32 | Self::Bf16 => Apply::Merged,
            Self::Nf4 | Self::Nf4Bf16 => Apply::Beside,
        }
    }
}

impl From<Precision> for LoadOptions {
    fn from(precision: Precision) -> Self {
        let four_bits = matches!(precision, Precision::Nf4 | Precision::Nf4Bf16);
        let precision = match precision {
            Precision::F32 | Precision::Nf4 => crate::models::Precision::F32,
            Precision::Bf16 | Precision::Nf4Bf16 => crate::models::Precision::Bf16,
        };
        Self { precision, four_bits, ..Self::default() }
    }
}

pub(crate) fn default_column() -> String {
    "text".to_owned()
}

/// A model with its tokenizer.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) kind: &'static str,
    pub(crate) column: String,
    pub(crate) model: Arc<Model>,
    pub(crate) tokenizer: Tokenizer,
    /// The most tokens of a window, special tokens included.
    pub(crate) context_length: usize,
    /// Of the model's files, those of its adapter, and the tokenizer's, the last.
    pub(crate) identities: Vec<ResourceIdentity>,
    /// Of the device that computes, where it is not the CPU.
    pub(crate) computed_on: Option<ResourceIdentity>,
}

/// What a configuration says of a [`Reader`].
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) model: &'a str,
    pub(crate) adapter: Option<&'a str>,
    pub(crate) tokenizer: Option<&'a str>,
    pub(crate) column: &'a str,
    pub(crate) precision: Precision,
    pub(crate) device: Device,
    pub(crate) context_length: Option<usize>,
    /// Where `context_length` is not given: what the model's own files say, if they do.
    pub(crate) preferred_length: Option<usize>,
}

impl Reader {
    pub(crate) fn new(kind: &'static str, reading: Reading<'_>, resources: &Resources) -> Result<Self> {
        let Reading { model, adapter, precision, device, .. } = reading;
        let loaded = loaded::load(kind, model, adapter, precision, device, resources)?;
        Self::of(kind, reading, loaded, resources)
    }

    /// One whose model can have its gradients computed.
    #[cfg(feature = "influence")]
    pub(crate) fn for_gradients(kind: &'static str, reading: Reading<'_>, resources: &Resources) -> Result<Self> {
        let Reading { model, adapter, precision, device, .. } = reading;
        let loaded = loaded::load_for_gradients(kind, model, adapter, precision, device, resources)?;
        Self::of(kind, reading, loaded, resources)
    }

    fn of(
        kind: &'static str,
        reading: Reading<'_>,
        (model, mut identities): (Arc<Model>, Vec<ResourceIdentity>),
        resources: &Resources,
    ) -> Result<Self> {
        let Reading { model: location, tokenizer, column, context_length, preferred_length, .. } = reading;
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
            None => {
                let usual = preferred_length.filter(|&length| length > around).or(model.trained_positions());
                usual.map_or(most, |length| length.min(most))
            }
        };
        let computed_on = model.device().map(|name| loaded::computed_on(location, name));
        Ok(Self { kind, column: column.to_owned(), model, tokenizer, context_length, identities, computed_on })
    }

    /// What a run that continues must agree with: the files, and the kind of device. What was made from the files on one kind of device may be used on another.
    pub(crate) fn resources(&self) -> Vec<ResourceIdentity> {
        self.identities.iter().chain(&self.computed_on).cloned().collect()
    }

    /// Refuses a model that does not predict tokens.
    pub(crate) fn expect_language_model(&self, location: &str) -> Result<()> {
        if self.model.is_language_model() {
            return Ok(());
        }
        let message = format!("a model of the kind '{}' without the head of a language model", self.model.kind());
        Err(OperatorError::Resource { location: location.to_owned(), message })
    }

    /// Windows of all texts of a batch, as `cut` adds them, and for each row how many it has; none where the text is null.
    pub(crate) fn windows(
        &self,
        batch: &RecordBatch,
        first_row: u64,
        mut cut: impl FnMut(&Tokenizer, &str, &mut Vec<Vec<u32>>) -> Result<(), String>,
    ) -> Result<(Vec<Vec<u32>>, Vec<usize>)> {
        let texts = TextColumn::of(self.kind, batch, &self.column)?;
        let (mut windows, mut counts) = (Vec::new(), Vec::with_capacity(batch.num_rows()));
        for (row, text) in (first_row..).zip(texts.iter()) {
            let before = windows.len();
            if let Some(text) = text {
                let failed = |message: String| OperatorError::Row { kind: self.kind.to_owned(), row, message };
                cut(&self.tokenizer, text, &mut windows).map_err(failed)?;
            }
            counts.push(windows.len() - before);
        }
        Ok((windows, counts))
    }

    /// Calls `each` with batches of consecutive windows.
    pub(crate) fn batches(
        &self,
        windows: &[Vec<u32>],
        mut each: impl FnMut(&Batch) -> Result<(), ModelError>,
    ) -> Result<()> {
        let most = if self.model.device().is_some() { DEVICE_BATCH_TOKENS } else { BATCH_TOKENS };
        let mut rest = windows;
        while !rest.is_empty() {
            let mut batch = Batch::default();
            let mut taken = 0;
            while taken < rest.len() && (taken == 0 || batch.tokens() + rest[taken].len() <= most) {
                batch.push(&rest[taken]);
                taken += 1;
            }
            rest = &rest[taken..];
            each(&batch).map_err(|error| invalid(self.kind, "model", error.to_string()))?;
        }
        Ok(())
    }
}

pub(crate) fn unusable(location: &str, error: &ModelError) -> OperatorError {
    OperatorError::Resource { location: location.to_owned(), message: error.to_string() }
}
