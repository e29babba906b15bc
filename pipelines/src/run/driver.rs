//! The local driver: grinds every split that has no commit record, so many at a time, until none is left.
//!
//! The driver trusts nothing but the commit log. It can be killed at any moment, and several drivers may work on one folder
//! at once: they share the work by chance and agree by the log. Splits are ground on threads of their own, so that waiting
//! for a store does not wait for a classifier.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gristmill_datasets::run::{CommitRecord, Manifest, Opened, RetryPolicy, RunFolder, RunPlan};
use gristmill_datasets::{Location, Split};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::chain::StepSpec;
use crate::definition::PipelineFile;
use crate::environment::Environment;
use crate::error::{PipelineError, Result};
use crate::run::fits::{self, Learning};
use crate::run::mill::Mill;
use crate::run::prepare::{complete_steps, prepare_steps};
use crate::run::progress::Progress;
use crate::run::report::{self, RunReport};
use crate::run::spec::WorkItem;

/// Splits for each worker, at the end of a run, that are begun in the order of their size.
const LARGEST_FIRST: usize = 16;

/// Commits of a worker that may be under way while it grinds.
const COMMITS_UNDER_WAY: usize = 4;

/// How a run is driven. None of it can change the result.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Splits ground at the same time, each on its own thread.
    pub workers: usize,
    /// Starts over in a new run folder beside one that exists.
    pub fresh: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { workers, fresh: false }
    }
}

/// What is told while a run goes on.
pub trait Observer: Send + Sync {
    /// A step learns something from the corpus first, in a run of its own, which is told of next. Nothing is done again of what was done before.
    fn learning(&self, _learning: &Learning) {}

    /// The run is planned: its folder, its plan, and how many splits are done already.
    fn started(&self, _folder: &str, _plan: &RunPlan, _resumed: u64, _progress: &Arc<Progress>) {}

    /// A split was committed.
    fn committed(&self, _record: &CommitRecord) {}

    /// An attempt at a split failed and another follows after `pause`.
    fn retrying(&self, _split: u64, _error: &PipelineError, _pause: Duration) {}

    /// A split was given up.
    fn gave_up(&self, _split: u64, _error: &str) {}
}

/// An observer that shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Runs a pipeline to its end, or resumes it.
///
/// # Errors
///
/// [`PipelineError::is_usage`] tells a wrong definition from a run that failed. After any error the same call goes on
/// where this one stopped.
pub async fn run(
    file: &PipelineFile,
    environment: &Environment,
    options: &RunOptions,
    observer: Arc<dyn Observer>,
) -> Result<RunReport> {
    let folder = run_folder(file, environment, options.fresh).await?;
    let steps = complete_steps(file, environment)?;
    let steps = fits::learn(file, environment, options, &observer, &folder, steps).await?;
    Ok(drive(file, environment, options, &observer, &folder, steps, false).await?.report)
}

/// A run that is finished.
pub(super) struct Driven {
    pub(super) mill: Arc<Mill>,
    pub(super) manifest: Manifest,
    pub(super) report: RunReport,
}

/// Runs steps that have all they need, to the end. `is_fit` says that the last one is put there to learn.
pub(super) async fn drive(
    file: &PipelineFile,
    environment: &Environment,
    options: &RunOptions,
    observer: &Arc<dyn Observer>,
    folder: &str,
    steps: Vec<StepSpec>,
    is_fit: bool,
) -> Result<Driven> {
    let prepared = prepare_steps(file, environment, folder, steps, is_fit).await?;
    let mill = Arc::new(Mill::with_chain(prepared.spec, prepared.chain, environment)?);
    let log = mill.folder();
    log.probe().await?;
    let mut plan = prepared.plan;
    if !prepared.plan_written
        && let Opened::Resumed(existing) = log.open_or_create_plan(&plan).await?
    {
        plan = *existing;
    }
    // What the fingerprint was made of has explained what differs, and is as large as the list of files.
    plan.fingerprint.forget_parts();
    let plan = Arc::new(plan);
    let records = if log.read_manifest().await?.is_some() {
        let progress = Arc::new(Progress::new(plan.total(), plan.total(), 0));
        observer.started(folder, &plan, plan.total(), &progress);
        Vec::new()
    } else {
        grind_all(&mill, &plan, file.pipeline().attempts, options.workers, observer).await?
    };
    // Also when the manifest was there: a driver that was killed after writing it has not cleaned up.
    let manifest = log.finish_knowing(&plan, records).await?;
    let report = report::finish(file, &mill, &plan, &manifest).await?;
    Ok(Driven { mill, manifest, report })
}

