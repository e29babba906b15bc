//! How a source is read: columns, split size, limits.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{DatasetError, Result};

/// Settings of reading, the same for every file of a source.
///
/// ```
/// use gristmill_datasets::ReadOptions;
/// let options: ReadOptions = serde_json::from_str(r#"{"text": "body", "split_size": "300 rows"}"#)?;
/// assert_eq!(options.text, "body");
/// assert_eq!(options.id, "id");
/// assert_eq!(options.split_size.to_string(), "300 rows");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// Name of the column that holds the text. A dotted path such as `meta.text` names
    /// a field inside a struct and makes it a column of that name.
    pub text: String,
    /// Whether the text column must be there and hold strings. Without it, files are read with whatever columns they have.
    pub require_text: bool,
    /// Name of the column that identifies a row. Where no file has it, it is filled with the position of the row in the
    /// source, 0..n-1, as `UInt64`; for text formats that costs a counting pass over the files at planning.
    pub id: String,
    /// The columns to read, in this order; all when absent. `text` and `id` are always read. A dotted path selects a
    /// nested field and makes it a column named by the path. In JSON formats a dot always separates; in the others a
    /// column whose name is exactly the dotted string comes first.
    pub columns: Option<Vec<String>>,
    /// How large a split is.
    pub split_size: SplitSize,
    /// Rows of the source to leave out at its begin.
    pub skip: u64,
    /// Rows of the source to read at most, after `skip`.
    pub limit: Option<u64>,
    /// Which key of a `{"split": [rows]}` JSON object to read. May be absent where only one key holds an array.
    pub json_split: Option<String>,
    /// Rows of a record batch at most.
    pub batch_rows: usize,
    /// Bytes of a record batch to aim at. A batch holds at least one row, and a row may be larger.
    pub batch_bytes: usize,
    /// Adds `_source` (location of the file, dictionary of strings) and `_row` (position of the row in its file from 0,
    /// unreadable rows counted, `UInt64`).
    pub provenance: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            text: "text".into(),
            require_text: true,
            id: "id".into(),
            columns: None,
            split_size: SplitSize::default(),
            skip: 0,
            limit: None,
            json_split: None,
            batch_rows: 8192,
            batch_bytes: 8 << 20,
            provenance: false,
        }
    }
}

impl ReadOptions {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] naming the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let setting = |key: &str, message: String| Err(DatasetError::Setting { key: key.into(), message });
        if self.text.is_empty() {
            return setting("text", "the name is empty; name the column that holds the text".into());
        }
        if self.id.is_empty() {
            return setting("id", "the name is empty; name the column that identifies a row".into());
        }
        if self.text == self.id {
            return setting("id", format!("'{}' is the text column, too; name another column", self.id));
        }
        if self.batch_rows == 0 || self.batch_rows > MAX_BATCH_ROWS {
            return setting("batch_rows", format!("{} is not within 1..={MAX_BATCH_ROWS}", self.batch_rows));
        }
        if self.batch_bytes < 1024 || self.batch_bytes > MAX_BATCH_BYTES {
            return setting("batch_bytes", format!("{} is not within 1024..={MAX_BATCH_BYTES}", self.batch_bytes));
        }
        if self.columns.as_ref().is_some_and(|columns| columns.iter().any(String::is_empty)) {
            return setting("columns", "a name is empty".into());
        }
        self.split_size.validate().map_err(|message| DatasetError::Setting { key: "split_size".into(), message })
    }
}

/// So many rows are more than any operator wants at once.
const MAX_BATCH_ROWS: usize = 1 << 20;
/// Offsets of strings are 32 bits wide, and one row of up to 1 GiB may come on top.
const MAX_BATCH_BYTES: usize = 512 << 20;

/// How large a split is: `64MB` (bytes), `300 rows` or `0.01` (share of all rows).
///
/// * Bytes count what is stored: for Parquet and Arrow the compressed size of row groups and record batches, for text the
///   bytes of the file. Row groups and batches are not cut, so one that is larger is a split of its own. Default `64MB`.
/// * Rows are exact windows from the begin of each file (the last one of a file may be shorter).
/// * A share f gives windows of `max(1, round(f * rows))` rows of each file's rows, where `rows` are those of the whole
///   source between `skip` and `limit`.
///
/// Windows of rows need the number of rows. Parquet and Arrow files state it, text files are read through once at
/// planning. Compressed files, JSON arrays and Arrow streams cannot be entered in the middle: each is one split at every size.
///
/// ```
/// use gristmill_datasets::SplitSize;
/// assert_eq!("64MB".parse(), Ok(SplitSize::Bytes(64_000_000)));
/// assert_eq!("1 GiB".parse(), Ok(SplitSize::Bytes(1 << 30)));
/// assert_eq!("300 rows".parse(), Ok(SplitSize::Rows(300)));
/// assert_eq!("0.01".parse(), Ok(SplitSize::Fraction(0.01)));
/// assert!("0.0001".parse::<SplitSize>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SplitSize {
    /// Stored bytes, at least 1.
    Bytes(u64),
    /// Rows, at least 1.
    Rows(u64),
    /// Share of all rows, 0.001..=1.
    Fraction(f64),
}

impl Default for SplitSize {
    fn default() -> Self {
        Self::Bytes(64_000_000)
    }
}

