//! Commit records as Parquet: one row for one record, many rows for the manifest, the same columns in both.

use std::sync::{Arc, LazyLock};

use arrow_array::{Array, ArrayRef, Float64Array, ListArray, RecordBatch, StringArray, StructArray, UInt64Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use parquet::file::metadata::KeyValue;

use super::columns::{Columns, from_parquet, malformed, owned, store_error, to_parquet};
use super::manifest::Manifest;
use super::record::{CommitRecord, SplitStatus, StepCount, VerdictCount};
use super::record_copy;
use crate::Result;

/// The columns of a commit record and of the manifest.
pub(super) static RECORD_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let count = |name: &str| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![
        count("split"),
        text("part", true),
        text("rejected_part", true),
        text("quarantine_part", true),
        count("rows_in"),
        count("rows_unreadable"),
        count("rows_out"),
        count("rows_rejected"),
        count("rows_quarantined"),
        count("bytes_in"),
        count("bytes_out"),
        text("attempt", false),
        text("source", false),
        Field::new("seconds", DataType::Float64, false),
        text("fingerprint", false),
        Field::new("steps", DataType::List(step_item()), false),
        text("status", false),
        text("error", true),
        text("checksum", true),
    ]))
});

static STEP_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let count = |name: &str| Field::new(name, DataType::UInt64, false);
    Fields::from(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("kind", DataType::Utf8, false),
        count("rows_in"),
        count("rows_kept"),
        count("rows_rejected"),
        count("rows_quarantined"),
        count("rows_out"),
        Field::new("seconds", DataType::Float64, false),
        Field::new("verdicts", DataType::List(verdict_item()), false),
    ])
});

static VERDICT_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let count = |name: &str| Field::new(name, DataType::UInt64, false);
    Fields::from(vec![
        Field::new("column", DataType::Utf8, false),
        count("flagged"),
        count("true_positives"),
        count("false_positives"),
        count("false_negatives"),
        count("true_negatives"),
    ])
});

const FINGERPRINT_KEY: &str = "gristmill.fingerprint";

fn step_item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(Fields::clone(&STEP_FIELDS)), false))
}

fn verdict_item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(Fields::clone(&VERDICT_FIELDS)), false))
}

/// Writes one record as a Parquet file of one row, with a copy for quick reading.
pub(super) fn encode_record(record: &CommitRecord, location: &str) -> Result<Bytes> {
    let copy = record_copy::entry(record).into_iter().collect();
    to_parquet(&to_batch(std::slice::from_ref(record), location)?, copy, location)
}

/// Reads a Parquet file of one record.
pub(super) fn decode_record(bytes: &Bytes, location: &str) -> Result<CommitRecord> {
    if let Some(record) = record_copy::find(bytes) {
        return Ok(record);
    }
    decode_columns(bytes, location)
}

/// Reads a record by its columns.
fn decode_columns(bytes: &Bytes, location: &str) -> Result<CommitRecord> {
    let (_, _, batches) = from_parquet(bytes, location)?;
    let mut records = from_batches(&batches, location)?;
    match (records.pop(), records.len()) {
        (Some(record), 0) => Ok(record),
        (last, others) => {
            Err(malformed(location, format!("{} records, expected one", others + usize::from(last.is_some()))))
        }
    }
}

/// Writes a manifest.
pub(super) fn encode_manifest(manifest: &Manifest, location: &str) -> Result<Bytes> {
    let metadata = vec![KeyValue::new(FINGERPRINT_KEY.to_owned(), manifest.fingerprint.clone())];
    to_parquet(&to_batch(&manifest.records, location)?, metadata, location)
}

/// Reads a manifest.
pub(super) fn decode_manifest(bytes: &Bytes, location: &str) -> Result<Manifest> {
    let (_, metadata, batches) = from_parquet(bytes, location)?;
    let fingerprint = metadata.into_iter().find(|entry| entry.key == FINGERPRINT_KEY).and_then(|entry| entry.value);
    let fingerprint =
        fingerprint.ok_or_else(|| malformed(location, format!("no '{FINGERPRINT_KEY}' in its metadata")))?;
    Ok(Manifest { fingerprint, records: from_batches(&batches, location)? })
}

