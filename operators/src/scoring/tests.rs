//! `classify`, `rethreshold` and `embed`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, RecordBatch, StringArray};
use gristmill_kernels::workers::Serial;
use serde_json::{Value, json};

use super::{ClassifyKind, EmbedKind, NextTokenKind, PerplexityKind, Precision, Windows};
use crate::conformance;
use crate::models::{Batch, Compute, LoadOptions, Model};
use crate::tokens::Tokenizer;
use crate::{OperatorSpec, Registry, Resources, apply};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models").join(model)
}

fn table(texts: &[Option<&str>]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("text", Arc::new(StringArray::from(texts.to_vec())) as _, true)])
        .unwrap()
}

fn run(kind: &str, config: Value, batch: &RecordBatch) -> crate::Result<RecordBatch> {
    let operator = Registry::standard().bind(&OperatorSpec::new(kind, config), &batch.schema(), &Resources::local())?;
    Ok(apply(operator.as_ref(), [batch.clone()])?.batches.remove(0))
}

fn error(kind: &str, config: Value, batch: &RecordBatch) -> String {
    run(kind, config, batch).unwrap_err().to_string()
}

/// Scores of the verdict's metadata.
fn scores(batch: &RecordBatch, name: &str) -> Vec<[f64; 3]> {
    let metadata = batch[format!("{name}_metadata").as_str()].as_struct();
    let column = |field: &str| metadata[field].as_primitive::<Float64Type>().values().to_vec();
    let columns = ["highest_score", "lowest_score", "mean_score"].map(column);
    (0..batch.num_rows()).map(|row| std::array::from_fn(|field| columns[field][row])).collect()
}

#[test]
fn conformance_suite() {
    let (bert, modern) = (fixture("bert-classifier"), fixture("modernbert-classifier"));
    conformance::check(&ClassifyKind, &json!({"model": bert, "context_length": 32}));
    conformance::check(&ClassifyKind, &json!({"model": modern, "windows": "retokenized", "score": "sigmoid"}));
    conformance::check(&EmbedKind, &json!({"model": bert, "pooling": "median", "normalize": true}));
    conformance::check(&EmbedKind, &json!({"model": fixture("llama"), "pooling": "none", "type": "f16"}));
    conformance::check(&PerplexityKind, &json!({"model": fixture("llama"), "overlap": 7, "losses": true}));
    conformance::check(&NextTokenKind, &json!({"model": fixture("llama"), "top": 3, "candidates": ["a", "b"]}));
}

#[test]
fn a_text_has_the_score_of_its_highest_window() {
    let folder = fixture("bert-classifier");
    let text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen";
    let batch = table(&[Some(text), None, Some(""), Some("one")]);
    let scored = run("classify", json!({"model": folder, "context_length": 10, "threshold": 0.3}), &batch).unwrap();

    let (model, _) = Model::load(&folder.to_string_lossy(), &Resources::local(), LoadOptions::default()).unwrap();
    let (tokenizer, _) = Tokenizer::load(&folder.to_string_lossy(), &Resources::local()).unwrap();
    let mut ids = Vec::new();
    tokenizer.encode(text, false, &mut ids).unwrap();
    let softmax_of_last = |ids: &[u32]| {
        let window = [tokenizer.prefix(), ids, tokenizer.suffix()].concat();
        let logits = model.classify(ALONE, &Batch::of(&window)).unwrap().unwrap();
        let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
        powers[2] / powers.iter().sum::<f64>()
    };
    let windows: Vec<f64> = ids.chunks(8).map(softmax_of_last).collect();
    assert!(windows.len() > 2);
    let scores = scores(&scored, "classify");
    let highest = windows.iter().copied().fold(0.0, f64::max);
    let lowest = windows.iter().copied().fold(1.0, f64::min);
    let mean = windows.iter().sum::<f64>() / windows.len() as f64;
    for (got, expected) in scores[0].into_iter().zip([highest, lowest, mean]) {
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
    }
    assert_eq!(scores[1], [0.0; 3]);
    assert!((scores[2][0] - softmax_of_last(&[])).abs() < 1e-12);
    let verdicts = scored["classify"].as_boolean();
    assert_eq!(verdicts.null_count(), 0);
    assert!(!verdicts.value(1));
    for row in [0, 2, 3] {
        assert_eq!(verdicts.value(row), scores[row][0] > 0.3);
    }

    // Another threshold, from the scores alone, is what the model would say.
    for threshold in [0.0, scores[0][0], scores[3][0] - 1e-9, 0.9] {
        let config = json!({"scores": "classify", "threshold": threshold});
        let spec = OperatorSpec::new("rethreshold", config.clone()).named("again");
        let operator = Registry::standard().bind(&spec, &scored.schema(), &Resources::local()).unwrap();
        let again = apply(operator.as_ref(), [scored.clone()]).unwrap().batches.remove(0);
        let fresh =
            run("classify", json!({"model": folder, "context_length": 10, "threshold": threshold}), &batch).unwrap();
        let (again, fresh) = (again["again"].as_boolean().clone(), fresh["classify"].as_boolean().clone());
        assert_eq!((again.value(0), again.value(2), again.value(3)), (fresh.value(0), fresh.value(2), fresh.value(3)));
    }
}

