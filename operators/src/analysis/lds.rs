//! The linear datamodeling score: do scores of training rows foretell what models become that are trained without some of them?
//!
//! Park, Georgiev, Ilyas, Leclerc and Madry 2023, *TRAK*, definition 2.3: for subsets `S_1 … S_m` of the training rows, models `θ(S_j)` trained on them, a
//! query `z` with the output `f(z; θ)` and scores `τ(z, i)`,
//!
//! ```text
//! LDS(z) = Spearman over j of ( Σ_{i ∈ S_j} τ(z, i) , f(z; θ(S_j)) )
//! ```
//!
//! and its mean over queries. The output is one that grows as the model gets better at the query, such as a log-likelihood, since a row with a high
//! score is one that helps; of losses the sign is turned first.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{Bootstrap, MeanEstimate, error, spearman};
use crate::Result;

/// Sums of scores over the rows of each subset, gathered while rows stream by in their order. Sums are in f64, in the order of rows.
///
/// ```
/// use gristmill_operators::analysis::SubsetSums;
///
/// let mut sums = SubsetSums::new(&[vec![0, 2], vec![1]], 2)?;
/// for row in [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]] {
///     sums.add(Some(&row))?;
/// }
/// assert_eq!(sums.finish()?, [4.0, 40.0, 2.0, 20.0]);
/// # Ok::<(), gristmill_operators::OperatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SubsetSums {
    subsets_of: HashMap<u64, Vec<u32>>,
    queries: usize,
    sums: Vec<f64>,
    rows: u64,
    without: u64,
    largest: Option<(u64, u32)>,
}

impl SubsetSums {
    /// Nothing summed yet, of `subsets` by the positions of their rows, and of as many queries.
    ///
    /// # Errors
    /// Fewer than two subsets, a subset without rows, and a row that is twice in a subset.
    pub fn new(subsets: &[Vec<u64>], queries: usize) -> Result<Self> {
        if subsets.len() < 2 || u32::try_from(subsets.len()).is_err() {
            return Err(error("subsets", format!("{} subsets; at least 2 are needed for a correlation", subsets.len())));
        }
        let mut subsets_of: HashMap<u64, Vec<u32>> = HashMap::new();
        let mut largest = None;
        for (number, rows) in (0..).zip(subsets) {
            if rows.is_empty() {
                return Err(error("subsets", format!("subset {number} has no rows")));
            }
            let mut seen = HashSet::with_capacity(rows.len());
            for &row in rows {
                if !seen.insert(row) {
                    return Err(error("subsets", format!("row {row} is twice in subset {number}")));
                }
                subsets_of.entry(row).or_default().push(number);
                largest = largest.max(Some((row, number)));
            }
        }
        Ok(Self { subsets_of, queries, sums: vec![0.0; subsets.len() * queries], rows: 0, without: 0, largest })
    }

    /// Adds the next row: its score for each query, or nothing for a row that has no scores, which counts as zeros.
    ///
    /// # Errors
    /// Scores that are not finite, or not as many as queries.
    pub fn add(&mut self, scores: Option<&[f32]>) -> Result<()> {
        let row = self.rows;
        self.rows += 1;
        let Some(scores) = scores else {
            self.without += u64::from(self.subsets_of.contains_key(&row));
            return Ok(());
        };
        if scores.len() != self.queries {
            let found = scores.len();
            return Err(super::row_error(row, format!("{found} scores; there are {} queries", self.queries)));
        }
        if let Some(query) = scores.iter().position(|score| !score.is_finite()) {
            let score = scores[query];
            return Err(super::row_error(row, format!("score {score} for query {query}; finite numbers are allowed")));
        }
        for &subset in self.subsets_of.get(&row).into_iter().flatten() {
            let sums = &mut self.sums[subset as usize * self.queries..][..self.queries];
            sums.iter_mut().zip(scores).for_each(|(sum, &score)| *sum += f64::from(score));
        }
        Ok(())
    }

    /// Rows of subsets that had no scores and counted as zeros.
    #[must_use]
    pub fn rows_without_scores(&self) -> u64 {
        self.without
    }

    /// The sums, `[subsets, queries]`.
    ///
    /// # Errors
    /// A subset has a row that did not come.
    pub fn finish(self) -> Result<Vec<f64>> {
        match self.largest.filter(|(row, _)| *row >= self.rows) {
            Some((row, subset)) => Err(error(
                "subsets",
                format!("subset {subset} has row {row}; the scores have {} rows, counted from 0", self.rows),
            )),
            None => Ok(self.sums),
        }
    }
}

/// The linear datamodeling score of one set of scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lds {
    /// Mean over queries, with an interval over queries. That there are but so many subsets is not in it.
    pub estimate: MeanEstimate,
    /// Queries whose correlation does not exist, since all sums or all outputs are equal. They count as 0.
    pub undefined: usize,
    /// Each query's correlation over subsets, in the order of queries.
    pub each: Vec<f64>,
}

