//! Numbers of the columns against those of the library.

use gristmill_kernels::workers::Serial;

use super::super::GradientKind;
use super::*;
use crate::conformance;
use crate::influence::sketch::{NormsOf, Projector, Sketch, SketchSpec};
use crate::models::gradients::{Backward, Loss, Reduction, TokenLoss, token_weights};
use crate::models::{Batch, Compute};
use crate::tokens::Tokenizer;

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };
const TEXTS: [&str; 3] = ["one text of a few words", "another one, somewhat longer than the first of them", "a third"];

#[test]
fn conformance_suite() {
    for config in [
        json!({"context_length": 64}),
        json!({"context_length": 32, "output": "f16", "norms": "modules", "reduction": "sum"}),
        json!({"context_length": 40, "output": "bf16", "answer": "label", "norms": "total"}),
        json!({"context_length": 24, "output": "int8", "per_token": true, "modules": {"include": ["*.0.mlp.*"]}}),
        json!({"context_length": 24, "output": "signs", "span": {"start": "id", "end": 20}}),
        json!({"context_length": 16, "dimension": 0, "modules": {"include": ["*.0.self_attn.k_proj"]}}),
    ] {
        conformance::check(&GradientKind, &with(config));
    }
}

fn ids(text: &str, special: bool) -> Vec<u32> {
    let (tokenizer, _) = Tokenizer::load(&model(), &Resources::local()).unwrap();
    let mut ids = Vec::new();
    tokenizer.encode(text, special, &mut ids).unwrap();
    ids
}

/// Loss, norm and row of ids, of which those that `is_target` takes are targets.
fn library(ids: &[u32], reduction: Reduction, is_target: impl Fn(usize) -> bool) -> (f64, f64, Vec<f32>) {
    let model = loaded();
    let sketch = Sketch::new(&model, &SketchSpec { dimension: 8, ..SketchSpec::default() }).unwrap();
    let batch = Batch::of(ids);
    let weights = token_weights(&batch, reduction, |_, token| is_target(token));
    let mut projector = Projector::new(&sketch).with_norms(NormsOf::Modules);
    projector.prepare(&batch);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    let losses = Backward::new(&model).unwrap().run(ALONE, &batch, loss, &mut projector).unwrap();
    (losses.documents[0], projector.norm(0).unwrap(), projector.row(0).to_vec())
}

fn assert_row(batch: &RecordBatch, row: usize, expected: (f64, f64, Vec<f32>)) {
    let (loss, norm, numbers) = expected;
    assert_eq!(doubles(batch, "loss")[row], loss);
    assert_eq!(doubles(batch, "norm")[row], norm);
    let width = numbers.len();
    assert_eq!(values(batch)[row * width..(row + 1) * width], numbers);
}

#[test]
fn rows_are_those_of_the_library() {
    let batch = table(&TEXTS.map(Some));
    for (name, reduction) in [("mean", Reduction::Mean), ("sum", Reduction::Sum)] {
        let got = run(json!({"reduction": name, "norms": "modules"}), &batch);
        for (row, text) in TEXTS.iter().enumerate() {
            let ids = ids(text, true);
            assert_eq!(counts(&got, "tokens")[row] as usize, ids.len() - 1);
            assert_row(&got, row, library(&ids, reduction, |_| true));
        }
        assert_eq!(counts(&got, "truncated"), [0; 3]);
        // Norms of modules make up that of all.
        let norms = got["gradient_metadata"].as_struct()["module_norms"].as_fixed_size_list().clone();
        for (row, norm) in doubles(&got, "norm").into_iter().enumerate() {
            let modules = norms.value(row);
            let modules = modules.as_primitive::<arrow_array::types::Float32Type>().values();
            assert_eq!(modules.len(), description(&got).projection.modules.len());
            let all = modules.iter().map(|&norm| f64::from(norm).powi(2)).sum::<f64>().sqrt();
            assert!((all - norm).abs() < 1e-6 * norm, "{all} {norm}");
        }
    }
}

