//! `gristmill analyze lds`.

use std::collections::HashMap;

use gristmill::operators::Resources;
use gristmill::operators::analysis::chart::{self, Titles};
use gristmill::operators::analysis::{
    Bootstrap, Lds, MeanEstimate, SubsetSums, columns, lds as analyze, lds_difference,
};
use serde::Serialize;

use super::arguments::LdsArguments;
use super::input::{each, each_scores, names, positions, present, score_columns};
use super::results::{shown, stem};
use super::{Done, Failure, of, wrong};
use crate::cli::table::table;

/// So many scores are compared pair by pair on the terminal.
const FEW: usize = 6;

#[derive(Serialize)]
struct Found {
    subsets: usize,
    queries: Vec<String>,
    scores: Vec<Scores>,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Scores {
    scores: String,
    rows_without_scores: u64,
    #[serde(flatten)]
    lds: Lds,
}

/// By how much the first scores are better, query by query.
#[derive(Serialize)]
struct Difference {
    scores: [String; 2],
    #[serde(flatten)]
    estimate: MeanEstimate,
}

/// Outputs of models by query and subset.
struct Outputs {
    queries: Vec<String>,
    /// `[subsets, queries]`.
    values: Vec<f64>,
}

pub(super) fn lds(arguments: LdsArguments, resources: &Resources) -> Done {
    let LdsArguments { scores, subsets: subsets_at, outputs: outputs_at, losses, by, queries, intervals, results } =
        arguments;
    let (subset_names, subsets) = read_subsets(&subsets_at, resources)?;
    let outputs = read_outputs(&outputs_at, &subset_names, if losses { -1.0 } else { 1.0 }, resources)?;
    let given = queries.as_ref().map(|queries| names(queries, "id", resources)).transpose()?;
    let bootstrap = Bootstrap::from(intervals);
    let mut found = Vec::new();
    for scored in score_columns(&scores, &by, resources)? {
        let begin = |names: &[String]| SubsetSums::new(&subsets, names.len());
        let (sums, own) = each_scores(&scored, resources, begin, |sums, scores| sums.add(scores))?;
        let have = match &given {
            Some(given) if given.len() == own.len() => given,
            Some(given) => {
                let message = format!(
                    "column '{}' has {} scores a row, and --queries {} names",
                    scored.column,
                    own.len(),
                    given.len()
                );
                return Err(wrong(&scored.location, &message));
            }
            None => &own,
        };
        let places = positions(&outputs.queries, have, &scored.location)?;
        let rows_without_scores = sums.rows_without_scores();
        let sums = sums.finish().map_err(|error| of(&subsets_at, &error))?;
        let sums: Vec<f64> =
            sums.chunks(have.len()).flat_map(|subset| places.iter().map(|&place| subset[place])).collect();
        let lds = analyze(&sums, &outputs.values, subsets.len(), places.len(), bootstrap)
            .map_err(|error| of(&outputs_at, &error))?;
        found.push(Scores { scores: scored.name, rows_without_scores, lds });
    }
    let pairs = (0..found.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    let differences = pairs.filter_map(|(first, second)| {
        let (mut a, mut b) = (&found[first], &found[second]);
        if a.lds.estimate.mean < b.lds.estimate.mean {
            (a, b) = (b, a);
        }
        let estimate = lds_difference(&a.lds, &b.lds, bootstrap)?;
        Some(Difference { scores: [a.scores.clone(), b.scores.clone()], estimate })
    });
    let differences = differences.collect();
    let found = Found { subsets: subsets.len(), queries: outputs.queries, scores: found, differences };
    let name = format!("lds_{}", scores.first().map(|first| stem(first)).unwrap_or_default());
    results.give(&name, &found, || text(&found), || plots(&found))
}

fn read_subsets(location: &str, resources: &Resources) -> Result<(Vec<String>, Vec<Vec<u64>>), Failure> {
    let (mut subsets, mut rows) = (Vec::new(), Vec::new());
    each(location, resources, |batch, first| {
        subsets.extend(columns::names(batch, "subset")?);
        rows.extend(columns::position_lists(batch, "rows", first)?);
        Ok(())
    })?;
    let subsets = present(location, "subset", subsets)?;
    let mut seen = HashMap::new();
    for (row, subset) in subsets.iter().enumerate() {
        if let Some(other) = seen.insert(subset, row) {
            return Err(wrong(location, &format!("row {row}: column 'subset': '{subset}' is in row {other}, too")));
        }
    }
    // Subsets and their rows are checked once, where the location is known.
    SubsetSums::new(&rows, 0).map_err(|error| of(location, &error))?;
    Ok((subsets, rows))
}

fn read_outputs(location: &str, subsets: &[String], sign: f64, resources: &Resources) -> Result<Outputs, Failure> {
    let place: HashMap<&str, usize> = subsets.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let (mut subset_of, mut query_of, mut values) = (Vec::new(), Vec::new(), Vec::new());
    each(location, resources, |batch, first| {
        subset_of.extend(columns::names(batch, "subset")?);
        query_of.extend(columns::names(batch, "query")?);
        values.extend(columns::numbers(batch, "output", first)?);
        Ok(())
    })?;
    let (subset_of, query_of) = (present(location, "subset", subset_of)?, present(location, "query", query_of)?);
    let (mut queries, mut query_place) = (Vec::new(), HashMap::new());
    let mut sums: HashMap<(usize, usize), (f64, u32)> = HashMap::new();
    for (row, ((subset, query), value)) in subset_of.iter().zip(query_of).zip(values).enumerate() {
        let Some(value) = value else {
            return Err(wrong(location, &format!("row {row}: column 'output': nothing; a number is needed")));
        };
        let Some(&subset) = place.get(subset.as_str()) else {
            let message = format!("row {row}: column 'subset': '{subset}' is not among the {} subsets", subsets.len());
            return Err(wrong(location, &message));
        };
        let query = *query_place.entry(query.clone()).or_insert_with(|| {
            queries.push(query);
            queries.len() - 1
        });
        let (sum, count) = sums.entry((subset, query)).or_default();
        *sum += value;
        *count += 1;
    }
    let all = (0..subsets.len()).flat_map(|subset| (0..queries.len()).map(move |query| (subset, query)));
    let output = |(subset, query): (usize, usize)| match sums.get(&(subset, query)) {
        Some((sum, count)) => Ok(sign * sum / f64::from(*count)),
        None => {
            Err(wrong(location, &format!("no output of subset '{}' for query '{}'", subsets[subset], queries[query])))
        }
    };
    let values = all.map(output).collect::<Result<Vec<f64>, Failure>>()?;
    if values.is_empty() {
        return Err(wrong(location, "there are no rows"));
    }
    Ok(Outputs { queries, values })
}

fn text(found: &Found) -> Vec<String> {
    let mut lines = vec![format!("{} subsets, {} queries", found.subsets, found.queries.len())];
    let rows = found.scores.iter().map(|scores| {
        let Lds { estimate, undefined, .. } = &scores.lds;
        vec![
            scores.scores.clone(),
            shown(estimate.mean),
            shown(estimate.standard_error),
            format!("{} to {}", shown(estimate.low), shown(estimate.high)),
            undefined.to_string(),
        ]
    });
    lines.push(
        table(&["scores", "LDS", "standard error", "95 % interval", "undefined"], rows.collect(), &[1, 2, 3, 4])
            .to_string(),
    );
    for scores in found.scores.iter().filter(|scores| scores.rows_without_scores > 0) {
        lines.push(format!(
            "{}: {} rows of subsets have no scores and count as zeros",
            scores.scores, scores.rows_without_scores
        ));
    }
    if !found.differences.is_empty() {
        // Of many scores the best is compared with the others; the JSON file has all pairs.
        let mean = |scores: &&Scores| scores.lds.estimate.mean;
        let best = found.scores.iter().max_by(|one, other| mean(one).total_cmp(&mean(other)));
        let best = best.filter(|_| found.scores.len() > FEW).map(|best| best.scores.as_str());
        let pairs =
            found.differences.iter().filter(|pair| best.is_none_or(|best| pair.scores.iter().any(|one| one == best)));
        let rows = pairs.map(|Difference { scores: [better, other], estimate }| {
            let interval = format!("{} to {}", shown(estimate.low), shown(estimate.high));
            vec![better.clone(), other.clone(), shown(estimate.mean), interval]
        });
        lines.push(table(&["scores", "above", "by", "95 % interval"], rows.collect(), &[2, 3]).to_string());
    }
    lines
}

fn plots(found: &Found) -> Vec<(String, String)> {
    let each: Vec<(String, Vec<f64>)> =
        found.scores.iter().map(|scores| (scores.scores.clone(), scores.lds.each.clone())).collect();
    let names: Vec<String> = each.iter().map(|(name, _)| name.clone()).collect();
    let means = [("LDS".to_owned(), found.scores.iter().map(|scores| scores.lds.estimate.mean).collect())];
    let title = "Linear datamodeling score";
    vec![
        ("means".to_owned(), chart::bars(Titles { title, x: "scores", y: "mean over queries" }, &names, &means)),
        ("queries".to_owned(), chart::boxes(Titles { title, x: "scores", y: "rank correlation of a query" }, &each)),
    ]
}
