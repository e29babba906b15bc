//! Run folders on real stores: in memory and on disk, with faults by script and by chance.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;

use super::fault_store::{Call, Fault, FaultStore, Rule};
use super::plan::tests::plan_of;
use super::protocol::{NextAction, next_action};
use super::*;
use crate::DatasetError;

/// A place for a run folder.
struct Place {
    store: FaultStore,
    root: Path,
    url: String,
    _folder: Option<TempDir>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Memory,
    Disk,
}

impl Place {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Memory => Self {
                store: FaultStore::new(Arc::new(InMemory::new())),
                root: Path::from("some/out"),
                url: "memory:///some/out".into(),
                _folder: None,
            },
            Kind::Disk => {
                let folder = tempfile::tempdir().unwrap();
                Self {
                    store: FaultStore::new(Arc::new(LocalFileSystem::new())),
                    root: Path::from_absolute_path(folder.path()).unwrap(),
                    url: url::Url::from_directory_path(folder.path()).unwrap().to_string(),
                    _folder: Some(folder),
                }
            }
        }
    }

    fn run(&self) -> RunFolder {
        self.run_on(Arc::new(self.store.clone()))
    }

    fn run_on(&self, store: Arc<dyn ObjectStore>) -> RunFolder {
        let retry =
            RetryPolicy { attempts: 4, first_delay: Duration::from_millis(1), longest_delay: Duration::from_millis(4) };
        RunFolder::new(store, self.root.clone(), self.url.clone()).with_retry(retry)
    }

    /// The keys in a folder, relative to the run folder.
    async fn keys(&self, folder: &str) -> BTreeSet<String> {
        let prefix = folder.split('/').fold(self.root.clone(), |path, part| path.join(part));
        let listed: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.unwrap();
        let relative = |path: &Path| {
            let parts: Vec<String> =
                path.prefix_match(&self.root).unwrap().map(|part| part.as_ref().to_owned()).collect();
            parts.join("/")
        };
        listed.iter().map(|meta| relative(&meta.location)).collect()
    }

    fn gets_of_commits(&self) -> usize {
        self.store
            .calls()
            .iter()
            .filter(|(call, path)| *call == Call::Get && path.as_ref().contains("/commits/"))
            .count()
    }
}

/// Rows of a split: a function of its number only, as for any deterministic pipeline.
fn rows_of(split: u64) -> u64 {
    split % 5
}

fn record_of(plan: &RunPlan, split: u64, attempt: &str) -> CommitRecord {
    let rows = rows_of(split);
    CommitRecord {
        split,
        part: (rows > 0).then(|| plan.part_name("data", split, attempt, "jsonl")),
        rows_in: rows + 1,
        rows_out: rows,
        rows_rejected: 1,
        attempt: attempt.to_owned(),
        fingerprint: plan.fingerprint.value.clone(),
        steps: vec![StepCount {
            name: "filter".into(),
            rows_in: rows + 1,
            rows_kept: rows,
            rows_rejected: 1,
            rows_out: rows,
            ..StepCount::default()
        }],
        ..CommitRecord::default()
    }
}

/// Writes the part of an attempt and says what is to be recorded.
async fn write_part(
    run: &RunFolder,
    store: &dyn ObjectStore,
    plan: &RunPlan,
    split: u64,
    attempt: String,
) -> Result<CommitRecord, DatasetError> {
    let record = record_of(plan, split, &attempt);
    if let Some(part) = &record.part {
        let content = format!("{attempt} {}\n", rows_of(split));
        let written = store.put(&run.path(part), content.into()).await;
        written.map_err(|error| DatasetError::Transient { location: part.clone(), message: error.to_string() })?;
    }
    Ok(record)
}

