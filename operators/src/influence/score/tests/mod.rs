//! `influence`: its scores against brute force, stored gradients against live ones, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod candidates;
mod checkpoints;
mod planted;
mod refusals;
mod scores;
mod statistics;

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::influence::InfluenceKind;
use crate::models::tests::reference;
use crate::{OperatorKind, OperatorSpec, Output, Registry, Resources, apply, tables};

fn model() -> String {
    reference("llama").unwrap().to_string_lossy().into_owned()
}

/// Texts that differ.
const TEXTS: [&str; 8] = [
    "The quick brown fox jumps over the lazy dog.",
    "Water boils at one hundred degrees at sea level.",
    "She sells sea shells by the sea shore, every morning.",
    "In the beginning there was nothing, and then a bang.",
    "a",
    "The capital of a country is where its government is.",
    "Numbers are 1, 2, 3, 4, 5 and so on without an end.",
    "He said: never again, and then he did it again.",
];

fn table(texts: &[Option<&str>]) -> RecordBatch {
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("text", texts, true)]).unwrap()
}

fn corpus() -> RecordBatch {
    table(&TEXTS.map(Some))
}

/// A folder with queries, and the configuration that names them.
fn queries(lines: &[Value]) -> (TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.jsonl");
    std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, json!({"path": path}))
}

/// Whole texts as queries.
fn texts_as_queries(texts: &[&str]) -> (TempDir, Value) {
    let lines: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
    let (folder, mut config) = queries(&lines);
    config["text"] = "text".into();
    (folder, config)
}

fn merged(base: &Value, more: Value) -> Value {
    let mut all = base.clone();
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn run_all(kind: &str, config: Value, batches: &[RecordBatch]) -> crate::Result<Output> {
    let spec = OperatorSpec::new(kind, config);
    let operator = Registry::standard().bind(&spec, &batches[0].schema(), &Resources::local())?;
    apply(operator.as_ref(), batches.iter().cloned())
}

fn run(kind: &str, config: Value, batch: &RecordBatch) -> RecordBatch {
    let mut output = run_all(kind, config, std::slice::from_ref(batch)).unwrap();
    assert!(output.quarantined.is_empty(), "{:?}", output.quarantined);
    output.batches.remove(0)
}

/// Scores, `[rows][queries]`.
fn scores_of(batch: &RecordBatch) -> Vec<Vec<f32>> {
    let column = batch["influence"].as_fixed_size_list();
    let values = column.values().as_primitive::<Float32Type>().values();
    values.chunks(column.value_length() as usize).map(<[f32]>::to_vec).collect()
}

fn score(config: Value, batch: &RecordBatch) -> Vec<Vec<f32>> {
    scores_of(&run("influence", config, batch))
}

/// Learns all that a configuration needs from the corpus, as a host does, and returns it with the files. Whether that is anything is as expected.
fn learned(config: &Value, anything: bool) -> (TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = InfluenceKind.complete(config).unwrap();
    let mut keys = Vec::new();
    while let Some(fit) = InfluenceKind.fit(&config).unwrap() {
        let output = run_all(&fit.spec.kind, fit.spec.config.clone(), &[corpus()]).unwrap();
        let kind = Registry::standard();
        let kind = kind.kind(&fit.spec.kind).unwrap();
        let spec = Registry::standard().complete(&fit.spec).unwrap();
        let batches = kind.combine(&spec, &mut output.batches.into_iter().map(Ok)).unwrap();
        let path = folder.path().join(format!("{}.arrow", fit.key));
        std::fs::write(&path, tables::write_arrow(&batches).unwrap()).unwrap();
        config[fit.key] = path.to_str().unwrap().into();
        assert!(!keys.contains(&fit.key), "{} is learned twice", fit.key);
        keys.push(fit.key);
    }
    assert_eq!(!keys.is_empty(), anything);
    (folder, config)
}

/// A tokenizer of 64 words `w0` to `w63`, for models with so many tokens.
fn word_tokenizer(folder: &Path) -> String {
    let words: serde_json::Map<String, Value> = (0..64).map(|id| (format!("w{id}"), id.into())).collect();
    let json = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    let path = folder.join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}
