#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt8Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
    UnionArray,
};
use arrow_schema::{DataType, Field, Schema, UnionFields};
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::*;
use crate::{Compression, DatasetError};

/// Rows of every layout that operators make: texts of very different length in several scripts, nulls, repeated and
/// unique values, lists, a structure.
fn rows(count: usize) -> RecordBatch {
    let mut random = StdRng::seed_from_u64(7);
    let words = ["mill", "grain", "Korn", "мука", "石臼", "麦", "\u{1f33e}", "wheel\n", "\"quoted\""];
    let mut text = |length: usize| {
        let mut text = String::new();
        while text.len() < length {
            text.push_str(words[random.random_range(0..words.len())]);
            text.push(' ');
        }
        text
    };
    let texts: Vec<Option<String>> = (0..count)
        .map(|row| match row {
            _ if row % 11 == 3 => None,
            _ if row % 997 == 500 => Some(text(700_000)),
            _ if row % 5 == 0 => Some(String::new()),
            _ => Some(text(row * 37 % 1500)),
        })
        .collect();
    let mut lists = ListBuilder::new(Int32Builder::new());
    for row in 0..count {
        for value in 0..row % 6 {
            lists.values().append_value((row * value) as i32);
        }
        lists.append(row % 9 != 0);
    }
    let scores: ArrayRef =
        Arc::new(Float64Array::from_iter((0..count).map(|row| (row % 4 != 1).then(|| (row as f64).sqrt()))));
    let counts: ArrayRef = Arc::new(Int64Array::from_iter_values((0..count).map(|row| row as i64 % 50)));
    let metadata = StructArray::from(vec![
        (Arc::new(Field::new("score", DataType::Float64, true)), Arc::clone(&scores)),
        (Arc::new(Field::new("terms", DataType::Int64, false)), Arc::clone(&counts)),
    ]);
    RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from_iter_values((0..count).map(|row| format!("doc-{row:07}")))) as ArrayRef),
        ("text", Arc::new(StringArray::from(texts))),
        ("lang", Arc::new(StringArray::from_iter_values((0..count).map(|row| ["en", "de", "ja"][row / 50 % 3])))),
        ("ids", Arc::new(lists.finish())),
        ("metadata", Arc::new(metadata)),
        ("keep", Arc::new(BooleanArray::from_iter((0..count).map(|row| (row % 7 != 0).then_some(row % 2 == 0))))),
    ])
    .unwrap()
}

fn slices(batch: &RecordBatch, lengths: impl IntoIterator<Item = usize>) -> Vec<RecordBatch> {
    let (mut slices, mut start) = (Vec::new(), 0);
    for length in lengths {
        let length = length.min(batch.num_rows() - start);
        slices.push(batch.slice(start, length));
        start += length;
        if start == batch.num_rows() {
            break;
        }
    }
    slices
}

/// The same rows in fresh buffers.
fn copies(batches: &[RecordBatch]) -> Vec<RecordBatch> {
    batches.iter().map(|batch| schema::compact(batch, batch.schema_ref()).unwrap()).collect()
}

/// The same rows with the text column in another layout.
fn recast(batches: &[RecordBatch], data_type: &DataType) -> Vec<RecordBatch> {
    batches
        .iter()
        .map(|batch| {
            let columns = batch.columns().iter().zip(batch.schema_ref().fields()).map(|(column, field)| {
                match field.name().as_str() {
                    "text" => (field.name().clone(), arrow_cast::cast(column, data_type).unwrap()),
                    _ => (field.name().clone(), Arc::clone(column)),
                }
            });
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
        })
        .collect()
}

fn all_nullable(batch: &RecordBatch) -> RecordBatch {
    recast(std::slice::from_ref(batch), &DataType::Utf8).remove(0)
}

async fn write_to(
    store: Arc<dyn ObjectStore>,
    batches: &[RecordBatch],
    options: &PartOptions,
) -> Result<PartSummary, DatasetError> {
    let mut writer = PartWriter::create(store, Path::from("data/part"), batches[0].schema(), options).await?;
    for batch in batches {
        writer.write(batch).await?;
    }
    writer.close().await
}

