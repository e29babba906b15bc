//! What a file name says about the content.

use crate::split::{Compression, Format};

impl Format {
    /// Format and compression by the extension of a file name or location, upper or lower case; `None` where it says
    /// nothing.
    ///
    /// `.parquet .jsonl .ndjson .json .csv .tsv .arrow .feather`, text formats with `.gz .gzip .zst .zstd` behind it.
    ///
    /// ```
    /// use gristmill_datasets::{Compression, Format};
    /// assert_eq!(Format::of_name("train/00.jsonl.zst"), Some((Format::Jsonl, Compression::Zstd)));
    /// assert_eq!(Format::of_name("README.md"), None);
    /// ```
    #[must_use]
    pub fn of_name(name: &str) -> Option<(Self, Compression)> {
        let file = name.rsplit(['/', '\\']).next()?.to_ascii_lowercase();
        let (stem, last) = file.rsplit_once('.')?;
        let compression = match last {
            "gz" | "gzip" => Compression::Gzip,
            "zst" | "zstd" => Compression::Zstd,
            _ => Compression::None,
        };
        let extension = if compression == Compression::None { last } else { stem.rsplit_once('.')?.1 };
        let format = match extension {
            "parquet" => Self::Parquet,
            "jsonl" | "ndjson" => Self::Jsonl,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "arrow" | "feather" => Self::Arrow,
            _ => return None,
        };
        let packed_inside = matches!(format, Self::Parquet | Self::Arrow);
        (compression == Compression::None || !packed_inside).then_some((format, compression))
    }
}

/// Whether a file describes a data set instead of holding rows of it: the `state.json`, `dataset_info.json` and
/// `dataset_dict.json` that lie beside saved Arrow shards.
#[must_use]
pub fn is_dataset_metadata(name: &str) -> bool {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    matches!(file, "state.json" | "dataset_info.json" | "dataset_infos.json" | "dataset_dict.json")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("a.parquet", Some((Format::Parquet, Compression::None)))]
    #[case("s3://bucket/x.y/A.PARQUET", Some((Format::Parquet, Compression::None)))]
    #[case("a.jsonl", Some((Format::Jsonl, Compression::None)))]
    #[case("a.ndjson.gz", Some((Format::Jsonl, Compression::Gzip)))]
    #[case("a.json.gzip", Some((Format::Json, Compression::Gzip)))]
    #[case("a.b.jsonl.zst", Some((Format::Jsonl, Compression::Zstd)))]
    #[case("a.csv", Some((Format::Csv, Compression::None)))]
    #[case("a.tsv.gz", Some((Format::Tsv, Compression::Gzip)))]
    #[case("data-00000-of-00004.arrow", Some((Format::Arrow, Compression::None)))]
    #[case("a.feather", Some((Format::Arrow, Compression::None)))]
    #[case("a.parquet.gz", None)]
    #[case("a.gz", None)]
    #[case("jsonl", None)]
    #[case("folder.jsonl/readme", None)]
    #[case("a.txt", None)]
    fn formats_by_name(#[case] name: &str, #[case] expected: Option<(Format, Compression)>) {
        assert_eq!(Format::of_name(name), expected);
    }

    #[rstest]
    #[case("train/state.json", true)]
    #[case("dataset_info.json", true)]
    #[case("dataset_dict.json", true)]
    #[case("train/data-00000-of-00001.arrow", false)]
    #[case("my_state.json", false)]
    fn metadata_files_are_known(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_dataset_metadata(name), expected);
    }
}
