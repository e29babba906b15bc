//! `gristmill analyze`: tables in, figures, files and messages out.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use gristmill::operators::scores;
use serde_json::{Value, json};

use crate::support::Workspace;

/// Twenty ranked rows, of which every other one was trained on, with one exception.
fn ranked() -> String {
    let mut text = String::new();
    for row in 0..20_i32 {
        let status = if row % 2 == 0 || row == 1 { "trained" } else { "untrained" };
        let line = json!({
            "uid": format!("seed_{:04}", row / 2), "func": if row % 2 == 0 { "<GN>" } else { "<FN>" }, "text": format!("text {row}"),
            "f_influence_score": 10.0 - f64::from(row), "i_influence_score": 10.0 - f64::from(row), "combined_influence_score": 10.0 - f64::from(row),
            "original_index": 19 - row, "training_status": status, "split_group": if status == "trained" { "train_half" } else { "held_out_half" },
        });
        writeln!(text, "{line}").unwrap();
    }
    text
}

fn read_json(workspace: &Workspace, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(workspace.path(name)).unwrap()).unwrap()
}

#[test]
fn influence_tells_whether_scores_credit_what_was_trained() {
    let workspace = Workspace::new();
    workspace.write("ranked.jsonl", ranked());
    let shown = workspace.run(&["analyze", "influence", "ranked.jsonl", "--plots"], 0).out;
    for part in [
        "20 rows by combined_influence_score, 11 trained and 9 untrained",
        "6 of 10",
        "overall: GOOD",
        "influence_analysis_ranked.json",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("highest"), "{shown}");
    let found = read_json(&workspace, "analysis_results/influence_analysis_ranked.json");
    assert_eq!((&found["expected"], &found["by_score"]["top_half"]["precision"]), (&json!(0.55), &json!(0.6)));
    // Trained: 10, 9, 8, 6, …, -8: 19 + 8 + 6 + … - 8 = 19; untrained: 7, 5, …, -9: -9.
    let statistics = &found["by_score"]["statistics"];
    assert_eq!((&statistics["trained"]["mean"], &statistics["untrained"]["mean"]), (&json!(19.0 / 11.0), &json!(-1.0)));
    assert_eq!(
        (&found["by_score"]["verdict"], &found["verdict"], &found["ends"]),
        (&json!("FAIR"), &json!("GOOD"), &Value::Null)
    );
    assert_eq!(found["groups"]["held_out_half"]["score"]["min"], -9.0);
    for plot in ["scores", "top", "recall"] {
        let svg =
            std::fs::read_to_string(workspace.path(&format!("analysis_results/influence_analysis_ranked_{plot}.svg")))
                .unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("rained"), "{svg}");
    }

    // The same of a file without a status, joined by position: the data set is in the opposite order.
    let bare: String = ranked()
        .lines()
        .map(|line| {
            let mut row: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
            row.retain(|key, _| key != "training_status" && key != "split_group");
            let score = row.remove("combined_influence_score").unwrap();
            row.insert("influence_score".to_owned(), score);
            format!("{}\n", Value::from(row))
        })
        .collect();
    workspace.write("bare.jsonl", &bare);
    let mut statuses: Vec<String> = ranked()
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            json!({"text": row["text"], "training_status": row["training_status"], "split_group": row["split_group"]})
                .to_string()
        })
        .collect();
    statuses.reverse();
    workspace.write("split.jsonl", statuses.join("\n"));
    for arguments in [&["--status", "split.jsonl"][..], &["--status", "split.jsonl", "--on", "text", "--detailed"]] {
        let arguments =
            [&["analyze", "influence", "bare.jsonl", "--json", "--output-dir", "joined"], arguments].concat();
        let joined = workspace.run(&arguments, 0).json();
        assert_eq!(joined["by_score"], found["by_score"]);
        assert_eq!((&joined["groups"], &joined["score"]), (&found["groups"], &json!("influence_score")));
    }
    let detailed = read_json(&workspace, "joined/influence_analysis_bare.json");
    assert_eq!(
        (&detailed["ends"]["highest"][0]["index"], &detailed["ends"]["lowest"][9]["index"]),
        (&json!(19), &json!(0))
    );
    let shown = workspace.run(&["analyze", "influence", "ranked.jsonl", "--detailed-analysis"], 0).out;
    assert!(
        shown.contains("highest") && shown.contains("magnitude, 75 %") && shown.contains("train_half, magnitude"),
        "{shown}"
    );
}

