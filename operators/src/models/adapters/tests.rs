//! Adapters against what peft computes with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::Resources;
use crate::models::tests::{ALONE, Expected, difference, packed, reference};
use crate::models::{AdapterOptions, Apply, Batch, LoadOptions, MergeOptions, Model, ModelError, Precision, merge};

const BOTH: [Apply; 2] = [Apply::Merged, Apply::Beside];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models")
}

/// The adapter of this name as a folder, with keys of its configuration changed; and the folder of its base.
fn adapter(name: &str, changes: &[(&str, Value)]) -> (tempfile::TempDir, PathBuf) {
    let (from, to) = (fixtures().join("adapters"), tempfile::tempdir().unwrap());
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join(format!("{name}.json"))).unwrap()).unwrap();
    let base = from.join(config["base_model_name_or_path"].as_str().unwrap());
    for (key, value) in changes {
        config[key] = value.clone();
    }
    std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::copy(from.join(format!("{name}.safetensors")), to.path().join("adapter_model.safetensors")).unwrap();
    (to, base)
}

fn load(base: &Path, adapter: Option<&Path>, apply: Apply, options: LoadOptions) -> Result<Model, ModelError> {
    let location = adapter.map(|adapter| adapter.to_string_lossy().into_owned());
    let adapter = location.as_deref().map(|location| AdapterOptions { location, apply });
    Model::load_adapted(&base.to_string_lossy(), adapter, &Resources::local(), options).map(|(model, _)| model)
}

fn logits(model: &Model, batch: &Batch) -> Vec<f32> {
    match model.classify(ALONE, batch).unwrap() {
        Some(logits) => logits,
        None => model.logits(ALONE, batch).unwrap().unwrap(),
    }
}