/// The linear datamodeling score of sums (see [`SubsetSums`]) and outputs, both `[subsets, queries]`.
///
/// # Errors
/// No queries, fewer than two subsets, lists of other lengths, or outputs that are not finite.
///
/// ```
/// use gristmill_operators::analysis::{Bootstrap, lds};
///
/// let sums = [1.0, 9.0, 2.0, 8.0, 3.0, 7.0];
/// let outputs = [-3.0, -1.0, -2.5, -2.0, -2.0, -3.0];
/// assert_eq!(lds(&sums, &outputs, 3, 2, Bootstrap::default())?.each, [1.0, 1.0]);
/// # Ok::<(), gristmill_operators::OperatorError>(())
/// ```
pub fn lds(sums: &[f64], outputs: &[f64], subsets: usize, queries: usize, bootstrap: Bootstrap) -> Result<Lds> {
    if subsets < 2 || sums.len() != subsets * queries || outputs.len() != sums.len() {
        let message = format!(
            "{} sums and {} outputs of {subsets} subsets and {queries} queries; one each is needed, and 2 subsets at least",
            sums.len(),
            outputs.len()
        );
        return Err(error("lds", message));
    }
    if let Some(place) = outputs.iter().position(|output| !output.is_finite()) {
        let (subset, query) = (place / queries, place % queries);
        let message = format!("output {} of subset {subset} for query {query}; finite numbers are allowed", outputs[place]);
        return Err(error("outputs", message));
    }
    let column = |of: &[f64], query: usize| -> Vec<f64> { of.iter().skip(query).step_by(queries).copied().collect() };
    let correlations: Vec<Option<f64>> =
        (0..queries).map(|query| spearman(&column(sums, query), &column(outputs, query))).collect();
    let each: Vec<f64> = correlations.iter().map(|correlation| correlation.unwrap_or(0.0)).collect();
    let estimate = bootstrap.mean(&each).ok_or_else(|| error("lds", "there are no queries"))?;
    Ok(Lds { estimate, undefined: correlations.iter().filter(|correlation| correlation.is_none()).count(), each })
}

/// How much higher the score of `a` is than that of `b`, over the same queries in pairs, so that what makes queries hard for both does not count.
/// Nothing where they have not as many queries.
#[must_use]
pub fn lds_difference(a: &Lds, b: &Lds, bootstrap: Bootstrap) -> Option<MeanEstimate> {
    let differences: Vec<f64> = a.each.iter().zip(&b.each).map(|(a, b)| a - b).collect();
    bootstrap.mean(&differences).filter(|_| a.each.len() == b.each.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        for (subsets, says) in [
            (vec![vec![0]], "1 subsets; at least 2"),
            (vec![vec![0], vec![]], "subset 1 has no rows"),
            (vec![vec![0], vec![4, 4]], "row 4 is twice in subset 1"),
        ] {
            let message = SubsetSums::new(&subsets, 1).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
        let mut sums = SubsetSums::new(&[vec![0], vec![2]], 1).unwrap();
        sums.add(Some(&[1.0])).unwrap();
        assert!(sums.add(Some(&[f32::NAN])).unwrap_err().to_string().contains("row 1: score NaN for query 0"));
        let message = sums.finish().unwrap_err().to_string();
        assert!(message.contains("subset 1 has row 2; the scores have 2 rows"), "{message}");
        let mut sums = SubsetSums::new(&[vec![0], vec![1]], 2).unwrap();
        assert!(sums.add(Some(&[1.0])).unwrap_err().to_string().contains("row 0: 1 scores; there are 2 queries"));
        sums.add(None).unwrap();
        assert_eq!(sums.rows_without_scores(), 1);
        assert_eq!(sums.finish().unwrap(), [0.0; 4]);
        let draw = Bootstrap::default();
        assert!(lds(&[1.0; 4], &[1.0, 2.0, f64::NAN, 4.0], 2, 2, draw).unwrap_err().to_string().contains("subset 1 for query 0"));
        assert!(lds(&[1.0; 4], &[1.0; 2], 2, 2, draw).is_err());
        assert!(lds(&[], &[], 2, 0, draw).is_err());
    }

    #[test]
    fn scores_that_made_the_outputs_are_perfect_and_their_negatives_the_opposite() {
        // Outputs are sums of hidden effects of rows: what the score assumes.
        let effects = [0.5, -1.0, 2.0, 0.25, -0.75, 1.5];
        let subsets: [&[u64]; 5] = [&[0, 1, 2], &[1, 3, 5], &[0, 4, 5], &[2, 3, 4], &[1, 2, 4]];
        let lists: Vec<Vec<u64>> = subsets.iter().map(|rows| rows.to_vec()).collect();
        let outputs: Vec<f64> = subsets
            .iter()
            .flat_map(|rows| {
                let effect: f64 = rows.iter().map(|&row| effects[row as usize]).sum();
                // The third query sees the same for all subsets.
                [effect.exp(), -effect, 7.0]
            })
            .collect();
        let mut sums = SubsetSums::new(&lists, 3).unwrap();
        for effect in effects {
            sums.add(Some(&[effect as f32, effect as f32, 1.0])).unwrap();
        }
        let score = lds(&sums.finish().unwrap(), &outputs, 5, 3, Bootstrap::default()).unwrap();
        assert_eq!((score.each.as_slice(), score.undefined), (&[1.0, -1.0, 0.0][..], 1));
        assert_eq!(score.estimate.mean, 0.0);
        let better = Lds { each: vec![1.0, 0.0, 0.5], ..score.clone() };
        let difference = lds_difference(&better, &score, Bootstrap::default()).unwrap();
        assert_eq!(difference.mean, 0.5);
        assert!(difference.low >= 0.0 && difference.high <= 1.0);
    }
}
