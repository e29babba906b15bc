//! Models against the outputs that transformers gave for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use gristmill_kernels::workers::{Serial, Threads};
use safetensors::SafeTensors;

use super::config::Config;
use super::files::ModelFiles;
use super::weights::Weights;
use super::{Batch, Compute, LoadOptions, Model};
use crate::Resources;

pub(crate) const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// The folder of a reference model: one of the fixtures, or of the data beside the checkout, if that is there.
pub(crate) fn reference(model: &str) -> Option<PathBuf> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models").join(model);
    if fixture.exists() {
        return Some(fixture);
    }
    let data = std::env::var_os("GRISTMILL_DATA").map_or_else(|| PathBuf::from("../../shared/data"), PathBuf::from);
    let folder = data.join("reference").join(model);
    if folder.exists() {
        return Some(folder);
    }
    println!("skipped: there is no {}", folder.display());
    None
}

/// Reference tensors of a model.
pub(crate) struct Expected(Vec<u8>);

impl Expected {
    pub(crate) fn of(folder: &Path) -> Self {
        Self::read(&folder.join("reference.safetensors"))
    }

    pub(crate) fn read(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.0).unwrap().names().into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = tensors.tensor(name).unwrap().data();
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    pub(super) fn whole(&self, name: &str) -> Vec<i64> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = tensors.tensor(name).unwrap().data();
        bytes.chunks_exact(8).map(|eight| i64::from_le_bytes(eight.try_into().unwrap())).collect()
    }

    /// The texts, without their padding.
    pub(crate) fn texts(&self) -> Vec<Vec<u32>> {
        let (ids, mask) = (self.whole("input_ids"), self.whole("attention_mask"));
        let length = ids.len() / 4;
        let rows = ids.chunks_exact(length).zip(mask.chunks_exact(length));
        rows.map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id as u32).collect())
            .collect()
    }
}

pub(crate) fn load(folder: &Path, config: &str) -> Model {
    let path = folder.join(config);
    let config = Config::parse(&path, &std::fs::read(&path).unwrap()).unwrap();
    let resources = Resources::local();
    let files = ModelFiles::new(&folder.to_string_lossy(), &resources);
    Model::assemble(&config, &Weights::open(&files).unwrap(), None, LoadOptions::default()).unwrap()
}

/// Forms of the configuration that are there: of transformers 4 and 5.
pub(super) fn configs(folder: &Path) -> Vec<&'static str> {
    ["config.json", "config_v5.json"].into_iter().filter(|name| folder.join(name).exists()).collect()
}

pub(crate) fn packed(texts: &[Vec<u32>]) -> Batch {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(text));
    batch
}

/// The largest difference, of rows that padding puts `padded` apart in what is expected.
pub(crate) fn difference(got: &[f32], expected: &[f32], texts: &[Vec<u32>], width: usize) -> f32 {
    let padded = expected.len() / width / texts.len();
    let mut rows = got.chunks_exact(width);
    let mut most = 0_f32;
    for (text, ids) in texts.iter().enumerate() {
        for position in 0..ids.len() {
            let start = (text * padded + position) * width;
            let row = rows.next().unwrap();
            most = row.iter().zip(&expected[start..start + width]).fold(most, |most, (a, b)| most.max((a - b).abs()));
        }
    }
    assert!(rows.next().is_none());
    most
}

#[test]
fn decoders_give_the_logits_and_hidden_states_of_the_references() {
    // The reference's own error in f32 against f64, times what another order of additions may add.
    let small = [
        "gpt2",
        "qwen3",
        "qwen2-window",
        "mistral-window",
        "llama-biases",
        "llama-linear",
        "llama-yarn",
        "llama-dynamic",
        "llama-longrope",
        "neox-sequential",
    ]
    .map(|name| format!("small/{name}"));
    let large = ["llama", "llama3", "qwen2", "olmo", "olmo2", "gpt-neox"].map(str::to_owned);
    for model in large.iter().chain(&small) {
        let Some(folder) = reference(model) else { continue };
        let expected = Expected::of(&folder);
        let texts = expected.texts();
        for config in configs(&folder) {
            let loaded = load(&folder, config);
            let batch = packed(&texts);
            let logits = loaded.logits(ALONE, &batch).unwrap().unwrap();
            let off = difference(&logits, &expected.floats("logits"), &texts, loaded.vocabulary());
            println!("{model} {config}: logits differ by {off:e} at most");
            assert!(off <= 2e-5, "{model} {config}: {off}");
            let mut states = Vec::new();
            let last = loaded.every_hidden_state(ALONE, &batch, |_, state| states.push(state.to_vec())).unwrap();
            *states.last_mut().unwrap() = last;
            for (number, state) in states.iter().enumerate() {
                let expected = expected.floats(&format!("hidden_states.{number}"));
                let off = difference(state, &expected, &texts, loaded.hidden_size());
                assert!(off <= 2e-5, "{model} {config}, hidden states {number}: {off}");
            }
        }
    }
}