#[test]
fn ranked_tells_what_each_function_gets() {
    let workspace = Workspace::new();
    workspace.write("ranked.jsonl", ranked());
    let shown = workspace.run(&["analyze", "ranked", "ranked.jsonl", "--plots", "--output-dir", "out"], 0);
    assert!(shown.err.contains("warning: f_influence_score and i_influence_score are identical"), "{}", shown.err);
    assert!(
        shown.out.contains("20 rows, 2 columns of scores, functions by func") && shown.out.contains("<GN>"),
        "{}",
        shown.out
    );
    let found = read_json(&workspace, "out/ranked_stats_ranked.json");
    let [name, of] = found["scores"][0]["functions"][0].as_array().unwrap().as_slice() else { unreachable!("{found}") };
    // <GN>: 10, 8, …, -8, at ranks 1, 3, …, 19.
    assert_eq!(
        (name, &of["count"], &of["mean"], &of["average_rank"]),
        (&json!("<GN>"), &json!(10), &json!(1.0), &json!(10.0))
    );
    assert_eq!((&of["mean_of_top"]["5"], &of["mean_of_bottom"]["5"]), (&json!(6.0), &json!(-4.0)));
    assert_eq!((&found["correlations"][0]["identical"], &found["correlations"][0]["rows"]), (&json!(true), &json!(20)));
    assert!(workspace.path("out/ranked_stats_ranked_summary.svg").is_file());
    assert!(workspace.path("out/ranked_stats_ranked_ends_1.svg").is_file());
}

#[test]
fn retrieval_compares_rankings_with_the_truth() {
    let workspace = Workspace::new();
    let rows = [("a", 2, 7), ("a", 1, 3), ("b", 1, 4), ("b", 2, 5), ("b", 3, 3), ("other", 1, 1)];
    let lines: Vec<String> = rows
        .iter()
        .map(|(query, rank, row)| json!({"query": query, "rank": rank, "score": 1.0, "row": row}).to_string())
        .collect();
    workspace.write("top.jsonl", lines.join("\n"));
    let truth = [("a", 7), ("b", 4), ("b", 3), ("c", 1)];
    let truth: Vec<String> = truth.iter().map(|(query, row)| json!({"query": query, "row": row}).to_string()).collect();
    workspace.write("truth.jsonl", truth.join("\n"));
    let found = workspace
        .run(&["analyze", "retrieval", "top.jsonl", "--truth", "truth.jsonl", "--k", "1,2", "--json", "--plots"], 0)
        .json();
    assert_eq!((&found["queries"], &found["unranked"], &found["unjudged"]), (&json!(3), &json!(1), &json!(1)));
    // a: second of two; b: first and third of three; c: nothing.
    assert_eq!((&found["mrr"], &found["map"]), (&json!(0.5), &json!((0.5 + (1.0 + 2.0 / 3.0) / 2.0) / 3.0)));
    assert_eq!((&found["at"][0]["recall"], &found["at"][1]["precision"]), (&json!(0.5 / 3.0), &json!(1.0 / 3.0)));
    assert!(workspace.path("analysis_results/retrieval_top_at_k.svg").is_file());
    let shown = workspace.run(&["analyze", "retrieval", "top.jsonl", "--truth", "truth.jsonl"], 0).out;
    assert!(
        shown.contains("3 queries with something relevant, 1 of them without a ranking; 1 ranked")
            && shown.contains("MRR 0.5000"),
        "{shown}"
    );
}

