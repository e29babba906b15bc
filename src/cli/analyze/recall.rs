//! `gristmill analyze recall`.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use gristmill::operators::analysis::chart::{self, Titles};
use gristmill::operators::analysis::columns;
use gristmill::operators::{OperatorError, Resources};
use serde::Serialize;

use super::arguments::RecallArguments;
use super::input::each;
use super::results::{shown, stem};
use super::{Done, wrong};
use crate::cli::table::table;

/// What of the best rows of a query was found.
#[derive(Debug, Default, Serialize)]
struct Query {
    query: String,
    /// Rows that are ranked.
    ranked: usize,
    /// Of these, those that were scored by chance alone.
    by_chance: usize,
    /// How many more rows would be among them, in expectation: Σ (weight - 1).
    missed: f64,
    /// ranked / (ranked + missed).
    recall: f64,
    /// √Σ weight (weight - 1): the standard error of `missed`.
    error: f64,
}

#[derive(Debug, Serialize)]
struct Found<'a> {
    ranking: &'a str,
    queries: Vec<Query>,
    /// Of all queries together.
    all: Query,
}

pub(super) fn recall(arguments: RecallArguments, resources: &Resources) -> Done {
    let RecallArguments { ranking, by, results } = arguments;
    let mut order: Vec<String> = Vec::new();
    let mut queries: BTreeMap<String, Query> = BTreeMap::new();
    let mut all = Query { query: "all".to_owned(), ..Query::default() };
    each(&ranking, resources, |batch, first| {
        let (names, weights) = (columns::names(batch, "query")?, weights(batch, &by)?);
        let weights = weights.as_primitive::<Float64Type>();
        for ((row, name), weight) in (first..).zip(names).zip(weights) {
            let (Some(name), Some(weight)) = (name, weight.filter(|weight| *weight >= 1.0)) else {
                let message = format!("it needs a query and a weight of at least 1, and has {weight:?}");
                return Err(OperatorError::Row { kind: "analysis".to_owned(), row, message });
            };
            if !queries.contains_key(&name) {
                order.push(name.clone());
            }
            let query = queries.entry(name.clone()).or_insert_with(|| Query { query: name, ..Query::default() });
            query.add(weight);
            all.add(weight);
        }
        Ok(())
    })?;
    if order.is_empty() {
        return Err(wrong(&ranking, "there are no rows"));
    }
    let queries = order.iter().filter_map(|name| queries.remove(name)).map(Query::finish).collect();
    let found = Found { ranking: &ranking, queries, all: all.finish() };
    results.give(&format!("recall_{}", stem(&ranking)), &found, || text(&found), || plots(&found))
}

impl Query {
    fn add(&mut self, weight: f64) {
        self.ranked += 1;
        self.by_chance += usize::from(weight > 1.0);
        self.missed += weight - 1.0;
        self.error += weight * (weight - 1.0);
    }

    fn finish(mut self) -> Self {
        self.recall = self.ranked as f64 / (self.ranked as f64 + self.missed);
        self.error = self.error.sqrt();
        self
    }
}

/// The weights of rows: a column, or a field of a column, or the only `weight` that there is in a column of metadata.
fn weights(batch: &RecordBatch, by: &Option<String>) -> Result<ArrayRef, OperatorError> {
    let missing =
        |message: String| OperatorError::InvalidValue { kind: "analysis".to_owned(), key: "by".to_owned(), message };
    let field = |column: &ArrayRef| -> Option<ArrayRef> {
        column.as_struct_opt().and_then(|column: &StructArray| column.column_by_name("weight")).cloned()
    };
    let found: Vec<ArrayRef> = match by {
        Some(name) => {
            let (place, _) = gristmill::operators::require_column("analysis", batch.schema_ref(), name)?;
            let column = batch.column(place);
            vec![field(column).unwrap_or_else(|| ArrayRef::clone(column))]
        }
        None => batch.columns().iter().filter_map(field).collect(),
    };
    match found.as_slice() {
        [weights] if weights.as_primitive_opt::<Float64Type>().is_some() => Ok(ArrayRef::clone(weights)),
        [other] => Err(missing(format!("weights are {}; Float64 is needed", other.data_type()))),
        [] => Err(missing(
            "no column has a field 'weight'; a ranking needs the metadata of its scores among its columns".to_owned(),
        )),
        _ => Err(missing("several columns have a field 'weight'; name one with --by".to_owned())),
    }
}

fn text(found: &Found<'_>) -> Vec<String> {
    let Found { ranking, queries, all } = found;
    let row = |query: &Query| {
        let missed = format!("{} ± {}", shown(query.missed), shown(query.error));
        vec![query.query.clone(), query.ranked.to_string(), query.by_chance.to_string(), missed, shown(query.recall)]
    };
    let mut rows: Vec<Vec<String>> = queries.iter().take(20).map(row).collect();
    rows.push(row(all));
    let mut lines = vec![format!(
        "{ranking}: rows that candidates missed, estimated from those that were scored by chance{}",
        if queries.len() > 20 { format!("; the first 20 of {} queries", queries.len()) } else { String::new() }
    )];
    lines.push(table(&["query", "ranked", "by chance", "missed", "recall"], rows, &[1, 2, 3, 4]).to_string());
    if all.by_chance == 0 {
        lines.push("none that was scored by chance is among the best".to_owned());
    }
    lines
}

fn plots(found: &Found<'_>) -> Vec<(String, String)> {
    let recalls = vec![("recall".to_owned(), found.queries.iter().map(|query| query.recall).collect())];
    let titles = Titles { title: "Estimated recall of candidates", x: "queries", y: "recall of a query" };
    vec![("queries".to_owned(), chart::boxes(titles, &recalls))]
}
