//! Skipping and limiting is exact, and reads no more than it must.

use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use parquet::basic::Compression as PageCompression;
use parquet::file::properties::WriterProperties;
use rstest::rstest;

use super::support::{Files, Rows, compress, ipc_file, ipc_stream, options, parquet_with};
use crate::{Chunk, Compression, ReadOptions};

const ROWS: usize = 4000;

fn text(row: usize) -> String {
    format!("{row} {}", "word ".repeat(40))
}

fn batch(from: usize, to: usize) -> RecordBatch {
    let texts: StringArray = (from..to).map(|row| Some(text(row))).collect();
    let ids: StringArray = (from..to).map(|row| Some(row.to_string())).collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("text", Arc::new(texts) as _)]).unwrap()
}

fn content(name: &str, from: usize, to: usize) -> Vec<u8> {
    let lines = || -> Vec<u8> {
        (from..to).map(|row| format!("{{\"id\": \"{row}\", \"text\": \"{}\"}}\n", text(row))).collect::<String>().into()
    };
    let batches: Vec<RecordBatch> = (from..to).step_by(500).map(|row| batch(row, (row + 500).min(to))).collect();
    match name {
        "parquet" => {
            let properties = WriterProperties::builder()
                .set_max_row_group_row_count(Some(500))
                .set_dictionary_enabled(false)
                .set_compression(PageCompression::UNCOMPRESSED)
                .build();
            parquet_with(&batches, properties)
        }
        "arrow" => ipc_file(&batches),
        "feather" => ipc_stream(&batches),
        "jsonl" => lines(),
        "jsonl.gz" => compress(&lines(), Compression::Gzip),
        "csv" => {
            let rows: String = (from..to).map(|row| format!("{row},{}\n", text(row))).collect();
            format!("id,text\n{rows}").into()
        }
        other => panic!("{other}"),
    }
}

#[rstest]
#[tokio::test]
async fn windows_are_exact(
    #[values("parquet", "arrow", "feather", "jsonl", "jsonl.gz", "csv")] format: &str,
    #[values((0, 1), (0, 500), (499, 2), (1999, 3), (1000, 1000), (3990, 100), (5000, 10), (7, 0))] window: (
        usize,
        usize,
    ),
    #[values("64MB", "50KB", "37 rows", "0.1")] size: &str,
) {
    let (name_a, name_b) = (format!("a.{format}"), format!("b.{format}"));
    let files = Files::of(&[(&name_a, content(format, 0, ROWS / 2)), (&name_b, content(format, ROWS / 2, ROWS))]).await;
    let (skip, limit) = (window.0 as u64, Some(window.1 as u64));
    let rows = files.all(&ReadOptions { skip, limit, ..options(size) }).await.unwrap();
    let expected: Vec<u64> = (window.0..(window.0 + window.1).min(ROWS)).map(|row| row as u64).collect();
    assert_eq!(rows.numbers("id"), expected);
}

/// The first ten of 4000 rows cost a small part of the file.
#[rstest]
#[case("parquet")]
#[case("arrow")]
#[case("jsonl")]
#[tokio::test]
async fn a_limit_reads_no_more_than_it_must(#[case] format: &str) {
    let names: Vec<String> = (0..4).map(|number| format!("{number}.{format}")).collect();
    let mut files = Files::default();
    for name in &names {
        files.add(name, content(format, 0, ROWS)).await;
    }
    let size: u64 = files.open.iter().map(|open| open.file.size).sum();
    let options = ReadOptions { limit: Some(10), ..options("10KB") };
    let rows = files.all(&options).await.unwrap();
    assert_eq!(rows.numbers("id"), (0..10).collect::<Vec<_>>());
    let read = files.store.bytes();
    // Planning samples and looks ahead by one file.
    assert!(read < size / 3, "{read} of {size} bytes were read");
    let plan = files.plan(&options).await.unwrap();
    files.store.bytes();
    files.read(&plan, &options).await.unwrap();
    let read = files.store.bytes();
    assert!(read < size / 4 / 4, "{read} of {size} bytes were read for one split");
}