#[test]
fn labels_and_scores_are_chosen_by_configuration() {
    let folder = fixture("bert-classifier");
    let batch = table(&[Some("some words"), Some("others")]);
    let highest = |config: Value| -> Vec<f64> {
        scores(&run("classify", config, &batch).unwrap(), "classify").iter().map(|scores| scores[0]).collect()
    };
    let by_number: Vec<Vec<f64>> = (0..3).map(|label| highest(json!({"model": folder, "label": label}))).collect();
    for row in 0..2 {
        let sum: f64 = by_number.iter().map(|scores| scores[row]).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    }
    assert_eq!(by_number[1], highest(json!({"model": folder, "label": "medium"})));
    assert_eq!(by_number[2], highest(json!({"model": folder})));
    let raw = highest(json!({"model": folder, "score": "raw"}));
    let sigmoid = highest(json!({"model": folder, "score": "sigmoid"}));
    for (raw, sigmoid) in raw.iter().zip(&sigmoid) {
        assert!((sigmoid - 1.0 / (1.0 + (-raw).exp())).abs() < 1e-12);
    }
    let bf16 = highest(json!({"model": folder, "precision": "bf16"}));
    assert!(bf16.iter().zip(&by_number[2]).all(|(a, b)| a != b && (a - b).abs() < 0.05), "{bf16:?} {:?}", by_number[2]);
}

#[test]
fn wrong_configurations_and_models_are_named() {
    let (bert, llama) = (fixture("bert-classifier"), fixture("llama"));
    let batch = table(&[Some("a")]);
    for (config, expected) in [
        (
            json!({"model": bert, "label": "hihg"}),
            "no label 'hihg', did you mean 'high'?; its labels: low, medium, high",
        ),
        (json!({"model": bert, "label": 3}), "3 is not a label; the model has 3, numbered from 0: low, medium, high"),
        (json!({"model": bert, "context_length": 2}), "2 tokens; 3 to 128 are allowed, 2 of them special tokens"),
        (json!({"model": bert, "context_length": 129}), "3 to 128 are allowed"),
        (json!({"model": llama}), "without a classifier"),
        (json!({"model": bert.join("nowhere")}), "nowhere"),
        (json!({"model": bert, "tokenizer": fixture("../tokenizers/tiny-unigram.json")}), "do not belong together"),
        (json!({"model": bert, "windows": "some"}), "'some' is not allowed"),
        (json!({"model": bert, "treshold": 1.0}), "treshold"),
    ] {
        let message = error("classify", config.clone(), &batch);
        if config["tokenizer"].is_string() && !fixture("../tokenizers/tiny-unigram.json").exists() {
            continue;
        }
        assert!(message.contains(expected), "{config}: {message}");
    }
    assert!(error("embed", json!({"model": bert, "layer": 3}), &batch).contains("3; the model has 0 to 2"));
    assert!(error("rethreshold", json!({"scores": "text", "threshold": 0.5}), &batch).contains("text_metadata"));
}

