//! How parts are written: one settings structure for each format, each with only the keys that mean something there.

use serde::{Deserialize, Serialize};

use crate::{Compression, DatasetError, Format, Result};

/// The format of parts and its settings.
///
/// As text it is one key with its settings below it, so a pipeline file says what it means:
///
/// ```
/// use gristmill_datasets::PartOptions;
///
/// let options: PartOptions = serde_saphyr::from_str("parquet: {row_group_rows: 50000}")?;
/// assert_eq!(options.extension(), "parquet");
/// let options: PartOptions = serde_saphyr::from_str("jsonl: {compression: gzip}")?;
/// assert_eq!(options.extension(), "jsonl.gz");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartOptions {
    /// Apache Parquet.
    Parquet(ParquetOptions),
    /// One JSON object a line.
    Jsonl(JsonlOptions),
    /// Arrow IPC in its file form.
    Arrow(ArrowOptions),
}

/// Settings of Parquet parts. The defaults are what the Hugging Face Hub serves and deduplicates best: zstd, row groups
/// of some hundred megabytes at most, pages cut by content, and a page index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParquetOptions {
    /// Rows of a row group at most, by default 131072.
    pub row_group_rows: u64,
    /// Bytes at which a row group ends, counted before encoding and compression, by default 128 MiB. A row group is held
    /// in memory (compressed) until it ends, so this bounds the memory of a writer. The row that reaches the limit still
    /// belongs to the group.
    pub row_group_bytes: u64,
    /// How pages are compressed, by default `zstd`.
    pub compression: ParquetCompression,
    /// Level of `zstd`, 1 to 22; by default 3. Other codecs have no level.
    pub level: Option<i32>,
    /// Whether pages end where their content says rather than at a size, so that stores that deduplicate keep one copy
    /// of what two versions of a file have in common; on by default.
    pub content_defined_chunking: bool,
    /// Whether to write the column and offset index, with which readers skip pages; on by default.
    pub page_index: bool,
}

/// How the pages of a Parquet part are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParquetCompression {
    /// Zstandard.
    #[default]
    Zstd,
    /// Snappy.
    Snappy,
    /// LZ4 without framing (`LZ4_RAW`).
    Lz4,
    /// Not at all.
    None,
}

/// Settings of JSON lines parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JsonlOptions {
    /// How the file is compressed, by default `zstd`.
    pub compression: Compression,
    /// Level of `zstd` (1 to 22, by default 3) or `gzip` (0 to 9, by default 6).
    pub level: Option<i32>,
}

/// Settings of Arrow IPC parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArrowOptions {
    /// How buffers are compressed, by default `none`, so that the file can be mapped into memory.
    pub compression: ArrowCompression,
}

/// How the buffers of an Arrow IPC part are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrowCompression {
    /// Not at all.
    #[default]
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Default for PartOptions {
    fn default() -> Self {
        Self::Parquet(ParquetOptions::default())
    }
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self {
            row_group_rows: 128 * 1024,
            row_group_bytes: 128 * 1024 * 1024,
            compression: ParquetCompression::default(),
            level: None,
            content_defined_chunking: true,
            page_index: true,
        }
    }
}

impl Default for JsonlOptions {
    fn default() -> Self {
        Self { compression: Compression::Zstd, level: None }
    }
}

impl PartOptions {
    /// The format of the parts.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::Parquet(_) => Format::Parquet,
            Self::Jsonl(_) => Format::Jsonl,
            Self::Arrow(_) => Format::Arrow,
        }
    }

    /// The end of a part's file name, without a leading dot.
    #[must_use]
    pub fn extension(&self) -> &'static str {
        match self {
            Self::Parquet(_) => "parquet",
            Self::Jsonl(JsonlOptions { compression: Compression::None, .. }) => "jsonl",
            Self::Jsonl(JsonlOptions { compression: Compression::Gzip, .. }) => "jsonl.gz",
            Self::Jsonl(JsonlOptions { compression: Compression::Zstd, .. }) => "jsonl.zst",
            Self::Arrow(_) => "arrow",
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] names the key, the wrong value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Parquet(options) => options.validate(),
            Self::Jsonl(options) => options.validate(),
            Self::Arrow(_) => Ok(()),
        }
    }
}

impl ParquetOptions {
    fn validate(&self) -> Result<()> {
        at_least_one("row_group_rows", self.row_group_rows)?;
        at_least_one("row_group_bytes", self.row_group_bytes)?;
        match self.compression {
            ParquetCompression::Zstd => level_within("zstd", self.level, 1..=22),
            ParquetCompression::Snappy => no_level("snappy", self.level),
            ParquetCompression::Lz4 => no_level("lz4", self.level),
            ParquetCompression::None => no_level("none", self.level),
        }
    }
}

impl JsonlOptions {
    fn validate(&self) -> Result<()> {
        match self.compression {
            Compression::Zstd => level_within("zstd", self.level, 1..=22),
            Compression::Gzip => level_within("gzip", self.level, 0..=9),
            Compression::None => no_level("none", self.level),
        }
    }
}

fn at_least_one(key: &str, value: u64) -> Result<()> {
    if value == 0 {
        return Err(setting(key, "0 is too small, it must be at least 1".to_owned()));
    }
    Ok(())
}

fn level_within(codec: &str, level: Option<i32>, allowed: std::ops::RangeInclusive<i32>) -> Result<()> {
    match level {
        Some(level) if !allowed.contains(&level) => Err(setting(
            "level",
            format!("{level} is no level of {codec}, which has {} to {}", allowed.start(), allowed.end()),
        )),
        _ => Ok(()),
    }
}

fn no_level(codec: &str, level: Option<i32>) -> Result<()> {
    match level {
        Some(level) => {
            Err(setting("level", format!("{level} was given, but compression '{codec}' has no levels; leave it out")))
        }
        None => Ok(()),
    }
}

fn setting(key: &str, message: String) -> DatasetError {
    DatasetError::Setting { key: key.to_owned(), message }
}
