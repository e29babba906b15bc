//! The commit log: seeing and doing what `protocol.rs` decides.
//!
//! The code is generic over the store and over how documents are written down, and takes its decisions from a table. A run
//! uses an object store, Parquet and [`Decisions::PROTOCOL`]; the simulation uses a store that fails on purpose, and wrong
//! decisions to show that it would notice.

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::fingerprint::explain_difference;
use super::manifest::Manifest;
use super::plan::RunPlan;
use super::protocol::{AfterCreate, AfterPublish, CreateAnswer, Decisions, PartFate, RetryPolicy, after_publish};
use super::record::CommitRecord;
use super::store::LogStore;
use crate::{DatasetError, Result};

pub(crate) const PLAN_KEY: &str = "_run/plan.parquet";
pub(crate) const MANIFEST_KEY: &str = "_run/manifest.parquet";
pub(crate) const COMMITS: &str = "_run/commits";
pub(crate) const FAILED: &str = "_run/failed";
/// The folders that parts are in.
pub(crate) const PART_FOLDERS: [&str; 3] = ["data", "rejected", "quarantine"];

/// How the documents of the log are written down.
pub(crate) trait Codec: Clone + Send + Sync + 'static {
    fn encode_record(&self, record: &CommitRecord, location: &str) -> Result<Bytes>;
    fn decode_record(&self, bytes: &Bytes, location: &str) -> Result<CommitRecord>;
    fn encode_plan(&self, plan: &RunPlan, location: &str) -> Result<Bytes>;
    fn decode_plan(&self, bytes: &Bytes, location: &str) -> Result<RunPlan>;
    fn encode_manifest(&self, manifest: &Manifest, location: &str) -> Result<Bytes>;
    fn decode_manifest(&self, bytes: &Bytes, location: &str) -> Result<Manifest>;
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitOutcome {
    /// The split is done by this record.
    Won,
    /// The split is done by this record since an earlier try whose answer was lost.
    AlreadyOurs,
    /// The split is done by another attempt, whose record this is. The parts of the losing record were deleted.
    Lost(Box<CommitRecord>),
}

/// What became of a split that was asked to run.
#[derive(Clone, Debug, PartialEq)]
pub enum SplitOutcome {
    /// It had been committed before; nothing was read or written.
    Skipped(Box<CommitRecord>),
    /// It was run, and its commit ended like this.
    Ran(Box<CommitRecord>, CommitOutcome),
}

impl SplitOutcome {
    /// The record by which the split is done.
    #[must_use]
    pub fn record(&self) -> &CommitRecord {
        match self {
            Self::Ran(_, CommitOutcome::Lost(record)) | Self::Skipped(record) | Self::Ran(record, _) => record,
        }
    }
}

/// The plan that counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    /// The given plan was written down.
    Created,
    /// The folder holds a run with the same fingerprint, whose plan is this one. Its splits count, not those of the given plan.
    Resumed(Box<RunPlan>),
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Parts that no record names, deleted.
    pub(crate) deleted: usize,
    /// Parts that no record names and that could not be deleted.
    pub(crate) left: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Log<S, C> {
    pub(crate) store: S,
    pub(crate) codec: C,
    pub(crate) retry: RetryPolicy,
    pub(crate) decisions: Decisions,
    /// Records that are read at once.
    pub(crate) readers: usize,
}

impl<S: LogStore, C: Codec> Log<S, C> {
    pub(crate) fn new(store: S, codec: C) -> Self {
        Self { store, codec, retry: RetryPolicy::default(), decisions: Decisions::PROTOCOL, readers: 64 }
    }

    /// Creates `key` twice and refuses a store that lets both succeed.
    pub(crate) async fn probe(&self, key: &str) -> Result<()> {
        let content = Bytes::from_static(b"gristmill creates this key twice; the store must refuse the second time\n");
        let probed = async {
            // A first create whose answer was lost is answered with "exists", which is just what is asked.
            if !self.retried(|| self.store.create(key, content.clone())).await? {
                return Ok(true);
            }
            Ok(!self.retried(|| self.store.create(key, content.clone())).await?)
        }
        .await;
        let cleaned = self.retried(|| self.store.delete(key)).await;
        if !probed? {
            return Err(DatasetError::Setting {
                key: self.store.location(""),
                message: "this store overwrites a key that must only be created, so it cannot hold a run; \
                          use a store that honours 'If-None-Match: *', or a local folder"
                    .to_owned(),
            });
        }
        cleaned
    }