#[test]
fn classifiers_give_the_logits_and_hidden_states_of_the_references() {
    for model in [
        "bert-classifier",
        "modernbert-classifier",
        "small/llama-classifier",
        "small/roberta-classifier",
        "small/distilbert-classifier",
        "small/modernbert-mean",
    ] {
        let Some(folder) = reference(model) else { continue };
        let expected = Expected::of(&folder);
        let texts = expected.texts();
        for config in configs(&folder) {
            let loaded = load(&folder, config);
            let batch = packed(&texts);
            let logits = loaded.classify(ALONE, &batch).unwrap().unwrap();
            let wanted = expected.floats("logits");
            assert_eq!(logits.len(), wanted.len());
            let off = logits.iter().zip(&wanted).fold(0_f32, |most, (a, b)| most.max((a - b).abs()));
            println!("{model} {config}: logits differ by {off:e} at most");
            assert!(off <= 1e-5, "{model} {config}: {off}");
            let mut number = 0;
            loaded
                .every_hidden_state(ALONE, &batch, |layer, state| {
                    // Of the small ones transformers gives the last one after the last norm.
                    number += 1;
                    if layer == loaded.layers()
                        && ["llama", "modernbert"].contains(&loaded.kind())
                        && model.starts_with("small")
                    {
                        return;
                    }
                    let expected = expected.floats(&format!("hidden_states.{layer}"));
                    let off = difference(state, &expected, &texts, loaded.hidden_size());
                    assert!(off <= 1e-5, "{model} {config}, hidden states {layer}: {off}");
                })
                .unwrap();
            assert_eq!(number, loaded.layers() + 1);
        }
    }
}

