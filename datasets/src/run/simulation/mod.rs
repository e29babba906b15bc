//! A deterministic simulation of runs: the production code of the log, on a store and a machine that fail on purpose.
//!
//! One seed is one history. Several drivers and their workers run the splits of a small run on one store; the seed decides
//! in which order they take steps, how long every request takes, which are lost, answered wrongly or take effect after their
//! caller gave up, who is killed between which two steps, and who sleeps until everybody took it for dead. When all is over,
//! `check.rs` looks at what is left. A violation names its seed, and the seed replays the history.
//!
//! The mistakes of [`Planted`] show that the simulation would notice: each is found within few seeds.

mod actors;
mod check;
mod store;
mod world;

use std::fmt;

use serde_json::Value;

use self::world::{Executor, Random, Stopped, World};
use crate::run::fingerprint::Fingerprint;
use crate::run::plan::RunPlan;
use crate::{Compression, Format, SourceFile, Split, SplitUnit};

/// Steps of tasks within which a run must be over.
const MOST_STEPS: u64 = 20_000;
/// How often a driver is started again while things go wrong.
const BAD_DAY_RESTARTS: u32 = 2;
/// How often a driver is started again when nothing fails any more, for what earlier failures left under way.
const GOOD_DAY_RESTARTS: u32 = 20;

/// A mistake in the protocol, planted to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// "Already exists" counts as done although no record is there.
    ConflictTakenForDone,
    /// The store overwrites records.
    RecordsOverwritten,
    /// The record is created before the part is complete.
    CommittedBeforeComplete,
    /// Attempts are named when the run is planned, so two attempts write the same part.
    AttemptOfThePlan,
    /// An attempt that does not know how its commit ended deletes its part.
    UnknownTakenForLost,
    /// Parts that no record names are deleted while attempts are at work.
    SweptEarly,
}

impl Planted {
    /// All mistakes.
    pub const ALL: [Self; 6] = [
        Self::ConflictTakenForDone,
        Self::RecordsOverwritten,
        Self::CommittedBeforeComplete,
        Self::AttemptOfThePlan,
        Self::UnknownTakenForLost,
        Self::SweptEarly,
    ];
}

/// A history that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed that replays it.
    pub seed: u64,
    /// What did not hold.
    pub message: String,
}

/// How often things happened, to show that they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Histories.
    pub seeds: u64,
    /// Steps of tasks.
    pub steps: u64,
    /// Requests to the store.
    pub requests: u64,
    /// Requests that failed and had no effect.
    pub failed_before: u64,
    /// Requests that had their effect and were answered with a failure.
    pub lost_answers: u64,
    /// Requests that had their effect after they were answered with a failure.
    pub late_effects: u64,
    /// Reads that were cut short.
    pub truncated: u64,
    /// Creates that were refused because another was under way.
    pub conflicts: u64,
    /// Answers that kept their task waiting until others took it for dead.
    pub pauses: u64,
    /// Tasks that were killed.
    pub crashes: u64,
    /// Rounds that a driver did not wait for, leaving zombies.
    pub abandoned: u64,
    /// Attempts that failed before they had written anything.
    pub failed_work: u64,
    /// Splits that were given up, for a while.
    pub given_up: u64,
    /// Attempts that lost to another.
    pub lost_races: u64,
    /// Attempts that found their own record after a lost answer.
    pub found_ours: u64,
    /// Manifests that were created.
    pub manifests: u64,
}

/// What may still go wrong in a history. It is bounded, so that every history can end.
#[derive(Clone, Debug)]
struct Chances {
    faults_left: u64,
    fault_one_in: u64,
    crashes_left: u64,
    pauses_left: u64,
    calm: bool,
}

/// Replays the history of a seed.
///
/// ```
/// use gristmill_datasets::run::simulation::{Planted, run};
///
/// let tally = run(7, None)?;
/// assert_eq!(tally.manifests, 1);
/// assert!((0..1_000).any(|seed| run(seed, Some(Planted::AttemptOfThePlan)).is_err()));
/// # Ok::<(), gristmill_datasets::run::simulation::Violation>(())
/// ```
///
/// # Errors
///
/// What did not hold.
pub fn run(seed: u64, planted: Option<Planted>) -> Result<Tally, Violation> {
    let mut random = Random::new(!seed);
    let drivers = usize::try_from(1 + random.below(3)).unwrap_or(1);
    let splits = 1 + random.below(4);
    let chances = Chances {
        faults_left: random.below(12),
        fault_one_in: 3 + random.below(20),
        crashes_left: random.below(4),
        pauses_left: random.below(4),
        calm: false,
    };
    let plan = plan_of(splits);
    let world = World::new(seed, chances, planted);
    let mut executor = Executor::new(world.clone());
    let replayed = replay(&world, &mut executor, &plan, drivers, splits);
    let mut tally = world.with(|state| state.tally);
    tally.seeds = 1;
    tally.steps = executor.steps();
    replayed.map(|()| tally).map_err(|message| Violation { seed, message })
}

