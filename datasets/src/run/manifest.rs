//! The manifest: every commit record of a finished run, in the order of the output.

use super::plan::RunPlan;
use super::record::CommitRecord;

/// What readers of a finished run trust: the records of all splits, ordered by split.
///
/// ```
/// use gristmill_datasets::run::{CommitRecord, Manifest};
///
/// let record = CommitRecord { part: Some("data/00000-a.parquet".into()), rows_in: 3, rows_out: 3, ..CommitRecord::default() };
/// let manifest = Manifest { fingerprint: String::new(), records: vec![record] };
/// assert_eq!(manifest.parts().collect::<Vec<_>>(), ["data/00000-a.parquet"]);
/// assert_eq!(manifest.totals().rows_out, 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Fingerprint of the run.
    pub fingerprint: String,
    /// One record per split, ordered by split.
    pub records: Vec<CommitRecord>,
}

/// Sums over commit records.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Records that were summed.
    pub splits: u64,
    /// Rows of the source, unreadable ones included.
    pub rows_in: u64,
    /// Rows that could not be read.
    pub rows_unreadable: u64,
    /// Rows in the parts.
    pub rows_out: u64,
    /// Rows rejected.
    pub rows_rejected: u64,
    /// Rows quarantined, unreadable ones included.
    pub rows_quarantined: u64,
    /// Bytes of the source.
    pub bytes_in: u64,
    /// Bytes of the parts.
    pub bytes_out: u64,
    /// Time over all attempts that were committed, in seconds; attempts run side by side.
    pub seconds: f64,
}

impl Manifest {
    /// The parts in the order of the output, relative to the run folder.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.records.iter().filter_map(|record| record.part.as_deref())
    }

    /// Sums over all records.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::of(&self.records)
    }

    /// Whether this is the whole of a run with this plan: one record per split, in order, of this run, each balanced.
    ///
    /// # Errors
    ///
    /// What is wrong with which split.
    pub fn complete(&self, plan: &RunPlan) -> Result<(), String> {
        if self.fingerprint != plan.fingerprint.value {
            return Err(format!("it is of run {}, the plan is of run {}", self.fingerprint, plan.fingerprint.value));
        }
        for (split, record) in plan.splits.iter().zip(&self.records) {
            if record.split != split.number {
                return Err(format!("record of split {} where split {} is due", record.split, split.number));
            }
            if record.fingerprint != plan.fingerprint.value {
                return Err(format!("split {} was committed by run {}", record.split, record.fingerprint));
            }
            record.balances()?;
        }
        if self.records.len() != plan.splits.len() {
            return Err(format!("{} records for {} splits", self.records.len(), plan.splits.len()));
        }
        Ok(())
    }
}

impl Totals {
    /// Sums over `records`.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a CommitRecord>) -> Self {
        records.into_iter().fold(Self::default(), |sum, record| Self {
            splits: sum.splits + 1,
            rows_in: sum.rows_in.saturating_add(record.rows_in),
            rows_unreadable: sum.rows_unreadable.saturating_add(record.rows_unreadable),
            rows_out: sum.rows_out.saturating_add(record.rows_out),
            rows_rejected: sum.rows_rejected.saturating_add(record.rows_rejected),
            rows_quarantined: sum.rows_quarantined.saturating_add(record.rows_quarantined),
            bytes_in: sum.bytes_in.saturating_add(record.bytes_in),
            bytes_out: sum.bytes_out.saturating_add(record.bytes_out),
            seconds: sum.seconds + record.seconds,
        })
    }
}