    /// Writes the plan down, or finds the one that is there.
    pub(crate) async fn open_or_create_plan(&self, plan: &RunPlan) -> Result<Opened> {
        let existing = self.read_plan().await?;
        let existing = match existing {
            Some(existing) => existing,
            None => {
                let bytes = self.codec.encode_plan(plan, &self.store.location(PLAN_KEY))?;
                let read = || self.read_plan();
                let agrees = |existing: &RunPlan| existing.fingerprint.value == plan.fingerprint.value;
                match self.publish(PLAN_KEY, bytes, read, agrees).await? {
                    None => return Ok(Opened::Created),
                    Some(existing) => existing,
                }
            }
        };
        if existing.fingerprint.value == plan.fingerprint.value {
            return Ok(Opened::Resumed(Box::new(existing)));
        }
        let differences = explain_difference(&existing.fingerprint, &plan.fingerprint);
        Err(DatasetError::DifferentRun {
            location: self.store.location(PLAN_KEY),
            differences: differences.iter().map(ToString::to_string).collect(),
        })
    }

    /// The plan of the folder, `None` when it holds no run.
    pub(crate) async fn read_plan(&self) -> Result<Option<RunPlan>> {
        self.read_document(PLAN_KEY, |bytes, location| self.codec.decode_plan(bytes, location)).await
    }

    /// The splits that are committed, found by listing only.
    pub(crate) async fn committed(&self) -> Result<BTreeSet<u64>> {
        self.numbers_in(COMMITS).await
    }

    /// The splits that were given up and not committed since, by their records' names.
    pub(crate) async fn given_up(&self) -> Result<BTreeSet<u64>> {
        self.numbers_in(FAILED).await
    }

    pub(crate) async fn read_commit(&self, split: u64) -> Result<Option<CommitRecord>> {
        self.read_record(&record_key(COMMITS, split), split).await
    }

    pub(crate) async fn read_failure(&self, split: u64) -> Result<Option<CommitRecord>> {
        self.read_record(&record_key(FAILED, split), split).await
    }

    /// Runs one split unless it is committed: `write` writes the parts of the given attempt, returns when they are
    /// complete, and says what the record is to say.
    pub(crate) async fn run_split<F, Fut>(&self, split: u64, attempt: String, write: F) -> Result<SplitOutcome>
    where
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = Result<CommitRecord>>,
    {
        if let Some(record) = self.read_commit(split).await? {
            return Ok(SplitOutcome::Skipped(Box::new(record)));
        }
        let record = write(attempt).await?;
        let outcome = self.commit(&record).await?;
        Ok(SplitOutcome::Ran(Box::new(record), outcome))
    }

