//! By which windows each pattern is looked up.

use std::collections::HashSet;

use super::filter::{CASE, Filter};
use super::rarity;
use super::verify::{Buckets, Entry, Patterns, load_four};

/// Windows are sought in this many leading bytes of a pattern; among these there is a rare one, or there is none.
pub(super) const WINDOW_OFFSETS: usize = 256;

/// Hash tables from windows to patterns. Each pattern is represented such that wherever it occurs, it is found exactly once:
/// by a window at an even position if it has three bytes or more.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    /// Patterns of one byte, at all positions.
    pub(super) one: Option<Buckets>,
    /// Patterns of two bytes, at all positions.
    pub(super) two: Option<Buckets>,
    /// Patterns of three bytes, at a candidate and at the odd position behind it.
    pub(super) three: Option<Buckets>,
    /// The last three bytes of patterns of four: those that begin at odd positions.
    pub(super) inner: Option<Buckets>,
    /// Windows of patterns of four to six bytes: one at an even offset of its pattern, for occurrences that begin at even
    /// positions, and one at an odd offset for the others.
    pub(super) four: Option<Buckets>,
    /// The same of longer patterns. The filter knows the first four bytes of a window; two more keep those patterns apart that
    /// have the four in common.
    pub(super) six: Option<Buckets>,
    /// Of all tables.
    pub(super) entries: Vec<Entry>,
    /// No window begins so far behind the beginning of its pattern.
    pub(super) reach: usize,
}

impl Windows {
    /// Chooses windows for all patterns and lets them through the filter.
    pub(super) fn new(patterns: &Patterns, filter: &mut Filter) -> Self {
        let (mut one, mut two, mut three, mut inner, mut four, mut six) =
            (vec![], vec![], vec![], vec![], vec![], vec![]);
        let mut used = HashSet::new();
        // Of patterns of four bytes, the last three are a window.
        let mut reach = 2;
        // The shortest first: those have the least choice, and the others can share windows with them.
        let mut order: Vec<u32> = (0..patterns.len() as u32).collect();
        order.sort_by_key(|pattern| patterns.get(*pattern as usize).len());
        for pattern in order {
            let bytes = patterns.get(pattern as usize);
            let entry = |offset: usize| Entry::new(pattern, bytes, offset as u16);
            let window = load_four(bytes, 0);
            match bytes.len() {
                1 => {
                    filter.add_one(bytes[0]);
                    one.push(entry(0));
                }
                2 => {
                    filter.add_two(window);
                    two.push(entry(0));
                }
                3 => {
                    filter.add_beginning(window);
                    filter.add_end(window);
                    three.push(entry(0));
                }
                4 => {
                    filter.add_four(window);
                    used.insert(window | CASE);
                    four.push(entry(0));
                    filter.add_beginning(load_four(bytes, 1));
                    inner.push(entry(1));
                }
                length => {
                    // Two bytes behind the window belong to it as well, where it has a choice with them.
                    let (bytes, table) = if length < 7 { (bytes, &mut four) } else { (&bytes[..length - 2], &mut six) };
                    for parity in [0, 1] {
                        let windows = bytes.len().min(WINDOW_OFFSETS) - 3;
                        let offset = rarest_window(bytes, (parity..windows).step_by(2), &used);
                        let window = load_four(bytes, offset);
                        filter.add_four(window);
                        used.insert(window | CASE);
                        table.push(entry(offset));
                        reach = reach.max(offset + 1);
                    }
                }
            }
        }
        let mut entries =
            Vec::with_capacity(one.len() + two.len() + three.len() + inner.len() + four.len() + six.len());
        Self {
            one: Buckets::new(1, &one, patterns, &mut entries),
            two: Buckets::new(2, &two, patterns, &mut entries),
            three: Buckets::new(3, &three, patterns, &mut entries),
            inner: Buckets::new(3, &inner, patterns, &mut entries),
            four: Buckets::new(4, &four, patterns, &mut entries),
            six: Buckets::new(6, &six, patterns, &mut entries),
            entries,
            reach,
        }
    }

    pub(super) fn memory(&self) -> usize {
        let Self { one, two, three, inner, four, six, entries, .. } = self;
        let tables = [one, two, three, inner, four, six].into_iter().flatten().map(Buckets::memory).sum::<usize>();
        tables + size_of_val(entries.as_slice())
    }
}

/// The best of the offsets for the window of four bytes that a pattern is looked for by; 0 if there is none to choose from.
pub(super) fn rarest_window(bytes: &[u8], offsets: impl Iterator<Item = usize>, used: &HashSet<u32>) -> usize {
    let mut best = None;
    for offset in offsets {
        let window = load_four(bytes, offset);
        let reuse = if used.contains(&(window | CASE)) { rarity::REUSE } else { 0 };
        let worth = rarity::rarity(&window.to_le_bytes()) + reuse;
        if best.is_none_or(|(most, _)| worth > most) {
            best = Some((worth, offset));
        }
    }
    best.map_or(0, |(_, offset)| offset)
}

/// Logarithm of the size of the filter. Lookups depend on nothing before them, so that waiting for the second cache costs
/// less than the candidates that a fuller table lets through; only small lists stay within the first cache.
pub(super) fn filter_bits(patterns: &Patterns) -> u32 {
    // What patterns of three bytes set, counted in windows of longer ones.
    let three = (0..patterns.len()).filter(|pattern| patterns.get(*pattern).len() == 3).count();
    match patterns.len() + 64 * three {
        0..=500 => 13,
        501..=20_000 => 16,
        _ => 17,
    }
}
