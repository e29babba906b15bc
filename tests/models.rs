//! Models in pipelines: a cascade over a corpus, the same parts for any number of workers, a model that changes under a run.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};

use crate::kills::{kills, torment};
use crate::s3::{client, server};
use crate::support::{Ran, TERMS, Workspace, lines, parts, read_parquet};

fn cascade(workspace: &Workspace, model: &str, sink: &str) -> String {
    workspace.write("terms.txt", TERMS);
    workspace.write("corpus/a.jsonl", lines(0, 250));
    let file = format!("{sink}.yaml");
    let text = format!(
        "source: {{path: corpus/a.jsonl, split_size: 60 rows}}\nsteps:\n  - blocklist: {{name: word_filter, terms: terms.txt}}\n  - classify: \
         {{name: model_filter, model: {model}, context_length: 48, threshold: 0.2, when: word_filter}}\n  - rethreshold: {{name: strict, scores: \
         model_filter, threshold: 0.9}}\n  - embed: {{model: {model}, when: model_filter}}\nsink: {{parquet: {{path: {sink}}}}}\n"
    );
    workspace.write(&file, text);
    file
}

fn bert() -> String {
    format!("{}/tests/fixtures/models/bert-classifier", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_cascade_judges_only_what_the_step_before_flagged_and_does_not_depend_on_workers() {
    let workspace = Workspace::new();
    for (sink, workers) in [("one", "1"), ("three", "3")] {
        let file = cascade(&workspace, &bert(), sink);
        workspace.run(&["run", &file, "--workers", workers, "--quiet"], 0);
    }
    let (one, three) = (parts(&workspace.path("one")), parts(&workspace.path("three")));
    assert_eq!(one.len(), 5);
    assert_eq!(one.values().collect::<Vec<_>>(), three.values().collect::<Vec<_>>());

    let mut judged = 0;
    let files = std::fs::read_dir(workspace.path("one/data")).unwrap();
    for batch in files.flat_map(|file| read_parquet(&file.unwrap().path())) {
        let (flagged, verdicts) = (batch["word_filter"].as_boolean(), batch["model_filter"].as_boolean());
        let scores = batch["model_filter_metadata"].as_struct()["highest_score"].as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            assert_eq!(scores.value(row) > 0.0, flagged.value(row));
            assert_eq!(verdicts.value(row), scores.value(row) > 0.2);
            assert_eq!(batch["strict"].as_boolean().value(row), scores.value(row) > 0.9);
            // A row that is not judged has the default of the type, zeros.
            let vector = batch["embed"].as_fixed_size_list().value(row);
            let zeros = vector.as_primitive::<Float32Type>().values().iter().all(|&value| value == 0.0);
            assert_eq!(zeros, !verdicts.value(row));
            judged += usize::from(flagged.value(row));
        }
    }
    assert_eq!(judged, 250_usize.div_ceil(7));
}

#[test]
fn a_model_that_changed_is_not_gone_on_with() {
    let workspace = Workspace::new();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        workspace.write(&format!("model/{name}"), std::fs::read(format!("{}/{name}", bert())).unwrap());
    }
    let file = cascade(&workspace, "model", "out");
    workspace.run(&["run", &file, "--limit", "60", "--quiet"], 0);
    let mut weights = std::fs::read(workspace.path("model/model.safetensors")).unwrap();
    if let Some(last) = weights.last_mut() {
        *last ^= 1;
    }
    workspace.write("model/model.safetensors", weights);
    let ran = workspace.run(&["run", &file, "--limit", "60", "--quiet"], 2);
    assert!(ran.err.contains("model/model.safetensors"), "{}", ran.err);
}

#[test]
fn a_model_that_cannot_be_used_is_an_error_before_any_row_is_read() {
    let workspace = Workspace::new();
    let file = cascade(&workspace, "nowhere/at/all", "out");
    let ran = workspace.run(&["validate", &file], 2);
    assert!(ran.err.contains("nowhere/at/all"), "{}", ran.err);
}

