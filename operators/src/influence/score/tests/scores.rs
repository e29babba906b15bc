//! Scores against brute force, and against themselves.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type};
use arrow_array::{Array, RecordBatch};
use serde_json::{Value, json};

use super::{TEXTS, corpus, merged, model, queries, run, run_all, score, scores_of, table, texts_as_queries};
use crate::conformance;
use crate::influence::InfluenceKind;
use crate::models::gradients::{Backward, DocumentGradients, Loss, Reduction, TokenLoss, token_weights};
use crate::models::tests::ALONE;
use crate::models::{Batch, LoadOptions, Model, ParameterKind};
use crate::tokens::Tokenizer;
use crate::{Resources, scores};

/// The gradient of a text's mean loss by all linear layers, in double precision; of the tokens from `first` on.
fn gradient(model: &Model, ids: &[u32], first: usize) -> Vec<f64> {
    let mut all = Vec::new();
    let linear = |parameter: &crate::models::Parameter| parameter.kind() == ParameterKind::Linear;
    let mut tap = DocumentGradients::new(linear, |_, _, gradient: &[f32]| {
        all.extend(gradient.iter().map(|&value| f64::from(value)));
        Ok(())
    });
    let batch = Batch::of(ids);
    let weights = token_weights(&batch, Reduction::Mean, |_, token| token >= first);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    Backward::new(model).unwrap().run(ALONE, &batch, loss, &mut tap).unwrap();
    all
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn close(got: f32, expected: f64, scale: f64, what: &str) {
    let off = (f64::from(got) - expected).abs();
    // Products of thousands of single-precision numbers, in another order.
    assert!(off <= 1e-5 * scale, "{what}: {got}, expected {expected} of scale {scale}");
}

#[test]
fn scores_without_projection_are_those_of_whole_gradients_in_double_precision() {
    let options = LoadOptions { gradients: true, ..LoadOptions::default() };
    let (loaded, _) = Model::load(&model(), &Resources::local(), options).unwrap();
    let (tokenizer, _) = Tokenizer::load(&model(), &Resources::local()).unwrap();
    let encode = |text: &str, special_tokens: bool| {
        let mut ids = Vec::new();
        tokenizer.encode(text, special_tokens, &mut ids).unwrap();
        ids
    };
    let pairs = [("The quick brown", " fox jumps over a dog."), ("Water boils", " at sea level.")];
    let wanted: Vec<Vec<f64>> = pairs
        .iter()
        .map(|(prompt, completion)| {
            let ids = encode(&format!("{prompt}{completion}"), true);
            gradient(&loaded, &ids, encode(prompt, true).len() - tokenizer.suffix().len())
        })
        .collect();
    let rows: Vec<Vec<f64>> = TEXTS.iter().map(|text| gradient(&loaded, &encode(text, true), 1)).collect();
    let lines = pairs.map(|(prompt, completion)| json!({"prompt": prompt, "completion": completion}));
    let (_kept, wanted_config) = queries(&lines);
    let base = json!({"model": model(), "queries": wanted_config});
    for (config, cosine) in [
        (json!({"method": "identity"}), false),
        (json!({"method": "dot", "dimension": 0}), false),
        (json!({"method": "cosine", "dimension": 0}), true),
        (json!({"method": "identity", "rank": 64}), false),
    ] {
        let scores = score(merged(&base, config.clone()), &corpus());
        for (row, of_row) in rows.iter().zip(&scores) {
            for (query, &got) in wanted.iter().zip(of_row) {
                let lengths = (dot(row, row) * dot(query, query)).sqrt();
                let product = dot(row, query);
                match cosine {
                    true => close(got, if lengths > 0.0 { product / lengths } else { 0.0 }, 1.0, &config.to_string()),
                    false => close(got, product, lengths, &config.to_string()),
                }
            }
        }
    }
}

#[test]
fn conformance_suite() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[3]]);
    let base = json!({"model": model(), "queries": wanted, "context_length": 64, "dimension": 8});
    conformance::check(&InfluenceKind, &merged(&base, json!({"method": "cosine"})));
    conformance::check(&InfluenceKind, &merged(&base, json!({"method": "dot", "reduction": "sum"})));
    let base = json!({"model": model(), "queries": wanted, "context_length": 64});
    conformance::check(&InfluenceKind, &merged(&base, json!({"method": "identity"})));
    conformance::check(
        &InfluenceKind,
        &merged(&base, json!({"method": "representation", "layer": 1, "pooling": "last"})),
    );
}

