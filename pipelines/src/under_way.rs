//! Work that should not be cut short when the program stops.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Counts requests that cost something until their answers are stored. A clone counts the same ones.
#[derive(Clone, Default)]
pub struct UnderWay {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    number: usize,
    is_stopping: bool,
}

/// One piece of work.
struct Piece(Arc<Shared>);

impl UnderWay {
    /// How many there are.
    #[must_use]
    pub fn number(&self) -> usize {
        self.shared.state.lock().number
    }

    /// Lets nothing new begin, and waits until what is under way has ended.
    pub async fn stop(&self) {
        self.shared.state.lock().is_stopping = true;
        loop {
            let changed = self.shared.changed.notified();
            if self.number() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Counts a piece of work until the value is dropped; `None` when nothing new may begin.
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only a network has such work"))]
    pub(crate) fn begin(&self) -> Option<impl fmt::Debug + Send + 'static> {
        let mut state = self.shared.state.lock();
        if state.is_stopping {
            return None;
        }
        state.number += 1;
        Some(Piece(Arc::clone(&self.shared)))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.0.state.lock().number -= 1;
        // It may come between the waiter's look and its wait, which therefore asks to be told before it looks.
        self.0.changed.notify_waiters();
    }
}

impl fmt::Debug for UnderWay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UnderWay({})", self.number())
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Piece")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn stopping_waits_for_what_is_under_way_and_lets_nothing_begin() {
        let work = UnderWay::default();
        let pieces: Vec<_> = (0..3).map(|_| work.begin().unwrap()).collect();
        let stopped = tokio::spawn({
            let work = work.clone();
            async move { work.stop().await }
        });
        while work.begin().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(!stopped.is_finished());
        for piece in pieces {
            tokio::task::yield_now().await;
            drop(piece);
        }
        stopped.await.unwrap();
        assert_eq!(work.number(), 0);
        work.stop().await;
    }
}