    /// Makes a split done. The parts that the record names must be complete.
    pub(crate) async fn commit(&self, record: &CommitRecord) -> Result<CommitOutcome> {
        let key = record_key(COMMITS, record.split);
        let location = self.store.location(&key);
        check_record(record, &location)?;
        for part in record.parts() {
            self.store.settle(part).await?;
        }
        let bytes = self.codec.encode_record(record, &location)?;
        let mut failures = 0;
        loop {
            let (answer, failure) = self.create(&key, bytes.clone()).await?;
            let standing = match answer {
                CreateAnswer::Exists => self.read_record(&key, record.split).await?,
                CreateAnswer::Created | CreateAnswer::Unknown => None,
            };
            let attempt = standing.as_ref().map(|standing| standing.attempt.as_str());
            let decided = (self.decisions.after_create)(answer, attempt, &record.attempt);
            match (decided, standing) {
                (AfterCreate::Won, _) => return Ok(CommitOutcome::Won),
                (AfterCreate::AlreadyOurs, _) => return Ok(CommitOutcome::AlreadyOurs),
                (AfterCreate::Lost, Some(winner)) => {
                    self.drop_parts(record, Some(&winner), Some(decided)).await;
                    return Ok(CommitOutcome::Lost(Box::new(winner)));
                }
                (AfterCreate::Lost, None) | (AfterCreate::TryAgain, _) => {
                    failures += 1;
                    if let Err(error) = self.pause_or_give_up(&key, failures, failure).await {
                        self.drop_parts(record, None, None).await;
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Notes that a split is given up. A note of an earlier failure stays.
    pub(crate) async fn give_up(&self, record: &CommitRecord) -> Result<()> {
        let key = record_key(FAILED, record.split);
        let bytes = self.codec.encode_record(record, &self.store.location(&key))?;
        let read = || self.read_record(&key, record.split);
        self.publish(&key, bytes, read, |_| true).await.map(|_| ())
    }

    /// Forgets which splits were given up, and says which they were. Commit records are not touched, so no committed
    /// split can run again, whoever else works on the run.
    pub(crate) async fn retry_failed(&self) -> Result<BTreeSet<u64>> {
        let splits = self.given_up().await?;
        let keys: Vec<String> = splits.iter().map(|split| record_key(FAILED, *split)).collect();
        stream::iter(keys)
            .map(|key| async move { self.retried(|| self.store.delete(&key)).await })
            .buffer_unordered(self.readers)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(splits)
    }

    /// Writes the manifest when every split is committed, and deletes parts that no record names. Repeating it is safe,
    /// also while other drivers or late attempts are still at work. Records never change, so those that the caller knows to
    /// be committed need not be read.
    pub(crate) async fn finish(&self, plan: &RunPlan, known: Vec<CommitRecord>) -> Result<(Manifest, Swept)> {
        let manifest = match self.read_manifest().await? {
            Some(manifest) => manifest,
            None => self.publish_manifest(plan, known).await?,
        };
        manifest.complete(plan).map_err(|message| self.malformed(MANIFEST_KEY, message))?;
        let swept = self.sweep(&manifest).await?;
        Ok((manifest, swept))
    }

    pub(crate) async fn read_manifest(&self) -> Result<Option<Manifest>> {
        self.read_document(MANIFEST_KEY, |bytes, location| self.codec.decode_manifest(bytes, location)).await
    }

    async fn publish_manifest(&self, plan: &RunPlan, known: Vec<CommitRecord>) -> Result<Manifest> {
        let committed = self.committed().await?;
        let missing: Vec<u64> = (0..plan.total()).filter(|split| !committed.contains(split)).collect();
        if !missing.is_empty() {
            return Err(DatasetError::Incomplete {
                location: self.store.location(COMMITS),
                total: plan.total(),
                missing,
            });
        }
        let mut records: Vec<CommitRecord> = known.into_iter().filter(|record| record.split < plan.total()).collect();
        records.sort_unstable_by_key(|record| record.split);
        records.dedup_by_key(|record| record.split);
        let is_known: HashSet<u64> = records.iter().map(|record| record.split).collect();
        records.extend(self.read_commits((0..plan.total()).filter(|split| !is_known.contains(split))).await?);
        records.sort_unstable_by_key(|record| record.split);
        let manifest = Manifest { fingerprint: plan.fingerprint.value.clone(), records };
        manifest
            .complete(plan)
            .map_err(|message| DatasetError::Unbalanced { location: self.store.location(COMMITS), message })?;
        let bytes = self.codec.encode_manifest(&manifest, &self.store.location(MANIFEST_KEY))?;
        let read = || self.read_manifest();
        match self.publish(MANIFEST_KEY, bytes, read, |existing| *existing == manifest).await? {
            None => Ok(manifest),
            Some(existing) if existing == manifest => Ok(existing),
            Some(_) => Err(self.malformed(MANIFEST_KEY, "it differs from the commit records")),
        }
    }

    /// Reads the records of splits that are committed, in the given order: all at once, and then with patience what could
    /// not be had that way.
    pub(crate) async fn read_commits(&self, splits: impl IntoIterator<Item = u64>) -> Result<Vec<CommitRecord>> {
        let splits: Vec<u64> = splits.into_iter().collect();
        let keys = splits.iter().map(|split| record_key(COMMITS, *split)).collect();
        let codec = self.codec.clone();
        let decode = move |bytes: &Bytes, location: &str| codec.decode_record(bytes, location).ok();
        let read = self.store.read_each(keys, self.readers, decode).await;
        let (mut records, mut missing) = (Vec::with_capacity(splits.len()), Vec::new());
        for (split, record) in splits.iter().zip(read) {
            match record {
                Some(record) if record.split == *split => records.push(Some(record)),
                _ => {
                    missing.push(*split);
                    records.push(None);
                }
            }
        }
        let mut late = pin!(stream::iter(missing).map(|split| self.read_listed(split)).buffered(self.readers));
        let mut complete = Vec::with_capacity(records.len());
        for record in records {
            match record {
                Some(record) => complete.push(record),
                None => complete.extend(late.try_next().await?),
            }
        }
        Ok(complete)
    }

    async fn read_listed(&self, split: u64) -> Result<CommitRecord> {
        self.read_commit(split).await?.ok_or_else(|| DatasetError::NotFound {
            location: self.store.location(&record_key(COMMITS, split)),
            hint: Some("it was listed, and records are never deleted by a run".to_owned()),
        })
    }

    /// Deletes the parts that lost: of a split in the manifest, but not the manifest's. Anything whose name is not that
    /// of a part is left alone.
    pub(crate) async fn sweep(&self, manifest: &Manifest) -> Result<Swept> {
        // Files that share a part's name up to the extension belong to it.
        let kept: HashSet<&str> = manifest.records.iter().flat_map(CommitRecord::parts).map(stem).collect();
        let splits: HashSet<u64> = manifest.records.iter().map(|record| record.split).collect();
        let mut swept = Swept::default();
        for folder in PART_FOLDERS {
            let keys = self.retried(|| self.store.list(folder)).await?;
            let lost = keys.into_iter().filter(|key| {
                let of_split = split_of_part(key).is_some_and(|split| splits.contains(&split));
                of_split && !kept.contains(stem(key))
            });
            let mut deletions = stream::iter(lost)
                .map(|key| async move {
                    let deleted = self.retried(|| self.store.delete(&key)).await;
                    (key, deleted)
                })
                .buffer_unordered(self.readers);
            while let Some((key, deleted)) = deletions.next().await {
                match deleted {
                    Ok(()) => swept.deleted += 1,
                    Err(error) => {
                        swept.left += 1;
                        tracing::warn!(part = key, %error, "a part that no record names could not be deleted");
                    }
                }
            }
        }
        Ok(swept)
    }

    /// Creates a document that is the same for every driver: `None` when it was created, the one that is there otherwise.
    async fn publish<T, F, Fut>(
        &self,
        key: &str,
        bytes: Bytes,
        read: F,
        agrees: impl Fn(&T) -> bool,
    ) -> Result<Option<T>>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Option<T>>>,
    {
        let mut failures = 0;
        loop {
            let (answer, failure) = self.create(key, bytes.clone()).await?;
            let standing = match answer {
                CreateAnswer::Exists => read().await?,
                CreateAnswer::Created | CreateAnswer::Unknown => None,
            };
            match after_publish(answer, standing.as_ref().map(&agrees)) {
                AfterPublish::Created => return Ok(None),
                AfterPublish::Agrees | AfterPublish::Differs => return Ok(standing),
                AfterPublish::TryAgain => {
                    failures += 1;
                    self.pause_or_give_up(key, failures, failure).await?;
                }
            }
        }
    }

    /// One call that creates a key, as an answer, with the failure behind an unknown one.
    async fn create(&self, key: &str, bytes: Bytes) -> Result<(CreateAnswer, Option<DatasetError>)> {
        match self.store.create(key, bytes).await {
            Ok(true) => Ok((CreateAnswer::Created, None)),
            Ok(false) => Ok((CreateAnswer::Exists, None)),
            Err(error) if error.is_transient() => Ok((CreateAnswer::Unknown, Some(error))),
            Err(error) => Err(error),
        }
    }

    async fn pause_or_give_up(&self, key: &str, failures: u32, failure: Option<DatasetError>) -> Result<()> {
        match self.retry.pause_after(failures) {
            Some(time) => {
                self.store.pause(time).await;
                Ok(())
            }
            None => Err(failure.unwrap_or_else(|| DatasetError::Transient {
                location: self.store.location(key),
                message: format!("the store refused {failures} times to create it, but nothing is there"),
            })),
        }
    }

    /// Deletes the parts of an attempt when that is safe. A part that stays costs space and is deleted at the end.
    async fn drop_parts(&self, record: &CommitRecord, winner: Option<&CommitRecord>, decided: Option<AfterCreate>) {
        if (self.decisions.part_fate)(decided) == PartFate::Keep {
            return;
        }
        for part in record.parts() {
            if winner.is_some_and(|winner| winner.parts().any(|other| other == part)) {
                continue;
            }
            if let Err(error) = self.retried(|| self.store.delete(part)).await {
                tracing::warn!(part, %error, "the part of a lost attempt could not be deleted");
            }
        }
    }

    async fn read_record(&self, key: &str, split: u64) -> Result<Option<CommitRecord>> {
        let record = self.read_document(key, |bytes, location| self.codec.decode_record(bytes, location)).await?;
        match record {
            Some(record) if record.split != split => {
                Err(self.malformed(key, format!("it is the record of split {}", record.split)))
            }
            record => Ok(record),
        }
    }

    /// Reads and decodes a key. A document that cannot be decoded is read again: answers are cut short now and then.
    async fn read_document<T>(&self, key: &str, decode: impl Fn(&Bytes, &str) -> Result<T>) -> Result<Option<T>> {
        let mut failures = 0;
        loop {
            let found = match self.store.read(key).await {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => decode(&bytes, &self.store.location(key)),
                Err(error) => Err(error),
            };
            let error = match found {
                Ok(document) => return Ok(Some(document)),
                Err(error) => error,
            };
            failures += 1;
            let may_pass = error.is_transient() || matches!(error, DatasetError::Malformed { .. });
            match self.retry.pause_after(failures) {
                Some(time) if may_pass => self.store.pause(time).await,
                _ => return Err(error),
            }
        }
    }

    async fn numbers_in(&self, folder: &str) -> Result<BTreeSet<u64>> {
        let keys = self.retried(|| self.store.list(folder)).await?;
        Ok(keys.iter().filter_map(|key| number_of_record(key)).collect())
    }

    async fn retried<T, F, Fut>(&self, call: F) -> Result<T>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut failures = 0;
        loop {
            let error = match call().await {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            failures += 1;
            match self.retry.pause_after(failures) {
                Some(time) => self.store.pause(time).await,
                None => return Err(error),
            }
        }
    }

    fn malformed(&self, key: &str, message: impl Into<String>) -> DatasetError {
        DatasetError::Malformed { location: self.store.location(key), message: message.into() }
    }
}

/// The key of a split's record. The width is the same for every run, so that it does not depend on the plan.
pub(crate) fn record_key(folder: &str, split: u64) -> String {
    format!("{folder}/{split:05}.parquet")
}

fn number_of_record(key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?.strip_suffix(".parquet")?;
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

/// A key without the extension of its last segment.
fn stem(key: &str) -> &str {
    let begin = key.rfind('/').map_or(0, |slash| slash + 1);
    key[begin..].find('.').map_or(key, |dot| &key[..begin + dot])
}

/// The split whose part a key is by its name: `<folder>/<split>-<attempt>.<extension>`.
fn split_of_part(key: &str) -> Option<u64> {
    let (split, attempt) = stem(key).rsplit('/').next()?.split_once('-')?;
    let of_attempt = attempt.len() == 16 && attempt.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = split.len() >= 5 && split.bytes().all(|byte| byte.is_ascii_digit());
    (of_attempt && digits).then(|| split.parse().ok()).flatten()
}

/// Whether a record may be committed: it balances, and its parts are named like no other attempt's.
fn check_record(record: &CommitRecord, location: &str) -> Result<()> {
    let unbalanced = |message| DatasetError::Unbalanced { location: location.to_owned(), message };
    record.balances().map_err(unbalanced)?;
    for part in record.parts() {
        let attempt = stem(part).rsplit_once('-').map(|(_, attempt)| attempt);
        if split_of_part(part) != Some(record.split) || attempt != Some(record.attempt.as_str()) {
            return Err(DatasetError::Store {
                location: location.to_owned(),
                message: format!(
                    "part '{part}' is not named after split {} and attempt '{}'; expected FOLDER/SPLIT-ATTEMPT.EXTENSION",
                    record.split, record.attempt
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        assert_eq!(record_key(COMMITS, 17), "_run/commits/00017.parquet");
        assert_eq!(record_key(COMMITS, 1_234_567), "_run/commits/1234567.parquet");
        let records = [
            ("_run/commits/00017.parquet", Some(17)),
            ("_run/commits/1234567.parquet", Some(1_234_567)),
            ("_run/commits/.parquet", None),
            ("_run/commits/+7.parquet", None),
            ("_run/commits/00017.parquet.tmp", None),
            ("_run/commits/99999999999999999999999.parquet", None),
        ];
        for (key, expected) in records {
            assert_eq!(number_of_record(key), expected, "{key}");
        }
        let parts = [
            ("data/00017-0123456789abcdef.parquet", Some(17)),
            ("data/00017-0123456789abcdef.jsonl.zst", Some(17)),
            ("data/00017-0123456789abcdef", Some(17)),
            ("data/1234567-0123456789abcdef.bin", Some(1_234_567)),
            ("data/00017-0123456789abcde.parquet", None),
            ("data/17-0123456789abcdef.parquet", None),
            ("data/notes-2024.txt", None),
            ("data/README.md", None),
        ];
        for (key, expected) in parts {
            assert_eq!(split_of_part(key), expected, "{key}");
        }
        assert_eq!(stem("data.x/00017-ab.jsonl.zst"), "data.x/00017-ab");
        assert_eq!(stem("data.x/00017-ab"), "data.x/00017-ab");
    }
}
