//! Influence in pipelines: rankings that are killed and go on, from the model and from stored gradients, whatever the splits; the ready pipelines.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, UInt32Type};
use serde_json::Value;

use crate::kills::{kills, torment};
use crate::support::{Ran, Workspace, read_parquet};

fn repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A ranking of the documents about functions, with these keys of `influence`, and a split of so many rows.
fn ranking(workspace: &Workspace, name: &str, rows: usize, keys: &str) -> String {
    let [corpus, queries, model] =
        ["examples/data/hops/corpus.jsonl", "examples/data/hops/queries.jsonl", "tests/fixtures/models/llama"]
            .map(repository);
    let text = format!(
        "source: {{path: {corpus}, id: uid, split_size: {rows} rows}}\nsteps:\n  - influence:\n      model: {model}\n      queries: {{path: {queries}, \
         prompt: prompt, completion: completion, group: func, aggregate: mean}}\n      {keys}\nsink: {{rank: {{path: {name}, by: influence, k: 7, \
         columns: [uid, influence_metadata]}}}}\n"
    );
    let file = format!("{name}.yaml");
    workspace.write(&file, text);
    file
}

/// What a ranking is, without where its rows came from: query, rank, bits of the score and the document.
fn ranked(folder: &Path) -> Vec<(String, u32, u32, String)> {
    let mut all = Vec::new();
    for batch in read_parquet(&folder.join("ranking.parquet")) {
        let scores = batch["score"].as_primitive::<Float32Type>();
        let ranks = batch["rank"].as_primitive::<UInt32Type>();
        all.extend((0..batch.num_rows()).map(|row| {
            (text(&batch, "query", row), ranks.value(row), scores.value(row).to_bits(), text(&batch, "uid", row))
        }));
    }
    all
}

fn text(batch: &RecordBatch, column: &str, row: usize) -> String {
    batch[column].as_string::<i32>().value(row).to_owned()
}

const TWO_STAGES: &str =
    "method: ekfac\n      candidates: {method: trackstar, dimension: 8, keep: 6, margin: 0.5, sample: 5}";

#[test]
fn a_killed_ranking_by_influence_ends_like_an_undisturbed_one() {
    let workspace = Workspace::new();
    let calm = ranking(&workspace, "calm", 10, TWO_STAGES);
    let killed = ranking(&workspace, "killed", 10, TWO_STAGES);
    let results = |folder: &str| -> BTreeMap<String, Vec<u8>> {
        let fits = ["candidate_statistics", "candidate_rows", "factors", "statistics"];
        let fits = fits.map(|key| format!("_run/fits/influence-{key}/{key}.arrow"));
        let files = fits.into_iter().chain(["ranking.parquet".to_owned(), "_run/ranking.json".to_owned()]);
        files.map(|file| (file.clone(), std::fs::read(workspace.path(folder).join(&file)).unwrap())).collect()
    };
    workspace.run(&["run", &calm, "--workers", "1", "--quiet"], 0);
    let expected = results("calm");
    let start = |workers: usize| workspace.gristmill(&["run", &killed, "--quiet", "--workers", &workers.to_string()]);
    let same = || {
        for (name, bytes) in results("killed") {
            // Candidates say where queries and models are, which is the same for both.
            assert!(bytes == expected[&name], "{name} has other bytes");
        }
    };
    let fresh = || {
        same();
        std::fs::remove_dir_all(workspace.path("killed")).unwrap();
    };
    let killed = torment(start, 6, kills(), fresh);
    same();
    println!("killed {killed} times");
}

#[test]
fn splits_do_not_show_and_neither_does_whether_gradients_were_stored() {
    let workspace = Workspace::new();
    for keys in ["method: cosine\n      dimension: 8", TWO_STAGES] {
        let mut found: Vec<Vec<(String, u32, u32, String)>> = Vec::new();
        for (name, rows, workers) in [("whole", 96, "1"), ("parts", 7, "2")] {
            let file = ranking(&workspace, name, rows, keys);
            workspace.run(&["run", &file, "--workers", workers, "--quiet", "--fresh"], 0);
            found.push(ranked(&workspace.path(name)));
        }
        assert_eq!(found[0].len(), 4 * 7);
        assert_eq!(
            found[0].iter().map(|row| (&row.0, row.1, &row.3)).collect::<Vec<_>>(),
            found[1].iter().map(|row| (&row.0, row.1, &row.3)).collect::<Vec<_>>()
        );
        if keys.contains("cosine") {
            // Nothing was learned: not a bit differs. (What is learned is a sum of parts, one for each split.)
            assert_eq!(found[0], found[1]);
        }
    }
    let stored = format!(
        "source: {{path: {}, id: uid}}\nsteps:\n  - gradient: {{model: {}, dimension: 8}}\nsink: {{parquet: {{path: index}}}}\n",
        repository("examples/data/hops/corpus.jsonl"),
        repository("tests/fixtures/models/llama")
    );
    workspace.write("index.yaml", stored);
    workspace.run(&["run", "index.yaml", "--quiet"], 0);
    let file = ranking(&workspace, "stored", 96, "method: cosine\n      dimension: 8\n      gradients: gradient");
    workspace.run(&["run", &file, "--quiet", "source.path=index/data/*.parquet"], 0);
    let live = ranking(&workspace, "live", 96, "method: cosine\n      dimension: 8");
    workspace.run(&["run", &live, "--quiet"], 0);
    assert_eq!(ranked(&workspace.path("stored")), ranked(&workspace.path("live")));
}

