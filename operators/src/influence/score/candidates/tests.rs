//! What is chosen, against sorting everything; and that weights stand for what was left out.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};

use super::table::{Merge, PartBuilder, keys};
use super::{Key, chance};
use crate::rank::Hit;

const QUERIES: usize = 3;

/// Numbers that are drawn.
fn draw(seed: u64, row: usize) -> (Key, [f32; QUERIES]) {
    let hash = blake3::hash(format!("{seed} {row}").as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(&hash.as_bytes()[..16]);
    let score = |at: usize| f32::from(hash.as_bytes()[16 + at]) / 16.0;
    (key, [score(0), score(1), score(2)])
}

/// Parts of streams of these lengths, as passes make them.
fn chosen(seed: u64, lengths: &[usize], (keep, margin, sample): (u32, f64, u32)) -> HashMap<Key, f64> {
    let mut merge = Merge::new(keep, margin, sample);
    let mut first = 0;
    for length in lengths {
        let rows: Vec<_> = (first..first + length).map(|row| draw(seed, row)).collect();
        first += length;
        let mut part = PartBuilder::new("");
        for (key, scores) in &rows {
            let hits: Vec<Hit> = (0_u32..)
                .zip(scores)
                .map(|(query, &score)| Hit { place: 0, query, key: keys().of_f32(score).unwrap() })
                .collect();
            part.best(key, &hits).unwrap();
        }
        for (key, _) in &rows {
            part.smallest(key).unwrap();
        }
        merge.add(&part.finish().unwrap()).unwrap();
    }
    merge.chosen().weights
}

#[test]
fn the_best_the_next_and_some_of_all_are_chosen_whatever_the_streams() {
    let (rows, keep, margin, sample) = (400, 20, 0.3, 30);
    let got = chosen(1, &[rows], (keep, margin, sample));
    assert_eq!(got, chosen(1, &[1, 0, 250, 149], (keep, margin, sample)));
    let all: Vec<_> = (0..rows).map(|row| draw(1, row)).collect();
    let (mut best, mut near) = (BTreeSet::new(), BTreeSet::new());
    for query in 0..QUERIES {
        let mut order: Vec<usize> = (0..rows).collect();
        order.sort_by(|&a, &b| all[b].1[query].total_cmp(&all[a].1[query]).then(a.cmp(&b)));
        best.extend(order[..20].iter().map(|&row| all[row].0));
        near.extend(order[20..40].iter().map(|&row| all[row].0));
    }
    let mut sorted: Vec<Key> = all.iter().map(|(key, _)| *key).collect();
    sorted.sort_unstable();
    let share = chance(&sorted[30]);
    assert!(share < margin);
    for (key, _) in &all {
        let probability = if best.contains(key) { 1.0 } else { if near.contains(key) { margin } else { share } };
        let expected = (best.contains(key) || chance(key) < probability).then(|| 1.0 / probability);
        assert_eq!(got.get(key).copied(), expected);
    }
}

#[test]
fn the_weights_add_up_to_the_rows_in_the_mean() {
    let rows = 300;
    let sums: Vec<f64> = (0..400).map(|seed| chosen(seed, &[100, 200], (10, 0.2, 25)).values().sum::<f64>()).collect();
    let mean = sums.iter().sum::<f64>() / 400.0;
    let variance = sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / 399.0;
    let error = (variance / 400.0).sqrt();
    assert!(error < 5.0 && (mean - f64::from(rows)).abs() < 4.0 * error, "{mean} ± {error}");
}

#[test]
fn of_few_rows_all_are_drawn() {
    let got = chosen(1, &[20], (1, 0.0, 20));
    assert_eq!((got.len(), got.values().sum::<f64>()), (20, 20.0));
    assert!(chosen(1, &[], (1, 0.5, 20)).is_empty());
    // None by chance.
    assert!(chosen(1, &[200], (2, 0.0, 0)).values().all(|&weight| weight == 1.0));
}
