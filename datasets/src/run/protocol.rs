//! The decisions of the run protocol, as pure functions.
//!
//! A store offers one atomic step: create a key that does not exist. Everything else may happen and not be answered, be
//! answered and not have happened for others yet, or be done twice. The functions here say what follows from what was
//! seen; `log.rs` does the seeing, and the simulation drives the same code through every interleaving it can find.
//!
//! Three rules carry the proof that every split is committed exactly once:
//!
//! 1. a part has a name that only one attempt ever writes, and it is complete before its record is created;
//! 2. a record is only ever created, never overwritten and never deleted;
//! 3. a part is deleted only by who has *read* another attempt's record for its split. An attempt that does not know how
//!    its commit ended leaves its part alone: the record that names it may exist.

use std::collections::BTreeSet;
use std::time::Duration;

/// What is known of one call that creates a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateAnswer {
    /// The key was created by this call.
    Created,
    /// The store refused because the key exists, or because another create is under way.
    Exists,
    /// The call failed in a way that says nothing about its effect.
    Unknown,
}

/// What to do after trying to create a commit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCreate {
    /// The record is ours: the split is done.
    Won,
    /// The record is ours since an earlier call whose answer was lost: the split is done.
    AlreadyOurs,
    /// Another attempt has committed the split: our part may be deleted.
    Lost,
    /// Nothing is decided: create again.
    TryAgain,
}

/// Decides what a call that creates a commit record means. `standing` is the attempt that the record under the key names,
/// read after a call that was answered with [`CreateAnswer::Exists`].
///
/// ```
/// use gristmill_datasets::run::protocol::{AfterCreate, CreateAnswer, after_create};
///
/// assert_eq!(after_create(CreateAnswer::Exists, Some("a"), "a"), AfterCreate::AlreadyOurs);
/// assert_eq!(after_create(CreateAnswer::Exists, Some("b"), "a"), AfterCreate::Lost);
/// // Two creates at once may both be refused, with nothing created.
/// assert_eq!(after_create(CreateAnswer::Exists, None, "a"), AfterCreate::TryAgain);
/// ```
#[must_use]
pub fn after_create(answer: CreateAnswer, standing: Option<&str>, attempt: &str) -> AfterCreate {
    match (answer, standing) {
        (CreateAnswer::Created, _) => AfterCreate::Won,
        (CreateAnswer::Exists, Some(other)) if other == attempt => AfterCreate::AlreadyOurs,
        (CreateAnswer::Exists, Some(_)) => AfterCreate::Lost,
        (CreateAnswer::Exists, None) | (CreateAnswer::Unknown, _) => AfterCreate::TryAgain,
    }
}

/// What to do with a document that is created once and is the same for every driver: the plan and the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterPublish {
    /// Ours was created.
    Created,
    /// One is there, and it is equal to ours where it must be.
    Agrees,
    /// One is there, and it differs.
    Differs,
    /// Nothing is decided: create again.
    TryAgain,
}

/// Decides what a call that creates a shared document means. `standing` says whether the document that is there agrees
/// with ours, `None` when there is nothing to read.
#[must_use]
pub fn after_publish(answer: CreateAnswer, standing: Option<bool>) -> AfterPublish {
    match (answer, standing) {
        (CreateAnswer::Created, _) => AfterPublish::Created,
        (_, Some(true)) => AfterPublish::Agrees,
        (_, Some(false)) => AfterPublish::Differs,
        (_, None) => AfterPublish::TryAgain,
    }
}

/// What an attempt does with the parts it wrote when its commit did not end with a won record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartFate {
    /// Another attempt's record was read, so no record will ever name the parts.
    Delete,
    /// A record that names the parts may exist.
    Keep,
}

/// Decides the fate of an attempt's parts: `decided` is the decision that ended the commit, `None` when it ended with an error.
#[must_use]
pub fn part_fate(decided: Option<AfterCreate>) -> PartFate {
    match decided {
        Some(AfterCreate::Lost) => PartFate::Delete,
        Some(AfterCreate::Won | AfterCreate::AlreadyOurs | AfterCreate::TryAgain) | None => PartFate::Keep,
    }
}

/// What a driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextAction {
    /// Run these splits, in this order.
    Run(Vec<u64>),
    /// Every split is committed: write the manifest.
    Finish,
    /// Every split is committed or given up, and these are given up.
    GiveUp(Vec<u64>),
}

/// Decides what a driver does next from what the log says: runs what is neither committed nor given up, at most `limit`
/// splits at once.
///
/// ```
/// use gristmill_datasets::run::protocol::{NextAction, next_action};
///
/// let committed = [0, 2].into();
/// assert_eq!(next_action(4, &committed, &[3].into(), 100), NextAction::Run(vec![1]));
/// ```
#[must_use]
pub fn next_action(total: u64, committed: &BTreeSet<u64>, failed: &BTreeSet<u64>, limit: usize) -> NextAction {
    let open: Vec<u64> =
        (0..total).filter(|split| !committed.contains(split) && !failed.contains(split)).take(limit).collect();
    if !open.is_empty() {
        return NextAction::Run(open);
    }
    let given_up: Vec<u64> =
        failed.iter().copied().filter(|split| *split < total && !committed.contains(split)).collect();
    if given_up.is_empty() { NextAction::Finish } else { NextAction::GiveUp(given_up) }
}

