//! `perplexity`: how well a language model predicts a text.
//!
//! Added are column `<name>` (Float64), e to the mean negative log-likelihood of the text's tokens, and `<name>_metadata`, a struct of
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `log_likelihood` | Float64 | sum over the tokens of the natural logarithm of their probability |
//! | `tokens` | UInt32 | how many tokens were predicted |
//! | `bits_per_byte` | Float64 | -log2 of the text's probability for each byte of it, which does not depend on the tokenizer |
//! | `losses` | List\<Float32\> | negative log-likelihood of each predicted token, in order; with `losses` |
//!
//! The text is encoded with the special tokens that the tokenizer adds. Its first token is not predicted: where the tokenizer puts a token
//! before texts (`<s>`), that is the one. A text longer than `context_length` is read in windows that begin with the last `overlap` tokens of the one
//! before as context, so that every other token is predicted once. All are null where the text is null or has no token to predict.

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, Float64Builder, ListBuilder, UInt32Builder};
use arrow_array::{ArrayRef, RecordBatch, StructArray};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::device;
use super::device::Device;
use super::model_operator::{Columns, model_operator};
use super::reader::{COMPUTE, Precision, Reader, Reading, default_column};
use crate::columns::TextColumn;
use crate::config::invalid;
use crate::operator::{Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
use crate::{OperatorError, Result, config};

const KIND: &str = "perplexity";

/// The kind `perplexity`.
#[derive(Clone, Copy, Debug)]
pub struct PerplexityKind;

/// Configuration of `perplexity`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerplexityConfig {
    /// A causal language model: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
    pub model: String,
    /// An adapter of peft for the model (LoRA, rsLoRA, DoRA): a folder with `adapter_config.json` and `adapter_model.safetensors`, a URL of one, or a
    /// repository on the Hugging Face Hub. It is merged into the weights, or kept beside them where they are in four bits.
    #[serde(default)]
    pub adapter: Option<String>,
    /// The tokenizer, if it is not the one beside the model.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The text column.
    #[serde(default = "default_column")]
    pub column: String,
    /// The most tokens of a window; as many as the model takes if left out.
    #[serde(default)]
    pub context_length: Option<usize>,
    /// How many tokens of the window before a window has as context, at least 1 and less than `context_length`. More make better predictions and take
    /// longer.
    #[serde(default = "default_overlap")]
    pub overlap: usize,
    /// Whether the loss of each token is kept.
    #[serde(default)]
    pub losses: bool,
    /// What the model's weights are rounded to.
    #[serde(default)]
    pub precision: Precision,
    /// Where the model computes.
    #[serde(default)]
    pub device: Device,
}

fn default_overlap() -> usize {
    1
}

impl OperatorKind for PerplexityKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn summary(&self) -> &'static str {
        "how well a language model predicts a text: perplexity, log-likelihood, bits per byte"
    }

    fn example(&self) -> &'static str {
        "perplexity: {model: EleutherAI/pythia-160m, context_length: 1024, overlap: 256}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<PerplexityConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<PerplexityConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: PerplexityConfig = config::parse(KIND, &spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let added = vec![
            Field::new(&spec.name, DataType::Float64, true),
            Field::new(format!("{}_metadata", spec.name), DataType::Struct(fields(config.losses)), true),
        ];
        let schema = extend_schema(spec, input, added)?;
        let reading = Reading {
            model: &config.model,
            adapter: config.adapter.as_deref(),
            tokenizer: config.tokenizer.as_deref(),
            column: &config.column,
            precision: config.precision,
            device: config.device,
            context_length: config.context_length,
            preferred_length: None,
        };
        let reader = Reader::new(KIND, reading, resources)?;
        reader.expect_language_model(&config.model)?;
        if config.overlap == 0 || config.overlap >= reader.context_length {
            let message = format!("{}; 1 to {} are allowed", config.overlap, reader.context_length - 1);
            return Err(invalid(KIND, "overlap", message));
        }
        let (overlap, losses) = (config.overlap, config.losses);
        Ok(model_operator(spec, schema, reader, Perplexity { overlap, losses }))
    }
}

