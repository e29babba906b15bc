//! The loss of a classifier and its gradient: pooled states, perhaps a layer and a norm, and an output for each label.

use gristmill_kernels::pool::Pool;

use super::loss::{Loss, Losses, expect_length};
use super::pass::Pass;
use super::tap::range;
use crate::models::error::{ModelError, Result};
use crate::models::heads::{Activated, Classifier};

/// What a classifier computed, and the gradient of its logits.
#[derive(Debug)]
pub(super) struct Classified {
    activated: Activated,
    /// `[documents, labels]`.
    gradient: Vec<f32>,
    pub(super) losses: Losses,
}

impl Classified {
    /// Losses of logits, and their gradients. A document without tokens has none.
    pub(super) fn new(activated: Activated, labels: usize, loss: Loss<'_>, offsets: &[i64]) -> Result<Self> {
        let logits = &activated.logits;
        let documents = offsets.len() - 1;
        match loss {
            Loss::Labels(given) => {
                expect_length("labels", given.len(), documents)?;
                if let Some(index) = given.iter().position(|&label| label >= labels) {
                    let allowed = format!("a number below {labels}, the number of labels,");
                    let value = i64::try_from(given[index]).unwrap_or(i64::MAX);
                    return Err(ModelError::Input { what: "label of document", index, value, allowed });
                }
            }
            Loss::MultiLabel(given) | Loss::Regression(given) => {
                expect_length("values of labels", given.len(), documents * labels)?;
            }
            Loss::Tokens(_) => {}
        }
        let mut gradient = vec![0.0; logits.len()];
        let mut losses = Losses::default();
        for document in 0..documents {
            let place = document * labels..(document + 1) * labels;
            let (logits, gradient) = (&logits[place.clone()], &mut gradient[place.clone()]);
            let has_tokens = !range(offsets, document).is_empty();
            losses.targets.push(usize::from(has_tokens));
            losses.documents.push(match loss {
                _ if !has_tokens => 0.0,
                Loss::Labels(given) => cross_entropy(logits, given[document], gradient),
                Loss::MultiLabel(given) => binary_cross_entropy(logits, &given[place], gradient),
                Loss::Regression(given) => squares(logits, &given[place], gradient),
                Loss::Tokens(_) => 0.0,
            });
        }
        losses.expect_finite()?;
        Ok(Self { activated, gradient, losses })
    }
}

impl Pass<'_> {
    /// Whether any parameter of a classifier is wanted.
    pub(super) fn wants_classifier(&self, classifier: &Classifier) -> bool {
        self.wants_linear(&classifier.output) || self.wants_pooled(classifier)
    }

    fn wants_pooled(&self, classifier: &Classifier) -> bool {
        self.wants_norm(&classifier.norm)
            || classifier.dense.as_ref().is_some_and(|(dense, _)| self.wants_linear(dense))
    }

    /// Goes back through a classifier, and overwrites the gradient of hidden states, `[tokens, hidden]`, if there is `need` of it.
    pub(super) fn classifier(
        &mut self,
        classifier: &Classifier,
        classified: &Classified,
        states: &[f32],
        offsets: &[i64],
        need: bool,
        to: &mut Vec<f32>,
    ) -> Result<()> {
        let compute = self.compute;
        let Classified { activated: Activated { pooled, inner, active, normed, .. }, gradient, .. } = classified;
        // Each document has one row.
        let rows: Vec<i64> = (0..offsets.len() as i64).collect();
        let active_or_pooled = if classifier.dense.is_some() { active } else { pooled };
        let read = if classifier.norm.is_some() { normed } else { active_or_pooled };
        self.linear(&[(&classifier.output, gradient)], read, &rows)?;
        if !need && !self.wants_pooled(classifier) {
            return Ok(());
        }
        let mut delta = Vec::new();
        classifier.output.backward(compute, gradient, &mut delta)?;
        self.norm(&classifier.norm, active_or_pooled, &mut delta, &rows, 1)?;
        if let Some((dense, activation)) = &classifier.dense {
            activation.backward(compute, inner, &mut delta)?;
            self.linear(&[(dense, &delta)], pooled, &rows)?;
            if need {
                let dy = std::mem::take(&mut delta);
                dense.backward(compute, &dy, &mut delta)?;
            }
        }
        if need {
            let width = delta.len() / (offsets.len() - 1).max(1);
            to.clear();
            to.resize(states.len(), 0.0);
            for (document, delta) in delta.chunks_exact(width.max(1)).enumerate() {
                let rows = range(offsets, document);
                let place = rows.start * width..rows.end * width;
                unpool(classifier.pool, &states[place.clone()], delta, &mut to[place]);
            }
        }
        Ok(())
    }
}

