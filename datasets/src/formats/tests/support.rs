use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::formats::{Chunk, OpenFile, ReadOptions, UnreadableRow, read_split};
use crate::{Compression, Format, Result, SourceFile, SourcePlan, plan};

/// A store that counts the bytes that are asked of it.
#[derive(Debug, Default)]
pub(super) struct Counting {
    inner: InMemory,
    bytes: AtomicU64,
}

impl Counting {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let result = self.inner.get_opts(location, options).await?;
        self.bytes.fetch_add(result.range.end - result.range.start, Ordering::Relaxed);
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Files in memory.
#[derive(Default)]
pub(super) struct Files {
    pub(super) store: Arc<Counting>,
    pub(super) open: Vec<OpenFile>,
}

impl Files {
    pub(super) async fn of(files: &[(&str, Vec<u8>)]) -> Self {
        let mut all = Self::default();
        for (name, content) in files {
            all.add(name, content.clone()).await;
        }
        all
    }

    pub(super) async fn add(&mut self, name: &str, content: Vec<u8>) {
        let path = Path::from(name);
        let size = content.len() as u64;
        let put = self.store.put(&path, content.into()).await.unwrap();
        let (format, compression) = Format::of_name(name).unwrap();
        let url = format!("memory:///{name}");
        let file = SourceFile { url, size, etag: put.e_tag, version: None, modified_ms: None, format, compression };
        let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
        self.open.push(OpenFile::new(store, path, file));
    }

    pub(super) async fn plan(&self, options: &ReadOptions) -> Result<SourcePlan> {
        plan(self.open.clone(), options).await
    }

    /// The chunks of every split.
    pub(super) async fn read(&self, plan: &SourcePlan, options: &ReadOptions) -> Result<Vec<Vec<Chunk>>> {
        let mut splits = Vec::new();
        for split in &plan.splits {
            let mut open = self.open[split.file as usize].clone();
            open.file = plan.files[split.file as usize].clone();
            let chunks = read_split(open, split, Arc::clone(&plan.schema), options);
            splits.push(chunks.try_collect::<Vec<_>>().await?);
        }
        Ok(splits)
    }

    pub(super) async fn all(&self, options: &ReadOptions) -> Result<Rows> {
        let plan = self.plan(options).await?;
        let splits = self.read(&plan, options).await?;
        Ok(Rows::of(splits.into_iter().flatten().collect()))
    }
}

/// What a source holds.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) unreadable: Vec<UnreadableRow>,
}

impl Rows {
    pub(super) fn of(chunks: Vec<Chunk>) -> Self {
        let (mut batches, mut unreadable) = (Vec::new(), Vec::new());
        for chunk in chunks {
            match chunk {
                Chunk::Rows(batch) => batches.push(batch),
                Chunk::Unreadable(row) => unreadable.push(row),
            }
        }
        Self { batches, unreadable }
    }

    /// The values of a column, printed; null is `-`.
    pub(super) fn column(&self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        for batch in &self.batches {
            let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
            for row in 0..column.len() {
                values.push(if column.is_null(row) {
                    "-".to_owned()
                } else {
                    arrow_cast::display::array_value_to_string(column, row).unwrap()
                });
            }
        }
        values
    }

    pub(super) fn numbers(&self, name: &str) -> Vec<u64> {
        self.column(name).iter().map(|value| value.parse().unwrap()).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

pub(super) fn texts(batch: &RecordBatch) -> Vec<String> {
    batch.column_by_name("text").unwrap().as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
}

pub(super) fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

pub(super) fn parquet(batches: &[RecordBatch], group_rows: usize) -> Vec<u8> {
    parquet_with(batches, WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build())
}

pub(super) fn parquet_with(batches: &[RecordBatch], properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap()
}

pub(super) fn ipc_file(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

pub(super) fn ipc_stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

pub(super) fn options(split_size: &str) -> ReadOptions {
    ReadOptions { split_size: split_size.parse().unwrap(), ..ReadOptions::default() }
}
