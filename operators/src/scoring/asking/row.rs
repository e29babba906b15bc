//! The columns of a row as values of a template.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use minijinja::Value;

/// Whether values of that type can stand in a template.
pub(super) fn is_supported(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null | DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            is_supported(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| is_supported(field.data_type())),
        integer => integer.is_integer(),
    }
}

/// The value of a row, `none` where it is null or of a type that is not supported.
pub(super) fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::from(());
    }
    let list = |items: ArrayRef| (0..items.len()).map(|item| value(&items, item)).collect::<Value>();
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::List(_) => list(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(column.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let columns = column.as_struct().columns();
            Value::from_pairs(
                fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), value(column, row))),
            )
        }
        _ => number(column, row),
    }
}

fn number(column: &ArrayRef, row: usize) -> Value {
    use arrow_array::types::{
        Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    };

    macro_rules! numbers {
        ($($variant:ident => $type:ty as $wide:ty),*) => {
            match column.data_type() {
                $(DataType::$variant => <$wide>::from(column.as_primitive::<$type>().value(row)).into(),)*
                _ => Value::from(()),
            }
        };
    }
    numbers!(
        Int8 => Int8Type as i64, Int16 => Int16Type as i64, Int32 => Int32Type as i64, Int64 => Int64Type as i64,
        UInt8 => UInt8Type as u64, UInt16 => UInt16Type as u64, UInt32 => UInt32Type as u64, UInt64 => UInt64Type as u64,
        Float16 => Float16Type as f64, Float32 => Float32Type as f64, Float64 => Float64Type as f64
    )
}
