//! Models on a device, which here is the CUDA kernels run on the CPU: against the outputs of transformers, and against the CPU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use gristmill_kernels::device::Device;
use gristmill_kernels::pool::Pool;
use gristmill_kernels_shim::ShimDevice;

use super::Task;
use super::heads::OnDevice;
use super::queue::Runner;
use super::weights::Weights;
use crate::Resources;
use crate::models::tests::{ALONE, Expected, difference, load, packed, reference};
use crate::models::{Batch, LoadOptions, Model, Precision};

/// All tokens in one batch.
const ALL: usize = usize::MAX;

fn shim() -> Device {
    Device::new(ShimDevice::default())
}

fn moved(mut model: Model, tokens: usize) -> Model {
    model.move_to(&shim(), tokens).unwrap();
    model
}

fn load_bf16(folder: &Path) -> Model {
    let options = LoadOptions { precision: Precision::Bf16, ..LoadOptions::default() };
    Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap().0
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0_f32, |most, (a, b)| if (a - b).is_nan() { f32::NAN } else { most.max((a - b).abs()) })
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Logits of the last token of each text, of logits of all.
fn last_rows(logits: &[f32], texts: &[Vec<u32>], width: usize) -> Vec<f32> {
    let padded = logits.len() / width / texts.len();
    let row = |text: usize| (text * padded + texts[text].len() - 1) * width;
    (0..texts.len()).flat_map(|text| logits[row(text)..row(text) + width].to_vec()).collect()
}

/// Hidden states and logits within what the CPU has against transformers, and losses and pooled states within as much of the CPU's.
fn decoder_agrees(model: &str) {
    let Some(folder) = reference(model) else { return };
    let expected = Expected::of(&folder);
    let texts = expected.texts();
    let batch = packed(&texts);
    let (cpu, device) = (load(&folder, "config.json"), moved(load(&folder, "config.json"), ALL));
    assert_eq!(
        (cpu.layers(), cpu.vocabulary(), cpu.hidden_size()),
        (device.layers(), device.vocabulary(), device.hidden_size())
    );
    for layer in 0..=cpu.layers() {
        let states = if layer == cpu.layers() {
            device.hidden_states(ALONE, &batch).unwrap()
        } else {
            device.layer_states(ALONE, &batch, layer).unwrap()
        };
        let expected = expected.floats(&format!("hidden_states.{layer}"));
        let off = difference(&states, &expected, &texts, device.hidden_size());
        assert!(off <= 2e-5, "{model}, hidden states {layer}: {off}");
    }
    let logits = device.next_logits(ALONE, &batch).unwrap().unwrap();
    let off = furthest(&logits, &last_rows(&expected.floats("logits"), &texts, device.vocabulary()));
    assert!(off <= 2e-5, "{model}, logits: {off}");
    let (losses, wanted) = (device.token_losses(ALONE, &batch).unwrap(), cpu.token_losses(ALONE, &batch).unwrap());
    let off = furthest(&losses.unwrap(), &wanted.unwrap());
    assert!(off <= 2e-5, "{model}, losses: {off}");
    let error = device.logits(ALONE, &batch).unwrap_err().to_string();
    assert_eq!(error, "logits of all tokens are not computed on a device; choose the CPU");
}

fn classifier_agrees(model: &str) {
    let Some(folder) = reference(model) else { return };
    let expected = Expected::of(&folder);
    let texts = expected.texts();
    let batch = packed(&texts);
    let (cpu, device) = (load(&folder, "config.json"), moved(load(&folder, "config.json"), ALL));
    let logits = device.classify(ALONE, &batch).unwrap().unwrap();
    let off = furthest(&logits, &expected.floats("logits"));
    assert!(off <= 1e-5, "{model}: {off}");
    assert_eq!(device.labels(), cpu.labels());
    for (layer, pool) in [(None, Pool::Mean), (Some(1), Pool::Max), (None, Pool::First)] {
        let pooled = device.pooled(ALONE, &batch, layer, pool).unwrap();
        let off = furthest(&pooled, &cpu.pooled(ALONE, &batch, layer, pool).unwrap());
        assert!(off <= 1e-5, "{model}, {pool:?} of {layer:?}: {off}");
    }
    assert!(device.token_losses(ALONE, &batch).unwrap().is_none());
}

