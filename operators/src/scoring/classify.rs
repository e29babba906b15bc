//! `classify`: scores a text with a sequence classifier, and says whether the score is above a threshold.
//!
//! A text that is longer than the model's context is read in windows. The verdict is true if the score of any window is strictly greater than the
//! threshold. It is added as column `<name>` (Boolean, never null; false where the text is null) together with `<name>_metadata`, a struct of
//! Float64 `highest_score`, `lowest_score` and `mean_score` over the windows; zeros where the text is null.
//!
//! With the defaults of `label` and `score`, and `windows: retokenized`, this is the classifier stage of the filter of Deep Ignorance.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder};
use arrow_array::{ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Windows;
use super::device;
use super::device::Device;
use super::model_operator::{Columns, model_operator};
use super::reader::{COMPUTE, Precision, Reader, Reading, default_column};
use crate::columns::TextColumn;
use crate::config::invalid;
use crate::operator::{Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
use crate::{OperatorError, Result, config, nearest};

const KIND: &str = "classify";

/// The kind `classify`.
#[derive(Clone, Copy, Debug)]
pub struct ClassifyKind;

/// Configuration of `classify`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    /// A sequence classifier: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
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
    /// The verdict is true where a score is strictly greater.
    #[serde(default = "default_threshold")]
    pub threshold: f64,
    /// The label that is scored, by name or by number from 0; the last one if left out.
    #[serde(default)]
    pub label: Option<Label>,
    /// What a score is. If left out: `softmax`, or `sigmoid` where the model says that labels do not exclude each other, or `raw` where it has
    /// one label.
    #[serde(default)]
    pub score: Option<Score>,
    /// How texts longer than the context are read.
    #[serde(default = "default_windows")]
    pub windows: Windows,
    /// The most tokens of a window, special tokens included; as many as the model takes if left out.
    #[serde(default)]
    pub context_length: Option<usize>,
    /// What the model's weights are rounded to.
    #[serde(default)]
    pub precision: Precision,
    /// Where the model computes.
    #[serde(default)]
    pub device: Device,
    /// Where a text cannot be scored (a score that is not a number), the verdict is true with zeros as metadata, so that a filter
    /// rather removes too much. Otherwise such a text is an error.
    #[serde(default)]
    pub fail_closed: bool,
}

/// A label of a classifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Label {
    /// By number, from 0.
    Number(usize),
    /// By name.
    Name(String),
}

/// What a score is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The label's share of e^logit among all labels.
    Softmax,
    /// 1 / (1 + e^-logit).
    Sigmoid,
    /// The logit itself, as of a regression.
    Raw,
}

fn default_threshold() -> f64 {
    0.5
}

fn default_windows() -> Windows {
    Windows::All
}

impl ClassifyConfig {
    fn read(config: &Value) -> Result<Self> {
        let parsed: Self = config::parse(KIND, config)?;
        if parsed.threshold.is_nan() {
            return Err(invalid(KIND, "threshold", "NaN is not a number"));
        }
        Ok(parsed)
    }
}

impl OperatorKind for ClassifyKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn summary(&self) -> &'static str {
        "score a text with a sequence classifier; true where the score is above a threshold"
    }

    fn example(&self) -> &'static str {
        "classify: {name: quality, model: org/classifier, threshold: 0.0105, when: word_filter}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<ClassifyConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        serde_json::to_value(ClassifyConfig::read(config)?).map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = ClassifyConfig::read(&spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let added = vec![
            Field::new(&spec.name, DataType::Boolean, false),
            Field::new(format!("{}_metadata", spec.name), DataType::Struct(metadata_fields()), false),
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
        let Some(labels) = reader.model.labels() else {
            let message = format!(
                "a model of the kind '{}' without a classifier; one saved as …ForSequenceClassification is needed",
                reader.model.kind()
            );
            return Err(OperatorError::Resource { location: config.model, message });
        };
        let label = find_label(config.label.as_ref(), labels)?;
        let score = config.score.unwrap_or_else(|| match (labels.len(), reader.model.problem()) {
            (_, Some("regression")) | (1, _) => Score::Raw,
            (_, Some("multi_label_classification")) => Score::Sigmoid,
            _ => Score::Softmax,
        });
        let labels = labels.len();
        let ClassifyConfig { threshold, fail_closed, windows, .. } = config;
        Ok(model_operator(spec, schema, reader, Scorer { label, labels, score, threshold, fail_closed, windows }))
    }
}

