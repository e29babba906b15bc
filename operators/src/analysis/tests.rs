//! Against figures worked out by hand, and against those of scipy, trec_eval and scikit-learn (`benches/peers/analysis_peer.py`).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow_array::{Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, Schema};
use serde_json::Value;

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("testdata/golden.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The references compute in double precision, too, in another order.
fn close(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{what}: {found} instead of {expected}");
}

#[test]
fn correlations_are_those_of_scipy() {
    for case in golden()["correlations"].as_array().unwrap() {
        let (a, b) = (floats(&case["a"]), floats(&case["b"]));
        assert_eq!(average_ranks(&a), floats(&case["ranks"]));
        close(pearson(&a, &b).unwrap(), &case["pearson"], "pearson");
        close(spearman(&a, &b).unwrap(), &case["spearman"], "spearman");
        close(kendall_tau_b(&a, &b).unwrap(), &case["kendall"], "kendall");
        close(standard_error(&a).unwrap(), &case["standard_error"], "standard error");
        let summary = Summary::of(&a);
        for (name, found) in [("mean", summary.mean), ("std", summary.std), ("median", summary.median)] {
            close(found.unwrap(), &case[name], name);
        }
        for (share, expected) in case["quantiles"].as_object().unwrap() {
            close(quantile(&a, share.parse().unwrap()).unwrap(), expected, share);
        }
    }
}

#[test]
fn retrieval_is_that_of_trec_eval() {
    let golden = &golden()["retrieval"];
    let (mut truth, mut rankings) = (Truth::default(), Rankings::default());
    for (query, items) in golden["truth"].as_object().unwrap() {
        for (item, relevance) in items.as_object().unwrap() {
            truth.add(query, item, relevance.as_f64().unwrap()).unwrap();
        }
    }
    // Whatever the order in which rows come.
    for line in golden["ranking"].as_array().unwrap().iter().rev() {
        let text = |key: &str| line[key].as_str().unwrap();
        rankings.add(text("query"), text("row").to_owned(), line["rank"].as_f64().unwrap());
    }
    rankings.add("unknown", "d1".to_owned(), 1.0);
    let found = retrieval(&rankings, &truth, &[1, 3, 5, 10], Bootstrap::default()).unwrap();
    assert_eq!((found.queries, found.unranked, found.unjudged), (12, 1, 1));
    let (mut mrr, mut map) = (0.0, 0.0);
    for query in &found.each {
        let expected = &golden["each"][&query.query];
        close(query.reciprocal_rank, &expected["recip_rank"], "reciprocal rank");
        close(query.average_precision, &expected["map"], "average precision");
        mrr += query.reciprocal_rank / 12.0;
        map += query.average_precision / 12.0;
        for at in &query.at {
            let named = [("recall", at.recall), ("P", at.precision), ("success", at.success), ("ndcg_cut", at.ndcg)];
            for (name, value) in named {
                close(value, &expected[format!("{name}_{}", at.k)], name);
            }
        }
    }
    assert!((found.mrr - mrr).abs() < 1e-12 && (found.map - map).abs() < 1e-12);
    let recalls: f64 = found.each.iter().map(|query| query.at[3].recall).sum();
    assert!((found.at[3].recall - recalls / 12.0).abs() < 1e-12);
    assert!(found.map_estimate.low < found.map && found.map < found.map_estimate.high);
}

#[test]
fn retrieval_refuses_what_has_no_meaning() {
    let mut truth = Truth::default();
    assert!(
        truth.add("q", "a", -1.0).unwrap_err().contains("relevance -1 of 'a' for query 'q'; a number of at least 0")
    );
    truth.add("q", "a", 0.0).unwrap();
    let draw = Bootstrap::default();
    let message = |rankings: &Rankings, truth: &Truth, ks: &[usize]| {
        retrieval(rankings, truth, ks, draw).unwrap_err().to_string()
    };
    let mut rankings = Rankings::default();
    assert!(message(&rankings, &truth, &[1]).contains("nothing is relevant"));
    truth.add("q", "b", 1.0).unwrap();
    assert!(truth.add("q", "b", 2.0).unwrap_err().contains("has relevance 2 and 1 for query 'q'"));
    assert!(message(&rankings, &truth, &[0]).contains("0 is not allowed"));
    rankings.add("q", "b".to_owned(), 1.0);
    rankings.add("q", "b".to_owned(), 2.0);
    assert!(message(&rankings, &truth, &[1]).contains("'b' is listed twice for query 'q'"));
}

#[test]
fn lds_is_that_of_scipy() {
    let golden = &golden()["datamodels"];
    let positions = |list: &Value| floats(list).into_iter().map(|row| row as u64).collect();
    let subsets: Vec<Vec<u64>> = golden["subsets"].as_array().unwrap().iter().map(positions).collect();
    let mut sums = SubsetSums::new(&subsets, 4).unwrap();
    for row in golden["scores"].as_array().unwrap() {
        sums.add(Some(&floats(row).into_iter().map(|score| score as f32).collect::<Vec<f32>>())).unwrap();
    }
    let outputs: Vec<f64> = golden["outputs"].as_array().unwrap().iter().flat_map(floats).collect();
    let found = lds(&sums.finish().unwrap(), &outputs, subsets.len(), 4, Bootstrap::default()).unwrap();
    for (found, expected) in found.each.iter().zip(golden["each"].as_array().unwrap()) {
        close(*found, expected, "query");
    }
    close(found.estimate.mean, &golden["mean"], "mean");
}

#[test]
fn precision_and_recall_are_those_of_sklearn() {
    let golden = &golden()["influence"];
    let row = |row: &Value| InfluenceRow {
        index: row["index"].as_u64().unwrap(),
        score: row["score"].as_f64().unwrap(),
        trained: row["trained"].as_bool(),
        ..InfluenceRow::default()
    };
    let rows: Vec<InfluenceRow> = golden["rows"].as_array().unwrap().iter().map(row).collect();
    let found = influence(&rows).unwrap();
    for (order, name) in [(&found.by_score, "by_score"), (&found.by_magnitude, "by_magnitude")] {
        for (at, expected) in order.at.iter().zip(golden[name].as_array().unwrap()) {
            for (number, value) in [at.precision, at.recall, at.f1].into_iter().enumerate() {
                close(value, &expected[number], name);
            }
        }
    }
}

/// Twenty rows in order of score, of which eight are trained, with two ties.
fn twenty() -> Vec<InfluenceRow> {
    let trained = [1, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1];
    let scores =
        [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -12.0];
    let row = |index: usize| InfluenceRow {
        index: index as u64,
        score: scores[index],
        trained: Some(trained[index] == 1),
        group: Some(if trained[index] == 1 { "train_half" } else { "held_out_half" }.to_owned()),
        experiment: (index < 15).then(|| "half-split".to_owned()),
    };
    // In another order than that of their positions.
    (0..20).map(|number| row(number * 7 % 20)).collect()
}

#[test]
fn twenty_rows_by_hand() {
    let found = influence(&twenty()).unwrap();
    assert_eq!((found.rows, found.expected), (20, 0.4));
    assert_eq!(found.by_status, BTreeMap::from([("trained", 8), ("untrained", 12), ("unknown", 0)]));
    assert_eq!(found.by_group, BTreeMap::from([("train_half".to_owned(), 8), ("held_out_half".to_owned(), 12)]));
    assert_eq!(found.by_experiment, BTreeMap::from([("half-split".to_owned(), 15)]));

    // Of three equal scores two are in the upper half: rows 8 and 9, and not row 10, which is trained.
    let half = found.by_score.top_half;
    assert_eq!((half.rows, half.trained, half.precision, half.recall), (10, 5, 0.5, 0.625));
    // 0.5 is above 0.4 and not above 0.4 + 0.1.
    assert_eq!(found.by_score.verdict, Verdict::Fair);
    let at: Vec<(usize, usize)> = found.by_score.at.iter().map(|at| (at.rows, at.trained)).collect();
    assert_eq!(at, [(2, 2), (5, 3), (10, 5), (15, 7), (20, 8)]);
    let top = found.by_score.at[0];
    assert_eq!((top.precision, top.recall, top.f1), (1.0, 0.25, 0.4));

    // By magnitude: 12 and 10 (both trained), 9, 8, 7, 6 and 6, 5 and 5, 4 and 4: the lower row comes first, so that row 6 with 4 is the tenth.
    let half = found.by_magnitude.top_half;
    assert_eq!((half.rows, half.trained), (10, 6));
    assert_eq!(found.by_magnitude.verdict, Verdict::Good);
    let at: Vec<usize> = found.by_magnitude.at.iter().map(|at| at.trained).collect();
    assert_eq!(at, [2, 4, 6, 6, 8]);

    // Trained: 10, 9, 7, 5, 4, 2, -2, -12: sum 23; untrained: 8, 6, 3, 2, 2, 1, 0, -1, -3, -4, -5, -6: sum 3.
    let scores = found.by_score.statistics;
    assert_eq!((scores.trained.mean, scores.untrained.mean), (Some(2.875), Some(0.25)));
    assert_eq!((scores.trained.median, scores.untrained.median), (Some(4.5), Some(0.5)));
    assert_eq!((scores.trained.min, scores.trained.max), (Some(-12.0), Some(10.0)));
    assert_eq!(scores.difference.mean, Some(2.625));
    assert_eq!(scores.difference.median, Some(4.0));
    assert_eq!((scores.difference.min, scores.difference.max), (Some(-6.0), Some(2.0)));
    // Squares of the trained: 423; 423 / 8 - 2.875².
    let deviation = (423.0_f64 / 8.0 - 2.875 * 2.875).sqrt();
    assert!((scores.trained.std.unwrap() - deviation).abs() < 1e-12);
    let magnitudes = found.by_magnitude.statistics;
    assert_eq!(magnitudes.trained.mean, Some(51.0 / 8.0));
    assert_eq!(magnitudes.untrained.mean, Some(41.0 / 12.0));
    let group = found.groups["train_half"];
    assert_eq!((group.score, group.magnitude), (scores.trained, magnitudes.trained));

    // FAIR by score, and the mean of the trained is the higher one.
    assert!(found.trained_mean_higher);
    assert_eq!(found.verdict, Verdict::Good);
}

#[test]
fn verdicts_are_raised_by_the_means() {
    for (share, expected, higher, by_share, of_all) in [
        (0.7, 0.5, true, Verdict::Good, Verdict::Excellent),
        (0.7, 0.5, false, Verdict::Good, Verdict::Good),
        (0.6, 0.5, true, Verdict::Fair, Verdict::Good),
        (0.51, 0.5, false, Verdict::Fair, Verdict::Fair),
        (0.5, 0.5, true, Verdict::Poor, Verdict::Poor),
        (0.0, 1.0, false, Verdict::Poor, Verdict::Poor),
    ] {
        assert_eq!(Verdict::of_share(share, expected), by_share, "{share}");
        assert_eq!(by_share.of_all(higher), of_all, "{share}");
    }
    assert_eq!(serde_json::to_value(Verdict::Excellent).unwrap(), Verdict::Excellent.name());
}

#[test]
fn rows_of_unknown_status_and_of_one_status() {
    let mut rows = twenty();
    rows.push(InfluenceRow { index: 20, score: 100.0, ..InfluenceRow::default() });
    let found = influence(&rows).unwrap();
    assert_eq!((found.rows, found.by_status["unknown"], found.by_score.top_half.trained), (20, 1, 5));
    rows.retain(|row| row.trained == Some(true));
    let found = influence(&rows).unwrap();
    assert_eq!((found.expected, found.verdict, found.by_score.statistics.difference.mean), (1.0, Verdict::Poor, None));
    rows.retain(|_| false);
    assert!(influence(&rows).unwrap_err().to_string().contains("'trained' and 'untrained' are allowed"));
    rows.push(InfluenceRow { index: 7, score: f64::NAN, ..InfluenceRow::default() });
    assert!(influence(&rows).unwrap_err().to_string().contains("row 7: score NaN"));
}

#[test]
fn ranked_statistics_of_twenty_rows_by_hand() {
    // Functions in turns: <FN> has the even rows, <GN> the odd ones, and the last two rows are of none.
    let functions: Vec<Option<String>> =
        (0..20).map(|row| (row < 18).then(|| if row % 2 == 0 { "<FN>" } else { "<GN>" }.to_owned())).collect();
    // 10, 9, …, 1, 0, 0, -1, …: rows 10 and 11 tie, and the last row has none.
    let value = |row: i32| f64::from(if row <= 10 { 10 - row } else { 11 - row });
    let first: Vec<Option<f64>> = (0..20).map(|row| (row < 19).then(|| value(row))).collect();
    let columns = [
        ScoreColumn { name: "f_bm25_score".to_owned(), values: first.clone() },
        ScoreColumn { name: "g_bm25_score".to_owned(), values: first.clone() },
        ScoreColumn {
            name: "h_bm25_score".to_owned(),
            values: first.iter().map(|value| value.map(|value| -value)).collect(),
        },
    ];
    let found = ranked_statistics(&functions, &columns).unwrap();
    let column = &found.scores[0];
    assert_eq!((found.rows, column.without, column.all.as_ref().unwrap().count), (20, 1, 19));
    // <FN>: 10, 8, 6, 4, 2, 0, -1, -3, -5: sum 21, magnitudes 39. <GN>: 9, 7, 5, 3, 1, 0, -2, -4, -6: sum 13, magnitudes 37.
    let [(name, of), (other, others)] = column.functions.as_slice() else { unreachable!("{:?}", column.functions) };
    assert_eq!((name.as_str(), of.count, of.mean, of.mean_magnitude), ("<FN>", 9, 21.0 / 9.0, 39.0 / 9.0));
    assert_eq!((other.as_str(), others.count, others.mean, others.mean_magnitude), ("<GN>", 9, 13.0 / 9.0, 37.0 / 9.0));
    assert_eq!((of.min, of.max, others.min, others.max), (-5.0, 10.0, -6.0, 9.0));
    // Ranks of <FN>: 1, 3, 5, 7, 9, 11.5, 13, 15, 17; of <GN>: 2, 4, 6, 8, 10, 11.5, 14, 16, 18.
    assert_eq!((of.average_rank, others.average_rank), (81.5 / 9.0, 89.5 / 9.0));
    assert_eq!(of.mean_of_top, BTreeMap::from([(5, 6.0), (10, 21.0 / 9.0), (20, 21.0 / 9.0)]));
    assert_eq!(of.mean_of_bottom, BTreeMap::from([(5, -7.0 / 5.0), (10, 21.0 / 9.0), (20, 21.0 / 9.0)]));
    let pairs: Vec<(&str, &str, bool)> = found
        .correlations
        .iter()
        .map(|pair| (pair.scores[0].as_str(), pair.scores[1].as_str(), pair.identical))
        .collect();
    assert_eq!(
        pairs,
        [
            ("f_bm25_score", "g_bm25_score", true),
            ("f_bm25_score", "h_bm25_score", false),
            ("g_bm25_score", "h_bm25_score", false)
        ]
    );
    assert!((found.correlations[1].pearson.unwrap() + 1.0).abs() < 1e-12);
    assert_eq!(found.correlations[0].rows, 19);
    let short = ScoreColumn { name: "x".to_owned(), values: vec![] };
    assert!(ranked_statistics(&functions, &[short]).unwrap_err().to_string().contains("'x': 0 scores for 20 rows"));
    let bad = ScoreColumn { name: "x".to_owned(), values: vec![Some(f64::INFINITY)] };
    assert!(ranked_statistics(&[None], &[bad]).unwrap_err().to_string().contains("row 0: column 'x': score inf"));
}

#[test]
fn columns_of_one_function_are_known_by_their_names() {
    for (name, is) in [
        ("f_influence_score", true),
        ("tail_patch_bm25_score", true),
        ("n_similarity_score", true),
        ("combined_bm25_score", false),
        ("_bm25_score", false),
        ("bm25_score", false),
        ("f_score", false),
    ] {
        assert_eq!(is_function_score(name), is, "{name}");
    }
}

fn scored(rows: &[(i64, &str, Option<[f32; 3]>)]) -> RecordBatch {
    let queries = ["one", "two", "three"].map(str::to_owned);
    let valid: NullBuffer = rows.iter().map(|row| row.2.is_some()).collect::<Vec<bool>>().into();
    let values = rows.iter().flat_map(|row| row.2.unwrap_or_default()).collect();
    let scores = crate::scores::column(3, values, Some(valid)).unwrap();
    let fields = vec![
        Field::new("uid", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        crate::scores::field("influence", &queries).unwrap(),
    ];
    let uids = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let texts = StringArray::from_iter_values(rows.iter().map(|row| row.1));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(uids), Arc::new(texts), Arc::new(scores)])
        .unwrap()
}

