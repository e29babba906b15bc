//! The sink `rank`: the best rows of each query instead of all rows.

use gristmill_datasets::{Compression, JsonlOptions, ParquetOptions, PartOptions};
use gristmill_operators::OperatorSpec;
use gristmill_operators::rank::RankOrder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::sink::{MetricsDefinition, SinkCommon};

/// The kind of the operator that the sink puts behind the last step, and of its name.
pub(crate) const RANK: &str = "rank";

/// Keeps the best rows of each query: settings as a pipeline file has them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RankSettings {
    /// The run folder: a path, `s3://`, `gs://` or `az://`. The ranking is its `ranking.parquet` or `ranking.jsonl`.
    pub path: String,
    /// Column to rank by: a column of scores, which has several queries, or a column of numbers, which is one.
    pub by: String,
    /// Rows to keep for each query, 1 to 4294967295.
    #[serde(default = "default_k")]
    pub k: u32,
    /// Which end of the scores is the best: descending (the highest) or ascending (the lowest).
    #[serde(default)]
    pub order: RankOrder,
    /// Columns of the rows that travel along. Absent: the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Format of the ranking: parquet or jsonl.
    #[serde(default)]
    pub format: RankingFormat,
    /// Keeps rejected rows, with step and reason, in `rejected/`. Rows without scores are among them.
    #[serde(default)]
    pub rejected: bool,
    /// Classification reports of the verdict steps, as `_run/metrics.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsDefinition>,
}

/// Format of a ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankingFormat {
    /// Parquet.
    #[default]
    Parquet,
    /// JSON lines, not compressed.
    Jsonl,
}

/// Keeps the best rows of each query.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "RankSettings", into = "RankSettings")]
pub struct RankSink {
    /// What all sinks have; of a ranking only the path, rejected rows and metrics can be set.
    pub common: SinkCommon,
    /// Column to rank by.
    pub by: String,
    /// Rows to keep for each query.
    pub k: u32,
    /// Which end of the scores is the best.
    pub order: RankOrder,
    /// Columns of the rows that travel along; the id where absent.
    pub columns: Option<Vec<String>>,
    /// Format of the ranking.
    pub format: RankingFormat,
}

fn default_k() -> u32 {
    100
}

impl RankSink {
    /// The file of the ranking, relative to the run folder.
    #[must_use]
    pub fn file(&self) -> &'static str {
        match self.format {
            RankingFormat::Parquet => "ranking.parquet",
            RankingFormat::Jsonl => "ranking.jsonl",
        }
    }

    /// How the ranking is written.
    #[must_use]
    pub fn ranking_options(&self) -> PartOptions {
        match self.format {
            RankingFormat::Parquet => PartOptions::Parquet(ParquetOptions::default()),
            RankingFormat::Jsonl => PartOptions::Jsonl(JsonlOptions { compression: Compression::None, level: None }),
        }
    }

    /// The operator that each split's rows go through last. `id` is the source's column of ids.
    #[must_use]
    pub fn operator(&self, id: &str) -> OperatorSpec {
        let columns = self.columns.clone().unwrap_or_else(|| vec![id.to_owned()]);
        OperatorSpec::new(RANK, json!({"by": self.by, "k": self.k, "order": self.order, "columns": columns}))
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.k == 0 {
            return Err(("k", format!("k: 0 rows make no ranking; allowed: 1 to {}", u32::MAX)));
        }
        if self.by.trim().is_empty() {
            return Err(("by", "by: the name is empty; name a column of scores or numbers".to_owned()));
        }
        Ok(())
    }
}

impl From<RankSettings> for RankSink {
    fn from(settings: RankSettings) -> Self {
        let RankSettings { path, by, k, order, columns, format, rejected, metrics } = settings;
        let common = SinkCommon { path, sidecar: false, rejected, judgments: None, token_budget: None, metrics };
        Self { common, by, k, order, columns, format }
    }
}

impl From<RankSink> for RankSettings {
    fn from(sink: RankSink) -> Self {
        let RankSink { common, by, k, order, columns, format } = sink;
        Self { path: common.path, by, k, order, columns, format, rejected: common.rejected, metrics: common.metrics }
    }
}

impl JsonSchema for RankSink {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RankSink".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RankSettings::json_schema(generator)
    }
}
