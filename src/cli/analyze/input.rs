//! Reading the tables that analyses take.

use gristmill::operators::analysis::{Bootstrap, columns};
use gristmill::operators::{Resources, Result, nearest, require_column, tables};

use super::arguments::Intervals;
use super::{Failure, of, wrong};

/// What a column of a row is called: the column, and whether it may be absent.
pub(super) fn has(batch: &arrow_array::RecordBatch, column: &str) -> bool {
    batch.schema_ref().index_of(column).is_ok()
}

/// Goes through a table with all its columns; `take` gets each batch and the number of its first row.
pub(super) fn each(
    location: &str,
    resources: &Resources,
    mut take: impl FnMut(&arrow_array::RecordBatch, u64) -> Result<()>,
) -> Result<u64, Failure> {
    let mut first = 0;
    let mut taken = |batch: arrow_array::RecordBatch| {
        take(&batch, first)?;
        first += batch.num_rows() as u64;
        Ok(())
    };
    tables::each_batch(location, resources, &|_| Ok(None), &mut taken).map_err(|error| of(location, &error))?;
    Ok(first)
}

/// A column of names of a table, none of which is absent.
pub(super) fn names(location: &str, column: &str, resources: &Resources) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    each(location, resources, |batch, _| {
        all.extend(columns::names(batch, column)?);
        Ok(())
    })?;
    present(location, column, all)
}

/// Names none of which may be absent.
pub(super) fn present(location: &str, column: &str, names: Vec<Option<String>>) -> Result<Vec<String>, Failure> {
    let named = names.into_iter().enumerate().map(|(row, name)| {
        name.ok_or_else(|| wrong(location, &format!("row {row}: column '{column}': nothing; a name is needed")))
    });
    named.collect()
}

/// A column of scores of a table, and where it is.
pub(super) struct Scored {
    pub(super) location: String,
    pub(super) column: String,
    /// The column's name, with that of the table where there are several tables.
    pub(super) name: String,
}

/// The columns of scores of tables: those that are named, or all that a table has.
pub(super) fn score_columns(
    locations: &[String],
    by: &[String],
    resources: &Resources,
) -> Result<Vec<Scored>, Failure> {
    let mut scored = Vec::new();
    for location in locations {
        let schema = tables::schema(location, resources).map_err(|error| of(location, &error))?;
        let named = by.iter().map(|column| require_column("analysis", &schema, column).map(|_| column.clone()));
        let named = named.collect::<Result<Vec<String>>>().map_err(|error| of(location, &error))?;
        let found = if by.is_empty() { columns::score_columns(&schema) } else { named };
        if found.is_empty() {
            return Err(wrong(location, "no column of scores; name one with --by"));
        }
        let stem = super::results::stem(location);
        scored.extend(found.into_iter().map(|column| Scored {
            location: location.clone(),
            name: if locations.len() > 1 { format!("{stem}:{column}") } else { column.clone() },
            column,
        }));
    }
    Ok(scored)
}

/// Goes through a column of scores. `begin` gets the names of the queries, before the first row; each row's scores, or nothing, go to `take`.
pub(super) fn each_scores<T>(
    scored: &Scored,
    resources: &Resources,
    begin: impl Fn(&[String]) -> Result<T>,
    mut take: impl FnMut(&mut T, Option<&[f32]>) -> Result<()>,
) -> Result<(T, Vec<String>), Failure> {
    let Scored { location, column, .. } = scored;
    let mut state: Option<(T, Vec<String>)> = None;
    let mut first = 0;
    let only =
        |schema: &arrow_schema::Schema| require_column("analysis", schema, column).map(|(place, _)| Some(vec![place]));
    let mut taken = |batch: arrow_array::RecordBatch| {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let (state, _) = match &mut state {
            Some(state) => state,
            none => {
                let names = columns::query_names(&batch, column)?;
                none.insert((begin(&names)?, names))
            }
        };
        columns::each_scores(&batch, column, first, |_, scores| take(state, scores))?;
        first += batch.num_rows() as u64;
        Ok(())
    };
    tables::each_batch(location, resources, &only, &mut taken).map_err(|error| of(location, &error))?;
    state.ok_or_else(|| wrong(location, "there are no rows"))
}

/// Where names of queries stand among those that scores have.
pub(super) fn positions(wanted: &[String], have: &[String], location: &str) -> Result<Vec<usize>, Failure> {
    let position = |name: &String| {
        have.iter().position(|known| known == name).ok_or_else(|| {
            let near = nearest(name, have.iter().map(String::as_str));
            let near = near.map(|near| format!(", did you mean '{near}'?")).unwrap_or_default();
            let shown: Vec<&str> = have.iter().take(5).map(String::as_str).collect();
            let more = if have.len() > 5 { ", …" } else { "" };
            wrong(
                location,
                &format!("there are no scores for query '{name}'{near}; queries: {}{more}", shown.join(", ")),
            )
        })
    };
    wanted.iter().map(position).collect()
}

impl From<Intervals> for Bootstrap {
    fn from(intervals: Intervals) -> Self {
        Self { draws: intervals.bootstrap as usize, seed: intervals.seed, ..Self::default() }
    }
}