#[test]
fn hops_rows_are_the_original_ones_with_scores_in_order() {
    let functions = ["<FN>", "<IN>", "<FN>"].map(str::to_owned);
    let form = HopsForm::new("influence", &functions).unwrap();
    assert_eq!(form.keys(), ["f_influence_score", "i_influence_score"]);
    let mut ranking = HopsRanking::new(form, Cursor::new(Vec::new()));
    // Rows 0 and 3 tie, row 1 has no scores; batches are cut anywhere.
    let rows = [
        (7, "a \"b\"\nc}", Some([1.0, 2.0, 3.0])),
        (7, "none", None),
        (8, "high", Some([4.0, 8.0, 4.0])),
        (9, "tie", Some([2.0, 2.0, 2.0])),
        (10, "low", Some([-1.0, -1.0, 0.0])),
    ];
    for piece in [&rows[..0], &rows[..2], &rows[2..]] {
        ranking.add(&scored(piece), "influence", None).unwrap();
    }
    let mut output = Vec::new();
    assert_eq!(ranking.finish(&mut output).unwrap(), 5);
    let text = String::from_utf8(output).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        text.lines().next().unwrap(),
        r#"{"uid":8,"text":"high","f_influence_score":4.0,"i_influence_score":8.0,"combined_influence_score":6.0,"original_index":2}"#
    );
    let indices: Vec<u64> = lines.iter().map(|line| line["original_index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [2, 0, 3, 4, 1]);
    assert_eq!(
        (&lines[1]["text"], &lines[1]["combined_influence_score"]),
        (&Value::from("a \"b\"\nc}"), &Value::from(2.0))
    );
    assert_eq!(lines[3]["f_influence_score"], -0.5);
    assert_eq!(lines[4]["combined_influence_score"], Value::Null);
}

#[test]
fn hops_positions_may_come_from_a_column() {
    let form = HopsForm::new("bm25", &["a".to_owned(), "b".to_owned(), "c d".to_owned()]).unwrap();
    let mut ranking = HopsRanking::new(form, Cursor::new(Vec::new()));
    let rows = [(9, "later", Some([1.0, 1.0, 1.0])), (3, "earlier", Some([1.0, 1.0, 1.0]))];
    ranking.add(&scored(&rows), "influence", Some("uid")).unwrap();
    let mut output = Vec::new();
    ranking.finish(&mut output).unwrap();
    let text = String::from_utf8(output).unwrap();
    assert!(
        text.starts_with(r#"{"uid":3,"text":"earlier","a_bm25_score":1.0,"b_bm25_score":1.0,"c_d_bm25_score":1.0,"#),
        "{text}"
    );
    assert!(text.ends_with("\"original_index\":9}\n"), "{text}");
}

#[test]
fn hops_refuses_what_it_cannot_rank() {
    for (functions, says) in [
        (&[][..], "no queries"),
        (&["<FN>", "f"], "'<FN>' and 'f' both give the key 'f_x_score'"),
        (&["combined"], "'combined' gives the key"),
        (&["<>"], "'<>' gives the key '_x_score'"),
    ] {
        let functions: Vec<String> = functions.iter().map(|name| (*name).to_owned()).collect();
        let message = HopsForm::new("x", &functions).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let form = || HopsForm::new("x", &["a".to_owned(), "b".to_owned(), "c".to_owned()]).unwrap();
    let message = |batch: &RecordBatch, by: &str, index: Option<&str>| {
        HopsRanking::new(form(), Cursor::new(Vec::new())).add(batch, by, index).unwrap_err().to_string()
    };
    let rows = [(1, "a", Some([1.0, 1.0, 1.0])), (-1, "b", Some([1.0, f32::INFINITY, 1.0]))];
    let batch = scored(&rows);
    assert!(message(&batch, "influenze", None).contains("no column 'influenze', did you mean 'influence'?"));
    assert!(message(&batch, "text", None).contains("column 'text' has type Utf8, expected scores"));
    assert!(message(&batch, "uid", None).contains("row 0: column 'uid': 1 scores; there are 3 queries"));
    assert!(message(&batch, "influence", None).contains("row 1: column 'influence': score inf for query 1"));
    assert!(
        message(&batch, "influence", Some("uid")).contains("row 1: column 'uid': -1; a whole number of at least 0")
    );
    let taken = RecordBatch::try_from_iter([("a_x_score", Arc::new(Float32Array::from(vec![1.0])) as _)]).unwrap();
    assert!(message(&taken, "a_x_score", None).contains("already has a column 'a_x_score'"));
}

#[test]
fn columns_are_read_whatever_their_types() {
    let lines = r#"{"n": 1, "f": 0.5, "s": "x", "b": true, "l": [0, 2], "v": [1.5, 2]}
{"n": null, "f": 2, "s": null, "b": false, "l": [1], "v": null}
"#;
    let schema = arrow_json::reader::infer_json_schema(Cursor::new(lines), None).unwrap().0;
    let mut reader = arrow_json::ReaderBuilder::new(Arc::new(schema)).build(Cursor::new(lines)).unwrap();
    let batch = reader.next().unwrap().unwrap();
    assert_eq!(columns::numbers(&batch, "n", 0).unwrap(), [Some(1.0), None]);
    assert_eq!(columns::numbers(&batch, "f", 0).unwrap(), [Some(0.5), Some(2.0)]);
    assert!(
        columns::numbers(&batch, "s", 0)
            .unwrap_err()
            .to_string()
            .contains("column 's' has type Utf8, expected numbers")
    );
    assert_eq!(columns::names(&batch, "n").unwrap(), [Some("1".to_owned()), None]);
    assert_eq!(columns::names(&batch, "s").unwrap(), [Some("x".to_owned()), None]);
    assert_eq!(columns::names(&batch, "b").unwrap()[1].as_deref(), Some("false"));
    assert!(columns::names(&batch, "f").unwrap_err().to_string().contains("expected text or whole numbers"));
    assert_eq!(columns::position_lists(&batch, "l", 0).unwrap(), [vec![0, 2], vec![1]]);
    assert!(
        columns::position_lists(&batch, "v", 5)
            .unwrap_err()
            .to_string()
            .contains("row 5: column 'v': 1.5; a list of whole")
    );
    assert!(columns::position_lists(&batch, "s", 0).is_err());
    assert_eq!(columns::query_names(&batch, "v").unwrap(), ["0", "1"]);
    assert_eq!(columns::query_names(&batch, "f").unwrap(), ["f"]);
    assert!(columns::query_names(&batch, "s").is_err());
    assert!(columns::score_columns(batch.schema_ref()).is_empty());
    let mut seen = Vec::new();
    columns::each_scores(&batch, "v", 3, |row, scores| {
        seen.push((row, scores.map(<[f32]>::to_vec)));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [(3, Some(vec![1.5, 2.0])), (4, None)]);
    // A slice of a column of scores reads its own rows.
    let batch = scored(&[(1, "a", Some([1.0, 2.0, 3.0])), (2, "b", Some([4.0, 5.0, 6.0]))]).slice(1, 1);
    assert_eq!(columns::score_columns(batch.schema_ref()), ["influence"]);
    assert_eq!(columns::query_names(&batch, "influence").unwrap(), ["one", "two", "three"]);
    columns::each_scores(&batch, "influence", 0, |row, scores| {
        assert_eq!((row, scores), (0, Some(&[4.0, 5.0, 6.0][..])));
        Ok(())
    })
    .unwrap();
}
