//! How fast parts are written, by format and settings, on one thread.
//!
//! Rows come from `corpus/*.parquet` of the test data (environment variable `GRISTMILL_DATA`) where there is some, else from the sample corpus of the repository,
//! several times over. Pages are compressed one by one, so that repetition does not make compression look better.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gristmill_datasets::{
    ArrowOptions, Compression, JsonlOptions, ParquetCompression, ParquetOptions, PartOptions, PartWriter,
};
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Bytes of rows to write at least.
const BYTES: usize = 64 << 20;

fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let data =
        std::env::var_os("GRISTMILL_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from).join("corpus");
    if data.is_dir() { data } else { root.join("examples/data/corpus") }
}

fn rows() -> Vec<RecordBatch> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "parquet"));
    files.sort();
    let (mut batches, mut bytes) = (Vec::new(), 0);
    for file in files.iter().cycle() {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
        for batch in reader.with_batch_size(2048).build().unwrap() {
            let batch = batch.unwrap();
            bytes += batch.get_array_memory_size();
            batches.push(batch);
        }
        if bytes >= BYTES {
            return batches;
        }
    }
    batches
}

fn as_views(batches: &[RecordBatch]) -> Vec<RecordBatch> {
    batches
        .iter()
        .map(|batch| {
            let columns =
                batch.columns().iter().zip(batch.schema_ref().fields()).map(|(column, field)| {
                    (field.name().clone(), arrow_cast::cast(column, &DataType::Utf8View).unwrap())
                });
            RecordBatch::try_from_iter(columns.collect::<Vec<_>>()).unwrap()
        })
        .collect()
}

async fn write(batches: &[RecordBatch], options: &PartOptions) -> u64 {
    let store = Arc::new(InMemory::new());
    let mut writer = PartWriter::create(store, "part".into(), batches[0].schema(), options).await.unwrap();
    for batch in batches {
        writer.write(batch).await.unwrap();
    }
    writer.close().await.unwrap().bytes
}

fn parts(criterion: &mut Criterion) {
    let batches = rows();
    let views = as_views(&batches);
    let bytes: usize = batches
        .iter()
        .flat_map(RecordBatch::columns)
        .map(|column| column.to_data().get_slice_memory_size().unwrap())
        .sum();
    let parquet = ParquetOptions::default;
    let cases = [
        ("parquet zstd 3", &batches, PartOptions::Parquet(parquet())),
        ("parquet zstd 3, string views", &views, PartOptions::Parquet(parquet())),
        ("parquet zstd 1", &batches, PartOptions::Parquet(ParquetOptions { level: Some(1), ..parquet() })),
        (
            "parquet zstd 3, pages by size",
            &batches,
            PartOptions::Parquet(ParquetOptions { content_defined_chunking: false, ..parquet() }),
        ),
        (
            "parquet zstd 3, no page index",
            &batches,
            PartOptions::Parquet(ParquetOptions { page_index: false, ..parquet() }),
        ),
        (
            "parquet snappy",
            &batches,
            PartOptions::Parquet(ParquetOptions { compression: ParquetCompression::Snappy, ..parquet() }),
        ),
        (
            "parquet uncompressed",
            &batches,
            PartOptions::Parquet(ParquetOptions { compression: ParquetCompression::None, ..parquet() }),
        ),
        (
            "parquet uncompressed, pages by size",
            &batches,
            PartOptions::Parquet(ParquetOptions {
                compression: ParquetCompression::None,
                content_defined_chunking: false,
                ..parquet()
            }),
        ),
        ("jsonl", &batches, PartOptions::Jsonl(JsonlOptions { compression: Compression::None, level: None })),
        ("jsonl zstd 3", &batches, PartOptions::Jsonl(JsonlOptions::default())),
        ("arrow", &batches, PartOptions::Arrow(ArrowOptions::default())),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("parts");
    group.sample_size(10).throughput(Throughput::Bytes(bytes as u64));
    for (name, batches, options) in cases {
        group.bench_function(name, |bencher| bencher.iter(|| runtime.block_on(write(black_box(batches), &options))));
    }
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
