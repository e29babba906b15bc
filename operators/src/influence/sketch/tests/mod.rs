//! Rows against projections of the gradients themselves, against those of other batches, and on average over seeds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod device;
mod oracle;
mod rows;
mod signs;

use std::path::{Path, PathBuf};

use super::{Projector, RowsOf, Sketch, SketchSpec};
use crate::Resources;
use crate::influence::Modules;
use crate::models::gradients::{Backward, DocumentGradients, Loss, Losses, Reduction, TokenLoss, token_weights};
use crate::models::tests::{ALONE, Expected, packed, reference};
use crate::models::{Batch, Compute, LoadOptions, Model};

/// Models of all architectures.
const MODELS: [&str; 14] = [
    "gpt-neox",
    "llama",
    "llama3",
    "modernbert-classifier",
    "olmo",
    "olmo2",
    "qwen2",
    "bert-classifier",
    "small/distilbert-classifier",
    "small/gpt2",
    "small/llama-biases",
    "small/neox-sequential",
    "small/qwen3",
    "small/roberta-classifier",
];

fn models() -> impl Iterator<Item = (&'static str, PathBuf)> {
    MODELS.into_iter().filter_map(|name| Some((name, reference(name)?)))
}

fn load(folder: &Path) -> Model {
    let options = LoadOptions { gradients: true, ..LoadOptions::default() };
    Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap().0
}

fn of_dimension(dimension: usize) -> SketchSpec {
    SketchSpec { dimension, ..SketchSpec::default() }
}

/// Layers with at least `dimension` outputs and inputs.
fn wide_enough(model: &Model, dimension: usize) -> SketchSpec {
    let narrow = |side: [usize; 2]| side[0].min(side[1]) < dimension;
    let linear = Modules::default().of(model).unwrap();
    let exclude = linear.into_iter().filter(|(_, parameter)| narrow(parameter.sides())).map(|(name, _)| name).collect();
    SketchSpec { dimension, modules: Modules { exclude, ..Modules::default() }, ..SketchSpec::default() }
}

/// A loss that owns what it is made of: the mean over the tokens of each document, or document d has label d, counted round.
enum Target {
    Tokens(Vec<f32>),
    Labels(Vec<usize>),
}

impl Target {
    fn of(model: &Model, batch: &Batch) -> Self {
        match model.labels() {
            Some(labels) => Self::Labels((0..batch.documents()).map(|document| document % labels.len()).collect()),
            None => Self::Tokens(token_weights(batch, Reduction::Mean, |_, _| true)),
        }
    }

    fn loss(&self) -> Loss<'_> {
        match self {
            Self::Tokens(weights) => Loss::Tokens(TokenLoss { weights, targets: None }),
            Self::Labels(labels) => Loss::Labels(labels),
        }
    }
}

fn run(
    backward: &mut Backward<'_>,
    compute: Compute<'_>,
    batch: &Batch,
    target: &Target,
    projector: &mut Projector<'_>,
) -> Losses {
    projector.prepare(batch);
    backward.run(compute, batch, target.loss(), projector).unwrap()
}

/// The gradients of each module of a sketch, `[documents][modules][outputs, inputs]`, also where they are stored the other way round.
fn gradients(model: &Model, sketch: &Sketch, batch: &Batch, target: &Target) -> Vec<Vec<Vec<f32>>> {
    let mut all = vec![vec![Vec::new(); sketch.modules().len()]; batch.documents()];
    let wanted: Vec<usize> = sketch.modules().iter().map(|module| module.parameter).collect();
    let mut tap = DocumentGradients::new(
        move |parameter| wanted.contains(&parameter.index()),
        |document, parameter, gradient| {
            let number = sketch.module_of(parameter).unwrap();
            let module = &sketch.modules()[number];
            let transposed = parameter.shape() != [module.outputs, module.inputs]
                || (model.kind() == "gpt2" && module.outputs == module.inputs);
            let place = |output, input| {
                if transposed { input * module.outputs + output } else { output * module.inputs + input }
            };
            all[document][number] = (0..module.outputs)
                .flat_map(|output| (0..module.inputs).map(move |input| (output, input)))
                .map(|(output, input)| gradient[place(output, input)])
                .collect();
            Ok(())
        },
    );
    Backward::new(model).unwrap().run(ALONE, batch, target.loss(), &mut tap).unwrap();
    all
}

/// The norm of the difference relative to that of what is expected.
fn off(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(expected).map(|(&a, b)| f64::from(a) - b)) / norm(&mut expected.iter().copied()).max(1e-30)
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
