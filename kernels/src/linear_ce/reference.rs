//! The answers in double precision.

use super::{IGNORED, LinearCe};

/// A problem's numbers in double precision.
pub(super) struct Reference<'a> {
    pub(super) linear_ce: LinearCe,
    pub(super) hidden: &'a [f64],
    pub(super) head: &'a [f64],
    pub(super) bias: Option<&'a [f64]>,
}

/// Gradients, each with the sum of magnitudes of what it was added up from.
pub(super) struct Slopes {
    pub(super) hidden: Vec<f64>,
    pub(super) hidden_scale: Vec<f64>,
    pub(super) head: Vec<f64>,
    pub(super) head_scale: Vec<f64>,
    pub(super) bias: Vec<f64>,
    pub(super) bias_scale: Vec<f64>,
}

impl Reference<'_> {
    /// Logits of a row.
    pub(super) fn logits(&self, row: usize) -> Vec<f64> {
        let LinearCe { width, vocabulary, logit_scale, .. } = self.linear_ce;
        let h = &self.hidden[row * width..][..width];
        let logit = |token: usize| {
            let w = &self.head[token * width..][..width];
            (dot(h, w) + self.bias.map_or(0.0, |bias| bias[token])) * f64::from(logit_scale)
        };
        (0..vocabulary).map(logit).collect()
    }

    /// The largest sum of magnitudes that a logit of a row is added up from.
    pub(super) fn magnitude(&self, row: usize) -> f64 {
        let LinearCe { width, vocabulary, logit_scale, .. } = self.linear_ce;
        let h = &self.hidden[row * width..][..width];
        let magnitude = |token: usize| {
            let w = &self.head[token * width..][..width];
            let sum: f64 = h.iter().zip(w).map(|(h, w)| (h * w).abs()).sum();
            (sum + self.bias.map_or(0.0, |bias| bias[token].abs())) * f64::from(logit_scale).abs()
        };
        (0..vocabulary).map(magnitude).filter(|value| value.is_finite()).fold(0.0, f64::max)
    }

    /// The loss of a token of a row.
    pub(super) fn loss(&self, logits: &[f64], id: i64) -> f64 {
        if id == IGNORED {
            return 0.0;
        }
        let smoothing = f64::from(self.linear_ce.label_smoothing);
        let log_sum = log_sum_exp(logits);
        let own = log_sum - logits[id as usize];
        if smoothing == 0.0 {
            return own;
        }
        (1.0 - smoothing) * own + smoothing * (log_sum - logits.iter().sum::<f64>() / logits.len() as f64)
    }

    /// Gradients of the sum of losses, each times its weight.
    pub(super) fn slopes(&self, ids: &[i64], weights: &[f64]) -> Slopes {
        let LinearCe { width, vocabulary, logit_scale, label_smoothing } = self.linear_ce;
        let (scale, smoothing) = (f64::from(logit_scale), f64::from(label_smoothing));
        let zeros = |len: usize| (vec![0.0; len], vec![0.0; len]);
        let (mut hidden, mut hidden_scale) = zeros(ids.len() * width);
        let (mut head, mut head_scale) = zeros(vocabulary * width);
        let (mut bias, mut bias_scale) = zeros(vocabulary);
        for (row, (&id, weight)) in ids.iter().zip(weights).enumerate() {
            if id == IGNORED {
                continue;
            }
            let logits = self.logits(row);
            let log_sum = log_sum_exp(&logits);
            for (token, logit) in logits.iter().enumerate() {
                let share = (logit - log_sum).exp();
                let one = if token as i64 == id { 1.0 - smoothing } else { 0.0 };
                let spread = smoothing / vocabulary as f64;
                let gradient = weight * scale * (share - spread - one);
                let size = (weight * scale * (share + spread + one)).abs();
                bias[token] += gradient;
                bias_scale[token] += size;
                for k in 0..width {
                    let (h, w) = (self.hidden[row * width + k], self.head[token * width + k]);
                    hidden[row * width + k] += gradient * w;
                    hidden_scale[row * width + k] += size * w.abs();
                    head[token * width + k] += gradient * h;
                    head_scale[token * width + k] += size * h.abs();
                }
            }
        }
        Slopes { hidden, hidden_scale, head, head_scale, bias, bias_scale }
    }
}

/// In eight sums, which a compiler makes vectors of.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

/// Not a number where a logit is none or +∞, or where all are -∞, as the kernels say.
pub(super) fn log_sum_exp(logits: &[f64]) -> f64 {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return if logits.iter().any(|logit| logit.is_nan()) { f64::NAN } else { most };
    }
    most + logits.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln()
}

/// The token with the largest logit, and how many tokens come before the given one; -1 where the log-sum-exp is not finite.
pub(super) fn best_and_rank(logits: &[f64], id: i64) -> (i64, i64) {
    if !log_sum_exp(logits).is_finite() {
        return (-1, -1);
    }
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    let Some(own) = usize::try_from(id).ok().and_then(|id| logits.get(id)) else { return (best as i64, -1) };
    let before = |(token, logit): (usize, &f64)| logit > own || (logit == own && (token as i64) < id);
    (best as i64, logits.iter().enumerate().filter(|&pair| before(pair)).count() as i64)
}

#[cfg(test)]
mod tests {
    use super::{Reference, best_and_rank};
    use crate::check::{Random, slopes};
    use crate::linear_ce::LinearCe;

    #[test]
    fn gradients_are_slopes_of_the_losses() {
        for (smoothing, scale) in [(0.0, 1.0), (0.1, 0.5)] {
            let linear_ce = LinearCe { width: 3, vocabulary: 7, logit_scale: scale, label_smoothing: smoothing };
            let mut random = Random::new(9);
            let mut normal = |len: usize| -> Vec<f64> { (0..len).map(|_| random.normal()).collect() };
            let (hidden, head, bias, weights) = (normal(12), normal(21), normal(7), normal(4));
            let ids = [3, -100, 0, 6];
            let sum = |hidden: &[f64], head: &[f64], bias: &[f64]| -> f64 {
                let reference = Reference { linear_ce, hidden, head, bias: Some(bias) };
                let loss = |row: usize| weights[row] * reference.loss(&reference.logits(row), ids[row]);
                (0..4).map(loss).sum()
            };
            let reference = Reference { linear_ce, hidden: &hidden, head: &head, bias: Some(&bias) };
            let closed = reference.slopes(&ids, &weights);
            for (found, wanted) in [
                (slopes(&hidden, |hidden| sum(hidden, &head, &bias)), closed.hidden),
                (slopes(&head, |head| sum(&hidden, head, &bias)), closed.head),
                (slopes(&bias, |bias| sum(&hidden, &head, bias)), closed.bias),
            ] {
                for (found, wanted) in found.iter().zip(&wanted) {
                    assert!((found - wanted).abs() < 1e-8, "{found} {wanted}");
                }
            }
        }
    }

    #[test]
    fn of_equal_logits_the_smaller_number_comes_first() {
        let logits = [1.0, 3.0, 3.0, 2.0, 3.0];
        let ranks: Vec<(i64, i64)> = (0..5).map(|id| best_and_rank(&logits, id)).collect();
        assert_eq!(ranks, [(1, 4), (1, 0), (1, 1), (1, 3), (1, 2)]);
        assert_eq!(best_and_rank(&[f64::NEG_INFINITY; 3], 1), (-1, -1));
    }
}
