//! What the log needs of a store, and object stores as one.

use std::error::Error as _;
use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::stores::{denied, redact};
use crate::{DatasetError, Result};

/// Keys that one task reads.
const KEYS_AT_ONCE: usize = 512;

/// The calls of the log. Keys are paths relative to the run folder. An error that is transient says nothing about whether
/// the call had its effect.
pub(crate) trait LogStore: Send + Sync {
    /// Creates a key; `false` when the store says that it exists.
    fn create(&self, key: &str, bytes: Bytes) -> impl Future<Output = Result<bool>> + Send;
    /// Reads a key as a whole, `None` when there is none.
    fn read(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>>> + Send;
    /// Reads many keys and makes something of each, as many at once as help, `readers` requests at most; `None` where there
    /// is nothing or a key cannot be read. Nothing is tried twice: what is missing is for the caller to read with patience.
    fn read_each<T, F>(
        &self,
        keys: Vec<String>,
        readers: usize,
        make: F,
    ) -> impl Future<Output = Vec<Option<T>>> + Send
    where
        T: Send + 'static,
        F: Fn(&Bytes, &str) -> Option<T> + Clone + Send + Sync + 'static;
    /// Lists the keys that are directly in a folder. Keys that come or go meanwhile may be listed or not.
    fn list(&self, folder: &str) -> impl Future<Output = Result<Vec<String>>> + Send;
    /// Deletes a key, or finds it gone.
    fn delete(&self, key: &str) -> impl Future<Output = Result<()>> + Send;
    /// Makes a complete part survive a loss of power, where the store does not do so anyway.
    fn settle(&self, key: &str) -> impl Future<Output = Result<()>> + Send;
    /// Waits about this long.
    fn pause(&self, time: Duration) -> impl Future<Output = ()> + Send;
    /// A key as people write it.
    fn location(&self, key: &str) -> String;
}

/// A folder of an object store.
#[derive(Clone, Debug)]
pub(crate) struct ObjectFolder {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
    local: Option<PathBuf>,
}

impl ObjectFolder {
    /// `url` is the location of `root` as people write it; for local files it is a `file://` URL.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, root: Path, url: String) -> Self {
        let local = url::Url::parse(&url).ok().filter(|url| url.scheme() == "file");
        let local = local.and_then(|url| url.to_file_path().ok());
        Self { store, root, url: url.trim_end_matches('/').to_owned(), local }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The folder on this machine's disk, for local files.
    pub(crate) fn local(&self) -> Option<&PathBuf> {
        self.local.as_ref()
    }

    pub(crate) fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.root.clone(), |path, part| path.join(part))
    }

    fn failed(&self, key: &str, error: &Error) -> DatasetError {
        store_failure(self.location(key), error)
    }

    fn read_local(&self, key: &str) -> Option<Bytes> {
        std::fs::read(self.local.as_ref()?.join(key)).ok().map(Bytes::from)
    }
}

/// The keys in a folder of a local disk. Going through the object store would ask for the size and time of each file.
/// What is staged under a name with `#` and a number has no key yet.
fn local_keys(path: &std::path::Path, prefix: &str) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some(name) if !is_staged(name) && !entry.file_type()?.is_dir() => keys.push(format!("{prefix}/{name}")),
            _ => {}
        }
    }
    Ok(keys)
}

/// Whether a name is that of a staged file of `object_store`'s local files.
pub(super) fn is_staged(name: &str) -> bool {
    let suffix = name.rsplit_once('#').map(|(_, suffix)| suffix);
    suffix.is_some_and(|suffix| !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit()))
}

