//! A sample of what the steps decided, as CSV for people: the first rows of the output in order.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use gristmill_datasets::run::Manifest;

use crate::error::{PipelineError, Result};
use crate::inspect;
use crate::run::mill::Mill;

/// Characters of a text that the sample shows.
const TEXT_CHARACTERS: usize = 500;

/// The first `rows` rows of the parts, in the order of the output.
pub(crate) async fn sample(mill: &Mill, manifest: &Manifest, rows: u64) -> Result<Vec<u8>> {
    let mut left = usize::try_from(rows).unwrap_or(usize::MAX);
    let mut writer = arrow_csv::Writer::new(Vec::new());
    let empty = RecordBatch::new_empty(Arc::clone(mill.output_schema()));
    writer.write(&readable(&empty)?).map_err(engine)?;
    let mut records: Vec<_> = manifest.records.iter().collect();
    records.sort_by_key(|record| record.split);
    'parts: for part in records.iter().filter_map(|record| record.part.as_deref()) {
        let mut batches = inspect::rows_of(mill.part(part).await?, left as u64).await?;
        while let Some(batch) = batches.try_next().await? {
            if left == 0 {
                break 'parts;
            }
            let batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
            writer.write(&readable(&batch)?).map_err(engine)?;
        }
    }
    Ok(writer.into_inner())
}

/// Columns as text: structs become a column for each field, long texts are cut.
fn readable(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        flatten(field.name(), column, &mut columns)?;
    }
    let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(engine)
}

fn flatten(name: &str, column: &ArrayRef, columns: &mut Vec<(String, ArrayRef)>) -> Result<()> {
    if let Some(structs) = column.as_struct_opt() {
        for (field, child) in structs.fields().iter().zip(structs.columns()) {
            flatten(&format!("{name}.{}", field.name()), child, columns)?;
        }
        return Ok(());
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(engine)?;
    let cut = |text: String| match text.char_indices().nth(TEXT_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    let texts: StringArray =
        (0..column.len()).map(|row| column.is_valid(row).then(|| cut(formatter.value(row).to_string()))).collect();
    columns.push((name.to_owned(), Arc::new(texts)));
    Ok(())
}

fn engine(error: arrow_schema::ArrowError) -> PipelineError {
    PipelineError::Engine(error.to_string())
}
