//! An object store that fails on purpose: by script, or by chance from a seed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Writing an object in one call, whatever the mode.
    Put,
    /// Creating an object that must not exist.
    Create,
    /// Beginning an upload in parts.
    Begin,
    /// Uploading a part.
    UploadPart,
    /// Completing an upload, which makes the object visible.
    Complete,
    /// Reading an object or a range of it.
    Get,
    /// Listing.
    List,
    /// Deleting an object.
    Delete,
    /// Copying an object.
    Copy,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails without an effect, as when a connection breaks before the request is sent.
    FailBefore,
    /// The call has its effect and fails, as when the answer is lost.
    LoseAnswer,
    /// The call waits first.
    Stall(Duration),
    /// What is read ends after so many bytes, or a listing after so many entries, with an error. Other calls are
    /// not touched.
    Truncate(usize),
    /// What is read ends after so many bytes and looks whole to the caller. Other calls are not touched.
    TruncateSilently(usize),
    /// The call has no effect and is answered with this HTTP status, as `object_store` reports it: 401 and 403 deny access,
    /// 404 is "not found", 409 "already exists", 412 a failed precondition, others a failure of no kind, such as 416, 429,
    /// 500 and 503.
    Status(u16),
    /// A create overwrites what exists, as a store does that does not know the condition. Other calls are not touched.
    IgnoreCondition,
}

/// One line of a script: which calls it is about, and what goes wrong with them.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The kind of call; `None` for any. [`Call::Put`] covers creating, too.
    pub call: Option<Call>,
    /// The path must contain this.
    pub path: String,
    /// Matching calls that go well first.
    pub after: usize,
    /// Matching calls that then go wrong.
    pub times: usize,
    /// What goes wrong.
    pub fault: Fault,
}

impl Rule {
    /// The next call of this kind on a path that contains `path` goes wrong.
    #[must_use]
    pub fn once(call: Call, path: &str, fault: Fault) -> Self {
        Self { call: Some(call), path: path.to_owned(), after: 0, times: 1, fault }
    }

    /// All calls of this kind on paths that contain `path` go wrong.
    #[must_use]
    pub fn always(call: Call, path: &str, fault: Fault) -> Self {
        Self { times: usize::MAX, ..Self::once(call, path, fault) }
    }

    /// The same after `count` calls that go well.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        Self { after: count, ..self }
    }
}

/// An object store around another, whose calls go wrong as a script says. Clones share the script.
///
/// ```
/// # futures::executor::block_on(async {
/// use std::sync::Arc;
/// use gristmill_datasets::run::fault_store::{Call, Fault, FaultStore, Rule};
/// use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
///
/// let store = FaultStore::new(Arc::new(InMemory::new()));
/// store.script([Rule::once(Call::Put, "commits/", Fault::LoseAnswer)]);
/// let key = Path::from("commits/1");
/// assert!(store.put(&key, "record".into()).await.is_err());
/// // The effect came, only the answer was lost.
/// assert_eq!(store.get(&key).await?.bytes().await?, "record");
/// # Ok::<(), object_store::Error>(())
/// # })?;
/// # Ok::<(), object_store::Error>(())
/// ```
#[derive(Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    chance: Option<Chance>,
    calls: Vec<(Call, Path)>,
    faults: usize,
}

struct Chance {
    random: StdRng,
    one_in: u32,
    left: usize,
}

impl FaultStore {
    /// A store whose calls all go well until a script is given.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// A store on which one call in `one_in` goes wrong in a way that may pass, `faults` times in all. The seed decides
    /// which and how.
    #[must_use]
    pub fn by_chance(inner: Arc<dyn ObjectStore>, seed: u64, one_in: u32, faults: usize) -> Self {
        let store = Self::new(inner);
        store.script.lock().chance =
            Some(Chance { random: StdRng::seed_from_u64(seed), one_in: one_in.max(1), left: faults });
        store
    }

    /// Adds rules. For each call, the first rule that matches and is not used up counts.
    pub fn script(&self, rules: impl IntoIterator<Item = Rule>) {
        self.script.lock().rules.extend(rules);
    }

    /// Forgets all rules.
    pub fn calm(&self) {
        let mut script = self.script.lock();
        script.rules.clear();
        script.chance = None;
    }

    /// The calls so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<(Call, Path)> {
        self.script.lock().calls.clone()
    }

    /// How many calls went wrong so far.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.script.lock().faults
    }

    fn fault(&self, call: Call, path: &Path) -> Option<Fault> {
        let mut script = self.script.lock();
        script.calls.push((call, path.clone()));
        let fault = script.next_fault(call, path.as_ref());
        script.faults += usize::from(fault.is_some());
        fault
    }

    /// Lets a call that has an effect and a short answer go wrong as the fault says.
    async fn act<T>(
        &self,
        fault: Option<Fault>,
        path: &Path,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match fault {
            Some(Fault::FailBefore) => Err(broken("the connection broke before the request was sent")),
            Some(Fault::LoseAnswer) => {
                effect.await?;
                Err(broken("the connection broke before the answer came"))
            }
            Some(Fault::Status(status)) => Err(status_error(status, path)),
            Some(Fault::Stall(time)) => {
                tokio::time::sleep(time).await;
                effect.await
            }
            Some(Fault::Truncate(_) | Fault::TruncateSilently(_) | Fault::IgnoreCondition) | None => effect.await,
        }
    }
}