impl LogStore for ObjectFolder {
    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(key), PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(true),
            // Stores that are asked with `If-None-Match` may answer with a failed precondition.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }) => Ok(false),
            Err(error) => Err(self.failed(key, &error)),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let result = match self.store.get(&self.path(key)).await {
            Ok(result) => result,
            Err(Error::NotFound { .. }) => return Ok(None),
            // Below a file there is nothing.
            Err(error) if lasting_cause(&error).is_some_and(|cause| cause.kind() == io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed(key, &error)),
        };
        let size = result.meta.size;
        let bytes = result.bytes().await.map_err(|error| self.failed(key, &error))?;
        if bytes.len() as u64 != size {
            let message = format!("read {} of {size} bytes", bytes.len());
            return Err(DatasetError::Transient { location: self.location(key), message });
        }
        Ok(Some(bytes))
    }

    async fn read_each<T, F>(&self, keys: Vec<String>, readers: usize, make: F) -> Vec<Option<T>>
    where
        T: Send + 'static,
        F: Fn(&Bytes, &str) -> Option<T> + Clone + Send + Sync + 'static,
    {
        // On a local disk most of the work is that of the processor, elsewhere it is waiting.
        let side_by_side = match self.local {
            Some(_) => std::thread::available_parallelism().map_or(1, NonZero::get),
            None => readers.clamp(1, 2),
        };
        let requests = (readers / side_by_side).max(1);
        let chunks: Vec<Vec<String>> = keys.chunks(KEYS_AT_ONCE).map(<[String]>::to_vec).collect();
        let read: Vec<Vec<Option<T>>> = stream::iter(chunks)
            .map(|keys| {
                let make = make.clone();
                async move {
                    let found = match &self.local {
                        Some(_) => vec![None; keys.len()],
                        None => {
                            let request = |key: String| async move { self.read(&key).await.ok().flatten() };
                            stream::iter(keys.clone()).map(request).buffered(requests).collect().await
                        }
                    };
                    let (folder, length) = (self.clone(), keys.len());
                    let made = tokio::task::spawn_blocking(move || {
                        let each = keys.iter().zip(found).map(|(key, found): (&String, Option<Bytes>)| {
                            let bytes = found.or_else(|| folder.read_local(key))?;
                            make(&bytes, &folder.location(key))
                        });
                        each.collect::<Vec<_>>()
                    });
                    made.await.unwrap_or_else(|_| (0..length).map(|_| None).collect())
                }
            })
            .buffered(side_by_side)
            .collect()
            .await;
        read.into_iter().flatten().collect()
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        if let Some(root) = &self.local {
            let (path, prefix) = (root.join(folder), folder.to_owned());
            return match tokio::task::spawn_blocking(move || local_keys(&path, &prefix)).await {
                Ok(Ok(keys)) => Ok(keys),
                Ok(Err(error)) => {
                    Err(self.failed(folder, &Error::Generic { store: "local disk", source: Box::new(error) }))
                }
                Err(error) => Err(self.failed(folder, &Error::JoinError { source: error })),
            };
        }
        let prefix = self.path(folder);
        let listed = self.store.list(Some(&prefix)).try_filter_map(|meta| {
            let name = meta.location.prefix_match(&prefix).map(|parts| {
                parts.fold(folder.to_owned(), |mut key, part| {
                    key.push('/');
                    key.push_str(part.as_ref());
                    key
                })
            });
            std::future::ready(Ok(name))
        });
        listed.try_collect().await.map_err(|error| self.failed(folder, &error))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(key, &error)),
        }
    }

    async fn settle(&self, key: &str) -> Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        let path = root.join(key);
        let synced = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&path)?.sync_all()?;
            // The entry of a file is durable when its folder is.
            path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
        });
        let failed = |message: String| DatasetError::Store { location: self.location(key), message };
        match synced.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(format!("cannot be written to disk: {error}"))),
            Err(error) => Err(failed(format!("cannot be written to disk: {error}"))),
        }
    }

    async fn pause(&self, time: Duration) {
        // Drivers that failed together should not come back together.
        tokio::time::sleep(time.mul_f64(rand::random_range(0.5..1.0))).await;
    }

    fn location(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }
}

