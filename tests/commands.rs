//! Each command, as a user types it.

use serde_json::json;

use crate::support::{TERMS, Workspace, data, lines, parts, pipeline, read_parquet, rows};

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    workspace.write("corpus/a.jsonl", lines(0, 250));
    workspace.write("corpus/b.jsonl", lines(250, 150));
    workspace.write("p.yaml", pipeline("corpus/*.jsonl", "out"));
    workspace
}

#[test]
fn run_and_run_again() {
    let workspace = workspace();
    let first = workspace.run(&["run", "p.yaml"], 0);
    let flagged = 400_usize.div_ceil(7);
    assert!(
        first.out.contains(&format!("400 rows in = {} kept + {flagged} rejected + 0 quarantined", 400 - flagged)),
        "{}",
        first.out
    );
    assert!(first.err.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{}", first.err);
    let kept = rows(&workspace.path("out"), "data");
    let ids: Vec<u64> = kept.iter().map(|row| row["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..400).filter(|id| id % 7 != 0).collect::<Vec<_>>(), "rows keep their order");
    assert_eq!(kept[0]["characters"], kept[0]["text"].as_str().unwrap().chars().count());
    let rejected = rows(&workspace.path("out"), "rejected");
    assert_eq!(rejected.len(), flagged);
    assert_eq!(
        (&rejected[0]["_step"], &rejected[0]["_reason"], &rejected[0]["lang"]),
        (&json!("filter"), &json!("flagged"), &json!("en"))
    );

    let before = parts(&workspace.path("out"));
    let again = workspace.run(&["run", "p.yaml", "--json"], 0);
    assert_eq!(again.json()["rows_in"], 400);
    assert!(again.err.contains("\"resumed\":5"), "{}", again.err);
    let said = workspace.run(&["run", "p.yaml"], 0);
    assert!(!first.out.contains("done before") && said.out.contains("all of it done before"), "{}", said.out);
    assert_eq!(parts(&workspace.path("out")), before, "a finished run is left alone");
}

#[test]
fn a_changed_definition_is_refused_and_fresh_starts_over() {
    let workspace = workspace();
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    let refused = workspace.run(&["run", "p.yaml", "steps.0.min_distinct=1"], 2);
    assert!(refused.err.contains("/out/_run/plan.parquet' is of another run: "), "{}", refused.err);
    assert!(refused.err.contains("min_distinct: 2 -> 1"), "{}", refused.err);
    assert!(refused.err.contains("name another folder, or start over in a new folder beside it (--fresh)"));
    workspace.write("terms.txt", "weevil\n");
    let refused = workspace.run(&["run", "p.yaml"], 2);
    assert!(refused.err.contains("terms.txt"), "{}", refused.err);
    let fresh = workspace.run(&["run", "p.yaml", "--fresh", "--json"], 0);
    assert!(fresh.json()["folder"].as_str().unwrap().ends_with("/out-2"), "{}", fresh.out);
    assert_eq!(fresh.json()["rows_rejected"], 0);
}

#[test]
fn a_source_that_changed_is_refused() {
    let workspace = workspace();
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    workspace.write("corpus/b.jsonl", lines(250, 151));
    let refused = workspace.run(&["run", "p.yaml"], 2);
    assert!(refused.err.contains("b.jsonl"), "{}", refused.err);
}

#[test]
fn status_inspect_plan_validate() {
    let workspace = workspace();
    let plan = workspace.run(&["plan", "p.yaml", "--json"], 0).json();
    assert_eq!(plan["splits"].as_array().unwrap().len(), 5);
    assert_eq!(plan["estimate"]["rows_in"]["mean"], 400.0);
    assert!(!workspace.path("out").exists(), "planning writes nothing");
    let shown = workspace.run(&["plan", "p.yaml"], 0);
    for part in ["blocklist", "fingerprint", "400"] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    workspace.run(&["validate", "p.yaml"], 0);
    let missing = workspace.run(&["status", "out"], 1);
    assert!(missing.err.contains("holds no run"), "{}", missing.err);
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    let status = workspace.run(&["status", "out", "--json"], 0).json();
    assert_eq!(
        (&status["state"], &status["committed"], &status["rows_in"]),
        (&json!("finished"), &json!(5), &json!(400))
    );
    let head = workspace.run(&["inspect", "out", "--rows", "2", "--json"], 0);
    assert_eq!(head.out.lines().count(), 2);
    let source = workspace.run(&["inspect", "corpus/*.jsonl"], 0);
    assert!(source.out.contains("2 files") && source.out.contains("lang"), "{}", source.out);
}

#[test]
fn overrides_and_limit() {
    let workspace = workspace();
    let report =
        workspace.run(&["run", "p.yaml", "--limit", "10", "source.skip=5", "sink.parquet.path=small", "--json"], 0);
    assert_eq!(report.json()["rows_in"], 10);
    let ids: Vec<u64> = rows(&workspace.path("small"), "data").iter().map(|row| row["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [5, 6, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn tests_of_a_pipeline_file() {
    let workspace = workspace();
    let passing = "tests:\n  - {name: flags, rows: [{text: a moth and a weevil}, {text: bread}], expect: [{id: 1}], rejected: [{id: 0, _reason: flagged}]}\n";
    workspace.write("t.yaml", pipeline("corpus/*.jsonl", "out") + passing);
    assert!(workspace.run(&["test", "t.yaml"], 0).out.contains("1 passed, 0 failed"));
    workspace.write("t.yaml", pipeline("corpus/*.jsonl", "out") + &passing.replace("{id: 1}", "{id: 7}"));
    let failed = workspace.run(&["test", "t.yaml"], 1);
    assert!(failed.out.contains("expected 7, found 1"), "{}", failed.out);
}

#[test]
fn sidecar_metrics_and_judgments() {
    let workspace = workspace();
    let text = "source: {path: \"corpus/*.jsonl\", provenance: true}\nsteps:\n  - derive: {odd: id % 2 = 1}\n  - blocklist: {name: word_filter, terms: terms.txt}\nsink:\n  parquet: {path: side, sidecar: true, metrics: {label: odd}, judgments: {rows: 3}}\n";
    workspace.write("s.yaml", text);
    workspace.run(&["run", "s.yaml", "--quiet"], 0);
    let side = rows(&workspace.path("side"), "data");
    assert_eq!(side.len(), 400);
    let mut columns: Vec<&String> = side[0].as_object().unwrap().keys().collect();
    columns.sort();
    assert_eq!(columns, ["_row", "_source", "id", "odd", "word_filter", "word_filter_metadata"]);
    assert_eq!((&side[250]["_row"], side[250]["_source"].as_str().unwrap().ends_with("/b.jsonl")), (&json!(0), true));
    let metrics: serde_json::Value =
        serde_json::from_slice(&std::fs::read(workspace.path("side/_run/metrics.json")).unwrap()).unwrap();
    // Every seventh row is flagged; half of these are odd.
    let report = &metrics["word_filter"]["labelled"];
    assert_eq!(
        (&report["tp"], &report["fp"], &report["fn"], &report["tn"]),
        (&json!(29), &json!(29), &json!(171), &json!(171))
    );
    let judgments = std::fs::read_to_string(workspace.path("side/_run/judgments.csv")).unwrap();
    assert_eq!(judgments.lines().count(), 4);
    assert!(judgments.contains("word_filter_metadata."), "{judgments}");
}

#[test]
fn every_sink_format_holds_the_same_rows() {
    let workspace = workspace();
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    let expected = rows(&workspace.path("out"), "data");
    for (format, settings) in [
        ("jsonl", "compression: none"),
        ("jsonl", "compression: zstd"),
        ("jsonl", "compression: gzip"),
        ("arrow", "compression: lz4"),
    ] {
        let sink = format!("{format}-{}", settings.replace(": ", "-"));
        let text = pipeline("corpus/*.jsonl", &sink)
            .replace("parquet:", &format!("{format}:"))
            .replace("rejected: true", settings);
        workspace.write("f.yaml", text);
        workspace.run(&["run", "f.yaml", "--quiet"], 0);
        // The folder of a run is a source for the next one.
        workspace.write("back.yaml", format!("source: {{path: {sink}}}\nsink: {{parquet: {{path: {sink}-back}}}}\n"));
        workspace.run(&["run", "back.yaml", "--quiet"], 0);
        assert_eq!(rows(&workspace.path(&format!("{sink}-back")), "data"), expected, "{sink}");
    }
}

#[test]
fn a_token_budget_names_the_row_that_reaches_it() {
    let workspace = workspace();
    let text = |tokens: u64, column: &str| {
        format!(
            "source: {{path: \"corpus/*.jsonl\", split_size: 100 rows}}\nsteps: [derive: {{tokens: id % 3}}]\nsink: {{parquet: {{path: out{tokens}, token_budget: {{column: {column}, tokens: {tokens}}}}}}}\n"
        )
    };
    // The counts are 0 1 2 0 1 2 …: three a group of three rows.
    for (tokens, reached, index, total) in
        [(300, true, Some(299), 300), (301, true, Some(301), 301), (1000, false, None, 399)]
    {
        workspace.write("b.yaml", text(tokens, "tokens"));
        workspace.run(&["run", "b.yaml", "--quiet"], 0);
        let report = std::fs::read(workspace.path(&format!("out{tokens}/_run/token_budget.json"))).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["reached_target_token_count"], reached);
        assert_eq!(report["final_index"], json!(index));
        assert_eq!(report["acutal_token_count"], total);
    }
    workspace.write("b.yaml", text(5, "tokns"));
    let wrong = workspace.run(&["validate", "b.yaml"], 2);
    assert!(wrong.err.contains("did you mean 'tokens'?"), "{}", wrong.err);
}

/// The reference verdicts, through source, chain and parts.
#[test]
fn the_blocklist_of_the_reference_data() {
    let Some(data) = data() else { return };
    let workspace = Workspace::new();
    let expected: Vec<serde_json::Value> = read_parquet(&data.join("reference/blocklist/expected.parquet"))
        .iter()
        .flat_map(|batch| {
            let mut writer = arrow_json::ArrayWriter::new(Vec::new());
            writer.write(batch).unwrap();
            writer.finish().unwrap();
            serde_json::from_slice::<Vec<serde_json::Value>>(&writer.into_inner()).unwrap()
        })
        .collect();
    for (matching, column) in [("substring", "substring_terms"), ("word", "word_terms")] {
        let text = format!(
            "source: {{path: \"{0}/corpus/sample.jsonl\", split_size: 100 rows}}\nsteps:\n  - blocklist: {{terms: \"{0}/reference/blocklist/terms.txt\", case: ascii, match: {matching}, list: all}}\nsink: {{parquet: {{path: {matching}, sidecar: true}}}}\n",
            data.display()
        );
        workspace.write("p.yaml", text);
        workspace.run(&["run", "p.yaml", "--quiet"], 0);
        let found = rows(&workspace.path(matching), "data");
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let terms = expected[column].as_array().map_or(0, Vec::len);
            assert_eq!(found["blocklist_metadata"]["distinct"], terms, "{}", found["id"]);
            assert_eq!(found["blocklist"], terms >= 2, "{}", found["id"]);
        }
    }
}

#[test]
fn schema_and_operators() {
    let workspace = workspace();
    let schema = workspace.run(&["schema"], 0).json();
    assert!(schema["properties"]["source"].is_object());
    let listed = workspace.run(&["operators"], 0);
    for kind in ["blocklist", "count_tokens", "derive", "filter", "sample", "select", "tokenize"] {
        assert!(listed.out.contains(kind), "{kind}");
        let one = workspace.run(&["operators", kind], 0);
        assert!(one.out.contains(&format!("- {kind}")), "{}", one.out);
    }
    let inner = workspace.run(&["operators", "tokenize"], 0);
    assert!(inner.out.contains("pack.length") && inner.out.contains("pack.too_long"), "{}", inner.out);
    let unknown = workspace.run(&["operators", "blocklst"], 2);
    assert!(unknown.err.contains("did you mean 'blocklist'?"), "{}", unknown.err);
}

#[test]
fn merge_writes_a_model_once() {
    let workspace = workspace();
    let fixtures = format!("{}/tests/fixtures/models", env!("CARGO_MANIFEST_DIR"));
    let adapter = workspace.path("adapter");
    std::fs::create_dir(&adapter).unwrap();
    for (from, to) in [("json", "adapter_config.json"), ("safetensors", "adapter_model.safetensors")] {
        std::fs::copy(format!("{fixtures}/adapters/conv1d.{from}"), adapter.join(to)).unwrap();
    }
    let base = format!("{fixtures}/small/gpt2");
    let merged = workspace.run(&["merge", &base, "adapter", "merged"], 0);
    assert!(merged.out.contains("28 tensors, 3 of them changed"), "{}", merged.out);
    assert!(workspace.path("merged/config.json").exists() && workspace.path("merged/model.safetensors").exists());
    let again = workspace.run(&["merge", &base, "adapter", "merged"], 1);
    assert!(again.err.contains("the folder is not empty"), "{}", again.err);
    let missing = workspace.run(&["merge", &base, "nowhere", "other"], 1);
    assert!(missing.err.contains("nowhere/adapter_config.json"), "{}", missing.err);
    assert!(!workspace.path("other").exists());
}
