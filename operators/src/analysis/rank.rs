//! Ranks, and correlations of numbers and of their ranks.

use std::cmp::Ordering;

/// Positions of numbers from the largest to the smallest. Equal numbers keep their order; NaN comes last.
#[must_use]
pub fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| match (values[a].is_nan(), values[b].is_nan()) {
        // Zeros of both signs are equal.
        (false, false) => values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal),
        (a, b) => a.cmp(&b),
    });
    order
}

/// Ranks of numbers from 1 for the smallest; equal numbers share the mean of their ranks (scipy's `rankdata`). There must be no NaN.
///
/// ```
/// use gristmill_operators::analysis::average_ranks;
///
/// assert_eq!(average_ranks(&[10.0, 30.0, 10.0, 20.0]), [1.5, 4.0, 1.5, 3.0]);
/// ```
#[must_use]
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let order = descending(values);
    let mut ranks = vec![0.0; values.len()];
    let mut end = order.len();
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        // Positions end - len + 1 to end, counted from the smallest.
        let rank = end as f64 - (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|&position| ranks[position] = rank);
        end -= equal.len();
    }
    ranks
}

/// Pearson's correlation of two lists of the same length. Nothing where one of them is constant or has fewer than two numbers.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let count = a.len().min(b.len());
    let constant = |values: &[f64]| values[..count].iter().all(|value| *value == values[0]);
    if count < 2 || constant(a) || constant(b) {
        return None;
    }
    let (mean_a, mean_b) = (super::mean(&a[..count])?, super::mean(&b[..count])?);
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        both += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    // The root of a square is exact, so that lists that agree wholly have a correlation of exactly 1; products that are out of range have roots still.
    let product = of_a * of_b;
    let scale = if product.is_normal() { product.sqrt() } else { of_a.sqrt() * of_b.sqrt() };
    (scale > 0.0).then(|| (both / scale).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation: Pearson's of the [average ranks](average_ranks), so that ties are right. Nothing where one list is constant or has
/// fewer than two numbers.
///
/// ```
/// use gristmill_operators::analysis::spearman;
///
/// let agreement = spearman(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]);
/// assert!((agreement.unwrap() - 0.8).abs() < 1e-12);
/// ```
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&average_ranks(a), &average_ranks(b))
}

/// Kendall's τ-b (Kendall 1945): `(C - D) / √((P - T_a)(P - T_b))` with the numbers of concordant and discordant pairs, of all pairs `P`, and of pairs that
/// are tied in each list. By sorting and merging, in O(n log n) (Knight 1966). Nothing where one list is constant or has fewer than two numbers.
///
/// ```
/// use gristmill_operators::analysis::kendall_tau_b;
///
/// assert_eq!(kendall_tau_b(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
/// ```
#[must_use]
pub fn kendall_tau_b(a: &[f64], b: &[f64]) -> Option<f64> {
    // Ranks, so that equal numbers are equal bits.
    let mut pairs: Vec<(f64, f64)> = average_ranks(a).into_iter().zip(average_ranks(b)).collect();
    pairs.sort_unstable_by(|x, y| x.0.total_cmp(&y.0).then(x.1.total_cmp(&y.1)));
    let tied = |count: usize| (count as f64) * (count as f64 - 1.0) / 2.0;
    let tied_in = |pairs: &[(f64, f64)], same: fn(&(f64, f64), &(f64, f64)) -> bool| -> f64 {
        pairs.chunk_by(same).map(|run| tied(run.len())).sum()
    };
    let all = tied(pairs.len());
    let in_a = tied_in(&pairs, |x, y| x.0 == y.0);
    let in_both = tied_in(&pairs, |x, y| x == y);
    let mut second: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let swaps = sort_counting_swaps(&mut second) as f64;
    let in_b: f64 = second.chunk_by(|x, y| x == y).map(|run| tied(run.len())).sum();
    let scale = ((all - in_a) * (all - in_b)).sqrt();
    // Pairs that are tied in one list only are neither concordant nor discordant.
    (scale > 0.0).then(|| ((all - in_a - in_b + in_both - 2.0 * swaps) / scale).clamp(-1.0, 1.0))
}

/// Sorts by merging and says how many pairs stood in the wrong order.
fn sort_counting_swaps(values: &mut [f64]) -> u64 {
    if values.len() < 2 {
        return 0;
    }
    let middle = values.len() / 2;
    let mut swaps = sort_counting_swaps(&mut values[..middle]) + sort_counting_swaps(&mut values[middle..]);
    let (left, right) = values.split_at(middle);
    let (mut merged, mut l, mut r) = (Vec::with_capacity(values.len()), 0, 0);
    while l < left.len() && r < right.len() {
        if right[r] < left[l] {
            merged.push(right[r]);
            r += 1;
            swaps += (left.len() - l) as u64;
        } else {
            merged.push(left[l]);
            l += 1;
        }
    }
    merged.extend_from_slice(&left[l..]);
    merged.extend_from_slice(&right[r..]);
    values.copy_from_slice(&merged);
    swaps
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_are_stable_and_put_what_is_no_number_last() {
        assert_eq!(descending(&[1.0, 3.0, f64::NAN, 3.0, -0.0, 0.0]), [1, 3, 0, 4, 5, 2]);
        assert_eq!(average_ranks(&[0.0, -0.0, -1.0]), [2.5, 2.5, 1.0]);
        assert!(average_ranks(&[]).is_empty());
    }

    #[test]
    fn correlations_that_do_not_exist_are_absent() {
        for (a, b) in [(&[1.0, 1.0][..], &[1.0, 2.0][..]), (&[1.0, 2.0], &[0.0, -0.0]), (&[1.0], &[2.0]), (&[], &[])] {
            assert_eq!([pearson(a, b), spearman(a, b), kendall_tau_b(a, b)], [None; 3], "{a:?} {b:?}");
        }
        // The mean of three times 0.1 is not 0.1, and a constant list has no correlation still.
        assert_eq!(pearson(&[0.1; 3], &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn tau_by_hand() {
        // Pairs: (1,2) (1,3) (2,3) in a; the first two of a are tied, the last two of b.
        let tau = kendall_tau_b(&[1.0, 1.0, 2.0, 3.0], &[2.0, 1.0, 3.0, 3.0]).unwrap();
        // Of 6 pairs one is tied in a, one in b, and the other 4 are concordant: 4 / sqrt(5 * 5).
        assert!((tau - 0.8).abs() < 1e-15, "{tau}");
    }

    proptest! {
        #[test]
        fn tau_is_that_of_all_pairs(values in prop::collection::vec((0_i8..6, 0_i8..6), 2..40)) {
            let (a, b): (Vec<f64>, Vec<f64>) = values.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
            let (mut balance, mut in_a, mut in_b) = (0, 0, 0);
            for i in 0..a.len() {
                for j in 0..i {
                    let sign = |x: f64, y: f64| i64::from(x > y) - i64::from(x < y);
                    let (first, second) = (sign(a[i], a[j]), sign(b[i], b[j]));
                    balance += first * second;
                    in_a += first.abs();
                    in_b += second.abs();
                }
            }
            let expected = (in_a > 0 && in_b > 0).then(|| balance as f64 / ((in_a * in_b) as f64).sqrt());
            match (kendall_tau_b(&a, &b), expected) {
                (Some(tau), Some(expected)) => prop_assert!((tau - expected).abs() < 1e-12),
                (tau, expected) => prop_assert_eq!(tau, expected),
            }
        }
    }
}
