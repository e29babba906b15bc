//! Exact scores of the rows that a cheaper method chose.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use serde_json::json;

use super::{TEXTS, corpus, learned, merged, model, run, run_all, score, scores_of, table, texts_as_queries};
use crate::conformance;
use crate::influence::InfluenceKind;

fn weights(batch: &RecordBatch) -> Vec<Option<f64>> {
    let metadata = batch["influence_metadata"].as_struct();
    metadata.column_by_name("weight").unwrap().as_primitive::<Float64Type>().iter().collect()
}

#[test]
fn the_best_by_a_cheaper_method_have_the_scores_that_they_have_among_all() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[1], TEXTS[5]]);
    let base = json!({"model": model(), "queries": wanted});
    let exact = score(merged(&base, json!({"method": "identity"})), &corpus());
    for first in
        [json!({"method": "dot", "dimension": 8}), json!({"method": "trackstar"}), json!({"method": "representation"})]
    {
        let (_files, config) = learned(&merged(&base, first.clone()), first["method"] == "trackstar");
        let cheap = score(config, &corpus());
        let candidates = merged(&first, json!({"keep": 2, "margin": 0.0, "sample": 0}));
        let config = merged(&base, json!({"method": "identity", "candidates": candidates}));
        let (_files, config) = learned(&config, true);
        let got = run("influence", config.clone(), &corpus());
        for row in 0..TEXTS.len() {
            let better = |query: usize| cheap.iter().filter(|other| other[query] > cheap[row][query]).count();
            let chosen = (0..2).any(|query| better(query) < 2);
            assert_eq!(got["influence"].is_valid(row), chosen, "row {row} of {cheap:?}");
            assert_eq!(weights(&got)[row], chosen.then_some(1.0));
            if chosen {
                assert_eq!(scores_of(&got)[row], exact[row]);
            }
        }
        conformance::check(&InfluenceKind, &config);
    }
}

#[test]
fn enough_by_chance_are_all_and_none_stands_for_others() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[1]]);
    let base = json!({"model": model(), "queries": wanted, "method": "identity"});
    // One of the eight texts has no token to predict; it has a score of zero like any other.
    for candidates in [
        json!({"method": "dot", "keep": 1, "margin": 0.0, "sample": 8}),
        json!({"method": "dot", "keep": 4, "margin": 1.0, "sample": 0}),
    ] {
        let (_files, config) = learned(&merged(&base, json!({"candidates": candidates})), true);
        let got = run("influence", config, &corpus());
        assert_eq!(scores_of(&got), score(base.clone(), &corpus()));
        assert_eq!(weights(&got), [Some(1.0); 8]);
    }
}

#[test]
fn rows_are_known_by_what_counts_and_the_file_by_what_chose_it() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[1]]);
    let candidates = json!({"method": "representation", "keep": 3, "margin": 0.0, "sample": 0});
    let base = json!({"model": model(), "queries": wanted, "method": "identity", "candidates": candidates});
    let (_files, config) = learned(&merged(&base, json!({"span": {"start": 2, "end": 4}})), true);
    assert_eq!(run("influence", config.clone(), &corpus())["influence"].null_count(), 5);
    // The same rows, of which other tokens count.
    let other = merged(&config, json!({"span": {"start": 2, "end": 5}}));
    let message = run_all("influence", other, &[corpus()]).unwrap_err().to_string();
    assert!(message.contains("its candidates were chosen with {"), "{message}");
    let fewer = merged(&candidates, json!({"keep": 2}));
    let message = run_all("influence", merged(&config, json!({"candidates": fewer})), &[corpus()]).unwrap_err();
    assert!(message.to_string().contains("\"keep\":2"), "{message}");
    // Rows that are null have no scores, and are no candidates.
    let (_files, config) = learned(&base, true);
    let got = run("influence", config, &table(&[None, Some(TEXTS[0])]));
    assert!(got["influence"].is_null(0));
}
