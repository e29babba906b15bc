//! The second engine, for text full of occurrences: an Aho-Corasick automaton with all its transitions in a table.
//!
//! Four things make it faster than the usual one. The text is cut into pieces that are walked in turns, so that the wait for
//! one table access is filled with others. States that report something are noted down without a branch, which nobody
//! could predict, and evaluated later, many at a time, so that the waits for their lists overlap as well. The lists of what a
//! state reports lie in one array. And the table is dense: states are numbered, with two bytes where they are few enough,
//! and what ordinary text visits often lies together, rows as well as the cells of a row (`rarity`), so that of a table that is larger
//! than the caches, text uses a part that is not.
//!
//! Occurrences belong to the piece in which they *begin*. Each piece is entered in the root, which finds exactly the occurrences that
//! begin in it or behind; at its end the walk goes on as long as the state is that of an occurrence that began inside, which its
//! depth tells, usually for a few bytes. The same rule divides a text between this engine and the other one.

use std::ops::Range;

use super::prefetch::prefetch;
use super::rarity;
use super::verify::Patterns;

/// Steps of all pieces together before what was noted down is evaluated.
const NOTES: usize = 1024;

/// Texts below this length are one piece: the ends of pieces would cost more than waiting does.
const SHORT: usize = 64;

/// Texts from this length on are sixteen pieces, others four.
const LONG: usize = 2048;

/// Bytes that a table may take; while it is built, as much again.
const MEMORY: usize = 64 << 20;

/// Of longer patterns no table is built, for each piece could be followed by a walk of that length.
const LONGEST: usize = 1024;

/// The automaton, in the smaller of two forms that can hold it.
#[derive(Clone, Debug)]
pub(super) enum Dense {
    Narrow(Automaton<u16>),
    Wide(Automaton<u32>),
}

/// States are numbers; those that report something come before all others.
#[derive(Clone, Debug)]
pub(super) struct Automaton<Cell> {
    /// For each state its successors by class of the next byte.
    rows: Vec<Cell>,
    /// Classes of bytes: one for each that occurs in a pattern, and one for all others; common ones first.
    classes: [u8; 256],
    class_count: usize,
    /// The root, which is the first state that reports nothing.
    root: u32,
    /// For each state that reports something, where its list begins.
    begins: Vec<u32>,
    /// Of one state after another, how many patterns it reports, then each with its length.
    lists: Vec<[u32; 2]>,
    /// For each state how many bytes lead to it from the root.
    depths: Vec<u16>,
}

/// What holds the number of a state.
pub(super) trait Cell: Copy + TryFrom<u32> + Into<u32> {}

impl Cell for u16 {}

impl Cell for u32 {}

/// States that report something and where they were entered, in bytes from the beginning of the walk. A buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Vec<(u32, u32)>);

/// What is known of the automaton before its states are numbered.
struct Unnumbered {
    classes: [u8; 256],
    class_count: usize,
    /// Successors by class, of states in order of insertion.
    trie: Vec<u32>,
    /// States in the order of their numbers.
    order: Vec<u32>,
    /// For each state where its list begins; 0 if it reports nothing.
    list: Vec<u32>,
    lists: Vec<[u32; 2]>,
    depth: Vec<u16>,
}

impl Dense {
    /// Builds the table, or nothing if it would be too large. `fold` if the patterns are in lower case and match either.
    pub(super) fn new(patterns: &Patterns, fold: bool) -> Option<Self> {
        Self::within(patterns, fold, MEMORY)
    }

