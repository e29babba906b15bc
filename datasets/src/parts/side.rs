//! Rows that did not come through: what `rejected/` and `quarantine/` hold.
//!
//! Steps add, change and drop columns, so rows that were left out at different steps have different columns, but a part
//! has one schema. The part of rejected rows has the columns of the source, so that it can be a source again, and the
//! step and the reason behind them. The part of quarantined rows says where each row is and holds its bytes, because a
//! row that could not be read has no columns.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, UInt64Array, new_null_array};
use arrow_cast::cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};

use super::schema::assemble;
use crate::{DatasetError, Result};

/// Name of the column that says at which step a row was rejected.
pub const REJECTED_STEP: &str = "_step";
/// Name of the column that says why a row was rejected.
pub const REJECTED_REASON: &str = "_reason";

/// A row that could not be read, or that an operator could not process.
///
/// ```
/// use gristmill_datasets::{QuarantineRow, quarantine_batch, quarantine_schema};
///
/// let row = QuarantineRow {
///     step: "read".into(),
///     error: "line 3 is no JSON object: expected ':' at column 8".into(),
///     source: "s3://bucket/corpus.jsonl".into(),
///     offset: Some(190),
///     row: Some(2),
///     raw: Some(b"{\"text\" 5}".to_vec()),
///     length: Some(10),
///     id: None,
/// };
/// let batch = quarantine_batch(&[row])?;
/// assert_eq!((batch.num_rows(), batch.schema()), (1, quarantine_schema()));
/// # Ok::<(), gristmill_datasets::DatasetError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuarantineRow {
    /// Name of the step, `read` where the row was not read.
    pub step: String,
    /// What is wrong.
    pub error: String,
    /// Location of the file.
    pub source: String,
    /// Position in bytes of the row's begin in its file (decompressed), where it is known.
    pub offset: Option<u64>,
    /// Position of the row in its file from 0, where it is known.
    pub row: Option<u64>,
    /// The bytes of the row, possibly only the first of them; a row that was read and then failed is a JSON object.
    pub raw: Option<Vec<u8>>,
    /// How many bytes the row has, where `raw` is not null.
    pub length: Option<u64>,
    /// The row's id, where it has one.
    pub id: Option<String>,
}

/// The schema of quarantined rows: the fields of [`QuarantineRow`], in their order.
#[must_use]
pub fn quarantine_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("step", DataType::Utf8, false),
        Field::new("error", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, false),
        Field::new("offset", DataType::UInt64, true),
        Field::new("row", DataType::UInt64, true),
        Field::new("raw", DataType::Binary, true),
        Field::new("length", DataType::UInt64, true),
        Field::new("id", DataType::Utf8, true),
    ]))
}

/// Quarantined rows as a batch of [`quarantine_schema`].
///
/// # Errors
/// [`DatasetError::Setting`] where the rows of one batch have 2 GiB of bytes or more.
pub fn quarantine_batch(rows: &[QuarantineRow]) -> Result<RecordBatch> {
    const LARGEST: usize = i32::MAX as usize;
    let bytes = |size: fn(&QuarantineRow) -> usize| rows.iter().map(size).sum::<usize>();
    let raw = bytes(|row| row.raw.as_ref().map_or(0, Vec::len));
    let error = bytes(|row| row.error.len());
    if raw > LARGEST || error > LARGEST {
        return Err(DatasetError::Setting {
            key: "quarantine".to_owned(),
            message: format!("{} rows of {raw} bytes are too large for one batch, the limit is {LARGEST}", rows.len()),
        });
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.step))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.error))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.source))),
        Arc::new(UInt64Array::from_iter(rows.iter().map(|row| row.offset))),
        Arc::new(UInt64Array::from_iter(rows.iter().map(|row| row.row))),
        Arc::new(BinaryArray::from_iter(rows.iter().map(|row| row.raw.as_deref()))),
        Arc::new(UInt64Array::from_iter(rows.iter().map(|row| row.length))),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.id.as_deref()))),
    ];
    assemble(quarantine_schema(), columns, rows.len()).map_err(|error| broken("quarantine", &error))
}

/// The schema of rejected rows: the columns of the source, all of which may be null, then [`REJECTED_STEP`] and
/// [`REJECTED_REASON`].
///
/// # Errors
/// [`DatasetError::Setting`] where the source has a column of either name.
pub fn rejected_schema(source: &Schema) -> Result<SchemaRef> {
    for name in [REJECTED_STEP, REJECTED_REASON] {
        if source.column_with_name(name).is_some() {
            return Err(DatasetError::Setting {
                key: "sink.rejected".to_owned(),
                message: format!("the source has a column '{name}', which rejected rows need for themselves"),
            });
        }
    }
    let mut fields: Vec<FieldRef> =
        source.fields().iter().map(|field| Arc::new(Field::clone(field).with_nullable(true))).collect();
    fields.push(Arc::new(Field::new(REJECTED_STEP, DataType::Utf8, false)));
    fields.push(Arc::new(Field::new(REJECTED_REASON, DataType::Utf8, false)));
    Ok(Arc::new(Schema::new_with_metadata(fields, source.metadata().clone())))
}

/// Rejected rows as a batch of `schema`, which [`rejected_schema`] made. `rows` has the columns of the step: those that
/// the source does not have are left out, those of the source that an earlier step dropped are null.
///
/// ```
/// # use std::sync::Arc;
/// # use arrow_array::{RecordBatch, StringArray};
/// use gristmill_datasets::{rejected_batch, rejected_schema};
///
/// let texts = StringArray::from(vec!["a very short text"]);
/// let rows = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)])?;
/// let schema = rejected_schema(&rows.schema())?;
/// let rejected = rejected_batch(&schema, &rows, "length", "shorter than 20 characters")?;
/// assert_eq!(rejected.num_columns(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DatasetError::Setting`] where a step changed the type of a column of the source to one that cannot be changed back.
pub fn rejected_batch(schema: &SchemaRef, rows: &RecordBatch, step: &str, reason: &str) -> Result<RecordBatch> {
    let exact = CastOptions { safe: false, ..CastOptions::default() };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match (field.name().as_str(), rows.column_by_name(field.name())) {
            (REJECTED_STEP, _) => Ok(repeated(step, rows.num_rows())),
            (REJECTED_REASON, _) => Ok(repeated(reason, rows.num_rows())),
            (_, None) => Ok(new_null_array(field.data_type(), rows.num_rows())),
            (_, Some(column)) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            (name, Some(column)) => cast_with_options(column, field.data_type(), &exact)
                .map_err(|error| broken("sink.rejected", &format!("column '{name}' as step '{step}' has it: {error}"))),
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    assemble(Arc::clone(schema), columns, rows.num_rows()).map_err(|error: ArrowError| broken("sink.rejected", &error))
}

fn repeated(value: &str, rows: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows)))
}

fn broken(key: &str, message: &impl ToString) -> DatasetError {
    DatasetError::Setting { key: key.to_owned(), message: message.to_string() }
}
