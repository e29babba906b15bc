//! `gradient`: its numbers, its encodings, its description, and what it does with rows that have none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod columns;
mod encodings;
mod refusals;

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use serde_json::{Value, json};

use super::SketchDescription;
use crate::models::LoadOptions;
use crate::models::Model;
use crate::{OperatorSpec, Output, Registry, Resources, apply};

fn model() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/llama").to_string_lossy().into_owned()
}

fn loaded() -> Model {
    let options = LoadOptions { gradients: true, ..LoadOptions::default() };
    Model::load(&model(), &Resources::local(), options).unwrap().0
}

fn table(texts: &[Option<&str>]) -> RecordBatch {
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("text", texts, true)]).unwrap()
}

/// The configuration with the model, and a small projection.
fn with(config: Value) -> Value {
    let mut all = json!({"model": model(), "dimension": 8});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    all
}

fn run_all(config: Value, batch: &RecordBatch) -> crate::Result<Output> {
    let spec = OperatorSpec::new("gradient", with(config));
    let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local())?;
    apply(operator.as_ref(), [batch.clone()])
}

fn run(config: Value, batch: &RecordBatch) -> RecordBatch {
    let mut output = run_all(config, batch).unwrap();
    assert_eq!((output.batches.len(), output.quarantined.len()), (1, 0), "{:?}", output.quarantined);
    output.batches.remove(0)
}

fn error(config: Value, batch: &RecordBatch) -> String {
    run_all(config, batch).unwrap_err().to_string()
}

fn description(batch: &RecordBatch) -> SketchDescription {
    SketchDescription::of(batch.schema().field_with_name("gradient").unwrap()).unwrap()
}

fn values(batch: &RecordBatch) -> Vec<f32> {
    description(batch).decode(&batch["gradient"]).unwrap().values
}

fn doubles(batch: &RecordBatch, field: &str) -> Vec<f64> {
    batch["gradient_metadata"].as_struct()[field].as_primitive::<Float64Type>().values().to_vec()
}

fn counts(batch: &RecordBatch, field: &str) -> Vec<u32> {
    batch["gradient_metadata"].as_struct()[field].as_primitive::<UInt32Type>().values().to_vec()
}

/// The norm of the difference relative to that of what is expected.
fn off(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)))
        / norm(&mut expected.iter().map(|&value| f64::from(value))).max(1e-30)
}
