//! Rankings: the sink `rank`, and what steps learn from the corpus before they score it.
//!
//! The kind `overlap` (`overlap.rs`) is one of these tests. Since the binary does not know it, runs that are killed are those of this test binary, started again for a test that does nothing but run a pipeline.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type, UInt32Type, UInt64Type};
use gristmill::operators::{scores, tables};
use gristmill::pipelines::run::{self, RunOptions, RunReport, Unobserved};
use gristmill::pipelines::{Environment, PipelineError, PipelineFile, run_tests};
use serde_json::{Value, json};

use crate::kills::{kills, torment};
use crate::overlap::{Overlap, OverlapCounts};
use crate::s3::server;
use crate::support::{Ran, Workspace, lines, read_parquet, rows};

const WORDS: &str = "[wheat, weevil, mill, '5:']";

/// A pipeline that scores a corpus.
fn scored(source: &str, sink: &str) -> String {
    format!(
        "name: scored\nsource: {{path: \"{source}\", split_size: 100 rows}}\nsteps:\n  - filter: {{keep: id % 11 <> 3 OR id IS NULL, reason: eleventh}}\n  - overlap: {{queries: {WORDS}}}\nsink: {sink}\n"
    )
}

fn ranked(source: &str, folder: &str) -> String {
    scored(
        source,
        &format!("{{rank: {{path: \"{folder}\", by: overlap, k: 25, columns: [id, text], rejected: true}}}}"),
    )
}

/// 1,500 rows in files of different lengths; some have no text, or scores that are not numbers.
fn corpus(workspace: &Workspace) {
    for (file, (first, rows)) in [(0, 700), (700, 450), (1150, 350)].into_iter().enumerate() {
        let mut text = lines(first, rows);
        if file == 1 {
            text.push_str(
                "{\"id\": 5000, \"text\": null, \"lang\": \"en\"}\n{\"id\": 5001, \"text\": \"not-a-number wheat\"}\n",
            );
        }
        workspace.write(&format!("corpus/{file}.jsonl"), text);
    }
}

fn environment() -> Environment {
    Environment::standard().unwrap().with_operator(Arc::new(Overlap)).with_operator(Arc::new(OverlapCounts))
}

fn try_run(text: &str, overrides: &[&str], workers: usize) -> std::result::Result<RunReport, PipelineError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let file = PipelineFile::parse("p.yaml", text, overrides)?;
        let options = RunOptions { workers, fresh: false };
        run::run(&file, &environment(), &options, Arc::new(Unobserved)).await
    })
}

fn run_it(text: &str, overrides: &[&str], workers: usize) -> RunReport {
    try_run(text, overrides, workers).unwrap_or_else(|error| panic!("{error}"))
}

/// Query, rank, score and id of a ranking.
fn lines_of(path: &Path) -> Vec<(String, u32, f32, i64)> {
    let mut found = Vec::new();
    for batch in read_parquet(path) {
        for row in 0..batch.num_rows() {
            found.push((
                batch["query"].as_string::<i32>().value(row).to_owned(),
                batch["rank"].as_primitive::<UInt32Type>().value(row),
                batch["score"].as_primitive::<Float32Type>().value(row),
                batch["id"].as_primitive::<Int64Type>().value(row),
            ));
        }
    }
    found
}

/// Scores and ids of each query, by sorting the scores of all rows that a run gave.
fn brute(folder: &Path, k: usize) -> Vec<(String, u32, f32, i64)> {
    let mut parts: Vec<_> =
        std::fs::read_dir(folder.join("data")).unwrap().map(|entry| entry.unwrap().path()).collect();
    parts.sort();
    let mut scored: BTreeMap<usize, Vec<(f32, i64)>> = BTreeMap::new();
    let mut names = Vec::new();
    for batch in parts.iter().flat_map(|part| read_parquet(part)) {
        let column = batch["overlap"].as_fixed_size_list();
        names = scores::queries(batch.schema().field_with_name("overlap").unwrap()).unwrap();
        let ids = batch["id"].as_primitive::<Int64Type>();
        for row in (0..batch.num_rows()).filter(|row| column.is_valid(*row)) {
            let values = column.value(row);
            for (query, &score) in values.as_primitive::<Float32Type>().values().iter().enumerate() {
                let of_query = scored.entry(query).or_default();
                if !score.is_nan() {
                    of_query.push((score, ids.value(row)));
                }
            }
        }
    }
    let mut all = Vec::new();
    for (query, mut rows) in scored {
        rows.sort_by(|one, other| other.0.total_cmp(&one.0));
        let rows = (1..).zip(rows).take(k).map(|(rank, (score, id))| (names[query].clone(), rank, score, id));
        all.extend(rows);
    }
    all
}