macro_rules! agree {
    ($($name:ident: $check:ident($($model:literal),*);)*) => {
        $(#[test]
        fn $name() {
            $($check($model);)*
        })*
    };
}
agree! {
    llama_agrees: decoder_agrees("llama", "small/llama-biases", "small/llama-linear");
    llama_with_scaled_positions_agrees: decoder_agrees("small/llama-yarn", "small/llama-dynamic", "small/llama-longrope");
    gpt2_and_windows_agree: decoder_agrees("small/gpt2", "small/qwen2-window", "small/mistral-window");
    neox_and_head_norms_agree: decoder_agrees("small/neox-sequential", "small/qwen3");
    larger_references_agree: decoder_agrees("llama3", "qwen2", "gpt-neox");
    olmo_agrees: decoder_agrees("olmo", "olmo2");
    bert_and_kin_agree: classifier_agrees("bert-classifier", "small/roberta-classifier", "small/distilbert-classifier");
    modernbert_agrees: classifier_agrees("modernbert-classifier", "small/modernbert-mean");
    decoders_that_classify_agree: classifier_agrees("small/llama-classifier");
}

/// A text has the bits that it has in a batch of all when each is a batch of its own, in every type.
#[test]
fn a_document_has_the_same_bits_alone_and_in_a_batch() {
    for model in
        ["small/gpt2", "small/qwen3", "small/mistral-window", "small/roberta-classifier", "small/modernbert-mean"]
    {
        let folder = reference(model).unwrap();
        let batch = packed(&Expected::of(&folder).texts());
        for precision in [Precision::F32, Precision::Bf16] {
            let load = || match precision {
                Precision::F32 => load(&folder, "config.json"),
                Precision::Bf16 => load_bf16(&folder),
            };
            let (together, alone) = (moved(load(), ALL), moved(load(), 1));
            let states = |model: &Model| model.hidden_states(ALONE, &batch).unwrap();
            assert!(same_bits(&states(&together), &states(&alone)), "{model} {precision:?}, states");
            let heads = |model: &Model| match model.labels() {
                Some(_) => model.classify(ALONE, &batch).unwrap().unwrap(),
                None => [
                    model.token_losses(ALONE, &batch).unwrap().unwrap(),
                    model.next_logits(ALONE, &batch).unwrap().unwrap(),
                ]
                .concat(),
            };
            assert!(same_bits(&heads(&together), &heads(&alone)), "{model} {precision:?}, heads");
        }
    }
}

/// In bf16 and f16 every value that a layer reads or leaves is rounded to 2^-9 or 2^-12 of itself. Over two layers of values of magnitude up to 4,
/// with sums over up to 256 of them, results are within 0.06 of those of f32, of which half is the rounding of weights.
#[test]
fn half_precision_stays_near_single_precision() {
    for model in
        ["small/gpt2", "small/qwen3", "small/neox-sequential", "small/modernbert-mean", "bert-classifier", "olmo2"]
    {
        let Some(folder) = reference(model) else { continue };
        let batch = packed(&Expected::of(&folder).texts());
        let single = load(&folder, "config.json");
        let wanted = single.hidden_states(ALONE, &batch).unwrap();
        let largest = wanted.iter().fold(0_f32, |most, value| most.max(value.abs()));
        let half = moved(load_bf16(&folder), ALL);
        let off = furthest(&half.hidden_states(ALONE, &batch).unwrap(), &wanted);
        println!("{model}: bf16 differs by {off:e} of values up to {largest}");
        assert!(off > 0.0 && off <= 0.06, "{model}: {off}");
        if let Some(losses) = single.token_losses(ALONE, &batch).unwrap() {
            let off = furthest(&half.token_losses(ALONE, &batch).unwrap().unwrap(), &losses);
            println!("{model}: losses in bf16 differ by {off:e}");
            assert!(off <= 0.03, "{model}, losses: {off}");
        }
        let device = shim();
        let weights = Weights::<half::f16>::upload(&device, &single.transformer, &single.head).unwrap();
        let states = OnDevice::new(device, weights).run(Task::States { layer: None }, &batch).unwrap().concat();
        let off = furthest(&states, &wanted);
        println!("{model}: f16 differs by {off:e}");
        assert!(off > 0.0 && off <= 0.01, "{model}, f16: {off}");
    }
}

