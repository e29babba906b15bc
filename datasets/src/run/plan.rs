//! The plan of a run: its splits, the files they are of, and the fingerprint.
//!
//! As Parquet, the plan is one row per split, with the file's location and identity beside it, so that any reader can
//! answer "which rows does split 17 hold" with one `SELECT`. A file that no split reads has a row whose `split` is null.
//! Definition and fingerprint are JSON in the file's key-value metadata.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::file::metadata::KeyValue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::columns::{Columns, from_parquet, malformed, number, owned, store_error, to_parquet};
use super::fingerprint::Fingerprint;
use crate::{Result, SourceFile, SourcePlan, Split};

/// Everything a driver needs to go on with a run.
///
/// ```
/// use gristmill_datasets::run::{Fingerprint, RunPlan};
/// use gristmill_datasets::SourcePlan;
/// use serde_json::json;
///
/// let source = SourcePlan { files: vec![], splits: vec![], schema: std::sync::Arc::new(arrow_schema::Schema::empty()) };
/// let plan = RunPlan::new("filter-web", Fingerprint::of(json!({"steps": []})), &source, json!({}));
/// assert_eq!(plan.total(), 0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    /// Name of the run, for people.
    pub name: String,
    /// When it was planned, in milliseconds since 1970.
    pub created_ms: i64,
    /// What the run depends on.
    pub fingerprint: Fingerprint,
    /// What the caller wants to find again when it resumes, such as the pipeline definition as it was given.
    pub definition: Value,
    /// The files.
    pub files: Vec<SourceFile>,
    /// The splits in the order of the output, numbered from 0.
    pub splits: Vec<Split>,
}

const NAME_KEY: &str = "gristmill.name";
const CREATED_KEY: &str = "gristmill.created_ms";
const FINGERPRINT_KEY: &str = "gristmill.fingerprint";
const PARTS_KEY: &str = "gristmill.fingerprint_parts";
const DEFINITION_KEY: &str = "gristmill.definition";

impl RunPlan {
    /// The plan of a run over a source, made now.
    #[must_use]
    pub fn new(name: impl Into<String>, fingerprint: Fingerprint, source: &SourcePlan, definition: Value) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            name: name.into(),
            created_ms: i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX),
            fingerprint,
            definition,
            files: source.files.clone(),
            splits: source.splits.clone(),
        }
    }

    /// Number of splits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.splits.len() as u64
    }

    /// The path of a part relative to the run folder: `folder` is `data`, `rejected` or `quarantine`. Names sort like
    /// the numbers of their splits.
    #[must_use]
    pub fn part_name(&self, folder: &str, split: u64, attempt: &str, extension: &str) -> String {
        part_name(folder, split, self.total(), attempt, extension)
    }

    /// Whether splits are numbered in order and their files exist.
    fn check(&self, location: &str) -> Result<()> {
        for (expected, split) in (0..).zip(&self.splits) {
            if split.number != expected {
                return Err(malformed(location, format!("split {} where split {expected} is due", split.number)));
            }
            if split.file as usize >= self.files.len() {
                let message =
                    format!("split {} is of file {}, there are {}", split.number, split.file, self.files.len());
                return Err(malformed(location, message));
            }
        }
        Ok(())
    }
}

/// The path of a part of a run with `total` splits: at least five digits, and as many as the last split needs.
#[must_use]
pub fn part_name(folder: &str, split: u64, total: u64, attempt: &str, extension: &str) -> String {
    let digits = total.saturating_sub(1).checked_ilog10().map_or(1, |log| log as usize + 1).max(5);
    format!("{folder}/{split:0digits$}-{attempt}.{extension}")
}

/// A row of the plan: a file, and a split of it unless no split reads the file.
type Row<'a> = (u32, Option<&'a Split>);