fn path_of(workspace: &Workspace, name: &str) -> String {
    workspace.path(name).display().to_string()
}

#[test]
fn a_ranking_is_that_of_sorting_all_scores_for_any_splits_workers_and_batches() {
    let workspace = Workspace::new();
    corpus(&workspace);
    let source = path_of(&workspace, "corpus");
    let sink = format!("{{parquet: {{path: \"{}\"}}}}", path_of(&workspace, "all"));
    run_it(&scored(&source, &sink), &[], 2);
    let expected = brute(&workspace.path("all"), 25);
    assert_eq!(expected.len(), 100);

    let ranking = |name: &str, overrides: &[&str], workers: usize| {
        let report = run_it(&ranked(&source, &path_of(&workspace, name)), overrides, workers);
        (report, std::fs::read(workspace.path(name).join("ranking.parquet")).unwrap())
    };
    let (report, bytes) = ranking("one", &[], 1);
    assert_eq!(lines_of(&workspace.path("one/ranking.parquet")), expected);
    let learned =
        |name: &str| std::fs::read(workspace.path(name).join("_run/fits/overlap-statistics/statistics.arrow")).unwrap();
    for (name, overrides, workers) in [
        ("two", &["source.batch_rows=7"][..], 3),
        ("three", &["source.split_size=31 rows"], 2),
        ("four", &["source.split_size=64MB"], 2),
    ] {
        let (other, same) = ranking(name, overrides, workers);
        assert!(bytes == same, "{name}: another ranking");
        assert_eq!(other.ranking, report.ranking);
        assert_eq!(learned(name), learned("one"));
    }

    // What came in is what was compared, had no scores, or was rejected by the steps.
    let said = report.ranking.as_ref().unwrap();
    assert_eq!((report.rows_in, report.rows_quarantined, said.rows, said.queries), (1502, 0, 100, 4));
    assert_eq!((said.rows_without_scores, said.scores_not_numbers), (1, 4));
    let eleventh = (0..1500).filter(|id| id % 11 == 3).count() as u64;
    assert_eq!((report.rows_rejected, said.rows_compared), (eleventh + 1, 1502 - eleventh - 1));
    let rejected = rows(&workspace.path("one"), "rejected");
    assert!(rejected.iter().any(|row| row["id"] == 5000 && row["_reason"] == "no score" && row["_step"] == "rank"));
    assert_eq!(report.steps.last().unwrap().rows_kept, said.rows_compared);

    // The place of a row, and what travels along.
    for batch in read_parquet(&workspace.path("one/ranking.parquet")) {
        for row in 0..batch.num_rows() {
            let id = batch["id"].as_primitive::<Int64Type>().value(row);
            let (file, first) = if id < 700 {
                (0, 0)
            } else if id < 1150 {
                (1, 700)
            } else {
                (2, 1150)
            };
            assert!(batch["_source"].as_string::<i32>().value(row).ends_with(&format!("/{file}.jsonl")));
            assert_eq!(batch["_row"].as_primitive::<UInt64Type>().value(row) as i64, id - first);
            assert!(batch["text"].as_string::<i32>().value(row).starts_with(&format!("note {id}:")));
        }
    }
    // A run that is finished is not done again; a ranking that is gone is.
    run_it(&ranked(&source, &path_of(&workspace, "one")), &[], 1);
    std::fs::remove_file(workspace.path("one/ranking.parquet")).unwrap();
    let (again, same) = ranking("one", &[], 2);
    assert!(bytes == same);
    assert_eq!(again.ranking, report.ranking);
    // The ranking and not the parts is what the folder gives to another pipeline.
    let text = format!(
        "source: {{path: \"{}\"}}\nsink: {{jsonl: {{path: \"{}\", compression: none}}}}\n",
        path_of(&workspace, "one"),
        path_of(&workspace, "after")
    );
    assert_eq!(run_it(&text, &[], 1).rows_out, 100);
}

