//! Models of fastText against what its own program says, and files that are not models.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch, StringArray};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{FastText, FastTextKind, Scratch};
use crate::{OperatorSpec, Registry, Resources, apply, conformance};

const MODELS: [&str; 7] =
    ["softmax.bin", "ova.bin", "hs.bin", "ns.bin", "quantised.ftz", "quantised-norms.ftz", "pruned.ftz"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fasttext/testdata").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn load(name: &str) -> FastText {
    FastText::load(&fixture(name).to_string_lossy(), &Resources::local()).unwrap().0
}

fn table(texts: &[Option<&str>]) -> RecordBatch {
    let texts = StringArray::from(texts.to_vec());
    RecordBatch::try_from_iter_with_nullable([("text", Arc::new(texts) as _, true)]).unwrap()
}

fn run(config: Value, batch: &RecordBatch) -> crate::Result<RecordBatch> {
    let spec = OperatorSpec::new("fasttext", config);
    let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local())?;
    Ok(apply(operator.as_ref(), [batch.clone()])?.batches.remove(0))
}

#[test]
fn every_form_of_file_gives_the_labels_and_probabilities_of_fasttext() {
    let expected = expected();
    let texts: Vec<&str> = expected["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(expected["models"].as_object().unwrap().len(), MODELS.len());
    for name in MODELS {
        let (model, expected) = (load(name), &expected["models"][name]);
        let labels: Vec<&str> = expected["labels"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
        assert_eq!(model.labels().iter().map(|label| format!("__label__{label}")).collect::<Vec<_>>(), labels);
        let mut scratch = Scratch::default();
        let (mut none, mut apart) = (0, 0.0_f64);
        for (text, row) in texts.iter().zip(expected["probabilities"].as_array().unwrap()) {
            let row: Vec<Option<f64>> = row.as_array().unwrap().iter().map(Value::as_f64).collect();
            let Some((listed, _)) = model.predict(text, labels.len(), None, &mut scratch) else {
                assert!(row.is_empty(), "{name} {text:?}");
                none += 1;
                continue;
            };
            assert!(listed.is_sorted_by(|a, b| a.probability >= b.probability), "{name} {text:?}");
            assert_eq!(listed.len(), row.iter().flatten().count(), "{name} {text:?}");
            for prediction in &listed {
                let off = (f64::from(prediction.probability) - row[prediction.label].unwrap()).abs();
                assert!(off <= 1e-6, "{name} {text:?} {prediction:?} {row:?}");
                apart = apart.max(off);
            }
            // The best ones alone, and a label by itself, are those of the whole list.
            for label in 0..labels.len() {
                let (best, own) = model.predict(text, label + 1, Some(label), &mut scratch).unwrap();
                assert_eq!(best, listed[..(label + 1).min(listed.len())], "{name} {text:?}");
                let in_list = listed.iter().find(|prediction| prediction.label == label);
                match in_list {
                    Some(in_list) => assert_eq!(own, Some(in_list.probability), "{name} {text:?} {label}"),
                    None => assert!(own.unwrap() <= 1.0001e-5, "{name} {text:?} {label}"),
                }
            }
        }
        println!("{name}: {apart:e} apart, {none} texts without a feature");
        assert!(none < texts.len() / 2);
    }
}

#[test]
fn conformance_suite() {
    conformance::check(&FastTextKind, &json!({"model": fixture("softmax.bin"), "label": "de", "threshold": 0.3}));
    conformance::check(&FastTextKind, &json!({"model": fixture("pruned.ftz"), "top": 3}));
    conformance::check(&FastTextKind, &json!({"model": fixture("hs.bin")}));
}

#[test]
fn a_label_is_a_verdict_and_without_one_the_best_label_is_a_column() {
    let batch = table(&[Some("the fox and the dog"), None, Some("der und die"), Some("")]);
    let model = fixture("softmax.bin");
    let best = run(json!({"model": model, "top": 9}), &batch).unwrap();
    let labels = best["fasttext"].as_string::<i32>();
    assert_eq!((labels.value(0), labels.is_null(1), labels.value(2)), ("en", true, "de"));
    let metadata = best["fasttext_metadata"].as_struct();
    let scores = metadata["highest_score"].as_primitive::<Float64Type>().values().to_vec();
    let top = metadata["top"].as_list::<i32>();
    assert_eq!((0..4).map(|row| top.value_length(row)).collect::<Vec<_>>(), [4, 0, 4, 4]);
    assert_eq!(scores[1], 0.0);
    let first = top.value(2);
    assert_eq!(first.as_struct()["label"].as_string::<i32>().value(0), "de");
    assert_eq!(first.as_struct()["probability"].as_primitive::<Float64Type>().value(0), scores[2]);

    for (label, threshold) in [("en", scores[0]), ("__label__en", scores[0] - 1e-9), ("en", 0.0)] {
        let config = json!({"model": model, "label": label, "threshold": threshold});
        let verdict = run(config, &batch).unwrap();
        let own = verdict["fasttext_metadata"].as_struct()["highest_score"].as_primitive::<Float64Type>().clone();
        assert_eq!(own.value(0), scores[0]);
        let verdicts = verdict["fasttext"].as_boolean();
        assert_eq!(verdicts.null_count(), 0);
        assert!(!verdicts.value(1));
        for row in [0, 2, 3] {
            assert_eq!(verdicts.value(row), own.value(row) > threshold, "{label} {threshold} {row}");
        }
    }
}

#[test]
fn a_text_of_which_the_model_knows_nothing_has_no_label() {
    // A model that does not know the end of a line.
    let mut changed = bytes("softmax.bin");
    let end = changed.windows(5).position(|five| five == b"</s>\0").unwrap();
    changed[end] = b'x';
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endless.bin");
    std::fs::write(&path, changed).unwrap();
    let batch = table(&[Some("zzz"), Some(""), Some("the")]);
    let best = run(json!({"model": path}), &batch).unwrap();
    assert_eq!(best["fasttext"].as_string::<i32>().iter().collect::<Vec<_>>(), [None, None, Some("en")]);
    let verdict = run(json!({"model": path, "label": "en", "threshold": -1.0}), &batch).unwrap();
    assert_eq!(verdict["fasttext"].as_boolean().iter().collect::<Vec<_>>(), [Some(false), Some(false), Some(true)]);
    let metadata = verdict["fasttext_metadata"].as_struct();
    assert_eq!(metadata["highest_score"].as_primitive::<Float64Type>().value(0), 0.0);
    assert_eq!(metadata["top"].as_list::<i32>().value_length(0), 0);
}

#[cfg(feature = "models")]
#[test]
fn another_threshold_needs_no_model() {
    let batch = table(&[Some("the fox and the dog"), None, Some("der und die")]);
    let scored = run(json!({"model": fixture("softmax.bin"), "label": "en"}), &batch).unwrap();
    let spec = OperatorSpec::new("rethreshold", json!({"scores": "fasttext", "threshold": 0.1})).named("again");
    let operator = Registry::standard().bind(&spec, &scored.schema(), &Resources::local()).unwrap();
    let again = apply(operator.as_ref(), [scored]).unwrap().batches.remove(0);
    let fresh = run(json!({"model": fixture("softmax.bin"), "label": "en", "threshold": 0.1}), &batch).unwrap();
    assert_eq!(again["again"].as_boolean(), fresh["fasttext"].as_boolean());
}

#[test]
fn wrong_configurations_are_named() {
    let batch = table(&[Some("a")]);
    let model = fixture("softmax.bin");
    for (config, expected) in [
        (json!({"model": model, "label": "dee"}), "no label 'dee', did you mean 'de'?; its labels: en, de, ru, zh"),
        (json!({"model": model, "threshold": 0.5}), "without 'label'"),
        (json!({"model": model, "top": 0}), "0; at least 1"),
        (json!({"model": model, "column": "texts"}), "no column 'texts', did you mean 'text'?"),
        (json!({"model": model, "labell": "en"}), "labell"),
        (json!({"model": fixture("nowhere.bin")}), "nowhere.bin"),
        (json!({"model": fixture("make_fasttext.py")}), "the mark of fastText, before byte 4, is"),
    ] {
        let message = run(config.clone(), &batch).unwrap_err().to_string();
        assert!(message.contains(expected), "{config}: {message}");
    }
}

fn error(bytes: Vec<u8>) -> String {
    FastText::from_bytes("some.bin", &Bytes::from(bytes)).unwrap_err().to_string()
}

/// With a number of 32 bits somewhere else.
fn with(name: &str, at: usize, value: i32) -> Vec<u8> {
    let mut changed = bytes(name);
    changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
    changed
}

#[test]
fn numbers_of_the_header_that_cannot_be_are_named() {
    for (at, value, expected) in [
        (0, 5, "the mark of fastText, before byte 4, is 5, and 793712314 is expected"),
        (4, 13, "the version, before byte 8, is 13, and 11 or 12"),
        (8, -3, "the width of vectors, before byte 12, is -3"),
        (8, 0, "the width of vectors, before byte 12, is 0"),
        (8, i32::MAX, "the width of the input matrix"),
        (32, 9, "the loss, before byte 36, is 9"),
        (36, 1, "the kind of model, before byte 40, is 1, and 3"),
        (40, 0, "n-grams and no buckets"),
        (40, i32::MAX, "rows, and features need"),
        (64, i32::MAX, "entries cannot be"),
        (68, i32::MAX, "entries cannot be"),
        (72, 0, "entries cannot be"),
    ] {
        let message = error(with("ova.bin", at, value));
        assert!(message.starts_with("some.bin: ") || message.contains("some.bin"), "{message}");
        assert!(message.contains(expected), "{at} {value}: {message}");
    }
}

#[test]
fn files_that_are_cut_off_or_damaged_are_errors_and_nothing_worse() {
    let texts = ["the fox", "", "\u{7f16}\u{7801} über"];
    for name in MODELS {
        let whole = bytes(name);
        for length in 0..whole.len() {
            let message = error(whole[..length].to_vec());
            assert!(message.contains("cut off or damaged") || message.contains("does not end"), "{length}: {message}");
        }
        // Whatever a number is replaced by, there is an error or a model that answers.
        for at in (0..whole.len() - 4).step_by(if whole.len() > 4000 { 3 } else { 1 }) {
            for value in [-1, 0, 1, 255, i32::MAX, i32::MIN] {
                if let Ok(model) = FastText::from_bytes("some.bin", &Bytes::from(with(name, at, value))) {
                    for text in texts {
                        model.predict(text, 2, Some(0), &mut Scratch::default());
                    }
                }
            }
        }
    }
}

#[test]
fn a_probability_that_is_not_a_number_is_an_error_of_its_row() {
    let mut damaged = bytes("softmax.bin");
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.bin");
    std::fs::write(&path, damaged).unwrap();
    for config in [json!({"model": path}), json!({"model": path, "label": "en"})] {
        let message = run(config, &table(&[None, Some("the fox")])).unwrap_err().to_string();
        assert!(message.contains("row 1") && message.contains("NaN"), "{message}");
    }
}

#[test]
fn long_texts_and_words_take_little_memory_and_give_an_answer() {
    let model = load("pruned.ftz");
    let mut scratch = Scratch::default();
    let word = "aé知".repeat(200_000);
    let words = "the dog und ".repeat(100_000);
    for text in [word.as_str(), words.as_str()] {
        let (listed, _) = model.predict(text, 1, None, &mut scratch).unwrap();
        assert!(listed[0].probability.is_finite());
    }
    let (listed, _) = model.predict(&words, 4, None, &mut scratch).unwrap();
    assert_eq!(listed.len(), 4);
}

#[test]
fn labels_that_are_equally_probable_have_a_defined_order() {
    // In one-vs-all labels far beyond 8 have the same probability.
    let mut best = Vec::new();
    for entry in [(1.0, 0), (2.0, 1), (2.0, 2), (0.5, 3), (1.0, 4)] {
        super::model::keep(&mut best, 3, entry);
    }
    assert_eq!(best, [(2.0, 2), (2.0, 1), (1.0, 4)]);
}