/// Writes a plan.
pub(super) fn encode_plan(plan: &RunPlan, location: &str) -> Result<Bytes> {
    plan.check(location)?;
    let mut read = vec![false; plan.files.len()];
    for split in &plan.splits {
        read[split.file as usize] = true;
    }
    let unread = (0_u32..).zip(&read).filter(|(_, read)| !**read).map(|(file, _)| (file, None));
    let rows: Vec<Row<'_>> = plan.splits.iter().map(|split| (split.file, Some(split))).chain(unread).collect();
    let file = |row: &Row<'_>| &plan.files[row.0 as usize];

    let text = |value: fn(&SourceFile) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| value(file(row))).collect::<StringArray>())
    };
    let of_split = |value: fn(&Split) -> Option<u64>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.1.and_then(value)).collect::<UInt64Array>())
    };
    let named = |value: &dyn Fn(&Row<'_>) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<StringArray>())
    };
    let columns: Vec<(Field, ArrayRef)> = vec![
        (Field::new("split", DataType::UInt64, true), of_split(|split| Some(split.number))),
        (
            Field::new("file", DataType::UInt32, false),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.0))),
        ),
        (Field::new("url", DataType::Utf8, false), text(|file| Some(&file.url))),
        (
            Field::new("size", DataType::UInt64, false),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| file(row).size))),
        ),
        (Field::new("etag", DataType::Utf8, true), text(|file| file.etag.as_deref())),
        (Field::new("version", DataType::Utf8, true), text(|file| file.version.as_deref())),
        (
            Field::new("modified_ms", DataType::Int64, true),
            Arc::new(rows.iter().map(|row| file(row).modified_ms).collect::<Int64Array>()),
        ),
        (Field::new("format", DataType::Utf8, false), named(&|row| variant_name(&file(row).format))),
        (Field::new("compression", DataType::Utf8, false), named(&|row| variant_name(&file(row).compression))),
        (Field::new("unit", DataType::Utf8, true), named(&|row| row.1.and_then(|split| variant_name(&split.unit)))),
        (Field::new("start", DataType::UInt64, true), of_split(|split| Some(split.start))),
        (Field::new("end", DataType::UInt64, true), of_split(|split| Some(split.end))),
        (Field::new("skip", DataType::UInt64, true), of_split(|split| Some(split.skip))),
        (Field::new("take", DataType::UInt64, true), of_split(|split| split.take)),
        (Field::new("first_row", DataType::UInt64, true), of_split(|split| split.first_row)),
        (Field::new("file_row", DataType::UInt64, true), of_split(|split| split.file_row)),
        (Field::new("rows", DataType::UInt64, true), of_split(|split| split.rows)),
        (Field::new("bytes", DataType::UInt64, true), of_split(|split| Some(split.bytes))),
    ];
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|error| store_error(location, format!("the plan cannot be encoded: {error}")))?;
    let metadata = vec![
        KeyValue::new(NAME_KEY.to_owned(), plan.name.clone()),
        KeyValue::new(CREATED_KEY.to_owned(), plan.created_ms.to_string()),
        KeyValue::new(FINGERPRINT_KEY.to_owned(), plan.fingerprint.value.clone()),
        KeyValue::new(PARTS_KEY.to_owned(), plan.fingerprint.parts_json().to_owned()),
        KeyValue::new(DEFINITION_KEY.to_owned(), plan.definition.to_string()),
    ];
    to_parquet(&batch, metadata, location)
}