async fn write(batches: &[RecordBatch], options: &PartOptions) -> (Bytes, PartSummary) {
    let store = Arc::new(InMemory::new());
    let summary = write_to(Arc::clone(&store) as _, batches, options).await.unwrap();
    let file = store.get(&Path::from("data/part")).await.unwrap().bytes().await.unwrap();
    assert_eq!(summary.bytes, file.len() as u64);
    assert_eq!(summary.blake3, blake3::hash(&file).to_hex().to_string());
    assert_eq!(summary.rows, batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>());
    (file, summary)
}

fn every_format() -> Vec<PartOptions> {
    let parquet = ParquetOptions::default;
    let jsonl = |compression| PartOptions::Jsonl(JsonlOptions { compression, level: None });
    let arrow = |compression| PartOptions::Arrow(ArrowOptions { compression });
    vec![
        PartOptions::Parquet(parquet()),
        PartOptions::Parquet(ParquetOptions { row_group_rows: 700, level: Some(1), ..parquet() }),
        PartOptions::Parquet(ParquetOptions { row_group_bytes: 300_000, content_defined_chunking: false, ..parquet() }),
        PartOptions::Parquet(ParquetOptions {
            compression: ParquetCompression::Snappy,
            page_index: false,
            ..parquet()
        }),
        PartOptions::Parquet(ParquetOptions { compression: ParquetCompression::Lz4, ..parquet() }),
        PartOptions::Parquet(ParquetOptions { compression: ParquetCompression::None, ..parquet() }),
        jsonl(Compression::None),
        jsonl(Compression::Gzip),
        jsonl(Compression::Zstd),
        arrow(ArrowCompression::None),
        arrow(ArrowCompression::Lz4),
        arrow(ArrowCompression::Zstd),
    ]
}

fn read_parquet(file: &Bytes) -> Vec<RecordBatch> {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().with_batch_size(100_000).build().unwrap();
    reader.map(|batch| batch.unwrap()).collect()
}

fn read(options: &PartOptions, file: &Bytes) -> Vec<RecordBatch> {
    match options {
        PartOptions::Parquet(_) => read_parquet(file),
        PartOptions::Arrow(_) => {
            let reader = arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(file.clone()), None).unwrap();
            reader.map(|batch| batch.unwrap()).collect()
        }
        PartOptions::Jsonl(options) => {
            let text: Vec<u8> = match options.compression {
                Compression::None => file.to_vec(),
                Compression::Gzip => {
                    let mut text = Vec::new();
                    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(file.as_ref()), &mut text)
                        .unwrap();
                    text
                }
                Compression::Zstd => zstd::decode_all(file.as_ref()).unwrap(),
            };
            let schema = rows(1).schema();
            let fields: Vec<Field> =
                schema.fields().iter().map(|field| Field::clone(field).with_nullable(true)).collect();
            let reader = arrow_json::ReaderBuilder::new(Arc::new(Schema::new(fields))).build(text.as_slice()).unwrap();
            reader.map(|batch| batch.unwrap()).collect()
        }
    }
}

#[tokio::test]
async fn files_hold_the_rows_and_depend_on_nothing_else() {
    let batch = all_nullable(&rows(2600));
    let mut random = StdRng::seed_from_u64(1);
    let batchings = [
        ("fresh buffers", copies(&slices(&batch, std::iter::repeat(100)))),
        ("one row each", slices(&batch, std::iter::repeat(1))),
        ("chunks", slices(&batch, std::iter::repeat(1024))),
        ("empty batches between", slices(&batch, [0, 5, 0, 0, 1500, 0, 3000])),
        ("random", slices(&batch, std::iter::repeat_with(|| random.random_range(0..900)))),
        ("views", recast(&slices(&batch, std::iter::repeat(333)), &DataType::Utf8View)),
        ("one view batch", recast(std::slice::from_ref(&batch), &DataType::Utf8View)),
        (
            "dictionaries",
            recast(
                &slices(&batch, std::iter::repeat(500)),
                &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            ),
        ),
    ];
    for options in every_format() {
        let (expected, _) = write(std::slice::from_ref(&batch), &options).await;
        let (again, _) = write(std::slice::from_ref(&batch), &options).await;
        assert!(expected == again, "{options:?}: two writes differ");
        for (name, batches) in &batchings {
            let (file, _) = write(batches, &options).await;
            assert!(file == expected, "{options:?}, {name}: {} and {} bytes", file.len(), expected.len());
        }
        let back = read(&options, &expected);
        let back = arrow_select::concat::concat_batches(&back[0].schema(), &back).unwrap();
        assert_eq!(back.columns(), batch.columns(), "{options:?}");
    }
}

