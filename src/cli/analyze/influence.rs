//! `gristmill analyze influence`.

use std::collections::HashMap;

use gristmill::operators::analysis::chart::{self, Titles};
use gristmill::operators::analysis::{
    InfluenceAnalysis, InfluenceRow, OrderAnalysis, Summary, TOP_PERCENT, columns, influence as analyze,
};
use gristmill::operators::{Resources, Result};
use serde::Serialize;

use super::arguments::InfluenceArguments;
use super::input::{each, has};
use super::results::{shown, stem};
use super::{Done, Failure, of, wrong};
use crate::cli::table::{number, percent, table};

/// Rows of each end that a detailed analysis shows.
const ENDS: usize = 10;

/// A row of the input before its status is known.
struct Scored {
    row: InfluenceRow,
    key: Option<String>,
}

/// What is known of a row of the data set.
#[derive(Clone, Default, PartialEq)]
struct Status {
    trained: Option<bool>,
    group: Option<String>,
    experiment: Option<String>,
}

#[derive(Serialize)]
struct Found<'a> {
    input: &'a str,
    score: &'a str,
    #[serde(flatten)]
    analysis: &'a InfluenceAnalysis,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<Ends<'a>>,
}

#[derive(Serialize)]
struct Ends<'a> {
    highest: Vec<&'a InfluenceRow>,
    lowest: Vec<&'a InfluenceRow>,
}

pub(super) fn influence(arguments: InfluenceArguments, resources: &Resources) -> Done {
    let InfluenceArguments { input, score, status, on, detailed, results } = arguments;
    let (mut rows, mut score) = (Vec::new(), score);
    each(&input, resources, |batch, first| {
        let column = match &score {
            Some(column) => column.clone(),
            None => score.insert(score_column(batch)?).clone(),
        };
        // A file with scores of its own says what it can of the status.
        let own = if status.is_none() { statuses(batch)? } else { vec![Status::default(); batch.num_rows()] };
        let keys = match &on {
            Some(on) => columns::names(batch, on)?,
            None => vec![None; batch.num_rows()],
        };
        let indices = match has(batch, "original_index") {
            true => columns::numbers(batch, "original_index", first)?,
            false => (first..).take(batch.num_rows()).map(|row| Some(row as f64)).collect(),
        };
        let scores = columns::numbers(batch, &column, first)?;
        for (((row, score), (index, key)), own) in (first..).zip(scores).zip(indices.into_iter().zip(keys)).zip(own) {
            // Rows that were not scored have nothing to say.
            let Some(score) = score else { continue };
            let index = index.map_or(row, |index| index as u64);
            let Status { trained, group, experiment } = own;
            rows.push(Scored { row: InfluenceRow { index, score, trained, group, experiment }, key });
        }
        Ok(())
    })?;
    if let Some(status) = &status {
        join(&mut rows, &input, status, on.as_deref(), resources)?;
    }
    let mut rows: Vec<InfluenceRow> = rows.into_iter().map(|scored| scored.row).collect();
    let analysis = analyze(&rows).map_err(|error| of(status.as_ref().unwrap_or(&input), &error))?;
    rows.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
    let ends = || Ends {
        highest: rows.iter().take(ENDS).collect(),
        lowest: rows.iter().skip(rows.len().saturating_sub(ENDS)).collect(),
    };
    let found = Found {
        input: &input,
        score: score.as_deref().unwrap_or_default(),
        analysis: &analysis,
        ends: detailed.then(ends),
    };
    let name = format!("influence_analysis_{}", stem(&input));
    results.give(&name, &found, || text(&found), || plots(&analysis, &rows))
}

fn score_column(batch: &arrow_array::RecordBatch) -> Result<String> {
    for name in ["combined_influence_score", "influence_score"] {
        if has(batch, name) {
            return Ok(name.to_owned());
        }
    }
    let fields = batch.schema_ref().fields();
    let combined: Vec<&String> = fields
        .iter()
        .map(|field| field.name())
        .filter(|name| name.starts_with("combined_") && name.ends_with("_score"))
        .collect();
    match combined.as_slice() {
        [one] => Ok((*one).clone()),
        // Says that there is none, and which columns there are.
        _ => gristmill::operators::require_column("analysis", batch.schema_ref(), "combined_influence_score")
            .map(|_| String::new()),
    }
}

