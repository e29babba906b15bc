//! When a request is sent: how long it waits after a failure, and how many begin in a minute.

use std::time::{Duration, Instant};

use crate::records::RecordKey;

/// The waits of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// The wait after the first failure; each further one is twice as long.
    pub(super) first: Duration,
    /// The longest wait that is not named by the server.
    pub(super) longest: Duration,
    /// The longest wait that a server may name.
    pub(super) longest_named: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(30),
            longest_named: Duration::from_secs(5 * 60),
        }
    }
}

impl Waits {
    /// The wait after the attempt of that number, from 1, failed. Its second half is spread by key and attempt, so that requests that failed
    /// together do not come again together.
    pub(super) fn after(&self, attempt: u32, key: &RecordKey, named: Option<Duration>) -> Duration {
        if let Some(named) = named {
            return named.min(self.longest_named);
        }
        let doubled = self.first.saturating_mul(1 << (attempt - 1).min(20)).min(self.longest);
        let mut hasher = blake3::Hasher::new();
        hasher.update(key).update(&attempt.to_le_bytes()).update(&std::process::id().to_le_bytes());
        let spread = u16::from_le_bytes([hasher.finalize().as_bytes()[0], hasher.finalize().as_bytes()[1]]);
        doubled.mul_f64(0.5 + 0.5 * f64::from(spread) / f64::from(u16::MAX))
    }
}

/// Requests that may begin, one after the other.
#[derive(Debug)]
pub(super) struct Rate {
    between: Option<Duration>,
    next: Option<Instant>,
}

impl Rate {
    pub(super) fn new(per_minute: Option<u32>) -> Self {
        Self { between: per_minute.map(|number| Duration::from_secs(60) / number.max(1)), next: None }
    }

    /// When the next request may begin, where that is later than `now`.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        self.next.filter(|&next| next > now)
    }

    /// A request begins. Unused time is not saved up.
    pub(super) fn begun(&mut self, now: Instant) {
        if let Some(between) = self.between {
            self.next = Some(self.next.filter(|&next| next + between > now).unwrap_or(now) + between);
        }
    }

    /// The server wants to be left alone until then.
    pub(super) fn pause(&mut self, until: Instant) {
        self.next = self.next.max(Some(until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_are_spread_and_bounded() {
        let waits = Waits::default();
        let key = [7; 32];
        for (attempt, longest) in [(1, 200), (2, 400), (3, 800), (8, 25_600), (9, 30_000), (500, 30_000)] {
            let wait = waits.after(attempt, &key, None).as_millis();
            assert!((longest / 2..=longest).contains(&wait), "{attempt}: {wait}");
        }
        let spread: std::collections::BTreeSet<_> = (0..50).map(|number| waits.after(1, &[number; 32], None)).collect();
        assert!(spread.len() > 40);
        assert_eq!(waits.after(1, &key, Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(waits.after(1, &key, Some(Duration::from_secs(3600))), waits.longest_named);
    }

    #[test]
    fn requests_are_spread_over_the_minute_and_idle_time_is_not_saved() {
        let begin = Instant::now();
        let mut rate = Rate::new(Some(60));
        assert_eq!(rate.wait(begin), None);
        rate.begun(begin);
        assert_eq!(rate.wait(begin), Some(begin + Duration::from_secs(1)));
        let later = begin + Duration::from_secs(100);
        assert_eq!(rate.wait(later), None);
        rate.begun(later);
        assert_eq!(rate.wait(later), Some(later + Duration::from_secs(1)));
        rate.pause(later + Duration::from_secs(9));
        assert_eq!(rate.wait(later), Some(later + Duration::from_secs(9)));
        let mut free = Rate::new(None);
        free.begun(begin);
        assert_eq!(free.wait(begin), None);
    }
}
