//! What a run has done so far, counted by the workers and read by whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use gristmill_datasets::run::StepCount;

/// Counters of a run. Cheap to update from every worker.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    splits_total: AtomicU64,
    splits_resumed: AtomicU64,
    splits_done: AtomicU64,
    splits_failed: AtomicU64,
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    rows_rejected: AtomicU64,
    rows_quarantined: AtomicU64,
    bytes_in: AtomicU64,
    bytes_total: AtomicU64,
    text_bytes: AtomicU64,
    steps: Mutex<Vec<StepCount>>,
}

/// A reading of [`Progress`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Seconds since the run began.
    pub seconds: f64,
    /// Splits of the run.
    pub splits_total: u64,
    /// Splits that were committed before this run began.
    pub splits_resumed: u64,
    /// Splits committed now, those before included.
    pub splits_done: u64,
    /// Splits given up.
    pub splits_failed: u64,
    /// Rows read by this run, unreadable ones included.
    pub rows_in: u64,
    /// Rows written by this run.
    pub rows_out: u64,
    /// Rows rejected by this run.
    pub rows_rejected: u64,
    /// Rows quarantined by this run.
    pub rows_quarantined: u64,
    /// Bytes of the source, as stored, covered by the splits this run finished.
    pub bytes_in: u64,
    /// Bytes of the source, as stored, that this run has to cover.
    pub bytes_total: u64,
    /// Bytes of text read by this run, uncompressed.
    pub text_bytes: u64,
    /// Rows a second.
    pub rows_per_second: f64,
    /// Megabytes of text a second.
    pub megabytes_per_second: f64,
    /// Seconds left at this rate; absent until a split is finished.
    pub eta_seconds: Option<f64>,
    /// What each step did.
    pub steps: Vec<StepCount>,
}

impl Progress {
    /// Counters of a run with `total` splits of which `resumed` are done, and `bytes` still to cover.
    #[must_use]
    pub fn new(total: u64, resumed: u64, bytes: u64) -> Self {
        Self {
            begun: Instant::now(),
            splits_total: total.into(),
            splits_resumed: resumed.into(),
            splits_done: resumed.into(),
            splits_failed: 0.into(),
            rows_in: 0.into(),
            rows_out: 0.into(),
            rows_rejected: 0.into(),
            rows_quarantined: 0.into(),
            bytes_in: 0.into(),
            bytes_total: bytes.into(),
            text_bytes: 0.into(),
            steps: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn add_read(&self, rows: u64, text_bytes: u64) {
        self.rows_in.fetch_add(rows, Ordering::Relaxed);
        self.text_bytes.fetch_add(text_bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_written(&self, rows: u64) {
        self.rows_out.fetch_add(rows, Ordering::Relaxed);
    }

    pub(crate) fn add_aside(&self, rejected: u64, quarantined: u64) {
        self.rows_rejected.fetch_add(rejected, Ordering::Relaxed);
        self.rows_quarantined.fetch_add(quarantined, Ordering::Relaxed);
    }

    pub(crate) fn split_done(&self, bytes: u64, steps: &[StepCount]) {
        self.splits_done.fetch_add(1, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        let mut known = self.steps.lock();
        if known.is_empty() {
            known.extend_from_slice(steps);
            return;
        }
        for (step, more) in known.iter_mut().zip(steps) {
            step.merge(more);
        }
    }

    pub(crate) fn split_failed(&self) {
        self.splits_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let elapsed = self.begun.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (rows_in, text_bytes) = (read(&self.rows_in), read(&self.text_bytes));
        let (bytes_in, bytes_total) = (read(&self.bytes_in), read(&self.bytes_total));
        let eta = (bytes_in > 0).then(|| elapsed * bytes_total.saturating_sub(bytes_in) as f64 / bytes_in as f64);
        Snapshot {
            seconds: elapsed,
            splits_total: read(&self.splits_total),
            splits_resumed: read(&self.splits_resumed),
            splits_done: read(&self.splits_done),
            splits_failed: read(&self.splits_failed),
            rows_in,
            rows_out: read(&self.rows_out),
            rows_rejected: read(&self.rows_rejected),
            rows_quarantined: read(&self.rows_quarantined),
            bytes_in,
            bytes_total,
            text_bytes,
            rows_per_second: rows_in as f64 / elapsed,
            megabytes_per_second: text_bytes as f64 / 1e6 / elapsed,
            eta_seconds: eta,
            steps: self.steps.lock().clone(),
        }
    }
}