#[test]
fn another_order_of_rows_and_other_row_groups_give_the_same_ranks() {
    let workspace = Workspace::new();
    let text = lines(0, 900);
    workspace.write("straight.jsonl", &text);
    let mut reversed: Vec<&str> = text.lines().collect();
    reversed.reverse();
    workspace.write("reversed.jsonl", reversed.join("\n"));
    for rows in [50, 333] {
        let copy = format!(
            "source: {{path: \"{}\"}}\nsink: {{parquet: {{path: \"{}\", row_group_rows: {rows}}}}}\n",
            path_of(&workspace, "straight.jsonl"),
            path_of(&workspace, &format!("groups{rows}"))
        );
        run_it(&copy, &[], 1);
    }
    let ranking = |source: &str, overrides: &[&str]| {
        let folder = format!("{source}-ranked{}", overrides.len());
        run_it(&ranked(&path_of(&workspace, source), &path_of(&workspace, &folder)), overrides, 2);
        lines_of(&workspace.path(&folder).join("ranking.parquet"))
    };
    let straight = ranking("straight.jsonl", &[]);
    assert_eq!(ranking("groups50", &[]), straight);
    assert_eq!(ranking("groups333", &["source.split_size=1MB"]), straight);
    let other = ranking("reversed.jsonl", &[]);
    let scores = |lines: &[(String, u32, f32, i64)]| lines.iter().map(|line| (line.1, line.2)).collect::<Vec<_>>();
    assert_eq!(scores(&straight), scores(&other));
    // Ids agree but for those with the last score of a query, of which any may be in the ranking, and for the order of equal ones.
    let above_the_last = |lines: &[(String, u32, f32, i64)]| {
        let mut ids: Vec<(String, i64)> = Vec::new();
        for query in lines.chunk_by(|one, other| one.0 == other.0) {
            let last = query[query.len() - 1].2;
            ids.extend(query.iter().filter(|line| line.2 > last).map(|line| (line.0.clone(), line.3)));
        }
        ids.sort();
        ids
    };
    assert_eq!(above_the_last(&straight), above_the_last(&other));
    assert!(!above_the_last(&straight).is_empty());
    // Of equal scores the row that comes first is before the other.
    let equal = straight.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[0].2 == pair[1].2);
    assert!(equal.clone().count() > 20);
    assert!(equal.into_iter().all(|pair| pair[0].3 < pair[1].3));
}

/// Runs the pipeline that the environment names; started by the tests below in a process that they kill.
#[test]
#[ignore = "a process that other tests start"]
fn a_run_in_a_process_of_its_own() {
    let Ok(file) = std::env::var("GRISTMILL_TEST_PIPELINE") else { return };
    let workers = std::env::var("GRISTMILL_TEST_WORKERS").unwrap().parse().unwrap();
    run_it(&std::fs::read_to_string(file).unwrap(), &[], workers);
}

fn process(file: &Path, workers: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["rank::a_run_in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"]);
    command.env("GRISTMILL_TEST_PIPELINE", file).env("GRISTMILL_TEST_WORKERS", workers.to_string());
    command
}