#[tokio::test]
async fn parts_without_rows_are_valid_files() {
    let empty = RecordBatch::new_empty(rows(1).schema());
    for options in every_format() {
        let (file, summary) = write(std::slice::from_ref(&empty), &options).await;
        assert_eq!((summary.rows, summary.row_groups), (0, 0), "{options:?}");
        assert_eq!(read(&options, &file).iter().map(RecordBatch::num_rows).sum::<usize>(), 0, "{options:?}");
    }
}

#[tokio::test]
async fn row_groups_end_at_their_limits() {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..10_000).map(|row| format!("{row:06}"))));
    let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    // A value of six bytes counts ten.
    let cases: [(u64, u64, &[i64]); 4] = [
        (u64::MAX, u64::MAX, &[10_000]),
        (4000, u64::MAX, &[4000, 4000, 2000]),
        (u64::MAX, 60_000, &[6000, 4000]),
        (2500, 49_995, &[2500, 2500, 2500, 2500]),
    ];
    for (row_group_rows, row_group_bytes, expected) in cases {
        let options = PartOptions::Parquet(ParquetOptions { row_group_rows, row_group_bytes, ..Default::default() });
        let (file, summary) = write(&slices(&batch, std::iter::repeat(777)), &options).await;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(groups, expected, "{row_group_rows} rows, {row_group_bytes} bytes");
        assert_eq!(summary.row_groups, expected.len() as u64);
    }
}

#[tokio::test]
async fn a_huge_row_ends_its_row_group() {
    let huge = "ground between two stones ".repeat(1_600_000);
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", huge.as_str(), "b", huge.as_str(), "c"]));
    let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
    for options in [
        PartOptions::Parquet(ParquetOptions { row_group_bytes: 1 << 20, ..Default::default() }),
        PartOptions::Jsonl(JsonlOptions::default()),
        PartOptions::Arrow(ArrowOptions::default()),
    ] {
        let (file, summary) = write(&slices(&batch, std::iter::repeat(2)), &options).await;
        let (whole, _) = write(std::slice::from_ref(&batch), &options).await;
        assert!(file == whole);
        if let PartOptions::Parquet(_) = options {
            assert_eq!(summary.row_groups, 3);
            let back = read(&options, &file);
            let back = arrow_select::concat::concat_batches(&back[0].schema(), &back).unwrap();
            assert_eq!(back.columns(), batch.columns());
        }
    }
}