impl Script {
    fn next_fault(&mut self, call: Call, path: &str) -> Option<Fault> {
        for rule in &mut self.rules {
            let of_kind = match rule.call {
                None => true,
                Some(Call::Put) => matches!(call, Call::Put | Call::Create),
                Some(kind) => kind == call,
            };
            if !of_kind || !path.contains(&rule.path) || rule.times == 0 {
                continue;
            }
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.fault);
        }
        let chance = self.chance.as_mut()?;
        if chance.left == 0 || chance.random.random_range(0..chance.one_in) > 0 {
            return None;
        }
        chance.left -= 1;
        Some(match chance.random.random_range(0..6) {
            0 => Fault::FailBefore,
            1 => Fault::Status(503),
            2 => Fault::Stall(Duration::from_millis(chance.random.random_range(0..20))),
            3 if call == Call::Get => Fault::TruncateSilently(chance.random.random_range(0..4_000)),
            4 if call == Call::Get || call == Call::List => Fault::Truncate(chance.random.random_range(0..4)),
            _ => Fault::LoseAnswer,
        })
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let call = if options.mode == PutMode::Create { Call::Create } else { Call::Put };
        let fault = self.fault(call, location);
        if fault == Some(Fault::IgnoreCondition) {
            options.mode = PutMode::Overwrite;
        }
        self.act(fault, location, self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.fault(Call::Begin, location);
        let inner = self.act(fault, location, self.inner.put_multipart_opts(location, options)).await?;
        Ok(Box::new(FaultUpload { store: self.clone(), location: location.clone(), inner }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.fault(Call::Get, location);
        let head = options.head;
        let result = self.act(fault, location, self.inner.get_opts(location, options)).await?;
        match fault {
            Some(Fault::Truncate(length) | Fault::TruncateSilently(length)) if !head => {
                let silent = matches!(fault, Some(Fault::TruncateSilently(_)));
                truncated(result, length, silent).await
            }
            _ => Ok(result),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // Each range is a call of its own, so that a script sees them.
        stream::iter(ranges.to_vec()).then(|range| self.get_range(location, range)).try_collect().await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                let fault = store.fault(Call::Delete, &location);
                store.act(fault, &location, store.inner.delete(&location)).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        let fault = self.fault(Call::List, &path);
        let listed = self.inner.list(prefix);
        match fault {
            Some(Fault::Truncate(length) | Fault::TruncateSilently(length)) => {
                let end = stream::once(async { Err(broken("the listing broke off")) });
                listed.take(length).chain(end).boxed()
            }
            Some(Fault::FailBefore | Fault::LoseAnswer) => {
                stream::once(async { Err(broken("the listing failed")) }).boxed()
            }
            Some(Fault::Status(status)) => stream::once(async move { Err(status_error(status, &path)) }).boxed(),
            Some(Fault::Stall(time)) => {
                let stall = async move {
                    tokio::time::sleep(time).await;
                    listed
                };
                stall.flatten_stream().boxed()
            }
            Some(Fault::IgnoreCondition) | None => listed,
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let fault = self.fault(Call::List, &path);
        self.act(fault, &path, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.fault(Call::Copy, to);
        self.act(fault, to, self.inner.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct FaultUpload {
    store: FaultStore,
    location: Path,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let fault = self.store.fault(Call::UploadPart, &self.location);
        let upload = self.inner.put_part(data);
        let (store, location) = (self.store.clone(), self.location.clone());
        async move { store.act(fault, &location, upload).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.fault(Call::Complete, &self.location);
        let (store, location) = (self.store.clone(), self.location.clone());
        store.act(fault, &location, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

async fn truncated(result: GetResult, length: usize, silent: bool) -> Result<GetResult> {
    let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
    let bytes = result.bytes().await?;
    let start = bytes.slice(..length.min(bytes.len()));
    let cut = start.len() < bytes.len();
    let end = (cut && !silent).then(|| Err(broken("the answer broke off")));
    let payload = GetResultPayload::Stream(stream::iter([Ok(start)].into_iter().chain(end)).boxed());
    Ok(GetResult { payload, meta, range, attributes })
}

fn broken(what: &str) -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::ConnectionReset, what.to_owned());
    Error::Generic { store: "FaultStore", source: Box::new(source) }
}

fn status_error(status: u16, path: &Path) -> Error {
    let source: Box<dyn std::error::Error + Send + Sync> = format!("the server answered with status {status}").into();
    let path = path.to_string();
    match status {
        401 => Error::Unauthenticated { path, source },
        403 => Error::PermissionDenied { path, source },
        404 => Error::NotFound { path, source },
        409 => Error::AlreadyExists { path, source },
        412 => Error::Precondition { path, source },
        _ => Error::Generic { store: "FaultStore", source },
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FaultStore({})", self.inner)
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FaultStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn store() -> FaultStore {
        FaultStore::new(Arc::new(InMemory::new()))
    }

    async fn read(store: &FaultStore, path: &Path) -> Result<Bytes> {
        store.get(path).await?.bytes().await
    }

    #[tokio::test]
    async fn faults_are_before_or_after_the_effect() {
        let path = Path::from("a/b");
        let cases = [
            (Fault::FailBefore, false),
            (Fault::LoseAnswer, true),
            (Fault::Status(503), false),
            (Fault::Status(409), false),
        ];
        for (fault, effect) in cases {
            let store = store();
            store.script([Rule::once(Call::Put, "a/", fault)]);
            assert!(store.put(&path, "x".into()).await.is_err(), "{fault:?}");
            assert_eq!(read(&store, &path).await.is_ok(), effect, "{fault:?}");
            assert!(store.put(&path, "x".into()).await.is_ok(), "the rule counts once");
            assert_eq!((store.faults(), store.calls().len()), (1, 3));
        }
    }

    #[tokio::test]
    async fn statuses_are_reported_as_object_store_does() {
        type Check = fn(&Error) -> bool;
        let cases: [(u16, Check); 7] = [
            (401, |error| matches!(error, Error::Unauthenticated { .. })),
            (403, |error| matches!(error, Error::PermissionDenied { .. })),
            (404, |error| matches!(error, Error::NotFound { .. })),
            (409, |error| matches!(error, Error::AlreadyExists { .. })),
            (412, |error| matches!(error, Error::Precondition { .. })),
            (416, |error| matches!(error, Error::Generic { .. })),
            (429, |error| matches!(error, Error::Generic { .. })),
        ];
        for (status, check) in cases {
            let store = store();
            store.script([Rule::always(Call::Get, "", Fault::Status(status))]);
            assert!(check(&read(&store, &Path::from("x")).await.unwrap_err()), "{status}");
        }
    }

    #[tokio::test]
    async fn reads_listings_uploads_and_deletions_fail_too() {
        let store = store();
        let path = Path::from("a/b");
        store.put(&path, "0123456789".into()).await.unwrap();
        store.script([
            Rule::once(Call::Get, "", Fault::Truncate(4)),
            Rule::once(Call::Get, "", Fault::TruncateSilently(4)),
            Rule::once(Call::List, "", Fault::Truncate(0)),
            Rule::once(Call::Delete, "", Fault::LoseAnswer),
            Rule::once(Call::Complete, "", Fault::FailBefore),
        ]);
        assert!(read(&store, &path).await.is_err());
        assert_eq!(read(&store, &path).await.unwrap(), "0123");
        assert_eq!(read(&store, &path).await.unwrap(), "0123456789");
        assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
        assert!(store.delete(&path).await.is_err());
        assert!(read(&store, &path).await.is_err(), "the deletion had its effect");
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part("part".into()).await.unwrap();
        assert!(upload.complete().await.is_err());
        assert!(read(&store, &path).await.is_err(), "the upload was not completed");
    }

    #[tokio::test]
    async fn a_condition_may_be_ignored_and_calls_may_go_well_first() {
        let store = store();
        let path = Path::from("a");
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.script([Rule::once(Call::Create, "a", Fault::IgnoreCondition).after(2)]);
        assert!(store.put_opts(&path, "1".into(), create()).await.is_ok());
        assert!(store.put_opts(&path, "2".into(), create()).await.is_err());
        assert!(store.put_opts(&path, "3".into(), create()).await.is_ok());
        assert_eq!(read(&store, &path).await.unwrap(), "3");
    }

    #[tokio::test]
    async fn chance_is_bounded_and_comes_from_the_seed() {
        let mut histories = Vec::new();
        for seed in [1, 1, 2] {
            let store = FaultStore::by_chance(Arc::new(InMemory::new()), seed, 3, 10);
            let mut history = Vec::new();
            for number in 0..200 {
                history.push(store.put(&Path::from(number.to_string()), "x".into()).await.is_ok());
            }
            assert_eq!(store.faults(), 10);
            store.calm();
            assert!(store.put(&Path::from("x"), "x".into()).await.is_ok());
            histories.push(history);
        }
        assert_eq!(histories[0], histories[1]);
        assert_ne!(histories[0], histories[2]);
    }
}
