//! How much two sets of scores of the same rows agree.

use std::collections::HashSet;

use serde::Serialize;

use super::{descending, error, kendall_tau_b, pearson, spearman};
use crate::Result;

/// How much two lists of scores agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Spearman's rank correlation, where it exists.
    pub spearman: Option<f64>,
    /// Kendall's τ-b, where it exists.
    pub kendall: Option<f64>,
    /// Pearson's correlation, where it exists.
    pub pearson: Option<f64>,
    /// For each `k` the share of the `k` highest rows of one list that are among the `k` highest of the other. Ties by position, and lists that are
    /// shorter than `k` whole.
    pub overlap: Vec<(usize, f64)>,
}

/// How much two lists of scores of the same rows agree.
///
/// # Errors
/// Lists of other lengths, no rows, a `k` of 0, and a score that is not a number.
///
/// ```
/// use gristmill_operators::analysis::agreement;
///
/// let exact = [0.9, 0.1, 0.8, 0.3];
/// let sketch = [0.7, 0.2, 0.9, 0.1];
/// let agree = agreement(&exact, &sketch, &[1, 2])?;
/// assert_eq!(agree.overlap, [(1, 0.0), (2, 1.0)]);
/// assert!((agree.spearman.unwrap() - 0.6).abs() < 1e-12);
/// # Ok::<(), gristmill_operators::OperatorError>(())
/// ```
pub fn agreement(a: &[f64], b: &[f64], ks: &[usize]) -> Result<Agreement> {
    if a.len() != b.len() || a.is_empty() {
        return Err(error("scores", format!("{} scores and {}; as many of each, and one at least, are needed", a.len(), b.len())));
    }
    if let Some(row) = (0..a.len()).find(|&row| a[row].is_nan() || b[row].is_nan()) {
        return Err(super::row_error(row as u64, "a score that is not a number"));
    }
    if ks.contains(&0) {
        return Err(error("k", "0 is not allowed; a number of rows of at least 1 is"));
    }
    let (first, second) = (descending(a), descending(b));
    let overlap = ks.iter().map(|&k| {
        let depth = k.min(a.len());
        let highest: HashSet<usize> = first[..depth].iter().copied().collect();
        let shared = second[..depth].iter().filter(|row| highest.contains(row)).count();
        (k, shared as f64 / depth as f64)
    });
    Ok(Agreement { spearman: spearman(a, b), kendall: kendall_tau_b(a, b), pearson: pearson(a, b), overlap: overlap.collect() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lists_agree_with_themselves_and_not_with_their_opposite() {
        let values: Vec<f64> = (0..10).map(|row| f64::from(row * 7 % 10)).collect();
        let opposite: Vec<f64> = values.iter().map(|value| -value).collect();
        let same = agreement(&values, &values, &[3, 50]).unwrap();
        assert_eq!((same.kendall, same.overlap), (Some(1.0), vec![(3, 1.0), (50, 1.0)]));
        let other = agreement(&values, &opposite, &[3, 10]).unwrap();
        assert_eq!((other.kendall, other.overlap), (Some(-1.0), vec![(3, 0.0), (10, 1.0)]));
        assert!((other.spearman.unwrap() + 1.0).abs() < 1e-12);
        let constant = agreement(&values, &[1.0; 10], &[1]).unwrap();
        // Ties by position: row 0 is the highest of a constant list, and the lowest of the other.
        assert_eq!((constant.spearman, constant.overlap), (None, vec![(1, 0.0)]));
        for (a, b, ks) in [(&[1.0][..], &[][..], &[1][..]), (&[], &[], &[1]), (&[1.0], &[f64::NAN], &[1]), (&[1.0], &[1.0], &[0])] {
            assert!(agreement(a, b, ks).is_err(), "{a:?} {b:?} {ks:?}");
        }
    }
}