/// The records as one record batch, in the given order.
pub(super) fn to_batch(records: &[CommitRecord], location: &str) -> Result<RecordBatch> {
    let count = |value: fn(&CommitRecord) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(records.iter().map(value)))
    };
    let optional = |value: fn(&CommitRecord) -> Option<&str>| -> ArrayRef {
        Arc::new(records.iter().map(value).collect::<StringArray>())
    };
    let text = |value: fn(&CommitRecord) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(records.iter().map(value)))
    };
    let columns = vec![
        count(|record| record.split),
        optional(|record| record.part.as_deref()),
        optional(|record| record.rejected_part.as_deref()),
        optional(|record| record.quarantine_part.as_deref()),
        count(|record| record.rows_in),
        count(|record| record.rows_unreadable),
        count(|record| record.rows_out),
        count(|record| record.rows_rejected),
        count(|record| record.rows_quarantined),
        count(|record| record.bytes_in),
        count(|record| record.bytes_out),
        text(|record| &record.attempt),
        text(|record| &record.source),
        Arc::new(Float64Array::from_iter_values(records.iter().map(|record| record.seconds))),
        text(|record| &record.fingerprint),
        steps_array(records, location)?,
        text(|record| match record.status {
            SplitStatus::Committed => "committed",
            SplitStatus::Failed => "failed",
        }),
        optional(|record| record.error.as_deref()),
        optional(|record| record.checksum.as_deref()),
    ];
    RecordBatch::try_new(SchemaRef::clone(&RECORD_SCHEMA), columns)
        .map_err(|error| store_error(location, format!("records cannot be encoded: {error}")))
}

fn steps_array(records: &[CommitRecord], location: &str) -> Result<ArrayRef> {
    let steps: Vec<&StepCount> = records.iter().flat_map(|record| &record.steps).collect();
    let count = |value: fn(&StepCount) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(steps.iter().map(|step| value(step))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(steps.iter().map(|step| &step.name))),
        Arc::new(StringArray::from_iter_values(steps.iter().map(|step| &step.kind))),
        count(|step| step.rows_in),
        count(|step| step.rows_kept),
        count(|step| step.rows_rejected),
        count(|step| step.rows_quarantined),
        count(|step| step.rows_out),
        Arc::new(Float64Array::from_iter_values(steps.iter().map(|step| step.seconds))),
        verdicts_array(&steps, location)?,
    ];
    let lengths = records.iter().map(|record| record.steps.len());
    list_of_structs(step_item(), &STEP_FIELDS, columns, lengths, location)
}

fn verdicts_array(steps: &[&StepCount], location: &str) -> Result<ArrayRef> {
    let verdicts: Vec<&VerdictCount> = steps.iter().flat_map(|step| &step.verdicts).collect();
    let count = |value: fn(&VerdictCount) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(verdicts.iter().map(|verdict| value(verdict))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(verdicts.iter().map(|verdict| &verdict.column))),
        count(|verdict| verdict.flagged),
        count(|verdict| verdict.true_positives),
        count(|verdict| verdict.false_positives),
        count(|verdict| verdict.false_negatives),
        count(|verdict| verdict.true_negatives),
    ];
    let lengths = steps.iter().map(|step| step.verdicts.len());
    list_of_structs(verdict_item(), &VERDICT_FIELDS, columns, lengths, location)
}

fn list_of_structs(
    item: Arc<Field>,
    fields: &Fields,
    columns: Vec<ArrayRef>,
    lengths: impl Iterator<Item = usize>,
    location: &str,
) -> Result<ArrayRef> {
    let structs = StructArray::try_new(Fields::clone(fields), columns, None);
    let list = structs
        .and_then(|structs| ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(structs), None));
    match list {
        Ok(list) => Ok(Arc::new(list)),
        Err(error) => Err(store_error(location, format!("step counts cannot be encoded: {error}"))),
    }
}

