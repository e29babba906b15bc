//! What a pipeline is: source, steps, sink, and tests of its own.
//!
//! ```
//! use gristmill_pipelines::{Pipeline, PipelineFile};
//!
//! let text = "
//! source: {path: docs/*.jsonl}
//! steps:
//!   - sample: {fraction: 0.1}
//! sink:
//!   parquet: {path: out}
//! ";
//! let file = PipelineFile::parse("pipeline.yaml", text, &["source.limit=100"])?;
//! let pipeline: &Pipeline = file.pipeline();
//! assert_eq!(pipeline.source.limit, Some(100));
//! assert_eq!(pipeline.steps[0].kind, "sample");
//! # Ok::<(), gristmill_pipelines::DefinitionError>(())
//! ```

mod rank_sink;
mod sink;
mod source;
mod source_text;
mod step;
mod tests_section;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use rank_sink::RANK;
pub use rank_sink::{RankSettings, RankSink, RankingFormat};
pub use sink::{
    ArrowSink, JsonlSink, Judgments, MetricsDefinition, ParquetSink, SinkCommon, SinkDefinition, TokenBudgetDefinition,
};
pub use source::{OneOrMany, SourceDefinition, SplitSizeText};
use source_text::SourceText;
pub use step::StepDefinition;
pub use tests_section::TestDefinition;

use crate::error::DefinitionError;

/// A pipeline, as a file or a program defines it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Name of the pipeline, shown in progress and reports.
    #[serde(default = "default_name")]
    pub name: String,
    /// What the pipeline is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where the rows come from.
    pub source: SourceDefinition,
    /// The steps, in order.
    #[serde(default)]
    pub steps: Vec<StepDefinition>,
    /// Where the rows go.
    pub sink: SinkDefinition,
    /// Share of the rows (0 to 1) that may be quarantined before the run counts as failed (exit code 3). Absent: any
    /// share is reported, none fails the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_quarantined: Option<f64>,
    /// How often a split that fails is tried before it is recorded as failed.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
    /// Tests of the steps: rows in, rows or rejections expected out. `gristmill test` runs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestDefinition>,
}

fn default_name() -> String {
    "pipeline".to_owned()
}

fn default_attempts() -> u32 {
    3
}

/// A pipeline with the text it was read from, so that later errors can name line and column.
#[derive(Clone, Debug)]
pub struct PipelineFile {
    pipeline: Pipeline,
    source: SourceText,
}

impl PipelineFile {
    /// Parses the text of a pipeline file and applies overrides such as `source.limit=10`.
    pub fn parse<S: AsRef<str>>(file: &str, text: &str, overrides: &[S]) -> Result<Self, DefinitionError> {
        let mut source = SourceText::parse(file, text)?;
        for assignment in overrides {
            source.set(assignment.as_ref())?;
        }
        Self::from_source(source)
    }

    /// Wraps a pipeline built by a program.
    pub fn from_value(value: Value) -> Result<Self, DefinitionError> {
        Self::from_source(SourceText::from_value(value))
    }

