//! What a host does for operators that ask a server: posting, and telling when it is about to stop.
//!
//! Operators stay synchronous. A request is begun and its end is reported to a closure, so that one thread can have many requests
//! under way on whatever runtime the host has.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Posts to servers. Implemented by hosts that have a network.
pub trait Network: fmt::Debug + Send + Sync {
    /// Begins to post, and calls `done` once when it has ended, on any thread. `done` returns quickly.
    fn post(&self, post: Post, done: PostDone);

    /// The secret in an environment variable, where it is set.
    fn secret(&self, variable: &str) -> Option<Secret>;

    /// Announces work that should not be cut short, such as a request that costs money until its answer is stored: a host that is asked to stop
    /// waits until what is returned is dropped. `None` when the host stops already and nothing new shall begin.
    fn hold(&self) -> Option<Hold>;
}

/// What is called when a post has ended.
pub type PostDone = Box<dyn FnOnce(Result<Posted, PostError>) + Send>;

/// As long as this is kept, a host that was asked to stop waits.
pub type Hold = Box<dyn fmt::Debug + Send>;

/// A request with a JSON body.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where to.
    pub url: String,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<Secret>,
    /// The body, sent as `application/json`.
    pub body: Bytes,
    /// The longest time until the whole response is there.
    pub timeout: Duration,
}

/// A response, whatever its status.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The status of HTTP, such as 200.
    pub status: u16,
    /// How long the server asks to wait before the next request, its header `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// It did not come in time.
    #[error("no response within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// There was no connection, or it was lost.
    #[error("{0}")]
    Connection(String),
    /// The request cannot be sent at all, such as one to an address that is none.
    #[error("{0}")]
    Unsendable(String),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for sending it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// `message` with every occurrence of the secret made unreadable: servers may repeat what they were sent.
    #[must_use]
    pub fn hide_in(&self, message: &str) -> String {
        if self.0.is_empty() { message.to_owned() } else { message.replace(&self.0, "***") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}
