//! What a finished split says about itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a split ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitStatus {
    /// Its part counts.
    #[default]
    Committed,
    /// It was given up after repeated failures; the error says why.
    Failed,
}

/// The rows of one step of a split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepCount {
    /// Name of the step.
    pub name: String,
    /// Kind of the step.
    pub kind: String,
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that the step kept.
    pub rows_kept: u64,
    /// Rows that the step rejected.
    pub rows_rejected: u64,
    /// Rows that the step could not process.
    pub rows_quarantined: u64,
    /// Rows that went on; differs from the rows kept where a step makes several rows of one, or one of several.
    pub rows_out: u64,
    /// Time in the step, in seconds.
    pub seconds: f64,
    /// The verdict columns that the step added, and how often each was true.
    #[serde(default)]
    pub verdicts: Vec<VerdictCount>,
}

/// How often a verdict column was true, and, where there is a label to compare with, how often rightly so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCount {
    /// The column.
    pub column: String,
    /// Rows with verdict true.
    pub flagged: u64,
    /// Rows with verdict true and label true.
    pub true_positives: u64,
    /// Rows with verdict true and label false.
    pub false_positives: u64,
    /// Rows with verdict false and label true.
    pub false_negatives: u64,
    /// Rows with verdict false and label false.
    pub true_negatives: u64,
}

impl StepCount {
    /// Adds another split's counts of the same step.
    pub fn merge(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.rows_kept += other.rows_kept;
        self.rows_rejected += other.rows_rejected;
        self.rows_quarantined += other.rows_quarantined;
        self.rows_out += other.rows_out;
        self.seconds += other.seconds;
        for (verdict, more) in self.verdicts.iter_mut().zip(&other.verdicts) {
            verdict.flagged += more.flagged;
            verdict.true_positives += more.true_positives;
            verdict.false_positives += more.false_positives;
            verdict.false_negatives += more.false_negatives;
            verdict.true_negatives += more.true_negatives;
        }
    }
}

/// The record that makes a split done: created once, never changed.
///
/// ```
/// use gristmill_datasets::run::{CommitRecord, StepCount};
///
/// let record = CommitRecord {
///     split: 17,
///     part: Some("data/00017-0123456789abcdef.parquet".into()),
///     rows_in: 10,
///     rows_unreadable: 1,
///     rows_quarantined: 1,
///     rows_rejected: 4,
///     rows_out: 5,
///     attempt: "0123456789abcdef".into(),
///     steps: vec![StepCount { name: "filter".into(), rows_in: 9, rows_kept: 5, rows_rejected: 4, rows_out: 5, ..StepCount::default() }],
///     ..CommitRecord::default()
/// };
/// assert_eq!(record.balances(), Ok(()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// Number of the split: the order of the output.
    pub split: u64,
    /// Path of the part relative to the run folder; `None` when no row survived.
    pub part: Option<String>,
    /// Path of the rejected rows relative to the run folder, where they are written and there are any.
    pub rejected_part: Option<String>,
    /// Path of the quarantined rows relative to the run folder, where there are any.
    pub quarantine_part: Option<String>,
    /// Rows of the split, unreadable ones included.
    pub rows_in: u64,
    /// Rows that could not be read at all and never reached the first step.
    pub rows_unreadable: u64,
    /// Rows in the part.
    pub rows_out: u64,
    /// Rows rejected, over all steps.
    pub rows_rejected: u64,
    /// Rows quarantined: the unreadable ones and those of all steps.
    pub rows_quarantined: u64,
    /// Bytes of the source that the split covers.
    pub bytes_in: u64,
    /// Bytes of the part.
    pub bytes_out: u64,
    /// The attempt that wrote the part: 64 random bits as 16 hexadecimal digits.
    pub attempt: String,
    /// What was read: the location of the file, and the range where the split is not the whole file.
    pub source: String,
    /// Wall time of the attempt in seconds.
    pub seconds: f64,
    /// Fingerprint of the run.
    pub fingerprint: String,
    /// Rows per step, in the order of the chain.
    pub steps: Vec<StepCount>,
    /// How the split ended.
    pub status: SplitStatus,
    /// Why it was given up.
    pub error: Option<String>,
    /// BLAKE3 hash of the part in hexadecimal.
    pub checksum: Option<String>,
}

impl CommitRecord {
    /// The record of a split that is given up.
    #[must_use]
    pub fn failed(
        split: u64,
        fingerprint: impl Into<String>,
        source: impl Into<String>,
        error: impl Into<String>,
    ) -> Self {
        Self {
            split,
            attempt: super::new_attempt(),
            source: source.into(),
            fingerprint: fingerprint.into(),
            status: SplitStatus::Failed,
            error: Some(error.into()),
            ..Self::default()
        }
    }