fn replay(world: &World, executor: &mut Executor, plan: &RunPlan, drivers: usize, splits: u64) -> Result<(), String> {
    let start = |world: &World, driver: usize, life: u64| actors::start_driver(world, plan, driver, life);
    world.with(|state| {
        // Whoever gives the command on a good day gives it again when a store answered with conflicts for longer than a
        // driver tries.
        state.restarts = [vec![BAD_DAY_RESTARTS; drivers], vec![GOOD_DAY_RESTARTS; 2]].concat();
        for driver in 0..drivers {
            let delay = state.random.below(60);
            state.start_driver_after(delay, driver);
        }
    });
    if executor.run(true, MOST_STEPS, start) == Stopped::TooLong {
        return Err(format!("not over after {MOST_STEPS} steps"));
    }
    // Somebody gives the command once more, on a good day. Zombies of the bad days may still be about.
    world.with(|state| {
        state.chances.calm = true;
        state.start_driver_after(1, drivers);
    });
    if executor.run(false, MOST_STEPS, start) == Stopped::TooLong {
        return Err(format!("not over {MOST_STEPS} steps after the last fault"));
    }
    world.with(|state| check::finished(state, splits).and_then(|()| check::no_orphans(state, false)))?;
    // When the last zombie is gone, giving the command again cleans up and changes nothing.
    let before = world.with(|state| state.tally.manifests);
    world.with(|state| state.start_driver_after(1, drivers + 1));
    executor.run(false, MOST_STEPS, start);
    world.with(|state| {
        if state.tally.manifests != before {
            return Err("the manifest was written again".to_owned());
        }
        check::finished(state, splits).and_then(|()| check::no_orphans(state, true))
    })
}

/// Rows kept and rejected of a split: of each kind some have none.
fn expected_rows(split: u64) -> (u64, u64) {
    [(3, 2), (5, 0), (0, 4), (0, 0)][usize::try_from(split % 4).unwrap_or_default()]
}

fn plan_of(splits: u64) -> RunPlan {
    let split = |number| Split {
        number,
        file: 0,
        unit: SplitUnit::RowGroups,
        start: number,
        end: number + 1,
        skip: 0,
        take: None,
        first_row: None,
        file_row: None,
        rows: None,
        bytes: 1,
    };
    RunPlan {
        name: String::new(),
        created_ms: 0,
        fingerprint: Fingerprint::of(Value::Null),
        definition: Value::Null,
        files: vec![SourceFile {
            url: String::new(),
            size: splits,
            etag: None,
            version: None,
            modified_ms: None,
            format: Format::Parquet,
            compression: Compression::None,
        }],
        splits: (0..splits).map(split).collect(),
    }
}

impl Chances {
    fn faults(&mut self, random: &mut Random) -> bool {
        let happens = !self.calm && self.faults_left > 0 && random.one_in(self.fault_one_in);
        self.faults_left -= u64::from(happens);
        happens
    }

    fn crashes(&mut self, random: &mut Random) -> bool {
        let happens = !self.calm && self.crashes_left > 0 && random.one_in(40);
        self.crashes_left -= u64::from(happens);
        happens
    }

    fn pauses(&mut self, random: &mut Random) -> bool {
        let happens = !self.calm && self.pauses_left > 0 && random.one_in(25);
        self.pauses_left -= u64::from(happens);
        happens
    }
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        let Self {
            seeds,
            steps,
            requests,
            failed_before,
            lost_answers,
            late_effects,
            truncated,
            conflicts,
            pauses,
            crashes,
            abandoned,
            failed_work,
            given_up,
            lost_races,
            found_ours,
            manifests,
        } = other;
        self.seeds += seeds;
        self.steps += steps;
        self.requests += requests;
        self.failed_before += failed_before;
        self.lost_answers += lost_answers;
        self.late_effects += late_effects;
        self.truncated += truncated;
        self.conflicts += conflicts;
        self.pauses += pauses;
        self.crashes += crashes;
        self.abandoned += abandoned;
        self.failed_work += failed_work;
        self.given_up += given_up;
        self.lost_races += lost_races;
        self.found_ours += found_ours;
        self.manifests += manifests;
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "seed {}: {}", self.seed, self.message)
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn no_history_breaks_the_protocol() {
        let mut tally = Tally::default();
        for seed in 0..10_000 {
            tally.add(&run(seed, None).unwrap());
        }
        // A simulation in which nothing goes wrong shows nothing.
        let happened = [
            ("failed before", tally.failed_before),
            ("lost answers", tally.lost_answers),
            ("late effects", tally.late_effects),
            ("truncated", tally.truncated),
            ("conflicts", tally.conflicts),
            ("pauses", tally.pauses),
            ("crashes", tally.crashes),
            ("abandoned", tally.abandoned),
            ("failed work", tally.failed_work),
            ("given up", tally.given_up),
            ("lost races", tally.lost_races),
            ("found ours", tally.found_ours),
        ];
        for (what, count) in happened {
            assert!(count > 100, "{what}: {count} times");
        }
        assert_eq!(tally.manifests, 10_000);
    }

    #[test]
    fn conflicts_that_outlast_a_driver_end_when_the_command_is_given_again() {
        for seed in [122_970, 915_363] {
            assert_eq!(run(seed, None).unwrap().manifests, 1);
        }
    }

    #[test]
    fn every_planted_mistake_is_found() {
        for planted in Planted::ALL {
            let found = (0..5_000).find_map(|seed| run(seed, Some(planted)).err());
            assert!(found.is_some(), "{planted:?} was not found");
        }
    }

    #[test]
    fn a_seed_is_a_history() {
        for seed in 0..200 {
            assert_eq!(run(seed, None), run(seed, None));
            assert_eq!(run(seed, Some(Planted::RecordsOverwritten)), run(seed, Some(Planted::RecordsOverwritten)));
        }
    }
}
