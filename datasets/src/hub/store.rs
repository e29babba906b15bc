//! A repository of the Hub as an object store that can be read and listed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::client::Retries;
use super::repo::{Opened, Repo};
use super::tree::TreeEntry;
use crate::DatasetError;
use crate::stores::errors::concise;

const STORE: &str = "Hub";

/// A repository at one commit, read by ranges: nothing is kept on disk, so a data set may be larger than it.
#[derive(Clone, Debug)]
pub(crate) struct HubStore(pub(crate) Arc<Repo>);

#[async_trait]
impl ObjectStore for HubStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let path = location.as_ref();
        if let Some((file, tag)) = self.0.downloaded(path).await.map_err(|error| own(error, path))? {
            // The tag of the cache identifies the content; that of the local file system would not match it.
            let file = Path::from_absolute_path(file)?;
            let meta = ObjectMeta {
                location: location.clone(),
                e_tag: tag,
                ..object_store::ObjectStoreExt::head(&LocalFileSystem::new(), &file).await?
            };
            options.check_preconditions(&meta)?;
            let options = GetOptions { range: options.range, head: options.head, ..GetOptions::default() };
            return Ok(GetResult { meta, ..LocalFileSystem::new().get_opts(&file, options).await? });
        }
        if options.head || has_conditions(&options) {
            let content = self.0.describe(path).await.map_err(|error| own(error, path))?;
            let meta = meta(location, content.size.unwrap_or_default(), content.tag);
            options.check_preconditions(&meta)?;
            if options.head {
                let range = 0..meta.size;
                return Ok(GetResult { payload: empty(), meta, range, attributes: Attributes::new() });
            }
        }
        let range = options.range.as_ref().map(header).transpose()?;
        let mut retries = Retries::new(&self.0.client.retry);
        let opened = self.0.open(path, range.as_deref(), &mut retries).await.map_err(|error| own(error, path))?;
        let meta = meta(location, opened.size, opened.tag.clone());
        let range = opened.start..opened.end;
        let payload = GetResultPayload::Stream(body(Arc::clone(&self.0), path.to_owned(), opened, retries));
        Ok(GetResult { payload, meta, range, attributes: Attributes::new() })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (repo, folder) = (Arc::clone(&self.0), prefix.map(Path::to_string).unwrap_or_default());
        stream::once(async move {
            let tree = repo.tree(&folder, true).await.map_err(|error| own(error, &folder))?;
            let metas: Vec<_> = files_below(&tree, &folder).map(entry_meta).collect();
            Ok::<_, object_store::Error>(stream::iter(metas))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let folder = prefix.map(Path::to_string).unwrap_or_default();
        let tree = self.0.tree(&folder, false).await.map_err(|error| own(error, &folder))?;
        let start = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let mut folders = BTreeSet::new();
        let mut objects = Vec::new();
        for entry in below(&tree, &folder) {
            match entry.path.get(start..).and_then(|rest| rest.split_once('/')) {
                Some((name, _)) => {
                    folders.insert(entry.path[..start + name.len()].to_owned());
                }
                None if entry.is_folder => {
                    folders.insert(entry.path.clone());
                }
                None => objects.push(entry_meta(entry)?),
            }
        }
        let common_prefixes = folders.iter().map(Path::parse).collect::<Result<_, _>>()?;
        Ok(ListResult { common_prefixes, objects })
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        Err(read_only("put_opts"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(read_only("put_multipart_opts"))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        locations.map(|location| location.and_then(|_| Err(read_only("delete_stream")))).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(read_only("copy_opts"))
    }
}

impl fmt::Display for HubStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HubStore({})", self.0.location(""))
    }
}

