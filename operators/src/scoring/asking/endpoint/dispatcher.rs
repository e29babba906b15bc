//! The thread that decides which request is sent when.
//!
//! It owns all state and is told everything by events, so there is nothing to lock. A request is first looked up where answers are kept, then
//! waits until fewer than `concurrency` are under way and the rate allows it, is sent, perhaps waits and is sent again, and leaves
//! when its answer is stored.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::pace::{Rate, Waits};
use super::protocol::{self, Encoded, Malformed};
use super::{Answer, AskError};
use crate::network::{Hold, Network, Post, PostError, Posted, Secret};
use crate::records::{RecordKey, Records};

/// What the thread is told.
pub(super) enum Event {
    /// Somebody wants answers. They come together, so that what ends one of them before it is sent ends all.
    Ask(Vec<(Encoded, Waiter)>),
    /// It was looked up whether a request has been answered before.
    Found { key: RecordKey, found: Result<Option<Bytes>, String> },
    /// A response came, or none.
    Ended { key: RecordKey, ended: Result<Posted, PostError> },
    /// An answer is stored.
    Stored { key: RecordKey, stored: Result<(), String> },
    /// Nobody will ask again.
    Close,
}

/// Where an answer goes.
pub(super) struct Waiter {
    pub(super) place: usize,
    pub(super) answers: Sender<(usize, Result<Answer, AskError>)>,
}

/// What a dispatcher works with.
pub(super) struct Settings {
    pub(super) network: Arc<dyn Network>,
    pub(super) records: Option<Arc<dyn Records>>,
    pub(super) bearer: Option<Secret>,
    pub(super) concurrency: usize,
    pub(super) per_minute: Option<u32>,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    /// Leads to the dispatcher itself.
    pub(super) events: Sender<Event>,
}

pub(super) struct Dispatcher {
    settings: Settings,
    jobs: HashMap<RecordKey, Job>,
    /// Jobs that may be sent.
    ready: VecDeque<RecordKey>,
    /// Jobs that wait after a failure.
    delayed: BinaryHeap<Reverse<(Instant, RecordKey)>>,
    under_way: usize,
    rate: Rate,
    waits: Waits,
    /// When the endpoint last answered a request.
    answered: Option<Instant>,
    /// Whether it ever did, in this process or an earlier one.
    has_answered: bool,
    /// Why nothing new is sent; until every job has gone.
    broken: Option<String>,
}

/// A request that somebody waits for.
struct Job {
    url: String,
    body: Bytes,
    waiters: Vec<Waiter>,
    attempts: u32,
    first_sent: Option<Instant>,
    /// Kept while the request is under way.
    hold: Option<Hold>,
    answer: Option<Kept>,
}

/// What is stored of an answer.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    Answer(Answer),
    /// It was paid for, and holds no text: why not.
    Unusable {
        unusable: String,
    },
}

/// How a response is taken.
enum Outcome {
    Answered(Kept),
    Again { message: String, named: Option<Duration> },
    Failed(AskError),
}

impl Dispatcher {
    pub(super) fn new(settings: Settings) -> Self {
        let rate = Rate::new(settings.per_minute);
        Self {
            settings,
            jobs: HashMap::new(),
            ready: VecDeque::new(),
            delayed: BinaryHeap::new(),
            under_way: 0,
            rate,
            waits: Waits::default(),
            answered: None,
            has_answered: false,
            broken: None,
        }
    }

