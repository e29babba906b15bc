//! Access to columns, whatever string layout the host uses.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, LargeStringArray, RecordBatch, StringArray, StringViewArray, StructArray, new_null_array,
};
use arrow_schema::{DataType, Schema};

use crate::error::nearest;
use crate::{OperatorError, Result};

/// A text column in any of Arrow's three layouts.
#[derive(Clone, Copy, Debug)]
pub enum TextColumn<'a> {
    /// 32-bit offsets.
    Utf8(&'a StringArray),
    /// 64-bit offsets.
    LargeUtf8(&'a LargeStringArray),
    /// Views.
    Utf8View(&'a StringViewArray),
}

impl<'a> TextColumn<'a> {
    /// The text column `name` of `batch`.
    pub fn of(kind: &str, batch: &'a RecordBatch, name: &str) -> Result<Self> {
        let (index, _) = require_column(kind, batch.schema_ref(), name)?;
        let array = batch.column(index);
        match array.data_type() {
            DataType::Utf8 => Ok(Self::Utf8(array.as_string())),
            DataType::LargeUtf8 => Ok(Self::LargeUtf8(array.as_string())),
            DataType::Utf8View => Ok(Self::Utf8View(array.as_string_view())),
            other => Err(OperatorError::ColumnType {
                kind: kind.to_owned(),
                column: name.to_owned(),
                found: other.to_string(),
                expected: "Utf8, LargeUtf8 or Utf8View".to_owned(),
            }),
        }
    }

    /// Checks, without data, that `name` is a text column.
    pub fn check(kind: &str, schema: &Schema, name: &str) -> Result<()> {
        let (_, data_type) = require_column(kind, schema, name)?;
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(()),
            other => Err(OperatorError::ColumnType {
                kind: kind.to_owned(),
                column: name.to_owned(),
                found: other.to_string(),
                expected: "Utf8, LargeUtf8 or Utf8View".to_owned(),
            }),
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Utf8(array) => array.len(),
            Self::LargeUtf8(array) => array.len(),
            Self::Utf8View(array) => array.len(),
        }
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of row `row`, or `None` where it is null.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Utf8(array) => array.is_valid(row).then(|| array.value(row)),
            Self::LargeUtf8(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Utf8View(array) => array.is_valid(row).then(|| array.value(row)),
        }
    }

    /// All rows in order.
    pub fn iter(self) -> impl Iterator<Item = Option<&'a str>> {
        (0..self.len()).map(move |row| self.get(row))
    }
}

/// Position and type of a column, or an error that suggests the near one.
pub fn require_column<'a>(kind: &str, schema: &'a Schema, name: &str) -> Result<(usize, &'a DataType)> {
    schema.column_with_name(name).map(|(index, field)| (index, field.data_type())).ok_or_else(|| {
        let available: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        OperatorError::MissingColumn {
            kind: kind.to_owned(),
            column: name.to_owned(),
            nearest: nearest(name, available.iter().map(String::as_str)),
            available,
        }
    })
}

/// The typed default that rows get which a step's `when` leaves out: `false`, 0, the empty string, an empty list, a struct
/// of those; null for types that have no such value.
#[must_use]
pub fn default_array(data_type: &DataType, rows: usize) -> ArrayRef {
    use arrow_array::{BooleanArray, FixedSizeListArray, GenericListArray, LargeListArray, ListArray};
    use arrow_buffer::OffsetBuffer;

    fn empty_list<O: arrow_array::OffsetSizeTrait>(field: &arrow_schema::FieldRef, rows: usize) -> GenericListArray<O> {
        let values = arrow_array::new_empty_array(field.data_type());
        GenericListArray::new(Arc::clone(field), OffsetBuffer::new_zeroed(rows), values, None)
    }

    match data_type {
        DataType::Boolean => Arc::new(BooleanArray::from(vec![false; rows])),
        DataType::Utf8 => Arc::new(StringArray::from_iter_values(std::iter::repeat_n("", rows))),
        DataType::LargeUtf8 => Arc::new(LargeStringArray::from_iter_values(std::iter::repeat_n("", rows))),
        DataType::Utf8View => Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n("", rows))),
        DataType::List(field) => {
            let list: ListArray = empty_list(field, rows);
            Arc::new(list)
        }
        DataType::LargeList(field) => {
            let list: LargeListArray = empty_list(field, rows);
            Arc::new(list)
        }
        DataType::FixedSizeList(field, size) => {
            let values = default_array(field.data_type(), rows * usize::try_from(*size).unwrap_or(0));
            Arc::new(FixedSizeListArray::new(Arc::clone(field), *size, values, None))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let columns = fields.iter().map(|field| default_array(field.data_type(), rows)).collect();
            Arc::new(StructArray::new(fields.clone(), columns, None))
        }
        numeric if numeric.is_numeric() => zeros(numeric, rows),
        other => new_null_array(other, rows),
    }
}

fn zeros(data_type: &DataType, rows: usize) -> ArrayRef {
    // A primitive array without a null buffer over zeroed values holds zeros, whatever its width.
    let width = data_type.primitive_width().unwrap_or(0);
    let values = arrow_buffer::Buffer::from(vec![0u8; width * rows]);
    arrow_data::ArrayData::builder(data_type.clone())
        .len(rows)
        .add_buffer(values)
        .build()
        .map_or_else(|_| new_null_array(data_type, rows), arrow_array::make_array)
}
