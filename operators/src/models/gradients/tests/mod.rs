//! Gradients against those of transformers, against differences of losses, and against themselves in other batches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod batches;
mod differences;
mod parameters;
mod references;
mod refusals;

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use super::{Backward, DocumentGradients, Loss, Losses, ParameterGradients, Reduction, TokenLoss, token_weights};
use crate::Resources;
use crate::models::deberta_fixture::{Fixture, MODELS};
use crate::models::tests::{ALONE, Expected, packed, reference};
use crate::models::{Batch, LoadOptions, Model};

/// Models of all architectures, with everything in which their layers differ.
const SMALL: [&str; 14] = [
    "small/distilbert-classifier",
    "small/gpt2",
    "small/llama-biases",
    "small/llama-classifier",
    "small/llama-dynamic",
    "small/llama-linear",
    "small/llama-longrope",
    "small/llama-yarn",
    "small/mistral-window",
    "small/modernbert-mean",
    "small/neox-sequential",
    "small/qwen2-window",
    "small/qwen3",
    "small/roberta-classifier",
];

/// Larger ones, some of them not in the repository.
const LARGE: [&str; 8] =
    ["llama", "llama3", "qwen2", "olmo", "olmo2", "gpt-neox", "bert-classifier", "modernbert-classifier"];

/// The folder of a model: one that is there, or one that was made for a test.
enum Folder {
    Kept(PathBuf),
    Made(tempfile::TempDir),
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Made(folder) => folder.path(),
        }
    }
}

/// Folders of the models that are there, and of DeBERTa.
fn models() -> impl Iterator<Item = (&'static str, Folder)> {
    let fixture = Fixture::read();
    let made = MODELS.into_iter().map(move |(name, _)| (name, Folder::Made(fixture.classifier(name))));
    LARGE.into_iter().chain(SMALL).filter_map(|name| Some((name, Folder::Kept(reference(name)?)))).chain(made)
}

fn load(folder: &Path) -> Model {
    let options = LoadOptions { gradients: true, ..LoadOptions::default() };
    Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap().0
}

/// The texts of a model's reference.
fn texts(folder: &Path) -> Vec<Vec<u32>> {
    Expected::of(folder).texts()
}

/// A loss that owns what it is made of.
#[derive(Clone, Debug)]
enum Target {
    Tokens(Vec<f32>),
    Labels(Vec<usize>),
    MultiLabel(Vec<f32>),
    Regression(Vec<f32>),
}

impl Target {
    /// The mean over the tokens of each document, or document d has label d, counted round, or with one label a value that follows from d.
    fn of(model: &Model, batch: &Batch) -> Self {
        Self::of_documents(model, batch, 0..batch.documents())
    }

    /// The same of a batch of some documents of a larger one.
    fn of_documents(model: &Model, batch: &Batch, documents: Range<usize>) -> Self {
        match model.labels().map(<[String]>::len) {
            Some(1) => Self::Regression(documents.map(|document| document as f32 / 4.0 - 1.0).collect()),
            Some(labels) => Self::Labels(documents.map(|document| document % labels).collect()),
            None => Self::Tokens(token_weights(batch, Reduction::Mean, |_, _| true)),
        }
    }

    fn loss(&self) -> Loss<'_> {
        match self {
            Self::Tokens(weights) => Loss::Tokens(TokenLoss { weights, targets: None }),
            Self::Labels(labels) => Loss::Labels(labels),
            Self::MultiLabel(values) => Loss::MultiLabel(values),
            Self::Regression(values) => Loss::Regression(values),
        }
    }
}

/// All gradients, summed over the documents.
fn summed(model: &Model, batch: &Batch, target: &Target) -> (Losses, ParameterGradients) {
    let mut gradients = ParameterGradients::new(|_| true);
    let losses = Backward::new(model).unwrap().run(ALONE, batch, target.loss(), &mut gradients).unwrap();
    (losses, gradients)
}

/// Gradients of each document by the parameters' names, in the order in which they come.
type Each = Vec<(usize, String, Vec<f32>)>;

/// All gradients of each document.
fn each(backward: &mut Backward<'_>, compute: crate::models::Compute<'_>, batch: &Batch, target: &Target) -> Each {
    let mut all = Vec::new();
    let mut tap = DocumentGradients::new(
        |_| true,
        |document, parameter, gradient| {
            all.push((document, parameter.name().to_owned(), gradient.to_vec()));
            Ok(())
        },
    );
    backward.run(compute, batch, target.loss(), &mut tap).unwrap();
    all
}

/// √Σx².
fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// The norm of the difference relative to that of what is expected.
fn off(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let differences: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
    norm(&differences) / norm(expected).max(1e-30)
}
