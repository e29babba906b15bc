//! The candidates of one stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::table::{PartBuilder, keys};
use super::{KIND, Key, key};
use crate::Result;
use crate::influence::gradient::GradientConfig;
use crate::influence::gradient::documents::{self, Row};
use crate::influence::score::documents::Document;
use crate::influence::score::prepared::Prepared;
use crate::influence::score::source::Source;
use crate::operator::{Output, Pass};
use crate::rank::{Candidates, Entry};

/// What all passes share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Tokens that rows are known by.
    pub(super) known_by: GradientConfig,
    pub(super) source: Source,
    /// What they are chosen with.
    pub(super) origin: String,
    pub(super) prepared: Arc<Prepared>,
    pub(super) keep: u32,
    pub(super) sample: u32,
}

/// What `known` may grow by before rows that were outdone are dropped, beyond doubling.
const SLACK_ROWS: usize = 1 << 16;

pub(super) struct CandidatesPass {
    shared: Arc<Shared>,
    candidates: Candidates,
    /// Keys of rows that were among the best when they came.
    known: BTreeMap<u64, Key>,
    most_known: usize,
    /// One more than are to be drawn: it tells with which probability they are.
    smallest: BTreeSet<Key>,
    rows: u64,
}

impl CandidatesPass {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let candidates = Candidates::new(shared.prepared.names.len(), 2 * shared.keep as usize);
        let most_known = SLACK_ROWS;
        Self { shared, candidates, known: BTreeMap::new(), most_known, smallest: BTreeSet::new(), rows: 0 }
    }

    /// Drops keys of rows that were outdone.
    fn forget(&mut self) {
        let places = self.candidates.places();
        let mut kept = BTreeMap::new();
        for place in places {
            if let Some(key) = self.known.remove(&place) {
                kept.insert(place, key);
            }
        }
        self.known = kept;
        self.most_known = 2 * self.known.len() + SLACK_ROWS;
    }
}

impl Pass for CandidatesPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let Shared { known_by, source, prepared, sample, .. } = &*Arc::clone(&self.shared);
        let first_row = self.rows;
        self.rows += batch.num_rows() as u64;
        let rows = documents::read(KIND, known_by, &prepared.reader, batch)?;
        let reduction = known_by.reduction.into();
        for (row, (known, scored)) in rows.into_iter().zip(source.score(prepared, batch)?).enumerate() {
            let position = first_row + row as u64;
            let key = match known {
                Row::Document(document) => Some(key(&Document::new(document.ids, document.targets, reduction))),
                Row::Null | Row::Unreadable(_) => None,
            };
            let (made, key) = match (scored, key) {
                (Some(Err(message)), _) => {
                    let message = format!("the row cannot be scored: {message}");
                    output.quarantine_at(batch.slice(row, 1), message, position);
                    continue;
                }
                (Some(Ok(made)), Some(key)) => (made, key),
                // The step itself says what of a row that it cannot read, and has no scores of one that is null.
                _ => {
                    output.kept += 1;
                    continue;
                }
            };
            output.kept += 1;
            self.smallest.insert(key);
            if self.smallest.len() > *sample as usize + 1 {
                self.smallest.pop_last();
            }
            let mut entered = false;
            for (query, &score) in made.values.numbers.iter().enumerate() {
                let Some(score) = keys().of_f32(score) else { continue };
                entered |= self.candidates.offer(query, Entry { key: score, place: position });
            }
            if entered {
                self.known.insert(position, key);
            }
        }
        if self.known.len() > self.most_known {
            self.forget();
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        let mut part = PartBuilder::new(&self.shared.origin);
        for hits in self.candidates.hits().chunk_by(|one, other| one.place == other.place) {
            if let Some(key) = hits.first().and_then(|hit| self.known.get(&hit.place)) {
                part.best(key, hits)?;
            }
        }
        for key in &self.smallest {
            part.smallest(key)?;
        }
        output.batches.push(part.finish()?);
        Ok(())
    }
}
