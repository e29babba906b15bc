//! The best rows of each query, as far as rows have been seen.
//!
//! For each query there is a list of up to 2k entries in no order, and a floor that an entry must beat to get in. When the list is full, the k best of it
//! stay (by selection, in linear time) and the last of them is the new floor: an entry costs a constant on average, and nearly all rows of a long
//! stream cost one comparison for each query.

use super::RankOrder;
use super::keys::Keys;

/// A row and its score. Less is better; of equal scores the row that came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) key: u64,
    /// Number of the row in the order in which rows came.
    pub(crate) place: u64,
}

impl Entry {
    /// Ranks after every row.
    const NONE: Self = Self { key: u64::MAX, place: u64::MAX };
}

/// A row, a query that it is among the best of, and the key of its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hit {
    pub(crate) place: u64,
    pub(crate) query: u32,
    pub(crate) key: u64,
}

#[derive(Debug)]
pub(crate) struct Candidates {
    k: usize,
    lists: Vec<Vec<Entry>>,
    floors: Vec<Entry>,
}

impl Candidates {
    pub(crate) fn new(queries: usize, k: usize) -> Self {
        Self { k, lists: vec![Vec::new(); queries], floors: vec![Entry::NONE; queries] }
    }

    /// Takes in the score of a row; whether it may be among the best.
    pub(crate) fn offer(&mut self, query: usize, entry: Entry) -> bool {
        if entry >= self.floors[query] {
            return false;
        }
        if self.lists[query].len() >= self.k.saturating_mul(2) {
            self.keep_best(query);
            if entry >= self.floors[query] {
                return false;
            }
        }
        self.lists[query].push(entry);
        true
    }

    /// Leaves the k best of each query, and gives the rows that are among them, in order.
    pub(crate) fn places(&mut self) -> Vec<u64> {
        (0..self.lists.len()).for_each(|query| self.keep_best(query));
        let mut places: Vec<u64> = self.lists.iter().flatten().map(|entry| entry.place).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The k best of all queries, by row and query.
    pub(crate) fn hits(&mut self) -> Vec<Hit> {
        (0..self.lists.len()).for_each(|query| self.keep_best(query));
        let mut hits: Vec<Hit> = (0_u32..)
            .zip(&self.lists)
            .flat_map(|(query, list)| list.iter().map(move |entry| Hit { place: entry.place, query, key: entry.key }))
            .collect();
        hits.sort_unstable();
        hits
    }

    /// Leaves the k best of each query, the best first.
    pub(crate) fn sort(&mut self) {
        for query in 0..self.lists.len() {
            self.keep_best(query);
            self.lists[query].sort_unstable();
        }
    }

    /// What there is of a query.
    pub(crate) fn of_query(&self, query: usize) -> &[Entry] {
        &self.lists[query]
    }

    fn keep_best(&mut self, query: usize) {
        let list = &mut self.lists[query];
        if list.len() >= self.k {
            let (_, last, _) = list.select_nth_unstable(self.k - 1);
            self.floors[query] = *last;
            list.truncate(self.k);
        }
    }
}

/// The floors of all queries as scores in single precision, against which a row is held at once.
#[derive(Debug)]
pub(super) struct Screen {
    sign: f32,
    /// Scores times the sign; not a number where every score gets in.
    floors: Vec<f32>,
}

/// Scores that are compared together: without a branch for each, the comparisons become vectors.
const TOGETHER: usize = 16;

impl Screen {
    pub(super) fn new(queries: usize, order: RankOrder) -> Self {
        let sign = match order {
            RankOrder::Descending => 1.0,
            RankOrder::Ascending => -1.0,
        };
        Self { sign, floors: vec![f32::NAN; queries] }
    }

    /// Offers a row with one score for each query. Rows come in order, so one that is only as good as the floor comes too late. Gives whether it may be
    /// among the best of a query, and how many of its scores are not numbers.
    pub(super) fn offer(&mut self, candidates: &mut Candidates, keys: Keys, scores: &[f32], place: u64) -> (bool, u64) {
        let (mut entered, mut not_numbers) = (false, 0);
        for (block, scores) in scores.chunks(TOGETHER).enumerate() {
            let first = block * TOGETHER;
            let floors = &self.floors[first..first + scores.len()];
            let fails = |(score, floor): (&f32, &f32)| self.sign * score <= *floor;
            if scores.iter().zip(floors).fold(true, |all, pair| all & fails(pair)) {
                continue;
            }
            for (query, &score) in (first..).zip(scores) {
                let Some(key) = keys.of_f32(score) else {
                    not_numbers += 1;
                    continue;
                };
                if self.sign * score <= self.floors[query] {
                    continue;
                }
                entered |= candidates.offer(query, Entry { key, place });
                let floor = candidates.floors[query];
                if floor != Entry::NONE {
                    self.floors[query] = self.sign * keys.score_f32(floor.key);
                }
            }
        }
        (entered, not_numbers)
    }
}
