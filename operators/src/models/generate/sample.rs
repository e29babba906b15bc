//! Choosing a token by its logit.

use gristmill_kernels::signs::Signs;

use crate::models::error::{ModelError, Result};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the token with the largest.
    pub temperature: f32,
    /// Only tokens whose logits are at least the k-th largest are drawn, more than k where several are equal to that; all if left out.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens are drawn: those before which the ones that are likelier have less than this probability together. In (0, 1]; the
    /// likeliest token is always among them.
    pub top_p: f32,
    /// What random numbers begin from.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: 1.0, seed: 0 };

    /// Whether nothing is drawn.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what, value: String, allowed| Err(ModelError::Sampling { what, value, allowed });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong("temperature", self.temperature.to_string(), "a number from 0 on");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p", self.top_p.to_string(), "a number above 0 and up to 1");
        }
        if self.top_k == Some(0) {
            return wrong("top_k", "0".to_owned(), "a whole number above 0");
        }
        Ok(())
    }

    /// Draws a token for a step of the request with this key; `None` where a logit is not a number or no token has a probability.
    pub(super) fn draw(&self, logits: &[f32], key: u64, step: usize) -> Option<u32> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !most.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
            return None;
        }
        let mut kept = self.kept(logits, most);
        // In the order of ids, so that what is drawn does not depend on how tokens were sorted.
        kept.sort_unstable_by_key(|&(id, _)| id);
        let sum: f64 = kept.iter().map(|&(_, weight)| weight).sum();
        let mut left = uniform(self.seed, key, step) * sum;
        for &(id, weight) in &kept {
            left -= weight;
            if left < 0.0 {
                return Some(id);
            }
        }
        // Rounding can leave a rest: the last token that has a probability.
        kept.iter().rev().find(|(_, weight)| *weight > 0.0).map(|&(id, _)| id)
    }

    /// Tokens that can be drawn, with weights that are their probabilities times one factor.
    fn kept(&self, logits: &[f32], most: f32) -> Vec<(u32, f64)> {
        // In double precision, in which no quotient of two singles overflows.
        let weight = |logit: f32| ((f64::from(logit) - f64::from(most)) / f64::from(self.temperature)).exp();
        let least = self.top_k.filter(|&k| k < logits.len()).map_or(f32::NEG_INFINITY, |k| {
            let mut sorted = logits.to_vec();
            *sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        });
        let mut kept: Vec<(u32, f64)> = (0_u32..)
            .zip(logits)
            .filter(|&(_, &logit)| logit >= least)
            .map(|(id, &logit)| (id, weight(logit)))
            .collect();
        if self.top_p >= 1.0 {
            return kept;
        }
        let enough = f64::from(self.top_p) * kept.iter().map(|&(_, weight)| weight).sum::<f64>();
        let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        // Mostly a few tokens have enough together, and the others need no order.
        let mut sorted = 0;
        let (mut before, mut count) = (0.0, 0);
        while count < kept.len() && before < enough {
            if count == sorted {
                sorted = (sorted * 4).max(256).min(kept.len());
                if sorted < kept.len() {
                    kept[count..].select_nth_unstable_by(sorted - count, likelier);
                }
                kept[count..sorted].sort_unstable_by(likelier);
            }
            before += kept[count].1;
            count += 1;
        }
        kept.truncate(count);
        kept
    }
}

/// A number in [0, 1) with 53 bits.
pub(crate) fn uniform(seed: u64, key: u64, step: usize) -> f64 {
    let [low, high, ..] = Signs::new(seed, key).bits(step as u32, 0);
    let bits = u64::from(high) << 32 | u64::from(low);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
