//! The second engine, for text full of occurrences: an Aho-Corasick automaton with all its transitions in a table.
//!
//! Three things make it faster than the usual one. The text is cut into [`LANES`] pieces that are walked in turns, so that
//! the wait for one table access is filled with three others. States that report something are noted down without a
//! branch, which nobody could predict, and evaluated later. The lists of what a state reports lie in one array.
//!
//! Occurrences belong to the piece in which they *begin*. Each piece is entered in the root, which finds exactly the occurrences that
//! begin in it or behind; at its end the walk goes on as long as the state is that of an occurrence that began inside, which its
//! depth tells, usually for a few bytes. The same rule divides a text between this engine and the other one.

use std::ops::Range;

use super::verify::Patterns;

/// Pieces that are walked in turns.
const LANES: usize = 4;

/// Steps of each lane before what was noted down is evaluated.
const STEPS: usize = 128;

/// Texts below this length are one piece: the ends of pieces would cost more than waiting does.
const SHORT: usize = 64;

/// Bytes that a table may take; while it is built, as much again.
const MEMORY: usize = 64 << 20;

/// Of longer patterns no table is built, for each piece could be followed by a walk of that length.
const LONGEST: usize = 1024;

/// The automaton. Its states are rows of `rows`, named by where they begin, those that report something before all others.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    /// For each state its successor by class of the next byte, where in `lists` its list begins, and its depth.
    rows: Vec<u32>,
    /// Classes of bytes: one for each that occurs in a pattern, and one for all others.
    classes: [u8; 256],
    /// Number of classes: where a row has the beginning of its list.
    class_count: usize,
    /// The root, which is the first state that reports nothing.
    root: u32,
    /// Number of patterns and their numbers, of one state after another.
    lists: Vec<u32>,
    lengths: Vec<u32>,
}

/// States that report something and where they were entered, in bytes from the beginning of the walk. A buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Vec<(u32, u32)>);

impl Dense {
    /// Builds the table, or nothing if it would be too large. `fold` if the patterns are in lower case and match either.
    pub(super) fn new(patterns: &Patterns, fold: bool) -> Option<Self> {
        Self::within(patterns, fold, MEMORY)
    }

    fn within(patterns: &Patterns, fold: bool, memory: usize) -> Option<Self> {
        let lengths: Vec<u32> = (0..patterns.len()).map(|pattern| patterns.get(pattern).len() as u32).collect();
        if lengths.iter().any(|length| *length as usize > LONGEST) {
            return None;
        }
        let (classes, class_count) = classes(patterns, fold);
        let limit = memory / size_of::<u32>() / (class_count + 2);

        // The trie, in order of insertion. No transition leads to its root, so that 0 is free to mean none.
        let mut trie = vec![0u32; class_count];
        let mut states = 1;
        let mut ends = Vec::with_capacity(patterns.len());
        for pattern in 0..patterns.len() {
            let mut state = 0;
            for byte in patterns.get(pattern) {
                let at = state * class_count + usize::from(classes[usize::from(*byte)]);
                if trie[at] == 0 {
                    if states == limit {
                        return None;
                    }
                    trie[at] = states as u32;
                    trie.resize(trie.len() + class_count, 0);
                    states += 1;
                }
                state = trie[at] as usize;
            }
            ends.push((state as u32, pattern as u32));
        }
        ends.sort_unstable();

        // From the root outward: the successors of a state's longest proper suffix are complete before its own are needed.
        let (mut order, mut suffix, mut depth) = (Vec::with_capacity(states), vec![0u32; states], vec![0u32; states]);
        let mut lists = vec![0];
        let mut list = vec![0u32; states];
        order.push(0u32);
        let mut next = 0;
        while let Some(&state) = order.get(next) {
            next += 1;
            let (state, behind) = (state as usize, suffix[state as usize] as usize);
            list[state] = list[behind];
            let first = ends.partition_point(|(end, _)| (*end as usize) < state);
            let own = ends[first..].iter().take_while(|(end, _)| *end as usize == state).map(|(_, pattern)| *pattern);
            let own_count = own.clone().count();
            if own_count > 0 {
                let shared = list[behind] as usize;
                let shared = shared..shared + lists[shared] as usize;
                list[state] = lists.len() as u32;
                lists.push((own_count + shared.len()) as u32);
                lists.extend(own);
                lists.extend_from_within(shared.start + 1..shared.end + 1);
                if lists.len() > memory / size_of::<u32>() {
                    return None;
                }
            }
            for class in 0..class_count {
                let child = trie[state * class_count + class];
                let from_suffix = if state == 0 { 0 } else { trie[behind * class_count + class] };
                if child == 0 {
                    trie[state * class_count + class] = from_suffix;
                } else {
                    suffix[child as usize] = from_suffix;
                    depth[child as usize] = depth[state] + 1;
                    order.push(child);
                }
            }
        }

        // States near the root, which are those that a text visits most, come together.
        let stride = class_count + 2;
        let mut names = vec![0u32; states];
        let (reporting, silent): (Vec<u32>, Vec<u32>) = order.into_iter().partition(|state| list[*state as usize] != 0);
        for (rank, state) in reporting.iter().chain(&silent).enumerate() {
            names[*state as usize] = (rank * stride) as u32;
        }
        let mut rows = Vec::with_capacity(states * stride);
        for state in reporting.iter().chain(&silent).map(|state| *state as usize) {
            let successors = &trie[state * class_count..(state + 1) * class_count];
            rows.extend(successors.iter().map(|successor| names[*successor as usize]));
            rows.extend([list[state], depth[state]]);
        }
        Some(Self { rows, classes, class_count, root: names[0], lists, lengths })
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        4 * (self.rows.len() + self.lists.len() + self.lengths.len()) + size_of::<Self>()
    }

