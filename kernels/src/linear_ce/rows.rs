//! What is done to a piece of logits while it is in the cache: some rows, some columns of the vocabulary.

use super::IGNORED;
use crate::math::exp;
use crate::simd::{Plain, Simd, blocks, dispatch, eight, eight_mut};
use std::ops::Range;

/// What is known of a row after some of its logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct State {
    /// The largest.
    pub(super) most: f32,
    /// Sum of exponentials of the logits less `most`, or less 0 where that is -∞.
    pub(super) sum: f32,
    /// Sum of the logits, if it is asked for.
    total: f32,
    /// The column of the largest, -1 where there is none.
    pub(super) best: i32,
    /// How many come before the given token.
    pub(super) above: i32,
}

impl State {
    /// Of no logits.
    pub(super) const EMPTY: Self = Self { most: f32::NEG_INFINITY, sum: 0.0, total: 0.0, best: -1, above: 0 };

    /// What exponents are relative to: -∞ would make them not a number.
    fn base(self) -> f32 {
        if self.most == f32::NEG_INFINITY { 0.0 } else { self.most }
    }

    /// With the logits behind these.
    pub(super) fn join(self, behind: Self) -> Self {
        let (most, best) = if behind.most > self.most { (behind.most, behind.best) } else { (self.most, self.best) };
        let base = Self { most, ..self }.base();
        let sum = self.sum * power(self.most - base) + behind.sum * power(behind.most - base);
        Self { most, sum, total: self.total + behind.total, best, above: self.above + behind.above }
    }

    /// What exponentials relative to this state's largest logit are multiplied by, to be relative to that of `whole`.
    pub(super) fn weight_in(self, whole: Self) -> f32 {
        power(self.most - whole.base())
    }

    /// The logarithm of the sum of all exponentials.
    pub(super) fn log_sum_exp(self) -> f32 {
        (f64::from(self.base()) + f64::from(self.sum).ln()) as f32
    }

    /// The mean of so many logits.
    pub(super) fn mean(self, count: usize) -> f32 {
        self.total / count as f32
    }
}

/// e^x with the bits that vectors give.
fn power(x: f32) -> f32 {
    exp(Plain, Plain.splat(x))[0]
}

/// A token whose rank is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked {
    pub(super) id: i64,
    pub(super) logit: f32,
}

/// A piece of logits: rows `stride` apart, of which the first `columns.len()` are there.
pub(super) struct Piece<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) columns: Range<usize>,
    /// What logits are still to be multiplied by.
    pub(super) scale: f32,
}

impl Piece<'_> {
    fn row(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.stride..][..self.columns.len()]
    }

    /// The place of a token in this piece.
    fn place(&self, id: i64) -> Option<usize> {
        let id = usize::try_from(id).ok()?;
        self.columns.contains(&id).then(|| id - self.columns.start)
    }
}