/// The records in record batches with the columns of [`RECORD_SCHEMA`], found by name.
pub(super) fn from_batches(batches: &[RecordBatch], location: &str) -> Result<Vec<CommitRecord>> {
    let mut records = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for batch in batches {
        let columns = Columns::of_batch(batch, location);
        let split = columns.u64("split")?;
        let part = columns.optional_text("part")?;
        let rejected_part = columns.optional_text("rejected_part")?;
        let quarantine_part = columns.optional_text("quarantine_part")?;
        let rows_in = columns.u64("rows_in")?;
        let rows_unreadable = columns.u64("rows_unreadable")?;
        let rows_out = columns.u64("rows_out")?;
        let rows_rejected = columns.u64("rows_rejected")?;
        let rows_quarantined = columns.u64("rows_quarantined")?;
        let bytes_in = columns.u64("bytes_in")?;
        let bytes_out = columns.u64("bytes_out")?;
        let attempt = columns.text("attempt")?;
        let source = columns.text("source")?;
        let seconds = columns.f64("seconds")?;
        let fingerprint = columns.text("fingerprint")?;
        let (lists, structs) = columns.structs("steps")?;
        let steps = steps_from(structs, location)?;
        let status = columns.text("status")?;
        let error = columns.optional_text("error")?;
        let checksum = columns.optional_text("checksum")?;
        for row in 0..batch.num_rows() {
            let status = match status.value(row) {
                "committed" => SplitStatus::Committed,
                "failed" => SplitStatus::Failed,
                other => {
                    return Err(malformed(location, format!("status '{other}'; allowed: committed, failed")));
                }
            };
            let steps_of_row = steps[range_of(lists, row)].to_vec();
            records.push(CommitRecord {
                split: split.value(row),
                part: owned(part, row),
                rejected_part: owned(rejected_part, row),
                quarantine_part: owned(quarantine_part, row),
                rows_in: rows_in.value(row),
                rows_unreadable: rows_unreadable.value(row),
                rows_out: rows_out.value(row),
                rows_rejected: rows_rejected.value(row),
                rows_quarantined: rows_quarantined.value(row),
                bytes_in: bytes_in.value(row),
                bytes_out: bytes_out.value(row),
                attempt: attempt.value(row).to_owned(),
                source: source.value(row).to_owned(),
                seconds: seconds.value(row),
                fingerprint: fingerprint.value(row).to_owned(),
                steps: steps_of_row,
                status,
                error: owned(error, row),
                checksum: owned(checksum, row),
            });
        }
    }
    Ok(records)
}

fn steps_from(structs: &StructArray, location: &str) -> Result<Vec<StepCount>> {
    let columns = Columns::of_struct(structs, location);
    let name = columns.text("name")?;
    let kind = columns.text("kind")?;
    let rows_in = columns.u64("rows_in")?;
    let rows_kept = columns.u64("rows_kept")?;
    let rows_rejected = columns.u64("rows_rejected")?;
    let rows_quarantined = columns.u64("rows_quarantined")?;
    let rows_out = columns.u64("rows_out")?;
    let seconds = columns.f64("seconds")?;
    let (lists, structs_of_verdicts) = columns.structs("verdicts")?;
    let verdicts = verdicts_from(structs_of_verdicts, location)?;
    let step = |row| StepCount {
        name: name.value(row).to_owned(),
        kind: kind.value(row).to_owned(),
        rows_in: rows_in.value(row),
        rows_kept: rows_kept.value(row),
        rows_rejected: rows_rejected.value(row),
        rows_quarantined: rows_quarantined.value(row),
        rows_out: rows_out.value(row),
        seconds: seconds.value(row),
        verdicts: verdicts[range_of(lists, row)].to_vec(),
    };
    Ok((0..structs.len()).map(step).collect())
}

