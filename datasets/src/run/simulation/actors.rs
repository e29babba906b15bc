//! Drivers and workers as a run has them, on the production code of the log.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{self, Either};

use super::store::{Client, Part};
use super::world::{Role, Round, World, Writer};
use super::{Planted, expected_rows};
use crate::run::log::{CommitOutcome, Log, Opened, PART_FOLDERS, SplitOutcome};
use crate::run::manifest::Manifest;
use crate::run::plan::RunPlan;
use crate::run::protocol::{
    AfterCreate, CreateAnswer, Decisions, NextAction, PartFate, RetryPolicy, after_create, next_action, part_fate,
};
use crate::run::record::{CommitRecord, StepCount};
use crate::{DatasetError, Result};

type SimulatedLog = Log<Client, super::store::Documents>;

/// Splits that a driver runs side by side.
const SIDE_BY_SIDE: usize = 2;
/// Failures after which a split is given up.
const FAILURES: u32 = 2;

/// Starts a life of a driver.
pub(super) fn start_driver(world: &World, plan: &RunPlan, driver: usize, life: u64) {
    let (world, plan) = (world.clone(), plan.clone());
    let role = Role::Driver { driver, life };
    world.clone().spawn(role, async move {
        let calm = world.with(|state| state.chances.calm);
        let log = open_log(&world, None);
        let done = drive(&world, &log, &plan, life, calm).await;
        if done.is_err() {
            // The process ends with an error, and somebody starts it again.
            world.with(|state| state.restart_driver(driver));
        }
    });
}

fn open_log(world: &World, writer: Option<usize>) -> SimulatedLog {
    let (documents, planted) = world.with(|state| (state.documents.clone(), state.planted));
    Log {
        store: Client { world: world.clone(), writer },
        codec: documents,
        retry: RetryPolicy {
            attempts: 3,
            first_delay: Duration::from_millis(4),
            longest_delay: Duration::from_millis(16),
        },
        decisions: decisions(planted),
        readers: 2,
    }
}

/// The decisions of the protocol, or wrong ones.
fn decisions(planted: Option<Planted>) -> Decisions {
    match planted {
        Some(Planted::ConflictTakenForDone) => Decisions {
            after_create: |answer, standing, attempt| match (answer, standing) {
                (CreateAnswer::Exists, None) => AfterCreate::Won,
                _ => after_create(answer, standing, attempt),
            },
            part_fate,
        },
        Some(Planted::UnknownTakenForLost) => Decisions {
            after_create,
            part_fate: |decided| match decided {
                None => PartFate::Delete,
                _ => part_fate(decided),
            },
        },
        _ => Decisions::PROTOCOL,
    }
}

async fn drive(world: &World, log: &SimulatedLog, plan: &RunPlan, life: u64, calm: bool) -> Result<()> {
    let (probes, retries) = world.with(|state| (state.random.one_in(16), state.random.one_in(8)));
    if probes {
        log.probe(&format!("_run/probe-{life}")).await?;
    }
    let plan = match log.open_or_create_plan(plan).await? {
        Opened::Created => plan.clone(),
        Opened::Resumed(existing) => *existing,
    };
    if retries || calm {
        log.retry_failed().await?;
    }
    let mut failures: BTreeMap<u64, u32> = BTreeMap::new();
    let mut known = Vec::new();
    loop {
        let committed = log.committed().await?;
        let given_up = log.given_up().await?;
        match next_action(plan.total(), &committed, &given_up, SIDE_BY_SIDE) {
            NextAction::Run(splits) => {
                if world.with(|state| state.planted) == Some(Planted::SweptEarly) {
                    sweep_early(log, &plan, committed).await?;
                }
                let (unsuccessful, committed) = run_round(world, &plan, life, &splits).await;
                known.extend(committed);
                for split in unsuccessful {
                    let count = failures.entry(split).or_default();
                    *count += 1;
                    if *count >= FAILURES && !calm {
                        log.give_up(&CommitRecord::failed(split, &plan.fingerprint.value, "simulated", "gave up"))
                            .await?;
                        world.with(|state| state.tally.given_up += 1);
                    }
                }
            }
            NextAction::GiveUp(_) if calm => {
                log.retry_failed().await?;
            }
            NextAction::GiveUp(_) => return Ok(()),
            NextAction::Finish => {
                let begin = world.with(|state| state.now);
                let (_, swept) = log.finish(&plan, known).await?;
                if swept.left == 0 {
                    world.with(|state| state.sweeps.push(begin));
                }
                return Ok(());
            }
        }
    }
}

/// The mistake of cleaning up while others are at work: deletes every part that no record names yet.
async fn sweep_early(log: &SimulatedLog, plan: &RunPlan, committed: impl IntoIterator<Item = u64>) -> Result<()> {
    let mut records = log.read_commits(committed).await?;
    for split in 0..plan.total() {
        if records.iter().all(|record| record.split != split) {
            records.push(CommitRecord { split, ..CommitRecord::default() });
        }
    }
    log.sweep(&Manifest { fingerprint: String::new(), records }).await?;
    Ok(())
}