/// The run folder of a pipeline, as a URL. With `fresh`, the first of `path`, `path-2`, `path-3` … that holds no run.
pub async fn run_folder(file: &PipelineFile, environment: &Environment, fresh: bool) -> Result<String> {
    let path = &file.pipeline().sink.common().path;
    let sink = format!("sink.{}.path", file.pipeline().sink.kind());
    let url_of =
        |path: &str| folder_url(path).map_err(|error| PipelineError::from(file.error(&sink, format!("sink: {error}"))));
    let first = url_of(path)?;
    super::apart::check(file, &first)?;
    if !fresh {
        return Ok(first);
    }
    let base = path.trim_end_matches('/');
    let mut number = 1;
    loop {
        let url = if number == 1 { first.clone() } else { url_of(&format!("{base}-{number}"))? };
        let (store, root) = environment.stores.open(&url)?;
        if RunFolder::new(store, root, url.clone()).read_plan().await?.is_none() {
            return Ok(url);
        }
        number += 1;
    }
}

/// A run folder as written in a pipeline file or on a command line, as a URL.
pub fn folder_url(path: &str) -> Result<String, gristmill_datasets::DatasetError> {
    let location = Location::parse(path)?;
    if location.is_writable() {
        return Ok(location.to_string().trim_end_matches('/').to_owned());
    }
    Err(gristmill_datasets::DatasetError::Location {
        location: location.to_string(),
        message: "nothing can be written there; allowed: a path, s3://, gs://, az://".to_owned(),
    })
}

/// The places in the plan of pending splits, in the order in which they are begun. The output does not show it: a worker
/// that begins a large split last leaves the others idle, so the largest come first where the end of the run is in sight.
fn in_order<'a>(pending: impl Iterator<Item = &'a Split>, workers: usize) -> VecDeque<usize> {
    let mut pending: Vec<&Split> = pending.collect();
    // Further away, neighbours share footers and caches.
    let tail = pending.len().saturating_sub(workers.max(1) * LARGEST_FIRST);
    pending[tail..].sort_by_key(|split| std::cmp::Reverse(split.bytes));
    pending.into_iter().filter_map(|split| usize::try_from(split.number).ok()).collect()
}

/// Grinds what is pending, and gives the records of what it committed.
async fn grind_all(
    mill: &Arc<Mill>,
    plan: &Arc<RunPlan>,
    attempts: u32,
    workers: usize,
    observer: &Arc<dyn Observer>,
) -> Result<Vec<CommitRecord>> {
    let log = mill.folder();
    log.retry_failed().await?;
    let committed = log.committed().await?;
    let pending = in_order(plan.splits.iter().filter(|split| !committed.contains(&split.number)), workers);
    let bytes = pending.iter().map(|place| plan.splits[*place].bytes).sum();
    let resumed = plan.total() - pending.len() as u64;
    let progress = Arc::new(Progress::new(plan.total(), resumed, bytes));
    observer.started(log.url(), plan, resumed, &progress);
    let shift = Arc::new(Shift {
        mill: Arc::clone(mill),
        plan: Arc::clone(plan),
        pending: Mutex::new(pending),
        records: Mutex::new(Vec::new()),
        failures: Mutex::new(Vec::new()),
        retry: RetryPolicy { attempts, ..RetryPolicy::default() },
        progress,
        observer: Arc::clone(observer),
    });
    work(&shift, workers).await?;
    let failures = std::mem::take(&mut *shift.failures.lock());
    if let Some((split, error)) = failures.first() {
        let first = format!("split {split}: {error}");
        return Err(PipelineError::Splits { failed: failures.len(), total: plan.splits.len(), first });
    }
    Ok(std::mem::take(&mut *shift.records.lock()))
}

/// What the workers of a run share.
struct Shift {
    mill: Arc<Mill>,
    plan: Arc<RunPlan>,
    /// Places in the plan.
    pending: Mutex<VecDeque<usize>>,
    records: Mutex<Vec<CommitRecord>>,
    failures: Mutex<Vec<(u64, String)>>,
    retry: RetryPolicy,
    progress: Arc<Progress>,
    observer: Arc<dyn Observer>,
}

/// Runs the workers on a runtime of their own, so that a split that computes for long holds up no I/O of the caller's.
async fn work(shift: &Arc<Shift>, workers: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.max(1))
        .thread_name("gristmill-worker")
        .enable_all()
        .build()
        .map_err(|error| PipelineError::Engine(format!("worker threads cannot be started: {error}")))?;
    let runtime = Workers(Some(runtime));
    let mut tasks = JoinSet::new();
    for _ in 0..workers.max(1) {
        let shift = Arc::clone(shift);
        tasks.spawn_on(async move { shift.worker().await }, runtime.handle());
    }
    while let Some(ended) = tasks.join_next().await {
        // Dropping the other tasks stops them at their next wait; what they wrote is named by no record.
        ended.map_err(|error| PipelineError::Engine(format!("a worker died: {error}")))??;
    }
    Ok(())
}