/// A copy of the classifier whose output is not a number.
#[test]
fn a_score_that_is_not_a_number_is_an_error_or_closes_the_filter() {
    let folder = tempfile::tempdir().unwrap();
    let from = fixture("bert-classifier");
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let bias = tensors["classifier.bias"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + bias..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();

    let batch = table(&[None, Some("a")]);
    let message = error("classify", json!({"model": folder.path()}), &batch);
    assert!(message.contains("row 1") && message.contains("window 0 is NaN"), "{message}");
    let closed = run("classify", json!({"model": folder.path(), "fail_closed": true}), &batch).unwrap();
    assert_eq!(closed["classify"].as_boolean().iter().collect::<Vec<_>>(), [Some(false), Some(true)]);
    assert_eq!(scores(&closed, "classify"), [[0.0; 3]; 2]);
}

#[test]
fn windows_cover_a_text_or_follow_the_published_filter() {
    let (tokenizer, _) = Tokenizer::load(&fixture("bert-classifier").to_string_lossy(), &Resources::local()).unwrap();
    let text = "alpha beta gamma delta epsilon zeta eta theta iota kappa";
    let mut ids = Vec::new();
    tokenizer.encode(text, false, &mut ids).unwrap();
    let cut = |windows: Windows, length: usize| {
        let mut all = Vec::new();
        windows.cut(&tokenizer, text, length, &mut all).unwrap();
        assert!(all.iter().all(|window| window.len() <= length && window.starts_with(tokenizer.prefix())));
        assert!(all.iter().all(|window| window.ends_with(tokenizer.suffix())));
        all
    };
    let content = |windows: &[Vec<u32>]| -> Vec<u32> {
        windows.iter().flat_map(|window| window[1..window.len() - 1].iter().copied()).collect()
    };
    assert_eq!(content(&cut(Windows::All, 9)), ids);
    assert_eq!(content(&cut(Windows::First, 9)), ids[..7]);
    let whole = cut(Windows::Retokenized, ids.len() + 2);
    assert_eq!(content(&whole), ids);
    // The runs of the published filter: the first holds [CLS] and 8 tokens, of which one finds no room when specials are put around them.
    let runs = cut(Windows::Retokenized, 9);
    assert_eq!(runs.len(), (ids.len() + 2).div_ceil(9));
    assert_eq!(content(&runs[..1]), ids[..7]);
    // What transformers makes of this text: encode, cut in runs of 9 ids, decode without special tokens, encode again with truncation.
    let text = "alpha beta gamma delta, Epsilon; zeta eta theta iota kappa don't stop";
    let mut windows = Vec::new();
    Windows::Retokenized.cut(&tokenizer, text, 9, &mut windows).unwrap();
    let expected = [
        [2, 597, 330, 321, 322, 609, 317, 322, 3],
        [2, 7, 7, 845, 324, 322, 564, 326, 3],
        [2, 7, 7, 55, 312, 568, 535, 30, 3],
        [2, 7, 7, 40, 543, 317, 322, 48, 3],
        [2, 7, 7, 55, 322, 743, 323, 10, 3],
    ];
    assert_eq!(windows, expected);
}

#[test]
fn embeddings_are_pooled_hidden_states() {
    let folder = fixture("bert-classifier");
    let text = "the quick brown fox";
    let batch = table(&[Some(text), None]);
    let (model, _) = Model::load(&folder.to_string_lossy(), &Resources::local(), LoadOptions::default()).unwrap();
    let (tokenizer, _) = Tokenizer::load(&folder.to_string_lossy(), &Resources::local()).unwrap();
    let mut ids = Vec::new();
    tokenizer.encode(text, true, &mut ids).unwrap();
    for layer in [None, Some(0), Some(1)] {
        let mut states = Vec::new();
        let last = model
            .every_hidden_state(ALONE, &Batch::of(&ids), |number, state| {
                if Some(number) == layer {
                    states = state.to_vec();
                }
            })
            .unwrap();
        let states = if layer.is_some() { states } else { last };
        let rows: Vec<&[f32]> = states.chunks_exact(64).collect();
        let column = |index: usize| rows.iter().map(|row| f64::from(row[index])).collect::<Vec<_>>();
        let mean = |index: usize| column(index).iter().sum::<f64>() / rows.len() as f64;
        let median = |index: usize| {
            let mut column = column(index);
            column.sort_by(f64::total_cmp);
            column[(column.len() - 1) / 2]
        };
        let expected: [(&str, &dyn Fn(usize) -> f64); 6] = [
            ("mean", &mean),
            ("mean_sqrt_len", &|index| mean(index) * (rows.len() as f64).sqrt()),
            ("first", &|index| column(index)[0]),
            ("last", &|index| column(index)[rows.len() - 1]),
            ("max", &|index| column(index).into_iter().fold(f64::NEG_INFINITY, f64::max)),
            ("median", &median),
        ];
        for (pooling, value) in expected {
            let embedded = run("embed", json!({"model": folder, "pooling": pooling, "layer": layer}), &batch).unwrap();
            let lists = embedded["embed"].as_fixed_size_list();
            assert!(lists.is_valid(0) && lists.is_null(1));
            let got = lists.value(0);
            for (index, &got) in got.as_primitive::<Float32Type>().values().iter().enumerate() {
                assert!((f64::from(got) - value(index)).abs() < 1e-5, "{pooling}, {layer:?}: {got} {}", value(index));
            }
        }
        let all = run("embed", json!({"model": folder, "pooling": "none", "layer": layer}), &batch).unwrap();
        let lists = all["embed"].as_list::<i32>();
        assert_eq!(lists.value(0).len(), ids.len());
        let values = lists.value(0);
        assert_eq!(values.as_fixed_size_list().values().as_primitive::<Float32Type>().values(), &states[..]);
    }
    let unit = run("embed", json!({"model": folder, "normalize": true}), &batch).unwrap();
    let vector = unit["embed"].as_fixed_size_list().value(0);
    let length: f64 = vector.as_primitive::<Float32Type>().values().iter().map(|&x| f64::from(x).powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-6);
}

/// The embeddings that sentence-transformers' model gave for 200 documents. `$GRISTMILL_MINILM` is the model's folder.
#[test]
fn all_minilm_gives_the_embeddings_of_the_reference() {
    let data = std::env::var_os("GRISTMILL_DATA").map_or_else(|| PathBuf::from("../../shared/data"), PathBuf::from);
    let (Some(model), reference) =
        (std::env::var_os("GRISTMILL_MINILM"), data.join("reference/minilm/embeddings.parquet"))
    else {
        println!("skipped: GRISTMILL_MINILM does not name the folder of all-MiniLM-L6-v2");
        return;
    };
    let file = std::fs::File::open(&reference).unwrap();
    let batches =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let (mut rows, mut worst) = (0, 1.0_f64);
    for batch in batches {
        let batch = batch.unwrap();
        let texts = batch.project(&[batch.schema().index_of("text").unwrap()]).unwrap();
        let model = PathBuf::from(&model);
        let embedded = run("embed", json!({"model": model, "context_length": 256}), &texts).unwrap();
        let ours = embedded["embed"].as_fixed_size_list();
        let expected = &batch["embedding"];
        for row in 0..batch.num_rows() {
            let theirs = match expected.as_fixed_size_list_opt() {
                Some(lists) => lists.value(row),
                None => expected.as_list::<i32>().value(row),
            };
            let (ours, theirs) = (ours.value(row), theirs.as_primitive::<Float32Type>().values().to_vec());
            let dot: f64 = ours
                .as_primitive::<Float32Type>()
                .values()
                .iter()
                .zip(&theirs)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            worst = worst.min(dot);
            rows += 1;
        }
    }
    println!("{rows} documents, smallest cosine {worst}");
    assert!(rows == 200 && worst >= 0.99999, "{worst}");
}

#[test]
fn a_model_is_loaded_once_and_again_when_its_files_change() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(fixture("bert-classifier").join(name), folder.path().join(name)).unwrap();
    }
    let location = folder.path().to_string_lossy();
    let load = || {
        super::loaded::load("classify", &location, None, Precision::F32, super::Device::Cpu, &Resources::local())
            .unwrap()
    };
    let (first, identities) = load();
    let (second, same) = load();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(identities, same);
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.replace("\"low\"", "\"lower\"")).unwrap();
    let (third, others) = load();
    assert!(!Arc::ptr_eq(&first, &third) && others != identities);
    assert_eq!(third.labels().unwrap()[0], "lower");
}

