//! Choices of tensors that are made one tensor at a time.

use serde::Serialize;

use super::similarities::{Pairs, Products, cosine};

/// A tensor that is added to those before it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GreedyStep {
    /// Its name.
    pub tensor: String,
    /// Cosine of the list of all pairs' similarities by the tensors so far with that by all tensors.
    pub agreement: f64,
    /// Share of samples whose true original is the most similar one by the tensors so far; `None` where none is known.
    pub accuracy: Option<f64>,
}

/// What is to be as large as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    Agreement,
    Accuracy,
}

/// Adds the tensor that makes the aim largest until all are there; of several the first in the order of the model.
pub(super) fn greedy(pairs: &Pairs<'_>, names: &[String], aim: Aim) -> Vec<GreedyStep> {
    let full = pairs.full().cosines();
    let mut left: Vec<usize> = (0..names.len()).collect();
    let mut chosen = pairs.none();
    let mut steps = Vec::with_capacity(names.len());
    while !left.is_empty() {
        let mut best: Option<(f64, usize, Products, Vec<f64>)> = None;
        for (place, &tensor) in left.iter().enumerate() {
            let products = chosen.plus(&pairs.tensors[tensor]);
            let similarities = products.cosines();
            let value = match aim {
                Aim::Agreement => cosine(&similarities, &full),
                Aim::Accuracy => pairs.accuracy(&similarities).unwrap_or(0.0),
            };
            if best.as_ref().is_none_or(|(best, ..)| value > *best) {
                best = Some((value, place, products, similarities));
            }
        }
        let Some((_, place, products, similarities)) = best else { break };
        chosen = products;
        steps.push(GreedyStep {
            tensor: names[left.remove(place)].clone(),
            agreement: cosine(&similarities, &full),
            accuracy: pairs.accuracy(&similarities),
        });
    }
    steps
}
