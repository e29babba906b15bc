//! Which engine reads on: what the last texts looked like.

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
        // Measured with lists of 2,000 and 6,000 words: 45 candidates are best left to the windows, 66 to the automaton.
        // The probes cost a thirtieth of what the windows are slower, which is a factor of two at worst.
        Self { candidates: 56, probe: 2 << 10, run: 64 << 10 }
    }
}

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