    /// The parts that the record names.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        [&self.part, &self.rejected_part, &self.quarantine_part].into_iter().filter_map(|part| part.as_deref())
    }

    /// Whether every row that came in is accounted for. A record of a split that was given up counts nothing.
    ///
    /// # Errors
    ///
    /// The first equation that does not hold, in words.
    pub fn balances(&self) -> Result<(), String> {
        if self.status == SplitStatus::Failed {
            return Ok(());
        }
        let readable = self.rows_in.checked_sub(self.rows_unreadable).ok_or_else(|| {
            format!("split {}: {} unreadable rows of {}", self.split, self.rows_unreadable, self.rows_in)
        })?;
        let mut arriving = u128::from(readable);
        let mut rejected = 0_u128;
        let mut quarantined = u128::from(self.rows_unreadable);
        for (position, step) in self.steps.iter().enumerate() {
            let place = Place { split: self.split, step: Some((position, &step.name)) };
            place.equal(u128::from(step.rows_in), "rows came in", arriving, "rows were handed over")?;
            let counted =
                u128::from(step.rows_kept) + u128::from(step.rows_rejected) + u128::from(step.rows_quarantined);
            place.equal(u128::from(step.rows_in), "rows came in", counted, "were kept, rejected or quarantined")?;
            rejected += u128::from(step.rows_rejected);
            quarantined += u128::from(step.rows_quarantined);
            arriving = u128::from(step.rows_out);
        }
        let place = Place { split: self.split, step: None };
        place.equal(arriving, "rows left the last step", u128::from(self.rows_out), "rows were written")?;
        place.equal(rejected, "rows were rejected by steps", u128::from(self.rows_rejected), "are recorded")?;
        place.equal(quarantined, "rows were quarantined", u128::from(self.rows_quarantined), "are recorded")?;
        if self.rows_out > 0 && self.part.is_none() {
            return Err(format!("{place}: {} rows were written, but the record names no part", self.rows_out));
        }
        Ok(())
    }
}

/// Where an equation is checked.
struct Place<'a> {
    split: u64,
    step: Option<(usize, &'a str)>,
}

impl Place<'_> {
    fn equal(&self, left: u128, left_words: &str, right: u128, right_words: &str) -> Result<(), String> {
        if left == right {
            return Ok(());
        }
        Err(format!("{self}: {left} {left_words}, but {right} {right_words}"))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "split {}", self.split)?;
        match self.step {
            Some((position, name)) => write!(formatter, ", step {position} '{name}'"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SplitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Committed => "committed",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record with every field set, that balances.
    pub(crate) fn full_record(split: u64) -> CommitRecord {
        CommitRecord {
            split,
            part: Some(format!("data/{split:05}-00000000000000aa.parquet")),
            rejected_part: Some(format!("rejected/{split:05}-00000000000000aa.parquet")),
            quarantine_part: Some(format!("quarantine/{split:05}-00000000000000aa.parquet")),
            rows_in: 100,
            rows_unreadable: 3,
            rows_out: 100,
            rows_rejected: 40,
            rows_quarantined: 10,
            bytes_in: 12_345,
            bytes_out: 6_789,
            attempt: "00000000000000aa".into(),
            source: "file:///corpus/a.parquet#row_groups=0..2".into(),
            seconds: 0.1 + 0.2,
            fingerprint: "f".repeat(64),
            steps: vec![
                StepCount {
                    name: "words".into(),
                    kind: "blocklist".into(),
                    rows_in: 97,
                    rows_kept: 50,
                    rows_rejected: 40,
                    rows_quarantined: 7,
                    rows_out: 50,
                    seconds: 0.25,
                },
                StepCount {
                    name: "chunks".into(),
                    kind: "chunk".into(),
                    rows_in: 50,
                    rows_kept: 50,
                    rows_rejected: 0,
                    rows_quarantined: 0,
                    rows_out: 100,
                    seconds: f64::MIN_POSITIVE,
                },
            ],
            status: SplitStatus::Committed,
            error: None,
            checksum: Some("c".repeat(64)),
        }
    }

    #[test]
    fn every_equation_is_checked() {
        type Change = fn(&mut CommitRecord);
        let cases: [(&str, Change); 10] = [
            ("4000 unreadable rows of 100", |record| record.rows_unreadable = 4000),
            ("97 rows came in, but 96 rows were handed over", |record| record.rows_unreadable = 4),
            ("step 0 'words': 97 rows came in, but 96 were kept", |record| record.steps[0].rows_kept = 49),
            ("step 1 'chunks': 50 rows came in, but 51 rows were handed", |record| record.steps[0].rows_out = 51),
            ("100 rows left the last step, but 99 rows were written", |record| record.rows_out = 99),
            ("40 rows were rejected by steps, but 41 are recorded", |record| record.rows_rejected = 41),
            ("10 rows were quarantined, but 7 are recorded", |record| record.rows_quarantined = 7),
            ("names no part", |record| record.part = None),
            ("97 rows left the last step, but 100 rows were written", |record| record.steps.clear()),
            ("were kept", |record| record.steps[0].rows_rejected = u64::MAX),
        ];
        assert_eq!(full_record(1).balances(), Ok(()));
        for (expected, change) in cases {
            let mut record = full_record(1);
            change(&mut record);
            let message = record.balances().unwrap_err();
            assert!(message.contains(expected), "'{message}' lacks '{expected}'");
        }
    }

    #[test]
    fn a_chain_without_steps_and_an_empty_split_balance() {
        let copied = CommitRecord { rows_in: 5, rows_out: 5, part: Some("p".into()), ..CommitRecord::default() };
        assert_eq!(copied.balances(), Ok(()));
        assert_eq!(CommitRecord::default().balances(), Ok(()));
        assert_eq!(CommitRecord::failed(3, "f", "s", "broken").balances(), Ok(()));
    }
}
