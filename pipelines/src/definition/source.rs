//! The `source:` of a pipeline.

use gristmill_datasets::Format;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One text or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

/// Where rows come from and how they are cut into splits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceDefinition {
    /// Files, folders, globs (`**` too) or a data set of a hub, on any location: a path, `s3://`, `gs://`, `az://`,
    /// `hf://datasets/org/name[@revision][/path]`, `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<OneOrMany>,
    /// A file that lists paths, one a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths_file: Option<String>,
    /// Format of the files: parquet, jsonl, json, csv, tsv or arrow. Absent: by the file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub format: Option<Format>,
    /// Column that holds the text.
    #[serde(default = "default_text")]
    pub text: String,
    /// Column that identifies a row. Where it is absent it is filled with the row's position, from 0.
    #[serde(default = "default_id")]
    pub id: String,
    /// Columns to read; nested fields by dotted path. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Rows to leave out at the begin.
    #[serde(default)]
    pub skip: u64,
    /// Rows to read at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Size of a split: bytes (`64MB`), rows (`300 rows`) or a share of the rows (0.001 to 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_size: Option<SplitSizeText>,
    /// Configuration of a hub's data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Split of a hub's data set (such as `train`), or key of a JSON file that holds an object of row lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Adds the columns `_source` (file) and `_row` (position in the source).
    #[serde(default)]
    pub provenance: bool,
    /// Rows of a record batch at most. Results do not depend on it.
    #[serde(default = "default_batch_rows")]
    pub batch_rows: usize,
}

/// A split size as written: text, or a number for a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a size such as 64MB, a number of rows such as 300 rows, or a share such as 0.01"
)]
pub enum SplitSizeText {
    /// `64MB`, `300 rows` or `0.01`.
    Text(String),
    /// A share of the rows.
    Share(f64),
}

impl SplitSizeText {
    /// As text, for the parser.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Share(share) => share.to_string(),
        }
    }
}

impl SourceDefinition {
    /// The patterns that name the files.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        self.path.as_ref().map(OneOrMany::to_vec).unwrap_or_default()
    }

    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.path.is_none() && self.paths_file.is_none() {
            return Err(("path", "source: one of 'path' and 'paths_file' is needed".to_owned()));
        }
        if self.path.is_some() && self.paths_file.is_some() {
            return Err(("paths_file", "source: 'path' and 'paths_file' exclude each other".to_owned()));
        }
        if self.path.is_some() && self.patterns().iter().any(|pattern| pattern.trim().is_empty()) {
            return Err(("path", "source.path: a path is empty".to_owned()));
        }
        if self.batch_rows == 0 {
            return Err(("batch_rows", "source.batch_rows: 0 rows make no batch; allowed: 1 or more".to_owned()));
        }
        if let Some(size) = &self.split_size {
            size.to_text()
                .parse::<gristmill_datasets::SplitSize>()
                .map_err(|error| ("split_size", format!("source.split_size: {error}")))?;
        }
        Ok(())
    }
}

fn default_text() -> String {
    "text".to_owned()
}

fn default_id() -> String {
    "id".to_owned()
}

fn default_batch_rows() -> usize {
    8192
}