/// A few rows out of a row group take the pages they are on.
#[tokio::test]
async fn pages_of_other_rows_are_not_read() {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(PageCompression::UNCOMPRESSED)
        .set_data_page_row_count_limit(100)
        .set_write_batch_size(100)
        .build();
    let files = Files::of(&[("a.parquet", parquet_with(&[batch(0, ROWS)], properties))]).await;
    let size = files.open[0].file.size;
    let options = ReadOptions { skip: 2000, limit: Some(10), ..options("64MB") };
    let plan = files.plan(&options).await.unwrap();
    files.store.bytes();
    let chunks = files.read(&plan, &options).await.unwrap().concat();
    assert_eq!(Rows::of(chunks).numbers("id"), (2000..2010).collect::<Vec<_>>());
    let read = files.store.bytes();
    assert!(read < size / 4, "{read} of {size} bytes were read");
}

/// A row group that is larger than what is held at once is read in pieces, every row once.
#[tokio::test]
async fn large_row_groups_are_read_in_pieces() {
    for (page_index, most) in [(true, 4.0), (false, 1.2)] {
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_compression(PageCompression::UNCOMPRESSED)
            .set_data_page_row_count_limit(20)
            .set_write_batch_size(20)
            .set_offset_index_disabled(!page_index)
            .build();
        let files = Files::of(&[("a.parquet", parquet_with(&[batch(0, ROWS)], properties))]).await;
        let options = ReadOptions { batch_bytes: 4096, ..options("64MB") };
        let plan = files.plan(&options).await.unwrap();
        files.store.bytes();
        let rows = Rows::of(files.read(&plan, &options).await.unwrap().concat());
        assert_eq!(rows.numbers("id"), (0..ROWS as u64).collect::<Vec<_>>());
        let read = files.store.bytes() as f64 / files.open[0].file.size as f64;
        assert!(read < most, "{read} of the file was read");
    }
}

/// Columns that are not asked for are not read.
#[tokio::test]
async fn other_columns_are_not_read() {
    let files = Files::of(&[("a.parquet", content("parquet", 0, ROWS))]).await;
    let options = ReadOptions { text: "id".into(), id: "none".into(), columns: Some(vec![]), ..options("64MB") };
    let plan = files.plan(&options).await.unwrap();
    files.store.bytes();
    let rows = Rows::of(files.read(&plan, &options).await.unwrap().concat());
    assert_eq!(rows.count(), ROWS);
    assert_eq!(rows.numbers("none"), (0..ROWS as u64).collect::<Vec<_>>());
    assert!(files.store.bytes() < files.open[0].file.size / 10);
}

/// Large rows make small batches, and one large row is a batch of its own.
#[tokio::test]
async fn batches_are_bounded_in_bytes() {
    let row = |row: usize| format!("{{\"text\": \"{}\"}}\n", "x".repeat(if row == 50 { 3_000_000 } else { 50_000 }));
    let lines: String = (0..100).map(row).collect();
    let texts: StringArray = (0..100).map(|_| Some("x".repeat(50_000))).collect();
    let table = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let files = Files::of(&[("a.jsonl", lines.into_bytes()), ("b.parquet", parquet_with(&[table], properties))]).await;
    let options = ReadOptions { batch_bytes: 1_000_000, ..options("64MB") };
    let plan = files.plan(&options).await.unwrap();
    let chunks = files.read(&plan, &options).await.unwrap().concat();
    let mut rows = 0;
    for chunk in chunks {
        let Chunk::Rows(batch) = chunk else { panic!("{chunk:?}") };
        rows += batch.num_rows();
        let bytes: usize = super::support::texts(&batch).iter().map(String::len).sum();
        assert!(bytes < 1_100_000 + 3_000_000 && (batch.num_rows() <= 21), "{bytes} in {} rows", batch.num_rows());
    }
    assert_eq!(rows, 200);
}