dispatch! {
    /// Adds a piece to the rows' states; `ranked` is empty or has a token for each row. Where `factors` is not empty, logits are replaced by
    /// exponentials relative to the largest of their row so far, and it gets what earlier ones are to be multiplied by.
    pub(super) fn absorb(piece: &mut Piece<'_>, states: &mut [State], ranked: &[Ranked], totals: bool, factors: &mut [f32]) = absorb_on
}
dispatch! {
    /// Makes gradients of the loss out of logits: softmax - (1 - ε)·onehot - ε / vocabulary; 0 in ignored rows. `spread` is
    /// ε / vocabulary, and `share` 1 - ε.
    pub(super) fn differentiate(piece: &mut Piece<'_>, log_sum_exps: &[f32], ids: &[i64], share: f32, spread: f32) = differentiate_on
}
dispatch! {
    /// Adds the rows, each times its weight, to `sums`.
    pub(super) fn add_rows(piece: &mut Piece<'_>, weights: &[f32], sums: &mut [f32]) = add_rows_on
}

#[inline(always)]
fn absorb_on<S: Simd>(
    simd: S,
    piece: &mut Piece<'_>,
    states: &mut [State],
    ranked: &[Ranked],
    totals: bool,
    factors: &mut [f32],
) {
    let (first, scale) = (piece.columns.start, piece.scale);
    for (row, state) in states.iter_mut().enumerate() {
        let place = ranked.get(row).and_then(|ranked| piece.place(ranked.id));
        let x = piece.row(row);
        let (whole, part) = blocks(x.len());
        let scales = simd.splat(scale);
        // One that is not a number gets lost here; the sum has it.
        let mut most = simd.splat(f32::NEG_INFINITY);
        for start in whole.clone() {
            let place = eight_mut(x, start);
            let values = simd.mul(simd.load(place), scales);
            simd.store(values, place);
            most = simd.max(values, most);
        }
        for value in &mut x[part.clone()] {
            *value *= scale;
            most = simd.max(simd.splat(*value), most);
        }
        let most = simd.largest(most);
        let mut factor = 1.0;
        if most > state.most {
            let column = x.iter().position(|&value| value == most).unwrap_or(0);
            state.best = (first + column) as i32;
            factor = power(state.most - most);
            state.sum *= factor;
            state.most = most;
        }
        if totals {
            let mut total = simd.load_part(&x[part.clone()], 0.0);
            for start in whole.clone() {
                total = simd.add(total, simd.load(eight(x, start)));
            }
            state.total += simd.sum(total);
        }
        if let Some(&Ranked { id, logit }) = ranked.get(row) {
            state.above += match place {
                Some(place) => {
                    let before = x[..place].iter().filter(|&&value| value >= logit).count();
                    (before + x[place + 1..].iter().filter(|&&value| value > logit).count()) as i32
                }
                // Of equal ones, tokens of this piece come before if their numbers are smaller.
                None => count(simd, x, logit, first < usize::try_from(id).unwrap_or(0)),
            };
        }
        let keep = match factors.get_mut(row) {
            Some(place) => {
                *place = factor;
                true
            }
            None => false,
        };
        let base = simd.splat(state.base());
        let mut sum = simd.zero();
        for start in whole.clone() {
            let place = eight_mut(x, start);
            let values = exp(simd, simd.sub(simd.load(place), base));
            sum = simd.add(sum, values);
            if keep {
                simd.store(values, place);
            }
        }
        let rest = simd.load_part(&x[part.clone()], f32::NEG_INFINITY);
        let rest = exp(simd, simd.sub(rest, base));
        state.sum += simd.sum(simd.add(sum, rest));
        if keep {
            simd.store_part(rest, &mut x[part]);
        }
    }
}

/// How many are larger than `than`, or equal if that counts.
#[inline(always)]
fn count<S: Simd>(simd: S, x: &[f32], than: f32, or_equal: bool) -> i32 {
    let (whole, part) = blocks(x.len());
    let (one, zero, limit) = (simd.splat(1.0), simd.zero(), simd.splat(than));
    let mut sum = zero;
    for start in whole {
        let values = simd.load(eight(x, start));
        let counted =
            if or_equal { simd.if_less(values, limit, zero, one) } else { simd.if_less(limit, values, one, zero) };
        sum = simd.add(sum, counted);
    }
    let rest = x[part].iter().filter(|&&value| if or_equal { value >= than } else { value > than }).count();
    simd.sum(sum) as i32 + rest as i32
}

#[inline(always)]
fn differentiate_on<S: Simd>(
    simd: S,
    piece: &mut Piece<'_>,
    log_sum_exps: &[f32],
    ids: &[i64],
    share: f32,
    spread: f32,
) {
    let scales = simd.splat(piece.scale);
    let spreads = simd.splat(spread);
    for (row, (&log_sum_exp, &id)) in log_sum_exps.iter().zip(ids).enumerate() {
        let place = piece.place(id);
        let x = piece.row(row);
        if id == IGNORED {
            x.fill(0.0);
            continue;
        }
        let base = simd.splat(log_sum_exp);
        let (whole, part) = blocks(x.len());
        for start in whole {
            let place = eight_mut(x, start);
            let share = exp(simd, simd.sub(simd.mul(simd.load(place), scales), base));
            simd.store(simd.sub(share, spreads), place);
        }
        let rest = simd.mul(simd.load_part(&x[part.clone()], 0.0), scales);
        let rest = simd.sub(exp(simd, simd.sub(rest, base)), spreads);
        simd.store_part(rest, &mut x[part]);
        if let Some(place) = place {
            x[place] -= share;
        }
    }
}

#[inline(always)]
fn add_rows_on<S: Simd>(simd: S, piece: &mut Piece<'_>, weights: &[f32], sums: &mut [f32]) {
    let (whole, part) = blocks(piece.columns.len());
    for start in whole {
        let mut sum = simd.load(eight(sums, start));
        for (row, &weight) in weights.iter().enumerate() {
            sum = simd.mul_add(simd.splat(weight), simd.load(eight(piece.row(row), start)), sum);
        }
        simd.store(sum, eight_mut(sums, start));
    }
    for column in part {
        sums[column] = weights
            .iter()
            .enumerate()
            .fold(sums[column], |sum, (row, &weight)| weight.mul_add(piece.row(row)[column], sum));
    }
}