#[test]
fn rows_without_a_target_have_scores_of_zero_and_null_rows_have_none() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0]]);
    let config = json!({"model": model(), "queries": wanted, "dimension": 8});
    let batch = run("influence", config, &table(&[Some(TEXTS[0]), None, Some("")]));
    let (scored, metadata) = (&batch["influence"], batch["influence_metadata"].as_struct());
    assert_eq!([0, 1, 2].map(|row| scored.is_valid(row)), [true, false, true]);
    let tokens = metadata["tokens"].as_primitive::<UInt32Type>();
    assert!(tokens.value(0) > 5);
    assert_eq!(tokens.value(2), 0);
    let all = scores_of(&batch);
    assert!((all[0][0] - 1.0).abs() < 1e-5);
    assert_eq!(all[2], [0.0]);
    let losses = metadata["loss"].as_primitive::<Float64Type>();
    assert!(losses.value(0) > 1.0 && losses.value(2) == 0.0);
    let schema = batch.schema();
    assert_eq!(scores::queries(schema.field_with_name("influence").unwrap()).unwrap(), ["0"]);
}

fn bits(all: &[Vec<f32>]) -> Vec<u32> {
    all.iter().flatten().map(|score| score.to_bits()).collect()
}

#[test]
fn stored_gradients_have_the_scores_of_live_ones() {
    let (_kept, wanted) = texts_as_queries(&[TEXTS[0], TEXTS[6]]);
    let stored_by = json!({"model": model(), "dimension": 8, "reduction": "sum"});
    let mut rows: Vec<Option<&str>> = TEXTS.iter().copied().map(Some).collect();
    rows.insert(2, None);
    let rows = table(&rows);
    let stored = run("gradient", stored_by.clone(), &rows);
    for method in ["dot", "cosine"] {
        let config = merged(&stored_by, json!({"queries": wanted, "method": method}));
        let live = run("influence", config.clone(), &rows);
        let config = merged(&config, json!({"gradients": "gradient"}));
        let again = run("influence", config.clone(), &stored);
        assert_eq!(bits(&scores_of(&live)), bits(&scores_of(&again)), "{method}");
        assert_eq!(&live["influence_metadata"], &again["influence_metadata"], "{method}");
        // Row by row.
        let pieces: Vec<RecordBatch> = (0..stored.num_rows()).map(|row| stored.slice(row, 1)).collect();
        let output = run_all("influence", config, &pieces).unwrap();
        let pieces: Vec<Vec<f32>> = output.batches.iter().flat_map(scores_of).collect();
        assert_eq!(bits(&scores_of(&live)), bits(&pieces), "{method}");
    }
}

#[test]
fn scores_of_groups_are_made_of_those_of_queries() {
    let lines: Vec<Value> = [(0, "x"), (3, "y"), (5, "x"), (6, "y"), (7, "x")]
        .map(|(text, group)| json!({"text": TEXTS[text], "group": group}))
        .to_vec();
    let (_kept, mut wanted) = queries(&lines);
    wanted["text"] = "text".into();
    let groups = [vec![0, 2, 4], vec![1, 3]];
    for method in ["dot", "cosine", "identity"] {
        let mut base = json!({"model": model(), "method": method});
        if method != "identity" {
            base["dimension"] = 8.into();
        }
        let with = |more: Value| merged(&base, json!({"queries": merged(&wanted, more)}));
        let each = score(with(json!({})), &corpus());
        let mean = score(with(json!({"group": "group", "aggregate": "mean"})), &corpus());
        let nearest = score(with(json!({"group": "group", "aggregate": "nearest"})), &corpus());
        let of_all = score(with(json!({"aggregate": "mean"})), &corpus());
        let scale = each.iter().flatten().fold(0.0_f64, |most, score| most.max(f64::from(score.abs())));
        for row in 0..each.len() {
            for (place, members) in groups.iter().enumerate() {
                let own = members.iter().map(|&member| each[row][member]);
                assert_eq!(nearest[row][place], own.clone().fold(f32::NEG_INFINITY, f32::max), "{method}");
                let sum: f64 = own.map(f64::from).sum();
                close(mean[row][place], sum / members.len() as f64, scale, method);
            }
            let sum: f64 = each[row].iter().map(|&score| f64::from(score)).sum();
            close(of_all[row][0], sum / 5.0, scale, method);
        }
    }
}
