//! A store that is as unreliable as a store may be, and not more.
//!
//! A request has its effect at one moment and is answered at a later one. Either may be delayed, the effect may never come,
//! come after the caller was told of a failure, or come without an answer. What has happened is seen by everyone.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::world::{Event, State, World};
use super::{Planted, check};
use crate::run::log::{COMMITS, Codec, MANIFEST_KEY};
use crate::run::manifest::Manifest;
use crate::run::plan::RunPlan;
use crate::run::record::CommitRecord;
use crate::run::store::LogStore;
use crate::{DatasetError, Result};

/// Requests before the present one that are looked at for a create under way.
const RIVALS: usize = 40;

/// The rows of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) split: u64,
    pub(super) rows: u64,
    pub(super) writer: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Object {
    Document(Bytes),
    Part(Part),
}

/// What is there.
#[derive(Default)]
pub(super) struct Store {
    pub(super) objects: BTreeMap<String, Object>,
}

pub(super) enum Request {
    Create(String, Bytes),
    Put(String, Part),
    Read(String),
    List(String),
    Delete(String),
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Created(bool),
    Read(Option<Bytes>),
    Listed(Vec<String>),
    Done,
    Failed,
}

/// A request on its way.
pub(super) struct Operation {
    request: Request,
    writer: Option<usize>,
    answer: Option<Answer>,
    answered: bool,
    /// It will yet have its effect.
    pending: bool,
    /// The request is refused because another create is under way.
    refused: bool,
    truncated: bool,
    /// A long listing is made of two pages; this is the first.
    first_page: Option<Vec<String>>,
    waker: Option<Waker>,
}

impl State {
    fn send(&mut self, request: Request, writer: Option<usize>) -> usize {
        let number = self.operations.len();
        let there = 1 + self.random.below(8);
        let back = 1 + self.random.below(8);
        let listing = matches!(request, Request::List(_));
        let reading = matches!(request, Request::Read(_));
        self.tally.requests += 1;
        self.operations.push(Operation {
            request,
            writer,
            answer: None,
            answered: false,
            pending: true,
            refused: false,
            truncated: false,
            first_page: None,
            waker: None,
        });
        if listing {
            self.after(there, Event::Effect(number));
        }
        let pause = if self.chances.pauses(&mut self.random) {
            self.tally.pauses += 1;
            500 + self.random.below(2_000)
        } else {
            0
        };
        let operation = &mut self.operations[number];
        if !self.chances.faults(&mut self.random) {
            self.after(there + 1, Event::Effect(number));
            self.after(there + 1 + back + pause, Event::Answer(number));
            return number;
        }
        match self.random.below(if reading { 4 } else { 3 }) {
            0 => {
                self.tally.failed_before += 1;
                operation.pending = false;
                operation.answer = Some(Answer::Failed);
                self.after(there + back + pause, Event::Answer(number));
            }
            1 => {
                self.tally.lost_answers += 1;
                operation.answer = Some(Answer::Failed);
                self.after(there + 1, Event::Effect(number));
                self.after(there + 1 + back + pause, Event::Answer(number));
            }
            2 => {
                self.tally.late_effects += 1;
                operation.answer = Some(Answer::Failed);
                self.after(there + pause, Event::Answer(number));
                let late = there + 1 + self.random.below(400);
                self.after(late, Event::Effect(number));
            }
            _ => {
                self.tally.truncated += 1;
                operation.truncated = true;
                self.after(there + 1, Event::Effect(number));
                self.after(there + 1 + back + pause, Event::Answer(number));
            }
        }
        number
    }

