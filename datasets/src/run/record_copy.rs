//! A record once more, in the metadata of its own file.
//!
//! A record is a Parquet file of one row and thirty columns, so that any reader can `SELECT` from a folder of them. Reading
//! one by its columns sets up a reader for each of them, for a single value, and a run with a hundred thousand splits reads
//! as many records when it is finished or asked for its status. Therefore the file's footer carries the record as JSON,
//! too. Records without the copy are read by their columns.
//!
//! The copy must be the record to the last bit: drivers compare manifests that were made of records with ones made of
//! copies. JSON parsers may round the last digit of a number, so the floating-point numbers are beside it as bits.

use std::sync::LazyLock;

use parquet::arrow::ArrowSchemaConverter;
use parquet::file::metadata::{KeyValue, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy};
use parquet::schema::types::SchemaDescPtr;
use serde::{Deserialize, Serialize};

use super::record::CommitRecord;
use super::records::RECORD_SCHEMA;

const COPY_KEY: &str = "gristmill.record";
/// What ends a Parquet file: the length of the footer and this.
const MAGIC: &[u8; 4] = b"PAR1";

/// The Parquet schema of a record.
pub(super) static PARQUET_SCHEMA: LazyLock<Option<SchemaDescPtr>> =
    LazyLock::new(|| ArrowSchemaConverter::new().convert(&RECORD_SCHEMA).ok().map(Into::into));

/// The schema is known, so the one in each footer is passed over.
static FOOTER_OPTIONS: LazyLock<ParquetMetaDataOptions> = LazyLock::new(|| {
    let options = ParquetMetaDataOptions::new()
        .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    match &*PARQUET_SCHEMA {
        Some(schema) => options.with_schema(SchemaDescPtr::clone(schema)),
        None => options,
    }
});

#[derive(Serialize, Deserialize)]
struct Copy<R> {
    record: R,
    /// The bits of the seconds of the record and of its steps.
    seconds: Vec<u64>,
}

/// The copy of a record, as an entry of its file's metadata.
pub(super) fn entry(record: &CommitRecord) -> Option<KeyValue> {
    let steps = record.steps.iter().map(|step| step.seconds);
    let seconds = std::iter::once(record.seconds).chain(steps).map(f64::to_bits).collect();
    let copy = serde_json::to_string(&Copy { record, seconds }).ok()?;
    Some(KeyValue::new(COPY_KEY.to_owned(), copy))
}

/// The record in the footer of a file; `None` where there is no whole copy.
pub(super) fn find(bytes: &[u8]) -> Option<CommitRecord> {
    let (rest, magic) = bytes.split_last_chunk::<4>()?;
    let (rest, length) = rest.split_last_chunk::<4>()?;
    let begin = rest.len().checked_sub(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if magic != MAGIC {
        return None;
    }
    let footer = ParquetMetaDataReader::decode_metadata_with_options(&rest[begin..], Some(&FOOTER_OPTIONS)).ok()?;
    let entries = footer.file_metadata().key_value_metadata()?;
    let copy = entries.iter().find(|entry| entry.key == COPY_KEY)?.value.as_deref()?;
    let Copy { mut record, seconds }: Copy<CommitRecord> = serde_json::from_str(copy).ok()?;
    if seconds.len() != 1 + record.steps.len() {
        return None;
    }
    let places = std::iter::once(&mut record.seconds).chain(record.steps.iter_mut().map(|step| &mut step.seconds));
    for (place, bits) in places.zip(seconds) {
        *place = f64::from_bits(bits);
    }
    Some(record)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::columns::to_parquet;
    use super::super::record::tests::full_record;
    use super::super::records::{encode_record, to_batch};
    use super::*;

    #[test]
    fn a_copy_is_the_record_to_the_last_bit() {
        for seconds in [0.1 + 0.2, 1.0 / 3.0, f64::MIN_POSITIVE, 123_456.789_012_345_67, 5e-324, 0.0] {
            let mut record = full_record(17);
            record.seconds = seconds;
            record.steps[1].seconds = -seconds;
            let found = find(&encode_record(&record, "r").unwrap()).unwrap();
            assert_eq!(found, record);
            assert_eq!(found.steps[1].seconds.to_bits(), (-seconds).to_bits());
        }
    }

    #[test]
    fn a_file_without_a_whole_copy_has_none() {
        let batch = to_batch(&[full_record(17)], "r").unwrap();
        let metadata = |text: &str| vec![KeyValue::new(COPY_KEY.to_owned(), text.to_owned())];
        let copy = entry(&full_record(17)).unwrap().value.unwrap();
        let cases = [
            Vec::new(),
            metadata("{}"),
            metadata(&copy[..copy.len() - 1]),
            metadata(&copy.replace("\"seconds\":[", "\"seconds\":[1,")),
        ];
        for metadata in cases {
            assert_eq!(find(&to_parquet(&batch, metadata.clone(), "r").unwrap()), None, "{metadata:?}");
        }
        let bytes = encode_record(&full_record(17), "r").unwrap();
        for length in [0, 4, 8, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(find(&bytes[..length]), None);
        }
        let mut long = bytes.to_vec();
        let place = long.len() - 8;
        long[place..place + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(find(&long), None);
    }
}