/// The bytes of an answer. When it ends early or breaks off, the rest is asked for from where it stopped: the commit pins
/// the content, so the two halves belong together.
fn body(
    repo: Arc<Repo>,
    path: String,
    opened: Opened,
    retries: Retries,
) -> BoxStream<'static, object_store::Result<Bytes>> {
    struct State {
        repo: Arc<Repo>,
        path: String,
        opened: Opened,
        position: u64,
        end: u64,
        retries: Retries,
    }
    let (position, end) = (opened.start, opened.end);
    let state = State { repo, path, opened, position, end, retries };
    stream::try_unfold(state, |mut state| async move {
        while state.position < state.end {
            let message = match state.opened.response.chunk().await {
                Ok(Some(bytes)) if bytes.is_empty() => continue,
                Ok(Some(mut bytes)) => {
                    bytes.truncate(usize::try_from(state.end - state.position).unwrap_or(usize::MAX));
                    state.position += bytes.len() as u64;
                    state.retries.reset();
                    return Ok(Some((bytes, state)));
                }
                Ok(None) => "the answer ended early".to_owned(),
                Err(error) => concise(&error.without_url()),
            };
            let location = state.repo.location(&state.path);
            state.retries.wait(None, &location, &message).await.map_err(|error| own(error, &state.path))?;
            let range = format!("bytes={}-{}", state.position, state.end - 1);
            let reopened = state.repo.open(&state.path, Some(&range), &mut state.retries).await;
            state.opened = reopened.map_err(|error| own(error, &state.path))?;
            if state.opened.start != state.position {
                let message = format!("asked for bytes from {}, got those from {}", state.position, state.opened.start);
                return Err(own(DatasetError::Store { location, message }, &state.path));
            }
        }
        Ok(None)
    })
    .boxed()
}

/// Keeps the error of this crate as the source, where [`store_error`](crate::store_error) finds it again.
fn own(error: DatasetError, path: &str) -> object_store::Error {
    match error {
        DatasetError::NotFound { .. } => {
            object_store::Error::NotFound { path: path.to_owned(), source: Box::new(error) }
        }
        other => object_store::Error::Generic { store: STORE, source: Box::new(other) },
    }
}

fn read_only(operation: &str) -> object_store::Error {
    object_store::Error::NotImplemented {
        operation: format!("`{operation}`"),
        implementer: "the Hub, which is read only here".to_owned(),
    }
}

fn header(range: &GetRange) -> object_store::Result<String> {
    match range {
        GetRange::Bounded(range) if range.start < range.end => Ok(format!("bytes={}-{}", range.start, range.end - 1)),
        GetRange::Offset(start) => Ok(format!("bytes={start}-")),
        GetRange::Suffix(length) if *length > 0 => Ok(format!("bytes=-{length}")),
        empty => {
            Err(object_store::Error::Generic { store: STORE, source: format!("the range {empty} is empty").into() })
        }
    }
}

fn has_conditions(options: &GetOptions) -> bool {
    options.if_match.is_some()
        || options.if_none_match.is_some()
        || options.if_modified_since.is_some()
        || options.if_unmodified_since.is_some()
}

fn meta(location: &Path, size: u64, tag: Option<String>) -> ObjectMeta {
    // A commit has a time but its files have none; what was read at a commit never changes.
    ObjectMeta {
        location: location.clone(),
        last_modified: DateTime::<Utc>::UNIX_EPOCH,
        size,
        e_tag: tag,
        version: None,
    }
}

fn entry_meta(entry: &TreeEntry) -> object_store::Result<ObjectMeta> {
    Ok(meta(&Path::parse(&entry.path)?, entry.size, entry.tag.clone()))
}

fn below<'a>(tree: &'a [TreeEntry], folder: &str) -> impl Iterator<Item = &'a TreeEntry> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    tree.iter().filter(move |entry| entry.path.starts_with(&prefix))
}

fn files_below<'a>(tree: &'a [TreeEntry], folder: &str) -> impl Iterator<Item = &'a TreeEntry> {
    below(tree, folder).filter(|entry| !entry.is_folder)
}

fn empty() -> GetResultPayload {
    GetResultPayload::Stream(stream::empty().boxed())
}
