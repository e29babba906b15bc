//! Columns of scores: for each row one number for each query, as steps that compare rows with queries add them and rankings read them.
//!
//! Such a column is a fixed-size list of Float32 without nulls inside, as long as there are queries. A row may be null: it has no scores. The names of the
//! queries are in the field's metadata under [`QUERIES`], a JSON list of strings in the order of the list.
//!
//! ```
//! use gristmill_operators::scores;
//!
//! let field = scores::field("bm25", &["first".to_owned(), "second".to_owned()])?;
//! assert_eq!(scores::queries(&field), Some(vec!["first".to_owned(), "second".to_owned()]));
//! # Ok::<(), gristmill_operators::OperatorError>(())
//! ```

use std::sync::Arc;

use arrow_array::{FixedSizeListArray, Float32Array};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field};

use crate::config::invalid;
use crate::{OperatorError, Result};

/// Key of the field's metadata under which the names of the queries are.
pub const QUERIES: &str = "gristmill.queries";

/// The field of a column of scores.
///
/// # Errors
/// No query, or more than a list may have.
pub fn field(name: &str, queries: &[String]) -> Result<Field> {
    let size = i32::try_from(queries.len()).ok().filter(|&size| size > 0);
    let size = size
        .ok_or_else(|| invalid(name, "queries", format!("{} queries; 1 to 2147483647 are allowed", queries.len())))?;
    let names = serde_json::Value::from(queries.to_vec()).to_string();
    let field = Field::new(name, DataType::FixedSizeList(item(), size), true);
    Ok(field.with_metadata([(QUERIES.to_owned(), names)].into()))
}

/// The names of the queries of a field, if it is one of scores. A column of plain numbers has one query, of the column's name.
pub fn queries(field: &Field) -> Option<Vec<String>> {
    match field.data_type() {
        DataType::FixedSizeList(item, size) if item.data_type() == &DataType::Float32 => {
            let names = field.metadata().get(QUERIES).and_then(|names| serde_json::from_str::<Vec<String>>(names).ok());
            let size = usize::try_from(*size).ok()?;
            // Lists that another program wrote have no names.
            Some(
                names
                    .filter(|names| names.len() == size)
                    .unwrap_or_else(|| (0..size).map(|number| number.to_string()).collect()),
            )
        }
        other if other.is_numeric() => Some(vec![field.name().clone()]),
        _ => None,
    }
}

/// Whether a field is a column of scores that an operator made.
pub(crate) fn is_scores(field: &Field) -> bool {
    field.metadata().contains_key(QUERIES) && matches!(field.data_type(), DataType::FixedSizeList(..))
}

/// A column of scores: `values` is `[rows, queries]`, rows that are null in `valid` have no scores.
///
/// # Errors
/// A number of values that is not that of rows times queries.
pub fn column(queries: usize, values: Vec<f32>, valid: Option<NullBuffer>) -> Result<FixedSizeListArray> {
    let size = i32::try_from(queries).map_err(|_| invalid("scores", "queries", format!("{queries} are too many")))?;
    FixedSizeListArray::try_new(item(), size, Arc::new(Float32Array::from(values)), valid).map_err(OperatorError::from)
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow_array::Array;

    use super::*;

    #[test]
    fn fields_say_what_they_score() {
        let names = ["a".to_owned(), "b \"c\"".to_owned()];
        let scored = field("s", &names).unwrap();
        assert_eq!(queries(&scored).unwrap(), names);
        assert_eq!(queries(&scored.clone().with_metadata(Default::default())).unwrap(), ["0", "1"]);
        assert_eq!(queries(&Field::new("x", DataType::Float64, true)).unwrap(), ["x"]);
        assert_eq!(queries(&Field::new("x", DataType::Utf8, true)), None);
        assert!(field("s", &[]).is_err());
        let rows = column(2, vec![1.0, 2.0, 3.0, 4.0], Some(vec![true, false].into())).unwrap();
        assert_eq!((rows.len(), rows.null_count()), (2, 1));
        assert_eq!(rows.data_type(), scored.data_type());
        assert!(column(2, vec![1.0], None).is_err());
    }
}
