//! `generate`: a language model writes a text for each row.
//!
//! Added are column `<name>` (Utf8), what the model wrote, and `<name>_metadata`, a struct of
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `finish` | Utf8 | why the text ends: `stop`, `length`, or another word of the endpoint's |
//! | `prompt_tokens` | UInt32 | tokens that the model read; null where the endpoint does not say |
//! | `tokens` | UInt32 | tokens that it wrote; null where the endpoint does not say |
//! | `error` | Utf8 | why there is no text, empty where there is one |
//!
//! All other columns stay as they are. The prompt is made as that of `judge`. With `chat: false` it is a text that the model continues, without chat template and
//! system message. Equal prompts get one answer, also where the temperature is not 0: rows that shall differ must differ in their prompts.
//!
//! A row whose text is null is not asked about, and both columns are null. Where the model wrote nothing because of an error, `<name>` is null; `on_error` says
//! what becomes of such a row.

use std::sync::Arc;

use arrow_array::builder::{StringBuilder, UInt32Builder};
use arrow_array::{ArrayRef, StructArray};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::asking::{Answer, Asking, Columns, OnError, Row, Sampling, asking_config, identity};
use crate::config::invalid;
use crate::operator::{Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
use crate::{Result, config};

const KIND: &str = "generate";

/// The kind `generate`.
#[derive(Clone, Copy, Debug)]
pub struct GenerateKind;

asking_config! {
    /// Configuration of `generate`. Either `endpoint` or `model` is given.
    pub struct GenerateConfig of KIND {
        /// Whether the prompt is a message to answer. With `false` it is a text to continue.
        #[serde(default = "default_chat")]
        pub chat: bool,
        /// The most tokens that are written.
        #[serde(default = "default_max_tokens")]
        pub max_tokens: u32,
        /// 0 takes the likeliest token each time; with more, tokens are drawn, the unlikely ones more often the higher it is.
        #[serde(default)]
        pub temperature: f32,
        /// Tokens are drawn from the likeliest ones whose probabilities sum to at least this, above 0 and at most 1.
        #[serde(default = "default_top_p")]
        pub top_p: f32,
        /// The text ends in front of the first of these.
        #[serde(default)]
        pub stop: Vec<String>,
        /// Where random draws begin. Left out, an endpoint chooses, and a model in this process takes 0.
        #[serde(default)]
        pub seed: Option<u64>,
        /// What becomes of a row for which nothing was written because of an error.
        #[serde(default)]
        pub on_error: OnMissing,
    }
}

/// What becomes of a row for which nothing was written because of an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// The column is null, and the error stands in the metadata.
    #[default]
    Keep,
    /// The row is quarantined with the error.
    Quarantine,
    /// The split fails.
    Fail,
}

fn default_chat() -> bool {
    true
}

fn default_max_tokens() -> u32 {
    256
}

fn default_top_p() -> f32 {
    1.0
}

impl GenerateConfig {
    fn read(config: &Value) -> Result<Self> {
        let parsed: Self = config::parse(KIND, config)?;
        parsed.back_end(parsed.chat).check()?;
        parsed.prompting(parsed.chat).check()?;
        let wrong = |key: &str, message: String| Err(invalid(KIND, key, message));
        if parsed.max_tokens == 0 {
            return wrong("max_tokens", "0; at least 1 is allowed".to_owned());
        }
        if !(parsed.temperature >= 0.0 && parsed.temperature.is_finite()) {
            return wrong("temperature", format!("{}; 0 or more is allowed", parsed.temperature));
        }
        // Also where it is not a number.
        if !(parsed.top_p > 0.0 && parsed.top_p <= 1.0) {
            return wrong("top_p", format!("{}; more than 0 and at most 1 is allowed", parsed.top_p));
        }
        if parsed.stop.iter().any(String::is_empty) {
            return wrong("stop", "one of the texts is empty".to_owned());
        }
        Ok(parsed)
    }
}

impl OperatorKind for GenerateKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn identity(&self, config: &Value) -> Value {
        identity(config)
    }

    fn summary(&self) -> &'static str {
        "let a language model, here or behind an endpoint, write a text for each row"
    }

    fn example(&self) -> &'static str {
        "generate: {name: paraphrase, endpoint: {url: \"http://localhost:8000/v1\", model: org/model}, prompt: \"Say it in other words: {{ text }}\", max_tokens: 512}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<GenerateConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        serde_json::to_value(GenerateConfig::read(config)?).map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = GenerateConfig::read(&spec.config)?;
        let added = vec![
            Field::new(&spec.name, DataType::Utf8, true),
            Field::new(format!("{}_metadata", spec.name), DataType::Struct(fields()), true),
        ];
        let asking = Asking {
            prompter: config.prompting(config.chat).bind(input, resources)?,
            schema: extend_schema(spec, input, added)?,
            answerer: config.back_end(config.chat).open(resources)?,
            sampling: Sampling {
                max_tokens: config.max_tokens,
                temperature: config.temperature,
                top_p: config.top_p,
                stop: config.stop,
                seed: config.seed,
            },
            on_error: match config.on_error {
                OnMissing::Keep => OnError::Keep,
                OnMissing::Quarantine => OnError::Quarantine,
                OnMissing::Fail => OnError::Fail,
            },
            columns: Generate,
        };
        Ok(asking.operator(spec))
    }
}

fn fields() -> Fields {
    vec![
        Field::new("finish", DataType::Utf8, false),
        Field::new("prompt_tokens", DataType::UInt32, true),
        Field::new("tokens", DataType::UInt32, true),
        Field::new("error", DataType::Utf8, false),
    ]
    .into()
}

/// The answers are the texts.
#[derive(Debug)]
struct Generate;

impl Columns for Generate {
    type Value = ();

    fn read(&self, _answer: &Answer) -> Result<(), String> {
        Ok(())
    }

    fn make(&self, rows: &[Row<()>]) -> Result<Vec<ArrayRef>> {
        let [mut texts, mut finishes, mut errors] = std::array::from_fn(|_| StringBuilder::new());
        let [mut read, mut written] = std::array::from_fn(|_| UInt32Builder::with_capacity(rows.len()));
        let mut nulls = NullBufferBuilder::new(rows.len());
        for row in rows {
            let answer = row.answer.as_ref();
            texts.append_option(answer.map(|answer| &answer.text));
            finishes.append_value(answer.map_or("", |answer| answer.finish.as_str()));
            read.append_option(answer.and_then(|answer| answer.prompt_tokens));
            written.append_option(answer.and_then(|answer| answer.tokens));
            errors.append_value(row.error.as_deref().unwrap_or_default());
            nulls.append(answer.is_some() || row.error.is_some());
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(finishes.finish()),
            Arc::new(read.finish()),
            Arc::new(written.finish()),
            Arc::new(errors.finish()),
        ];
        let metadata = StructArray::try_new(fields(), columns, nulls.finish())?;
        Ok(vec![Arc::new(texts.finish()), Arc::new(metadata)])
    }
}