/// What of a run folder has to be the same.
fn results(folder: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    let files = ["ranking.parquet", "_run/ranking.json", "_run/fits/overlap-statistics/statistics.arrow"];
    files.into_iter().map(|name| (name, std::fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn a_killed_ranking_with_something_to_learn_ends_like_an_undisturbed_one() {
    let workspace = Workspace::new();
    corpus(&workspace);
    let source = path_of(&workspace, "corpus");
    run_it(&ranked(&source, &path_of(&workspace, "calm")), &[], 1);
    let calm = results(&workspace.path("calm"));
    let file = workspace.write("killed.yaml", ranked(&source, &path_of(&workspace, "killed")));
    let same = || {
        let found = results(&workspace.path("killed"));
        calm.iter().for_each(|(name, bytes)| assert!(found[name] == *bytes, "{name} has other bytes"));
    };
    let fresh = || {
        same();
        std::fs::remove_dir_all(workspace.path("killed")).unwrap();
    };
    let killed = torment(|workers| process(&file, workers), 7, kills(), fresh);
    same();
    let left = std::fs::read_dir(workspace.path("killed")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains('#')), "staged files are left");
    println!("killed {killed} times");
}

#[test]
fn a_ranking_on_s3_has_the_bytes_of_one_on_disk() {
    let workspace = Workspace::new();
    corpus(&workspace);
    std::fs::create_dir_all(workspace.path("s3/bucket")).unwrap();
    let endpoint = server::serve(&workspace.path("s3"));
    let source = path_of(&workspace, "corpus");
    run_it(&ranked(&source, &path_of(&workspace, "calm")), &[], 1);
    let file = workspace.write("s3.yaml", ranked(&source, "s3://bucket/run"));
    for _ in 0..2 {
        let ran = Ran::of(process(&file, 2).envs(server::variables(&endpoint)).output().unwrap());
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        assert_eq!(results(&workspace.path("s3/bucket/run")), results(&workspace.path("calm")));
    }
}

#[test]
fn what_is_learned_is_learned_once_from_the_rows_that_reach_the_step() {
    let workspace = Workspace::new();
    corpus(&workspace);
    let source = path_of(&workspace, "corpus");
    let counts = |folder: &str| {
        let path = workspace.path(folder).join("_run/fits/overlap-statistics/statistics.arrow");
        let table = tables::read_arrow("statistics", std::fs::read(path).unwrap().into()).unwrap().remove(0);
        table["rows"].as_primitive::<UInt64Type>().values().to_vec()
    };
    let text = ranked(&source, &path_of(&workspace, "out"));
    run_it(&text, &[], 2);
    let eleventh = (0..1500).filter(|id| id % 11 == 3).count() as u64;
    let with = |word: &str| {
        let found = (0..1500).filter(|id| id % 11 != 3 && lines(*id, 1).split([' ', '"']).any(|other| other == word));
        found.count() as u64
    };
    assert_eq!(counts("out")[1..], [with("weevil"), with("mill"), with("5:"), 1502 - eleventh]);

    // A step before it that only adds a column does not run for that, and one that its condition reads does.
    let steps_of = |folder: &str| -> Vec<String> {
        let path = workspace.path(folder).join("_run/fits/overlap-statistics/_run/report.json");
        let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        report["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect()
    };
    let more = |folder: &str, when: &str| {
        let steps = text.split_once("steps:\n").unwrap();
        let out = path_of(&workspace, "out");
        let text = format!("{}steps:\n  - derive: {{twice: 2 * id}}\n{}", steps.0, steps.1);
        run_it(&text.replace(&out, &path_of(&workspace, folder)), &[when], 2);
    };
    more("beside", "steps.2.fit_rows=1500");
    assert_eq!(steps_of("beside"), ["filter", "overlap"]);
    more("before", "steps.2.when=twice < 600");
    assert_eq!(steps_of("before"), ["derive", "filter", "overlap_when", "overlap"]);

    // A limit of the source and one of the fit, and rows that the step passes over.
    let text = ranked(&source, &path_of(&workspace, "fewer"));
    run_it(&text, &["steps.1.fit_rows=400", "steps.1.when=id < 300"], 2);
    assert_eq!(counts("fewer")[4], (0..300).filter(|id| id % 11 != 3).count() as u64);
    assert!(
        lines_of(&workspace.path("fewer/ranking.parquet")).iter().all(|line| line.3 < 300),
        "rows without scores rank"
    );
    let text = ranked(&source, &path_of(&workspace, "limited"));
    run_it(&text, &["steps.1.fit_rows=400", "source.limit=100"], 2);
    assert_eq!(counts("limited")[4], (0..100).filter(|id| id % 11 != 3).count() as u64);

    // Resuming takes what was learned; another definition of it is refused, naming what changed.
    let text = ranked(&source, &path_of(&workspace, "out"));
    let written = || {
        let path = workspace.path("out/_run/fits/overlap-statistics/statistics.arrow");
        std::fs::metadata(path).unwrap().modified().unwrap()
    };
    let before = written();
    run_it(&text, &[], 1);
    assert_eq!(written(), before);
    let error = try_run(&text, &["steps.1.queries=[mill]"], 1).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("queries"), "{error}");
    let error = try_run(&text, &["sink.rank.k=7"], 1).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains('k') && error.to_string().contains('7'), "{error}");
    // A folder that was moved is the same run.
    std::fs::rename(workspace.path("out"), workspace.path("moved")).unwrap();
    run_it(&ranked(&source, &path_of(&workspace, "moved")), &[], 1);
}

#[test]
fn what_looks_at_a_pipeline_needs_nothing_learned() {
    let workspace = Workspace::new();
    corpus(&workspace);
    let text = ranked(&path_of(&workspace, "corpus"), &path_of(&workspace, "out"))
        + "tests:\n  - name: a\n    rows: [{id: 1, text: wheat mill}, {id: 2, text: rye}, {id: 4, text: rye}]\n    expect: [{id: 1}, {id: 2}, {id: 4}]\n";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let environment = environment();
        let file = PipelineFile::parse("p.yaml", &text, &[] as &[&str]).unwrap();
        let folder = run::run_folder(&file, &environment, false).await.unwrap();
        let valid = run::validate(&file, &environment).await.unwrap();
        let learning = valid.learning.unwrap();
        assert_eq!((learning.step.as_str(), learning.key, learning.rows), ("overlap", "statistics", None));
        assert_eq!(valid.chain.specs().last().unwrap().operator.kind, "overlap_counts");
        let error = run::prepare(&file, &environment, &folder).await.unwrap_err().to_string();
        assert!(
            error.contains("p.yaml:5:") && error.contains("'statistics' is learned from the corpus first"),
            "{error}"
        );
        let fit = run::planned_fit(&file, &environment, &folder).await.unwrap().unwrap();
        assert!(fit.folder.ends_with("/out/_run/fits/overlap-statistics"), "{}", fit.folder);
        assert_eq!(fit.prepared.plan.total(), 16);
        assert!(!workspace.path("out").exists());
        // A test learns from its own rows.
        let other = file.clone();
        let outcomes = tokio::task::spawn_blocking({
            let environment = environment.clone();
            move || run_tests(&other, &environment).unwrap()
        });
        assert_eq!(outcomes.await.unwrap()[0].differences, [] as [&str; 0]);

        let options = RunOptions { workers: 2, fresh: false };
        run::run(&file, &environment, &options, Arc::new(Unobserved)).await.unwrap();
        assert!(run::planned_fit(&file, &environment, &folder).await.unwrap().is_none());
        let prepared = run::prepare(&file, &environment, &folder).await.unwrap();
        assert!(prepared.plan_written);
        assert_eq!(prepared.ranking.unwrap().queries(), ["wheat", "weevil", "mill", "5:"]);
        let fits = run::fits_of(&environment, &folder).await.unwrap();
        assert_eq!((fits[0].0.as_str(), fits[0].1.finished), ("overlap-statistics", true));

        let text = text.replace("- overlap: {", "- overlap_counts: {");
        let file = PipelineFile::parse("p.yaml", &text, &[] as &[&str]).unwrap();
        let error = run::validate(&file, &environment).await.unwrap_err().to_string();
        assert!(error.contains("p.yaml:5:") && error.contains("'overlap_counts' is no step"), "{error}");
    });
}