fn statuses(batch: &arrow_array::RecordBatch) -> Result<Vec<Status>> {
    let trained = columns::names(batch, "training_status")?;
    let optional = |name: &str| match has(batch, name) {
        true => columns::names(batch, name),
        false => Ok(vec![None; batch.num_rows()]),
    };
    let (groups, experiments) = (optional("split_group")?, optional("experiment_type")?);
    let status =
        |(row, ((trained, group), experiment)): (usize, ((Option<String>, Option<String>), Option<String>))| {
            let trained = match trained.as_deref() {
                Some("trained") => Some(true),
                Some("untrained") => Some(false),
                None => None,
                Some(other) => {
                    let message = format!("column 'training_status': '{other}'; 'trained' and 'untrained' are allowed");
                    return Err(gristmill::operators::OperatorError::Row {
                        kind: "analysis".to_owned(),
                        row: row as u64,
                        message,
                    });
                }
            };
            Ok(Status { trained, group, experiment })
        };
    trained.into_iter().zip(groups).zip(experiments).enumerate().map(status).collect()
}

/// Gives rows what the table of statuses says of them, by position, or by the values of a column.
fn join(
    rows: &mut [Scored],
    input: &str,
    status: &str,
    on: Option<&str>,
    resources: &Resources,
) -> Result<(), Failure> {
    let (mut known, mut by_key) = (Vec::new(), HashMap::new());
    let mut twice = None;
    each(status, resources, |batch, first| {
        let statuses = statuses(batch)?;
        match on {
            None => known.extend(statuses),
            Some(on) => {
                for ((row, key), status) in (first..).zip(columns::names(batch, on)?).zip(statuses) {
                    let Some(key) = key else { continue };
                    if by_key.insert(key.clone(), status.clone()).is_some_and(|other| other != status) {
                        twice.get_or_insert((row, key));
                    }
                }
            }
        }
        Ok(())
    })?;
    if let (Some((row, key)), Some(on)) = (twice, on) {
        return Err(wrong(
            status,
            &format!(
                "row {row}: column '{on}': '{key}' has another status in an earlier row; join by position, or on a column with one status for each value"
            ),
        ));
    }
    for scored in rows {
        let found = match on {
            None => usize::try_from(scored.row.index).ok().and_then(|index| known.get(index)),
            Some(_) => scored.key.as_ref().and_then(|key| by_key.get(key)),
        };
        let Some(Status { trained, group, experiment }) = found else {
            let index = scored.row.index;
            return Err(wrong(
                input,
                &match (on, &scored.key) {
                    (Some(on), Some(key)) => format!("row {index}: column '{on}': '{key}' is not in '{status}'"),
                    (Some(on), None) => format!("row {index}: column '{on}': nothing; a value of '{status}' is needed"),
                    (None, _) => format!("original_index {index} is not in '{status}', which has {} rows", known.len()),
                },
            ));
        };
        (scored.row.trained, scored.row.group, scored.row.experiment) = (*trained, group.clone(), experiment.clone());
    }
    Ok(())
}

fn text(found: &Found<'_>) -> Vec<String> {
    let analysis = found.analysis;
    let mut lines = vec![format!(
        "{}: {} by {}, {} trained and {} untrained, {} of unknown status left out",
        found.input,
        number(analysis.rows as u64, "row"),
        found.score,
        analysis.by_status["trained"],
        analysis.by_status["untrained"],
        analysis.by_status["unknown"]
    )];
    for (what, counts) in [("split_group", &analysis.by_group), ("experiment_type", &analysis.by_experiment)] {
        if !counts.is_empty() {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            lines.push(format!("{what}: {}", counts.join(", ")));
        }
    }
    let orders = [("score", &analysis.by_score), ("magnitude", &analysis.by_magnitude)];
    let halves = orders.map(|(name, order)| {
        let half = order.top_half;
        vec![
            name.to_owned(),
            format!("{} of {}", half.trained, half.rows),
            percent(half.precision, 1.0),
            percent(analysis.expected, 1.0),
            percent(half.recall, 1.0),
            order.verdict.name().to_owned(),
        ]
    });
    let header = ["upper half by", "trained", "share", "by chance", "of all trained", "verdict"];
    lines.push(table(&header, halves.to_vec(), &[1, 2, 3, 4]).to_string());
    lines.push(summaries(&orders, found.ends.is_some()));
    if let Some(ends) = &found.ends {
        let tops = orders.iter().flat_map(|(name, order)| {
            order.at.iter().map(move |at| {
                let mut row = vec![format!("{name}, {} %", at.percent), at.rows.to_string(), at.trained.to_string()];
                row.extend([at.precision, at.recall, at.f1].map(shown));
                row
            })
        });
        lines.push(
            table(&["top by", "rows", "trained", "precision", "recall", "F1"], tops.collect(), &[1, 2, 3, 4, 5])
                .to_string(),
        );
        let groups = analysis.groups.iter().flat_map(|(name, group)| {
            [("score", group.score), ("magnitude", group.magnitude)]
                .map(|(what, summary)| summary_row(format!("{name}, {what}"), &summary))
        });
        lines.push(
            table(
                &["split_group", "rows", "mean", "std", "median", "min", "max"],
                groups.collect(),
                &[1, 2, 3, 4, 5, 6],
            )
            .to_string(),
        );
        let rows = ends.highest.iter().map(|row| ("highest", row)).chain(ends.lowest.iter().map(|row| ("lowest", row)));
        let rows = rows.map(|(end, row)| {
            let status = row.trained.map_or("unknown", |trained| if trained { "trained" } else { "untrained" });
            vec![
                end.to_owned(),
                row.index.to_string(),
                shown(row.score),
                status.to_owned(),
                row.group.clone().unwrap_or_default(),
            ]
        });
        lines.push(table(&["end", "index", "score", "status", "group"], rows.collect(), &[1, 2]).to_string());
    }
    lines.push(format!("overall: {}", analysis.verdict.name()));
    lines
}

