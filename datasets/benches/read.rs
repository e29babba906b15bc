//! How fast splits are read: JSON lines, compressed or not, and Parquet, from local files.
//!
//! Throughput counts the bytes of the JSON lines, the same for every format, so the figures compare.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write;
use std::path::Path as FilePath;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::TryStreamExt;
use gristmill_datasets::{Chunk, Format, OpenFile, ReadOptions, SourceFile, plan, read_split};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

const ROWS: usize = 20_000;

/// Words of a small vocabulary in a fixed but irregular order, with line ends and quotes as documents have them.
fn document(row: usize) -> String {
    const WORDS: [&str; 16] = [
        "the", "of", "grist", "mill", "wheel", "water", "and", "stone", "\"flour\"", "grain", "a", "river,", "turns.\n",
        "naïve", "slowly", "汉字",
    ];
    let mut state = row as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut text = String::new();
    for _ in 0..row % 1000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(state >> 60) as usize]);
        text.push(' ');
    }
    text
}

fn write_files(folder: &FilePath) -> u64 {
    let texts: Vec<String> = (0..ROWS).map(document).collect();
    let ids: Vec<String> = (0..ROWS).map(|row| format!("document-{row}")).collect();
    let lines: String =
        ids.iter().zip(&texts).map(|(id, text)| serde_json::json!({"id": id, "text": text}).to_string() + "\n").collect();
    std::fs::write(folder.join("a.jsonl"), &lines).unwrap();
    std::fs::write(folder.join("a.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 3).unwrap()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(lines.as_bytes()).unwrap();
    std::fs::write(folder.join("a.jsonl.gz"), gzip.finish().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(ids)) as ArrayRef),
        ("text", Arc::new(StringArray::from(texts)) as ArrayRef),
    ])
    .unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))
        .set_max_row_group_row_count(Some(5000))
        .build();
    let file = std::fs::File::create(folder.join("a.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    lines.len() as u64
}

async fn open(folder: &FilePath, name: &str) -> OpenFile {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap());
    let path = Path::from(name);
    let meta = store.head(&path).await.unwrap();
    let (format, compression) = Format::of_name(name).unwrap();
    let url = format!("file:///{name}");
    let file = SourceFile { url, size: meta.size, etag: meta.e_tag, version: None, modified_ms: None, format, compression };
    OpenFile::new(store, path, file)
}

async fn rows(file: &OpenFile, options: &ReadOptions) -> usize {
    let plan = plan(vec![file.clone()], options).await.unwrap();
    let mut rows = 0;
    for split in &plan.splits {
        let mut chunks = read_split(file.clone(), split, Arc::clone(&plan.schema), options);
        while let Some(chunk) = chunks.try_next().await.unwrap() {
            if let Chunk::Rows(batch) = chunk {
                rows += batch.num_rows();
            }
        }
    }
    rows
}

fn read(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = write_files(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    for name in ["a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.parquet"] {
        let file = runtime.block_on(open(folder.path(), name));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let rows = runtime.block_on(rows(&file, &ReadOptions::default()));
                assert_eq!(rows, ROWS);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
