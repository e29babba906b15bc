//! What all splits ask of one device, collected and packed.
//!
//! Whoever asks waits where the queue holds as many tokens as it may, so that memory is bounded however many splits there are. The thread of the device takes all
//! that waits, sorts it by length, and packs it into batches of at most so many tokens: then a batch has texts of about one length, and short texts are not one
//! batch each. Results are those of each document alone, so the order in which they are computed does not matter.
//!
//! A device that runs out of memory gets batches of half the tokens, from then on; a single document that is too much for it is an error.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use gristmill_kernels::device::DeviceError;

use super::Task;
use crate::models::batch::Batch;

/// What computes batches.
pub(super) trait Runner: Send {
    /// One result for each document of the batch.
    fn run(&mut self, task: Task, batch: &Batch) -> Result<Vec<Vec<f32>>, DeviceError>;

    /// Gives back what memory it can.
    fn release(&mut self);
}

/// The queue may hold as many tokens as so many batches.
const BATCHES: usize = 4;

/// A queue with the thread that computes what is in it.
#[derive(Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something came, or the queue was closed.
    came: Condvar,
    /// Tokens left, or the queue was closed.
    left: Condvar,
    most_tokens: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// Of all requests that are not answered.
    tokens: usize,
    closed: bool,
}

/// One document. It is answered when it is dropped, if it was not before.
#[derive(Debug)]
struct Request {
    task: Task,
    ids: Vec<u32>,
    /// None where it was answered.
    answers: Option<Arc<Answers>>,
    place: usize,
}

/// Answers to what one caller asked.
#[derive(Debug)]
struct Answers {
    state: Mutex<Answered>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct Answered {
    results: Vec<Option<Vec<f32>>>,
    left: usize,
    error: Option<DeviceError>,
}

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Starts a thread that computes batches of at most `tokens` tokens, or of one document.
    pub(super) fn start(runner: Arc<Mutex<dyn Runner>>, tokens: usize) -> Result<Self, DeviceError> {
        let tokens = tokens.max(1);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            came: Condvar::new(),
            left: Condvar::new(),
            most_tokens: tokens.saturating_mul(BATCHES),
        });
        let own = Arc::clone(&shared);
        let work = move || {
            // Closes the queue however the thread ends, so that nobody waits for it.
            let closing = Closing(own);
            serve(&closing.0, &runner, tokens);
        };
        let thread = std::thread::Builder::new().name("model".into()).spawn(work).map_err(|error| {
            DeviceError::Failed { device: "the thread of the device".into(), message: error.to_string() }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// One result for each document, in their order. Waits until there is room, and then until all are there.
    pub(super) fn run(&self, task: Task, documents: &[&[u32]]) -> Result<Vec<Vec<f32>>, DeviceError> {
        let state = Answered { results: vec![None; documents.len()], left: documents.len(), error: None };
        let answers = Arc::new(Answers { state: Mutex::new(state), ready: Condvar::new() });
        let request = |(place, ids): (usize, &&[u32])| Request {
            task,
            ids: ids.to_vec(),
            answers: Some(Arc::clone(&answers)),
            place,
        };
        let mut requests = documents.iter().enumerate().map(request).peekable();
        while requests.peek().is_some() {
            self.push(&mut requests);
        }
        let mut state = lock(&answers.state);
        while state.left > 0 {
            state = wait(&answers.ready, state);
        }
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok(state.results.iter_mut().map(|result| result.take().unwrap_or_default()).collect()),
        }
    }

    /// As many requests as there is room for, at least one: waits until there is. They come at once, so that they can be in one batch. A document with
    /// more tokens than the queue may hold goes in alone.
    fn push(&self, requests: &mut Peekable<impl Iterator<Item = Request>>) {
        let mut waiting = lock(&self.shared.waiting);
        let fits = |waiting: &Waiting, request: &Request| {
            waiting.tokens == 0 || waiting.tokens + request.ids.len() <= self.shared.most_tokens
        };
        while !waiting.closed && requests.peek().is_some_and(|next| !fits(&waiting, next)) {
            waiting = wait(&self.shared.left, waiting);
        }
        if waiting.closed {
            // Answered by being dropped.
            requests.for_each(drop);
            return;
        }
        while let Some(request) = requests.next_if(|next| fits(&waiting, next)) {
            waiting.tokens += request.ids.len();
            waiting.requests.push_back(request);
        }
        self.shared.came.notify_one();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        lock(&self.shared.waiting).closed = true;
        self.shared.came.notify_all();
        if let Some(thread) = self.thread.take() {
            // One that panicked has answered all that waited.
            let _ended = thread.join();
        }
    }
}

struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let requests = {
            let mut waiting = lock(&self.0.waiting);
            waiting.closed = true;
            std::mem::take(&mut waiting.requests)
        };
        drop(requests);
        self.0.left.notify_all();
    }
}

impl Request {
    fn answer(&mut self, result: Result<Vec<f32>, DeviceError>) {
        if let Some(answers) = self.answers.take() {
            answers.take(self.place, result);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let ended = DeviceError::Failed { device: "the thread of the device".into(), message: "it has ended".into() };
        self.answer(Err(ended));
    }
}

impl Answers {
    /// One answer for each place.
    fn take(&self, place: usize, result: Result<Vec<f32>, DeviceError>) {
        let mut state = lock(&self.state);
        let result = result.unwrap_or_else(|error| {
            state.error.get_or_insert(error);
            Vec::new()
        });
        state.results[place] = Some(result);
        state.left -= 1;
        if state.left == 0 {
            self.ready.notify_all();
        }
    }
}

/// Computes what comes until the queue is closed and empty.
fn serve(shared: &Shared, runner: &Mutex<dyn Runner>, mut most: usize) {
    loop {
        let mut window: Vec<Request> = {
            let mut waiting = lock(&shared.waiting);
            while waiting.requests.is_empty() && !waiting.closed {
                waiting = wait(&shared.came, waiting);
            }
            if waiting.requests.is_empty() {
                return;
            }
            waiting.requests.drain(..).collect()
        };
        // The longest are taken first, from the end: a batch that is too large shows at once, and memory grows once. Of equal ones, those that came first.
        window.reverse();
        window.sort_by_key(|request| (order_of(request.task), request.ids.len()));
        while let Some(batch) = take_batch(&mut window, most) {
            compute(shared, &mut *lock(runner), batch, &mut window, &mut most);
        }
    }
}

/// Tasks of one kind are computed together.
fn order_of(task: Task) -> impl Ord {
    match task {
        Task::States { layer } => (0, layer, 0),
        Task::Pooled { layer, pool } => (1, layer, pool as i32),
        Task::Classify => (2, None, 0),
        Task::Losses => (3, None, 0),
        Task::NextLogits => (4, None, 0),
    }
}

/// Documents from the end of the window: of one task, at most so many tokens, at least one document.
fn take_batch(window: &mut Vec<Request>, most: usize) -> Option<Vec<Request>> {
    let task = window.last()?.task;
    let (mut start, mut tokens) = (window.len(), 0_usize);
    while let Some(next) = start.checked_sub(1).map(|index| &window[index]) {
        tokens = tokens.saturating_add(next.ids.len());
        if next.task != task || (tokens > most && start < window.len()) {
            break;
        }
        start -= 1;
    }
    Some(window.split_off(start))
}

/// Answers a batch; one that is too large for the device goes back to the window, and batches become smaller.
fn compute(
    shared: &Shared,
    runner: &mut dyn Runner,
    requests: Vec<Request>,
    window: &mut Vec<Request>,
    most: &mut usize,
) {
    let Some(task) = requests.first().map(|request| request.task) else { return };
    let mut batch = Batch::default();
    requests.iter().for_each(|request| batch.push(&request.ids));
    let tokens = batch.tokens();
    let mut result = runner.run(task, &batch);
    if let Err(DeviceError::OutOfMemory { .. }) = result {
        // What earlier batches left may be in the way.
        runner.release();
        if requests.len() > 1 {
            *most = (tokens / 2).max(1);
            window.extend(requests);
            return;
        }
        result = runner.run(task, &batch);
    }
    // There is room again before anybody is told.
    lock(&shared.waiting).tokens -= tokens;
    shared.left.notify_all();
    match result {
        Ok(results) => {
            requests.into_iter().zip(results).for_each(|(mut request, result)| request.answer(Ok(result)));
        }
        Err(error) => requests.into_iter().for_each(|mut request| request.answer(Err(error.clone()))),
    }
}

#[cfg(test)]
mod tests;