/// Scores of six rows for two queries, as a run writes them: a folder of two parts, the second one named first.
fn scored_run(workspace: &Workspace, folder: &str) {
    let queries = ["<FN>", "<IN>"].map(str::to_owned);
    let fields = vec![
        Field::new("text", DataType::Utf8, false),
        scores::field("exact", &queries).unwrap(),
        scores::field("noise", &queries).unwrap(),
    ];
    let schema = Arc::new(Schema::new(fields));
    let exact = [[3.0, -1.0], [1.0, 2.0], [-2.0, 4.0], [0.5, -3.0], [4.0, 1.0], [-1.0, 0.0]];
    let part = |name: &str, rows: std::ops::Range<usize>| {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("row {row}"))));
        let values: Vec<f32> = exact[rows.clone()].iter().flatten().copied().collect();
        let noise = rows.clone().flat_map(|row| [(row * 7 % 5) as f32, 1.0]).collect();
        let columns: [ArrayRef; 3] = [
            texts,
            Arc::new(scores::column(2, values, None).unwrap()),
            Arc::new(scores::column(2, noise, None).unwrap()),
        ];
        write_parquet(
            workspace,
            &format!("{folder}/{name}"),
            &RecordBatch::try_new(Arc::clone(&schema), columns.to_vec()).unwrap(),
        );
    };
    part("data/0.parquet", 0..4);
    part("data/1.parquet", 4..6);
    let manifest = RecordBatch::try_from_iter([
        ("split", Arc::new(UInt64Array::from(vec![1, 0])) as ArrayRef),
        ("part", Arc::new(StringArray::from(vec!["data/1.parquet", "data/0.parquet"])) as ArrayRef),
    ]);
    write_parquet(workspace, &format!("{folder}/_run/manifest.parquet"), &manifest.unwrap());
}

fn write_parquet(workspace: &Workspace, name: &str, batch: &RecordBatch) {
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    workspace.write(name, bytes);
}

/// Four subsets, and outputs that are sums of the exact scores, of two seeds whose noise cancels.
fn subsets(workspace: &Workspace) {
    let lists: [&[u64]; 4] = [&[0, 1, 2], &[3, 4, 5], &[0, 2, 4], &[1, 3, 5]];
    let lines: Vec<String> =
        lists.iter().enumerate().map(|(subset, rows)| json!({"subset": subset, "rows": rows}).to_string()).collect();
    workspace.write("subsets.jsonl", lines.join("\n"));
    let sums = [[2.0, 5.0], [3.5, -2.0], [5.0, 4.0], [0.5, -1.0]];
    let mut text = String::new();
    for (subset, sums) in sums.iter().enumerate() {
        for (query, sum) in ["<IN>", "<FN>"].into_iter().zip([sums[1], sums[0]]) {
            for seed in [-10.0, 10.0] {
                writeln!(text, "{}", json!({"subset": subset, "query": query, "output": sum + seed})).unwrap();
            }
        }
    }
    workspace.write("outputs.jsonl", text);
}

