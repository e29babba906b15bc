//! The best rows of each query.
//!
//! A list of up to 2k entries in no order, and a floor that an entry must beat to get in. When the list is full, the k best of it
//! stay (by selection, in linear time) and the last of them is the new floor: so an entry costs a constant on average, and nearly
//! all scores of a long index cost one comparison.

use crate::launch::{ShapeError, expect_len};
use std::cmp::Ordering;

/// The row of a place that no row has taken. Its score is minus infinity.
pub const NO_ROW: i64 = i64::MAX;

/// A row and how well it agrees with a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The dot product.
    pub score: f32,
    /// Number of the row.
    pub row: i64,
}

impl Scored {
    /// Ranks after every row.
    const NONE: Self = Self { score: f32::NEG_INFINITY, row: NO_ROW };

    /// Less is better: the higher score first, of equal scores the smaller row.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal).then(self.row.cmp(&other.row))
    }
}

/// The best rows of one query.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    k: usize,
    entries: Vec<Scored>,
    /// Only what ranks before it can be among the k best.
    floor: Scored,
    not_numbers: u64,
}

impl Candidates {
    fn new(k: usize) -> Self {
        Self { k, entries: Vec::new(), floor: Scored::NONE, not_numbers: 0 }
    }

    /// An empty list that lets in only what might get into `self`.
    pub(super) fn beside(&self) -> Self {
        Self { floor: self.floor, ..Self::new(self.k) }
    }

    /// Offers rows that follow one another.
    #[inline]
    pub(super) fn offer(&mut self, scores: &[f32], first_row: i64) {
        const TOGETHER: usize = 16;
        for (block, scores) in scores.chunks(TOGETHER).enumerate() {
            // Without a branch for each, the comparisons become vectors.
            let floor = self.floor.score;
            let worth_a_look = scores.iter().fold(false, |any, score| any | (*score >= floor) | score.is_nan());
            if worth_a_look {
                let row = first_row + (block * TOGETHER) as i64;
                scores.iter().zip(row..).for_each(|(&score, row)| self.offer_one(Scored { score, row }));
            }
        }
    }

    fn offer_one(&mut self, entry: Scored) {
        if entry.score.is_nan() {
            self.not_numbers += 1;
        } else if entry.rank(&self.floor).is_lt() {
            if self.entries.len() >= self.k.saturating_mul(2) {
                self.keep_best();
                if entry.rank(&self.floor).is_ge() {
                    return;
                }
            }
            self.entries.push(entry);
        }
    }

    fn keep_best(&mut self) {
        if self.entries.len() >= self.k {
            let (_, last, _) = self.entries.select_nth_unstable_by(self.k - 1, Scored::rank);
            self.floor = *last;
            self.entries.truncate(self.k);
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.not_numbers += other.not_numbers;
        other.entries.iter().for_each(|&entry| self.offer_one(entry));
    }

    fn ranked(&self) -> Vec<Scored> {
        let mut ranked = self.entries.clone();
        ranked.sort_unstable_by(Scored::rank);
        ranked.truncate(self.k);
        ranked
    }
}

/// The k best rows of each query, as far as rows have been seen. See the [module](super) for an example.
#[derive(Clone, Debug)]
pub struct Best {
    k: usize,
    pub(super) queries: Vec<Candidates>,
}

impl Best {
    /// No row yet, for so many queries.
    ///
    /// # Errors
    /// `k` is 0.
    pub fn new(queries: usize, k: usize) -> Result<Self, ShapeError> {
        if k == 0 {
            return Err(ShapeError::Dimension { name: "k", allowed: "at least 1", actual: k });
        }
        Ok(Self { k, queries: vec![Candidates::new(k); queries] })
    }

    /// Rows that are kept for each query.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// The best rows of a query, the best first: k, or as many as there were rows. None for a query that there is not.
    pub fn ranked(&self, query: usize) -> Vec<Scored> {
        self.queries.get(query).map(Candidates::ranked).unwrap_or_default()
    }

    /// How many scores of a query were not numbers. 0 for a query that there is not.
    pub fn not_numbers(&self, query: usize) -> u64 {
        self.queries.get(query).map_or(0, |candidates| candidates.not_numbers)
    }

    /// Takes in the rows of another state, such as that of another part of the index, or one read from a file.
    ///
    /// # Errors
    /// It has another number of queries.
    pub fn merge(&mut self, other: &Self) -> Result<(), ShapeError> {
        expect_len("queries", other.len(), self.len())?;
        self.queries.iter_mut().zip(&other.queries).for_each(|(own, other)| own.join(other));
        Ok(())
    }

    /// Takes in rows whose scores are known. Nothing happens for a query that there is not.
    pub fn offer(&mut self, query: usize, entries: &[Scored]) {
        if let Some(candidates) = self.queries.get_mut(query) {
            entries.iter().for_each(|&entry| candidates.offer_one(entry));
        }
    }

    /// Writes scores and rows of all queries, `[queries, k]` each, the best first. Places that no row has taken get minus infinity
    /// and [`NO_ROW`].
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn write(&self, scores: &mut [f32], rows: &mut [i64]) -> Result<(), ShapeError> {
        let len = self.len() * self.k;
        expect_len("scores", scores.len(), len)?;
        expect_len("rows", rows.len(), len)?;
        let places = scores.chunks_exact_mut(self.k).zip(rows.chunks_exact_mut(self.k));
        for (candidates, (scores, rows)) in self.queries.iter().zip(places) {
            let all = candidates.ranked().into_iter().chain(std::iter::repeat(Scored::NONE));
            for (entry, (score, row)) in all.zip(scores.iter_mut().zip(rows)) {
                (*score, *row) = (entry.score, entry.row);
            }
        }
        Ok(())
    }
}