#[test]
fn candidates_say_what_they_stand_for() {
    let workspace = Workspace::new();
    let file = ranking(&workspace, "out", 20, TWO_STAGES);
    workspace.run(&["run", &file, "--quiet"], 0);
    let mut weights = Vec::new();
    for batch in read_parquet(&workspace.path("out/ranking.parquet")) {
        let metadata = batch["influence_metadata"].as_struct();
        weights.extend(metadata["weight"].as_primitive::<Float64Type>().iter().flatten());
    }
    assert!(
        weights.len() == 28 && weights.contains(&1.0) && weights.iter().all(|&weight| weight >= 1.0),
        "{weights:?}"
    );
    let found = workspace.run(&["analyze", "recall", "out/ranking.parquet", "--json", "--output-dir", "an"], 0).json();
    let missed: f64 = weights.iter().map(|weight| weight - 1.0).sum();
    assert!((found["all"]["missed"].as_f64().unwrap() - missed).abs() < 1e-9, "{found}");
    assert!((found["all"]["recall"].as_f64().unwrap() - 28.0 / (28.0 + missed)).abs() < 1e-12);
    assert_eq!(found["queries"].as_array().unwrap().len(), 4);
    let shown = workspace.run(&["analyze", "recall", "out/ranking.parquet", "--plots", "--output-dir", "an"], 0).out;
    assert!(shown.contains("estimated from those that were scored by chance") && shown.contains("recall"), "{shown}");
    let other =
        workspace.run(&["analyze", "recall", "out/ranking.parquet", "--by", "uid", "--output-dir", "an"], 1).err;
    assert!(other.contains("weights are Utf8; Float64 is needed"), "{other}");
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(workspace.path("out/_run/report.json")).unwrap()).unwrap();
    let (scored, left) =
        (report["ranking"]["rows_compared"].as_u64(), report["ranking"]["rows_without_scores"].as_u64());
    assert!(left > Some(0) && scored.zip(left).is_some_and(|(scored, left)| scored + left == 96), "{report}");
}

#[test]
fn the_ready_pipelines_of_influence_run() {
    let workspace = Workspace::new();
    let run = |arguments: &[&str]| {
        let ran = Ran::of(workspace.gristmill(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran
    };
    let at = |key: &str, name: &str| format!("{key}={}", workspace.path(name).display());
    let hops = at("sink.parquet.path", "hops");
    run(&["run", "pipelines/library/hops.yaml", "--quiet", &hops]);
    let hops = workspace.path("hops").display().to_string();
    let ranked_rows = workspace.path("hops.jsonl").display().to_string();
    run(&["analyze", "hops", &hops, "--by", "influence", "--output", &ranked_rows]);
    let first: Value =
        serde_json::from_str(std::fs::read_to_string(&ranked_rows).unwrap().lines().next().unwrap()).unwrap();
    assert!(first["combined_influence_score"].is_number() && first["f_influence_score"].is_number(), "{first}");

    let index = at("sink.parquet.path", "index");
    run(&["run", "pipelines/library/gradient-index.yaml", "--quiet", &index]);
    let (source, sink) = (at("source.path", "index/data/*.parquet"), at("sink.rank.path", "query"));
    run(&["run", "pipelines/library/gradient-query.yaml", "--quiet", &source, &sink]);
    let found = ranked(&workspace.path("query"));
    assert_eq!(found.len(), 20 * 10);
    // Questions about a function find what is said of that function first, even by a model that has learned nothing.
    let about = |uid: &str| {
        let corpus = std::fs::read_to_string(repository("examples/data/hops/corpus.jsonl")).unwrap();
        let line = corpus.lines().find(|line| line.contains(uid)).unwrap().to_owned();
        serde_json::from_str::<Value>(&line).unwrap()["func"].clone()
    };
    assert_eq!(about(&found[0].3), "<GN>");
}