/// Drives a run to its end, split after split.
async fn drive(run: &RunFolder, store: &dyn ObjectStore, plan: &RunPlan) -> Result<Manifest, DatasetError> {
    run.probe().await?;
    run.open_or_create_plan(plan).await?;
    loop {
        let action = next_action(plan.total(), &run.committed().await?, &run.given_up().await?, 10);
        match action {
            NextAction::Run(splits) => {
                for split in splits {
                    run.run_split(split, |attempt| write_part(run, store, plan, split, attempt)).await?;
                }
            }
            NextAction::Finish => return run.finish(plan).await,
            NextAction::GiveUp(splits) => panic!("gave up {splits:?}"),
        }
    }
}

/// Checks that a finished run holds every row once and nothing else.
async fn check(place: &Place, plan: &RunPlan, manifest: &Manifest) {
    assert_eq!(manifest.complete(plan), Ok(()));
    assert_eq!(place.run().read_manifest().await.unwrap().as_ref(), Some(manifest));
    let named: BTreeSet<String> = manifest.parts().map(str::to_owned).collect();
    assert_eq!(place.keys("data").await, named);
    for record in &manifest.records {
        let Some(part) = &record.part else { continue };
        let content = place.store.get(&place.run().path(part)).await.unwrap().bytes().await.unwrap();
        assert_eq!(content, format!("{} {}\n", record.attempt, rows_of(record.split)));
    }
    let rows: u64 = (0..plan.total()).map(rows_of).sum();
    let totals = manifest.totals();
    assert_eq!((totals.rows_out, totals.rows_in), (rows, rows + plan.total()));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn drivers_at_once_on_a_failing_store_are_killed_and_finish(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    for seed in 0..6 {
        let place = Place::new(kind);
        let plan = plan_of(23);
        // Two drivers are killed at any moment, again and again, on a store that fails now and then.
        for life in 0..6 {
            let drivers: Vec<_> = (0..2)
                .map(|driver| {
                    let store =
                        FaultStore::by_chance(Arc::new(place.store.clone()), seed * 100 + life * 2 + driver, 9, 20);
                    let run = place.run_on(Arc::new(store.clone()));
                    let plan = plan.clone();
                    tokio::spawn(async move { drive(&run, &store, &plan).await })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(3 + life * 7)).await;
            for driver in drivers {
                driver.abort();
                // Either it was killed, or it had ended by itself, well or with an error that may pass.
                if let Ok(Err(error)) = driver.await {
                    assert!(error.is_transient() || matches!(error, DatasetError::Malformed { .. }), "{error}");
                }
            }
        }
        let (run, other) = (place.run(), place.run());
        let (first, second) = futures::join!(drive(&run, &place.store, &plan), drive(&other, &place.store, &plan));
        let manifest = first.unwrap();
        assert_eq!(second.unwrap(), manifest);
        check(&place, &plan, &manifest).await;
    }
}

#[rstest]
#[case::plan_not_written("plan.parquet", Call::Create, Fault::FailBefore)]
#[case::plan_written("plan.parquet", Call::Create, Fault::LoseAnswer)]
#[case::part_not_written("data/", Call::Put, Fault::FailBefore)]
#[case::part_written("data/", Call::Put, Fault::LoseAnswer)]
#[case::record_not_created("commits/", Call::Create, Fault::FailBefore)]
#[case::record_created("commits/", Call::Create, Fault::LoseAnswer)]
#[case::manifest_not_created("manifest.parquet", Call::Create, Fault::FailBefore)]
#[case::manifest_created("manifest.parquet", Call::Create, Fault::LoseAnswer)]
#[case::leftovers_not_deleted("data/", Call::Delete, Fault::FailBefore)]
#[tokio::test]
async fn a_run_that_ends_anywhere_is_resumed(
    #[values(Kind::Memory, Kind::Disk)] kind: Kind,
    #[case] path: &str,
    #[case] call: Call,
    #[case] fault: Fault,
    #[values(0, 3)] after: usize,
) {
    let place = Place::new(kind);
    let plan = plan_of(8);
    // A part of an attempt that was killed long ago.
    let orphan = place.run().path(&plan.part_name("data", 3, "00000000000000ff", "jsonl"));
    place.store.put(&orphan, "half".into()).await.unwrap();
    // From here on every such call fails, as if the process had been killed there.
    place.store.script([Rule::always(call, path, fault).after(after)]);
    let killed = drive(&place.run(), &place.store, &plan).await;
    let faults = place.store.faults();
    assert!(killed.is_ok() || faults > 0);
    place.store.calm();
    let manifest = drive(&place.run(), &place.store, &plan).await.unwrap();
    check(&place, &plan, &manifest).await;
}

#[tokio::test]
async fn a_lost_answer_is_found_out_and_a_lost_race_cleans_up() {
    let place = Place::new(Kind::Memory);
    let (run, plan) = (place.run(), plan_of(10));
    let write = |split, attempt: &'static str| write_part(&run, &place.store, &plan, split, attempt.to_owned());

    place.store.script([Rule::once(Call::Create, "commits/00001", Fault::LoseAnswer)]);
    let record = write(1, "00000000000000a1").await.unwrap();
    assert_eq!(run.commit(&record).await.unwrap(), CommitOutcome::AlreadyOurs);
    assert_eq!(run.commit(&record).await.unwrap(), CommitOutcome::AlreadyOurs, "repeating a commit is safe");

    let late = write(1, "00000000000000b1").await.unwrap();
    assert_eq!(run.commit(&late).await.unwrap(), CommitOutcome::Lost(Box::new(record.clone())));
    assert_eq!(place.keys("data").await, BTreeSet::from([record.part.clone().unwrap()]));
    assert_eq!(run.read_commit(1).await.unwrap(), Some(record.clone()));

    let skipped = run.run_split(1, |_| async { panic!("a committed split must not run") }).await.unwrap();
    assert_eq!(skipped, SplitOutcome::Skipped(Box::new(record)));
}

#[tokio::test]
async fn a_conflict_with_nothing_there_is_tried_again() {
    let place = Place::new(Kind::Memory);
    let (run, plan) = (place.run(), plan_of(10));
    place.store.script([Rule { times: 2, ..Rule::once(Call::Create, "commits/00001", Fault::Status(409)) }]);
    let record = write_part(&run, &place.store, &plan, 1, "00000000000000a1".into()).await.unwrap();
    assert_eq!(run.commit(&record).await.unwrap(), CommitOutcome::Won);

    place.store.script([Rule::always(Call::Create, "commits/00002", Fault::Status(409))]);
    let record = write_part(&run, &place.store, &plan, 2, "00000000000000a2".into()).await.unwrap();
    let error = run.commit(&record).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("commits/00002.parquet"), "{error}");
    // A record may yet appear, so the part must stay.
    assert!(place.keys("data").await.contains(record.part.as_ref().unwrap()));
}

#[tokio::test]
async fn failures_that_last_are_not_repeated_and_name_the_path() {
    let cases = [(Fault::Status(403), "no access to", 1), (Fault::Status(503), "failed for now", 4)];
    for (fault, expected, calls) in cases {
        let place = Place::new(Kind::Memory);
        let (run, plan) = (place.run(), plan_of(10));
        place.store.script([Rule::always(Call::Create, "commits/", fault)]);
        let record = write_part(&run, &place.store, &plan, 1, new_attempt()).await.unwrap();
        let error = run.commit(&record).await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("memory:///some/out/_run/commits/00001.parquet"), "{error}");
        let creates = place.store.calls().iter().filter(|(call, _)| *call == Call::Create).count();
        assert_eq!(creates, calls);
    }
}

