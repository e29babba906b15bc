//! Products of gradients: sums in an order that depends on their length alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In what products of gradients are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accumulate {
    /// Double precision: products of two single-precision numbers are exact in it.
    #[default]
    F64,
    /// Single precision within blocks of 4,096 elements, sixteen sums side by side; sums of blocks are in double precision.
    F32,
}

/// Elements of a block.
const BLOCK: usize = 4096;

impl Accumulate {
    /// Σ aᵢ bᵢ.
    pub(super) fn dot(self, a: &[f32], b: &[f32]) -> f64 {
        let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK));
        match self {
            Self::F64 => blocks.map(|(a, b)| dot_f64(a, b)).sum(),
            Self::F32 => blocks.map(|(a, b)| f64::from(dot_f32(a, b))).sum(),
        }
    }
}

/// Cosine of two vectors of their products; `None` where one of them is 0.
pub(super) fn cosine(product: f64, one: f64, other: f64) -> Option<f64> {
    let norms = one.sqrt() * other.sqrt();
    (norms > 0.0).then(|| product / norms)
}

fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h)) + rest
}

fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&a, &b)| a * b).sum();
    for half in [8, 4, 2, 1] {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
    }
    sums[0] + rest
}
