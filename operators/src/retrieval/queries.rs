//! The texts that documents are compared with, and how their scores are put together.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::columns::TextColumn;
use crate::config::invalid;
use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result, require_column, tables};

/// Queries of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryTable {
    /// The table: `.jsonl`, `.json`, `.arrow`, `.parquet`, or the folder of a run that has finished.
    pub path: String,
    /// The column of texts.
    #[serde(default = "default_text")]
    pub text: String,
    /// The column of the queries' names, text or whole numbers; the numbers of rows from 0 if left out.
    #[serde(default)]
    pub id: Option<String>,
    /// The column of the groups that `aggregate` puts together, text or whole numbers; one group of all if left out.
    #[serde(default)]
    pub group: Option<String>,
    /// Which scores a row gets.
    #[serde(default)]
    pub aggregate: Aggregate,
}

fn default_text() -> String {
    "text".to_owned()
}

/// Which scores a document gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// One for each query, under its name.
    #[default]
    None,
    /// The mean over the queries of each group, under the group's name, or over all, as `mean`.
    Mean,
    /// The largest of the queries of each group, under the group's name, or of all, as `nearest`.
    Nearest,
}

/// Queries, and the scores that documents get from them.
///
/// ```
/// use gristmill_operators::retrieval::{Aggregate, Queries};
///
/// let queries = Queries::grouped(["one", "two", "three"], ["f", "g", "f"], Aggregate::Mean);
/// assert_eq!(queries.names(), ["f", "g"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queries {
    pub(super) texts: Vec<String>,
    /// Of the scores.
    names: Vec<String>,
    /// To which of the scores each query contributes.
    pub(super) scores: Vec<usize>,
    pub(super) aggregate: Aggregate,
}

impl Queries {
    /// Queries with a score each, named by their numbers from 0.
    #[must_use]
    pub fn new<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
        let names = (0..texts.len()).map(|number| number.to_string()).collect();
        Self { names, scores: (0..texts.len()).collect(), texts, aggregate: Aggregate::None }
    }

    /// Queries whose scores are put together by group; the groups are in the order in which they come first. Where there
    /// are fewer groups than texts, the texts left over are left out. With [`Aggregate::None`] groups are names, which
    /// must be distinct.
    #[must_use]
    pub fn grouped<T: Into<String>, G: Into<String>>(
        texts: impl IntoIterator<Item = T>,
        groups: impl IntoIterator<Item = G>,
        aggregate: Aggregate,
    ) -> Self {
        let mut queries = Self { texts: Vec::new(), names: Vec::new(), scores: Vec::new(), aggregate };
        let mut places = std::collections::HashMap::new();
        for (text, group) in texts.into_iter().zip(groups) {
            let group = group.into();
            let place = *places.entry(group.clone()).or_insert(queries.names.len());
            if place == queries.names.len() {
                queries.names.push(group);
            }
            queries.texts.push(text.into());
            queries.scores.push(place);
        }
        queries
    }

    /// Names of the scores that a document gets.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The texts of all queries.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// How many queries each score is of.
    pub(super) fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.names.len()];
        for &score in &self.scores {
            sizes[score] += 1;
        }
        sizes
    }

    /// Reads the queries of a table, for an operator of kind `kind`.
    ///
    /// # Errors
    /// A table that cannot be read or has no row, a column that is missing or of another type, a row without a value, and
    /// two queries of one name.
    pub fn read(kind: &str, table: &QueryTable, resources: &Resources) -> Result<(Self, Vec<ResourceIdentity>)> {
        let unusable = |message: String| OperatorError::Resource { location: table.path.clone(), message };
        let in_table = |error: OperatorError| unusable(error.to_string());
        let (rows, identities) = tables::read(&table.path, resources)?;
        if rows.num_rows() == 0 {
            return Err(unusable("the table has no row; at least one query is needed".to_owned()));
        }
        let texts = names(kind, &rows, &table.text, false).map_err(in_table)?;
        let ids = table.id.as_ref().map(|column| names(kind, &rows, column, true)).transpose().map_err(in_table)?;
        let groups =
            table.group.as_ref().map(|column| names(kind, &rows, column, true)).transpose().map_err(in_table)?;
        let of_all = |name: &str| vec![name.to_owned(); texts.len()];
        let labels = match table.aggregate {
            Aggregate::None => ids.unwrap_or_else(|| (0..texts.len()).map(|row| row.to_string()).collect()),
            Aggregate::Mean => groups.unwrap_or_else(|| of_all("mean")),
            Aggregate::Nearest => groups.unwrap_or_else(|| of_all("nearest")),
        };
        let queries = Self::grouped(texts, labels, table.aggregate);
        if queries.aggregate == Aggregate::None
            && let Some(row) = (0..queries.texts.len()).find(|&row| queries.scores[row] != row)
        {
            let first = queries.scores[row];
            let name = &queries.names[first];
            return Err(unusable(format!("rows {first} and {row} have the same name '{name}'; names must differ")));
        }
        Ok((queries, identities))
    }
}

impl QueryTable {
    /// Checks keys that need one another.
    ///
    /// # Errors
    /// Groups that nothing is done with.
    pub(super) fn check(&self, kind: &str) -> Result<()> {
        if self.group.is_some() && self.aggregate == Aggregate::None {
            let message = "groups are for 'aggregate: mean' and 'aggregate: nearest'";
            return Err(invalid(kind, "queries.group", message));
        }
        Ok(())
    }
}

/// A column of texts, or of names where whole numbers are allowed, too; without nulls.
fn names(kind: &str, table: &RecordBatch, column: &str, numbers: bool) -> Result<Vec<String>> {
    use arrow_array::types::{
        Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    };

    let (index, _) = require_column(kind, table.schema_ref(), column)?;
    let array = table.column(index);
    if let Some(row) = (0..array.len()).find(|&row| array.is_null(row)) {
        let message = format!("no value in column '{column}'");
        return Err(OperatorError::Row { kind: kind.to_owned(), row: row as u64, message });
    }
    macro_rules! whole {
        ($type:ident) => {
            Ok(array.as_primitive::<$type>().values().iter().map(ToString::to_string).collect())
        };
    }
    match array.data_type() {
        DataType::Int8 if numbers => whole!(Int8Type),
        DataType::Int16 if numbers => whole!(Int16Type),
        DataType::Int32 if numbers => whole!(Int32Type),
        DataType::Int64 if numbers => whole!(Int64Type),
        DataType::UInt8 if numbers => whole!(UInt8Type),
        DataType::UInt16 if numbers => whole!(UInt16Type),
        DataType::UInt32 if numbers => whole!(UInt32Type),
        DataType::UInt64 if numbers => whole!(UInt64Type),
        _ => Ok(TextColumn::of(kind, table, column)?.iter().map(|text| text.unwrap_or_default().to_owned()).collect()),
    }
}
