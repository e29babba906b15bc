//! How long influence with EK-FAC takes, stage by stage, for scripts that compare it with other programs (`benches/peers/kronfluence_speed.py`).
//!
//! `influence_speed MODEL_FOLDER` reads one line of JSON from standard input,
//! `{"corpus": [[5, 6, 7], …], "queries": [[8, 9], …], "batch_tokens": 1024, "rank": null, "bias": true}`: token ids of documents. It learns the factors from the
//! corpus with the tokens that are there as labels, preconditions the gradients of the queries, scores the corpus against them, and answers with
//! `{"covariances": 1.5, "eigenvectors": 0.5, "lambdas": 2.5, "queries": 0.5, "scores": 3.5, "values": [[0.25, …], …]}`: seconds, and a list of scores for each
//! document. The loss of a document is the sum over its tokens. With a `rank` queries are replaced by the nearest matrices of that rank. One thread.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::sync::Arc;
use std::time::Instant;

use gristmill_kernels::workers::Serial;
use gristmill_operators::Resources;
use gristmill_operators::influence::Modules;
use gristmill_operators::influence::curvature::{
    Covariances, Curvature, Damping, ExactScorer, Lambdas, Layers, QueryGradients,
};
use gristmill_operators::models::gradients::{Backward, Loss, Reduction, Tap, TokenLoss, token_weights};
use gristmill_operators::models::{Batch, Compute, LoadOptions, Model};
use serde_json::{Value, json};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// Results of layers that are kept for the way back, in bytes.
const KEPT_BYTES: usize = 512 << 20;

fn main() {
    let folder = std::env::args().nth(1).expect("usage: influence_speed MODEL_FOLDER");
    let options = LoadOptions { gradients: true, ..LoadOptions::default() };
    let (model, _) = Model::load(&folder, &Resources::local(), options).unwrap();
    let request: Value = serde_json::from_reader(std::io::stdin()).unwrap();
    let together = request["batch_tokens"].as_u64().map_or(1024, |tokens| usize::try_from(tokens).unwrap());
    let corpus = batches(&request["corpus"], together);
    let queries = batches(&request["queries"], together);
    let layers = Layers::of(&model, &Modules::default(), request["bias"].as_bool().unwrap_or(true)).unwrap();

    let begun = Instant::now();
    let mut covariances = Covariances::new(layers.clone());
    corpus.iter().for_each(|batch| run(&model, batch, &mut covariances));
    let of_covariances = begun.elapsed();

    let begun = Instant::now();
    let kfac = Arc::new(covariances.into_factors().with_eigenvectors().unwrap());
    let of_eigenvectors = begun.elapsed();

    let begun = Instant::now();
    let mut lambdas = Lambdas::new(layers.clone(), Arc::clone(&kfac));
    corpus.iter().for_each(|batch| run(&model, batch, &mut lambdas));
    let lambda = lambdas.into_factors();
    let of_lambdas = begun.elapsed();

    let begun = Instant::now();
    let mut gradients = QueryGradients::new(layers);
    queries.iter().for_each(|batch| run(&model, batch, &mut gradients));
    let curvature = Curvature::Ekfac { kfac: &kfac, lambda: &lambda };
    curvature.precondition(ALONE, Damping::default(), &mut gradients).unwrap();
    let mut scorer = match request["rank"].as_u64() {
        None => ExactScorer::whole(gradients).unwrap(),
        Some(rank) => ExactScorer::low_rank(gradients, usize::try_from(rank).unwrap()).unwrap(),
    };
    let of_queries = begun.elapsed();

    let begun = Instant::now();
    let mut values: Vec<Vec<f32>> = Vec::new();
    for batch in &corpus {
        run(&model, batch, &mut scorer);
        let scores = scorer.take_scores(batch.documents());
        values.extend(scores.chunks_exact(scorer.queries()).map(<[f32]>::to_vec));
    }
    let of_scores = begun.elapsed();

    let answer = json!({
        "covariances": of_covariances.as_secs_f64(),
        "eigenvectors": of_eigenvectors.as_secs_f64(),
        "lambdas": of_lambdas.as_secs_f64(),
        "queries": of_queries.as_secs_f64(),
        "scores": of_scores.as_secs_f64(),
        "values": values,
    });
    println!("{answer}");
}

/// Documents in batches of up to so many tokens.
fn batches(documents: &Value, tokens: usize) -> Vec<Batch> {
    let mut batches = vec![Batch::default()];
    for document in documents.as_array().unwrap() {
        let ids = document.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap());
        let ids: Vec<u32> = ids.collect();
        let full = |batch: &Batch| batch.documents() > 0 && batch.tokens() + ids.len() > tokens;
        if batches.last().is_some_and(full) {
            batches.push(Batch::default());
        }
        batches.last_mut().unwrap().push(&ids);
    }
    batches
}

fn run(model: &Model, batch: &Batch, tap: &mut dyn Tap) {
    let weights = token_weights(batch, Reduction::Sum, |_, _| true);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    Backward::new(model).unwrap().with_kept_bytes(KEPT_BYTES).run(ALONE, batch, loss, tap).unwrap();
}
