//! `gristmill analyze agreement`.

use gristmill::operators::Resources;
use gristmill::operators::analysis::{agreement as analyze, mean};
use serde::Serialize;

use super::arguments::AgreementArguments;
use super::input::{each_scores, positions, score_columns};
use super::results::{shown, stem};
use super::{Done, of, wrong};
use crate::cli::table::table;

#[derive(Serialize)]
struct Found {
    rows: usize,
    queries: usize,
    pairs: Vec<Pair>,
}

/// Means over queries. A query whose correlation does not exist is not in its mean.
#[derive(Serialize)]
struct Pair {
    scores: [String; 2],
    spearman: Option<f64>,
    kendall: Option<f64>,
    pearson: Option<f64>,
    overlap: Vec<Overlap>,
}

#[derive(Serialize)]
struct Overlap {
    k: usize,
    share: f64,
}

/// Scores of all rows, `[queries, rows]`.
struct Column {
    name: String,
    location: String,
    queries: Vec<String>,
    values: Vec<Vec<f64>>,
}

pub(super) fn agreement(arguments: AgreementArguments, resources: &Resources) -> Done {
    let AgreementArguments { scores, by, k, results } = arguments;
    let ks: Vec<usize> = k.iter().map(|k| k.get()).collect();
    let mut columns: Vec<Column> = Vec::new();
    for scored in score_columns(&scores, &by, resources)? {
        let begin = |names: &[String]| Ok(vec![Vec::new(); names.len()]);
        let (values, queries) = each_scores(&scored, resources, begin, |values: &mut Vec<Vec<f64>>, scores| {
            // Rows without scores rank as zeros do.
            let count = values.len();
            let of = |query: usize| scores.and_then(|scores| scores.get(query)).map_or(0.0, |score| f64::from(*score));
            values.iter_mut().zip(0..count).for_each(|(values, query)| values.push(of(query)));
            Ok(())
        })?;
        columns.push(Column { name: scored.name, location: scored.location, queries, values });
    }
    let [first, others @ ..] = columns.as_slice() else { return Ok(()) };
    if others.is_empty() {
        return Err(wrong(&first.location, "one column of scores agrees with itself; name two, or another table"));
    }
    let mut pairs = Vec::new();
    for (number, second) in columns.iter().enumerate() {
        for first in &columns[..number] {
            pairs.push(compare(first, second, &ks)?);
        }
    }
    let rows = first.values.first().map_or(0, Vec::len);
    let found = Found { rows, queries: first.queries.len(), pairs };
    let name = format!("agreement_{}", scores.first().map(|first| stem(first)).unwrap_or_default());
    results.give(&name, &found, || text(&found, &ks), Vec::new)
}

fn compare(first: &Column, second: &Column, ks: &[usize]) -> Result<Pair, super::Failure> {
    if first.queries.len() != second.queries.len() {
        let message = format!("{} queries; '{}' has {}", second.queries.len(), first.name, first.queries.len());
        return Err(wrong(&second.location, &message));
    }
    let places = positions(&first.queries, &second.queries, &second.location)?;
    let each = first.values.iter().zip(places).map(|(values, place)| analyze(values, &second.values[place], ks));
    let each = each.collect::<Result<Vec<_>, _>>().map_err(|error| of(&second.location, &error))?;
    let of = |pick: fn(&gristmill::operators::analysis::Agreement) -> Option<f64>| {
        mean(&each.iter().filter_map(pick).collect::<Vec<f64>>())
    };
    let overlap = ks.iter().enumerate().map(|(place, &k)| {
        let shares: Vec<f64> = each.iter().map(|agreement| agreement.overlap[place].1).collect();
        Overlap { k, share: mean(&shares).unwrap_or(0.0) }
    });
    Ok(Pair {
        scores: [first.name.clone(), second.name.clone()],
        spearman: of(|agreement| agreement.spearman),
        kendall: of(|agreement| agreement.kendall),
        pearson: of(|agreement| agreement.pearson),
        overlap: overlap.collect(),
    })
}

fn text(found: &Found, ks: &[usize]) -> Vec<String> {
    let overlaps: Vec<String> = ks.iter().map(|k| format!("of the top {k}")).collect();
    let mut header = vec!["scores", "and", "Spearman", "Kendall", "Pearson"];
    header.extend(overlaps.iter().map(String::as_str));
    let rows = found.pairs.iter().map(|pair| {
        let mut row = pair.scores.to_vec();
        row.extend([pair.spearman, pair.kendall, pair.pearson].map(shown));
        row.extend(pair.overlap.iter().map(|overlap| shown(overlap.share)));
        row
    });
    let numbers: Vec<usize> = (2..header.len()).collect();
    vec![
        format!("{} rows, {} queries; means over queries", found.rows, found.queries),
        table(&header, rows.collect(), &numbers).to_string(),
    ]
}