#[test]
fn a_killed_run_of_models_ends_like_an_undisturbed_one() {
    let workspace = Workspace::new();
    let calm = cascade(&workspace, &bert(), "calm");
    let killed = cascade(&workspace, &bert(), "killed");
    let small_splits = "source.split_size=5 rows";
    workspace.run(&["run", &calm, small_splits, "--workers", "1", "--quiet"], 0);
    let expected = parts(&workspace.path("calm"));
    assert_eq!(expected.len(), 50);
    let start = |workers: usize| {
        workspace.gristmill(&["run", &killed, small_splits, "--quiet", "--workers", &workers.to_string()])
    };
    let same = || assert!(parts(&workspace.path("killed")) == expected);
    let fresh = || {
        same();
        std::fs::remove_dir_all(workspace.path("killed")).unwrap();
    };
    let killed = torment(start, 5, kills(), fresh);
    same();
    println!("killed {killed} times");
}

#[test]
fn a_model_on_s3_gives_what_it_gives_on_disk() {
    let workspace = Workspace::new();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        workspace.write(&format!("s3/bucket/org/model/{name}"), std::fs::read(format!("{}/{name}", bert())).unwrap());
    }
    let endpoint = server::serve(&workspace.path("s3"));
    let disk = cascade(&workspace, &bert(), "disk");
    workspace.run(&["run", &disk, "--quiet"], 0);
    let remote = cascade(&workspace, "s3://bucket/org/model", "remote");
    let ran = Ran::of(client(&workspace, &endpoint, &["run", &remote, "--quiet"]).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(parts(&workspace.path("remote")), parts(&workspace.path("disk")));

    // A file that is not there is named as it was asked for.
    let missing = cascade(&workspace, "s3://bucket/org/nothing", "missing");
    let ran = Ran::of(client(&workspace, &endpoint, &["validate", &missing]).output().unwrap());
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("s3://bucket/org/nothing/config.json"), "{}", ran.err);
}

