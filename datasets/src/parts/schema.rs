//! What a part's columns are written as.
//!
//! The same values can arrive in several layouts: contiguous, as views into shared buffers, or through a dictionary. A
//! file must depend on the values alone, and be readable by programs that know none of the newer layouts, so views,
//! dictionaries and runs are written as the plain type of their values.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_cast::cast::cast;
use arrow_data::transform::MutableArrayData;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};

/// Keys of schema metadata that describe the columns of the file they came from, and would mislead readers of a file
/// with other columns: `datasets` refuses a file whose features do not match it.
const STALE_METADATA: [&str; 2] = ["huggingface", "pandas"];

/// The schema as it is written.
pub(super) fn written_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(written_field).collect();
    let mut metadata = schema.metadata().clone();
    metadata.retain(|key, _| !STALE_METADATA.contains(&key.as_str()));
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// Brings columns to their written layout, except views at the top level: encoders take those as they are, which saves
/// a copy of every text.
pub(super) fn plain_layout(batch: RecordBatch, written: &Schema) -> Result<RecordBatch, ArrowError> {
    let change = |column: &ArrayRef, field: &FieldRef| {
        column.data_type() != field.data_type()
            && !matches!(column.data_type(), DataType::Utf8View | DataType::BinaryView)
    };
    if !batch.columns().iter().zip(written.fields()).any(|(column, field)| change(column, field)) {
        return Ok(batch);
    }
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(written.fields()) {
        let column = match change(column, field) {
            true => cast(column, field.data_type())?,
            false => Arc::clone(column),
        };
        fields.push(Field::clone(field).with_data_type(column.data_type().clone()));
        columns.push(column);
    }
    assemble(Arc::new(Schema::new(fields)), columns, batch.num_rows())
}

/// Copies a batch into buffers of its own and its written layout, so that it keeps no larger buffer alive and the unused
/// bits of its bitmaps are zero.
pub(super) fn compact(batch: &RecordBatch, written: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(written.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => copy(column),
            false => cast(column, field.data_type()),
        })
        .collect::<Result<Vec<_>, _>>()?;
    assemble(Arc::clone(written), columns, batch.num_rows())
}

/// A batch of the written schema from columns of its types.
pub(super) fn assemble(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

fn copy(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = column.to_data();
    let mut copied = MutableArrayData::new(vec![&data], false, data.len());
    copied.try_extend(0, 0, data.len())?;
    Ok(make_array(copied.freeze()))
}

fn written_field(field: &FieldRef) -> FieldRef {
    let written = written_type(field.data_type());
    match &written == field.data_type() {
        true => Arc::clone(field),
        false => Arc::new(Field::clone(field).with_data_type(written)),
    }
}

fn written_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => written_type(values),
        DataType::RunEndEncoded(_, values) => written_type(values.data_type()),
        DataType::List(field) | DataType::ListView(field) => DataType::List(written_field(field)),
        DataType::LargeList(field) | DataType::LargeListView(field) => DataType::LargeList(written_field(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(written_field(field), *size),
        DataType::Map(field, sorted) => DataType::Map(written_field(field), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(written_field).collect()),
        other => other.clone(),
    }
}