/// An object store's error as this crate's. Whatever is not known to be final may pass.
pub(crate) fn store_failure(location: String, error: &Error) -> DatasetError {
    match error {
        Error::NotFound { .. } => DatasetError::NotFound { location, hint: None },
        Error::PermissionDenied { source, .. } | Error::Unauthenticated { source, .. } => {
            denied(location, &redact(&source.to_string()))
        }
        Error::Generic { .. } | Error::JoinError { .. } => match lasting_cause(error) {
            Some(cause) if cause.kind() == io::ErrorKind::PermissionDenied => denied(location, &cause.to_string()),
            Some(cause) => DatasetError::Store { location, message: cause.to_string() },
            None => DatasetError::Transient { location, message: with_causes(error) },
        },
        other => DatasetError::Store { location, message: with_causes(other) },
    }
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// The operating system's error behind a store's one, when trying again will not help.
fn lasting_cause(error: &Error) -> Option<&io::Error> {
    causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).find(|cause| {
        matches!(
            cause.kind(),
            io::ErrorKind::PermissionDenied
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::FileTooLarge
                | io::ErrorKind::InvalidFilename
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
        )
    })
}

fn with_causes(error: &Error) -> String {
    let mut message = error.to_string();
    for cause in causes(error) {
        let cause = cause.to_string();
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    redact(&message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn folders_create_read_list_and_delete() {
        let local = tempfile::tempdir().unwrap();
        let local_url = url::Url::from_directory_path(local.path()).unwrap().to_string();
        let local_root = Path::from_absolute_path(local.path()).unwrap();
        let files = object_store::local::LocalFileSystem::new();
        let folders = [
            ObjectFolder::new(Arc::new(InMemory::new()), Path::from("a b/100%"), "memory:///a b/100%".into()),
            ObjectFolder::new(Arc::new(files), local_root, local_url),
        ];
        for folder in folders {
            assert_eq!(folder.list("_run/commits").await.unwrap(), Vec::<String>::new());
            assert_eq!(folder.read("_run/commits/1").await.unwrap(), None);
            assert!(folder.create("_run/commits/1", Bytes::from_static(b"first")).await.unwrap());
            assert!(!folder.create("_run/commits/1", Bytes::from_static(b"second")).await.unwrap());
            assert!(folder.create("_run/commits2", Bytes::new()).await.unwrap());
            assert_eq!(folder.read("_run/commits/1").await.unwrap().unwrap().as_ref(), b"first");
            assert_eq!(folder.list("_run/commits").await.unwrap(), ["_run/commits/1"]);
            let keys = ["_run/commits/1", "_run/commits/2", "_run/commits2"].map(str::to_owned).to_vec();
            let read = folder.read_each(keys, 2, |bytes, _| (!bytes.is_empty()).then(|| bytes.len())).await;
            assert_eq!(read, [Some(5), None, None]);
            folder.settle("_run/commits/1").await.unwrap();
            folder.delete("_run/commits/1").await.unwrap();
            folder.delete("_run/commits/1").await.unwrap();
            assert_eq!(folder.list("_run/commits").await.unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn errors_are_transient_unless_known_to_last() {
        let generic = |kind| Error::Generic { store: "S3", source: Box::new(io::Error::new(kind, "no")) };
        let nowhere = || Box::new(io::Error::other("no"));
        let cases = [
            (generic(io::ErrorKind::ConnectionReset), "failed for now"),
            (generic(io::ErrorKind::TimedOut), "failed for now"),
            (generic(io::ErrorKind::StorageFull), "'x': no"),
            (generic(io::ErrorKind::PermissionDenied), "no access to 'x'"),
            (Error::NotFound { path: "x".into(), source: nowhere() }, "'x' does not exist"),
            (Error::PermissionDenied { path: "x".into(), source: nowhere() }, "no access to 'x'"),
            (Error::Unauthenticated { path: "x".into(), source: nowhere() }, "no access to 'x'"),
            (Error::NotSupported { source: nowhere() }, "'x': Operation not supported"),
        ];
        for (error, expected) in cases {
            let found = store_failure("x".into(), &error);
            assert!(found.to_string().contains(expected), "'{found}' lacks '{expected}'");
            assert_eq!(found.is_transient(), expected == "failed for now");
        }
    }
}
