//! Similarities of all pairs by any choice of tensors.

use std::ops::Range;

use super::{PairRow, PairTable};

/// The products of one tensor, or of several together, for each pair: ⟨g, h⟩, ⟨g, g⟩ and ⟨h, h⟩.
#[derive(Clone, Debug, Default)]
pub(super) struct Products(Vec<[f64; 3]>);

/// All pairs of a table, those of a row one behind the other.
#[derive(Debug)]
pub(super) struct Pairs<'a> {
    rows: &'a [PairRow],
    /// Where the pairs of each row are.
    places: Vec<Range<usize>>,
    pub(super) tensors: Vec<Products>,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(table: &'a PairTable) -> Self {
        let mut places = Vec::with_capacity(table.rows().len());
        let mut end = 0;
        for row in table.rows() {
            places.push(end..end + row.candidates.len());
            end += row.candidates.len();
        }
        let of_tensor = |tensor: usize| {
            let pairs =
                table.rows().iter().flat_map(|row| row.candidates.iter().map(move |candidate| (row, candidate)));
            let products = pairs.map(|(row, candidate)| {
                [candidate.products[tensor], row.self_products[tensor], candidate.self_products[tensor]]
            });
            Products(products.collect())
        };
        let tensors = (0..table.tensors().len()).map(of_tensor).collect();
        Self { rows: table.rows(), places, tensors }
    }

    /// All tensors together, added in their order.
    pub(super) fn full(&self) -> Products {
        self.tensors.iter().fold(Products(vec![[0.0; 3]; self.count()]), |sum, tensor| sum.plus(tensor))
    }

    /// No tensor.
    pub(super) fn none(&self) -> Products {
        Products(vec![[0.0; 3]; self.count()])
    }

    pub(super) fn count(&self) -> usize {
        self.places.last().map_or(0, |place| place.end)
    }

    /// The similarities of each row's pairs.
    pub(super) fn by_row<'s>(&'s self, similarities: &'s [f64]) -> impl Iterator<Item = (&'a PairRow, &'s [f64])> {
        self.rows.iter().zip(&self.places).map(|(row, place)| (row, &similarities[place.clone()]))
    }

    /// The share of the rows whose most similar candidate is the true one, of those of which it is known; `None` where it is known of none. The first is taken of
    /// candidates that are equally similar.
    pub(super) fn accuracy(&self, similarities: &[f64]) -> Option<f64> {
        let (mut known, mut right) = (0_u32, 0_u32);
        for (row, similarities) in self.by_row(similarities) {
            let Some(truth) = row.truth else { continue };
            known += 1;
            right += u32::from(truth == Some(largest(similarities)));
        }
        (known > 0).then(|| f64::from(right) / f64::from(known))
    }
}

impl Products {
    /// Those of both choices of tensors together.
    pub(super) fn plus(&self, other: &Self) -> Self {
        let sum = |(one, other): (&[f64; 3], &[f64; 3])| [one[0] + other[0], one[1] + other[1], one[2] + other[2]];
        Self(self.0.iter().zip(&other.0).map(sum).collect())
    }

    /// The cosine of each pair; 0 where a gradient is 0.
    pub(super) fn cosines(&self) -> Vec<f64> {
        self.0.iter().map(|&[product, own, other]| quotient(product, own.sqrt() * other.sqrt())).collect()
    }
}

/// Cosine of two lists; 0 where one of them is 0.
pub(super) fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    quotient(dot(one, other), dot(one, one).sqrt() * dot(other, other).sqrt())
}

/// The place of the largest; the first of several.
pub(super) fn largest(values: &[f64]) -> usize {
    (1..values.len()).fold(0, |largest, place| if values[place] > values[largest] { place } else { largest })
}

fn quotient(product: f64, norms: f64) -> f64 {
    if norms > 0.0 { product / norms } else { 0.0 }
}