    /// Lets an operation have its effect.
    pub(super) fn take_effect(&mut self, number: usize) {
        let now = self.now;
        if let Some(writer) = self.operations[number].writer {
            let writer = &mut self.writers[writer];
            writer.last_act = writer.last_act.max(now);
        }
        let answer = match &self.operations[number].request {
            Request::Create(key, bytes) => {
                let (key, bytes) = (key.clone(), bytes.clone());
                self.create(number, key, bytes)
            }
            Request::Put(key, part) => {
                self.store.objects.insert(key.clone(), Object::Part(part.clone()));
                Answer::Done
            }
            Request::Read(key) => {
                let bytes = match self.store.objects.get(key) {
                    Some(Object::Document(bytes)) => Some(bytes.clone()),
                    Some(Object::Part(_)) | None => None,
                };
                let truncated = self.operations[number].truncated;
                Answer::Read(bytes.map(|bytes| if truncated { bytes.slice(..bytes.len() / 2) } else { bytes }))
            }
            Request::List(folder) => {
                let begin = format!("{folder}/");
                let listed = self.store.objects.range(begin.clone()..);
                let listed = listed.map(|(key, _)| key).take_while(|key| key.starts_with(&begin));
                match &self.operations[number].first_page {
                    None => {
                        let all: Vec<&String> = listed.collect();
                        let page = all[..all.len().div_ceil(2)].iter().map(|key| (*key).clone()).collect();
                        self.operations[number].first_page = Some(page);
                        return;
                    }
                    Some(page) => {
                        let last = page.last();
                        let rest = listed.filter(|key| last.is_none_or(|last| *key > last));
                        Answer::Listed(page.iter().chain(rest).cloned().collect())
                    }
                }
            }
            Request::Delete(key) => {
                let key = key.clone();
                if key.starts_with(COMMITS) {
                    self.violated(|| format!("the record '{key}' was deleted"));
                }
                self.store.objects.remove(&key);
                Answer::Done
            }
        };
        let operation = &mut self.operations[number];
        operation.pending = false;
        if operation.answer.is_none() {
            operation.answer = Some(answer);
        }
    }

    fn create(&mut self, number: usize, key: String, bytes: Bytes) -> Answer {
        if self.operations[number].refused {
            self.tally.conflicts += 1;
            return Answer::Created(false);
        }
        if self.planted == Some(Planted::RecordsOverwritten) {
            self.store.objects.insert(key, Object::Document(bytes));
            return Answer::Created(true);
        }
        // Of two creates at once, a store may refuse either, or both.
        self.operations[number].pending = false;
        let first = number.saturating_sub(RIVALS);
        let rival = self.operations[first..].iter().position(|operation| {
            operation.pending && matches!(&operation.request, Request::Create(other, _) if *other == key)
        });
        if let Some(rival) = rival
            && self.random.one_in(2)
        {
            self.operations[first + rival].refused = self.random.one_in(2);
            self.tally.conflicts += 1;
            return Answer::Created(false);
        }
        if self.store.objects.contains_key(&key) {
            return Answer::Created(false);
        }
        self.store.objects.insert(key.clone(), Object::Document(bytes));
        if key == MANIFEST_KEY {
            self.tally.manifests += 1;
            // Readers may trust the manifest from this moment on.
            check::readable(self);
        }
        Answer::Created(true)
    }

    pub(super) fn answer(&mut self, number: usize) -> Option<Waker> {
        let operation = &mut self.operations[number];
        operation.answered = true;
        operation.waker.take()
    }
}

/// The store as one task sees it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) world: World,
    /// The attempt that the task is, for a worker.
    pub(super) writer: Option<usize>,
}

impl Client {
    fn ask(&self, request: Request) -> Asked {
        let operation = self.world.with(|state| state.send(request, self.writer));
        Asked { world: self.world.clone(), operation }
    }

    /// Writes a part as a whole, as closing an upload does.
    pub(super) async fn put(&self, key: &str, part: Part) -> Result<()> {
        match self.ask(Request::Put(key.to_owned(), part)).await {
            Answer::Done => Ok(()),
            _ => Err(failed(key)),
        }
    }
}

struct Asked {
    world: World,
    operation: usize,
}