fn find_label(label: Option<&Label>, labels: &[String]) -> Result<usize> {
    match label {
        None => Ok(labels.len() - 1),
        Some(Label::Number(number)) if *number < labels.len() => Ok(*number),
        Some(Label::Number(number)) => {
            let message = format!(
                "{number} is not a label; the model has {}, numbered from 0: {}",
                labels.len(),
                labels.join(", ")
            );
            Err(invalid(KIND, "label", message))
        }
        Some(Label::Name(name)) => labels.iter().position(|label| label == name).ok_or_else(|| {
            let near = nearest(name, labels.iter().map(String::as_str));
            let near = near.map(|near| format!(", did you mean '{near}'?")).unwrap_or_default();
            invalid(KIND, "label", format!("the model has no label '{name}'{near}; its labels: {}", labels.join(", ")))
        }),
    }
}

fn metadata_fields() -> Fields {
    ["highest_score", "lowest_score", "mean_score"]
        .map(|name| Field::new(name, DataType::Float64, false))
        .to_vec()
        .into()
}

/// From logits to a verdict.
#[derive(Clone, Copy, Debug)]
struct Scorer {
    label: usize,
    labels: usize,
    score: Score,
    threshold: f64,
    fail_closed: bool,
    windows: Windows,
}

impl Scorer {
    /// The score of one window.
    fn score(&self, logits: &[f32]) -> f64 {
        let logit = f64::from(logits[self.label]);
        match self.score {
            Score::Raw => logit,
            Score::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
            Score::Softmax => logits.iter().map(|&other| (f64::from(other) - logit).exp()).sum::<f64>().recip(),
        }
    }
}

impl Columns for Scorer {
    fn make(&self, reader: &Reader, batch: &RecordBatch, first_row: u64) -> Result<Vec<ArrayRef>> {
        let (windows, counts) = reader.windows(batch, first_row, |tokenizer, text, windows| {
            self.windows.cut(tokenizer, text, reader.context_length, windows)
        })?;
        let mut scores = Vec::with_capacity(windows.len());
        reader.batches(&windows, |windows| {
            let logits = reader.model.classify(COMPUTE, windows)?.unwrap_or_default();
            scores.extend(logits.chunks_exact(self.labels).map(|logits| self.score(logits)));
            Ok(())
        })?;

        let rows = batch.num_rows();
        let mut verdicts = BooleanBuilder::with_capacity(rows);
        let mut columns: [Float64Builder; 3] = std::array::from_fn(|_| Float64Builder::with_capacity(rows));
        let mut rest = scores.as_slice();
        for (row, count) in (first_row..).zip(counts) {
            let (own, others) = rest.split_at(count);
            rest = others;
            let highest = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lowest = own.iter().copied().fold(f64::INFINITY, f64::min);
            let mean = own.iter().sum::<f64>() / own.len() as f64;
            let (verdict, values) = match own {
                [] => (false, [0.0; 3]),
                own if own.iter().all(|score| score.is_finite()) => (highest > self.threshold, [highest, lowest, mean]),
                _ if self.fail_closed => (true, [0.0; 3]),
                own => {
                    let window = own.iter().position(|score| !score.is_finite()).unwrap_or(0);
                    let message = format!("the score of window {window} is {}, not a finite number", own[window]);
                    return Err(OperatorError::Row { kind: KIND.to_owned(), row, message });
                }
            };
            verdicts.append_value(verdict);
            columns.iter_mut().zip(values).for_each(|(column, value)| column.append_value(value));
        }
        let columns: Vec<ArrayRef> = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        let metadata = StructArray::try_new(metadata_fields(), columns, None)?;
        Ok(vec![Arc::new(verdicts.finish()), Arc::new(metadata)])
    }
}