fn most(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// Ids and logits of a small adapter.
fn expected(name: &str) -> (Batch, Vec<f32>) {
    let bytes = std::fs::read(fixtures().join("adapters/references.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |part: &str| tensors.tensor(&format!("{name}.{part}")).unwrap().data().to_vec();
    let ids: Vec<u32> =
        tensor("input_ids").chunks_exact(8).map(|id| i64::from_le_bytes(id.try_into().unwrap()) as u32).collect();
    let logits = tensor("logits").chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    (Batch::of(&ids), logits)
}

const SMALL: [&str; 12] = [
    "rslora",
    "dora",
    "conv1d",
    "tied-embeddings",
    "tied-head",
    "tied-saved",
    "tokens",
    "neox-dora",
    "classifier",
    "new-classifier",
    "encoder",
    "all-linear",
];

#[test]
fn models_with_adapters_give_the_logits_of_peft() {
    for name in SMALL {
        let (folder, base) = adapter(name, &[]);
        let (batch, expected) = expected(name);
        for apply in BOTH {
            let model = load(&base, Some(folder.path()), apply, LoadOptions::default()).unwrap();
            let off = most(&logits(&model, &batch), &expected);
            println!("{name} {apply:?}: logits differ by {off:e} at most");
            assert!(off <= 2e-5, "{name} {apply:?}: {off}");
        }
    }
}

#[test]
fn the_trained_adapter_of_the_reference_gives_its_logits() {
    let Some(base) = reference("llama") else { return };
    let lora = reference("llama/lora").filter(|lora| lora.exists());
    let Some(lora) = lora else { return };
    let texts = Expected::of(&base).texts();
    let batch = packed(&texts);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(lora.join("adapter_config.json"), folder.path().join("adapter_config.json")).unwrap();
    let put = |name: &str| std::fs::copy(lora.join(name), folder.path().join("adapter_model.safetensors")).unwrap();

    put("adapter_final.safetensors");
    let training = Expected::read(&lora.join("training.safetensors"));
    for apply in BOTH {
        let model = load(&base, Some(folder.path()), apply, LoadOptions::default()).unwrap();
        let off = difference(&logits(&model, &batch), &training.floats("final_logits"), &texts, model.vocabulary());
        println!("{apply:?}: logits differ by {off:e} at most");
        assert!(off <= 2e-5, "{apply:?}: {off}");
    }
    // B is zero before training.
    put("adapter_init.safetensors");
    let plain = load(&base, None, Apply::Merged, LoadOptions::default()).unwrap();
    for apply in BOTH {
        let model = load(&base, Some(folder.path()), apply, LoadOptions::default()).unwrap();
        assert_eq!(logits(&model, &batch), logits(&plain, &batch), "{apply:?}");
    }
}

#[test]
fn merged_models_are_written_with_the_numbers_of_the_adapter() {
    for name in SMALL {
        let (folder, base) = adapter(name, &[]);
        let (batch, expected) = expected(name);
        for shard_bytes in [u64::MAX, 3_000] {
            let to = tempfile::tempdir().unwrap();
            let options = MergeOptions { shard_bytes };
            let [base, adapter] = [base.as_path(), folder.path()].map(|path| path.to_string_lossy().into_owned());
            let merged = merge(&base, &adapter, &to.path().join("new/model"), &Resources::local(), options).unwrap();
            assert!(merged.changed > 0 && merged.changed <= merged.tensors, "{name}: {merged:?}");
            assert!((merged.files.len() > 2) == (shard_bytes == 3_000), "{name}: {merged:?}");
            let model = load(&to.path().join("new/model"), None, Apply::Merged, LoadOptions::default()).unwrap();
            let off = most(&logits(&model, &batch), &expected);
            assert!(off <= 2e-5, "{name}: {off}");
        }
    }
}

#[test]
fn a_merged_model_has_the_type_of_its_model_and_goes_into_an_empty_folder() {
    let (folder, base) = adapter("conv1d", &[]);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::copy(base.join("config.json"), from.path().join("config.json")).unwrap();
    std::fs::write(from.path().join("tokenizer.json"), b"{}").unwrap();
    let bytes = std::fs::read(base.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let halves: Vec<(String, Vec<u8>, Vec<usize>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
            let halves = values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect();
            (name.to_owned(), halves, tensor.shape().to_vec())
        })
        .collect();
    let views = halves.iter().map(|(name, bytes, shape)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &from.path().join("model.safetensors")).unwrap();

    let [base, adapter] = [from.path(), folder.path()].map(|path| path.to_string_lossy().into_owned());
    let write = || merge(&base, &adapter, to.path(), &Resources::local(), MergeOptions::default());
    let merged = write().unwrap();
    assert_eq!(merged.changed, 3, "{merged:?}");
    let written = std::fs::read(to.path().join("model.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&written).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let written = SafeTensors::deserialize(&written).unwrap();
    assert!(written.iter().all(|(_, tensor)| tensor.dtype() == safetensors::Dtype::F16));
    for (name, bytes, shape) in &halves {
        let tensor = written.tensor(name).unwrap();
        assert_eq!(tensor.shape(), shape);
        let adapted = name.contains("h.1.") && (name.contains("c_attn.weight") || name.contains("c_proj.weight"));
        assert_eq!(tensor.data() != bytes, adapted, "{name}");
    }
    assert!(to.path().join("tokenizer.json").exists());
    let error = write().unwrap_err().to_string();
    assert!(error.contains("the folder is not empty"), "{error}");
}

fn refusal(name: &str, changes: &[(&str, Value)]) -> String {
    let (folder, base) = adapter(name, changes);
    load(&base, Some(folder.path()), Apply::Merged, LoadOptions::default()).unwrap_err().to_string()
}

#[test]
fn what_is_not_supported_or_does_not_fit_is_named() {
    for (name, key, value, expected) in [
        ("dora", "peft_type", json!("IA3"), "'peft_type' is \"IA3\", and \"LORA\" is supported"),
        ("dora", "layer_replication", json!([[0, 2]]), "'layer_replication' is [[0,2]]"),
        ("dora", "alora_invocation_tokens", json!([1]), "'alora_invocation_tokens' is [1]"),
        ("dora", "use_anything", json!(true), "'use_anything' is true, and false is supported"),
        ("dora", "init_lora_weights", json!("pissa_niter_4"), "path_initial_model_for_weight_conversion"),
        ("dora", "lora_bias", json!(true), "'lora_bias' is true"),
        ("dora", "target_modules", json!("(q_proj"), "'target_modules' is \"(q_proj\", and a regular expression"),
        ("dora", "target_modules", json!([4]), "'target_modules' is [4], and a text or a list of texts"),
        ("dora", "rank_pattern", json!({"q_proj": 0}), "'rank_pattern' is {\"q_proj\":0}"),
        ("dora", "r", json!(0), "'r' is 0, and a whole number above 0"),
        ("dora", "r", json!(3), "has shape [2, 16], and [3, 16] is expected"),
        ("dora", "use_dora", json!(false), "without a place in the architecture qwen3: 'base_model.model.model."),
        (
            "conv1d",
            "layers_to_transform",
            json!([0]),
            "no tensor 'base_model.model.transformer.h.0.attn.c_attn.lora_A.weight'",
        ),
        (
            "neox-dora",
            "target_modules",
            json!(["dense"]),
            "no tensor 'base_model.model.gpt_neox.layers.0.attention.dense.lora_A",
        ),
        (
            "tied-embeddings",
            "target_modules",
            json!(["wte"]),
            "without a place in the architecture gpt2: 'base_model.model.transformer.wpe",
        ),
        ("tied-embeddings", "ensure_weight_tying", json!(true), "'ensure_weight_tying' is true"),
        ("tokens", "trainable_token_indices", json!({"wte": [5, 64]}), "at 1 is 64, and an id below 64"),
        ("tokens", "trainable_token_indices", json!({"other": [5, 9]}), "'trainable_token_indices' is"),
        ("tokens", "trainable_token_indices", json!([5]), "has shape [2, 16], and [1, 16] is expected"),
    ] {
        let error = refusal(name, &[(key, value)]);
        assert!(error.contains(expected), "{name} {key}: {error}");
    }
}

#[test]
fn missing_files_of_an_adapter_are_errors() {
    let (folder, base) = adapter("dora", &[]);
    let error = || load(&base, Some(folder.path()), Apply::Merged, LoadOptions::default()).unwrap_err().to_string();
    std::fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    assert!(error().contains("adapter_model.safetensors"), "{}", error());
    std::fs::write(folder.path().join("adapter_model.bin"), b"").unwrap();
    assert!(error().contains("there is adapter_model.bin, and weights must be safetensors"), "{}", error());
    // An adapter is no model.
    let alone = load(folder.path(), None, Apply::Merged, LoadOptions::default()).unwrap_err().to_string();
    assert!(alone.contains("there is adapter_config.json"), "{alone}");
    std::fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    assert!(error().contains("adapter_config.json"), "{}", error());
}

/// A model of another architecture has no place for the tensors.
#[test]
fn an_adapter_of_another_model_is_refused() {
    let (folder, _) = adapter("neox-dora", &[]);
    let base = fixtures().join("small/gpt2");
    let error = load(&base, Some(folder.path()), Apply::Merged, LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("without a place in the architecture gpt2"), "{error}");
}

#[test]
fn files_without_a_prefix_take_the_same_adapter() {
    let (folder, base) = adapter("tied-embeddings", &[]);
    let (batch, expected) = expected("tied-embeddings");
    let to = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(base.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let views = tensors.iter().map(|(name, tensor)| (name.trim_start_matches("transformer.").to_owned(), tensor));
    safetensors::serialize_to_file(views, None, &to.path().join("model.safetensors")).unwrap();
    std::fs::copy(base.join("config.json"), to.path().join("config.json")).unwrap();
    let model = load(to.path(), Some(folder.path()), Apply::Merged, LoadOptions::default()).unwrap();
    let off = most(&logits(&model, &batch), &expected);
    assert!(off <= 2e-5, "{off}");
}

/// In bf16 the sum is rounded, in four bits the base alone is; neither is far from f32, and beside is not merged.
#[test]
fn adapters_work_with_rounded_weights() {
    let (folder, base) = adapter("neox-dora", &[]);
    let (batch, expected) = expected("neox-dora");
    let options = |precision, four_bits| LoadOptions { precision, four_bits, ..LoadOptions::default() };
    for (options, tolerance) in [
        (options(Precision::Bf16, false), 0.08),
        (options(Precision::F32, true), 0.8),
        (options(Precision::Bf16, true), 0.8),
    ] {
        let plain = most(&logits(&load(&base, None, Apply::Merged, options).unwrap(), &batch), &expected);
        let [merged, beside] =
            BOTH.map(|apply| logits(&load(&base, Some(folder.path()), apply, options).unwrap(), &batch));
        for got in [&merged, &beside] {
            let off = most(got, &expected);
            println!("{options:?}: {off}, without the adapter {plain}");
            assert!(off <= tolerance && off < plain, "{options:?}: {off}, without the adapter {plain}");
        }
        assert!(most(&merged, &beside) > 0.0, "{options:?}");
    }
}

#[test]
fn a_document_has_the_same_bits_alone_and_in_a_batch_with_an_adapter_beside() {
    for name in ["conv1d", "neox-dora", "rslora"] {
        let (folder, base) = adapter(name, &[]);
        let options = LoadOptions { four_bits: true, ..LoadOptions::default() };
        let model = load(&base, Some(folder.path()), Apply::Beside, options).unwrap();
        let texts = [vec![5, 9, 30, 11], vec![7], vec![40, 41, 42, 43, 44, 45, 46]];
        let together = model.hidden_states(ALONE, &packed(&texts)).unwrap();
        let alone: Vec<f32> =
            texts.iter().flat_map(|text| model.hidden_states(ALONE, &Batch::of(text)).unwrap()).collect();
        assert!(together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
}