/// Reads a plan.
pub(super) fn decode_plan(bytes: &Bytes, location: &str) -> Result<RunPlan> {
    let (_, metadata, batches) = from_parquet(bytes, location)?;
    let value = |key: &str| -> Result<&str> {
        let entry = metadata.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.as_deref());
        entry.ok_or_else(|| malformed(location, format!("no '{key}' in its metadata")))
    };
    let json = |key: &str| -> Result<Value> {
        serde_json::from_str(value(key)?).map_err(|error| malformed(location, format!("'{key}': {error}")))
    };
    let created_ms = value(CREATED_KEY)?;
    let created_ms = created_ms
        .parse()
        .map_err(|_| malformed(location, format!("'{CREATED_KEY}' is '{created_ms}', expected a number")))?;

    let mut files: Vec<Option<SourceFile>> = Vec::new();
    let mut splits = Vec::new();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    for batch in &batches {
        read_rows(batch, rows, location, &mut files, &mut splits)?;
    }
    let files: Option<Vec<SourceFile>> = files.into_iter().collect();
    let files = files.ok_or_else(|| malformed(location, "a file has no row"))?;
    let plan = RunPlan {
        name: value(NAME_KEY)?.to_owned(),
        created_ms,
        fingerprint: Fingerprint::recorded(value(FINGERPRINT_KEY)?.to_owned(), value(PARTS_KEY)?.to_owned())
            .map_err(|error| malformed(location, format!("'{PARTS_KEY}': {error}")))?,
        definition: json(DEFINITION_KEY)?,
        files,
        splits,
    };
    plan.check(location)?;
    Ok(plan)
}

/// Adds what the rows of a batch say; `all_rows` counts those of all batches.
fn read_rows(
    batch: &RecordBatch,
    all_rows: usize,
    location: &str,
    files: &mut Vec<Option<SourceFile>>,
    splits: &mut Vec<Split>,
) -> Result<()> {
    let columns = Columns::of_batch(batch, location);
    let split = columns.optional_u64("split")?;
    let file = columns.u32("file")?;
    let url = columns.text("url")?;
    let size = columns.u64("size")?;
    let etag = columns.optional_text("etag")?;
    let version = columns.optional_text("version")?;
    let modified_ms = columns.optional_i64("modified_ms")?;
    let format = columns.text("format")?;
    let compression = columns.text("compression")?;
    let unit = columns.optional_text("unit")?;
    let counts = ["start", "end", "skip", "bytes"].map(|name| (name, columns.optional_u64(name)));
    let take = columns.optional_u64("take")?;
    let first_row = columns.optional_u64("first_row")?;
    let file_row = columns.optional_u64("file_row")?;
    let known_rows = columns.optional_u64("rows")?;
    let of_split = |position: usize, row: usize| -> Result<u64> {
        let (name, array) = &counts[position];
        let array = array.as_ref().map_err(|error| malformed(location, error.to_string()))?;
        number(*array, row).ok_or_else(|| malformed(location, format!("row {row}: column '{name}' is null")))
    };
    for row in 0..batch.num_rows() {
        let index = file.value(row);
        let position = index as usize;
        // Each file has a row, so a number beyond the rows is damage and no reason to allocate.
        if position >= all_rows {
            return Err(malformed(location, format!("row {row}: file {index}, but there are {all_rows} rows")));
        }
        if position >= files.len() {
            files.resize(position + 1, None);
        }
        if files[position].is_none() {
            files[position] = Some(SourceFile {
                url: url.value(row).to_owned(),
                size: size.value(row),
                etag: owned(etag, row),
                version: owned(version, row),
                modified_ms: number(modified_ms, row),
                format: variant(format.value(row), "format", location)?,
                compression: variant(compression.value(row), "compression", location)?,
            });
        }
        let Some(number_of_split) = number(split, row) else { continue };
        if unit.is_null(row) {
            return Err(malformed(location, format!("row {row}: column 'unit' is null")));
        }
        splits.push(Split {
            number: number_of_split,
            file: index,
            unit: variant(unit.value(row), "unit", location)?,
            start: of_split(0, row)?,
            end: of_split(1, row)?,
            skip: of_split(2, row)?,
            take: number(take, row),
            first_row: number(first_row, row),
            file_row: number(file_row, row),
            rows: number(known_rows, row),
            bytes: of_split(3, row)?,
        });
    }
    Ok(())
}

