//! Against the figures of scipy, trec_eval and scikit-learn (`benches/peers/analysis_peer.py`).

#![allow(clippy::unwrap_used)]

mod by_hand;
mod tables;

use serde_json::Value;

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../testdata/golden.json")).unwrap()
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
