//! Pairs against gradients of torch, against gradients one at a time, and against themselves in other batches and caches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod errors;
mod projections;
mod steps;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use serde_json::{Value, json};

use super::samples::{Conversation, Encoder, Sample};
use crate::analysis::pairs::PairTable;
use crate::models::chat::ChatTemplate;
use crate::models::gradients::{Backward, Loss, ParameterGradients, Reduction, TokenLoss, token_weights};
use crate::models::tests::ALONE;
use crate::models::{Batch, LoadOptions, Model};
use crate::scoring::asking::Message;
use crate::tokens::Tokenizer;
use crate::{OperatorSpec, Registry, Resources, Result, apply};

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models").join(model)
}

fn model(name: &str) -> Model {
    let options = LoadOptions { gradients: true, ..LoadOptions::default() };
    Model::load(&fixture(name).to_string_lossy(), &Resources::local(), options).unwrap().0
}

fn encoder() -> Encoder {
    let (location, resources) = (fixture("llama").to_string_lossy().into_owned(), Resources::local());
    let tokenizer = Tokenizer::load(&location, &resources).unwrap().0;
    let template = ChatTemplate::load(&location, &resources).unwrap().0;
    Encoder { tokenizer, template, most_positions: Some(128) }
}

fn conversation(question: &str, answer: &str) -> Conversation {
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    Conversation::Messages(vec![message("user", question), message("assistant", answer)])
}

/// The gradient of a sample by each parameter, as [`ParameterGradients`] gives it.
fn gradients(model: &Model, sample: &Sample) -> (f64, Vec<(String, Vec<f32>)>) {
    let batch = Batch::of(&sample.ids);
    let weights = token_weights(&batch, Reduction::Mean, |_, token| token >= sample.answer);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    let mut gradients = ParameterGradients::new(|_| true);
    let losses = Backward::new(model).unwrap().run(ALONE, &batch, loss, &mut gradients).unwrap();
    let all = gradients.iter().map(|(parameter, gradient)| (parameter.name().to_owned(), gradient.to_vec()));
    (losses.documents[0], all.collect())
}

fn dot(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(&one, &other)| f64::from(one) * f64::from(other)).sum()
}

/// Questions and answers about a mill, and the same rewritten.
const ORIGINALS: [(&str, &str); 7] = [
    ("Name a grain of the mill.", "Rye is a grain."),
    ("Where does the river turn the wheel?", "Behind the old house."),
    ("How do I clean a millstone?", "Brush it and let it dry."),
    ("Who carries the sacks of flour?", "The miller and his son."),
    ("When is the harvest brought in?", "In the last days of July."),
    ("Which birds live in the barn?", "Owls, swallows and sparrows."),
    ("What does the dog guard?", "The dog guards the grain."),
];
const REWRITTEN: [(&str, &str); 7] = [
    ("Tell me a grain of the mill.", "A grain is rye."),
    ("Where is the wheel turned by the river?", "It is behind the old house."),
    ("In what way do I clean a millstone?", "Let it dry after brushing."),
    ("Who carries flour in sacks?", "His son and the miller do."),
    ("On what days is the harvest brought in?", "The last ones of July."),
    ("Birds of which kinds live in the barn?", "Sparrows, owls, swallows."),
    ("Tell me what the dog guards.", "Grain."),
];

/// Rows with an id and messages as JSON.
fn rows(samples: &[(&str, &str)]) -> RecordBatch {
    let ids: Vec<String> = (0..samples.len()).map(|number| format!("mill_{number}")).collect();
    let messages = samples.iter().map(|(question, answer)| {
        json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]).to_string()
    });
    RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(ids)) as ArrayRef),
        ("messages", Arc::new(StringArray::from_iter_values(messages))),
    ])
    .unwrap()
}

/// A folder with the originals, and a configuration that names them.
fn study() -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("originals.jsonl");
    let lines = ORIGINALS.iter().enumerate().map(|(number, (question, answer))| {
        let messages = json!([{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]);
        json!({"id": format!("mill_{number}"), "messages": messages}).to_string()
    });
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    (folder, json!({"model": fixture("llama"), "originals": {"path": path}}))
}

/// The configuration with other values.
fn with(config: &Value, changes: Value) -> Value {
    let mut config = config.clone();
    let map = config.as_object_mut().unwrap();
    map.extend(changes.as_object().unwrap().clone());
    config
}

fn run(config: &Value, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let spec = OperatorSpec::new(super::KIND, config.clone()).named("pairs");
    let operator = Registry::standard().bind(&spec, &batches[0].schema(), &Resources::local())?;
    Ok(apply(operator.as_ref(), batches.iter().cloned())?.batches)
}

fn table(config: &Value, batches: &[RecordBatch]) -> PairTable {
    PairTable::read(&run(config, batches).unwrap(), "pairs", "id").unwrap()
}

/// Ids that are whole numbers.
fn numbers(count: usize) -> ArrayRef {
    Arc::new((0..count as i64).collect::<Int64Array>())
}
