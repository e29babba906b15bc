//! Models against the outputs that transformers gave for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use gristmill_kernels::workers::{Serial, Threads};
use safetensors::SafeTensors;

use super::config::Config;
use super::weights::Weights;
use super::{Batch, Compute, LoadOptions, Model};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// The folder of a reference model, if it is there.
fn reference(model: &str) -> Option<PathBuf> {
    let data = std::env::var_os("GRISTMILL_DATA").map_or_else(|| PathBuf::from("../../shared/data"), PathBuf::from);
    let folder = data.join("reference").join(model);
    if folder.exists() {
        return Some(folder);
    }
    println!("skipped: there is no {}", folder.display());
    None
}

/// Reference tensors of a model.
struct Expected(Vec<u8>);

impl Expected {
    fn of(folder: &Path) -> Self {
        Self(std::fs::read(folder.join("reference.safetensors")).unwrap())
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = tensors.tensor(name).unwrap().data();
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    fn whole(&self, name: &str) -> Vec<i64> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = tensors.tensor(name).unwrap().data();
        bytes.chunks_exact(8).map(|eight| i64::from_le_bytes(eight.try_into().unwrap())).collect()
    }

    /// The texts, without their padding.
    fn texts(&self) -> Vec<Vec<u32>> {
        let (ids, mask) = (self.whole("input_ids"), self.whole("attention_mask"));
        let length = ids.len() / 4;
        let rows = ids.chunks_exact(length).zip(mask.chunks_exact(length));
        rows.map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id as u32).collect())
            .collect()
    }
}

fn load(folder: &Path, config: &str) -> Model {
    let path = folder.join(config);
    let config = Config::parse(&path, &std::fs::read(&path).unwrap()).unwrap();
    Model::assemble(&config, &Weights::open(folder).unwrap(), LoadOptions::default()).unwrap()
}

fn packed(texts: &[Vec<u32>]) -> Batch {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(text));
    batch
}

/// The largest difference, of rows that padding puts `padded` apart in what is expected.
fn difference(got: &[f32], expected: &[f32], texts: &[Vec<u32>], width: usize) -> f32 {
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
    for model in ["llama", "llama3", "qwen2", "olmo", "olmo2", "gpt-neox"] {
        let Some(folder) = reference(model) else { return };
        let expected = Expected::of(&folder);
        let texts = expected.texts();
        for config in ["config.json", "config_v5.json"] {
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
    for model in ["bert-classifier", "modernbert-classifier"] {
        let Some(folder) = reference(model) else { return };
        let expected = Expected::of(&folder);
        let texts = expected.texts();
        for config in ["config.json", "config_v5.json"] {
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
                    let expected = expected.floats(&format!("hidden_states.{layer}"));
                    let off = difference(state, &expected, &texts, loaded.hidden_size());
                    assert!(off <= 1e-5, "{model} {config}, hidden states {layer}: {off}");
                    number += 1;
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
        let Some(folder) = reference(model) else { return };
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
