//! Reading bytes of a file that must still be what it was when the run was planned.
//!
//! Every request states the entity tag and version it expects where the store knows them, and what comes back is
//! compared with the plan. So no byte of a replaced file is ever taken for one of the planned file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::footers::Footers;
use crate::error::{DatasetError, Result};
use crate::split::SourceFile;

/// A file and the store it lies in.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// Where the bytes come from.
    pub store: Arc<dyn ObjectStore>,
    /// Place in the store.
    pub path: Path,
    /// What the file was when the run was planned. An entity tag given here must be the one the store answers reads
    /// with.
    pub file: SourceFile,
    /// Footers read before, shared by those who read the same files.
    pub footers: Footers,
}

impl OpenFile {
    /// A file with a footer cache of its own.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, file: SourceFile) -> Self {
        Self { store, path, file, footers: Footers::default() }
    }

    /// The same file with a shared footer cache, so that its splits do not read the footer again.
    #[must_use]
    pub fn with_footers(self, footers: Footers) -> Self {
        Self { footers, ..self }
    }

    pub(crate) fn malformed(&self, message: impl Into<String>) -> DatasetError {
        DatasetError::Malformed { location: self.file.url.clone(), message: message.into() }
    }

    /// What the file is instead of rows, where its begin tells: things that downloads leave behind.
    pub(crate) fn mistaken(&self, head: &[u8]) -> Option<DatasetError> {
        let head = head.trim_ascii_start();
        let begins = |mark: &str| head.get(..mark.len()).is_some_and(|head| head.eq_ignore_ascii_case(mark.as_bytes()));
        if begins("version https://git-lfs") {
            return Some(self.malformed("this is a pointer of Git LFS and not the file; 'git lfs pull' fetches it"));
        }
        if begins("<!doctype") || begins("<html") {
            return Some(self.malformed("this is a web page, such as servers send instead of a file"));
        }
        if begins("<?xml") || begins("<error>") {
            return Some(self.malformed("this is XML, such as stores send instead of a file"));
        }
        None
    }

    /// The bytes of a range; the range must not be empty.
    pub(crate) async fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        let result = self.get(range.clone()).await?;
        let bytes = match result.payload {
            GetResultPayload::File(mut file, _) => {
                let length = (range.end - range.start) as usize;
                blocking(move || {
                    file.seek(SeekFrom::Start(range.start))?;
                    let mut bytes = Vec::with_capacity(length);
                    file.take(length as u64).read_to_end(&mut bytes)?;
                    Ok(Bytes::from(bytes))
                })
                .await
                .map_err(|error| self.io_error(&error))?
            }
            GetResultPayload::Stream(stream) => {
                let length = range.end - range.start;
                object_store::collect_bytes(stream, Some(length)).await.map_err(|error| self.store_error(error))?
            }
        };
        if bytes.len() as u64 != range.end - range.start {
            return Err(self.malformed(format!(
                "{} bytes at {} were asked for and {} came",
                range.end - range.start,
                range.start,
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// The bytes of several ranges; those that are not further apart than `gap` in one request.
    pub(crate) async fn ranges(&self, ranges: &[Range<u64>], gap: u64) -> Result<Vec<Bytes>> {
        object_store::coalesce_ranges(ranges, |range| self.bytes(range), gap).await
    }

    async fn get(&self, range: Range<u64>) -> Result<GetResult> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            // A weak tag never matches by the rules of HTTP; it is compared below instead.
            if_match: self.file.etag.clone().filter(|tag| !tag.starts_with("W/")),
            version: self.file.version.clone(),
            ..GetOptions::default()
        };
        match self.store.get_opts(&self.path, options).await {
            Ok(result) => {
                self.check_unchanged(&result.meta)?;
                Ok(result)
            }
            Err(error @ (object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. })) => {
                Err(self.store_error(error))
            }
            // A file that became shorter answers that the range is wrong: say what really happened.
            Err(error) => {
                if let Ok(meta) = self.store.head(&self.path).await {
                    self.check_unchanged(&meta)?;
                }
                Err(self.store_error(error))
            }
        }
    }

    fn check_unchanged(&self, meta: &ObjectMeta) -> Result<()> {
        let changed = |message| Err(DatasetError::Changed { location: self.file.url.clone(), message });
        if meta.size != self.file.size {
            return changed(format!("it had {} bytes and has {}", self.file.size, meta.size));
        }
        if let (Some(planned), Some(found)) = (&self.file.etag, &meta.e_tag)
            && planned != found
        {
            return changed(format!("its entity tag was {planned} and is {found}"));
        }
        if let Some(planned) = self.file.modified_ms
            && planned != meta.last_modified.timestamp_millis()
        {
            return changed(format!("it was last changed at {} ms", meta.last_modified.timestamp_millis()));
        }
        Ok(())
    }

    fn store_error(&self, error: object_store::Error) -> DatasetError {
        match crate::stores::store_error(&self.file.url, error) {
            DatasetError::NotFound { location, .. } => {
                DatasetError::NotFound { location, hint: Some("it was there when the run was planned".into()) }
            }
            other => other,
        }
    }

    fn io_error(&self, error: &std::io::Error) -> DatasetError {
        DatasetError::Transient { location: self.file.url.clone(), message: error.to_string() }
    }
}