#[test]
fn lds_and_agreement_read_runs() {
    let workspace = Workspace::new();
    scored_run(&workspace, "run");
    subsets(&workspace);
    let lds =
        ["analyze", "lds", "run", "--subsets", "subsets.jsonl", "--outputs", "outputs.jsonl", "--bootstrap", "500"];
    let found = workspace.run(&[&lds[..], &["--json", "--plots"]].concat(), 0).json();
    assert_eq!((&found["subsets"], &found["queries"]), (&json!(4), &json!(["<IN>", "<FN>"])));
    assert_eq!((&found["scores"][0]["scores"], &found["scores"][0]["each"]), (&json!("exact"), &json!([1.0, 1.0])));
    // The second query's noise is the same for all rows, so that all sums are equal.
    assert_eq!((&found["scores"][1]["undefined"], &found["scores"][1]["each"][0]), (&json!(1), &json!(0.0)));
    assert_eq!(found["differences"][0]["scores"], json!(["exact", "noise"]));
    assert!(workspace.path("analysis_results/lds_run_queries.svg").is_file());
    let losses = workspace.run(&[&lds[..], &["--losses", "--by", "exact", "--json"]].concat(), 0).json();
    assert_eq!(losses["scores"][0]["estimate"]["mean"], -1.0);
    let shown = workspace.run(&lds, 0).out;
    assert!(shown.contains("4 subsets, 2 queries") && shown.contains("1.0000 to 1.0000"), "{shown}");

    let found = workspace.run(&["analyze", "agreement", "run", "run", "--by", "exact", "--k", "2", "--json"], 0).json();
    assert_eq!(found["pairs"][0]["scores"], json!(["run:exact", "run:exact"]));
    assert_eq!((&found["rows"], &found["pairs"][0]["overlap"]), (&json!(6), &json!([{"k": 2, "share": 1.0}])));
    let shown = workspace.run(&["analyze", "agreement", "run"], 0).out;
    assert!(shown.contains("6 rows, 2 queries") && shown.contains("of the top 10"), "{shown}");
}