/// Runs splits side by side and waits until all are over or the driver loses its patience; then those still at work are
/// zombies. Returns the splits that are over without success, and the records that are known to be committed.
async fn run_round(world: &World, plan: &RunPlan, life: u64, splits: &[u64]) -> (Vec<u64>, Vec<CommitRecord>) {
    let round = world.with(|state| {
        state.rounds.push(Round { open: splits.len(), ..Round::default() });
        state.rounds.len() - 1
    });
    for split in splits {
        start_worker(world, plan, life, round, *split);
    }
    let patience = world.with(|state| 150 + state.random.below(300));
    let over = WaitForRound { world: world.clone(), round };
    if let Either::Right(_) = future::select(over, pin!(world.sleep(patience))).await {
        world.with(|state| state.tally.abandoned += 1);
    }
    world.with(|state| {
        let round = &mut state.rounds[round];
        (std::mem::take(&mut round.unsuccessful), std::mem::take(&mut round.known))
    })
}

struct WaitForRound {
    world: World,
    round: usize,
}

impl Future for WaitForRound {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.world.with(|state| {
            let round = &mut state.rounds[self.round];
            if round.open == 0 {
                return Poll::Ready(());
            }
            round.waker = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

fn start_worker(world: &World, plan: &RunPlan, life: u64, round: usize, split: u64) {
    let (writer, attempt) = world.with(|state| {
        let writer = state.writers.len();
        state.writers.push(Writer { split, believes: false, successful: false, ended: false, last_act: state.now });
        let attempt = match state.planted {
            // Drawn when the run was planned: the same for everybody.
            Some(Planted::AttemptOfThePlan) => split,
            _ => state.random.next(),
        };
        (writer, format!("{attempt:016x}"))
    });
    let (world, plan) = (world.clone(), plan.clone());
    world.clone().spawn(Role::Worker { life, round, writer }, async move {
        let log = open_log(&world, Some(writer));
        let late = world.with(|state| state.planted) == Some(Planted::CommittedBeforeComplete);
        let write = |attempt: String| write_parts(&world, &log.store, &plan, split, writer, attempt, !late);
        let outcome = log.run_split(split, attempt, write).await;
        world.with(|state| {
            let committed = match &outcome {
                Ok(SplitOutcome::Ran(_, CommitOutcome::Won | CommitOutcome::AlreadyOurs)) => true,
                Ok(SplitOutcome::Ran(_, CommitOutcome::Lost(_))) => {
                    state.tally.lost_races += 1;
                    false
                }
                Ok(SplitOutcome::Skipped(_)) | Err(_) => false,
            };
            state.rounds[round].known.extend(outcome.as_ref().ok().map(|outcome| outcome.record().clone()));
            state.writers[writer].believes = committed;
            state.writers[writer].successful = outcome.is_ok();
            if let Ok(SplitOutcome::Ran(_, CommitOutcome::AlreadyOurs)) = &outcome {
                state.tally.found_ours += 1;
            }
        });
        if let (true, Ok(SplitOutcome::Ran(record, CommitOutcome::Won | CommitOutcome::AlreadyOurs))) = (late, outcome)
        {
            for (key, part) in parts_of(&record, writer) {
                // The mistake is planted, so what becomes of it is not this task's business.
                log.store.put(&key, part).await.unwrap_or_default();
            }
        }
    });
}

/// Does the work of a split: takes its time, may fail, and writes the parts.
async fn write_parts(
    world: &World,
    store: &Client,
    plan: &RunPlan,
    split: u64,
    writer: usize,
    attempt: String,
    puts: bool,
) -> Result<CommitRecord> {
    let (time, fails) = world.with(|state| {
        let fails = state.chances.faults(&mut state.random);
        state.tally.failed_work += u64::from(fails);
        (1 + state.random.below(20), fails)
    });
    world.sleep(time).await;
    if fails {
        return Err(DatasetError::Transient { location: "source".to_owned(), message: "no answer".to_owned() });
    }
    let record = record_of(plan, split, writer, attempt);
    if puts {
        for (key, part) in parts_of(&record, writer) {
            store.put(&key, part).await?;
        }
    }
    Ok(record)
}

fn record_of(plan: &RunPlan, split: u64, writer: usize, attempt: String) -> CommitRecord {
    let (rows_out, rows_rejected) = expected_rows(split);
    let part = |folder: &str, rows: u64| (rows > 0).then(|| plan.part_name(folder, split, &attempt, "parquet"));
    CommitRecord {
        split,
        part: part(PART_FOLDERS[0], rows_out),
        rejected_part: part(PART_FOLDERS[1], rows_rejected),
        rows_in: rows_out + rows_rejected,
        rows_out,
        rows_rejected,
        fingerprint: plan.fingerprint.value.clone(),
        steps: vec![StepCount {
            rows_in: rows_out + rows_rejected,
            rows_kept: rows_out,
            rows_rejected,
            rows_out,
            ..StepCount::default()
        }],
        checksum: Some(writer.to_string()),
        attempt,
        ..CommitRecord::default()
    }
}

fn parts_of(record: &CommitRecord, writer: usize) -> Vec<(String, Part)> {
    let part = |key: &Option<String>, rows| key.clone().map(|key| (key, Part { split: record.split, rows, writer }));
    part(&record.part, record.rows_out).into_iter().chain(part(&record.rejected_part, record.rows_rejected)).collect()
}
