//! Files of weights with something wrong in them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::tests::{Expected, packed, reference};
use super::{LoadOptions, Model};
use crate::Resources;

type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a small model.
fn tensors() -> Vec<Tensor> {
    let bytes = std::fs::read(reference("small/qwen3").unwrap().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Tensor> = tensors
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn write(path: &Path, tensors: &[Tensor]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = reference("small/qwen3").unwrap().join("config.json");
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    folder
}

fn load(folder: &Path) -> Result<Model, String> {
    let location = folder.to_string_lossy();
    let loaded = Model::load(&location, &Resources::local(), LoadOptions::default());
    loaded.map(|(model, _)| model).map_err(|error| error.to_string())
}

const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";

#[test]
fn types_that_are_not_read_are_refused_by_name() {
    for (dtype, width, expected) in [
        (Dtype::I8, 1, "'model.layers.0.self_attn.q_proj.weight' is of type I8; F32, F16 and BF16 are supported"),
        (Dtype::U8, 1, "is of type U8"),
        (Dtype::F8_E4M3, 1, "is of type F8_E4M3"),
        (Dtype::F8_E5M2, 1, "is of type F8_E5M2"),
        (Dtype::F64, 8, "is of type F64"),
        (Dtype::I64, 8, "is of type I64"),
    ] {
        let folder = folder();
        let mut tensors = tensors();
        let own = tensors.iter_mut().find(|(name, ..)| name == QUERY).unwrap();
        (own.1, own.3) = (dtype, vec![0; own.2.iter().product::<usize>() * width]);
        write(&folder.path().join("model.safetensors"), &tensors);
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains(expected) && error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn tensors_that_are_missing_or_too_many_or_of_another_shape_are_named() {
    type Change = fn(&mut Vec<Tensor>);
    let cases: [(Change, &str); 4] = [
        (
            |tensors| tensors.retain(|(name, ..)| name != QUERY),
            "no tensor 'model.layers.0.self_attn.q_proj.weight' (shape [16, 16]",
        ),
        (
            |tensors| tensors.iter_mut().filter(|(name, ..)| name == QUERY).for_each(|tensor| tensor.2 = vec![8, 32]),
            "tensor 'model.layers.0.self_attn.q_proj.weight' has shape [8, 32], and [16, 16] is expected",
        ),
        (
            |tensors| tensors.push(("model.extra.weight".into(), Dtype::F32, vec![1], vec![0; 4])),
            "without a place in the architecture qwen3: 'model.extra.weight'",
        ),
        (|tensors| tensors.clear(), "no tensor 'model.layers.0"),
    ];
    for (change, expected) in cases {
        let folder = folder();
        let mut tensors = tensors();
        change(&mut tensors);
        write(&folder.path().join("model.safetensors"), &tensors);
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// Writes two files with an index, after a change of both and of the map.
fn sharded(change: impl FnOnce(&mut [Vec<Tensor>; 2], &mut serde_json::Value)) -> tempfile::TempDir {
    let folder = folder();
    let mut first = tensors();
    let second = first.split_off(first.len() / 2);
    let mut files = [first, second];
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = json!({});
    for (tensors, file) in files.iter().zip(names) {
        tensors.iter().for_each(|(name, ..)| map[name] = json!(file));
    }
    change(&mut files, &mut map);
    for (tensors, name) in files.iter().zip(names).filter(|(tensors, _)| !tensors.is_empty()) {
        write(&folder.path().join(name), tensors);
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    folder
}

#[test]
fn shards_are_read_as_one_file() {
    let batch = packed(&Expected::of(&reference("small/qwen3").unwrap()).texts());
    let whole = load(&reference("small/qwen3").unwrap()).unwrap();
    let several = load(sharded(|_, _| ()).path()).unwrap();
    let logits = |model: &Model| model.logits(super::tests::ALONE, &batch).unwrap();
    assert_eq!(logits(&whole), logits(&several));
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused() {
    type Change = fn(&mut [Vec<Tensor>; 2], &mut serde_json::Value);
    let cases: [(Change, &str); 6] = [
        (|files, _| files[1].clear(), "model-00002-of-00002.safetensors"),
        (
            |files, _| {
                let copy = files[0][0].clone();
                files[1].push(copy);
            },
            "is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors",
        ),
        (
            |_, map| {
                map.as_object_mut().unwrap().shift_remove(QUERY);
            },
            "has a tensor 'model.layers.0.self_attn.q_proj.weight' that is not named",
        ),
        (|_, map| map[QUERY] = json!("../model.safetensors"), "does not name a file of the folder"),
        (|_, map| map[QUERY] = json!(1), "does not name a file of the folder"),
        (
            |_, map| map["model.other"] = json!("model-00001-of-00002.safetensors"),
            "model-00001-of-00002.safetensors has no tensor 'model.other'",
        ),
    ];
    for (change, expected) in cases {
        let error = load(sharded(change).path()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// Headers whose numbers do not fit the file.
#[test]
fn headers_are_not_trusted() {
    let about = |header: serde_json::Value, data: usize| {
        let header = header.to_string().into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; data]].concat()
    };
    let tensor =
        |shape: serde_json::Value, end: u64| json!({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}});
    for (bytes, expected) in [
        (about(tensor(json!([2]), 8), 4), "bytes are expected by the header"),
        (about(tensor(json!([2]), 8), 12), "cut off or has a tail"),
        (about(tensor(json!([3]), 8), 8), "not of safetensors"),
        (about(tensor(json!([1_u64 << 62, 1_u64 << 62]), 8), 8), "not of safetensors"),
        (about(json!({"a": {"dtype": "Q7", "shape": [], "data_offsets": [0, 4]}}), 4), "not of safetensors"),
        (about(json!([]), 0), "not of safetensors"),
        (u64::MAX.to_le_bytes().to_vec(), "not safetensors, or cut off"),
    ] {
        let folder = folder();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains(expected) && error.contains("model.safetensors"), "{error}");
    }
}