    /// Calls `found(pattern, start, end)` for each occurrence that begins in `range`, in no particular order.
    pub(super) fn walk(
        &self,
        text: &[u8],
        range: Range<usize>,
        Notes(notes): &mut Notes,
        mut found: impl FnMut(u32, usize, usize),
    ) {
        let Range { start: from, end: to } = range;
        let length = to - from;
        if length < SHORT {
            self.walk_one(text, from, to, self.root, &mut found);
            return;
        }
        notes.resize(LANES * STEPS, (0, 0));
        let piece = length / LANES;
        let mut states = [self.root; LANES];
        let mut done = 0;
        while done < piece {
            let steps = (piece - done).min(STEPS);
            let lanes: [&[u8]; LANES] = std::array::from_fn(|lane| &text[from + lane * piece + done..][..steps]);
            let mut noted = 0;
            #[allow(clippy::needless_range_loop, reason = "one position is read in each of the lanes")]
            for step in 0..steps {
                for lane in 0..LANES {
                    states[lane] = self.next(states[lane], lanes[lane][step]);
                    notes[noted] = (states[lane], (lane * piece + done + step) as u32);
                    noted += usize::from(states[lane] < self.root);
                }
            }
            for (state, at) in &notes[..noted] {
                let end = from + *at as usize + 1;
                for pattern in self.list(*state) {
                    found(*pattern, end - self.lengths[*pattern as usize] as usize, end);
                }
            }
            done += steps;
        }
        for (lane, state) in states.into_iter().enumerate() {
            let end = from + (lane + 1) * piece;
            // What the division left over belongs to the last piece.
            self.walk_one(text, end, if lane + 1 == LANES { to } else { end }, state, &mut found);
        }
    }

    /// Goes on at `at` in `state` with all occurrences that begin before `to`.
    fn walk_one(
        &self,
        text: &[u8],
        mut at: usize,
        to: usize,
        mut state: u32,
        found: &mut impl FnMut(u32, usize, usize),
    ) {
        while at < text.len() && (at < to || self.depth(state) > at - to) {
            state = self.next(state, text[at]);
            at += 1;
            if state < self.root {
                for pattern in self.list(state) {
                    let start = at - self.lengths[*pattern as usize] as usize;
                    if start < to {
                        found(*pattern, start, at);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn next(&self, state: u32, byte: u8) -> u32 {
        self.rows[state as usize + usize::from(self.classes[usize::from(byte)])]
    }

    #[inline(always)]
    fn list(&self, state: u32) -> &[u32] {
        let begin = self.rows[state as usize + self.class_count] as usize;
        &self.lists[begin + 1..][..self.lists[begin] as usize]
    }

    fn depth(&self, state: u32) -> usize {
        self.rows[state as usize + self.class_count + 1] as usize
    }
}

/// Classes of bytes and how many there are.
fn classes(patterns: &Patterns, fold: bool) -> ([u8; 256], usize) {
    let mut used = [false; 256];
    for pattern in 0..patterns.len() {
        for byte in patterns.get(pattern) {
            used[usize::from(*byte)] = true;
        }
    }
    let mut classes = [0; 256];
    // Class 0 is that of the bytes in no pattern, if there is such a byte.
    let mut count = usize::from(used.contains(&false));
    for byte in 0..256 {
        if used[byte] {
            classes[byte] = count as u8;
            count += 1;
        }
    }
    if fold {
        for byte in b'A'..=b'Z' {
            classes[usize::from(byte)] = classes[usize::from(byte.to_ascii_lowercase())];
        }
    }
    (classes, count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn patterns(list: &[&[u8]]) -> Patterns {
        let mut patterns = Patterns::default();
        list.iter().for_each(|pattern| patterns.push(pattern.iter().copied()));
        patterns
    }

    #[test]
    fn memory_is_bounded() {
        // Nine states of six words: three letters, all other bytes, the list and the depth make a row.
        let list = patterns(&[b"abca", b"abbb", b"bc"]);
        let row = 4 * (4 + 2);
        assert!(Dense::within(&list, false, 8 * row).is_none());
        let dense = Dense::within(&list, false, 9 * row).unwrap();
        assert_eq!(dense.rows.len(), 9 * 6);
        // Lists of suffixes add up to the square of the length.
        let long = vec![b'a'; 400];
        let suffixes: Vec<&[u8]> = (1..=400).map(|length| &long[..length]).collect();
        assert!(Dense::within(&patterns(&suffixes), false, 100_000).is_none());
        assert!(Dense::within(&patterns(&suffixes), false, 400_000).is_some());
    }

    #[test]
    fn every_byte_has_a_class() {
        let all: Vec<u8> = (0..=255).collect();
        let list = patterns(&[&all]);
        let (by_byte, count) = classes(&list, false);
        assert_eq!((count, by_byte.to_vec()), (256, all));
        let (by_byte, count) = classes(&patterns(&[b"az"]), true);
        assert_eq!(count, 3);
        assert!(by_byte[usize::from(b'A')] == by_byte[usize::from(b'a')] && by_byte[usize::from(b'[')] == 0);
    }
}