    /// The pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        self.source.file()
    }

    /// Whether the file or an override sets the value at a dotted path, rather than a default.
    #[must_use]
    pub fn sets(&self, path: &str) -> bool {
        let pointer = format!("/{}", path.replace('.', "/"));
        self.source.value().pointer(&pointer).is_some_and(|value| !value.is_null())
    }

    /// An error about the value at a dotted path.
    #[must_use]
    pub fn error(&self, path: &str, message: impl Into<String>) -> DefinitionError {
        self.source.error(path, message)
    }

    /// An error about key `key` of step `index`'s configuration.
    #[must_use]
    pub fn step_error(&self, index: usize, key: &str, message: impl Into<String>) -> DefinitionError {
        let kind = self.pipeline.steps.get(index).map_or("", |step| step.kind.as_str());
        let path = if key.is_empty() { format!("steps.{index}.{kind}") } else { format!("steps.{index}.{kind}.{key}") };
        self.source.error(&path, message)
    }

    /// Another pipeline with the text of this one, so that errors name places in it.
    #[must_use]
    pub(crate) fn derived(&self, pipeline: Pipeline) -> Self {
        Self { pipeline, source: self.source.clone() }
    }

    fn from_source(source: SourceText) -> Result<Self, DefinitionError> {
        check_keys(&source)?;
        let pipeline: Pipeline = serde_path_to_error::deserialize(source.value()).map_err(|error| {
            let path = with_key_of_sink(source.value(), normalize_path(&error.path().to_string()));
            let message = gristmill_operators::config::plain(&error.inner().to_string());
            source.error(&path, if path.is_empty() || path == "." { message } else { format!("{path}: {message}") })
        })?;
        let file = Self { pipeline, source };
        file.check_values()?;
        Ok(file)
    }

    fn check_values(&self) -> Result<(), DefinitionError> {
        let pipeline = &self.pipeline;
        if let Some(share) = pipeline.max_quarantined
            && !(0.0..=1.0).contains(&share)
        {
            return Err(self.error("max_quarantined", format!("max_quarantined: {share} is not between 0 and 1")));
        }
        if pipeline.attempts == 0 {
            return Err(self.error("attempts", "attempts: 0 would never run a split; allowed: 1 or more"));
        }
        for (index, step) in pipeline.steps.iter().enumerate() {
            let earlier = pipeline.steps[..index].iter().position(|other| other.name == step.name);
            if let Some(earlier) = earlier {
                let message = format!(
                    "steps {earlier} and {index} are both named '{}'; give one of them another name",
                    step.name
                );
                return Err(self.step_error(index, "name", message));
            }
        }
        self.pipeline.source.check().map_err(|(key, message)| self.error(&format!("source.{key}"), message))?;
        let sink = self.pipeline.sink.kind();
        self.pipeline.sink.check().map_err(|(key, message)| self.error(&format!("sink.{sink}.{key}"), message))
    }
}

/// Unknown keys of the fixed parts get a suggestion before serde refuses them without one.
fn check_keys(source: &SourceText) -> Result<(), DefinitionError> {
    let check = |value: &Value, path: &str, allowed: &Value| -> Result<(), DefinitionError> {
        let (Some(map), Some(properties)) = (value.as_object(), allowed.get("properties").and_then(Value::as_object))
        else {
            return Ok(());
        };
        let Some(key) = map.keys().find(|key| !properties.contains_key(key.as_str())) else { return Ok(()) };
        let nearest = gristmill_operators::nearest(key, properties.keys().map(String::as_str))
            .map(|name| format!(", did you mean '{name}'?"))
            .unwrap_or_default();
        let known: Vec<&str> = properties.keys().map(String::as_str).collect();
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        Err(source.error(&at, format!("unknown key '{key}'{nearest}; allowed keys: {}", known.join(", "))))
    };
    let value = source.value();
    check(value, "", &schemars::schema_for!(Pipeline).to_value())?;
    check(&value["source"], "source", &schemars::schema_for!(SourceDefinition).to_value())?;
    sink::check_keys(
        &value["sink"],
        &|path, key, message| source.error(&format!("sink.{path}.{key}"), message),
        &check,
    )?;
    if let Some(tests) = value["tests"].as_array() {
        for (index, test) in tests.iter().enumerate() {
            check(test, &format!("tests.{index}"), &schemars::schema_for!(TestDefinition).to_value())?;
        }
    }
    Ok(())
}

/// `steps[0].x` as serde writes it, as `steps.0.x`.
fn normalize_path(path: &str) -> String {
    path.replace('[', ".").replace(']', "")
}