#[test]
fn hops_writes_ranked_rows_that_the_other_analyses_read() {
    let workspace = Workspace::new();
    scored_run(&workspace, "run");
    let shown = workspace.run(&["analyze", "hops", "run", "--by", "exact", "--output", "ranked.jsonl"], 0).out;
    assert_eq!(shown, "ranked.jsonl: 6 rows\n");
    let text = std::fs::read_to_string(workspace.path("ranked.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let order: Vec<u64> = rows.iter().map(|row| row["original_index"].as_u64().unwrap()).collect();
    // Means: 1, 1.5, 1, -1.25, 2.5, -0.5.
    assert_eq!(order, [4, 1, 0, 2, 5, 3]);
    // One of several columns of scores is taken; the other one is a part of the row.
    let first = json!({
        "text": "row 4", "noise": [3.0, 1.0], "f_influence_score": 4.0, "i_influence_score": 1.0, "combined_influence_score": 2.5, "original_index": 4
    });
    assert_eq!(rows[0], first);
    let left: Vec<_> = std::fs::read_dir(workspace.path("ranked.jsonl").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().ends_with(".spool") || name.to_string_lossy().ends_with(".part")),
        "{left:?}"
    );

    // Two queries of one function, whose mean is its score.
    workspace.write("queries.jsonl", "{\"func\": \"<NN>\"}\n{\"func\": \"<NN>\"}\n");
    let by = [
        "analyze",
        "hops",
        "run",
        "--by",
        "exact",
        "--kind",
        "bm25",
        "--queries",
        "queries.jsonl",
        "--output",
        "n.jsonl",
    ];
    workspace.run(&by, 0);
    let text = std::fs::read_to_string(workspace.path("n.jsonl")).unwrap();
    assert!(text.lines().next().unwrap().contains("\"n_bm25_score\":2.5,\"combined_bm25_score\":2.5"), "{text}");

    let status: String = (0..6)
        .map(|row| format!("{{\"training_status\": \"{}trained\"}}\n", if row < 3 { "" } else { "un" }))
        .collect();
    workspace.write("status.jsonl", status);
    let found =
        workspace.run(&["analyze", "influence", "ranked.jsonl", "--status", "status.jsonl", "--json"], 0).json();
    assert_eq!((&found["by_score"]["top_half"]["trained"], &found["verdict"]), (&json!(2), &json!("EXCELLENT")));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let workspace = Workspace::new();
    workspace.write("ranked.jsonl", ranked());
    workspace.write("status.jsonl", "{\"training_status\": \"trained\"}\n{\"training_status\": \"tested\"}\n");
    workspace.write("short.jsonl", "{\"training_status\": \"trained\", \"uid\": \"seed_0000\"}\n");
    workspace.write("nothing.jsonl", "{\"text\": \"a\"}\n");
    workspace.write(
        "rank.jsonl",
        "{\"query\": \"a\", \"rank\": 1, \"row\": 1}\n{\"query\": \"a\", \"rank\": 2, \"row\": 1}\n",
    );
    workspace.write("truth.jsonl", "{\"query\": \"a\", \"row\": 1, \"relevance\": -2}\n");
    workspace.write("true.jsonl", "{\"query\": \"a\", \"row\": 1}\n");
    scored_run(&workspace, "run");
    subsets(&workspace);
    workspace.write("far.jsonl", "{\"subset\": 0, \"rows\": [1]}\n{\"subset\": 1, \"rows\": [6]}\n{\"subset\": 2, \"rows\": [0]}\n{\"subset\": 3, \"rows\": [0]}\n");
    workspace.write("few.jsonl", "{\"subset\": 0, \"query\": \"<FN>\", \"output\": 1}\n");
    workspace.write("stranger.jsonl", "{\"subset\": 9, \"query\": \"<FN>\", \"output\": 1}\n");
    let outputs = std::fs::read_to_string(workspace.path("outputs.jsonl")).unwrap().replace("<FN>", "<GN>");
    workspace.write("unknown.jsonl", outputs);
    std::fs::create_dir(workspace.path("taken.jsonl")).unwrap();
    let lds = |subsets: &'static str, outputs: &'static str| ["lds", "run", "--subsets", subsets, "--outputs", outputs];
    for (arguments, says) in [
        (&["influence", "absent.jsonl"][..], "cannot use 'absent.jsonl'"),
        (&["influence", "ranked.csv"], "a table is a .jsonl"),
        (&["influence", "nothing.jsonl"], "'nothing.jsonl': no column 'combined_influence_score'; columns: text"),
        (&["influence", "ranked.jsonl", "--score", "f_influence"], "no column 'f_influence'"),
        (&["influence", "ranked.jsonl", "--score", "func"], "column 'func' has type Utf8, expected numbers"),
        (
            &["influence", "ranked.jsonl", "--status", "status.jsonl"],
            "'status.jsonl': row 1: column 'training_status': 'tested'; 'trained' and 'untrained' are allowed",
        ),
        (
            &["influence", "ranked.jsonl", "--status", "short.jsonl"],
            "'ranked.jsonl': original_index 19 is not in 'short.jsonl', which has 1 rows",
        ),
        (
            &["influence", "ranked.jsonl", "--status", "short.jsonl", "--on", "uid"],
            "column 'uid': 'seed_0001' is not in 'short.jsonl'",
        ),
        (
            &["influence", "ranked.jsonl", "--status", "ranked.jsonl", "--on", "func"],
            "column 'func': '<FN>' has another status in an earlier row",
        ),
        (&["ranked", "nothing.jsonl"], "no column 'func'"),
        (&["ranked", "nothing.jsonl", "--function", "text"], "'nothing.jsonl': no column of one function's scores"),
        (
            &["retrieval", "rank.jsonl", "--truth", "true.jsonl"],
            "'rank.jsonl': 'ranking': '1' is listed twice for query 'a'",
        ),
        (
            &["retrieval", "rank.jsonl", "--truth", "truth.jsonl"],
            "'truth.jsonl': row 0: relevance -2 of '1' for query 'a'; a number of at least 0",
        ),
        (&["retrieval", "true.jsonl", "--truth", "true.jsonl"], "'true.jsonl': no column 'rank'"),
        (&lds("far.jsonl", "outputs.jsonl"), "'far.jsonl': 'subsets': subset 1 has row 6; the scores have 6 rows"),
        (&lds("subsets.jsonl", "few.jsonl"), "'few.jsonl': no output of subset '1' for query '<FN>'"),
        (
            &lds("subsets.jsonl", "stranger.jsonl"),
            "'stranger.jsonl': row 0: column 'subset': '9' is not among the 4 subsets",
        ),
        (
            &lds("subsets.jsonl", "unknown.jsonl"),
            "'run': there are no scores for query '<GN>', did you mean '<FN>'?; queries: <FN>, <IN>",
        ),
        (&lds("outputs.jsonl", "outputs.jsonl"), "'outputs.jsonl': no column 'rows'"),
        (&["agreement", "run", "--by", "exact"], "'run': one column of scores agrees with itself"),
        (&["agreement", "ranked.jsonl"], "'ranked.jsonl': no column of scores; name one with --by"),
        (&["hops", "run", "--by", "exakt", "--output", "o.jsonl"], "'run': no column 'exakt', did you mean 'exact'?"),
        (&["hops", "run", "--by", "exact", "--output", "taken.jsonl"], "taken.jsonl"),
        (
            &["hops", "run", "--by", "exact", "--queries", "true.jsonl", "--function", "query", "--output", "o.jsonl"],
            "column 'exact': 2 scores; there are 1 queries",
        ),
    ] {
        let ran = workspace.run(&[&["analyze"], arguments].concat(), 1);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(says), "{arguments:?}: {}", ran.err);
    }
    assert!(!workspace.path("o.jsonl").exists() && !workspace.path("o.jsonl.spool").exists());
    workspace.run(&["analyze", "retrieval", "rank.jsonl", "--truth", "true.jsonl", "--k", "0"], 2);
}