/// How often and how patiently a store is asked again after a failure that may pass.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Calls in all, at least 1.
    pub attempts: u32,
    /// Pause after the first failure; it doubles with every further one.
    pub first_delay: Duration,
    /// Longest pause.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    /// Eight calls within about 25 seconds: longer than a store's throttling lasts, shorter than a user's patience.
    fn default() -> Self {
        Self { attempts: 8, first_delay: Duration::from_millis(200), longest_delay: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// The pause before the next call after `failures` calls failed; `None` when it is time to give up.
    #[must_use]
    pub fn pause_after(&self, failures: u32) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doubled =
            self.first_delay.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        Some(doubled.min(self.longest_delay))
    }
}

/// The decisions as a table, so that a simulation can replace one with a wrong one and show that it is noticed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decisions {
    pub(crate) after_create: fn(CreateAnswer, Option<&str>, &str) -> AfterCreate,
    pub(crate) part_fate: fn(Option<AfterCreate>) -> PartFate,
}

impl Decisions {
    pub(crate) const PROTOCOL: Self = Self { after_create, part_fate };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_is_understood_from_what_stands_there() {
        let cases = [
            (CreateAnswer::Created, None, AfterCreate::Won),
            (CreateAnswer::Created, Some("other"), AfterCreate::Won),
            (CreateAnswer::Exists, Some("mine"), AfterCreate::AlreadyOurs),
            (CreateAnswer::Exists, Some("other"), AfterCreate::Lost),
            (CreateAnswer::Exists, None, AfterCreate::TryAgain),
            (CreateAnswer::Unknown, None, AfterCreate::TryAgain),
            (CreateAnswer::Unknown, Some("other"), AfterCreate::TryAgain),
        ];
        for (answer, standing, expected) in cases {
            assert_eq!(after_create(answer, standing, "mine"), expected, "{answer:?}, {standing:?}");
        }
    }

    #[test]
    fn a_shared_document_is_accepted_only_when_it_agrees() {
        let cases = [
            (CreateAnswer::Created, None, AfterPublish::Created),
            (CreateAnswer::Exists, Some(true), AfterPublish::Agrees),
            (CreateAnswer::Unknown, Some(true), AfterPublish::Agrees),
            (CreateAnswer::Exists, Some(false), AfterPublish::Differs),
            (CreateAnswer::Exists, None, AfterPublish::TryAgain),
            (CreateAnswer::Unknown, None, AfterPublish::TryAgain),
        ];
        for (answer, standing, expected) in cases {
            assert_eq!(after_publish(answer, standing), expected, "{answer:?}, {standing:?}");
        }
    }

    #[test]
    fn parts_are_deleted_only_when_another_record_was_read() {
        assert_eq!(part_fate(Some(AfterCreate::Lost)), PartFate::Delete);
        for decided in [None, Some(AfterCreate::Won), Some(AfterCreate::AlreadyOurs), Some(AfterCreate::TryAgain)] {
            assert_eq!(part_fate(decided), PartFate::Keep, "{decided:?}");
        }
    }

    #[test]
    fn a_driver_runs_what_is_open_then_finishes_or_gives_up() {
        let cases: [(u64, &[u64], &[u64], usize, NextAction); 7] = [
            (3, &[], &[], 10, NextAction::Run(vec![0, 1, 2])),
            (3, &[], &[], 2, NextAction::Run(vec![0, 1])),
            (3, &[0, 2], &[], 10, NextAction::Run(vec![1])),
            (3, &[0, 1, 2], &[], 10, NextAction::Finish),
            (0, &[], &[], 10, NextAction::Finish),
            (3, &[0, 1], &[2], 10, NextAction::GiveUp(vec![2])),
            // A split that was committed after it had been given up counts as committed.
            (3, &[0, 1, 2], &[2], 10, NextAction::Finish),
        ];
        for (total, committed, failed, limit, expected) in cases {
            let committed = committed.iter().copied().collect();
            let failed = failed.iter().copied().collect();
            assert_eq!(next_action(total, &committed, &failed, limit), expected);
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let policy = RetryPolicy {
            attempts: 5,
            first_delay: Duration::from_millis(100),
            longest_delay: Duration::from_millis(350),
        };
        let pauses: Vec<Option<u128>> =
            (1..=5).map(|failures| policy.pause_after(failures).map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(350), Some(350), None]);
        let endless = RetryPolicy { attempts: u32::MAX, ..policy };
        assert_eq!(endless.pause_after(1_000), Some(Duration::from_millis(350)));
    }
}