#[tokio::test]
async fn records_that_arrive_cut_are_read_again() {
    for fault in [Fault::Truncate(100), Fault::TruncateSilently(100)] {
        let place = Place::new(Kind::Memory);
        let (run, plan) = (place.run(), plan_of(10));
        let record = write_part(&run, &place.store, &plan, 1, new_attempt()).await.unwrap();
        run.commit(&record).await.unwrap();
        place.store.script([Rule::once(Call::Get, "commits/", fault)]);
        assert_eq!(run.read_commit(1).await.unwrap(), Some(record), "{fault:?}");
    }
    let place = Place::new(Kind::Memory);
    let run = place.run();
    place.store.put(&run.path("_run/commits/00001.parquet"), "not Parquet".into()).await.unwrap();
    let error = run.read_commit(1).await.unwrap_err().to_string();
    assert!(error.contains("commits/00001.parquet' is malformed"), "{error}");
}

#[tokio::test]
async fn another_run_in_the_folder_is_refused_with_what_changed() {
    let place = Place::new(Kind::Memory);
    let (run, plan) = (place.run(), plan_of(10));
    assert_eq!(run.open_or_create_plan(&plan).await.unwrap(), Opened::Created);

    // The same fingerprint resumes, with the plan that is there.
    let later = RunPlan { created_ms: 1, splits: plan.splits[..3].to_vec(), ..plan.clone() };
    assert_eq!(run.open_or_create_plan(&later).await.unwrap(), Opened::Resumed(Box::new(plan.clone())));

    let mut parts = plan.fingerprint.parts();
    parts["steps"][0]["config"]["x"] = json!(0.2);
    let other = RunPlan { fingerprint: Fingerprint::of(parts), ..plan.clone() };
    match run.open_or_create_plan(&other).await.unwrap_err() {
        DatasetError::DifferentRun { location, differences } => {
            assert_eq!(location, "memory:///some/out/_run/plan.parquet");
            assert_eq!(differences, ["steps[0].config.x: 0.1 -> 0.2"]);
        }
        other => panic!("{other}"),
    }
    assert_eq!(run.read_plan().await.unwrap(), Some(plan));
}