/// A column of numbers is one query; the commands know the sink.
#[test]
fn numbers_are_ranked_by_the_binary() {
    let workspace = Workspace::new();
    corpus(&workspace);
    let text = "name: longest\nsource: {path: corpus, split_size: 100 rows}\nsteps:\n  - derive: {length: \"CASE WHEN id = 17 THEN NULL ELSE character_length(text) END\"}\nsink: {rank: {path: out, by: length, k: 5, columns: [id], format: jsonl}}\n";
    workspace.write("p.yaml", text);
    let valid = workspace.run(&["validate", "p.yaml"], 0).out;
    assert!(valid.contains("5 rows for each of 1 query: query Utf8, rank UInt32, score Int64, id Int64"), "{valid}");
    let plan = workspace.run(&["plan", "p.yaml"], 0).out;
    assert!(plan.contains("rank {") && !plan.contains("rows out"), "{plan}");
    let ran = workspace.run(&["run", "p.yaml"], 0);
    assert!(ran.out.contains("5 rows of 1,500 for 1 query are ranked in"), "{}", ran.out);
    let ranking = std::fs::read_to_string(workspace.path("out/ranking.jsonl")).unwrap();
    let found: Vec<Value> = ranking.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut expected: Vec<(usize, i64)> = (0..1500)
        .filter(|id| *id != 17)
        .map(|id| {
            let line: Value = serde_json::from_str(&lines(id, 1)).unwrap();
            (line["text"].as_str().unwrap().len(), id as i64)
        })
        .collect();
    expected.sort_by_key(|(length, id)| (std::cmp::Reverse(*length), *id));
    for (row, (rank, (length, id))) in found.iter().zip((1..).zip(expected)) {
        assert_eq!(
            (&row["query"], &row["rank"], &row["score"], &row["id"]),
            (&json!("length"), &json!(rank), &json!(length), &json!(id))
        );
        assert!(row["_source"].as_str().unwrap().ends_with(".jsonl") && row["_row"].is_u64());
    }
    assert_eq!(found.len(), 5);
    let status = workspace.run(&["status", "out"], 0).out;
    assert!(status.contains("5 rows of 1,500 for 1 query are ranked in"), "{status}");
    assert_eq!(workspace.run(&["status", "out", "--json"], 0).json()["ranking"]["k"], 5);
    let inspected = workspace.run(&["inspect", "out"], 0).out;
    assert!(
        inspected.contains("1 file") && inspected.contains("5 rows") && inspected.contains("ranking.jsonl"),
        "{inspected}"
    );
    let page = std::fs::read_to_string(workspace.path("out/_run/report.html")).unwrap();
    assert!(page.contains("ranking.jsonl") && page.contains("<h2 id=\"ranking\">"), "no ranking in the report");
    // Another format of the same ranking needs no row read again.
    workspace.run(&["run", "p.yaml", "sink.rank.format=parquet", "--quiet"], 0);
    assert_eq!(read_parquet(&workspace.path("out/ranking.parquet"))[0].num_rows(), 5);
    let schema = workspace.run(&["schema"], 0).json();
    assert!(schema["$defs"]["RankSink"]["properties"]["by"].is_object(), "{}", schema["$defs"]["SinkDefinition"]);
    let steps = schema["$defs"]["Step"]["oneOf"].as_array().unwrap();
    assert!(steps.len() > 3 && steps.iter().all(|step| step["properties"]["rank"].is_null()));
}