#[test]
fn lists_of_other_programs_have_no_names() {
    let workspace = Workspace::new();
    subsets(&workspace);
    let exact = [[3.0, -1.0], [1.0, 2.0], [-2.0, 4.0], [0.5, -3.0], [4.0, 1.0], [-1.0, 0.0]];
    let lines: Vec<String> = exact.iter().map(|scores| json!({"scores": scores}).to_string()).collect();
    workspace.write("scores.jsonl", lines.join("\n"));
    workspace.write("queries.jsonl", "{\"id\": \"<FN>\"}\n{\"id\": \"<IN>\"}\n");
    let lds = [
        "analyze",
        "lds",
        "scores.jsonl",
        "--by",
        "scores",
        "--subsets",
        "subsets.jsonl",
        "--outputs",
        "outputs.jsonl",
        "--json",
    ];
    let refused = workspace.run(&lds, 1).err;
    assert!(refused.contains("no scores for query '<IN>'; queries: 0, 1"), "{refused}");
    let found = workspace.run(&[&lds[..], &["--queries", "queries.jsonl"]].concat(), 0).json();
    assert_eq!(found["scores"][0]["estimate"]["mean"], 1.0);
    // The same as an Arrow file with names.
    let column = scores::column(2, exact.iter().flatten().copied().collect(), None).unwrap();
    let field = scores::field("named", &["<IN>", "<FN>"].map(str::to_owned)).unwrap();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(column)]).unwrap();
    workspace.write("scores.arrow", gristmill::operators::tables::write_arrow(&[batch]).unwrap());
    let lds = ["analyze", "lds", "scores.arrow", "--subsets", "subsets.jsonl", "--outputs", "outputs.jsonl", "--json"];
    let found = workspace.run(&lds, 0).json();
    // Its names are the other way round, so that each query is foretold by the scores of the other one.
    assert_eq!(found["scores"][0]["each"], json!([0.0, 0.0]));
    let numbers = RecordBatch::try_from_iter([("score", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
    write_parquet(&workspace, "numbers.parquet", &numbers);
    let ranked = workspace.run(&["analyze", "hops", "numbers.parquet", "--by", "score", "--output", "o.jsonl"], 0);
    assert_eq!(ranked.out, "o.jsonl: 2 rows\n");
    let text = std::fs::read_to_string(workspace.path("o.jsonl")).unwrap();
    assert_eq!(
        text.lines().next().unwrap(),
        r#"{"score_influence_score":2.0,"combined_influence_score":2.0,"original_index":1}"#
    );
}