fn summaries(orders: &[(&str, &OrderAnalysis); 2], detailed: bool) -> String {
    let rows = orders.iter().flat_map(|(name, order)| {
        let of = &order.statistics;
        let mut rows = vec![
            summary_row(format!("{name}, trained"), &of.trained),
            summary_row(format!("{name}, untrained"), &of.untrained),
        ];
        let difference = of.difference;
        let mut row = vec![format!("{name}, difference"), String::new()];
        row.extend([difference.mean, difference.std, difference.median, difference.min, difference.max].map(shown));
        rows.push(row);
        rows
    });
    let rows: Vec<Vec<String>> = rows.filter(|row| detailed || row[0].starts_with("score")).collect();
    table(&["", "rows", "mean", "std", "median", "min", "max"], rows, &[1, 2, 3, 4, 5, 6]).to_string()
}

fn summary_row(name: String, summary: &Summary) -> Vec<String> {
    let mut row = vec![name, summary.count.to_string()];
    row.extend([summary.mean, summary.std, summary.median, summary.min, summary.max].map(shown));
    row
}

fn plots(analysis: &InfluenceAnalysis, rows: &[InfluenceRow]) -> Vec<(String, String)> {
    let of = |status: bool| rows.iter().filter(|row| row.trained == Some(status)).map(|row| row.score).collect();
    let boxes = [("trained".to_owned(), of(true)), ("untrained".to_owned(), of(false))];
    let tops: Vec<String> = TOP_PERCENT.iter().map(|percent| format!("{percent} %")).collect();
    let at =
        |pick: fn(&gristmill::operators::analysis::TopRows) -> f64| analysis.by_score.at.iter().map(pick).collect();
    let series = [
        ("precision".to_owned(), at(|at| at.precision)),
        ("recall".to_owned(), at(|at| at.recall)),
        ("F1".to_owned(), at(|at| at.f1)),
        ("by chance".to_owned(), vec![analysis.expected; TOP_PERCENT.len()]),
    ];
    // How many of the trained rows are among the first ones, as the list grows.
    let known: Vec<bool> = rows.iter().filter_map(|row| row.trained).collect();
    let trained = known.iter().filter(|trained| **trained).count().max(1) as f64;
    let stride = known.len().div_ceil(400).max(1);
    let mut found = 0.0;
    let mut curve = vec![(0.0, 0.0)];
    for (position, trained_row) in known.iter().enumerate() {
        found += f64::from(u8::from(*trained_row));
        if (position + 1) % stride == 0 || position + 1 == known.len() {
            curve.push(((position + 1) as f64 / known.len() as f64, found / trained));
        }
    }
    let curves = [("by score".to_owned(), curve), ("by chance".to_owned(), vec![(0.0, 0.0), (1.0, 1.0)])];
    vec![
        (
            "scores".to_owned(),
            chart::boxes(Titles { title: "Scores of trained and untrained rows", x: "status", y: "score" }, &boxes),
        ),
        (
            "top".to_owned(),
            chart::bars(
                Titles { title: "Trained rows among the highest", x: "top rows by score", y: "share" },
                &tops,
                &series,
            ),
        ),
        (
            "recall".to_owned(),
            chart::lines(
                Titles { title: "Trained rows found", x: "share of rows, highest first", y: "share of trained rows" },
                &curves,
            ),
        ),
    ]
}