    fn within(patterns: &Patterns, fold: bool, memory: usize) -> Option<Self> {
        if (0..patterns.len()).any(|pattern| patterns.get(pattern).len() > LONGEST) {
            return None;
        }
        let (classes, class_count) = classes(patterns, fold);
        let limit = memory / size_of::<u32>() / class_count;

        // The trie. No transition leads to its root, so that 0 is free to mean none. Patterns are inserted in order of their
        // bytes, so that the rows at hand are those last used.
        let mut order: Vec<u32> = (0..patterns.len() as u32).collect();
        order.sort_unstable_by_key(|pattern| patterns.get(*pattern as usize));
        let mut trie = vec![0u32; class_count];
        // For each state how common it is in text: the rarity of the bytes that lead to it.
        let mut rarities = vec![0u32];
        let mut ends = Vec::with_capacity(patterns.len());
        for pattern in order {
            let (mut state, mut previous) = (0, None);
            for byte in patterns.get(pattern as usize) {
                let at = state * class_count + usize::from(classes[usize::from(*byte)]);
                if trie[at] == 0 {
                    if rarities.len() == limit {
                        return None;
                    }
                    trie[at] = rarities.len() as u32;
                    trie.resize(trie.len() + class_count, 0);
                    rarities.push(rarities[state] + rarity::cost(previous, *byte));
                }
                (state, previous) = (trie[at] as usize, Some(*byte));
            }
            ends.push((state as u32, pattern));
        }
        ends.sort_unstable();
        let states = rarities.len();

        // From the root outward: the successors of a state's longest proper suffix are complete before its own are needed.
        let (mut order, mut suffix, mut depth) = (Vec::with_capacity(states), vec![0u32; states], vec![0u16; states]);
        let mut lists = vec![[0, 0]];
        let mut list = vec![0u32; states];
        let mut first_end = vec![0u32; states + 1];
        for (end, _) in &ends {
            first_end[*end as usize + 1] += 1;
        }
        for state in 0..states {
            first_end[state + 1] += first_end[state];
        }
        order.push(0u32);
        let mut next = 0;
        while let Some(&state) = order.get(next) {
            next += 1;
            let (state, behind) = (state as usize, suffix[state as usize] as usize);
            list[state] = list[behind];
            let own = &ends[first_end[state] as usize..first_end[state + 1] as usize];
            if !own.is_empty() {
                let shared = list[behind] as usize;
                let shared = shared..shared + lists[shared][0] as usize;
                list[state] = lists.len() as u32;
                lists.push([(own.len() + shared.len()) as u32, 0]);
                lists.extend(own.iter().map(|(_, pattern)| [*pattern, patterns.get(*pattern as usize).len() as u32]));
                lists.extend_from_within(shared.start + 1..shared.end + 1);
                if lists.len() > memory / size_of::<[u32; 2]>() {
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

        // The root is the most common of all and so the first that reports nothing.
        order.sort_by_key(|state| (list[*state as usize] == 0, rarities[*state as usize]));
        let unnumbered = Unnumbered { classes, class_count, trie, order, list, lists, depth };
        Some(match Automaton::new(&unnumbered) {
            Some(narrow) => Self::Narrow(narrow),
            None => Self::Wide(Automaton::new(&unnumbered)?),
        })
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Narrow(automaton) => automaton.memory(),
            Self::Wide(automaton) => automaton.memory(),
        }
    }

    /// Calls `found(pattern, start, end)` for each occurrence that begins in `range`, in no particular order.
    pub(super) fn walk(
        &self,
        text: &[u8],
        range: Range<usize>,
        notes: &mut Notes,
        found: impl FnMut(u32, usize, usize),
    ) {
        match self {
            Self::Narrow(automaton) => automaton.walk(text, range, notes, found),
            Self::Wide(automaton) => automaton.walk(text, range, notes, found),
        }
    }
}

impl<C: Cell> Automaton<C> {
    /// Numbers the states, or returns nothing if the cells are too small for that.
    fn new(unnumbered: &Unnumbered) -> Option<Self> {
        let Unnumbered { classes, class_count, trie, order, list, lists, depth } = unnumbered;
        let states = u32::try_from(order.len()).ok()?;
        C::try_from(states).ok()?;
        let mut numbers = vec![C::try_from(0).ok()?; order.len()];
        for (number, state) in (0..states).zip(order) {
            numbers[*state as usize] = C::try_from(number).ok()?;
        }
        let mut rows = Vec::with_capacity(trie.len());
        for state in order.iter().map(|state| *state as usize) {
            let successors = &trie[state * class_count..(state + 1) * class_count];
            rows.extend(successors.iter().map(|successor| numbers[*successor as usize]));
        }
        Some(Self {
            rows,
            classes: *classes,
            class_count: *class_count,
            root: numbers[0].into(),
            begins: order.iter().map(|state| list[*state as usize]).take_while(|list| *list != 0).collect(),
            lists: lists.clone(),
            depths: order.iter().map(|state| depth[*state as usize]).collect(),
        })
    }

    fn memory(&self) -> usize {
        size_of_val(self.rows.as_slice())
            + size_of_val(self.begins.as_slice())
            + size_of_val(self.lists.as_slice())
            + size_of_val(self.depths.as_slice())
            + size_of::<Self>()
    }

    fn walk(&self, text: &[u8], range: Range<usize>, notes: &mut Notes, mut found: impl FnMut(u32, usize, usize)) {
        match range.len() {
            0..SHORT => self.walk_one(text, range.start, range.end, self.root, &mut found),
            SHORT..LONG => self.walk_pieces::<4>(text, range, notes, &mut found),
            _ => self.walk_pieces::<16>(text, range, notes, &mut found),
        }
    }

    fn walk_pieces<const LANES: usize>(
        &self,
        text: &[u8],
        range: Range<usize>,
        Notes(notes): &mut Notes,
        found: &mut impl FnMut(u32, usize, usize),
    ) {
        let Range { start: from, end: to } = range;
        notes.resize(NOTES, (0, 0));
        let piece = (to - from) / LANES;
        let mut states = [self.root; LANES];
        let mut done = 0;
        while done < piece {
            let steps = (piece - done).min(NOTES / LANES);
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
            // First where the lists are, of all notes, so that these accesses wait together, then what is in them.
            let notes = &mut notes[..noted];
            for (state, _) in notes.iter_mut() {
                *state = self.list(*state);
                prefetch(&self.lists, *state as usize);
            }
            for (list, at) in notes {
                let end = from + *at as usize + 1;
                for [pattern, length] in self.reported(*list) {
                    found(*pattern, end - *length as usize, end);
                }
            }
            done += steps;
        }
        for (lane, state) in states.into_iter().enumerate() {
            let end = from + (lane + 1) * piece;
            // What the division left over belongs to the last piece.
            self.walk_one(text, end, if lane + 1 == LANES { to } else { end }, state, found);
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
                for [pattern, length] in self.reported(self.list(state)) {
                    let start = at - *length as usize;
                    if start < to {
                        found(*pattern, start, at);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn next(&self, state: u32, byte: u8) -> u32 {
        self.rows[state as usize * self.class_count + usize::from(self.classes[usize::from(byte)])].into()
    }

    /// Where the list of a state begins.
    #[inline(always)]
    fn list(&self, state: u32) -> u32 {
        self.begins[state as usize]
    }

    /// The patterns of a list and their lengths.
    #[inline(always)]
    fn reported(&self, list: u32) -> &[[u32; 2]] {
        let list = list as usize;
        &self.lists[list + 1..][..self.lists[list][0] as usize]
    }

    fn depth(&self, state: u32) -> usize {
        usize::from(self.depths[state as usize])
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
    let mut bytes: Vec<u8> = (0..=255).filter(|byte| used[usize::from(*byte)]).collect();
    bytes.sort_by_key(|byte| rarity::cost(None, *byte));
    for byte in bytes {
        classes[usize::from(byte)] = count as u8;
        count += 1;
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
        // Nine states of four words: three letters and all other bytes make a row.
        let list = patterns(&[b"abca", b"abbb", b"bc"]);
        let row = 4 * 4;
        assert!(Dense::within(&list, false, 8 * row).is_none());
        let Some(Dense::Narrow(dense)) = Dense::within(&list, false, 9 * row) else { panic!("it has nine states") };
        assert_eq!(dense.rows.len(), 9 * 4);
        // Lists of suffixes add up to the square of the length.
        let long = vec![b'a'; 400];
        let suffixes: Vec<&[u8]> = (1..=400).map(|length| &long[..length]).collect();
        assert!(Dense::within(&patterns(&suffixes), false, 300_000).is_none());
        assert!(Dense::within(&patterns(&suffixes), false, 800_000).is_some());
    }

    #[test]
    fn many_states_take_wider_cells() {
        let numbered: Vec<Vec<u8>> = (0..30_000u32).map(|number| format!("{number:05}").into_bytes()).collect();
        let list: Vec<&[u8]> = numbered.iter().map(Vec::as_slice).collect();
        assert!(matches!(Dense::new(&patterns(&list[..20_000]), false), Some(Dense::Narrow(_))));
        // Prefixes of distinct words: 30,000 ends, each with three states of its own, do not fit two bytes.
        let longer: Vec<Vec<u8>> = numbered.iter().map(|number| [number.as_slice(), b"abc"].concat()).collect();
        let list: Vec<&[u8]> = longer.iter().map(Vec::as_slice).collect();
        let dense = Dense::new(&patterns(&list), false).unwrap();
        assert!(matches!(dense, Dense::Wide(_)));
        let mut found = Vec::new();
        let text = b"29999abc 00000abc 29999ab".repeat(200);
        dense
            .walk(&text, 0..text.len(), &mut Notes::default(), |pattern, start, end| found.push((start, end, pattern)));
        found.sort_unstable();
        let expected: Vec<(usize, usize, u32)> = (0..200)
            .flat_map(|turn| [(25 * turn, 25 * turn + 8, 29_999), (25 * turn + 9, 25 * turn + 17, 0)])
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_byte_has_a_class() {
        let all: Vec<u8> = (0..=255).collect();
        let list = patterns(&[&all]);
        let (by_byte, count) = classes(&list, false);
        let mut sorted = by_byte.to_vec();
        sorted.sort_unstable();
        assert_eq!((count, sorted), (256, all));
        assert!(by_byte[usize::from(b'e')] < by_byte[usize::from(b'q')]);
        let (by_byte, count) = classes(&patterns(&[b"az"]), true);
        assert_eq!(count, 3);
        assert!(by_byte[usize::from(b'A')] == by_byte[usize::from(b'a')] && by_byte[usize::from(b'[')] == 0);
    }
}