/// A local file is read in blocks of this size, one block ahead.
const BLOCK: usize = 1 << 20;
/// What is read first beyond the end of a split to complete its last row; doubles up to [`MAX_OVERHANG`].
const OVERHANG: u64 = 64 << 10;
const MAX_OVERHANG: u64 = 16 << 20;

/// The bytes of a file from a position on, in order.
///
/// The first request covers what is certainly needed; whoever needs more to complete a row just goes on asking.
pub(crate) struct ByteStream {
    file: OpenFile,
    next: u64,
    end: u64,
    overhang: u64,
    stream: Option<BoxStream<'static, Result<Bytes>>>,
}

impl ByteStream {
    /// Starts at `start`; `end` is how far the reader is going to read at least.
    pub(crate) fn new(file: OpenFile, start: u64, end: u64) -> Self {
        let end = end.clamp(start, file.file.size.max(start));
        Self { file, next: start, end, overhang: OVERHANG, stream: None }
    }

    /// The next piece, `None` at the end of the file.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(stream) = &mut self.stream {
                match stream.next().await.transpose()? {
                    Some(bytes) if bytes.is_empty() => continue,
                    Some(bytes) => {
                        self.next += bytes.len() as u64;
                        return Ok(Some(bytes));
                    }
                    None if self.next < self.end => {
                        return Err(DatasetError::Transient {
                            location: self.file.file.url.clone(),
                            message: format!("the store ended at byte {} of {}", self.next, self.end),
                        });
                    }
                    None => self.stream = None,
                }
            }
            if self.next >= self.file.file.size {
                return Ok(None);
            }
            if self.next >= self.end {
                self.end = (self.end + self.overhang).min(self.file.file.size);
                self.overhang = (self.overhang * 2).min(MAX_OVERHANG);
            }
            self.stream = Some(open(self.file.clone(), self.next..self.end).await?);
        }
    }
}

async fn open(file: OpenFile, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
    match file.get(range.clone()).await?.payload {
        GetResultPayload::Stream(stream) => {
            Ok(stream.map(move |bytes| bytes.map_err(|error| file.store_error(error))).boxed())
        }
        GetResultPayload::File(handle, _) => Ok(file_stream(file, handle, range)),
    }
}

/// Blocks of a local file; the next one is being read while one is worked on.
fn file_stream(file: OpenFile, handle: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let read = |mut handle: File, at: u64, length: usize| {
        tokio::task::spawn_blocking(move || {
            handle.seek(SeekFrom::Start(at))?;
            let mut block = vec![0; length];
            handle.read_exact(&mut block)?;
            Ok::<_, std::io::Error>((handle, Bytes::from(block)))
        })
    };
    let Range { start, end } = range;
    let length = move |at: u64| (end - at).min(BLOCK as u64) as usize;
    let first = (start < end).then(|| read(handle, start, length(start)));
    futures::stream::try_unfold((first, start), move |(pending, at)| {
        let file = file.clone();
        async move {
            let Some(pending) = pending else { return Ok(None) };
            let (handle, bytes) = pending
                .await
                .map_err(|error| file.io_error(&std::io::Error::other(error)))?
                .map_err(|error| file.io_error(&error))?;
            let at = at + bytes.len() as u64;
            let next = (at < end).then(|| read(handle, at, length(at)));
            Ok(Some((bytes, (next, at))))
        }
    })
    .boxed()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
