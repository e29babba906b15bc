//! Attention in double precision, straight from the formulas: what every machine's results are compared with.

use super::shape::Document;
use super::{Attention, Heads, Mask};

/// Values of a buffer with heads, in double precision.
pub(super) type Values = Heads<Vec<f64>>;

impl Heads<Vec<f64>> {
    fn row(&self, row: usize, head: usize, width: usize) -> &[f64] {
        &self.buffer[self.range(row, head, width)]
    }
}

/// Results `[rows, heads, width]`, with the magnitude of what each was added up from.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    pub(super) values: Vec<f64>,
    pub(super) magnitudes: Vec<f64>,
}

impl Sums {
    fn zeros(len: usize) -> Self {
        Self { values: vec![0.0; len], magnitudes: vec![0.0; len] }
    }

    fn add(&mut self, start: usize, factor: f64, magnitude: f64, row: &[f64]) {
        for (i, value) in row.iter().enumerate() {
            self.values[start + i] += factor * value;
            self.magnitudes[start + i] += (magnitude * value).abs();
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn dot_of_magnitudes(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

/// Calls `f` with row and head of each query, and with rows and head of the keys that it sees.
fn each_query(
    attention: &Attention,
    documents: &[Document],
    mut f: impl FnMut(usize, usize, std::ops::Range<usize>, usize),
) {
    for document in documents {
        for query in 0..document.queries.len() {
            let seen = document.visible(attention.mask, query);
            for head in 0..attention.query_heads {
                let keys = document.keys.start + seen.start..document.keys.start + seen.end;
                f(document.queries.start + query, head, keys, head / attention.group());
            }
        }
    }
}

/// Results, and log-sum-exps `[query rows, query heads]`.
pub(super) fn forward(
    attention: &Attention,
    documents: &[Document],
    query_rows: usize,
    [q, k, v]: [&Values; 3],
) -> (Sums, Vec<f64>) {
    let (heads, width, scale) = (attention.query_heads, attention.width, f64::from(attention.scale));
    let mut o = Sums::zeros(query_rows * heads * width);
    let mut log_sums = vec![f64::NEG_INFINITY; query_rows * heads];
    each_query(attention, documents, |row, head, keys, key_head| {
        let query = q.row(row, head, width);
        let scores: Vec<f64> = keys.clone().map(|key| scale * dot(query, k.row(key, key_head, width))).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY && scores.iter().all(|score| !score.is_nan()) {
            return;
        }
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        log_sums[row * heads + head] = most + sum.ln();
        for (key, score) in keys.zip(&scores) {
            let weight = (score - most).exp() / sum;
            o.add((row * heads + head) * width, weight, weight, v.row(key, key_head, width));
        }
    });
    (o, log_sums)
}

/// What a backward pass reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) q: &'a Values,
    pub(super) k: &'a Values,
    pub(super) v: &'a Values,
    pub(super) o: &'a Values,
    pub(super) d_o: &'a Values,
    pub(super) log_sums: &'a [f64],
}

/// Gradients of queries, keys and values.
pub(super) fn backward(
    attention: &Attention,
    documents: &[Document],
    [query_rows, key_rows]: [usize; 2],
    inputs: &Inputs<'_>,
) -> [Sums; 3] {
    let Inputs { q, k, v, o, d_o, log_sums } = *inputs;
    let (heads, width, scale) = (attention.query_heads, attention.width, f64::from(attention.scale));
    let mut dq = Sums::zeros(query_rows * heads * width);
    let mut dk = Sums::zeros(key_rows * attention.key_heads * width);
    let mut dv = dk.clone();
    each_query(attention, documents, |row, head, keys, key_head| {
        let log_sum = log_sums[row * heads + head];
        if log_sum == f64::NEG_INFINITY {
            return;
        }
        let (query, gradient, result) = (q.row(row, head, width), d_o.row(row, head, width), o.row(row, head, width));
        let product = dot(gradient, result);
        let product_magnitude = dot_of_magnitudes(gradient, result);
        for key in keys {
            let (key_row, value_row) = (k.row(key, key_head, width), v.row(key, key_head, width));
            let weight = (scale * dot(query, key_row) - log_sum).exp();
            let factor = scale * weight * (dot(gradient, value_row) - product);
            let magnitude = scale * weight * (dot_of_magnitudes(gradient, value_row) + product_magnitude);
            dq.add((row * heads + head) * width, factor, magnitude, key_row);
            let to = (key * attention.key_heads + key_head) * width;
            dk.add(to, factor, magnitude, query);
            dv.add(to, weight, weight, gradient);
        }
    });
    [dq, dk, dv]
}

/// How many pairs of a query of any head and a key there are of which the query sees the key.
pub(super) fn pairs(attention: &Attention, documents: &[Document]) -> usize {
    let seen = |mask: Mask, document: &Document| -> usize {
        (0..document.queries.len()).map(|query| document.visible(mask, query).len()).sum()
    };
    documents.iter().map(|document| seen(attention.mask, document)).sum::<usize>() * attention.query_heads
}

#[cfg(test)]
mod tests {
    use super::{Inputs, Values, backward, forward};
    use crate::attention::shape::Document;
    use crate::attention::{Attention, Heads, Mask};
    use crate::check::{Random, slopes};

    #[test]
    fn gradients_are_slopes_of_the_forward_pass() {
        let documents = [Document { queries: 0..3, keys: 0..3 }, Document { queries: 3..5, keys: 3..7 }];
        for mask in [Mask::ALL, Mask::CAUSAL, Mask::window(1, 0)] {
            let attention = Attention { query_heads: 4, key_heads: 2, width: 3, scale: 0.7, mask };
            let mut random = Random::new(9);
            let mut heads = |rows: usize, heads: usize| -> Values {
                Heads::dense((0..rows * heads * 3).map(|_| random.normal()).collect(), heads, 3)
            };
            let (q, k, v, d_o) = (heads(5, 4), heads(7, 2), heads(7, 2), heads(5, 4));
            let (o, log_sums) = forward(&attention, &documents, 5, [&q, &k, &v]);
            let o = Heads::dense(o.values, 4, 3);
            let inputs = Inputs { q: &q, k: &k, v: &v, o: &o, d_o: &d_o, log_sums: &log_sums };
            let gradients = backward(&attention, &documents, [5, 7], &inputs);
            for (which, gradient) in gradients.iter().enumerate() {
                let moved = [&q, &k, &v][which];
                let loss = |values: &[f64]| {
                    let other = Heads { buffer: values.to_vec(), ..moved.clone() };
                    let mut all = [&q, &k, &v];
                    all[which] = &other;
                    let (o, _) = forward(&attention, &documents, 5, all);
                    o.values.iter().zip(&d_o.buffer).map(|(o, d_o)| o * d_o).sum::<f64>()
                };
                for (slope, gradient) in slopes(&moved.buffer, loss).iter().zip(&gradient.values) {
                    assert!((slope - gradient).abs() < 1e-7, "{mask:?} {which}: {slope} {gradient}");
                }
            }
        }
    }
}