#[tokio::test]
async fn parquet_files_are_as_the_options_say() {
    let metadata = HashMap::from([
        ("huggingface".to_owned(), "{}".to_owned()),
        ("pandas".to_owned(), "{}".to_owned()),
        ("origin".to_owned(), "a mill".to_owned()),
    ]);
    let batch = rows(3000);
    let schema = Arc::new(Schema::new_with_metadata(batch.schema().fields().clone(), metadata));
    let batch = batch.with_schema(schema).unwrap();
    let options = ParquetOptions::default();
    let (file, _) = write(std::slice::from_ref(&batch), &PartOptions::Parquet(options.clone())).await;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(reader.schema().metadata(), &HashMap::from([("origin".to_owned(), "a mill".to_owned())]));
    let footer = reader.metadata().file_metadata();
    assert_eq!(footer.created_by(), Some("gristmill version 1"));
    let group = reader.metadata().row_group(0);
    let dictionaries: Vec<(String, bool)> = group
        .columns()
        .iter()
        .map(|column| (column.column_path().string(), column.dictionary_page_offset().is_some()))
        .collect();
    let expected = [
        ("id", false),
        ("text", false),
        ("lang", true),
        ("ids.list.item", true),
        ("metadata.score", false),
        ("metadata.terms", true),
        ("keep", false),
    ];
    assert_eq!(dictionaries, expected.map(|(path, dictionary)| (path.to_owned(), dictionary)));
    assert!(
        group.columns().iter().all(|column| column.offset_index_offset().is_some() && column.statistics().is_some())
    );
    let plain = |column: usize| group.column(column).encodings().any(|encoding| encoding == Encoding::PLAIN);
    assert!(plain(0) && plain(1));

    let options = ParquetOptions { page_index: false, ..options };
    let (file, _) = write(std::slice::from_ref(&batch), &PartOptions::Parquet(options)).await;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let columns = reader.metadata().row_group(0).columns();
    assert!(columns.iter().all(|column| column.offset_index_offset().is_none() && column.statistics().is_some()));
}

/// What content-defined chunking is for: after rows were inserted at the begin, most pages are the same bytes.
#[tokio::test]
async fn pages_are_cut_by_content() {
    let mut random = StdRng::seed_from_u64(3);
    let texts: Vec<String> = (0..6000)
        .map(|_| {
            (0..200).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect::<String>() + " and a common end"
        })
        .collect();
    let batch = |texts: &[String]| {
        RecordBatch::try_from_iter([("text", Arc::new(StringArray::from_iter_values(texts)) as ArrayRef)]).unwrap()
    };
    let later: Vec<String> = (0..37).map(|row| format!("a new row {row}")).chain(texts.iter().cloned()).collect();
    let shared = async |content_defined_chunking: bool| {
        let options = PartOptions::Parquet(ParquetOptions {
            content_defined_chunking,
            compression: ParquetCompression::None,
            ..Default::default()
        });
        let (before, after) = (write(&[batch(&texts)], &options).await.0, write(&[batch(&later)], &options).await.0);
        pages(&before).iter().filter(|page| memchr::memmem::find(&after, page).is_some()).count()
    };
    assert_eq!(shared(false).await, 0);
    assert!(shared(true).await >= 2);
}

/// The data pages of the first column.
fn pages(file: &Bytes) -> Vec<Bytes> {
    let options = parquet::arrow::arrow_reader::ArrowReaderOptions::new()
        .with_page_index_policy(parquet::file::metadata::PageIndexPolicy::Required);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap();
    let index = &reader.metadata().offset_index().unwrap()[0][0];
    index
        .page_locations()
        .iter()
        .map(|page| (page.offset as usize, page.compressed_page_size as usize))
        .map(|(offset, size)| file.slice(offset..offset + size))
        .collect()
}