#[test]
fn errors_name_the_place_the_value_and_what_is_allowed() {
    let workspace = Workspace::new();
    corpus(&workspace);
    let head = "source: {path: corpus}\nsteps: [derive: {length: character_length(text)}]\n";
    for (rest, says) in [
        ("sink: {rank: {path: out, by: lengt}}\n", vec!["p.yaml:3:", "no column 'lengt'", "did you mean 'length'?"]),
        (
            "sink: {rank: {path: out, by: text}}\n",
            vec!["p.yaml:3:", "'text' has type", "a column of scores", "numbers"],
        ),
        (
            "sink: {rank: {path: out, by: length, k: 0}}\n",
            vec!["p.yaml:3:", "0 rows make no ranking", "1 to 4294967295"],
        ),
        ("sink: {rank: {path: out, by: length, k: -1}}\n", vec!["p.yaml:3:", "sink.rank.k", "-1"]),
        ("sink: {rank: {path: out, by: length, columns: [idd]}}\n", vec!["p.yaml:3:", "no column 'idd'", "'id'"]),
        ("sink: {rank: {path: out, by: length, format: csv}}\n", vec!["p.yaml:3:", "'csv'", "parquet, jsonl"]),
        ("sink: {rank: {path: out, by: length, limit: 3}}\n", vec!["p.yaml:3:", "unknown key 'limit'", "order"]),
    ] {
        workspace.write("p.yaml", format!("{head}{rest}"));
        let ran = workspace.run(&["validate", "p.yaml"], 2);
        says.iter().for_each(|part| assert!(ran.err.contains(part), "{part:?} is not in {}", ran.err));
        assert!(!workspace.path("out").exists());
    }
    workspace.write("p.yaml", "source: {path: corpus}\nsteps: [rank: {by: id}]\nsink: {parquet: {path: out}}\n");
    let ran = workspace.run(&["run", "p.yaml"], 2);
    assert!(ran.err.contains("'rank' is no step") && ran.err.contains("the sink 'rank'"), "{}", ran.err);
}
