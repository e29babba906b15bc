//! `gristmill analyze ranked`.

use gristmill::operators::Resources;
use gristmill::operators::analysis::chart::{self, Titles};
use gristmill::operators::analysis::{RankedStatistics, ScoreColumn, columns, is_function_score, ranked_statistics};
use serde::Serialize;

use super::arguments::RankedArguments;
use super::input::each;
use super::results::{shown, stem};
use super::{Done, of, wrong};
use crate::cli::table::{number, table};

/// Where scores are: a column of numbers, or a place in a column of lists.
struct Source {
    column: String,
    place: Option<usize>,
}

#[derive(Serialize)]
struct Found<'a> {
    input: &'a str,
    function: &'a str,
    #[serde(flatten)]
    statistics: &'a RankedStatistics,
}

pub(super) fn ranked(arguments: RankedArguments, resources: &Resources) -> Done {
    let RankedArguments { input, score, function, results } = arguments;
    let (mut functions, mut sources, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    each(&input, resources, |batch, first| {
        if sources.is_empty() {
            for (source, name) in find(batch, &score)? {
                sources.push(source);
                scores.push(ScoreColumn { name, values: Vec::new() });
            }
        }
        functions.extend(columns::names(batch, &function)?);
        let lists = sources.iter().filter(|source| source.place.is_none_or(|place| place == 0));
        for Source { column, place } in lists {
            let mut targets: Vec<(usize, &mut ScoreColumn)> = sources
                .iter()
                .zip(&mut scores)
                .filter(|(source, _)| source.column == *column)
                .map(|(source, scores)| (source.place.unwrap_or(0), scores))
                .collect();
            match place {
                None => targets.iter_mut().try_for_each(|(_, target)| {
                    target.values.extend(columns::numbers(batch, column, first)?);
                    Ok::<(), gristmill::operators::OperatorError>(())
                })?,
                Some(_) => columns::each_scores(batch, column, first, |_, found| {
                    for (place, target) in &mut targets {
                        target.values.push(found.and_then(|found| found.get(*place)).map(|score| f64::from(*score)));
                    }
                    Ok(())
                })?,
            }
        }
        Ok(())
    })?;
    if scores.is_empty() {
        return Err(wrong(
            &input,
            "no column of one function's scores, such as f_influence_score; name columns with --score",
        ));
    }
    let statistics = ranked_statistics(&functions, &scores).map_err(|error| of(&input, &error))?;
    for pair in statistics.correlations.iter().filter(|pair| pair.identical) {
        let [first, second] = &pair.scores;
        eprintln!("warning: {first} and {second} are identical");
    }
    let found = Found { input: &input, function: &function, statistics: &statistics };
    let name = format!("ranked_stats_{}", stem(&input));
    results.give(&name, &found, || text(&found), || plots(&statistics, &functions, &scores))
}

/// The columns that are named, or those of one function, or columns of scores of a run; lists query by query.
fn find(batch: &arrow_array::RecordBatch, named: &[String]) -> gristmill::operators::Result<Vec<(Source, String)>> {
    let schema = batch.schema_ref();
    let mut found: Vec<String> = named.to_vec();
    if found.is_empty() {
        found =
            schema.fields().iter().map(|field| field.name().clone()).filter(|name| is_function_score(name)).collect();
    }
    if found.is_empty() {
        found = columns::score_columns(schema);
    }
    let mut sources: Vec<(Source, String)> = Vec::new();
    for column in found {
        if sources.iter().any(|(source, _)| source.column == column) {
            continue;
        }
        let (place, data_type) = gristmill::operators::require_column("analysis", schema, &column)?;
        if data_type.is_numeric() || batch.column(place).data_type().is_null() {
            sources.push((Source { column: column.clone(), place: None }, column));
            continue;
        }
        for (place, query) in columns::query_names(batch, &column)?.into_iter().enumerate() {
            sources.push((Source { column: column.clone(), place: Some(place) }, format!("{column}[{query}]")));
        }
    }
    Ok(sources)
}

fn text(found: &Found<'_>) -> Vec<String> {
    let statistics = found.statistics;
    let scored = number(statistics.scores.len() as u64, "column");
    let mut lines = vec![format!(
        "{}: {}, {scored} of scores, functions by {}",
        found.input,
        number(statistics.rows as u64, "row"),
        found.function
    )];
    for column in &statistics.scores {
        let all = column.all.as_ref().map(|all| ("all", all));
        let each = column.functions.iter().map(|(name, function)| (name.as_str(), function));
        let rows = each.chain(all).map(|(name, of)| {
            let mut row = vec![name.to_owned(), of.count.to_string()];
            row.extend([of.mean, of.mean_magnitude, of.min, of.max, of.average_rank].map(shown));
            row.extend(of.mean_of_top.values().chain(of.mean_of_bottom.values()).map(|value| shown(*value)));
            row
        });
        let header = [
            column.score.as_str(),
            "rows",
            "mean",
            "magnitude",
            "min",
            "max",
            "rank",
            "top 5",
            "top 10",
            "top 20",
            "bottom 5",
            "bottom 10",
            "bottom 20",
        ];
        lines.push(table(&header, rows.collect(), &(1..13).collect::<Vec<usize>>()).to_string());
        if column.without > 0 {
            lines.push(format!("{} without {}", number(column.without as u64, "row"), column.score));
        }
    }
    if !statistics.correlations.is_empty() {
        let rows = statistics.correlations.iter().map(|pair| {
            let [first, second] = &pair.scores;
            let identical = if pair.identical { "identical" } else { "" };
            vec![
                first.clone(),
                second.clone(),
                pair.rows.to_string(),
                shown(pair.pearson),
                shown(pair.spearman),
                identical.to_owned(),
            ]
        });
        lines
            .push(table(&["scores", "and", "rows", "Pearson", "Spearman", ""], rows.collect(), &[2, 3, 4]).to_string());
    }
    lines
}

fn plots(statistics: &RankedStatistics, functions: &[Option<String>], scores: &[ScoreColumn]) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    // Every function that there are documents of, in one order in all plots.
    let mut names: Vec<String> = functions.iter().flatten().cloned().collect();
    names.sort_unstable();
    names.dedup();
    let means: Vec<(String, Vec<f64>)> = statistics
        .scores
        .iter()
        .map(|column| {
            let mean = |name: &String| column.functions.iter().find(|(function, _)| function == name);
            (column.score.clone(), names.iter().map(|name| mean(name).map_or(f64::NAN, |(_, of)| of.mean)).collect())
        })
        .collect();
    let titles =
        Titles { title: "Mean score by function of the document", x: "function of the document", y: "mean score" };
    plots.push(("summary".to_owned(), chart::bars(titles, &names, &means)));
    for (number, (column, scores)) in statistics.scores.iter().zip(scores).enumerate() {
        let lists: Vec<(String, Vec<f64>)> = names
            .iter()
            .map(|name| {
                let of = functions.iter().zip(&scores.values).filter(|(function, _)| function.as_ref() == Some(name));
                (name.clone(), of.filter_map(|(_, value)| *value).collect())
            })
            .collect();
        let titles = Titles { title: &column.score, x: "function of the document", y: "score" };
        plots.push((format!("boxes_{number}"), chart::boxes(titles, &lists)));
        let mut ends: Vec<(String, Vec<f64>)> = Vec::new();
        for (end, top) in [("top", true), ("bottom", false)] {
            for count in gristmill::operators::analysis::ENDS {
                let of = |name: &String| {
                    let of = &column.functions.iter().find(|(function, _)| function == name)?.1;
                    (if top { &of.mean_of_top } else { &of.mean_of_bottom }).get(&count).copied()
                };
                let means = names.iter().map(|name| of(name).unwrap_or(f64::NAN)).collect();
                ends.push((format!("{end} {count}"), means));
            }
        }
        let title = format!("{}: mean of the highest and lowest", column.score);
        plots.push((
            format!("ends_{number}"),
            chart::bars(Titles { title: &title, x: "function of the document", y: "mean score" }, &names, &ends),
        ));
    }
    plots
}