#[tokio::test]
async fn lines_hold_every_key() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("grain"), None]));
    let scores: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 0.5]));
    let raw: ArrayRef = Arc::new(arrow_array::BinaryArray::from_vec(vec![b"\xff\x00", b""]));
    let batch = RecordBatch::try_from_iter([("text", texts), ("score", scores), ("raw", raw)]).unwrap();
    let options = PartOptions::Jsonl(JsonlOptions { compression: Compression::None, level: None });
    let (file, _) = write(&[batch], &options).await;
    let expected = "{\"text\":\"grain\",\"score\":null,\"raw\":\"ff00\"}\n{\"text\":null,\"score\":0.5,\"raw\":\"\"}\n";
    assert_eq!(std::str::from_utf8(&file).unwrap(), expected);
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let parquet = |change: fn(&mut ParquetOptions)| {
        let mut options = ParquetOptions::default();
        change(&mut options);
        PartOptions::Parquet(options)
    };
    let cases = [
        (parquet(|options| options.row_group_rows = 0), "row_group_rows: 0 is too small, it must be at least 1"),
        (parquet(|options| options.row_group_bytes = 0), "row_group_bytes: 0 is too small, it must be at least 1"),
        (parquet(|options| options.level = Some(23)), "level: 23 is no level of zstd, which has 1 to 22"),
        (
            parquet(|options| (options.level, options.compression) = (Some(3), ParquetCompression::Snappy)),
            "level: 3 was given, but compression 'snappy' has no levels; leave it out",
        ),
        (
            PartOptions::Jsonl(JsonlOptions { compression: Compression::Gzip, level: Some(10) }),
            "level: 10 is no level of gzip, which has 0 to 9",
        ),
    ];
    for (options, expected) in cases {
        let error = write_to(Arc::new(InMemory::new()), &[rows(1)], &options).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    for text in [
        r#"{"parquet": {"row_groups": 5}}"#,
        r#"{"jsonl": {"row_group_rows": 5}}"#,
        r#"{"arrow": {"level": 5}}"#,
        r#"{"csv": {}}"#,
    ] {
        serde_json::from_str::<PartOptions>(text).unwrap_err();
    }
    for options in every_format() {
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<PartOptions>(&text).unwrap(), options);
    }
}

#[tokio::test]
async fn types_a_format_cannot_hold_are_refused_at_the_begin() {
    let fields = UnionFields::try_new([0], [Field::new("number", DataType::Int64, true)]).unwrap();
    let union: ArrayRef = Arc::new(
        UnionArray::try_new(fields, vec![0_i8].into(), None, vec![Arc::new(Int64Array::from(vec![1])) as _]).unwrap(),
    );
    let batch = RecordBatch::try_from_iter([("choice", union)]).unwrap();
    for options in every_format() {
        let writer = PartWriter::create(Arc::new(InMemory::new()), Path::from("p"), batch.schema(), &options).await;
        let error = writer.unwrap_err();
        assert!(matches!(error, DatasetError::Setting { .. }), "{options:?}: {error}");
    }
}

#[tokio::test]
async fn batches_of_other_columns_are_refused() {
    let store = Arc::new(InMemory::new());
    let batch = rows(10);
    let mut writer =
        PartWriter::create(store, Path::from("data/part"), batch.schema(), &PartOptions::default()).await.unwrap();
    writer.write(&batch).await.unwrap();
    let error = writer.write(&batch.project(&[0, 2]).unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("'data/part': a batch has the columns id Utf8, lang Utf8, but"), "{error}");
    assert!(writer.write(&batch).await.unwrap_err().to_string().contains("given up"));
    assert!(writer.close().await.is_err());
}

/// 40 MB that no codec makes smaller, so that parts of an upload are sent.
fn noise() -> RecordBatch {
    let mut random = StdRng::seed_from_u64(5);
    let values: Vec<Vec<u8>> = (0..40)
        .map(|_| {
            let mut value = vec![0; 1_000_000];
            random.fill_bytes(&mut value);
            value
        })
        .collect();
    let noise: ArrayRef = Arc::new(arrow_array::BinaryArray::from_iter_values(values));
    RecordBatch::try_from_iter([("noise", noise)]).unwrap()
}

fn small_groups() -> PartOptions {
    PartOptions::Parquet(ParquetOptions {
        row_group_bytes: 4 << 20,
        compression: ParquetCompression::None,
        ..Default::default()
    })
}

fn files_below(folder: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.file_name().into_string().unwrap()),
        }
    }
    files
}

#[tokio::test]
async fn large_parts_are_uploaded_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let summary = write_to(store, &[noise()], &small_groups()).await.unwrap();
    let file = std::fs::read(folder.path().join("data/part")).unwrap();
    assert_eq!(summary.blake3, blake3::hash(&file).to_hex().to_string());
    assert_eq!(read_parquet(&Bytes::from(file)).iter().map(RecordBatch::num_rows).sum::<usize>(), 40);
    assert_eq!(files_below(folder.path()), ["part"]);
}