/// Log-probabilities of each token given those before it, from the logits of the whole text.
fn log_probabilities(model: &Model, ids: &[u32]) -> Vec<f64> {
    let logits = model.logits(ALONE, &Batch::of(ids)).unwrap().unwrap();
    let rows = logits.chunks_exact(model.vocabulary()).zip(&ids[1..]);
    rows.map(|(row, &next)| {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(row[next as usize]) - sum.ln()
    })
    .collect()
}

#[test]
fn perplexity_is_of_every_token_but_the_first() {
    let folder = fixture("llama");
    let text = "one two three four five six seven eight nine ten eleven twelve";
    let batch = table(&[Some(text), None, Some("")]);
    let (model, _) = Model::load(&folder.to_string_lossy(), &Resources::local(), LoadOptions::default()).unwrap();
    let (tokenizer, _) = Tokenizer::load(&folder.to_string_lossy(), &Resources::local()).unwrap();
    let mut ids = Vec::new();
    tokenizer.encode(text, true, &mut ids).unwrap();
    for (length, overlap) in [(128, 1), (16, 1), (16, 15), (9, 4)] {
        let config = json!({"model": folder, "context_length": length, "overlap": overlap, "losses": true});
        let scored = run("perplexity", config, &batch).unwrap();
        let mut expected = Vec::new();
        let mut end = ids.len().min(length);
        expected.extend(log_probabilities(&model, &ids[..end]));
        while end < ids.len() {
            let start = end - overlap;
            end = ids.len().min(start + length);
            expected.extend_from_slice(&log_probabilities(&model, &ids[start..end])[overlap - 1..]);
        }
        assert_eq!(expected.len(), ids.len() - 1);
        let metadata = scored["perplexity_metadata"].as_struct();
        let losses = metadata["losses"].as_list::<i32>().value(0);
        let losses = losses.as_primitive::<Float32Type>().values();
        assert_eq!(losses.len(), expected.len());
        for (loss, expected) in losses.iter().zip(&expected) {
            assert!((f64::from(*loss) + expected).abs() < 1e-5, "{loss} {expected}");
        }
        let sum: f64 = expected.iter().sum();
        let log_likelihood = metadata["log_likelihood"].as_primitive::<Float64Type>().value(0);
        assert!((log_likelihood - sum).abs() < 1e-4);
        let perplexity = scored["perplexity"].as_primitive::<Float64Type>();
        assert!((perplexity.value(0).ln() + sum / expected.len() as f64).abs() < 1e-6);
        let bits = metadata["bits_per_byte"].as_primitive::<Float64Type>().value(0);
        assert!((bits + sum / std::f64::consts::LN_2 / text.len() as f64).abs() < 1e-6);
        // The tokenizer puts <s> before texts, which alone predicts nothing.
        assert!(perplexity.is_null(1) && perplexity.is_null(2) && metadata.is_null(1) && metadata.is_null(2));
    }
    assert!(error("perplexity", json!({"model": folder, "overlap": 128}), &batch).contains("1 to 127 are allowed"));
    assert!(error("perplexity", json!({"model": fixture("bert-classifier")}), &batch).contains("without the head"));
}

