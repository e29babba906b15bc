//! `next_token`: what a language model expects after a text.
//!
//! Added is column `<name>`, the `top` most probable tokens, most probable first: a list of structs of `id` (UInt32), `token` (Utf8, the token decoded by itself) and
//! `probability` (Float32). With `candidates` there is also `<name>_candidates`, a fixed-size list of Float32: the probability of the first token of each
//! candidate, in their order. Of tokens that are equally probable the one with the smaller id comes first. Null where the text is null, or has no token and the
//! tokenizer puts none before texts.
//!
//! The text is encoded with the special tokens that the tokenizer puts before texts; those that it would put behind are left out. Of a text longer than
//! `context_length` the last tokens are read.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, RecordBatch, StringArray, StructArray, UInt32Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
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
use crate::{Result, config};

const KIND: &str = "next_token";

/// The kind `next_token`.
#[derive(Clone, Copy, Debug)]
pub struct NextTokenKind;

/// Configuration of `next_token`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextTokenConfig {
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
    /// How many tokens are listed.
    #[serde(default = "default_top")]
    pub top: usize,
    /// Texts whose first token's probability is wanted.
    #[serde(default)]
    pub candidates: Vec<String>,
    /// The most tokens that are read; as many as the model takes if left out.
    #[serde(default)]
    pub context_length: Option<usize>,
    /// What the model's weights are rounded to.
    #[serde(default)]
    pub precision: Precision,
    /// Where the model computes.
    #[serde(default)]
    pub device: Device,
}

fn default_top() -> usize {
    10
}

impl OperatorKind for NextTokenKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn summary(&self) -> &'static str {
        "the tokens that a language model expects after a text, with their probabilities"
    }

    fn example(&self) -> &'static str {
        "next_token: {model: EleutherAI/pythia-160m, top: 5, candidates: [\" yes\", \" no\"]}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<NextTokenConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<NextTokenConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: NextTokenConfig = config::parse(KIND, &spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
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
        let most = reader.model.vocabulary();
        if config.top == 0 || config.top > most {
            return Err(invalid(
                KIND,
                "top",
                format!("{}; 1 to {most} are allowed, as many tokens as there are", config.top),
            ));
        }
        let mut added = vec![Field::new(&spec.name, DataType::List(item(DataType::Struct(fields()))), true)];
        let mut candidates = Vec::with_capacity(config.candidates.len());
        for (index, candidate) in config.candidates.iter().enumerate() {
            let mut ids = Vec::new();
            let wrong = |message: String| invalid(KIND, &format!("candidates[{index}]"), message);
            reader.tokenizer.encode(candidate, false, &mut ids).map_err(|error| wrong(error.to_string()))?;
            let first = *ids.first().ok_or_else(|| wrong(format!("{candidate:?} has no token")))?;
            if let Some(other) = candidates.iter().position(|&other| other == first) {
                let other = &config.candidates[other];
                let message =
                    format!("{candidate:?} begins with the same token as {other:?}, so that they cannot be told apart");
                return Err(wrong(message));
            }
            candidates.push(first);
        }
        let size = i32::try_from(candidates.len()).map_err(|_| invalid(KIND, "candidates", "too many"))?;
        if size > 0 {
            let list = DataType::FixedSizeList(item(DataType::Float32), size);
            added.push(Field::new(format!("{}_candidates", spec.name), list, true));
        }
        let schema = extend_schema(spec, input, added)?;
        Ok(model_operator(spec, schema, reader, NextToken { top: config.top, candidates, size }))
    }
}

fn item(of: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", of, false))
}

fn fields() -> Fields {
    vec![
        Field::new("id", DataType::UInt32, false),
        Field::new("token", DataType::Utf8, false),
        Field::new("probability", DataType::Float32, false),
    ]
    .into()
}

/// What the configuration asks for.
#[derive(Debug)]
struct NextToken {
    top: usize,
    /// The first token of each candidate.
    candidates: Vec<u32>,
    /// As many as there are, as Arrow counts them.
    size: i32,
}

/// What is known of the texts of a pass so far.
#[derive(Default)]
struct Found {
    ids: Vec<u32>,
    probabilities: Vec<f32>,
    candidates: Vec<f32>,
}

impl Found {
    /// Takes what is wanted of one text's logits.
    fn take(&mut self, wanted: &NextToken, logits: &[f32]) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let power = |logit: f32| f64::from(logit - most).exp();
        let sum: f64 = logits.iter().map(|&logit| power(logit)).sum();
        let probability = |id: u32| (power(logits[id as usize]) / sum) as f32;
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let before = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if wanted.top < order.len() {
            order.select_nth_unstable_by(wanted.top, before);
            order.truncate(wanted.top);
        }
        order.sort_unstable_by(before);
        self.probabilities.extend(order.iter().map(|&id| probability(id)));
        self.ids.extend(order);
        self.candidates.extend(wanted.candidates.iter().map(|&id| probability(id)));
    }
}

impl Columns for NextToken {
    fn make(&self, reader: &Reader, batch: &RecordBatch, first_row: u64) -> Result<Vec<ArrayRef>> {
        let (windows, counts) = reader.windows(batch, first_row, |tokenizer, text, windows| {
            let mut ids = Vec::new();
            tokenizer.encode(text, false, &mut ids).map_err(|error| error.to_string())?;
            ids.splice(0..0, tokenizer.prefix().iter().copied());
            ids.drain(..ids.len().saturating_sub(reader.context_length));
            windows.extend((!ids.is_empty()).then_some(ids));
            Ok(())
        })?;
        let mut found = Found::default();
        reader.batches(&windows, |windows| {
            let logits = reader.model.next_logits(COMPUTE, windows)?.unwrap_or_default();
            logits.chunks_exact(reader.model.vocabulary()).for_each(|logits| found.take(self, logits));
            Ok(())
        })?;
        let decode = |&id: &u32| reader.tokenizer.decode_token(id);
        let tokens = found.ids.iter().map(decode).collect::<Result<Vec<_>, _>>();
        let tokens = tokens.map_err(|error| invalid(KIND, "tokenizer", error.to_string()))?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(found.ids)),
            Arc::new(StringArray::from(tokens)),
            Arc::new(Float32Array::from(found.probabilities)),
        ];
        let structs = StructArray::try_new(fields(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(counts.iter().map(|&count| count * self.top));
        let nulls = NullBuffer::from_iter(counts.iter().map(|&count| count > 0));
        let element = item(structs.data_type().clone());
        let list = ListArray::try_new(element, offsets, Arc::new(structs), Some(nulls.clone()))?;
        let mut added: Vec<ArrayRef> = vec![Arc::new(list)];
        if self.size > 0 {
            let mut own = found.candidates.chunks_exact(self.candidates.len());
            let mut values = Vec::with_capacity(counts.len() * self.candidates.len());
            for &count in &counts {
                let probabilities = if count > 0 { own.next() } else { None };
                match probabilities {
                    Some(probabilities) => values.extend_from_slice(probabilities),
                    None => values.resize(values.len() + self.candidates.len(), 0.0),
                }
            }
            let values: ArrayRef = Arc::new(Float32Array::from(values));
            added.push(Arc::new(FixedSizeListArray::try_new(item(DataType::Float32), self.size, values, Some(nulls))?));
        }
        Ok(added)
    }
}
