//! Reading columns of numbers, names and scores, whatever their types.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use super::{KIND, row_error};
use crate::{OperatorError, Result, require_column, scores};

/// A column of numbers; `first` is the number of its first row, for messages.
///
/// # Errors
/// No such column, one of another type, and numbers that are not finite.
pub fn numbers(batch: &RecordBatch, name: &str, first: u64) -> Result<Vec<Option<f64>>> {
    let (index, _) = require_column(KIND, batch.schema_ref(), name)?;
    let values = as_numbers(batch.column(index)).ok_or_else(|| wrong_type(batch.schema_ref().field(index), "numbers"))?;
    match (first..).zip(&values).find_map(|(row, value)| Some((row, value.filter(|value| !value.is_finite())?))) {
        Some((row, value)) => Err(row_error(row, format!("column '{name}': {value}; finite numbers are allowed"))),
        None => Ok(values),
    }
}

/// A column of names: texts, or whole numbers and booleans as they are written.
///
/// # Errors
/// No such column, or one of another type.
pub fn names(batch: &RecordBatch, name: &str) -> Result<Vec<Option<String>>> {
    let (index, data_type) = require_column(KIND, batch.schema_ref(), name)?;
    let column = batch.column(index);
    let owned = |value: Option<&str>| value.map(str::to_owned);
    Ok(match data_type {
        DataType::Utf8 => column.as_string::<i32>().iter().map(owned).collect(),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().map(owned).collect(),
        DataType::Utf8View => column.as_string_view().iter().map(owned).collect(),
        DataType::Boolean => column.as_boolean().iter().map(|value| value.map(|value| value.to_string())).collect(),
        DataType::Null => vec![None; column.len()],
        DataType::Int64 => column.as_primitive::<Int64Type>().iter().map(|value| Some(value?.to_string())).collect(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().iter().map(|value| Some(value?.to_string())).collect(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            let values = as_numbers(column).unwrap_or_default();
            values.into_iter().map(|value| value.map(|value| value.to_string())).collect()
        }
        _ => return Err(wrong_type(batch.schema_ref().field(index), "text or whole numbers")),
    })
}

/// A column of lists of whole numbers of at least 0.
///
/// # Errors
/// No such column, one of another type, a row without a list, and other numbers.
pub fn position_lists(batch: &RecordBatch, name: &str, first: u64) -> Result<Vec<Vec<u64>>> {
    let (index, _) = require_column(KIND, batch.schema_ref(), name)?;
    let column = batch.column(index);
    let list = |row: usize| -> Option<ArrayRef> {
        match column.data_type() {
            _ if column.is_null(row) => None,
            DataType::List(_) => Some(column.as_list::<i32>().value(row)),
            DataType::LargeList(_) => Some(column.as_list::<i64>().value(row)),
            DataType::FixedSizeList(..) => Some(column.as_fixed_size_list().value(row)),
            _ => None,
        }
    };
    if !matches!(column.data_type(), DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)) {
        return Err(wrong_type(batch.schema_ref().field(index), "lists of row positions"));
    }
    let bad = |row: u64, found: &str| {
        row_error(row, format!("column '{name}': {found}; a list of whole numbers of at least 0 is allowed"))
    };
    (first..)
        .zip(0..column.len())
        .map(|(number, row)| {
            let values = list(row).ok_or_else(|| bad(number, "no list"))?;
            let values = as_numbers(&values).ok_or_else(|| bad(number, &values.data_type().to_string()))?;
            let position = |value: Option<f64>| match value {
                Some(value) if value >= 0.0 && value.fract() == 0.0 && value < 9e15 => Ok(value as u64),
                Some(value) => Err(bad(number, &value.to_string())),
                None => Err(bad(number, "nothing")),
            };
            values.into_iter().map(position).collect()
        })
        .collect()
}

/// Columns that hold scores by what their fields say: lists with names of queries, as [`scores::field`] makes them.
#[must_use]
pub fn score_columns(schema: &Schema) -> Vec<String> {
    let is_scores = |field: &Field| {
        field.metadata().contains_key(scores::QUERIES) && matches!(field.data_type(), DataType::FixedSizeList(..))
    };
    schema.fields().iter().filter(|field| is_scores(field)).map(|field| field.name().clone()).collect()
}

