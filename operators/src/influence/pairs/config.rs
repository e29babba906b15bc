//! What a pipeline file says of the step.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::operator::{Pairs, Rows};
use super::samples::{SampleColumns, is_id};
use super::study::Study;
use super::{Accumulate, KIND, ProjectionConfig, candidates, columns};
use crate::config::invalid;
use crate::influence::Modules;
use crate::operator::{Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
use crate::scoring::Precision;
use crate::{OperatorError, Result, config, require_column};

/// The kind `gradient_pairs`.
#[derive(Clone, Copy, Debug)]
pub struct GradientPairsKind;

/// Configuration of `gradient_pairs`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GradientPairsConfig {
    /// A causal language model: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
    pub model: String,
    /// An adapter of peft for the model, which is merged into its weights: a folder, a URL or a repository.
    #[serde(default)]
    pub adapter: Option<String>,
    /// The tokenizer, if it is not the one beside the model.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The column of a row's messages, of which the last one is the answer; `messages` if neither this nor `answer` is given. They are put into a text with the model's
    /// chat template.
    #[serde(default)]
    pub messages: Option<String>,
    /// The column of the text that stands before the answer, in place of messages.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The column of the answer's text, in place of messages.
    #[serde(default)]
    pub answer: Option<String>,
    /// The samples that rows are compared with.
    pub originals: OriginalsConfig,
    /// The column with the id of the original that the row was made from; `null` where it is not known.
    #[serde(default = "default_truth")]
    pub truth: Option<String>,
    /// A column of lists of ids: the originals that the row is compared with. Without it they are searched with BM25.
    #[serde(default)]
    pub candidates: Option<String>,
    /// How many originals are searched, at least 1.
    #[serde(default = "default_top")]
    pub top: usize,
    /// The parameters that are looked at, by the names of their tensors (`model.layers.0.mlp.up_proj.weight`); all if left out. Nothing is computed below the first
    /// layer of which there is one.
    #[serde(default)]
    pub tensors: Modules,
    /// In what products are summed.
    #[serde(default)]
    pub accumulate: Accumulate,
    /// Cosines of gradients after a random projection, too.
    #[serde(default)]
    pub projection: Option<ProjectionConfig>,
    /// How many bytes gradients and sketches of originals may take that are kept for other rows. It does not change results.
    #[serde(default = "default_cache_bytes")]
    pub cache_bytes: usize,
    /// What the model's weights are rounded to, `f32` or `bf16`; gradients are in single precision.
    #[serde(default)]
    pub precision: Precision,
    /// What becomes of a row that cannot be measured: whose sample is malformed or has an empty answer, or whose originals do not exist.
    #[serde(default)]
    pub on_error: OnError,
}

/// The samples that rows are compared with: all of them, also where a run has some of the rows only.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OriginalsConfig {
    /// A table (`.jsonl`, `.json`, `.arrow`, `.parquet`), or the folder of a run that has finished.
    pub path: String,
    /// The column of ids, which differ.
    #[serde(default = "default_id")]
    pub id: String,
    /// The column of messages, as of rows.
    #[serde(default)]
    pub messages: Option<String>,
    /// The column of the text that stands before the answer.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The column of the answer's text.
    #[serde(default)]
    pub answer: Option<String>,
}

/// What becomes of a row that cannot be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run stops.
    #[default]
    Fail,
    /// The row is put aside with the error.
    Quarantine,
}

fn default_truth() -> Option<String> {
    Some("id".to_owned())
}

fn default_top() -> usize {
    5
}

fn default_cache_bytes() -> usize {
    1 << 30
}

fn default_id() -> String {
    "id".to_owned()
}

impl GradientPairsConfig {
    pub(super) fn columns(&self) -> Result<SampleColumns> {
        SampleColumns::of("", self.messages.as_deref(), self.prompt.as_deref(), self.answer.as_deref())
    }
}

impl OriginalsConfig {
    pub(super) fn columns(&self) -> Result<SampleColumns> {
        SampleColumns::of("originals.", self.messages.as_deref(), self.prompt.as_deref(), self.answer.as_deref())
    }
}

impl OperatorKind for GradientPairsKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn identity(&self, config: &Value) -> Value {
        let mut config = config.clone();
        if let Some(map) = config.as_object_mut() {
            map.shift_remove("cache_bytes");
        }
        config
    }

    fn summary(&self) -> &'static str {
        "products of a language model's gradients by each tensor, of samples with the originals that they may have been made from"
    }

    fn example(&self) -> &'static str {
        "gradient_pairs: {model: amd/AMD-OLMo-1B, messages: paraphrased_messages, originals: {path: originals.jsonl}}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<GradientPairsConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let parsed: GradientPairsConfig = config::parse(KIND, config)?;
        if parsed.top == 0 {
            return Err(invalid(KIND, "top", "0; at least 1 is allowed"));
        }
        parsed.columns()?;
        parsed.originals.columns()?;
        config::complete::<GradientPairsConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: GradientPairsConfig = config::parse(KIND, &spec.config)?;
        let samples = config.columns()?;
        samples.check(input)?;
        if let Some(column) = &config.candidates {
            candidates::check(column, require_column(KIND, input, column)?.1)?;
        }
        if let Some(column) = &config.truth {
            let (_, found) = require_column(KIND, input, column)?;
            if !is_id(found) {
                return Err(OperatorError::ColumnType {
                    kind: KIND.to_owned(),
                    column: column.clone(),
                    found: found.to_string(),
                    expected: "texts or whole numbers".to_owned(),
                });
            }
        }
        let (study, identities) = Study::open(&config, &spec.config.to_string(), resources)?;
        let schema = extend_schema(spec, input, columns::fields(&spec.name, &study)?)?;
        let GradientPairsConfig { truth, candidates, top, on_error, .. } = config;
        let rows = Rows { samples, truth, candidates, top, on_error };
        Ok(Arc::new(Pairs::new(spec.clone(), schema, study, rows, identities)))
    }
}