impl Future for Asked {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        self.world.with(|state| {
            let operation = &mut state.operations[self.operation];
            if operation.answered {
                return Poll::Ready(operation.answer.take().unwrap_or(Answer::Failed));
            }
            operation.waker = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

fn failed(key: &str) -> DatasetError {
    DatasetError::Transient { location: key.to_owned(), message: "no answer".to_owned() }
}

impl LogStore for Client {
    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool> {
        match self.ask(Request::Create(key.to_owned(), bytes)).await {
            Answer::Created(created) => Ok(created),
            _ => Err(failed(key)),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        match self.ask(Request::Read(key.to_owned())).await {
            Answer::Read(bytes) => Ok(bytes),
            _ => Err(failed(key)),
        }
    }

    async fn read_each<T, F>(&self, keys: Vec<String>, readers: usize, make: F) -> Vec<Option<T>>
    where
        T: Send + 'static,
        F: Fn(&Bytes, &str) -> Option<T> + Clone + Send + Sync + 'static,
    {
        let read = |key: String| {
            let make = make.clone();
            async move {
                let bytes = self.read(&key).await.ok().flatten()?;
                make(&bytes, &key)
            }
        };
        stream::iter(keys).map(read).buffered(readers).collect().await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        match self.ask(Request::List(folder.to_owned())).await {
            Answer::Listed(keys) => Ok(keys),
            _ => Err(failed(folder)),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.ask(Request::Delete(key.to_owned())).await {
            Answer::Done => Ok(()),
            _ => Err(failed(key)),
        }
    }

    async fn settle(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    async fn pause(&self, time: Duration) {
        self.world.sleep(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).await;
    }

    fn location(&self, key: &str) -> String {
        key.to_owned()
    }
}

/// Documents by number: as good as Parquet for finding out what the protocol does, and a hundred times as fast. Eight bytes
/// are a document; anything shorter was cut off.
#[derive(Clone, Default)]
pub(super) struct Documents(Arc<Mutex<Vec<Document>>>);

#[derive(Clone)]
enum Document {
    Record(CommitRecord),
    Plan(RunPlan),
    Manifest(Manifest),
}

impl Documents {
    fn put(&self, document: Document) -> Bytes {
        let mut documents = self.0.lock();
        documents.push(document);
        Bytes::copy_from_slice(&(documents.len() as u64 - 1).to_le_bytes())
    }

    fn get(&self, bytes: &Bytes, location: &str) -> Result<Document> {
        let number =
            <[u8; 8]>::try_from(bytes.as_ref()).ok().and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes)).ok());
        let document = number.and_then(|number| self.0.lock().get(number).cloned());
        document.ok_or_else(|| wrong(location))
    }
}

fn wrong(location: &str) -> DatasetError {
    DatasetError::Malformed { location: location.to_owned(), message: "cut off".to_owned() }
}

impl Codec for Documents {
    fn encode_record(&self, record: &CommitRecord, _location: &str) -> Result<Bytes> {
        Ok(self.put(Document::Record(record.clone())))
    }

    fn decode_record(&self, bytes: &Bytes, location: &str) -> Result<CommitRecord> {
        match self.get(bytes, location)? {
            Document::Record(record) => Ok(record),
            _ => Err(wrong(location)),
        }
    }

    fn encode_plan(&self, plan: &RunPlan, _location: &str) -> Result<Bytes> {
        Ok(self.put(Document::Plan(plan.clone())))
    }

    fn decode_plan(&self, bytes: &Bytes, location: &str) -> Result<RunPlan> {
        match self.get(bytes, location)? {
            Document::Plan(plan) => Ok(plan),
            _ => Err(wrong(location)),
        }
    }

    fn encode_manifest(&self, manifest: &Manifest, _location: &str) -> Result<Bytes> {
        Ok(self.put(Document::Manifest(manifest.clone())))
    }

    fn decode_manifest(&self, bytes: &Bytes, location: &str) -> Result<Manifest> {
        match self.get(bytes, location)? {
            Document::Manifest(manifest) => Ok(manifest),
            _ => Err(wrong(location)),
        }
    }
}
