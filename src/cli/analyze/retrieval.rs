//! `gristmill analyze retrieval`.

use gristmill::operators::Resources;
use gristmill::operators::analysis::chart::{self, Titles};
use gristmill::operators::analysis::{Rankings, Retrieval, Truth, columns, retrieval as analyze};
use serde::Serialize;

use super::arguments::RetrievalArguments;
use super::input::{each, has};
use super::results::{shown, stem};
use super::{Done, Failure, of, wrong};
use crate::cli::table::{number, table};

#[derive(Serialize)]
struct Found<'a> {
    ranking: &'a str,
    truth: &'a str,
    item: &'a str,
    #[serde(flatten)]
    retrieval: &'a Retrieval,
}

pub(super) fn retrieval(arguments: RetrievalArguments, resources: &Resources) -> Done {
    let RetrievalArguments { ranking, truth: truth_at, item, k, intervals, results } = arguments;
    let item = match item {
        Some(item) => item,
        None => shared_item(&ranking, &truth_at, resources)?,
    };
    let truth = read_truth(&truth_at, &item, resources)?;
    let mut rankings = Rankings::default();
    each(&ranking, resources, |batch, first| {
        let (queries, items) = (columns::names(batch, "query")?, columns::names(batch, &item)?);
        let ranks = if has(batch, "rank") || !has(batch, "score") {
            columns::numbers(batch, "rank", first)?
        } else {
            columns::numbers(batch, "score", first)?.into_iter().map(|score| Some(-score?)).collect()
        };
        for ((row, query), (name, rank)) in (first..).zip(queries).zip(items.into_iter().zip(ranks)) {
            match (query, name, rank) {
                (Some(query), Some(name), Some(rank)) => rankings.add(&query, name, rank),
                (query, name, _) => {
                    let column = if query.is_none() {
                        "query"
                    } else if name.is_none() {
                        item.as_str()
                    } else {
                        "rank"
                    };
                    return Err(absent(row, column));
                }
            }
        }
        Ok(())
    })?;
    let ks: Vec<usize> = k.iter().map(|k| k.get()).collect();
    let retrieval = analyze(&rankings, &truth, &ks, intervals.into()).map_err(|error| {
        let place = if error.to_string().contains("'truth'") { &truth_at } else { &ranking };
        of(place, &error)
    })?;
    if retrieval.queries == retrieval.unranked {
        eprintln!(
            "warning: '{ranking}' ranks nothing for any query of '{truth_at}'; do the queries have the same names?"
        );
    }
    let found = Found { ranking: &ranking, truth: &truth_at, item: &item, retrieval: &retrieval };
    results.give(&format!("retrieval_{}", stem(&ranking)), &found, || text(&found), || plots(&retrieval))
}

/// `id` where both tables have it, else `row`.
fn shared_item(ranking: &str, truth: &str, resources: &Resources) -> Result<String, Failure> {
    let mut both = true;
    for location in [ranking, truth] {
        let mut here = false;
        each(location, resources, |batch, _| {
            here |= has(batch, "id");
            Ok(())
        })?;
        both &= here;
    }
    Ok(if both { "id" } else { "row" }.to_owned())
}

fn read_truth(location: &str, item: &str, resources: &Resources) -> Result<Truth, Failure> {
    let mut truth = Truth::default();
    each(location, resources, |batch, first| {
        let relevances = match has(batch, "relevance") {
            true => columns::numbers(batch, "relevance", first)?,
            false => vec![Some(1.0); batch.num_rows()],
        };
        let named = columns::names(batch, "query")?.into_iter().zip(columns::names(batch, item)?);
        for (row, ((query, name), relevance)) in (first..).zip(named.zip(relevances)) {
            let (Some(query), Some(name), Some(relevance)) = (query.as_ref(), name.as_ref(), relevance) else {
                let column = if query.is_none() {
                    "query"
                } else if name.is_none() {
                    item
                } else {
                    "relevance"
                };
                return Err(absent(row, column));
            };
            truth.add(query, name, relevance).map_err(|message| row_error(row, message))?;
        }
        Ok(())
    })?;
    if truth.queries() == 0 {
        return Err(wrong(location, "there are no rows"));
    }
    Ok(truth)
}

fn absent(row: u64, column: &str) -> gristmill::operators::OperatorError {
    row_error(row, format!("column '{column}': nothing; a value is needed"))
}

fn row_error(row: u64, message: String) -> gristmill::operators::OperatorError {
    gristmill::operators::OperatorError::Row { kind: "analysis".to_owned(), row, message }
}

fn text(found: &Found<'_>) -> Vec<String> {
    let all = found.retrieval;
    let mut lines = vec![format!(
        "{}: {} with something relevant, {} of them without a ranking; {} ranked without a truth, which do not count",
        found.ranking,
        if all.queries == 1 { "1 query".to_owned() } else { format!("{} queries", all.queries) },
        all.unranked,
        all.unjudged
    )];
    for (name, estimate) in [("MRR", all.mrr_estimate), ("mAP", all.map_estimate)] {
        let interval = format!("{} to {}", shown(estimate.low), shown(estimate.high));
        lines.push(format!("{name} {} (95 % of bootstrap means over queries: {interval})", shown(estimate.mean)));
    }
    let rows = all.at.iter().map(|at| {
        let mut row = vec![at.k.to_string()];
        row.extend([at.recall, at.precision, at.success, at.ndcg].map(shown));
        row
    });
    lines.push(table(&["k", "recall", "precision", "success", "nDCG"], rows.collect(), &[0, 1, 2, 3, 4]).to_string());
    let missed: Vec<&str> =
        all.each.iter().filter(|query| query.reciprocal_rank == 0.0).map(|query| query.query.as_str()).collect();
    if !missed.is_empty() {
        let shown = missed.iter().take(5).copied().collect::<Vec<&str>>().join(", ");
        let more = if missed.len() > 5 { ", …" } else { "" };
        lines.push(format!("{} with nothing relevant listed: {shown}{more}", number(missed.len() as u64, "time")));
    }
    lines
}

fn plots(all: &Retrieval) -> Vec<(String, String)> {
    let ks: Vec<String> = all.at.iter().map(|at| at.k.to_string()).collect();
    let series = [
        ("recall".to_owned(), all.at.iter().map(|at| at.recall).collect()),
        ("precision".to_owned(), all.at.iter().map(|at| at.precision).collect()),
        ("success".to_owned(), all.at.iter().map(|at| at.success).collect()),
        ("nDCG".to_owned(), all.at.iter().map(|at| at.ndcg).collect()),
    ];
    let each = [
        ("reciprocal rank".to_owned(), all.each.iter().map(|query| query.reciprocal_rank).collect()),
        ("average precision".to_owned(), all.each.iter().map(|query| query.average_precision).collect()),
    ];
    vec![
        (
            "at_k".to_owned(),
            chart::bars(Titles { title: "Means over queries", x: "first k documents", y: "mean" }, &ks, &series),
        ),
        ("queries".to_owned(), chart::boxes(Titles { title: "Queries", x: "measure", y: "value of a query" }, &each)),
    ]
}