/// Of a wrong setting of a sink serde names the sink only, since the settings that all sinks have are flattened into it. The
/// key without which the sink would be right is the one that is meant.
fn with_key_of_sink(value: &Value, path: String) -> String {
    let pointer = format!("/{}", path.replace('.', "/"));
    let Some(settings) = value.pointer(&pointer).and_then(Value::as_object).filter(|_| path.starts_with("sink."))
    else {
        return path;
    };
    let is_meant = |key: &&String| {
        let mut without = value.clone();
        if let Some(settings) = without.pointer_mut(&pointer).and_then(Value::as_object_mut) {
            settings.remove(key.as_str());
        }
        serde_json::from_value::<Pipeline>(without).is_ok()
    };
    match settings.keys().find(is_meant) {
        Some(key) => format!("{path}.{key}"),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn error(text: &str) -> String {
        PipelineFile::parse("p.yaml", text, &[] as &[&str]).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_file() {
        let text = "
name: filter-web
source:
  path: [a.parquet, b.parquet]
  text: content
  split_size: 300 rows
steps:
  - blocklist: {name: words, terms: t.csv}
  - count_tokens: {tokenizer: tok.json, when: words}
sink:
  parquet: {path: out, rejected: true, level: 5}
max_quarantined: 0.01
";
        let file = PipelineFile::parse("p.yaml", text, &["sink.parquet.sidecar=true"]).unwrap();
        let pipeline = file.pipeline();
        assert_eq!(pipeline.steps[0].name, "words");
        assert_eq!(pipeline.steps[1].name, "count_tokens");
        assert_eq!(pipeline.steps[1].when.as_deref(), Some("words"));
        assert_eq!(pipeline.steps[1].config, serde_json::json!({"tokenizer": "tok.json"}));
        assert!(pipeline.sink.common().sidecar);
        let again = PipelineFile::from_value(serde_json::to_value(pipeline).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(again.pipeline()).unwrap(), serde_json::to_value(pipeline).unwrap());
    }

    #[test]
    fn errors_name_place_value_and_what_is_allowed() {
        let sink = "sink: {parquet: {path: out}}\n";
        for (text, parts) in [
            (format!("source: {{path: a}}\nstep: []\n{sink}"), vec!["p.yaml:2:1", "'step'", "did you mean 'steps'?"]),
            (format!("source: {{pth: a}}\n{sink}"), vec!["p.yaml:1:10", "did you mean 'path'?"]),
            (format!("source: {{path: a, limit: x}}\n{sink}"), vec!["p.yaml:1:19", "source.limit", "\"x\""]),
            (format!("source: {{path: a, split_size: 7 cows}}\n{sink}"), vec!["p.yaml:1:19", "7 cows"]),
            (format!("source: {{path: a}}\nsteps:\n  - a: 1\n    b: 2\n{sink}"), vec!["p.yaml:3:", "one kind"]),
            (
                format!("source: {{path: a}}\nsteps: [sample: {{fraction: 1}}, sample: {{fraction: 1}}]\n{sink}"),
                vec!["both named 'sample'"],
            ),
            (
                "source: {path: a}\nsink: {parqet: {path: out}}\n".to_owned(),
                vec!["p.yaml:2:8", "did you mean 'parquet'?"],
            ),
            (
                "source: {path: a}\nsink: {parquet: {path: out, row_group_row: 1}}\n".to_owned(),
                vec!["p.yaml:2:29", "did you mean 'row_group_rows'?"],
            ),
            (
                "source: {path: a}\nsink: {parquet: {path: out, rejected: perhaps}}\n".to_owned(),
                vec!["p.yaml:2:29: sink.parquet.rejected: expected true or false, found \"perhaps\""],
            ),
            (
                "source: {path: a}\nsink: {rank: {path: out, by: s, k: 0}}\n".to_owned(),
                vec!["p.yaml:2:33: k: 0 rows make no ranking; allowed: 1 to 4294967295"],
            ),
            (
                "source: {path: a}\nsink: {rank: {path: out, by: s, order: up}}\n".to_owned(),
                vec!["p.yaml:2:", "sink.rank.order", "'up' is not allowed", "descending, ascending"],
            ),
            (
                "source: {path: a}\nsink: {rank: {path: out, by: s, sidecar: true}}\n".to_owned(),
                vec!["p.yaml:2:", "unknown key 'sidecar'", "columns"],
            ),
            ("source: {path: a}\nsink: {rank: {path: out}}\n".to_owned(), vec!["p.yaml:2:", "'by' is missing"]),
            (
                format!("source: {{path: a}}\nmax_quarantined: 7\n{sink}"),
                vec!["p.yaml:2:1", "7 is not between 0 and 1"],
            ),
            ("source: {path: a}\n".to_owned(), vec!["sink"]),
        ] {
            let message = error(&text);
            for part in parts {
                assert!(message.contains(part), "{text}\n{part:?} is not in\n{message}");
            }
        }
    }
}
