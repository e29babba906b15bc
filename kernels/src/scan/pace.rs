//! Which engine reads on: what the last texts looked like.

use super::verify::Patterns;

/// When the automaton takes over, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// At least so many candidates in a KiB of text make it dense.
    pub(super) candidates: u32,
    /// Bytes after which the candidates are judged.
    pub(super) probe: usize,
    /// Bytes that the automaton reads before the windows are asked again.
    pub(super) run: usize,
}

impl Default for Plan {
    fn default() -> Self {
        // The probes cost a thirtieth of what the windows are slower, which is a factor of two at worst.
        Self { candidates: 56, probe: 2 << 10, run: 64 << 10 }
    }
}

impl Plan {
    /// The plan for a list. An automaton that fits the nearer caches takes over sooner than one that does not: for lists of words of
    /// five and of eight letters and more, 6,000 and 100,000 of them, leaving more to the windows was measured to be twice as fast.
    pub(super) fn for_list(patterns: &Patterns) -> Self {
        let candidates = if patterns.bytes() <= NEAR { 56 } else { 200 };
        Self { candidates, ..Self::default() }
    }
}

/// Bytes of patterns whose automaton, which has a row of some 50 bytes for most of them, fits the second cache.
const NEAR: usize = 8 << 10;

/// With a limited request an early end is looked for this often.
const LIMITED: usize = 4 << 10;

/// The state of the decision.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Bytes and candidates that are not judged yet.
    bytes: usize,
    candidates: u32,
    /// Bytes that the automaton is still to read.
    left: usize,
}

impl Pace {
    /// Counts what the windows have read.
    pub(super) fn add(&mut self, bytes: usize, candidates: u32, plan: &Plan) {
        self.bytes += bytes;
        self.candidates = self.candidates.saturating_add(candidates);
        if self.bytes >= plan.probe {
            if u64::from(self.candidates) << 10 >= u64::from(plan.candidates) * self.bytes as u64 {
                self.left = plan.run;
            }
            (self.bytes, self.candidates) = (0, 0);
        }
    }

    /// Whether the automaton is to read on.
    pub(super) fn is_dense(&self) -> bool {
        self.left > 0
    }

    /// How many of the next `length` bytes the automaton is to read. They are counted as read.
    pub(super) fn take(&mut self, length: usize, limited: bool) -> usize {
        let taken = length.min(self.left).min(if limited { LIMITED } else { usize::MAX });
        self.left -= taken;
        taken
    }
}
