//! The unit of work: a split of a source file.

use std::fmt;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

/// How the rows of a file are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// One JSON object a line.
    Jsonl,
    /// A JSON array of objects, or an object of such arrays by split name.
    Json,
    /// Comma-separated values with a header line.
    Csv,
    /// Tab-separated values with a header line.
    Tsv,
    /// Arrow IPC, file or stream form.
    Arrow,
}

/// How the bytes of a text file are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, one or several members.
    Gzip,
    /// Zstandard, one or several frames.
    Zstd,
}

/// One file of a source, pinned to what it was when the run was planned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceFile {
    /// Absolute location, such as `s3://bucket/key` or `file:///folder/file`; never with credentials. Locations of a
    /// hub name the commit they were resolved to.
    pub url: String,
    /// Size in bytes.
    pub size: u64,
    /// Entity tag, where the store has one.
    pub etag: Option<String>,
    /// Version id, where the store has one.
    pub version: Option<String>,
    /// Time of the last change in milliseconds since 1970, where it is part of the file's identity (local files).
    pub modified_ms: Option<i64>,
    /// Format of the rows.
    pub format: Format,
    /// Compression around the format.
    pub compression: Compression,
}

/// What `start..end` of a [`Split`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitUnit {
    /// The whole file; `start..end` is 0..0.
    File,
    /// Row groups of a Parquet file, or record batches of an Arrow IPC file.
    RowGroups,
    /// Bytes of an uncompressed text file. A row belongs to the split in which its first byte lies.
    Bytes,
}

/// A piece of one file: one chain, one part, one commit record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Split {
    /// Position in the order of the output, from 0.
    pub number: u64,
    /// Index into [`SourcePlan::files`].
    pub file: u32,
    /// What the range counts.
    pub unit: SplitUnit,
    /// Begin of the range.
    pub start: u64,
    /// End of the range, exclusive.
    pub end: u64,
    /// Rows of the range to leave out at its begin.
    pub skip: u64,
    /// Rows to read at most, after `skip`.
    pub take: Option<u64>,
    /// Position in the whole source of the first row that is read, where it is known.
    pub first_row: Option<u64>,
    /// Position in its file of the first row that is read, unreadable rows counted, where it is known.
    #[serde(default)]
    pub file_row: Option<u64>,
    /// Number of rows, where it is known without reading.
    pub rows: Option<u64>,
    /// Bytes of the file that the split covers, as stored.
    pub bytes: u64,
}

/// A resolved source: the files, their splits and the schema all rows are read as.
#[derive(Clone, Debug, PartialEq)]
pub struct SourcePlan {
    /// The files in order.
    pub files: Vec<SourceFile>,
    /// The splits in the order of the output.
    pub splits: Vec<Split>,
    /// Schema of the record batches that reading gives.
    pub schema: SchemaRef,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Arrow => "arrow",
        })
    }
}
