//! Operators with adapters, and with weights in four bits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{RecordBatch, StringArray};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::device::Device;
use super::loaded;
use super::reader::Precision;
use crate::conformance;
use crate::{OperatorSpec, Registry, Resources, apply};

fn model() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/llama").to_string_lossy().into_owned()
}

/// An adapter of the first layer's queries, whose B is this number everywhere.
fn write_adapter(folder: &Path, b: f32) {
    let values = |value: f32| (0..64).flat_map(|_| value.to_le_bytes()).collect::<Vec<u8>>();
    let (down, up) = (values(0.5), values(b));
    let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight");
    let tensors = [
        (name("A"), TensorView::new(Dtype::F32, vec![1, 64], &down).unwrap()),
        (name("B"), TensorView::new(Dtype::F32, vec![64, 1], &up).unwrap()),
    ];
    safetensors::serialize_to_file(tensors, None, &folder.join("adapter_model.safetensors")).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["layers.0.self_attn.q_proj"]});
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn batch() -> RecordBatch {
    let texts = StringArray::from(vec!["a few words to be read", "and others"]);
    RecordBatch::try_from_iter([("text", Arc::new(texts) as _)]).unwrap()
}

fn perplexities(config: Value) -> crate::Result<Vec<f64>> {
    let batch = batch();
    let spec = OperatorSpec::new("perplexity", config);
    let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local())?;
    let result = apply(operator.as_ref(), [batch])?.batches.remove(0);
    Ok(result["perplexity"].as_primitive::<Float64Type>().values().to_vec())
}

#[test]
fn an_adapter_changes_what_the_operators_compute() {
    let folder = tempfile::tempdir().unwrap();
    write_adapter(folder.path(), 0.5);
    let without = perplexities(json!({"model": model()})).unwrap();
    let with = perplexities(json!({"model": model(), "adapter": folder.path()})).unwrap();
    assert!(without.iter().zip(&with).all(|(a, b)| (a - b).abs() > 1e-3), "{without:?} {with:?}");
    // B of zeros changes nothing.
    write_adapter(folder.path(), 0.0);
    let zero = perplexities(json!({"model": model(), "adapter": folder.path()})).unwrap();
    assert_eq!(without, zero);
    conformance::check(&super::PerplexityKind, &json!({"model": model(), "adapter": folder.path()}));
    conformance::check(&super::EmbedKind, &json!({"model": model(), "adapter": folder.path(), "precision": "nf4"}));
}

#[test]
fn all_operators_of_models_take_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    write_adapter(folder.path(), 0.5);
    for kind in ["embed", "perplexity", "next_token"] {
        let spec = OperatorSpec::new(kind, json!({"model": model(), "adapter": folder.path()}));
        let operator = Registry::standard().bind(&spec, &batch().schema(), &Resources::local()).unwrap();
        let files: Vec<String> = operator.resources().into_iter().map(|resource| resource.location).collect();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            let expected = format!("{}/{name}", folder.path().display());
            assert!(files.contains(&expected), "{kind}: {files:?}");
        }
        assert!(apply(operator.as_ref(), [batch()]).is_ok());
    }
    // One for a decoder is no adapter of an encoder.
    let bert = Path::new(&model()).with_file_name("bert-classifier");
    let spec = OperatorSpec::new("classify", json!({"model": bert, "adapter": folder.path()}));
    let error = Registry::standard().bind(&spec, &batch().schema(), &Resources::local()).unwrap_err().to_string();
    assert!(error.contains("without a place in the architecture bert"), "{error}");
}

#[test]
fn an_adapter_that_is_not_there_is_an_error() {
    // With the model alone in memory.
    let model_alone = perplexities(json!({"model": model()})).unwrap();
    assert_eq!(model_alone.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    let error = perplexities(json!({"model": model(), "adapter": folder.path()})).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json") && error.contains(&*folder.path().to_string_lossy()), "{error}");
}

#[test]
fn a_model_with_an_adapter_is_another_model() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_adapter(one.path(), 0.5);
    write_adapter(other.path(), 0.25);
    let resources = Resources::local();
    let load = |adapter: Option<&Path>, precision| {
        let adapter = adapter.map(|adapter| adapter.to_string_lossy().into_owned());
        loaded::load("classify", &model(), adapter.as_deref(), precision, Device::Cpu, &resources).unwrap()
    };
    let (plain, own_files) = load(None, Precision::F32);
    let (adapted, files) = load(Some(one.path()), Precision::F32);
    let (second, _) = load(Some(other.path()), Precision::F32);
    let (small, _) = load(Some(one.path()), Precision::Nf4);
    assert!(!Arc::ptr_eq(&plain, &adapted) && !Arc::ptr_eq(&adapted, &second) && !Arc::ptr_eq(&adapted, &small));
    assert!(Arc::ptr_eq(&adapted, &load(Some(one.path()), Precision::F32).0));
    assert_eq!(files.len(), own_files.len() + 2);
    assert!(small.layers_memory() * 7 < adapted.layers_memory(), "{}", small.layers_memory());
    // Another content is another adapter.
    write_adapter(one.path(), 0.125);
    let file = std::fs::File::options().append(true).open(one.path().join("adapter_model.safetensors")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    assert!(!Arc::ptr_eq(&adapted, &load(Some(one.path()), Precision::F32).0));
}

#[test]
fn four_bits_are_close_to_single_precision() {
    let exact = perplexities(json!({"model": model()})).unwrap();
    for precision in ["nf4", "nf4_bf16", "bf16"] {
        let rounded = perplexities(json!({"model": model(), "precision": precision})).unwrap();
        for (rounded, exact) in rounded.iter().zip(&exact) {
            let off = (rounded / exact).ln().abs();
            assert!(off > 0.0 && off < 0.3, "{precision}: {rounded} {exact}");
        }
    }
}