/// Names of the queries of a column of scores. Lists that have no names are numbered from 0, and as long as the first one.
///
/// # Errors
/// No such column, one of another type, and lists none of which is there.
pub fn query_names(batch: &RecordBatch, name: &str) -> Result<Vec<String>> {
    let (index, data_type) = require_column(KIND, batch.schema_ref(), name)?;
    let field = batch.schema_ref().field(index);
    if let Some(names) = scores::queries(field) {
        return Ok(names);
    }
    let column = batch.column(index);
    let row = (0..column.len()).find(|&row| column.is_valid(row));
    let length = match (data_type, row) {
        (DataType::List(_), Some(row)) => column.as_list::<i32>().value_length(row) as usize,
        (DataType::LargeList(_), Some(row)) => column.as_list::<i64>().value_length(row) as usize,
        (DataType::FixedSizeList(_, size), _) => *size as usize,
        _ => return Err(wrong_type(field, "scores: lists of numbers, or numbers")),
    };
    Ok((0..length).map(|number| number.to_string()).collect())
}

/// Calls `take` with the scores of each row of a column, or with nothing where the row is null; `first` is the number of the first row.
///
/// # Errors
/// No such column, one of another type, scores that are not finite, and what `take` says.
pub fn each_scores(
    batch: &RecordBatch,
    name: &str,
    first: u64,
    mut take: impl FnMut(u64, Option<&[f32]>) -> Result<()>,
) -> Result<()> {
    let (index, _) = require_column(KIND, batch.schema_ref(), name)?;
    let column = batch.column(index);
    let mut checked = |row: u64, scores: Option<&[f32]>| match scores.and_then(|scores| scores.iter().position(|score| !score.is_finite())) {
        Some(query) => {
            let score = scores.map_or(f32::NAN, |scores| scores[query]);
            Err(row_error(row, format!("column '{name}': score {score} for query {query}; finite numbers are allowed")))
        }
        None => take(row, scores),
    };
    match column.data_type() {
        DataType::FixedSizeList(item, size) if item.data_type() == &DataType::Float32 => {
            let list = column.as_fixed_size_list();
            let values = list.values().as_primitive::<Float32Type>().values();
            let size = *size as usize;
            (first..).zip(0..list.len()).try_for_each(|(number, row)| {
                let start = list.value_offset(row) as usize;
                checked(number, list.is_valid(row).then(|| &values[start..start + size]))
            })
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            (first..).zip(0..column.len()).try_for_each(|(number, row)| {
                let values = match column.data_type() {
                    _ if column.is_null(row) => return checked(number, None),
                    DataType::List(_) => column.as_list::<i32>().value(row),
                    DataType::LargeList(_) => column.as_list::<i64>().value(row),
                    _ => column.as_fixed_size_list().value(row),
                };
                let numbers = as_numbers(&values).and_then(|values| values.into_iter().collect::<Option<Vec<f64>>>());
                let Some(numbers) = numbers else {
                    return Err(row_error(number, format!("column '{name}': a list that is not of numbers")));
                };
                checked(number, Some(&numbers.into_iter().map(|value| value as f32).collect::<Vec<f32>>()))
            })
        }
        _ => {
            let values = as_numbers(column).ok_or_else(|| wrong_type(batch.schema_ref().field(index), "scores: lists of numbers, or numbers"))?;
            (first..).zip(values).try_for_each(|(number, value)| {
                let value = value.map(|value| [value as f32]);
                checked(number, value.as_ref().map(<[f32; 1]>::as_slice))
            })
        }
    }
}

fn as_numbers(column: &ArrayRef) -> Option<Vec<Option<f64>>> {
    macro_rules! numbers {
        ($($kind:ident => $primitive:ty),* $(,)?) => {
            match column.data_type() {
                $(DataType::$kind => column.as_primitive::<$primitive>().iter().map(|value| value.map(f64::from)).collect(),)*
                DataType::Int64 => column.as_primitive::<Int64Type>().iter().map(|value| value.map(|value| value as f64)).collect(),
                DataType::UInt64 => column.as_primitive::<UInt64Type>().iter().map(|value| value.map(|value| value as f64)).collect(),
                DataType::Null => vec![None; column.len()],
                _ => return None,
            }
        };
    }
    Some(numbers! {
        Float16 => Float16Type, Float32 => Float32Type, Float64 => Float64Type, Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type,
        UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type,
    })
}

fn wrong_type(field: &Field, expected: &str) -> OperatorError {
    OperatorError::ColumnType {
        kind: KIND.to_owned(),
        column: field.name().clone(),
        found: field.data_type().to_string(),
        expected: expected.to_owned(),
    }
}
