//! The `sink:` of a pipeline.

use gristmill_datasets::{
    ArrowCompression, ArrowOptions, Compression, JsonlOptions, ParquetCompression, ParquetOptions, PartOptions,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rank_sink::{RankSettings, RankSink};
use crate::error::DefinitionError;

/// Where rows go: a map with one entry, the format and its settings.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkDefinition {
    /// Parquet parts.
    Parquet(ParquetSink),
    /// JSON lines.
    Jsonl(JsonlSink),
    /// Arrow IPC files.
    Arrow(ArrowSink),
    /// The best rows of each query of a column of scores.
    Rank(RankSink),
}

const KINDS: [&str; 4] = ["parquet", "jsonl", "arrow", "rank"];

/// What all sinks have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SinkCommon {
    /// The run folder: a path, `s3://`, `gs://` or `az://`.
    pub path: String,
    /// Writes only the id and the columns that steps added, row-aligned with the source, instead of every column.
    #[serde(default)]
    pub sidecar: bool,
    /// Keeps rejected rows, with step and reason, in `rejected/`.
    #[serde(default)]
    pub rejected: bool,
    /// A sample of what the steps decided, as `_run/judgments.csv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judgments: Option<Judgments>,
    /// The row of the output with which a token budget is reached, as `_run/token_budget.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<TokenBudgetDefinition>,
    /// Classification reports of the verdict steps, as `_run/metrics.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsDefinition>,
}

/// The sample of judgments.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Judgments {
    /// The first so many rows of the output.
    #[serde(default = "default_judgments")]
    pub rows: u64,
}

/// A number of tokens to be reached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBudgetDefinition {
    /// Column with the tokens of each row, such as a `count_tokens` step adds.
    pub column: String,
    /// The budget.
    pub tokens: u64,
}

fn default_judgments() -> u64 {
    10_000
}

/// What to report of verdicts.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsDefinition {
    /// Boolean column with the right answer. Absent: only counts and shares are reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Verdict columns to report. Absent: every boolean column that a step added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<Vec<String>>,
}

/// Settings of Parquet parts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ParquetSink {
    /// What all sinks have.
    #[serde(flatten)]
    pub common: SinkCommon,
    /// How pages are compressed: zstd, snappy, lz4 or none.
    #[serde(default)]
    #[schemars(with = "String")]
    pub compression: ParquetCompression,
    /// Level of zstd, 1 to 22.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    /// Rows of a row group at most.
    #[serde(default = "default_row_group_rows")]
    pub row_group_rows: u64,
    /// Whether pages end where their content says, so that a store that deduplicates finds what did not change.
    #[serde(default = "default_chunking")]
    pub content_defined_chunking: bool,
    /// Whether to write the page index, with which readers skip pages.
    #[serde(default = "default_page_index")]
    pub page_index: bool,
}

/// Settings of JSON lines parts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct JsonlSink {
    /// What all sinks have.
    #[serde(flatten)]
    pub common: SinkCommon,
    /// How files are compressed: none, gzip or zstd.
    #[serde(default = "default_jsonl_compression")]
    #[schemars(with = "String")]
    pub compression: Compression,
    /// Level of zstd (1 to 22) or gzip (0 to 9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
}

/// Settings of Arrow IPC parts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ArrowSink {
    /// What all sinks have.
    #[serde(flatten)]
    pub common: SinkCommon,
    /// How buffers are compressed: none, lz4 or zstd.
    #[serde(default)]
    #[schemars(with = "String")]
    pub compression: ArrowCompression,
}

impl SinkDefinition {
    /// What all sinks have.
    #[must_use]
    pub fn common(&self) -> &SinkCommon {
        match self {
            Self::Parquet(sink) => &sink.common,
            Self::Jsonl(sink) => &sink.common,
            Self::Arrow(sink) => &sink.common,
            Self::Rank(sink) => &sink.common,
        }
    }

    /// Like [`common`](Self::common), to change.
    pub fn common_mut(&mut self) -> &mut SinkCommon {
        match self {
            Self::Parquet(sink) => &mut sink.common,
            Self::Jsonl(sink) => &mut sink.common,
            Self::Arrow(sink) => &mut sink.common,
            Self::Rank(sink) => &mut sink.common,
        }
    }

    /// The format, as the file names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Parquet(_) => "parquet",
            Self::Jsonl(_) => "jsonl",
            Self::Arrow(_) => "arrow",
            Self::Rank(_) => "rank",
        }
    }

    /// How parts are written.
    #[must_use]
    pub fn part_options(&self) -> PartOptions {
        match self {
            Self::Parquet(sink) => PartOptions::Parquet(ParquetOptions {
                row_group_rows: sink.row_group_rows,
                compression: sink.compression,
                level: sink.level,
                content_defined_chunking: sink.content_defined_chunking,
                page_index: sink.page_index,
                ..ParquetOptions::default()
            }),
            Self::Jsonl(sink) => PartOptions::Jsonl(JsonlOptions { compression: sink.compression, level: sink.level }),
            Self::Arrow(sink) => PartOptions::Arrow(ArrowOptions { compression: sink.compression }),
            // The best rows of each split, of which the ranking is made.
            Self::Rank(_) => PartOptions::default(),
        }
    }

    /// The ranking, if that is what the sink makes.
    #[must_use]
    pub fn ranking(&self) -> Option<&RankSink> {
        match self {
            Self::Rank(sink) => Some(sink),
            _ => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.common().path.trim().is_empty() {
            return Err(("path", "sink.path is empty".to_owned()));
        }
        self.ranking().map_or(Ok(()), RankSink::check)
    }
}

/// Refuses unknown sinks and unknown keys of a known one, with a suggestion.
pub(super) fn check_keys(
    value: &Value,
    error: &dyn Fn(&str, &str, String) -> DefinitionError,
    check: &dyn Fn(&Value, &str, &Value) -> Result<(), DefinitionError>,
) -> Result<(), DefinitionError> {
    let Some(map) = value.as_object() else { return Ok(()) };
    for (kind, settings) in map {
        let schema = match kind.as_str() {
            "parquet" => schemars::schema_for!(ParquetSink),
            "jsonl" => schemars::schema_for!(JsonlSink),
            "arrow" => schemars::schema_for!(ArrowSink),
            "rank" => schemars::schema_for!(RankSettings),
            other => {
                let nearest = gristmill_operators::nearest(other, KINDS)
                    .map(|name| format!(", did you mean '{name}'?"))
                    .unwrap_or_default();
                let message = format!("unknown sink '{other}'{nearest}; known sinks: {}", KINDS.join(", "));
                let full = error(kind, "", message);
                return Err(full);
            }
        };
        check(settings, &format!("sink.{kind}"), &schema.to_value())?;
    }
    if map.len() > 1 {
        let kinds: Vec<&str> = map.keys().map(String::as_str).collect();
        return Err(error(kinds[1], "", format!("a pipeline has one sink, found {}", kinds.join(" and "))));
    }
    Ok(())
}

fn default_row_group_rows() -> u64 {
    ParquetOptions::default().row_group_rows
}

fn default_chunking() -> bool {
    ParquetOptions::default().content_defined_chunking
}

fn default_page_index() -> bool {
    ParquetOptions::default().page_index
}

fn default_jsonl_compression() -> Compression {
    JsonlOptions::default().compression
}