#[test]
fn a_document_has_the_same_bits_alone_and_in_a_batch_and_on_threads() {
    let threads = Threads::new(2);
    for model in ["llama", "llama3", "qwen2", "olmo", "olmo2", "gpt-neox", "bert-classifier", "modernbert-classifier"] {
        let Some(folder) = reference(model) else { continue };
        let loaded = load(&folder, "config.json");
        let texts = Expected::of(&folder).texts();
        let batch = packed(&texts);
        let together = loaded.hidden_states(ALONE, &batch).unwrap();
        let shared = loaded.hidden_states(Compute { workers: &threads, threads: 2 }, &batch).unwrap();
        assert!(together.iter().zip(&shared).all(|(a, b)| a.to_bits() == b.to_bits()), "{model} on threads");
        let mut start = 0;
        for text in &texts {
            let alone = loaded.hidden_states(ALONE, &Batch::of(text)).unwrap();
            let end = start + alone.len();
            assert!(together[start..end].iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{model}");
            start = end;
        }
        assert_eq!(start, together.len());
    }
}

/// A copy of a reference model that a test changes.
fn copy(model: &str) -> tempfile::TempDir {
    let (from, to) = (reference(model).unwrap(), tempfile::tempdir().unwrap());
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    to
}

fn load_error(folder: &Path) -> String {
    Model::load(&folder.to_string_lossy(), &Resources::local(), LoadOptions::default()).unwrap_err().to_string()
}

/// Changes one key of a copy's configuration.
fn with_key(model: &str, key: &str, value: serde_json::Value) -> tempfile::TempDir {
    let folder = copy(model);
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    use serde_json::json;
    for (model, key, value, expected) in [
        ("llama", "model_type", json!("mamba"), "'model_type' is \"mamba\", and one of bert, "),
        ("llama", "hidden_act", json!("relu2"), "'hidden_act' is \"relu2\""),
        ("llama", "rope_scaling", json!({"rope_type": "spiral"}), "'rope_scaling.rope_type' is \"spiral\""),
        ("llama", "rope_scaling", json!({"type": "linear"}), "'rope_scaling.factor' is missing"),
        ("llama", "num_key_value_heads", json!(3), "'num_key_value_heads' is 3"),
        ("llama", "hidden_size", json!("wide"), "'hidden_size' is \"wide\""),
        ("llama", "vocab_size", json!(1_u64 << 40), "'vocab_size' is 1099511627776, and a whole number from 0 to"),
        ("bert-classifier", "id2label", json!({}), "'id2label' is {}"),
        ("llama", "hidden_size", json!(null), "'hidden_size' is missing"),
        ("llama", "quantization_config", json!({"bits": 4}), "'quantization_config'"),
        ("llama", "num_attention_heads", json!(128), "has shape [64, 64], and [2048, 64] is expected"),
        ("llama", "layer_types", json!(["full_attention"]), "a list of 2"),
        ("llama", "intermediate_size", json!(100), "has shape [172, 64], and [100, 64] is expected"),
        ("llama", "attention_bias", json!(true), "no tensor 'model.layers.0.self_attn.q_proj.bias'"),
        ("llama", "num_hidden_layers", json!(1), "without a place in the architecture llama: 'model.layers.1."),
        ("bert-classifier", "is_decoder", json!(true), "'is_decoder' is true"),
        ("bert-classifier", "position_embedding_type", json!("relative_key"), "'position_embedding_type'"),
        ("modernbert-classifier", "classifier_pooling", json!("max"), "\"cls\" or \"mean\""),
    ] {
        let folder = with_key(model, key, value);
        let error = load_error(folder.path());
        assert!(error.contains(expected), "{key}: {error}");
        assert!(error.contains(&*folder.path().to_string_lossy()), "{error}");
    }
}

#[test]
fn numbers_that_no_weights_go_with_are_refused_at_once() {
    use serde_json::json;
    let folder = with_key("bert-classifier", "id2label", json!(null));
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["num_labels"] = json!(i32::MAX);
    std::fs::write(path, config.to_string()).unwrap();
    let error = load_error(folder.path());
    assert!(error.contains("has shape [3, 64], and [2147483647, 64] is expected"), "{error}");
    let Some(_) = reference("olmo") else { return };
    let error = load_error(with_key("olmo", "clip_qkv", json!(-1)).path());
    assert!(error.contains("'clip_qkv' is -1, and a number from 0 on is supported"), "{error}");
}

#[test]
fn broken_files_are_named_with_what_is_wrong() {
    let folder = copy("llama");
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    assert!(load_error(folder.path()).contains("cut off"), "{}", load_error(folder.path()));
    std::fs::write(&weights, &bytes[..5]).unwrap();
    assert!(load_error(folder.path()).contains("5 bytes are too few"));
    std::fs::write(&weights, b"not at all what it should be").unwrap();
    assert!(load_error(folder.path()).contains("not safetensors, or cut off"));
    std::fs::remove_file(&weights).unwrap();
    assert!(load_error(folder.path()).contains("model.safetensors"));
    std::fs::write(folder.path().join("pytorch_model.bin"), b"").unwrap();
    assert!(load_error(folder.path()).contains("there is pytorch_model.bin, and weights must be safetensors"));
    std::fs::write(folder.path().join("config.json"), b"[1]").unwrap();
    assert!(load_error(folder.path()).contains("config.json: an object is expected, found a list"));
    std::fs::write(folder.path().join("config.json"), b"{\"a\": }").unwrap();
    assert!(load_error(folder.path()).contains("line 1"));
}

#[test]
fn ids_and_lengths_that_the_model_does_not_have_are_errors() {
    let folder = reference("bert-classifier").unwrap();
    let model = load(&folder, "config.json");
    let error = model.hidden_states(ALONE, &Batch::of(&[1, 5000])).unwrap_err().to_string();
    assert_eq!(error, "token id at 1 is 5000, and an id below 1024, the size of the vocabulary, is allowed");
    let error = model.hidden_states(ALONE, &Batch::of(&[7; 200])).unwrap_err().to_string();
    assert!(error.contains("number of tokens of document at 0 is 200, and at most 128"), "{error}");
    assert!(model.hidden_states(ALONE, &Batch::default()).unwrap().is_empty());
}

#[test]
fn weights_in_several_files_are_those_of_one() {
    let Some(folder) = reference("qwen2") else { return };
    let one = load(&folder, "config.json");
    let several = load(&folder.join("sharded"), "../config.json");
    let batch = packed(&Expected::of(&folder).texts());
    assert_eq!(one.logits(ALONE, &batch).unwrap(), several.logits(ALONE, &batch).unwrap());
}

#[test]
fn the_first_token_of_every_document_has_no_loss() {
    let folder = reference("llama").unwrap();
    let (model, texts) = (load(&folder, "config.json"), Expected::of(&folder).texts());
    let batch = packed(&texts);
    let losses = model.token_losses(ALONE, &batch).unwrap().unwrap();
    let mut first = 0;
    for text in &texts {
        let own = &losses[first..first + text.len()];
        assert_eq!(own[0].to_bits(), 0);
        assert!(own[1..].iter().all(|&loss| loss > 0.0), "{own:?}");
        first += text.len();
    }
    assert_eq!(first, losses.len());
}
