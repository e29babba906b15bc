//! Sending the bytes of one file to a store, hashing them on the way.
//!
//! A file below one part is put at once; a larger one is a multipart upload of equal parts. In both cases the name
//! appears with the whole content or not at all, and whatever fails, an upload that was begun is aborted, since stores
//! keep (and bill) the parts of uploads that nobody ended.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use tokio::task::JoinSet;

use crate::stores::{denied, redact};
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
    /// The file as errors name it.
    location: String,
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
            location: path.to_string(),
            path,
            buffer: Vec::new(),
            multipart: None,
            parts: JoinSet::new(),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        }
    }

    /// Names the file in errors.
    pub(super) fn name(&mut self, location: &str) {
        location.clone_into(&mut self.location);
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
            self.store.put(&self.path, rest.into()).await.map_err(|error| failure(&self.location, error))?;
            return Ok(self.hasher.finalize().to_hex().to_string());
        }
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        self.wait_for_parts_below(1).await?;
        if let Some(multipart) = &mut self.multipart {
            multipart.complete().await.map_err(|error| failure(&self.location, error))?;
        }
        self.multipart = None;
        Ok(self.hasher.finalize().to_hex().to_string())
    }

    /// Gives up. Nothing appears, and nothing stays behind where the store allows it.
    pub(super) async fn abort(mut self) -> Result<()> {
        self.parts.shutdown().await;
        match self.multipart.take() {
            Some(mut multipart) => multipart.abort().await.map_err(|error| failure(&self.location, error)),
            None => Ok(()),
        }
    }

    async fn send(&mut self, part: bytes::Bytes) -> Result<()> {
        self.wait_for_parts_below(PARALLEL_PARTS).await?;
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => {
                let multipart =
                    self.store.put_multipart(&self.path).await.map_err(|error| failure(&self.location, error))?;
                self.multipart.insert(multipart)
            }
        };
        self.parts.spawn(multipart.put_part(part.into()));
        Ok(())
    }

    /// Waits until fewer than `limit` parts are under way. A part that failed ends the upload.
    async fn wait_for_parts_below(&mut self, limit: usize) -> Result<()> {
        while self.parts.len() >= limit {
            match self.parts.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return Err(failure(&self.location, error)),
                Some(Err(error)) => {
                    return Err(store_error(&self.location, format!("the upload of a part stopped: {error}")));
                }
                None => return Ok(()),
            }
        }
        Ok(())
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
fn failure(location: &str, error: object_store::Error) -> DatasetError {
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            denied(location.to_owned(), &redact(&error.to_string()))
        }
        error => store_error(location, redact(&error.to_string())),
    }
}

fn store_error(location: &str, message: String) -> DatasetError {
    DatasetError::Store { location: location.to_owned(), message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use object_store::memory::InMemory;
    use object_store::{PutPayload, PutResult, UploadPart};

    use super::*;

    /// An upload whose parts take the longer the earlier they were sent, and that refuses to be completed before all
    /// of them arrived.
    #[derive(Debug, Default)]
    struct SlowUpload {
        sent: usize,
        arrived: Arc<AtomicUsize>,
        most_under_way: Arc<AtomicUsize>,
    }

    #[async_trait::async_trait]
    impl MultipartUpload for SlowUpload {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            self.sent += 1;
            let (sent, arrived) = (self.sent, Arc::clone(&self.arrived));
            self.most_under_way.fetch_max(sent - arrived.load(Ordering::SeqCst), Ordering::SeqCst);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1000 / sent as u64)).await;
                arrived.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        }

        async fn complete(&mut self) -> object_store::Result<PutResult> {
            let arrived = self.arrived.load(Ordering::SeqCst);
            if arrived < self.sent {
                let message = format!("{arrived} of {} parts arrived", self.sent);
                return Err(object_store::Error::Generic { store: "slow", source: message.into() });
            }
            Ok(PutResult { e_tag: None, version: None })
        }

        async fn abort(&mut self) -> object_store::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_complete_when_its_last_part_arrived() {
        for (bytes, parts) in [(1, 1), (PART_BYTES, 1), (PART_BYTES + 1, 2), (3 * PART_BYTES, 3), (7 * PART_BYTES, 7)] {
            let slow = SlowUpload::default();
            let (arrived, most) = (Arc::clone(&slow.arrived), Arc::clone(&slow.most_under_way));
            let mut upload = Upload::new(Arc::new(InMemory::new()), Path::from("part"));
            upload.multipart = Some(Box::new(slow));
            let content = vec![7; bytes];
            upload.take(&mut content.clone()).await.unwrap();
            assert_eq!(upload.finish().await.unwrap(), blake3::hash(&content).to_hex().to_string());
            assert_eq!(arrived.load(Ordering::SeqCst), parts, "{bytes} bytes");
            assert!(most.load(Ordering::SeqCst) <= PARALLEL_PARTS);
        }
    }
}