/// The gradient of a document's rows, which is zero so far, from that of what they are pooled to.
fn unpool(pool: Pool, x: &[f32], delta: &[f32], to: &mut [f32]) {
    let width = delta.len();
    if to.is_empty() {
        return;
    }
    let last = to.len() - width;
    match pool {
        Pool::First => to[..width].copy_from_slice(delta),
        Pool::Last => to[last..].copy_from_slice(delta),
        Pool::Mean => {
            let rows = (to.len() / width) as f32;
            for to in to.chunks_exact_mut(width) {
                to.iter_mut().zip(delta).for_each(|(to, delta)| *to = delta / rows);
            }
        }
        Pool::Max => {
            for (column, &delta) in delta.iter().enumerate() {
                let of = |row: usize| x[row * width + column];
                let largest = (1..to.len() / width).fold(0, |most, row| if of(row) > of(most) { row } else { most });
                to[largest * width + column] = delta;
            }
        }
    }
}

/// -log softmax(x) of a label.
fn cross_entropy(logits: &[f32], label: usize, gradient: &mut [f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(most)).exp()).sum();
    let log_sum = f64::from(most) + sum.ln();
    for (number, (gradient, &x)) in gradient.iter_mut().zip(logits).enumerate() {
        let share = (f64::from(x) - log_sum).exp();
        *gradient = (share - f64::from(u8::from(number == label))) as f32;
    }
    log_sum - f64::from(logits[label])
}

/// The mean of -y log σ(x) - (1 - y) log(1 - σ(x)), in the form that does not overflow.
fn binary_cross_entropy(logits: &[f32], targets: &[f32], gradient: &mut [f32]) -> f64 {
    let count = logits.len() as f64;
    let mut sum = 0.0;
    for ((gradient, &x), &y) in gradient.iter_mut().zip(logits).zip(targets) {
        let (x, y) = (f64::from(x), f64::from(y));
        *gradient = ((1.0 / (1.0 + (-x).exp()) - y) / count) as f32;
        sum += x.max(0.0) - x * y + (-x.abs()).exp().ln_1p();
    }
    sum / count
}

/// The mean of (x - y)².
fn squares(logits: &[f32], targets: &[f32], gradient: &mut [f32]) -> f64 {
    let count = logits.len() as f64;
    let mut sum = 0.0;
    for ((gradient, &x), &y) in gradient.iter_mut().zip(logits).zip(targets) {
        let difference = f64::from(x) - f64::from(y);
        *gradient = (2.0 * difference / count) as f32;
        sum += difference * difference;
    }
    sum / count
}

#[cfg(test)]
mod tests {
    use super::{Pool, unpool};

    #[test]
    fn rows_get_the_share_that_they_have_in_what_they_are_pooled_to() {
        let x = [1.0, 9.0, 3.0, 5.0, 3.0, 7.0];
        for (pool, expected) in [
            (Pool::First, [6.0, 3.0, 0.0, 0.0, 0.0, 0.0]),
            (Pool::Last, [0.0, 0.0, 0.0, 0.0, 6.0, 3.0]),
            (Pool::Mean, [2.0, 1.0, 2.0, 1.0, 2.0, 1.0]),
            (Pool::Max, [0.0, 3.0, 6.0, 0.0, 0.0, 0.0]),
        ] {
            let mut to = [0.0; 6];
            unpool(pool, &x, &[6.0, 3.0], &mut to);
            assert_eq!(to, expected, "{pool:?}");
            unpool(pool, &[], &[6.0, 3.0], &mut []);
        }
    }
}