fn verdicts_from(structs: &StructArray, location: &str) -> Result<Vec<VerdictCount>> {
    let columns = Columns::of_struct(structs, location);
    let column = columns.text("column")?;
    let flagged = columns.u64("flagged")?;
    let true_positives = columns.u64("true_positives")?;
    let false_positives = columns.u64("false_positives")?;
    let false_negatives = columns.u64("false_negatives")?;
    let true_negatives = columns.u64("true_negatives")?;
    let verdict = |row| VerdictCount {
        column: column.value(row).to_owned(),
        flagged: flagged.value(row),
        true_positives: true_positives.value(row),
        false_positives: false_positives.value(row),
        false_negatives: false_negatives.value(row),
        true_negatives: true_negatives.value(row),
    };
    Ok((0..structs.len()).map(verdict).collect())
}

/// The values of a list's row in its child array.
fn range_of(lists: &ListArray, row: usize) -> std::ops::Range<usize> {
    let begin = usize::try_from(lists.value_offsets()[row]).unwrap_or_default();
    let length = usize::try_from(lists.value_length(row)).unwrap_or_default();
    begin..begin + length
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::record::tests::full_record;
    use super::*;

    #[test]
    fn records_survive_parquet() {
        let bare = CommitRecord { split: u64::MAX, ..CommitRecord::default() };
        let failed = CommitRecord::failed(7, "f", "s", "line 3: no 'text'\nänderung");
        for record in [full_record(17), bare, failed] {
            let bytes = encode_record(&record, "r").unwrap();
            assert_eq!(decode_record(&bytes, "r").unwrap(), record);
            assert_eq!(decode_columns(&bytes, "r").unwrap(), record);
        }
    }

    #[test]
    fn records_without_a_copy_are_read() {
        let record = full_record(17);
        let bytes = to_parquet(&to_batch(std::slice::from_ref(&record), "r").unwrap(), Vec::new(), "r").unwrap();
        assert_eq!(decode_record(&bytes, "r").unwrap(), record);
    }

    #[test]
    fn a_manifest_survives_parquet_and_is_the_same_bytes_again() {
        for records in
            [vec![], vec![full_record(0), CommitRecord { split: 1, ..CommitRecord::default() }, full_record(2)]]
        {
            let manifest = Manifest { fingerprint: "abc".into(), records };
            let bytes = encode_manifest(&manifest, "m").unwrap();
            assert_eq!(decode_manifest(&bytes, "m").unwrap(), manifest);
            assert_eq!(encode_manifest(&manifest, "m").unwrap(), bytes);
        }
    }

    #[test]
    fn a_record_is_small() {
        // A hundred thousand records are listed and read one by one, so their size is part of the design.
        let bytes = encode_record(&full_record(17), "r").unwrap();
        assert!(bytes.len() < 6_000, "{} bytes", bytes.len());
    }

    #[test]
    fn damaged_records_are_refused_with_their_location() {
        let bytes = encode_record(&full_record(17), "r").unwrap();
        for length in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            let error = decode_record(&bytes.slice(..length), "out/_run/commits/00017.parquet").unwrap_err();
            assert!(error.to_string().contains("00017.parquet' is malformed"), "{error}");
        }
        let two = to_batch(&[full_record(1), full_record(2)], "r").unwrap();
        let error = decode_record(&to_parquet(&two, Vec::new(), "r").unwrap(), "r").unwrap_err();
        assert!(error.to_string().contains("2 records, expected one"), "{error}");
        let other =
            RecordBatch::try_from_iter([("split", Arc::new(StringArray::from(vec!["1"])) as ArrayRef)]).unwrap();
        let error = decode_record(&to_parquet(&other, Vec::new(), "r").unwrap(), "r").unwrap_err();
        assert!(error.to_string().contains("column 'split' is Utf8, expected UInt64"), "{error}");
    }
}