#[rstest]
#[tokio::test]
async fn a_store_that_overwrites_is_refused(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let place = Place::new(kind);
    place.run().probe().await.unwrap();
    place.store.script([Rule::once(Call::Create, "probe", Fault::LoseAnswer)]);
    place.run().probe().await.unwrap();
    place.store.script([Rule::always(Call::Create, "probe", Fault::IgnoreCondition)]);
    let error = place.run().probe().await.unwrap_err();
    assert!(matches!(error, DatasetError::Setting { .. }) && error.to_string().contains("overwrites"), "{error}");
    assert!(place.keys("_run").await.is_empty(), "probes clean up");
}

#[tokio::test]
async fn what_cannot_be_committed_is_refused() {
    let place = Place::new(Kind::Memory);
    let (run, plan) = (place.run(), plan_of(10));
    let good = record_of(&plan, 3, "00000000000000a1");
    type Change = fn(&mut CommitRecord);
    let cases: [(&str, Change); 4] = [
        ("4 rows came in, but 3 were kept", |record| record.steps[0].rows_rejected = 0),
        ("not named after split 3", |record| record.part = Some("data/00004-00000000000000a1.jsonl".into())),
        ("not named after split 3", |record| record.part = Some("data/00003-00000000000000a2.jsonl".into())),
        ("not named after split 3", |record| record.part = Some("data/00003.jsonl".into())),
    ];
    for (expected, change) in cases {
        let mut record = good.clone();
        change(&mut record);
        let error = run.commit(&record).await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("00003.parquet"), "'{error}' lacks '{expected}'");
    }
    assert!(run.committed().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_run_is_finished_only_when_every_split_is_committed() {
    let place = Place::new(Kind::Memory);
    let (run, plan) = (place.run(), plan_of(4));
    run.open_or_create_plan(&plan).await.unwrap();
    for split in [0, 2] {
        run.run_split(split, |attempt| write_part(&run, &place.store, &plan, split, attempt)).await.unwrap();
    }
    match run.finish(&plan).await.unwrap_err() {
        DatasetError::Incomplete { total, missing, .. } => assert_eq!((total, missing), (4, vec![1, 3])),
        other => panic!("{other}"),
    }
    assert_eq!(run.read_manifest().await.unwrap(), None);

    // A record of another run in the folder is found out.
    for split in [1, 3] {
        let mut record = write_part(&run, &place.store, &plan, split, new_attempt()).await.unwrap();
        if split == 3 {
            record.fingerprint = "other".into();
        }
        run.commit(&record).await.unwrap();
    }
    let error = run.finish(&plan).await.unwrap_err().to_string();
    assert!(error.contains("split 3 was committed by run other"), "{error}");
}

#[rstest]
#[tokio::test]
async fn what_a_driver_knows_is_not_read_and_the_listing_decides(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let place = Place::new(kind);
    let (run, plan) = (place.run(), plan_of(6));
    run.open_or_create_plan(&plan).await.unwrap();
    let mut known = Vec::new();
    for split in 0..5 {
        let ran = run.run_split(split, |attempt| write_part(&run, &place.store, &plan, split, attempt)).await.unwrap();
        known.push(ran.record().clone());
    }
    // Believing that a split is committed does not make it so.
    let believed = write_part(&run, &place.store, &plan, 5, new_attempt()).await.unwrap();
    known.push(believed.clone());
    match run.finish_knowing(&plan, known.clone()).await.unwrap_err() {
        DatasetError::Incomplete { missing, .. } => assert_eq!(missing, [5]),
        other => panic!("{other}"),
    }
    run.commit(&believed).await.unwrap();
    let before = place.gets_of_commits();
    // Some records more than once, others not at all, in no order.
    known.extend(known[2..4].to_vec());
    known.reverse();
    known.retain(|record| record.split != 1);
    let manifest = run.finish_knowing(&plan, known).await.unwrap();
    check(&place, &plan, &manifest).await;
    // Local disks are read beside the object store.
    assert_eq!(place.gets_of_commits() - before, usize::from(matches!(kind, Kind::Memory)));
    place.store.delete(&run.path("_run/manifest.parquet")).await.unwrap();
    assert_eq!(run.finish(&plan).await.unwrap(), manifest, "records that are read say the same");
}

#[rstest]
#[tokio::test]
async fn a_record_that_cannot_be_read_is_named(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let place = Place::new(kind);
    let (run, plan) = (place.run(), plan_of(4));
    drive(&run, &place.store, &plan).await.unwrap();
    place.store.delete(&run.path("_run/manifest.parquet")).await.unwrap();
    // What a loss of power may leave, and a record under the name of another.
    let other = place.store.get(&run.path("_run/commits/00001.parquet")).await.unwrap().bytes().await.unwrap();
    for (content, expected) in [(bytes::Bytes::new(), "not a readable Parquet file"), (other, "the record of split 1")]
    {
        place.store.put(&run.path("_run/commits/00002.parquet"), content.into()).await.unwrap();
        let error = run.finish(&plan).await.unwrap_err().to_string();
        assert!(error.contains("00002.parquet") && error.contains(expected), "{error}");
        assert_eq!(run.status().await.unwrap_err().to_string(), error);
    }
}

#[tokio::test]
async fn failed_splits_are_noted_forgotten_and_overruled_by_a_commit() {
    let place = Place::new(Kind::Memory);
    let (run, plan) = (place.run(), plan_of(3));
    assert!(matches!(run.status().await.unwrap_err(), DatasetError::NotFound { .. }));
    run.open_or_create_plan(&plan).await.unwrap();
    let fail = |split, error: &str| CommitRecord::failed(split, &plan.fingerprint.value, "s3://bucket/x", error);
    run.fail(&fail(1, "line 7 is broken")).await.unwrap();
    run.fail(&fail(1, "again")).await.unwrap();
    run.fail(&fail(2, "timeout")).await.unwrap();
    for split in [0, 2] {
        run.run_split(split, |attempt| write_part(&run, &place.store, &plan, split, attempt)).await.unwrap();
    }
    let status = run.status().await.unwrap();
    assert_eq!((status.total, status.committed, status.finished), (3, 2, false));
    assert_eq!((status.totals.rows_in, status.totals.rows_out), (4, 2));
    let failed: Vec<_> = status.failed.iter().map(|record| (record.split, record.error.as_deref())).collect();
    assert_eq!(failed, [(1, Some("line 7 is broken"))], "the first error is kept, a commit overrules");
    let action = next_action(3, &run.committed().await.unwrap(), &run.given_up().await.unwrap(), 10);
    assert_eq!(action, NextAction::GiveUp(vec![1]));

    assert_eq!(run.retry_failed().await.unwrap(), BTreeSet::from([1, 2]));
    let manifest = drive(&run, &place.store, &plan).await.unwrap();
    let status = run.status().await.unwrap();
    assert_eq!((status.committed, status.finished, status.failed.len()), (3, true, 0));
    assert_eq!(status.totals, manifest.totals());
}

#[tokio::test]
async fn only_parts_that_lost_are_deleted() {
    let place = Place::new(Kind::Disk);
    let (run, plan) = (place.run(), plan_of(2));
    let attempt = "00000000000000aa";
    let mut kept = vec![
        "data/README.md".to_owned(),
        "data/00007-0123456789abcdef.jsonl".into(),
        "notes/00001-0123456789abcdef.jsonl".into(),
    ];
    for name in &kept {
        place.store.put(&run.path(name), "mine".into()).await.unwrap();
    }
    for folder in ["data", "rejected", "quarantine"] {
        for extension in ["jsonl", "bin"] {
            let lost = plan.part_name(folder, 1, "0123456789abcdef", extension);
            place.store.put(&run.path(&lost), "lost".into()).await.unwrap();
        }
    }
    run.open_or_create_plan(&plan).await.unwrap();
    run.run_split(0, |attempt| write_part(&run, &place.store, &plan, 0, attempt)).await.unwrap();
    let record = write_part(&run, &place.store, &plan, 1, attempt.into()).await.unwrap();
    // A second file of the same part, such as an index.
    let beside = plan.part_name("data", 1, attempt, "idx");
    place.store.put(&run.path(&beside), "index".into()).await.unwrap();
    run.commit(&record).await.unwrap();
    let staged = place._folder.as_ref().unwrap().path().join("data/00001-00000000000000bb.jsonl#1");
    std::fs::write(&staged, "half").unwrap();

    let manifest = run.finish(&plan).await.unwrap();
    assert_eq!(run.finish(&plan).await.unwrap(), manifest, "finishing again changes nothing");
    kept.extend([beside, record.part.unwrap()]);
    let found: BTreeSet<String> = place.keys("").await.into_iter().filter(|key| !key.starts_with("_run/")).collect();
    assert_eq!(found, kept.into_iter().collect());
    assert!(!staged.exists());
}

#[rstest]
#[tokio::test]
async fn resuming_lists_records_and_reads_none(#[values(Kind::Memory, Kind::Disk)] kind: Kind) {
    let place = Place::new(kind);
    let (run, plan) = (place.run(), plan_of(2_000));
    run.open_or_create_plan(&plan).await.unwrap();
    for split in (0..2_000).filter(|split| split % 3 != 0) {
        let record = CommitRecord { split, fingerprint: plan.fingerprint.value.clone(), ..CommitRecord::default() };
        run.commit(&record).await.unwrap();
    }
    let before = place.gets_of_commits();
    let Opened::Resumed(found) = run.open_or_create_plan(&plan).await.unwrap() else { panic!("not resumed") };
    let committed = run.committed().await.unwrap();
    assert_eq!(committed, (0..2_000).filter(|split| split % 3 != 0).collect());
    assert_eq!(found.total(), 2_000);
    assert_eq!(place.gets_of_commits(), before);
}