#[tokio::test]
async fn aborted_and_dropped_parts_leave_nothing() {
    for abort in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        let mut writer =
            PartWriter::create(store, Path::from("data/part"), noise().schema(), &small_groups()).await.unwrap();
        writer.write(&noise()).await.unwrap();
        assert_eq!(files_below(folder.path()).len(), 1, "an upload is under way");
        assert!(writer.bytes_encoded() > 16 << 20);
        match abort {
            true => writer.abort().await.unwrap(),
            false => drop(writer),
        }
        for _ in 0..200 {
            if files_below(folder.path()).is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(files_below(folder.path()).is_empty(), "abort: {abort}");
    }
}

#[tokio::test]
async fn places_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), "a file where the folder should be").unwrap();
    for batch in [rows(5), noise()] {
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        let error = write_to(store, &[batch], &small_groups()).await.unwrap_err();
        assert!(matches!(&error, DatasetError::Store { location, .. } if location == "data/part"), "{error}");
        assert_eq!(files_below(folder.path()), ["data"]);
    }
}

/// A store on a full disk: multipart uploads fail at a certain call.
#[derive(Debug)]
struct FullDisk {
    inner: InMemory,
    parts_before: usize,
    calls: Arc<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    parts: AtomicUsize,
    aborts: AtomicUsize,
}

#[derive(Debug)]
struct FullDiskUpload {
    inner: Box<dyn MultipartUpload>,
    parts_before: usize,
    calls: Arc<Calls>,
}

fn disk_full() -> object_store::Error {
    object_store::Error::Generic { store: "disk", source: "No space left on device".into() }
}

#[async_trait::async_trait]
impl MultipartUpload for FullDiskUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.calls.parts.fetch_add(1, Ordering::Relaxed) < self.parts_before {
            true => self.inner.put_part(data),
            false => Box::pin(async { Err(disk_full()) }),
        }
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        Err(disk_full())
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.calls.aborts.fetch_add(1, Ordering::Relaxed);
        self.inner.abort().await
    }
}

impl fmt::Display for FullDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FullDisk")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FullDisk {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        Err(disk_full())
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(FullDiskUpload { inner, parts_before: self.parts_before, calls: Arc::clone(&self.calls) }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
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

#[tokio::test]
async fn a_full_disk_is_an_error_that_names_the_part() {
    // (batch, parts that succeed, uploads that are aborted)
    let cases = [(rows(10), 0, 0), (noise(), 0, 1), (noise(), 1, 1), (noise(), usize::MAX, 1)];
    for (batch, parts_before, aborts) in cases {
        let calls = Arc::new(Calls::default());
        let store = Arc::new(FullDisk { inner: InMemory::new(), parts_before, calls: Arc::clone(&calls) });
        let error = write_to(Arc::clone(&store) as _, &[batch], &small_groups()).await.unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("'data/part': ") && message.contains("No space left on device"), "{message}");
        assert_eq!(calls.aborts.load(Ordering::Relaxed), aborts, "{parts_before} parts");
        assert!(store.get(&Path::from("data/part")).await.is_err());
    }
}

#[test]
fn what_is_left_over_keeps_no_batch_alive() {
    let batch = recast(&[all_nullable(&rows(3000))], &DataType::Utf8View).remove(0);
    let written = schema::written_schema(batch.schema_ref());
    let piece = batch.slice(2990, 3);
    let copy = schema::compact(&piece, &written).unwrap();
    assert_eq!(copy.column(1).data_type(), &DataType::Utf8);
    assert!(copy.get_array_memory_size() < 20_000, "{}", copy.get_array_memory_size());
    assert!(batch.get_array_memory_size() > 1_000_000);
}

