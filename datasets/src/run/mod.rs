//! The run: exactly-once output of splits, by a commit log on an object store.
//!
//! A run folder looks like this:
//!
//! ```text
//! data/00017-<attempt>.parquet      parts; `rejected/` and `quarantine/` beside them
//! _run/plan.parquet                 the splits and the fingerprint, created once
//! _run/commits/00017.parquet        one record per split, created once
//! _run/failed/00017.parquet         a note that a split was given up, and why
//! _run/manifest.parquet             written when every split is committed: what readers trust
//! ```
//!
//! A split is done when its commit record was created, and nothing else counts: no lock, no lease, no listing of parts.
//! Parts are named after a random attempt, so a writer that was thought dead can never overwrite what was committed; the
//! first record created wins, every other attempt finds that out and deletes its own part. Records are never changed
//! and never deleted. So any number of drivers and workers may work on a run at once, be killed at any moment, and be
//! started again.
//!
//! What is promised:
//!
//! * each row of the source is in exactly one part of the manifest, or counted as rejected or quarantined;
//! * after `kill -9` at any point, the same command goes on, and only splits without a record run again;
//! * on local disks, a part is flushed before the record that names it is created. Records themselves are not flushed,
//!   so a loss of power may lose the latest ones; their splits run again. A record that such a loss left empty is
//!   reported as malformed: deleting that one file lets its split run again.
//!
//! What is not: exactly-once is about rows and files. Work may be done twice, and abandoned multipart uploads stay with
//! the store until a lifecycle rule removes them.

mod columns;
#[cfg(any(test, feature = "simulation"))]
pub mod fault_store;
mod fingerprint;
mod folder;
mod log;
mod manifest;
mod plan;
pub mod protocol;
mod record;
mod record_copy;
mod records;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

pub use fingerprint::{Difference, Fingerprint, RUN_FORMAT, explain_difference};
pub use folder::{RunFolder, RunStatus};
pub use log::{CommitOutcome, Opened, SplitOutcome};
pub use manifest::{Manifest, Totals};
pub use plan::{RunPlan, part_name};
pub use protocol::RetryPolicy;
pub use record::{CommitRecord, SplitStatus, StepCount, VerdictCount};

/// A name for an attempt that no other attempt has: 64 random bits as 16 hexadecimal digits. It is drawn when an attempt
/// starts to write, never when it is planned: a plan may be run twice.
#[must_use]
pub fn new_attempt() -> String {
    format!("{:016x}", rand::random::<u64>())
}
