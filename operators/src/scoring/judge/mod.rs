//! `judge`: a language model says of each text whether it is to be filtered.
//!
//! Added are column `<name>` (Boolean), true where the model says so, and `<name>_metadata`, a struct of
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `judgment` | Utf8 | the part of the answer that the verdict was read from: a digit, a value, a group |
//! | `completion` | Utf8 | the whole answer |
//! | `error` | Utf8 | why there is no verdict |
//!
//! Each is empty where there is none, and none is null. The row's text, cut at `cut_at`, `max_text_tokens` and `max_characters` in that order,
//! is put into the template `prompt`, where it is called `text`; other columns have their own names there. The prompt is the user's
//! message behind those of `system` or `system_file`. The temperature is 0.
//!
//! A row whose text is null is not asked about; its verdict is false. What becomes of a row without a verdict, because the endpoint failed at it
//! again and again or its answer cannot be read, `on_error` says; without it the verdict is true, so that nothing passes a filter unseen. When nothing can be
//! answered at all (nobody there, a wrong key, an unknown model), the run ends, and goes on when it is started again.

mod parse;

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, BooleanArray, StructArray};
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::parse::{Group, JsonField, Parse};
use self::parse::{Parser, Verdict};
use super::asking::{Answer, Asking, Columns, OnError, Row, Sampling, asking_config, identity};
use crate::config::invalid;
use crate::operator::{Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
use crate::{Result, config};

const KIND: &str = "judge";

/// The kind `judge`.
#[derive(Clone, Copy, Debug)]
pub struct JudgeKind;

asking_config! {
    /// Configuration of `judge`. Either `endpoint` or `model` is given.
    pub struct JudgeConfig of KIND {
        /// The most tokens of an answer.
        #[serde(default = "default_max_tokens")]
        pub max_tokens: u32,
        /// How the verdict is read out of the answer: `bracket_digit`, `{json: {field: …, true_values: […], false_values: […]}}` or
        /// `{regex: {pattern: …, group: …, true_values: […], false_values: […]}}`.
        #[serde(default)]
        pub parse: Parse,
        /// What becomes of a row without a verdict.
        #[serde(default)]
        pub on_error: OnMissing,
    }
}

/// What becomes of a row without a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// The verdict is true.
    #[default]
    Filter,
    /// The verdict is false.
    Keep,
    /// The row is quarantined with the error.
    Quarantine,
    /// The split fails.
    Fail,
}

fn default_max_tokens() -> u32 {
    5
}

impl JudgeConfig {
    fn read(config: &Value) -> Result<Self> {
        let parsed: Self = config::parse(KIND, config)?;
        parsed.back_end(true).check()?;
        parsed.prompting(true).check()?;
        Parser::new(&parsed.parse)?;
        if parsed.max_tokens == 0 {
            return Err(invalid(KIND, "max_tokens", "0; at least 1 is allowed"));
        }
        Ok(parsed)
    }
}

impl OperatorKind for JudgeKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn identity(&self, config: &Value) -> Value {
        identity(config)
    }

    fn summary(&self) -> &'static str {
        "ask a language model, here or behind an endpoint, whether a text is to be filtered"
    }

    fn example(&self) -> &'static str {
        "judge: {name: lm_filter, endpoint: {url: \"http://localhost:8000/v1\", model: org/model}, system_file: question.txt, when: word_filter}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<JudgeConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        serde_json::to_value(JudgeConfig::read(config)?).map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = JudgeConfig::read(&spec.config)?;
        let added = vec![
            Field::new(&spec.name, DataType::Boolean, false),
            Field::new(format!("{}_metadata", spec.name), DataType::Struct(fields()), false),
        ];
        let asking = Asking {
            prompter: config.prompting(true).bind(input, resources)?,
            schema: extend_schema(spec, input, added)?,
            answerer: config.back_end(true).open(resources)?,
            sampling: Sampling {
                max_tokens: config.max_tokens,
                temperature: 0.0,
                top_p: 1.0,
                stop: Vec::new(),
                seed: None,
            },
            on_error: match config.on_error {
                OnMissing::Filter | OnMissing::Keep => OnError::Keep,
                OnMissing::Quarantine => OnError::Quarantine,
                OnMissing::Fail => OnError::Fail,
            },
            columns: Judge {
                parser: Parser::new(&config.parse)?,
                verdict_of_errors: config.on_error == OnMissing::Filter,
            },
        };
        Ok(asking.operator(spec))
    }
}

fn fields() -> Fields {
    ["judgment", "completion", "error"].map(|name| Field::new(name, DataType::Utf8, false)).to_vec().into()
}

/// How answers are read.
#[derive(Debug)]
struct Judge {
    parser: Parser,
    verdict_of_errors: bool,
}

impl Columns for Judge {
    type Value = Verdict;

    fn read(&self, answer: &Answer) -> Result<Verdict, String> {
        self.parser.read(&answer.text)
    }

    fn make(&self, rows: &[Row<Verdict>]) -> Result<Vec<ArrayRef>> {
        let mut verdicts = Vec::with_capacity(rows.len());
        let [mut judgments, mut completions, mut errors] = std::array::from_fn(|_| StringBuilder::new());
        for row in rows {
            let is_true = row.value.as_ref().map(|verdict| verdict.is_true);
            verdicts.push(is_true.unwrap_or(row.error.is_some() && self.verdict_of_errors));
            judgments.append_value(row.value.as_ref().map_or("", |verdict| &verdict.judgment));
            completions.append_value(row.answer.as_ref().map_or("", |answer| &answer.text));
            errors.append_value(row.error.as_deref().unwrap_or_default());
        }
        let columns = [judgments, completions, errors].map(|mut builder| Arc::new(builder.finish()) as ArrayRef);
        let metadata = StructArray::try_new(fields(), columns.to_vec(), None)?;
        Ok(vec![Arc::new(BooleanArray::from(verdicts)), Arc::new(metadata)])
    }
}