#[test]
fn the_ready_pipeline_of_deep_ignorance_is_a_cascade() {
    let workspace = Workspace::new();
    let sink = format!("sink.parquet.path={}", workspace.path("out").display());
    let arguments = ["run", "pipelines/library/deep-ignorance.yaml", "--json", &sink];
    let ran = Ran::of(workspace.gristmill(&arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!((ran.json()["rows_in"].as_u64(), ran.json()["rows_out"].as_u64()), (Some(2000), Some(2000)));

    let mut counts = [0; 3];
    for part in std::fs::read_dir(workspace.path("out/data")).unwrap() {
        for batch in read_parquet(&part.unwrap().path()) {
            let schema = batch.schema();
            let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            names.sort_unstable();
            let expected = "bert_filter bert_filter_metadata combined_filter id is_filter_target lm_filter \
                            lm_filter_metadata word_filter word_filter_metadata";
            assert_eq!(names.join(" "), expected);
            let verdicts = |name: &str| batch[name].as_boolean().clone();
            let [word, bert, lm] = ["word_filter", "bert_filter", "lm_filter"].map(verdicts);
            let scores = batch["bert_filter_metadata"].as_struct()["highest_score"].as_primitive::<Float64Type>();
            let answers = batch["lm_filter_metadata"].as_struct();
            let text = |field: &str, row: usize| answers[field].as_string::<i32>().value(row).to_owned();
            for row in 0..batch.num_rows() {
                // A step judges what the one before flagged, and the others have defaults.
                assert!(word.value(row) || scores.value(row) == 0.0);
                assert_eq!(bert.value(row), scores.value(row) > 0.62);
                let asked = !text("completion", row).is_empty() || !text("error", row).is_empty();
                assert_eq!(asked, bert.value(row));
                assert!(bert.value(row) || !lm.value(row));
                // What cannot be read flags.
                assert_eq!(lm.value(row), asked && ["", "1"].contains(&text("judgment", row).as_str()));
                for (count, verdict) in counts.iter_mut().zip([&word, &bert, &lm]) {
                    *count += usize::from(verdict.value(row));
                }
            }
            assert_eq!(batch["combined_filter"].as_boolean(), &lm);
        }
    }
    assert!(counts[0] > counts[1] && counts[1] >= counts[2] && counts[2] > 0, "{counts:?}");
    let report = std::fs::read_to_string(workspace.path("out/_run/report.json")).unwrap();
    for verdict in ["word_filter", "bert_filter", "lm_filter", "combined_filter"] {
        assert!(report.contains(verdict), "{report}");
    }
}

#[test]
fn the_ready_pipeline_of_lima_compares_each_sample_with_five_originals_also_in_parts() {
    use gristmill::operators::analysis::pairs::{PairTable, report};

    let workspace = Workspace::new();
    let run = |name: &str, more: &[&str]| {
        let sink = format!("sink.parquet.path={}", workspace.path(name).display());
        let arguments = [&["run", "pipelines/library/lima.yaml", "--quiet", &sink], more].concat();
        let ran = Ran::of(workspace.gristmill(&arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.err);
        let files = std::fs::read_dir(workspace.path(&format!("{name}/data"))).unwrap();
        let batches: Vec<_> = files.flat_map(|file| read_parquet(&file.unwrap().path())).collect();
        PairTable::read(&batches, "pairs", "id").unwrap()
    };
    let whole = run("whole", &["--workers", "2"]);
    let parts = [("first", ["source.limit=13", "source.skip=0"]), ("rest", ["source.limit=27", "source.skip=13"])];
    let parts = parts
        .map(|(name, overrides)| run(name, &[&["--workers", "1", "steps.0.cache_bytes=0"], &overrides[..]].concat()));
    assert!(PairTable::combine(parts.to_vec()).unwrap() == whole);

    assert_eq!((whole.rows().len(), whole.tensors().len(), whole.projections().len()), (40, 21, 1));
    for row in whole.rows() {
        assert_eq!(row.candidates.len(), 5);
        // The true original has the sample's id, and is always there.
        let truth = row.truth.flatten().unwrap();
        assert_eq!(row.candidates[truth].id, row.id);
        assert!(
            row.candidates.iter().all(|one| one.cosine.is_some_and(|cosine| cosine.abs() < 1.0)),
            "{:?}",
            row.candidates
        );
    }
    let report = report(&whole, 3);
    // A model of random weights has learned nothing, but repeated words have like gradients.
    assert!(report.full.accuracy.unwrap() > report.chance.unwrap(), "{report:?}");
    assert_eq!(report.by_agreement.len(), 21);

    // The command says the same of a run, and of the parts of one together.
    let found = workspace.run(&["analyze", "pairs", "whole", "--json", "--output-dir", "results"], 0).json();
    assert_eq!(found["full"]["accuracy"].as_f64(), report.full.accuracy);
    let arguments =
        ["analyze", "pairs", "first", "rest", "--plots", "--output-dir", "results", "--families", "families"];
    let shown = workspace.run(&arguments, 0).out;
    assert!(
        shown.contains("first, rest: 40 samples, 200 pairs with candidates") && shown.contains("all tensors"),
        "{shown}"
    );
    let read = |path: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(workspace.path(path)).unwrap()).unwrap()
    };
    assert_eq!(read("results/pairs_first_rest.json")["tensors"], found["tensors"]);
    assert!(workspace.path("results/pairs_first_rest_greedy.svg").is_file());
    let row = &whole.rows()[0];
    let cosines = read("families/gradient_similarity/paraphrased/model/sample_size_full.json");
    assert_eq!(cosines[&row.id][&row.candidates[0].id].as_f64(), row.candidates[0].cosine);
    let twice = workspace.run(&["analyze", "pairs", "first", "first", "--output-dir", "results"], 1).err;
    assert!(twice.contains("'first', 'first': ") && twice.contains("it is there twice"), "{twice}");
    let other = workspace.run(&["analyze", "pairs", "first", "--by", "pair", "--output-dir", "results"], 1).err;
    assert!(other.contains("no column 'pair', did you mean 'pairs'?"), "{other}");
}
