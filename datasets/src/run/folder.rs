//! A run folder on an object store: the commit log as callers use it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

use super::log::{COMMITS, Codec, CommitOutcome, FAILED, Log, Opened, PART_FOLDERS, PLAN_KEY, SplitOutcome};
use super::manifest::{Manifest, Totals};
use super::plan::{self, RunPlan};
use super::protocol::RetryPolicy;
use super::record::CommitRecord;
use super::records;
use super::store::{LogStore, ObjectFolder, is_staged};
use crate::{DatasetError, Result};

/// The folder of one run, shared by any number of drivers and workers that know nothing of each other.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # runtime.block_on(async {
/// use std::sync::Arc;
/// use gristmill_datasets::run::{CommitOutcome, CommitRecord, Fingerprint, RunFolder, RunPlan, new_attempt};
/// use gristmill_datasets::{Compression, Format, SourceFile, SourcePlan, Split, SplitUnit};
/// use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
/// use serde_json::json;
///
/// let file = SourceFile {
///     url: "file:///corpus/a.jsonl".into(), size: 10, etag: None, version: None, modified_ms: None,
///     format: Format::Jsonl, compression: Compression::None,
/// };
/// let split = Split {
///     number: 0, file: 0, unit: SplitUnit::File, start: 0, end: 0, skip: 0, take: None, first_row: None, file_row: None, rows: None, bytes: 10,
/// };
/// let source = SourcePlan { files: vec![file], splits: vec![split], schema: Arc::new(arrow_schema::Schema::empty()) };
/// let plan = RunPlan::new("copy", Fingerprint::of(json!({"steps": []})), &source, json!({}));
///
/// let store = Arc::new(InMemory::new());
/// let run = RunFolder::new(store.clone(), Path::from("out"), "memory:///out".into());
/// run.probe().await?;
/// run.open_or_create_plan(&plan).await?;
///
/// let attempt = new_attempt();
/// let part = plan.part_name("data", 0, &attempt, "parquet");
/// store.put(&run.path(&part), "rows".into()).await?;
/// let record = CommitRecord {
///     split: 0, part: Some(part), rows_in: 1, rows_out: 1, attempt, fingerprint: plan.fingerprint.value.clone(),
///     ..CommitRecord::default()
/// };
/// assert_eq!(run.commit(&record).await?, CommitOutcome::Won);
/// assert_eq!(run.finish(&plan).await?.totals().rows_out, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RunFolder {
    log: Log<ObjectFolder, ParquetCodec>,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStatus {
    /// Name of the run.
    pub name: String,
    /// Fingerprint of the run.
    pub fingerprint: String,
    /// When the run was planned, in milliseconds since 1970.
    pub created_ms: i64,
    /// Number of splits.
    pub total: u64,
    /// Splits that are committed.
    pub committed: u64,
    /// The records of the splits that were given up and are not committed, with their errors.
    pub failed: Vec<CommitRecord>,
    /// Sums over the committed splits.
    pub totals: Totals,
    /// Whether the manifest is written.
    pub finished: bool,
}

