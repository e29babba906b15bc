//! `embed`: a vector for each text, from the hidden states of a model.
//!
//! It is added as column `<name>`: a fixed-size list of Float32, or Float16 with `type: f16`, null where the text is null. With `pooling: none` it is a list of
//! such lists, one for each token, special tokens included. A text that is longer than `context_length` is cut off there.
//!
//! The defaults are those that the model itself names: a sentence-transformers model says how it pools, whether embeddings have length 1, and
//! how long a text may be. Without such files the mean over all tokens is taken, as it is.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float16Array, Float32Array, ListArray, RecordBatch};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, SchemaRef};
use gristmill_kernels::pool::{Pool, l2_normalise};
use gristmill_kernels::workers::Serial;
use half::f16;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Windows;
use super::device;
use super::device::Device;
use super::model_operator::{Columns, model_operator};
use super::reader::{COMPUTE, Precision, Reader, Reading, default_column, unusable};
use crate::columns::TextColumn;
use crate::config::invalid;
use crate::models::{Batch, Model, ModelError, Sentence};
use crate::operator::{Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
use crate::{Result, config};

const KIND: &str = "embed";

/// Smaller than any length of an embedding; divides where one is 0.
const EPSILON: f32 = 1e-12;

/// The kind `embed`.
#[derive(Clone, Copy, Debug)]
pub struct EmbedKind;

/// Configuration of `embed`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedConfig {
    /// A language model or an encoder: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
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
    /// How the states of a text's tokens become one; as the model says if left out, else `mean`.
    #[serde(default)]
    pub pooling: Option<Pooling>,
    /// Whether vectors are scaled to length 1; as the model says if left out, else not.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Which hidden states: 0 is the embeddings, n what layer n leaves, before the last norm. If left out, those after the last norm.
    #[serde(default)]
    pub layer: Option<usize>,
    /// Type of the numbers that are stored.
    #[serde(default, rename = "type")]
    pub stored: Embedding,
    /// The most tokens of a text, special tokens included; as the model says if left out.
    #[serde(default)]
    pub context_length: Option<usize>,
    /// What the model's weights are rounded to.
    #[serde(default)]
    pub precision: Precision,
    /// Where the model computes.
    #[serde(default)]
    pub device: Device,
}

/// How the states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// Their sum divided by the square root of their number.
    MeanSqrtLen,
    /// The first one, such as `[CLS]`.
    First,
    /// The last one.
    Last,
    /// The largest value of each element.
    Max,
    /// The middle value of each element; of an even number the lower of the two in the middle.
    Median,
    /// All of them.
    None,
}

/// Type of stored numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Embedding {
    /// Single precision.
    #[default]
    F32,
    /// Half precision.
    F16,
}

impl OperatorKind for EmbedKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn summary(&self) -> &'static str {
        "turn a text into a vector of a model's hidden states"
    }

    fn example(&self) -> &'static str {
        "embed: {model: sentence-transformers/all-MiniLM-L6-v2, type: f16}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<EmbedConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<EmbedConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: EmbedConfig = config::parse(KIND, &spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let (sentence, identities) =
            Sentence::read(&config.model, resources).map_err(|error| unusable(&config.model, &error))?;
        let pooling = match (config.pooling, &sentence.pooling) {
            (Some(pooling), _) => pooling,
            (None, None) => Pooling::Mean,
            (None, Some(named)) => match named.as_str() {
                "mean_tokens" | "mean" => Pooling::Mean,
                "mean_sqrt_len_tokens" => Pooling::MeanSqrtLen,
                "cls_token" | "cls" => Pooling::First,
                "lasttoken" => Pooling::Last,
                "max_tokens" | "max" => Pooling::Max,
                other => {
                    let message = format!("the model pools by '{other}', which is not supported; choose a pooling");
                    return Err(invalid(KIND, "pooling", message));
                }
            },
        };
        let normalize = config.normalize.unwrap_or(sentence.normalize);
        let reading = Reading {
            model: &config.model,
            adapter: config.adapter.as_deref(),
            tokenizer: config.tokenizer.as_deref(),
            column: &config.column,
            precision: config.precision,
            device: config.device,
            context_length: config.context_length,
            preferred_length: sentence.longest,
        };
        let mut reader = Reader::new(KIND, reading, resources)?;
        reader.identities.extend(identities);
        if let Some(layer) = config.layer
            && layer > reader.model.layers()
        {
            return Err(invalid(KIND, "layer", format!("{layer}; the model has 0 to {}", reader.model.layers())));
        }
        let embedder = Embedder { pooling, normalize, layer: config.layer, stored: config.stored };
        let field = Field::new(&spec.name, embedder.column_type(reader.model.hidden_size())?, true);
        let schema = extend_schema(spec, input, vec![field])?;
        Ok(model_operator(spec, schema, reader, embedder))
    }
}

/// From hidden states to stored vectors.
#[derive(Clone, Copy, Debug)]
struct Embedder {
    pooling: Pooling,
    normalize: bool,
    layer: Option<usize>,
    stored: Embedding,
}

impl Embedder {
    fn number(self) -> DataType {
        match self.stored {
            Embedding::F32 => DataType::Float32,
            Embedding::F16 => DataType::Float16,
        }
    }

