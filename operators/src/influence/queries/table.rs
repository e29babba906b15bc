//! The columns of a table of queries.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use super::config::QueriesConfig;
use crate::columns::TextColumn;
use crate::error::nearest;

/// A query as it stands in its table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) group: Option<String>,
    /// Empty where queries are whole texts.
    pub(super) prompt: String,
    pub(super) completion: String,
}

/// The rows of a table; the error says which column or row is wrong.
pub(super) fn rows(config: &QueriesConfig, table: &RecordBatch) -> Result<Vec<Row>, String> {
    if table.num_rows() == 0 {
        return Err("it has no row; at least one query is needed".to_owned());
    }
    let completion = config.text.as_ref().or(config.completion.as_ref()).ok_or("no column of queries is named")?;
    let completion = texts(table, completion)?;
    let prompt = match (&config.text, &config.prompt) {
        (None, Some(prompt)) => Some(texts(table, prompt)?),
        _ => None,
    };
    let ids = config.id.as_ref().map(|column| names(table, column)).transpose()?;
    let groups = config.group.as_ref().map(|column| names(table, column)).transpose()?;
    Ok(completion
        .into_iter()
        .enumerate()
        .map(|(row, completion)| Row {
            name: ids.as_ref().map_or_else(|| row.to_string(), |ids| ids[row].clone()),
            group: groups.as_ref().map(|groups| groups[row].clone()),
            prompt: prompt.as_ref().map_or_else(String::new, |prompts| prompts[row].to_owned()),
            completion: completion.to_owned(),
        })
        .collect())
}

/// A column of texts without nulls.
fn texts<'t>(table: &'t RecordBatch, column: &str) -> Result<Vec<&'t str>, String> {
    let found = find(table, column)?.data_type();
    let texts = TextColumn::of("queries", table, column)
        .map_err(|_| format!("column '{column}' has type {found}, expected text"))?;
    texts.iter().enumerate().map(|(row, text)| text.ok_or_else(|| no_value(column, row))).collect()
}

/// A column of names: texts, or whole numbers.
fn names(table: &RecordBatch, column: &str) -> Result<Vec<String>, String> {
    let array = find(table, column)?;
    if let Some(row) = (0..array.len()).find(|&row| array.is_null(row)) {
        return Err(no_value(column, row));
    }
    macro_rules! whole {
        ($type:ident) => {
            array.as_primitive::<$type>().values().iter().map(ToString::to_string).collect()
        };
    }
    Ok(match array.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            texts(table, column)?.into_iter().map(str::to_owned).collect()
        }
        DataType::Int8 => whole!(Int8Type),
        DataType::Int16 => whole!(Int16Type),
        DataType::Int32 => whole!(Int32Type),
        DataType::Int64 => whole!(Int64Type),
        DataType::UInt8 => whole!(UInt8Type),
        DataType::UInt16 => whole!(UInt16Type),
        DataType::UInt32 => whole!(UInt32Type),
        DataType::UInt64 => whole!(UInt64Type),
        other => return Err(format!("column '{column}' has type {other}, expected text or whole numbers")),
    })
}

fn find<'t>(table: &'t RecordBatch, column: &str) -> Result<&'t dyn Array, String> {
    table.column_by_name(column).map(AsRef::as_ref).ok_or_else(|| {
        let schema = table.schema();
        let available: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let near = nearest(column, available.iter().copied()).map(|name| format!(", did you mean '{name}'?"));
        format!("no column '{column}'{}; columns: {}", near.unwrap_or_default(), available.join(", "))
    })
}

fn no_value(column: &str, row: usize) -> String {
    format!("row {row} has no value in column '{column}'")
}