/// Weights are on the device once, a tied head not twice, and nothing is allocated for a batch that is not larger than one before.
#[test]
fn memory_is_what_weights_and_the_largest_batch_take() {
    let folder = reference("small/gpt2").unwrap();
    let texts = Expected::of(&folder).texts();
    let (single, device) = (load(&folder, "config.json"), shim());
    let weights = Weights::<f32>::upload(&device, &single.transformer, &single.head).unwrap();
    let file = std::fs::metadata(folder.join("model.safetensors")).unwrap().len() as usize;
    assert!(device.memory() <= file && device.memory() > file * 9 / 10, "{} of {file}", device.memory());
    let mut model = OnDevice::new(device.clone(), weights);
    let run = |model: &mut OnDevice<f32>, texts: &[Vec<u32>]| model.run(Task::Losses, &packed(texts)).unwrap();
    let whole = run(&mut model, &texts);
    let before = device.memory();
    assert_eq!(run(&mut model, &texts[..2]), whole[..2]);
    assert_eq!(run(&mut model, &texts), whole);
    assert_eq!(device.memory(), before);
    model.release();
    assert!(device.memory() < before);
    assert_eq!(run(&mut model, &texts), whole);
    drop(model);
    assert_eq!(device.memory(), 0);
}

/// With too little memory for all texts at once they are computed in smaller batches; with too little for one, or for the weights, that is the error.
#[test]
fn too_little_memory_makes_batches_smaller() {
    let folder = reference("small/qwen3").unwrap();
    let texts = Expected::of(&folder).texts();
    let batch = packed(&texts);
    let single = load(&folder, "config.json");
    let all = shim();
    let weights = Weights::<f32>::upload(&all, &single.transformer, &single.head).unwrap();
    let weight_bytes = all.memory();
    let mut model = OnDevice::new(all.clone(), weights);
    let wanted = model.run(Task::States { layer: None }, &batch).unwrap().concat();
    let batch_bytes = all.memory() - weight_bytes;
    let longest = texts.iter().map(Vec::len).max().unwrap();
    for (bytes, fits) in
        [(batch_bytes * longest / batch.tokens() * 3 / 2, true), (batch_bytes / batch.tokens() * 3, false)]
    {
        let mut model = load(&folder, "config.json");
        model.move_to(&Device::new(ShimDevice::with_memory(weight_bytes + bytes)), ALL).unwrap();
        match model.hidden_states(ALONE, &batch) {
            Ok(states) => assert!(fits && same_bits(&states, &wanted)),
            Err(error) => {
                assert!(!fits && error.to_string().starts_with("out of memory on CUDA on the CPU: "), "{error}")
            }
        }
    }
    let mut model = load(&folder, "config.json");
    let error = model.move_to(&Device::new(ShimDevice::with_memory(weight_bytes / 2)), ALL).unwrap_err().to_string();
    assert!(error.starts_with("out of memory on CUDA on the CPU: "), "{error}");
    // It is as it was.
    assert_eq!(model.device(), None);
    assert!(model.hidden_states(ALONE, &batch).is_ok());
}

#[test]
fn ids_and_lengths_are_checked_before_they_are_computed() {
    let folder = reference("bert-classifier").unwrap();
    let model = moved(load(&folder, "config.json"), ALL);
    assert_eq!(model.device(), Some("CUDA on the CPU"));
    let error = model.hidden_states(ALONE, &Batch::of(&[1, 5000])).unwrap_err().to_string();
    assert_eq!(error, "token id at 1 is 5000, and an id below 1024, the size of the vocabulary, is allowed");
    assert!(model.hidden_states(ALONE, &Batch::of(&[7; 200])).is_err());
    assert!(model.hidden_states(ALONE, &Batch::default()).unwrap().is_empty());
    let pooled = model.pooled(ALONE, &Batch::of(&[]), None, Pool::Mean).unwrap();
    assert!(pooled.len() == 64 && pooled.iter().all(|&value| value == 0.0));
}