impl RunFolder {
    /// The run folder `root` of `store`. `url` is its location as people write it, without credentials; errors name it.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, url: String) -> Self {
        Self { log: Log::new(ObjectFolder::new(store, root, url), ParquetCodec) }
    }

    /// The same folder with another patience for a store that fails.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.log.retry = retry;
        self
    }

    /// The same folder with another number of records that are read at once, at least 1.
    #[must_use]
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.log.readers = readers.max(1);
        self
    }

    /// Location of the folder as people write it.
    #[must_use]
    pub fn url(&self) -> &str {
        self.log.store.url()
    }

    /// The object of a part or of another path relative to the folder.
    #[must_use]
    pub fn path(&self, relative: &str) -> Path {
        self.log.store.path(relative)
    }

    /// Checks that the store refuses to create a key that exists, by doing it. The key is new every time and deleted
    /// afterwards.
    ///
    /// # Errors
    ///
    /// [`DatasetError::Setting`] when the store overwrites or cannot create conditionally; such a store cannot hold a run.
    pub async fn probe(&self) -> Result<()> {
        self.log.probe(&format!("_run/probe-{}", super::new_attempt())).await
    }

    /// Writes the plan down, or finds the run that is to be resumed. Drivers may do this at the same time.
    ///
    /// # Errors
    ///
    /// [`DatasetError::DifferentRun`] with what changed, when the folder holds a run with another fingerprint.
    pub async fn open_or_create_plan(&self, plan: &RunPlan) -> Result<Opened> {
        self.log.open_or_create_plan(plan).await
    }

    /// The plan of the folder; `None` when it holds no run.
    ///
    /// # Errors
    ///
    /// When the store fails or the plan is malformed.
    pub async fn read_plan(&self) -> Result<Option<RunPlan>> {
        self.log.read_plan().await
    }

    /// The splits that are committed, by listing the commit records.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn committed(&self) -> Result<BTreeSet<u64>> {
        self.log.committed().await
    }

    /// The record of a split; `None` when it is not committed.
    ///
    /// # Errors
    ///
    /// When the store fails or the record is malformed.
    pub async fn read_commit(&self, split: u64) -> Result<Option<CommitRecord>> {
        self.log.read_commit(split).await
    }

    /// Makes a split done by creating its record. The parts that it names must be complete: closed and readable.
    ///
    /// After [`CommitOutcome::Lost`] they have been deleted. After an error nobody knows whether the record was created,
    /// so they are left; run the split again with a new attempt, or leave it to the next driver.
    ///
    /// # Errors
    ///
    /// [`DatasetError::Unbalanced`] when rows are unaccounted for; nothing is created then. Otherwise when the store fails
    /// for good or more often than the retry policy allows.
    pub async fn commit(&self, record: &CommitRecord) -> Result<CommitOutcome> {
        self.log.commit(record).await
    }

    /// Runs one split unless it is committed: `write` is given a new attempt, writes its parts, returns when they are
    /// complete, and says what the record is to say.
    ///
    /// # Errors
    ///
    /// Those of `write` and of [`RunFolder::commit`].
    pub async fn run_split<F, Fut>(&self, split: u64, write: F) -> Result<SplitOutcome>
    where
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = Result<CommitRecord>>,
    {
        self.log.run_split(split, super::new_attempt(), write).await
    }

    /// Notes that a split is given up, with a record made by [`CommitRecord::failed`]. The note stops nobody from
    /// committing the split later; drivers leave the split out until [`RunFolder::retry_failed`].
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn fail(&self, record: &CommitRecord) -> Result<()> {
        self.log.give_up(record).await
    }

    /// The splits that were given up; a split may have been committed since.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn given_up(&self) -> Result<BTreeSet<u64>> {
        self.log.given_up().await
    }

    /// Forgets which splits were given up, so that drivers run them again; returns which they were.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn retry_failed(&self) -> Result<BTreeSet<u64>> {
        self.log.retry_failed().await
    }

    /// Writes the manifest when every split is committed, and deletes the parts that no record names. Repeating it is safe,
    /// and so are several drivers that finish at the same time.
    ///
    /// # Errors
    ///
    /// [`DatasetError::Incomplete`] when splits are missing, [`DatasetError::Unbalanced`] when rows are unaccounted for.
    pub async fn finish(&self, plan: &RunPlan) -> Result<Manifest> {
        self.finish_knowing(plan, Vec::new()).await
    }

    /// The same as [`RunFolder::finish`] for a driver that knows records already: those that it committed, and those that
    /// it lost to. Known records are not read again. The folder's listing decides what is committed in any case.
    ///
    /// # Errors
    ///
    /// As [`RunFolder::finish`].
    pub async fn finish_knowing(&self, plan: &RunPlan, known: Vec<CommitRecord>) -> Result<Manifest> {
        let (manifest, swept) = self.log.finish(plan, known).await?;
        let staged = self.delete_staged().await;
        tracing::debug!(deleted = swept.deleted, left = swept.left, staged, "deleted parts that no record names");
        Ok(manifest)
    }

    /// The manifest of a finished run; `None` while it runs.
    ///
    /// # Errors
    ///
    /// When the store fails or the manifest is malformed.
    pub async fn read_manifest(&self) -> Result<Option<Manifest>> {
        self.log.read_manifest().await
    }

    /// How far the run is. For a finished run this reads the manifest, for a running one every record.
    ///
    /// # Errors
    ///
    /// [`DatasetError::NotFound`] when the folder holds no run; otherwise when the store fails.
    pub async fn status(&self) -> Result<RunStatus> {
        let plan = self.read_plan().await?.ok_or_else(|| DatasetError::NotFound {
            location: self.log.store.location(PLAN_KEY),
            hint: Some("the folder holds no run".to_owned()),
        })?;
        let manifest = self.read_manifest().await?;
        let finished = manifest.is_some();
        let records = match manifest {
            Some(manifest) => manifest.records,
            None => self.log.read_commits(self.committed().await?).await?,
        };
        let mut failed = Vec::new();
        if !finished {
            let committed: BTreeSet<u64> = records.iter().map(|record| record.split).collect();
            for split in self.given_up().await?.difference(&committed) {
                failed.extend(self.log.read_failure(*split).await?);
            }
        }
        Ok(RunStatus {
            name: plan.name.clone(),
            fingerprint: plan.fingerprint.value.clone(),
            created_ms: plan.created_ms,
            total: plan.total(),
            committed: records.len() as u64,
            failed,
            totals: Totals::of(&records),
            finished,
        })
    }

    /// Deletes what killed writers of one file of the folder, such as a result that is made of all parts, left behind on a local disk. Call it when
    /// the file is there: a writer that is still at work loses what it has written.
    pub async fn delete_staged_of(&self, name: &str) {
        let Some(root) = self.log.store.local().cloned() else { return };
        let (folder, name) = match name.rsplit_once('/') {
            Some((folder, name)) => (root.join(folder), name.to_owned()),
            None => (root, name.to_owned()),
        };
        let deleted = tokio::task::spawn_blocking(move || {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            for entry in entries {
                let found = entry.file_name().to_string_lossy().into_owned();
                let is_of_name = found.strip_prefix(&name).is_some_and(|rest| rest.starts_with('#'));
                if is_of_name && is_staged(&found) {
                    // What cannot be deleted costs space and nothing else.
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        });
        let _ = deleted.await;
    }

    /// Deletes what killed writers left behind on a local disk: files that were staged under a name with `#` and a number,
    /// and never got their own name. Returns how many.
    async fn delete_staged(&self) -> usize {
        let Some(root) = self.log.store.local().cloned() else { return 0 };
        let folders = PART_FOLDERS.into_iter().chain([COMMITS, FAILED, "_run"]).map(|folder| root.join(folder));
        let folders: Vec<_> = folders.collect();
        let deleted = tokio::task::spawn_blocking(move || {
            let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
            let staged = entries.filter(|entry| is_staged(&entry.file_name().to_string_lossy()));
            staged.filter(|entry| std::fs::remove_file(entry.path()).is_ok()).count()
        });
        deleted.await.unwrap_or_default()
    }
}

/// The documents of a run as Parquet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParquetCodec;

impl Codec for ParquetCodec {
    fn encode_record(&self, record: &CommitRecord, location: &str) -> Result<Bytes> {
        records::encode_record(record, location)
    }

    fn decode_record(&self, bytes: &Bytes, location: &str) -> Result<CommitRecord> {
        records::decode_record(bytes, location)
    }

    fn encode_plan(&self, plan: &RunPlan, location: &str) -> Result<Bytes> {
        plan::encode_plan(plan, location)
    }

    fn decode_plan(&self, bytes: &Bytes, location: &str) -> Result<RunPlan> {
        plan::decode_plan(bytes, location)
    }

    fn encode_manifest(&self, manifest: &Manifest, location: &str) -> Result<Bytes> {
        records::encode_manifest(manifest, location)
    }

    fn decode_manifest(&self, bytes: &Bytes, location: &str) -> Result<Manifest> {
        records::decode_manifest(bytes, location)
    }
}