#[test]
fn nested_layouts_are_written_plainly() {
    let inner: ArrayRef = Arc::new(DictionaryArray::<UInt8Type>::from_iter(["a", "b", "a", "c"]));
    let field = Arc::new(Field::new("item", inner.data_type().clone(), true));
    let offsets = arrow_buffer::OffsetBuffer::from_lengths([1, 0, 3]);
    let list: ArrayRef = Arc::new(arrow_array::ListArray::new(field, offsets, inner, None));
    let batch = RecordBatch::try_from_iter([("terms", list)]).unwrap();
    let written = schema::written_schema(batch.schema_ref());
    let plain = schema::plain_layout(batch.clone(), &written).unwrap();
    let DataType::List(item) = plain.column(0).data_type() else { panic!("{}", plain.column(0).data_type()) };
    assert_eq!(item.data_type(), &DataType::Utf8);
    let values: Vec<&str> = plain.column(0).as_list::<i32>().values().as_string::<i32>().iter().flatten().collect();
    assert_eq!(values, ["a", "b", "a", "c"]);
}

#[test]
fn quarantined_rows_keep_what_is_known() {
    let full = QuarantineRow {
        step: "tokens".into(),
        error: "not UTF-8".into(),
        source: "file:///a.jsonl".into(),
        offset: Some(7),
        row: Some(1),
        raw: Some(b"\xff\xfe".to_vec()),
        length: Some(2),
        id: Some("a".into()),
    };
    let bare = QuarantineRow { step: "read".into(), error: "cut off".into(), source: "b".into(), ..Default::default() };
    let batch = quarantine_batch(&[full, bare]).unwrap();
    assert_eq!(batch.schema(), quarantine_schema());
    assert_eq!(batch["raw"].as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(b"\xff\xfe".as_ref()), None]);
    assert_eq!(batch["id"].as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), None]);
    assert_eq!(
        batch["offset"].as_primitive::<arrow_array::types::UInt64Type>().iter().collect::<Vec<_>>(),
        [Some(7), None]
    );
    assert_eq!(quarantine_batch(&[]).unwrap().num_rows(), 0);
}

#[test]
fn rejected_rows_have_the_columns_of_the_source() {
    let source = rows(3).project(&[0, 2]).unwrap();
    let schema = rejected_schema(source.schema_ref()).unwrap();
    let added = RecordBatch::try_from_iter([
        ("lang", arrow_cast::cast(source.column(1), &DataType::Utf8View).unwrap()),
        ("score", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("id", Arc::clone(source.column(0))),
    ]);
    let dropped = RecordBatch::try_from_iter([("id", Arc::clone(source.column(0)))]);
    for (step, rows, languages) in [
        ("first", &source, [Some("en"); 3]),
        ("columns added, moved and held as views", &added.unwrap(), [Some("en"); 3]),
        ("a column dropped", &dropped.unwrap(), [None; 3]),
    ] {
        let batch = rejected_batch(&schema, rows, step, "too short").unwrap();
        assert_eq!(batch.schema(), schema);
        assert_eq!(batch.column(0), source.column(0), "{step}");
        assert_eq!(batch["lang"].as_string::<i32>().iter().collect::<Vec<_>>(), languages, "{step}");
        assert_eq!(batch[REJECTED_STEP].as_string::<i32>().iter().collect::<Vec<_>>(), [Some(step); 3]);
        assert_eq!(batch[REJECTED_REASON].as_string::<i32>().iter().collect::<Vec<_>>(), [Some("too short"); 3]);
    }
    let numbers = rejected_schema(&Schema::new(vec![Field::new("lang", DataType::Int64, false)])).unwrap();
    let error = rejected_batch(&numbers, &source, "rename", "x").unwrap_err().to_string();
    assert!(error.starts_with("sink.rejected: column 'lang' as step 'rename' has it: "), "{error}");
    let error = rejected_schema(&schema).unwrap_err().to_string();
    assert_eq!(error, "sink.rejected: the source has a column '_step', which rejected rows need for themselves");
}

#[test]
fn writers_move_between_threads() {
    fn is_send<T: Send>(_: T) {}
    let options = PartOptions::default();
    is_send(async move {
        let mut writer =
            PartWriter::create(Arc::new(InMemory::new()), Path::from("p"), rows(1).schema(), &options).await.unwrap();
        writer.write(&rows(1)).await.unwrap();
        writer.close().await.unwrap()
    });
}
