//! Targets drawn from the model's own distribution, whose gradients have the Fisher information as their covariance.

use gristmill_kernels::softmax::Softmax;

use super::loss::expect_length;
use super::tap::range;
use crate::models::device::Served;
use crate::models::error::{ModelError, Result};
use crate::models::generate::uniform;
use crate::models::heads::Head;
use crate::models::layers::Compute;
use crate::models::{Batch, Model};

/// Rows whose probabilities are held at a time.
const ROWS: usize = 32;

/// A token for each token of a batch but the first of each document, drawn from what the model predicts there, `[tokens]`: what
/// [`TokenLoss::targets`](super::TokenLoss::targets) takes. The first of a document is as it was.
///
/// The random number of a token is made of the seed, the key of its document, `[documents]`, and its place in the document, with
/// Philox4x32-10. So what is drawn does not depend on the batch.
///
/// ```no_run
/// use gristmill_kernels::workers::Serial;
/// use gristmill_operators::models::gradients::drawn_targets;
/// use gristmill_operators::models::{Batch, Compute, Model};
///
/// # fn example(model: &Model) -> gristmill_operators::models::Result<()> {
/// let batch = Batch::of(&[5, 6, 7]);
/// let targets = drawn_targets(model, Compute { workers: &Serial, threads: 1 }, &batch, 42, &[0])?;
/// assert_eq!(targets.len(), 3);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A model that is not a language model, one whose logits are not numbers, ids and lengths that it does not have, and another number of keys than documents.
pub fn drawn_targets(model: &Model, compute: Compute<'_>, batch: &Batch, seed: u64, keys: &[u64]) -> Result<Vec<u32>> {
    let Head::LanguageModel(head) = &model.head else {
        return Err(ModelError::NotALanguageModel { kind: model.kind().to_owned() });
    };
    expect_length("keys of documents", keys.len(), batch.documents())?;
    let (width, vocabulary) = (model.hidden_size(), model.vocabulary());
    let softmax = Softmax { width: vocabulary, scale: 1.0 };
    let mut targets = batch.ids().to_vec();
    if let Some(served) = &model.served {
        batch.check(vocabulary, model.most_positions())?;
        return drawn_on_device(served, compute, softmax, batch, (seed, keys), targets);
    }
    let states = model.hidden_states(compute, batch)?;
    let (mut logits, mut probabilities) = (Vec::new(), Vec::new());
    for (document, &key) in keys.iter().enumerate() {
        let tokens = range(batch.offsets(), document);
        // The last token predicts nothing.
        let predicting = tokens.start..tokens.end.saturating_sub(1).max(tokens.start);
        for first in predicting.clone().step_by(ROWS) {
            let rows = first..predicting.end.min(first + ROWS);
            logits.resize(rows.len() * vocabulary, 0.0);
            probabilities.resize(logits.len(), 0.0);
            head.logits_on(compute.threads, &states[rows.start * width..rows.end * width], &mut logits)?;
            softmax.forward(compute.workers, &logits, &mut probabilities)?;
            for (row, probabilities) in rows.zip(probabilities.chunks_exact(vocabulary.max(1))) {
                let drawn = choose(probabilities, uniform(seed, key, row + 1 - tokens.start));
                targets[row + 1] = drawn.ok_or(ModelError::NotNumbers { prompt: document })?;
            }
        }
    }
    Ok(targets)
}

/// The same where a device computes logits.
fn drawn_on_device(
    served: &Served,
    compute: Compute<'_>,
    softmax: Softmax,
    batch: &Batch,
    (seed, keys): (u64, &[u64]),
    mut targets: Vec<u32>,
) -> Result<Vec<u32>> {
    // Of each row that predicts: its document, and its place there.
    let mut places = Vec::new();
    for document in 0..batch.documents() {
        let tokens = range(batch.offsets(), document);
        places.extend(tokens.clone().skip(1).map(|token| (token - 1, (document, token - tokens.start))));
    }
    let (rows, places): (Vec<usize>, Vec<(usize, usize)>) = places.into_iter().unzip();
    let mut probabilities = vec![0.0; softmax.width];
    let mut places = places.into_iter();
    served.logits(batch, &rows, &mut |row, logits| {
        let Some((document, place)) = places.next() else { return Ok(()) };
        softmax.forward(compute.workers, logits, &mut probabilities)?;
        let drawn = choose(&probabilities, uniform(seed, keys[document], place));
        targets[row + 1] = drawn.ok_or(ModelError::NotNumbers { prompt: document })?;
        Ok(())
    })?;
    Ok(targets)
}

/// The token at which the sum of probabilities passes a number in [0, 1); `None` where there is no probability.
fn choose(probabilities: &[f32], number: f64) -> Option<u32> {
    let mut sum = 0.0;
    for (id, &probability) in (0..).zip(probabilities) {
        sum += f64::from(probability);
        if sum > number {
            return Some(id);
        }
    }
    // Rounding can leave a rest: the last token that has a probability.
    (0..).zip(probabilities).filter(|&(_, &probability)| probability > 0.0).last().map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Resources;
    use crate::models::tests::{ALONE, packed, reference};
    use crate::models::{LoadOptions, Precision};

    #[test]
    fn numbers_choose_tokens() {
        let probabilities = [0.25, 0.0, 0.5, 0.25, 0.0];
        for (number, token) in [(0.0, 0), (0.24, 0), (0.25, 2), (0.74, 2), (0.75, 3), (0.999_999, 3), (1.0, 3)] {
            assert_eq!(choose(&probabilities, number), Some(token), "{number}");
        }
        assert_eq!(choose(&[f32::NAN, f32::NAN], 0.5), None);
    }

    #[test]
    fn what_is_drawn_depends_on_the_document_alone_and_follows_the_model() {
        let folder = reference("small/gpt2").unwrap();
        let options = LoadOptions { precision: Precision::F32, ..LoadOptions::default() };
        let model = Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap().0;
        let texts = [vec![1, 2, 3, 4, 5], vec![7], vec![], vec![9, 8, 7, 6, 5, 4]];
        let together = drawn_targets(&model, ALONE, &packed(&texts), 3, &[10, 11, 12, 13]).unwrap();
        let mut alone = Vec::new();
        for (text, key) in texts.iter().zip(10..) {
            alone.extend(drawn_targets(&model, ALONE, &packed(std::slice::from_ref(text)), 3, &[key]).unwrap());
        }
        assert_eq!(together, alone);
        assert_ne!(together, drawn_targets(&model, ALONE, &packed(&texts), 4, &[10, 11, 12, 13]).unwrap());

        // Of 4,000 draws, a token of probability p comes 4,000 p times, give or take √(4,000 p (1 - p)): five of these are almost never passed.
        let batch = packed(&vec![vec![1, 2]; 4000]);
        let drawn = drawn_targets(&model, ALONE, &batch, 0, &(0..4000).collect::<Vec<_>>()).unwrap();
        let logits = model.logits(ALONE, &Batch::of(&[1, 2])).unwrap().unwrap();
        let weights: Vec<f64> = logits[..model.vocabulary()].iter().map(|&logit| f64::from(logit).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (id, weight) in weights.iter().enumerate() {
            let count = drawn.chunks_exact(2).filter(|pair| pair[1] as usize == id).count() as f64;
            let (expected, p) = (4000.0 * weight / sum, weight / sum);
            assert!(
                (count - expected).abs() <= 5.0 * (4000.0 * p * (1.0 - p)).sqrt() + 1.0,
                "{id}: {count} {expected}"
            );
        }
    }
}