#[test]
fn next_tokens_are_the_most_probable_ones() {
    let folder = fixture("llama");
    let text = "one two three";
    let batch = table(&[None, Some(text), Some("")]);
    let (model, _) = Model::load(&folder.to_string_lossy(), &Resources::local(), LoadOptions::default()).unwrap();
    let (tokenizer, _) = Tokenizer::load(&folder.to_string_lossy(), &Resources::local()).unwrap();
    let mut ids = Vec::new();
    tokenizer.encode(text, true, &mut ids).unwrap();
    let probabilities = |ids: &[u32]| -> Vec<f64> {
        let logits = model.logits(ALONE, &Batch::of(ids)).unwrap().unwrap();
        let last = &logits[logits.len() - model.vocabulary()..];
        let sum: f64 = last.iter().map(|&logit| f64::from(logit).exp()).sum();
        last.iter().map(|&logit| f64::from(logit).exp() / sum).collect()
    };
    let config = json!({"model": folder, "top": 4, "candidates": ["two", "three"]});
    let told = run("next_token", config, &batch).unwrap();
    let lists = told["next_token"].as_list::<i32>();
    let candidates = told["next_token_candidates"].as_fixed_size_list();
    assert!(lists.is_null(0) && candidates.is_null(0));
    // An empty text is <s>.
    for (row, ids) in [(1, &ids[..]), (2, &ids[..1])] {
        let expected = probabilities(ids);
        let mut order: Vec<usize> = (0..expected.len()).collect();
        order.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]).then(a.cmp(&b)));
        let list = lists.value(row);
        let list = list.as_struct();
        let got = list["id"].as_primitive::<arrow_array::types::UInt32Type>();
        assert_eq!(got.values().iter().map(|&id| id as usize).collect::<Vec<_>>(), order[..4]);
        for (place, &id) in order[..4].iter().enumerate() {
            let probability = list["probability"].as_primitive::<Float32Type>().value(place);
            assert!((f64::from(probability) - expected[id]).abs() < 1e-6);
            assert_eq!(list["token"].as_string::<i32>().value(place), tokenizer.decode_token(id as u32).unwrap());
        }
        for (place, word) in ["two", "three"].into_iter().enumerate() {
            let mut first = Vec::new();
            tokenizer.encode(word, false, &mut first).unwrap();
            let got = candidates.value(row).as_primitive::<Float32Type>().value(place);
            assert!((f64::from(got) - expected[first[0] as usize]).abs() < 1e-6);
        }
    }
    let short = run("next_token", json!({"model": folder, "top": 1, "context_length": 2}), &batch).unwrap();
    let list = short["next_token"].as_list::<i32>().value(1);
    let best = list.as_struct()["probability"].as_primitive::<Float32Type>().value(0);
    let expected = probabilities(&ids[ids.len() - 2..]).into_iter().fold(0.0, f64::max);
    assert!((f64::from(best) - expected).abs() < 1e-6, "the last two tokens are read");
    assert!(error("next_token", json!({"model": folder, "top": 0}), &batch).contains("1 to 1024"));
    assert!(error("next_token", json!({"model": folder, "candidates": [""]}), &batch).contains("candidates[0]"));
    let twice = error("next_token", json!({"model": folder, "candidates": ["two", "one", "two"]}), &batch);
    assert!(twice.contains("candidates[2]") && twice.contains("begins with the same token as \"two\""), "{twice}");
}
