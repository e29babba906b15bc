//! Typed access to the columns of the run's own Parquet files.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, ListArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::{DatasetError, Result};

/// Columns by name, from a record batch or from the fields of a struct column.
pub(super) struct Columns<'a> {
    location: &'a str,
    schema_names: Vec<&'a str>,
    arrays: &'a [ArrayRef],
}

impl<'a> Columns<'a> {
    pub(super) fn of_batch(batch: &'a RecordBatch, location: &'a str) -> Self {
        let schema_names = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
        Self { location, schema_names, arrays: batch.columns() }
    }

    pub(super) fn of_struct(array: &'a StructArray, location: &'a str) -> Self {
        Self { location, schema_names: array.column_names(), arrays: array.columns() }
    }

    fn array(&self, name: &str) -> Result<&'a ArrayRef> {
        let position = self.schema_names.iter().position(|candidate| *candidate == name);
        position.and_then(|position| self.arrays.get(position)).ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn wrong(&self, name: &str, what: &str) -> DatasetError {
        malformed(self.location, format!("column '{name}' {what}"))
    }

    fn primitive<T: ArrowPrimitiveType>(&self, name: &str) -> Result<&'a PrimitiveArray<T>> {
        let array = self.array(name)?;
        array
            .as_primitive_opt::<T>()
            .ok_or_else(|| self.wrong(name, &format!("is {}, expected {}", array.data_type(), T::DATA_TYPE)))
    }

    fn required<A: Array>(&self, name: &str, array: &'a A) -> Result<&'a A> {
        if array.null_count() > 0 {
            return Err(self.wrong(name, "has nulls"));
        }
        Ok(array)
    }

    /// A column of unsigned numbers without nulls.
    pub(super) fn u64(&self, name: &str) -> Result<&'a PrimitiveArray<UInt64Type>> {
        self.required(name, self.primitive(name)?)
    }

    pub(super) fn optional_u64(&self, name: &str) -> Result<&'a PrimitiveArray<UInt64Type>> {
        self.primitive(name)
    }

    pub(super) fn optional_i64(&self, name: &str) -> Result<&'a PrimitiveArray<Int64Type>> {
        self.primitive(name)
    }

    pub(super) fn u32(&self, name: &str) -> Result<&'a PrimitiveArray<UInt32Type>> {
        self.required(name, self.primitive(name)?)
    }

    pub(super) fn f64(&self, name: &str) -> Result<&'a PrimitiveArray<Float64Type>> {
        self.required(name, self.primitive(name)?)
    }

    /// A column of text without nulls.
    pub(super) fn text(&self, name: &str) -> Result<&'a StringArray> {
        self.required(name, self.optional_text(name)?)
    }

    pub(super) fn optional_text(&self, name: &str) -> Result<&'a StringArray> {
        let array = self.array(name)?;
        array
            .as_string_opt::<i32>()
            .ok_or_else(|| self.wrong(name, &format!("is {}, expected Utf8", array.data_type())))
    }

    /// A column of lists of structs without nulls.
    pub(super) fn structs(&self, name: &str) -> Result<(&'a ListArray, &'a StructArray)> {
        let array = self.array(name)?;
        let list = array.as_list_opt::<i32>().ok_or_else(|| self.wrong(name, "is not a list"))?;
        let structs = list.values().as_struct_opt().ok_or_else(|| self.wrong(name, "is not a list of structs"))?;
        Ok((self.required(name, list)?, structs))
    }
}

/// The value of a nullable text column as an owned string.
pub(super) fn owned(array: &StringArray, row: usize) -> Option<String> {
    (!array.is_null(row)).then(|| array.value(row).to_owned())
}

/// The value of a nullable number column.
pub(super) fn number<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, row: usize) -> Option<T::Native> {
    (!array.is_null(row)).then(|| array.value(row))
}

/// Writes record batches as one Parquet file in memory. The same input gives the same bytes.
///
/// The files are small and read as a whole, so page indexes and statistics would only add bytes. The Arrow schema is left
/// out for the same reason: the Parquet types say everything these columns need.
pub(super) fn to_parquet(batch: &RecordBatch, metadata: Vec<KeyValue>, location: &str) -> Result<Bytes> {
    let many = batch.num_rows() > 1;
    let compression = if many { Compression::ZSTD(ZstdLevel::default()) } else { Compression::UNCOMPRESSED };
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(many)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_created_by("gristmill".to_owned())
        .set_key_value_metadata((!metadata.is_empty()).then_some(metadata))
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let written = ArrowWriter::try_new_with_options(Vec::new(), batch.schema(), options).and_then(|mut writer| {
        writer.write(batch)?;
        writer.into_inner()
    });
    written.map(Bytes::from).map_err(|error| store_error(location, format!("cannot be encoded: {error}")))
}

/// Reads a Parquet file in memory: its schema, its key-value metadata and its rows.
pub(super) fn from_parquet(bytes: &Bytes, location: &str) -> Result<(SchemaRef, Vec<KeyValue>, Vec<RecordBatch>)> {
    let failed = |error: &dyn std::fmt::Display| malformed(location, format!("not a readable Parquet file: {error}"));
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(|error| failed(&error))?;
    let metadata = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let schema = SchemaRef::clone(builder.schema());
    let reader = builder.with_batch_size(64 * 1024).build().map_err(|error| failed(&error))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))?;
    Ok((schema, metadata, batches))
}

pub(super) fn malformed(location: &str, message: impl Into<String>) -> DatasetError {
    DatasetError::Malformed { location: location.to_owned(), message: message.into() }
}

pub(super) fn store_error(location: &str, message: impl Into<String>) -> DatasetError {
    DatasetError::Store { location: location.to_owned(), message: message.into() }
}