/// The name under which serde writes a variant without fields.
fn variant_name(variant: &impl Serialize) -> Option<String> {
    serde_json::to_value(variant).ok().and_then(|value| value.as_str().map(str::to_owned))
}

fn variant<T: DeserializeOwned>(name: &str, column: &str, location: &str) -> Result<T> {
    serde_json::from_value(Value::String(name.to_owned()))
        .map_err(|error| malformed(location, format!("column '{column}': {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Compression, Format, SplitUnit};

    /// A plan of `splits` splits over files of ten splits each, and one file that no split reads.
    pub(crate) fn plan_of(splits: u64) -> RunPlan {
        let files = splits.div_ceil(10) + 1;
        let file = |number: u64| SourceFile {
            url: format!("s3://bucket/corpus/part-{number:06}.parquet"),
            size: 1 << 30,
            etag: number.is_multiple_of(2).then(|| format!("\"{number:032x}\"")),
            version: None,
            modified_ms: number.is_multiple_of(3).then_some(1_700_000_000_000),
            format: if number % 5 == 4 { Format::Jsonl } else { Format::Parquet },
            compression: if number % 5 == 4 { Compression::Zstd } else { Compression::None },
        };
        let files: Vec<SourceFile> = (0..files).map(file).collect();
        let split = |number: u64| Split {
            number,
            file: u32::try_from(number / 10).unwrap(),
            unit: if number.is_multiple_of(2) { SplitUnit::RowGroups } else { SplitUnit::Bytes },
            start: number % 10,
            end: number % 10 + 1,
            skip: number % 4,
            take: number.is_multiple_of(7).then_some(11),
            first_row: number.is_multiple_of(3).then_some(number * 1_000),
            file_row: number.is_multiple_of(4).then_some(number * 100),
            rows: (number % 3 == 1).then_some(1_000),
            bytes: 100 << 20,
        };
        RunPlan {
            name: "filter-web".into(),
            created_ms: 1_700_000_000_123,
            fingerprint: Fingerprint::of(json!({"inputs": files, "steps": [{"name": "ä", "config": {"x": 0.1}}]})),
            definition: json!({"b": 1, "a": [null, "x"]}),
            files,
            splits: (0..splits).map(split).collect(),
        }
    }

    #[test]
    fn plans_survive_parquet() {
        for splits in [0, 1, 25, 70_000] {
            let plan = plan_of(splits);
            let read = decode_plan(&encode_plan(&plan, "p").unwrap(), "p").unwrap();
            assert_eq!(read, plan, "{splits} splits");
        }
    }

    #[test]
    fn wrong_plans_are_neither_written_nor_read() {
        let mut unordered = plan_of(3);
        unordered.splits.swap(0, 1);
        let mut lost = plan_of(3);
        lost.splits[2].file = 9;
        for (plan, expected) in
            [(unordered, "split 1 where split 0 is due"), (lost, "split 2 is of file 9, there are 2")]
        {
            let error = encode_plan(&plan, "out/_run/plan.parquet").unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("plan.parquet"), "{error}");
        }
        let bytes = encode_plan(&plan_of(3), "p").unwrap();
        assert!(
            decode_plan(&bytes.slice(..bytes.len() - 9), "p").unwrap_err().to_string().contains("'p' is malformed")
        );
    }

    #[test]
    fn part_names_sort_like_splits() {
        assert_eq!(part_name("data", 17, 18, "00aa", "parquet"), "data/00017-00aa.parquet");
        assert_eq!(part_name("data", 17, 100_000, "00aa", "parquet"), "data/00017-00aa.parquet");
        for total in [1, 100_000, 100_001, 1_000_001] {
            let names: Vec<String> = [0, total / 3, total / 2, total - 1]
                .map(|split| part_name("data", split, total, "00aa", "parquet"))
                .to_vec();
            assert!(names.is_sorted(), "{names:?}");
        }
    }
}