#[test]
fn spans_answers_and_lengths_choose_targets() {
    let starts: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None, Some(0)]));
    let answers: ArrayRef = Arc::new(StringArray::from(vec![Some(" and its answer"), None, Some("")]));
    let texts: ArrayRef = Arc::new(StringArray::from(TEXTS.to_vec()));
    let batch = RecordBatch::try_from_iter([("text", texts), ("start", starts), ("answer", answers)]).unwrap();

    let got = run(json!({"span": {"start": "start", "end": 5}, "norms": "total"}), &batch);
    for (row, start) in [3, 1, 1].into_iter().enumerate() {
        let ids = ids(TEXTS[row], true);
        assert_row(&got, row, library(&ids, Reduction::Mean, |token| token >= start && token < 5));
        assert_eq!(counts(&got, "tokens")[row] as usize, ids.len().min(5) - start);
    }

    let got = run(json!({"context_length": 6, "norms": "total"}), &batch);
    for (row, text) in TEXTS.iter().enumerate() {
        let ids = ids(text, true);
        let kept = ids.len().min(6);
        assert_eq!(counts(&got, "truncated")[row] as usize, ids.len() - kept);
        assert_row(&got, row, library(&ids[..kept], Reduction::Mean, |_| true));
    }

    let (tokenizer, _) = Tokenizer::load(&model(), &Resources::local()).unwrap();
    let all = ids(&format!("{} and its answer", TEXTS[0]), true);
    let before = [tokenizer.prefix(), &ids(TEXTS[0], false)].concat();
    let first = all.iter().zip(&before).take_while(|(whole, text)| whole == text).count();
    assert!(first + 3 <= all.len());
    let answered = |token: usize| (first..all.len()).contains(&token);
    let got = run(json!({"answer": "answer", "norms": "total"}), &batch);
    assert_row(&got, 0, library(&all, Reduction::Mean, answered));
    assert!(got["gradient"].is_null(1) && got["gradient_metadata"].is_null(1));
    // An empty answer has no token.
    assert!(got["gradient"].is_valid(2));
    assert_eq!((counts(&got, "tokens")[2], doubles(&got, "norm")[2]), (0, 0.0));

    // The text is cut off in front, and the answer stays.
    let kept = all.len() - first + 2;
    let cut = all.len() - kept;
    let got = run(json!({"answer": "answer", "norms": "total", "context_length": kept}), &batch);
    assert_eq!(counts(&got, "truncated")[0] as usize, cut);
    assert_row(&got, 0, library(&all[cut..], Reduction::Mean, |token| answered(token + cut)));
}

#[test]
fn texts_with_nothing_to_predict_have_zeros_and_are_counted() {
    let batch = table(&[Some(""), Some(TEXTS[0]), None]);
    let config = json!({"norms": "modules", "context_length": 64});
    let got = run(config.clone(), &batch);
    let width = description(&got).width();
    let empty = ids("", true).len();
    assert!(empty < 2, "{empty}");
    assert!(values(&got)[..width].iter().all(|&value| value == 0.0));
    assert!(values(&got)[width..2 * width].iter().any(|&value| value != 0.0));
    assert_eq!((counts(&got, "tokens")[0], doubles(&got, "loss")[0], doubles(&got, "norm")[0]), (0, 0.0, 0.0));
    assert!(got["gradient"].is_valid(0) && got["gradient"].is_null(2) && got["gradient_metadata"].is_null(2));
    for output in ["int8", "signs"] {
        let mut config = config.clone();
        config["output"] = json!(output);
        let got = run(config, &batch);
        assert!(values(&got)[..width].iter().all(|&value| value == 0.0), "{output}");
    }
}

#[test]
fn tokens_have_rows_that_sum_to_the_text() {
    let batch = table(&[Some(TEXTS[0]), None, Some(""), Some(TEXTS[1])]);
    let whole = run(json!({}), &batch);
    let got = run(json!({"per_token": true}), &batch);
    let description = description(&got);
    let rows = description.decode(&got["gradient"]).unwrap();
    let offsets = rows.offsets.unwrap();
    assert_eq!(offsets.len(), 5);
    let width = description.width();
    for (row, place) in offsets.windows(2).enumerate() {
        let text = [Some(TEXTS[0]), None, Some(""), Some(TEXTS[1])][row];
        let places = text.map_or(0, |text| ids(text, true).len().saturating_sub(1));
        assert_eq!(place[1] - place[0], places);
        let mut sum = vec![0.0_f32; width];
        for token in rows.values[place[0] * width..place[1] * width].chunks_exact(width) {
            sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
        if places > 0 {
            let off = off(&sum, &values(&whole)[row * width..(row + 1) * width]);
            assert!(off < 1e-5, "row {row}: {off:e}");
        }
    }
    // A slice of the column is the same rows.
    let sliced = description.decode(&got["gradient"].slice(3, 1)).unwrap();
    assert_eq!(sliced.offsets.unwrap(), [0, offsets[4] - offsets[3]]);
    assert_eq!(sliced.values, rows.values[offsets[3] * width..]);
}