    pub(super) fn run(mut self, events: &Receiver<Event>) {
        loop {
            let now = Instant::now();
            self.wake(now);
            self.send_ready(now);
            let first = match self.next_time(now) {
                None => events.recv().ok(),
                Some(time) => match events.recv_timeout(time.saturating_duration_since(Instant::now())) {
                    Ok(event) => Some(event),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            let Some(first) = first else { return };
            for event in std::iter::once(first).chain(std::iter::from_fn(|| events.try_recv().ok())) {
                match event {
                    Event::Ask(asked) => asked.into_iter().for_each(|(encoded, waiter)| self.ask(encoded, waiter)),
                    Event::Found { key, found } => self.found(key, found),
                    Event::Ended { key, ended } => self.ended(key, ended, Instant::now()),
                    Event::Stored { key, stored } => self.stored(key, stored),
                    Event::Close => return,
                }
            }
        }
    }

    fn ask(&mut self, Encoded { url, body, key }: Encoded, waiter: Waiter) {
        if let Some(message) = &self.broken {
            return waiter.tell(Err(AskError::Answerer(message.clone())));
        }
        match self.jobs.entry(key) {
            Entry::Occupied(job) => return job.into_mut().waiters.push(waiter),
            Entry::Vacant(place) => place.insert(Job {
                url,
                body,
                waiters: vec![waiter],
                attempts: 0,
                first_sent: None,
                hold: None,
                answer: None,
            }),
        };
        match &self.settings.records {
            None => self.ready.push_back(key),
            Some(records) => {
                let events = self.settings.events.clone();
                records.get(key, Box::new(move |found| drop(events.send(Event::Found { key, found }))));
            }
        }
    }

    fn found(&mut self, key: RecordKey, found: Result<Option<Bytes>, String>) {
        if !self.jobs.contains_key(&key) {
            return;
        }
        match (found, &self.broken) {
            (Err(message), _) => self.break_off(&format!("kept answers cannot be read: {message}"), Some(key)),
            (Ok(Some(value)), _) if let Ok(kept) = serde_json::from_slice(&value) => {
                self.has_answered = true;
                self.leave_kept(key, kept);
            }
            // What cannot be read is asked for again, and then found in its place.
            (Ok(_), Some(message)) => self.leave(key, Err(AskError::Answerer(message.clone()))),
            (Ok(_), None) => self.ready.push_back(key),
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some(Reverse((time, key))) = self.delayed.peek().copied() {
            if time > now {
                return;
            }
            self.delayed.pop();
            self.ready.push_back(key);
        }
    }

    fn send_ready(&mut self, now: Instant) {
        while self.under_way < self.settings.concurrency && self.rate.wait(now).is_none() {
            let Some(key) = self.ready.pop_front() else { return };
            let Some(job) = self.jobs.get_mut(&key) else { continue };
            let Some(hold) = self.settings.network.hold() else {
                self.break_off("the program is about to stop", Some(key));
                return;
            };
            job.hold = Some(hold);
            job.attempts += 1;
            job.first_sent.get_or_insert(now);
            let post = Post {
                url: job.url.clone(),
                bearer: self.settings.bearer.clone(),
                body: job.body.clone(),
                timeout: self.settings.timeout,
            };
            self.under_way += 1;
            self.rate.begun(now);
            let events = self.settings.events.clone();
            self.settings.network.post(post, Box::new(move |ended| drop(events.send(Event::Ended { key, ended }))));
        }
    }

    /// When there is something to do without an event, seen from the moment for which it was looked what can be sent.
    fn next_time(&self, now: Instant) -> Option<Instant> {
        let delayed = self.delayed.peek().map(|Reverse((time, _))| *time);
        let is_waiting = !self.ready.is_empty() && self.under_way < self.settings.concurrency;
        let allowed = if is_waiting { self.rate.wait(now) } else { None };
        delayed.into_iter().chain(allowed).min()
    }

    fn ended(&mut self, key: RecordKey, ended: Result<Posted, PostError>, now: Instant) {
        let outcome = judge(ended, self.has_answered, self.settings.bearer.as_ref());
        let Some(job) = self.jobs.get_mut(&key) else { return };
        match outcome {
            Outcome::Answered(answer) => {
                (self.has_answered, self.answered) = (true, Some(now));
                let Some(records) = &self.settings.records else {
                    self.under_way -= 1;
                    return self.leave_kept(key, answer);
                };
                // A struct of texts and numbers has a form in JSON.
                let value = serde_json::to_vec(&answer).unwrap_or_default();
                job.answer = Some(answer);
                let events = self.settings.events.clone();
                let stored = Box::new(move |stored| drop(events.send(Event::Stored { key, stored })));
                records.put(key, value.into(), stored);
            }
            Outcome::Failed(error) => {
                self.under_way -= 1;
                match error {
                    AskError::Answerer(message) => self.break_off(&message, Some(key)),
                    AskError::Request(message) => self.fail(key, message),
                }
            }
            Outcome::Again { message, named } => {
                self.under_way -= 1;
                job.hold = None;
                if let Some(message) = &self.broken {
                    let message = message.clone();
                    return self.leave(key, Err(AskError::Answerer(message)));
                }
                if job.attempts < self.settings.attempts {
                    let wait = self.waits.after(job.attempts, &key, named);
                    if named.is_some() {
                        self.rate.pause(now + wait);
                    }
                    self.delayed.push(Reverse((now + wait, key)));
                    return;
                }
                let message = match job.attempts {
                    1 => message,
                    attempts => format!("{message}, at the last of {attempts} attempts"),
                };
                // Where nobody was answered all the while it is the endpoint that fails, and not the request. A single one that is left cannot
                // tell; then it counts whether any was answered before.
                let nothing_since = self.answered.is_none_or(|time| job.first_sent.is_some_and(|sent| time < sent));
                if nothing_since && (self.jobs.len() > 1 || !self.has_answered) {
                    self.break_off(&format!("the endpoint answers nothing: {message}"), Some(key));
                } else {
                    self.fail(key, message);
                }
            }
        }
    }

    fn stored(&mut self, key: RecordKey, stored: Result<(), String>) {
        self.under_way -= 1;
        match stored {
            Err(message) => self.break_off(&format!("an answer cannot be kept: {message}"), Some(key)),
            Ok(()) => {
                if let Some(answer) = self.jobs.get_mut(&key).and_then(|job| job.answer.take()) {
                    self.leave_kept(key, answer);
                }
            }
        }
    }

    fn leave_kept(&mut self, key: RecordKey, kept: Kept) {
        match kept {
            Kept::Answer(answer) => self.leave(key, Ok(answer)),
            Kept::Unusable { unusable } => self.fail(key, unusable),
        }
    }

    fn fail(&mut self, key: RecordKey, message: String) {
        let message = self.without_secret(&message);
        self.leave(key, Err(AskError::Request(message)));
    }

    fn leave(&mut self, key: RecordKey, result: Result<Answer, AskError>) {
        if let Some(Job { waiters, hold, .. }) = self.jobs.remove(&key) {
            // Whoever hears of the result may count on it that the request is not under way any more.
            drop(hold);
            for waiter in waiters {
                waiter.tell(result.clone());
            }
        }
        if self.jobs.is_empty() {
            self.broken = None;
        }
    }

    /// Nothing can be answered: whatever is not under way fails now, the rest when its response is there and stored.
    fn break_off(&mut self, message: &str, at: Option<RecordKey>) {
        let message = self.without_secret(message);
        self.broken = Some(message.clone());
        let waiting = self.ready.drain(..).chain(self.delayed.drain().map(|Reverse((_, key))| key));
        let waiting: Vec<RecordKey> = waiting.chain(at).collect();
        for key in waiting {
            self.leave(key, Err(AskError::Answerer(message.clone())));
        }
    }

    fn without_secret(&self, message: &str) -> String {
        self.settings.bearer.as_ref().map_or_else(|| message.to_owned(), |secret| secret.hide_in(message))
    }
}

impl Waiter {
    fn tell(self, result: Result<Answer, AskError>) {
        // Somebody who does not wait any more needs no answer.
        let _ = self.answers.send((self.place, result));
    }
}

/// How a response is taken by an endpoint that has answered something before, or nothing yet.
fn judge(ended: Result<Posted, PostError>, has_answered: bool, secret: Option<&Secret>) -> Outcome {
    let posted = match ended {
        Ok(posted) => posted,
        Err(PostError::Unsendable(message)) => return Outcome::Failed(AskError::Answerer(message)),
        Err(error) => return Outcome::Again { message: error.to_string(), named: None },
    };
    let message = || protocol::explain(posted.status, &posted.body, secret);
    match posted.status {
        200..=299 => match protocol::decode(&posted.body, secret) {
            Ok(answer) => Outcome::Answered(Kept::Answer(answer)),
            Err(Malformed::Answer(unusable)) => Outcome::Answered(Kept::Unusable { unusable }),
            // Something else answers at this address, for now or for ever.
            Err(Malformed::Response(message)) => Outcome::Again { message, named: None },
        },
        408 | 409 | 429 | 500..=599 => Outcome::Again { message: message(), named: posted.retry_after },
        // The address, the key or the model is wrong, whatever is asked. Some endpoints refuse single prompts with 403.
        300..=399 | 401 | 404 => Outcome::Failed(AskError::Answerer(message())),
        403 if !has_answered => Outcome::Failed(AskError::Answerer(message())),
        _ => Outcome::Failed(AskError::Request(message())),
    }
}