    fn column_type(self, width: usize) -> Result<DataType> {
        let vector = DataType::FixedSizeList(self.element(), vector_size(width)?);
        Ok(match self.pooling {
            Pooling::None => DataType::List(Arc::new(Field::new("item", vector, false))),
            _ => vector,
        })
    }

    fn element(self) -> Arc<Field> {
        Arc::new(Field::new("item", self.number(), false))
    }

    /// The vectors of a batch's texts, or of all tokens.
    fn vectors(self, reader: &Reader, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let (model, width) = (&reader.model, reader.model.hidden_size());
        let mut vectors = match self.pooling {
            Pooling::None => self.states(model, batch)?,
            Pooling::Median => {
                let (states, mut vectors) = (self.states(model, batch)?, vec![0.0; batch.documents() * width]);
                for (vector, text) in vectors.chunks_exact_mut(width).zip(batch.offsets().windows(2)) {
                    median(&states[text[0] as usize * width..text[1] as usize * width], vector);
                }
                vectors
            }
            Pooling::Mean | Pooling::MeanSqrtLen => model.pooled(COMPUTE, batch, self.layer, Pool::Mean)?,
            Pooling::First => model.pooled(COMPUTE, batch, self.layer, Pool::First)?,
            Pooling::Last => model.pooled(COMPUTE, batch, self.layer, Pool::Last)?,
            Pooling::Max => model.pooled(COMPUTE, batch, self.layer, Pool::Max)?,
        };
        if self.pooling == Pooling::MeanSqrtLen {
            for (vector, text) in vectors.chunks_exact_mut(width).zip(batch.offsets().windows(2)) {
                let root = ((text[1] - text[0]) as f32).sqrt();
                vector.iter_mut().for_each(|value| *value *= root);
            }
        }
        if self.normalize {
            let long = std::mem::take(&mut vectors);
            vectors = vec![0.0; long.len()];
            l2_normalise(&Serial, width, EPSILON, &long, &mut vectors)?;
        }
        Ok(vectors)
    }

    fn states(self, model: &Model, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        match self.layer {
            None => model.hidden_states(COMPUTE, batch),
            Some(layer) => model.layer_states(COMPUTE, batch, layer),
        }
    }

    /// Vectors as a column of fixed-size lists.
    fn lists(self, vectors: Vec<f32>, width: usize, nulls: Option<NullBuffer>) -> Result<FixedSizeListArray> {
        let values: ArrayRef = match self.stored {
            Embedding::F32 => Arc::new(Float32Array::from(vectors)),
            Embedding::F16 => {
                Arc::new(vectors.into_iter().map(|value| Some(f16::from_f32(value))).collect::<Float16Array>())
            }
        };
        Ok(FixedSizeListArray::try_new(self.element(), vector_size(width)?, values, nulls)?)
    }
}

fn vector_size(width: usize) -> Result<i32> {
    i32::try_from(width).map_err(|_| invalid(KIND, "model", format!("hidden states of {width} elements are too wide")))
}

/// The middle of each column, the lower one of two; zeros where there is no row.
fn median(states: &[f32], vector: &mut [f32]) {
    let width = vector.len();
    let rows = states.len() / width.max(1);
    if rows == 0 {
        return;
    }
    let mut column = Vec::with_capacity(rows);
    for (index, value) in vector.iter_mut().enumerate() {
        column.clear();
        column.extend(states.iter().skip(index).step_by(width));
        let (_, middle, _) = column.select_nth_unstable_by((rows - 1) / 2, f32::total_cmp);
        *value = *middle;
    }
}

impl Columns for Embedder {
    fn make(&self, reader: &Reader, batch: &RecordBatch, first_row: u64) -> Result<Vec<ArrayRef>> {
        let width = reader.model.hidden_size();
        let (windows, counts) = reader.windows(batch, first_row, |tokenizer, text, windows| {
            Windows::First.cut(tokenizer, text, reader.context_length, windows)
        })?;
        let mut vectors = Vec::new();
        reader.batches(&windows, |windows| {
            vectors.extend(self.vectors(reader, windows)?);
            Ok(())
        })?;
        let nulls = NullBuffer::from_iter(counts.iter().map(|&count| count > 0));
        let column: ArrayRef = if self.pooling == Pooling::None {
            let mut texts = windows.iter();
            let lengths = counts.iter().map(|&count| if count > 0 { texts.next().map_or(0, Vec::len) } else { 0 });
            let offsets = OffsetBuffer::from_lengths(lengths);
            let lists = self.lists(vectors, width, None)?;
            let element = Arc::new(Field::new("item", lists.data_type().clone(), false));
            Arc::new(ListArray::try_new(element, offsets, Arc::new(lists), Some(nulls))?)
        } else {
            let mut own = vectors.chunks_exact(width);
            let mut all = Vec::with_capacity(counts.len() * width);
            for &count in &counts {
                let vector = if count > 0 { own.next() } else { None };
                match vector {
                    Some(vector) => all.extend_from_slice(vector),
                    None => all.resize(all.len() + width, 0.0),
                }
            }
            Arc::new(self.lists(all, width, Some(nulls))?)
        };
        Ok(vec![column])
    }
}