fn fields(losses: bool) -> Fields {
    let mut fields = vec![
        Field::new("log_likelihood", DataType::Float64, false),
        Field::new("tokens", DataType::UInt32, false),
        Field::new("bits_per_byte", DataType::Float64, false),
    ];
    if losses {
        fields.push(Field::new("losses", DataType::List(loss()), false));
    }
    fields.into()
}

fn loss() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

/// What the configuration asks for.
#[derive(Clone, Copy, Debug)]
struct Perplexity {
    overlap: usize,
    losses: bool,
}

impl Columns for Perplexity {
    fn make(&self, reader: &Reader, batch: &RecordBatch, first_row: u64) -> Result<Vec<ArrayRef>> {
        // Of each window, how many tokens are context alone.
        let mut contexts = Vec::new();
        let mut ids = Vec::new();
        let (windows, counts) = reader.windows(batch, first_row, |tokenizer, text, windows| {
            tokenizer.encode(text, true, &mut ids).map_err(|error| error.to_string())?;
            let mut start = 0;
            while start + 1 < ids.len() {
                let end = ids.len().min(start + reader.context_length);
                windows.push(ids[start..end].to_vec());
                contexts.push(if start == 0 { 1 } else { self.overlap });
                if end == ids.len() {
                    break;
                }
                start = end - self.overlap;
            }
            Ok(())
        })?;
        let mut of_windows: Vec<Vec<f32>> = Vec::with_capacity(windows.len());
        reader.batches(&windows, |windows| {
            let losses = reader.model.token_losses(COMPUTE, windows)?.unwrap_or_default();
            let pieces = windows.offsets().windows(2).zip(&contexts[of_windows.len()..]);
            let pieces: Vec<Vec<f32>> = pieces
                .map(|(window, context)| losses[window[0] as usize + context..window[1] as usize].to_vec())
                .collect();
            of_windows.extend(pieces);
            Ok(())
        })?;

        let rows = batch.num_rows();
        let texts = TextColumn::of(KIND, batch, &reader.column)?;
        let mut perplexities = Float64Builder::with_capacity(rows);
        let mut log_likelihoods = Float64Builder::with_capacity(rows);
        let mut tokens = UInt32Builder::with_capacity(rows);
        let mut bits = Float64Builder::with_capacity(rows);
        let mut lists = ListBuilder::new(Float32Builder::new()).with_field(loss());
        let mut nulls = NullBufferBuilder::new(rows);
        let mut rest = of_windows.as_slice();
        for ((row, count), text) in (first_row..).zip(counts).zip(texts.iter()) {
            let (own, others) = rest.split_at(count);
            rest = others;
            let number = own.iter().map(Vec::len).sum::<usize>();
            let sum: f64 = own.iter().flatten().map(|&loss| f64::from(loss)).sum();
            nulls.append(number > 0);
            perplexities.append_option((number > 0).then(|| (sum / number as f64).exp()));
            log_likelihoods.append_value(-sum);
            let too_many =
                |_| OperatorError::Row { kind: KIND.to_owned(), row, message: format!("{number} tokens are too many") };
            tokens.append_value(u32::try_from(number).map_err(too_many)?);
            let bytes = text.map_or(0, str::len);
            bits.append_value(if number > 0 && bytes > 0 { sum / std::f64::consts::LN_2 / bytes as f64 } else { 0.0 });
            if self.losses {
                own.iter().flatten().for_each(|&loss| lists.values().append_value(loss));
                lists.append(true);
            }
        }
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(log_likelihoods.finish()), Arc::new(tokens.finish()), Arc::new(bits.finish())];
        if self.losses {
            columns.push(Arc::new(lists.finish()));
        }
        let metadata = StructArray::try_new(fields(self.losses), columns, nulls.finish())?;
        Ok(vec![Arc::new(perplexities.finish()), Arc::new(metadata)])
    }
}