impl SplitSize {
    fn validate(self) -> Result<(), String> {
        match self {
            Self::Bytes(0) => Err(format!("'{self}' is empty; {ALLOWED}")),
            Self::Rows(0) => Err(format!("'{self}' is empty; {ALLOWED}")),
            Self::Fraction(share) if !(0.001..=1.0).contains(&share) => {
                Err(format!("'{self}' is not within 0.001..=1; {ALLOWED}"))
            }
            _ => Ok(()),
        }
    }
}

const ALLOWED: &str = "allowed are a size such as 64MB or 1GiB, a number of rows such as '300 rows', or a share of all \
                       rows from 0.001 to 1 such as 0.01";

/// Decimal units come first where both fit, so that what is printed reads like what was written.
const UNITS: [(&str, u64); 9] = [
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl fmt::Display for SplitSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(formatter, "{rows} rows"),
            Self::Fraction(share) => write!(formatter, "{share}"),
            Self::Bytes(bytes) => {
                let (unit, size) =
                    UNITS.into_iter().find(|(_, size)| *bytes >= *size && bytes % size == 0).unwrap_or(("B", 1));
                write!(formatter, "{}{unit}", bytes / size)
            }
        }
    }
}

impl FromStr for SplitSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let wrong = || format!("'{text}' is not a split size; {ALLOWED}");
        let digits = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(trimmed.len());
        let (number, unit) = (trimmed[..digits].replace('_', ""), trimmed[digits..].trim());
        let size = if unit.is_empty() {
            let share: f64 = number.parse().map_err(|_| wrong())?;
            if share > 1.0 {
                return Err(format!("'{text}' has no unit; {ALLOWED}"));
            }
            Self::Fraction(share)
        } else if unit.eq_ignore_ascii_case("rows") || unit.eq_ignore_ascii_case("row") {
            Self::Rows(number.parse().map_err(|_| wrong())?)
        } else {
            let (_, factor) = UNITS.into_iter().find(|(name, _)| unit.eq_ignore_ascii_case(name)).ok_or_else(wrong)?;
            Self::Bytes(bytes(&number, factor).ok_or_else(wrong)?)
        };
        size.validate()?;
        Ok(size)
    }
}

/// Whole numbers are exact at every magnitude; `1.5GB` is as exact as a double.
fn bytes(number: &str, factor: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    (bytes >= 0.0 && bytes < 1e18).then_some(bytes.round() as u64)
}

impl Serialize for SplitSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fraction(share) => serializer.serialize_f64(*share),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for SplitSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A share is written as a number, the others as strings.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse().map_err(D::Error::custom),
            Written::Number(number) => number.to_string().parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("64MB", SplitSize::Bytes(64_000_000), "64MB")]
    #[case(" 64 mb ", SplitSize::Bytes(64_000_000), "64MB")]
    #[case("1.5GB", SplitSize::Bytes(1_500_000_000), "1500MB")]
    #[case("8MiB", SplitSize::Bytes(8 << 20), "8MiB")]
    #[case("17B", SplitSize::Bytes(17), "17B")]
    #[case("300 rows", SplitSize::Rows(300), "300 rows")]
    #[case("1row", SplitSize::Rows(1), "1 rows")]
    #[case("0.01", SplitSize::Fraction(0.01), "0.01")]
    #[case("0.001", SplitSize::Fraction(0.001), "0.001")]
    #[case("1", SplitSize::Fraction(1.0), "1")]
    fn sizes_are_read_and_printed(#[case] text: &str, #[case] size: SplitSize, #[case] printed: &str) {
        assert_eq!(text.parse(), Ok(size));
        assert_eq!(size.to_string(), printed);
        assert_eq!(printed.parse(), Ok(size));
        let json = serde_json::to_string(&size).unwrap();
        assert_eq!(serde_json::from_str::<SplitSize>(&json).unwrap(), size, "{json}");
    }

    #[rstest]
    #[case("", "not a split size")]
    #[case("64", "no unit")]
    #[case("0.0009", "not within 0.001..=1")]
    #[case("0", "not within 0.001..=1")]
    #[case("0 rows", "empty")]
    #[case("0MB", "empty")]
    #[case("1.5 rows", "not a split size")]
    #[case("64 parsecs", "not a split size")]
    #[case("-5MB", "not a split size")]
    #[case("99999999999TB", "not a split size")]
    fn wrong_sizes_say_what_is_allowed(#[case] text: &str, #[case] message: &str) {
        let error = text.parse::<SplitSize>().unwrap_err();
        assert!(error.contains(message) && error.contains("allowed are"), "{error}");
    }

    #[rstest]
    #[case(ReadOptions { text: String::new(), ..ReadOptions::default() }, "text")]
    #[case(ReadOptions { id: "text".into(), ..ReadOptions::default() }, "id")]
    #[case(ReadOptions { batch_rows: 0, ..ReadOptions::default() }, "batch_rows")]
    #[case(ReadOptions { batch_bytes: 1, ..ReadOptions::default() }, "batch_bytes")]
    #[case(ReadOptions { columns: Some(vec![String::new()]), ..ReadOptions::default() }, "columns")]
    #[case(ReadOptions { split_size: SplitSize::Fraction(2.0), ..ReadOptions::default() }, "split_size")]
    fn wrong_options_name_the_key(#[case] options: ReadOptions, #[case] wrong: &str) {
        assert!(matches!(options.validate(), Err(DatasetError::Setting { key, .. }) if key == wrong));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<ReadOptions>(r#"{"txt": "a"}"#).is_err());
    }
}
