//! `gristmill analyze pairs`.

use std::path::Path;

use gristmill::operators::Resources;
use gristmill::operators::analysis::chart::{self, Titles};
use gristmill::operators::analysis::pairs::{FamilyNames, GreedyStep, PairReport, PairTable, families, report};
use serde::Serialize;

use super::arguments::PairsArguments;
use super::input::each;
use super::results::{shown, stem, unwritable};
use super::{Done, Failure, of, wrong};
use crate::cli::print_line;
use crate::cli::table::table;

#[derive(Serialize)]
struct Found<'a> {
    runs: &'a [String],
    #[serde(flatten)]
    report: &'a PairReport,
}

pub(super) fn pairs(arguments: PairsArguments, resources: &Resources) -> Done {
    let PairsArguments { runs, by, id, divergent, families: folder, setting, model, results } = arguments;
    let mut tables = Vec::new();
    for run in &runs {
        let mut batches = Vec::new();
        each(run, resources, |batch, _| {
            batches.push(batch.clone());
            Ok(())
        })?;
        tables.push(PairTable::read(&batches, &by, &id).map_err(|error| of(run, &error))?);
    }
    let name = match runs.as_slice() {
        [run] => stem(run),
        several => several.iter().map(|run| stem(run)).collect::<Vec<_>>().join("_"),
    };
    let all = PairTable::combine(tables).map_err(|error| of(&runs.join("', '"), &error))?;
    if all.rows().is_empty() {
        return Err(wrong(&runs.join("', '"), "no row has been compared with originals"));
    }
    let report = report(&all, divergent);
    let found = Found { runs: &runs, report: &report };
    results.give(&format!("pairs_{name}"), &found, || text(&found), || plots(&report))?;
    let Some(folder) = folder else { return Ok(()) };
    let names = FamilyNames { setting: &setting, model: &model, sample_size: None, part: None };
    let files = families(&all, &names).map_err(|error| Failure::Input(error.to_string()))?;
    for (path, content) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(|error| unwritable(&path, &error))?;
        std::fs::write(&path, content.to_string()).map_err(|error| unwritable(&path, &error))?;
        if !results.json {
            print_line(&format!("wrote {}", path.display()))?;
        }
    }
    Ok(())
}

fn text(found: &Found<'_>) -> Vec<String> {
    let all = found.report;
    let counted =
        |number: usize, what: &str| if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") };
    let mut lines = vec![format!(
        "{}: {}, {} with candidates, the true original of {} known",
        found.runs.join(", "),
        counted(all.samples, "sample"),
        counted(all.pairs, "pair"),
        all.known
    )];
    let mut rows = vec![
        vec!["a candidate by chance".to_owned(), shown(all.chance), shown(None)],
        vec!["the first by BM25".to_owned(), shown(all.bm25_accuracy), shown(None)],
        vec!["all tensors".to_owned(), shown(all.full.accuracy), shown(1.0)],
    ];
    rows.extend(all.projections.iter().map(|one| {
        vec![format!("projected to {}", one.dimensions), shown(one.retrieval.accuracy), shown(one.agreement)]
    }));
    lines.push(table(&["by", "accuracy", "agreement"], rows, &[1, 2]).to_string());
    let rows = all
        .components
        .iter()
        .map(|one| vec![one.component.clone(), one.tensors.to_string(), shown(one.accuracy), shown(one.agreement)]);
    lines
        .push(table(&["mean over layers", "tensors", "accuracy", "agreement"], rows.collect(), &[1, 2, 3]).to_string());
    for (aim, steps) in [("agreement", &all.by_agreement), ("accuracy", &all.by_accuracy)] {
        if steps.is_empty() {
            continue;
        }
        lines.push(format!(
            "tensors added one at a time for {aim}, the first {} of {}:",
            steps.len().min(5),
            steps.len()
        ));
        let rows = steps.iter().take(5).enumerate().map(|(place, step)| {
            vec![(place + 1).to_string(), step.tensor.clone(), shown(step.accuracy), shown(step.agreement)]
        });
        lines.push(table(&["", "tensor", "accuracy", "agreement"], rows.collect(), &[0, 2, 3]).to_string());
    }
    for one in &all.divergent {
        lines.push(format!("{} is judged differently by {} (distance {})", one.id, one.tensor, shown(one.distance)));
    }
    lines
}

fn plots(all: &PairReport) -> Vec<(String, String)> {
    let names: Vec<String> = all.components.iter().map(|one| one.component.clone()).collect();
    let mut series = vec![("agreement".to_owned(), all.components.iter().map(|one| one.agreement).collect())];
    if all.known > 0 {
        let accuracies = all.components.iter().map(|one| one.accuracy.unwrap_or(f64::NAN)).collect();
        series.insert(0, ("accuracy".to_owned(), accuracies));
    }
    let titles = Titles { title: "Means over layers", x: "component", y: "mean" };
    let line = |steps: &[GreedyStep], value: &dyn Fn(&GreedyStep) -> f64| -> Vec<(f64, f64)> {
        steps.iter().enumerate().map(|(place, step)| ((place + 1) as f64, value(step))).collect()
    };
    let mut greedy = vec![("agreement, chosen for it".to_owned(), line(&all.by_agreement, &|step| step.agreement))];
    if all.known > 0 {
        let accuracy = |step: &GreedyStep| step.accuracy.unwrap_or(f64::NAN);
        greedy.push(("accuracy, chosen for it".to_owned(), line(&all.by_accuracy, &accuracy)));
        greedy.push(("accuracy, chosen for agreement".to_owned(), line(&all.by_agreement, &accuracy)));
    }
    let added = Titles { title: "Tensors added one at a time", x: "tensors", y: "value" };
    vec![
        ("components".to_owned(), chart::bars(titles, &names, &series)),
        ("greedy".to_owned(), chart::lines(added, &greedy)),
    ]
}