/// A runtime that may be dropped inside another one.
struct Workers(Option<tokio::runtime::Runtime>);

impl Workers {
    fn handle(&self) -> &tokio::runtime::Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("the runtime is taken in drop only"),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shift {
    /// Takes split after split. While one is ground, the commits of those before it wait for the disk or the store.
    async fn worker(self: &Arc<Self>) -> Result<()> {
        let mut commits = JoinSet::new();
        loop {
            let next = self.pending.lock().pop_front();
            let Some(place) = next else { break };
            let split = self.plan.splits[place].clone();
            let file = self.plan.files[split.file as usize].clone();
            let item = WorkItem { split, file };
            match self.mill.write_split(&item, &self.progress).await {
                Ok(record) => {
                    while commits.len() >= COMMITS_UNDER_WAY {
                        self.settle_one(&mut commits).await?;
                    }
                    let shift = Arc::clone(self);
                    commits.spawn(async move {
                        let ground = shift.mill.commit(&item, record, &shift.progress).await;
                        (item, ground)
                    });
                }
                Err(error) => self.settle(&item, Err(error)).await?,
            }
        }
        while !commits.is_empty() {
            self.settle_one(&mut commits).await?;
        }
        Ok(())
    }

    /// Waits for one of the commits under way. A split whose commit failed is ground again here and not beside other work, so
    /// that no more splits are in memory than there are workers.
    async fn settle_one(&self, commits: &mut JoinSet<(WorkItem, Result<CommitRecord>)>) -> Result<()> {
        let Some(ended) = commits.join_next().await else { return Ok(()) };
        let (item, ground) = ended.map_err(|error| PipelineError::Engine(format!("a commit died: {error}")))?;
        self.settle(&item, ground).await
    }

    /// Takes note of a split that was ground, or tries it again until it is committed or given up. Only errors that no other
    /// split could escape end the run.
    async fn settle(&self, item: &WorkItem, mut ground: Result<CommitRecord>) -> Result<()> {
        let number = item.split.number;
        let mut failed = 0;
        loop {
            let error = match ground {
                Ok(record) => {
                    self.observer.committed(&record);
                    self.records.lock().push(record);
                    return Ok(());
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => error,
            };
            failed += 1;
            // What is wrong with the data itself is wrong at the next attempt, too.
            let pause = if error.is_permanent() { None } else { self.retry.pause_after(failed) };
            let Some(pause) = pause else {
                let message = match &error {
                    // What an operator says is about a row; which file it is from, only the driver knows.
                    PipelineError::Operator { .. } => format!("'{}': {error}", item.file.url),
                    _ => error.to_string(),
                };
                let fingerprint = &self.mill.spec().fingerprint;
                self.mill.folder().fail(&CommitRecord::failed(number, fingerprint, &item.file.url, &message)).await?;
                self.observer.gave_up(number, &message);
                self.progress.split_failed();
                self.failures.lock().push((number, message));
                return Ok(());
            };
            self.observer.retrying(number, &error, pause);
            tokio::time::sleep(pause).await;
            ground = self.mill.grind(item, &self.progress).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use gristmill_datasets::SplitUnit;

    use super::*;

    #[test]
    fn the_last_splits_are_begun_by_size() {
        let split = |number: u64| Split {
            number,
            file: 0,
            unit: SplitUnit::File,
            start: 0,
            end: 0,
            skip: 0,
            take: None,
            first_row: None,
            file_row: None,
            rows: None,
            bytes: number * 7 % 5,
        };
        let few: Vec<Split> = (0..6).map(split).collect();
        // The sizes are 0, 2, 4, 1, 3, 0; equal ones keep their order.
        assert_eq!(in_order(few.iter(), 2), [2, 4, 1, 3, 0, 5]);
        assert_eq!(in_order(few.iter().skip(2), 1), [2, 4, 3, 5]);
        let many: Vec<Split> = (0..1_000).map(split).collect();
        let order: Vec<usize> = in_order(many.iter(), 2).into();
        let tail = 1_000 - 2 * LARGEST_FIRST;
        assert_eq!(order[..tail], (0..tail).collect::<Vec<_>>());
        let sizes: Vec<u64> = order[tail..].iter().map(|place| many[*place].bytes).collect();
        assert!(sizes.is_sorted_by(|first, second| first >= second), "{sizes:?}");
        let mut all = order;
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    }
}
