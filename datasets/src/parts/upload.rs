//! Sending the bytes of one file to a store, hashing them on the way.
//!
//! A file below one part is put at once; a larger one is a multipart upload of equal parts. In both cases the name
//! appears with the whole content or not at all, and whatever fails, an upload that was begun is aborted, since stores
//! keep (and bill) the parts of uploads that nobody ended.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use tokio::task::JoinSet;

use crate::{DatasetError, Result};

/// Stores take 10,000 parts of at least 5 MiB, some of them only parts of equal size; this allows files of 156 GiB.
const PART_BYTES: usize = 16 * 1024 * 1024;
/// Parts under way at the same time.
const PARALLEL_PARTS: usize = 4;

/// A file on its way to a store.
#[derive(Debug)]
pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    buffer: Vec<u8>,
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Upload {
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: Path) -> Self {
        Self {
            store,
            path,
            buffer: Vec::new(),
            multipart: None,
            parts: JoinSet::new(),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        }
    }

    /// Bytes taken so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` and empties it. Waits while too many parts are under way.
    pub(super) async fn take(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.buffer.is_empty() {
            std::mem::swap(&mut self.buffer, bytes);
        } else {
            self.buffer.append(bytes);
        }
        if self.buffer.len() < PART_BYTES {
            return Ok(());
        }
        let mut rest = bytes::Bytes::from(std::mem::take(&mut self.buffer));
        while rest.len() >= PART_BYTES {
            self.send(rest.split_to(PART_BYTES)).await?;
        }
        self.buffer.extend_from_slice(&rest);
        Ok(())
    }

    /// Makes the file appear, and gives its BLAKE3 hash in hexadecimal digits.
    pub(super) async fn finish(&mut self) -> Result<String> {
        let rest = bytes::Bytes::from(std::mem::take(&mut self.buffer));
        if self.multipart.is_none() {
            self.store.put(&self.path, rest.into()).await.map_err(|error| failure(&self.path, error))?;
            return Ok(self.hasher.finalize().to_hex().to_string());
        }
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        while self.parts_below(1).await? {}
        if let Some(multipart) = &mut self.multipart {
            multipart.complete().await.map_err(|error| failure(&self.path, error))?;
        }
        self.multipart = None;
        Ok(self.hasher.finalize().to_hex().to_string())
    }

    /// Gives up. Nothing appears, and nothing stays behind where the store allows it.
    pub(super) async fn abort(mut self) -> Result<()> {
        self.parts.shutdown().await;
        match self.multipart.take() {
            Some(mut multipart) => multipart.abort().await.map_err(|error| failure(&self.path, error)),
            None => Ok(()),
        }
    }

    async fn send(&mut self, part: bytes::Bytes) -> Result<()> {
        while !self.parts_below(PARALLEL_PARTS).await? {}
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => {
                let multipart =
                    self.store.put_multipart(&self.path).await.map_err(|error| failure(&self.path, error))?;
                self.multipart.insert(multipart)
            }
        };
        self.parts.spawn(multipart.put_part(part.into()));
        Ok(())
    }

    /// Waits for a part unless fewer than `limit` are under way, and says whether they are.
    async fn parts_below(&mut self, limit: usize) -> Result<bool> {
        if self.parts.len() < limit {
            return Ok(true);
        }
        match self.parts.join_next().await {
            Some(Ok(Ok(()))) | None => Ok(self.parts.len() < limit),
            Some(Ok(Err(error))) => Err(failure(&self.path, error)),
            Some(Err(error)) => Err(store_error(&self.path, format!("the upload of a part stopped: {error}"))),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        let mut parts = std::mem::take(&mut self.parts);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                parts.shutdown().await;
                // Nobody is left to tell: the work was cancelled.
                let _ = multipart.abort().await;
            });
        }
    }
}

/// An error of this crate from one of the store.
fn failure(path: &Path, error: object_store::Error) -> DatasetError {
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            DatasetError::Denied { location: path.to_string(), message: error.to_string() }
        }
        error => store_error(path, error.to_string()),
    }
}

fn store_error(path: &Path, message: String) -> DatasetError {
    DatasetError::Store { location: path.to_string(), message }
}
