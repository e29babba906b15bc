//! Curvature against explicit gradients in double precision, and against itself in other batches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod brute;
mod grams;
mod peers;
mod same;

use std::sync::Arc;

use super::{Covariances, Factors, Lambdas, Layers, MomentsOf, QueryGradients, SecondMoments};
use crate::Resources;
use crate::influence::Modules;
use crate::models::gradients::{Backward, Loss, Reduction, Tap, TokenLoss, token_weights};
use crate::models::tests::{ALONE, packed, reference};
use crate::models::{LoadOptions, Model};

/// Architectures that differ in how their layers are kept: fused, transposed, with biases and without.
const MODELS: [&str; 4] = ["small/neox-sequential", "small/gpt2", "small/llama-biases", "llama"];

fn load(name: &str) -> Model {
    let options = LoadOptions { gradients: true, ..LoadOptions::default() };
    Model::load(&reference(name).unwrap().to_string_lossy(), &Resources::local(), options).unwrap().0
}

/// Documents of different lengths.
fn documents(model: &Model, count: usize, seed: usize) -> Vec<Vec<u32>> {
    let token = |document: usize, place: usize| {
        ((document * 31 + place * 17 + seed * 7 + place * place * 3) % model.vocabulary()) as u32
    };
    (0..count)
        .map(|document| (0..2 + (document * 5 + seed) % 13).map(|place| token(document, place)).collect())
        .collect()
}

fn layers(model: &Model, bias: bool) -> Layers {
    Layers::of(model, &Modules::default(), bias).unwrap()
}

/// Runs documents in batches of so many.
fn run(model: &Model, documents: &[Vec<u32>], together: usize, tap: &mut dyn Tap, mut each: impl FnMut(usize)) {
    let mut backward = Backward::new(model).unwrap();
    for documents in documents.chunks(together) {
        let batch = packed(documents);
        let weights = token_weights(&batch, Reduction::Sum, |_, _| true);
        let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
        backward.run(ALONE, &batch, loss, tap).unwrap();
        each(documents.len());
    }
}

fn kfac(model: &Model, documents: &[Vec<u32>], together: usize, bias: bool) -> Factors {
    let mut tap = Covariances::new(layers(model, bias));
    run(model, documents, together, &mut tap, |_| ());
    tap.into_factors()
}

fn lambda(model: &Model, documents: &[Vec<u32>], together: usize, bias: bool, kfac: &Factors) -> Factors {
    let mut tap = Lambdas::new(layers(model, bias), Arc::new(kfac.clone()));
    run(model, documents, together, &mut tap, |_| ());
    tap.into_factors()
}

fn moments(model: &Model, documents: &[Vec<u32>], together: usize, of: MomentsOf) -> Factors {
    let mut tap = SecondMoments::new(layers(model, false), of);
    run(model, documents, together, &mut tap, |_| ());
    tap.into_factors()
}

fn queries(model: &Model, documents: &[Vec<u32>], bias: bool) -> QueryGradients {
    let mut tap = QueryGradients::new(layers(model, bias));
    run(model, documents, 3, &mut tap, |_| ());
    tap
}
