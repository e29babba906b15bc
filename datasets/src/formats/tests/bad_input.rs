//! Bad input gives named errors or unreadable rows, never a panic and never silence.

use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use object_store::ObjectStoreExt;
use rstest::rstest;

use super::support::{Files, compress, ipc_file, ipc_stream, options, parquet};
use crate::{Compression, DatasetError, ReadOptions};

const GOOD: &str = "{\"text\": \"good\"}";

/// Unreadable rows: position, raw bytes, a part of the error. Two good rows are around.
#[rstest]
#[case("{\"text\": \"open", "not complete")]
#[case("{\"text\": }", "parsing value")]
#[case("no json", "parsing literal")]
#[case("[1, 2]", "expected {")]
#[case("123", "expected {")]
#[case("{\"text\": 5}", "expected string")]
#[case("{\"text\": {\"a\": 1}}", "expected string")]
#[case("{\"text\": \"a\"} {\"text\": \"b\"}", "something follows")]
#[case("{\"text\": \"a\"} x", "something follows")]
#[case("{\"text\": \"\\ud800\"}", "surrogate")]
#[tokio::test]
async fn bad_json_lines_are_put_aside(#[case] bad: &str, #[case] error: &str) {
    let content = format!("{GOOD}\n\n{bad}\n{GOOD}\n");
    for (name, compression) in
        [("a.jsonl", Compression::None), ("a.jsonl.gz", Compression::Gzip), ("a.jsonl.zst", Compression::Zstd)]
    {
        let files = Files::of(&[(name, compress(content.as_bytes(), compression))]).await;
        let rows = files.all(&options("64MB")).await.unwrap();
        assert_eq!(rows.column("text"), ["good", "good"]);
        // Positions count the row that cannot be read.
        assert_eq!(rows.numbers("id"), [0, 2]);
        let [row] = &rows.unreadable[..] else { panic!("{:?}", rows.unreadable) };
        assert_eq!(row.offset, GOOD.len() as u64 + 2);
        assert_eq!(row.row, Some(1));
        assert_eq!(row.raw, bad.as_bytes());
        assert_eq!(row.length, bad.len() as u64);
        assert!(row.error.contains(error), "{}", row.error);
        assert_eq!(row.source, format!("memory:///{name}"));
    }
}

/// A column that the sample did not show is not left out in silence.
#[tokio::test]
async fn unknown_keys_are_put_aside() {
    let unknown = "{\"text\": \"a\", \"unknown\": 1}\n";
    let content = format!("{GOOD}\n").repeat(1500) + unknown + GOOD;
    let files = Files::of(&[("a.jsonl", content.into_bytes())]).await;
    let rows = files.all(&options("64MB")).await.unwrap();
    assert_eq!((rows.count(), rows.unreadable.len()), (1501, 1));
    assert!(rows.unreadable[0].error.contains("unknown"), "{}", rows.unreadable[0].error);
    // Who names the columns does not ask for others.
    let named = ReadOptions { columns: Some(vec!["text".into()]), ..options("64MB") };
    assert_eq!(files.all(&named).await.unwrap().count(), 1502);
}

#[tokio::test]
async fn lines_that_are_not_utf8_are_put_aside() {
    let content = [GOOD.as_bytes(), b"\n{\"text\": \"\xff\xfe\"}\n", GOOD.as_bytes()].concat();
    let rows = Files::of(&[("a.jsonl", content)]).await.all(&options("64MB")).await.unwrap();
    assert_eq!(rows.column("text"), ["good", "good"]);
    assert_eq!(rows.unreadable.len(), 1);
    assert_eq!(&rows.unreadable[0].raw[..], b"{\"text\": \"\xff\xfe\"}");
    assert!(rows.unreadable[0].error.contains("UTF-8"), "{}", rows.unreadable[0].error);
}

#[rstest]
#[case("text")]
#[case("other")]
#[tokio::test]
async fn deep_nesting_is_put_aside(#[case] key: &str) {
    let deep = format!("{{\"{key}\": {}1{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let content = format!("{GOOD}\n{deep}\n{GOOD}\n");
    let rows = Files::of(&[("a.jsonl", content.into_bytes())]).await.all(&options("64MB")).await.unwrap();
    assert_eq!(rows.count(), 2);
    assert_eq!(rows.unreadable.len(), 1);
    assert!(rows.unreadable[0].error.contains("deep"), "{}", rows.unreadable[0].error);
    assert_eq!(rows.unreadable[0].length, deep.len() as u64);
    assert_eq!(rows.unreadable[0].raw.len(), 1 << 20, "only the begin of a long row is kept");
}

/// Brackets in a string nest nothing.
#[tokio::test]
async fn brackets_in_text_are_text() {
    let content = format!("{{\"text\": \"{}\"}}\n", "[{\\\"".repeat(1000));
    let rows = Files::of(&[("a.jsonl", content.into_bytes())]).await.all(&options("64MB")).await.unwrap();
    assert_eq!((rows.count(), rows.unreadable.len()), (1, 0));
}

#[tokio::test]
async fn of_equal_keys_the_last_counts() {
    let content = b"{\"text\": \"a\", \"text\": \"b\"}\n".to_vec();
    let rows = Files::of(&[("a.jsonl", content)]).await.all(&options("64MB")).await.unwrap();
    assert_eq!(rows.column("text"), ["b"]);
}

#[tokio::test]
async fn every_second_row_may_be_bad() {
    let content: String =
        (0..500).map(|row| format!("{{\"text\": \"{row}\", \"id\": {row}}}\n{{bad {row}\n")).collect();
    let rows = Files::of(&[("a.jsonl", content.into_bytes())]).await.all(&options("1KB")).await.unwrap();
    assert_eq!(rows.numbers("id"), (0..500).collect::<Vec<_>>());
    let raw: Vec<String> = rows.unreadable.iter().map(|row| String::from_utf8_lossy(&row.raw).into_owned()).collect();
    assert_eq!(raw, (0..500).map(|row| format!("{{bad {row}")).collect::<Vec<_>>());
}

#[rstest]
#[case("a.csv", "text,n\ngood,1\nonly\ngood,2\n", "only", "fields")]
#[case("a.csv", "text,n\ngood,1\na,2,3\ngood,2\n", "a,2,3", "fields")]
#[case("a.csv", "text,n\ngood,1\ngood,2\n\"open,3\n", "\"open,3", "quote")]
#[case("a.tsv", "text\tn\ngood\t1\ngood,2\ngood\t2\n", "good,2", "fields")]
#[tokio::test]
async fn bad_csv_rows_are_put_aside(#[case] name: &str, #[case] content: &str, #[case] raw: &str, #[case] error: &str) {
    let rows = Files::of(&[(name, content.into())]).await.all(&options("64MB")).await.unwrap();
    assert_eq!(rows.column("text"), ["good", "good"]);
    let [row] = &rows.unreadable[..] else { panic!("{:?}", rows.unreadable) };
    assert_eq!(String::from_utf8_lossy(&row.raw).trim_end(), raw);
    assert_eq!(row.offset, content.find(raw).unwrap() as u64);
    assert!(row.error.contains(error), "{}", row.error);
}

#[tokio::test]
async fn csv_values_of_another_type_are_put_aside() {
    let mut content = "text,n\n".to_owned();
    for row in 0..1500 {
        content.push_str(&format!("t,{}\n", if row == 1400 { "many".to_owned() } else { row.to_string() }));
    }
    let rows = Files::of(&[("a.csv", content.into())]).await.all(&options("64MB")).await.unwrap();
    assert_eq!(rows.count(), 1499);
    assert_eq!(&rows.unreadable[0].raw[..], b"t,many");
}

#[rstest]
#[case("a.json", b"[{\"text\": \"a\"}, {\"text\"", "truncated")]
#[case("a.json", b"{\"a\": [{\"text\": \"a\"}], \"b\": [{\"text\": \"a\"}]}", "name one of them as the split")]
#[case("a.json", b"<html>", "expected '[' or '{'")]
#[case("a.json", b"[{\"text\": \"a\"}] more", "the end of the file")]
#[case("a.jsonl", b"not json at all\n", "none of the first 1 rows is a JSON object: the row at byte 0")]
#[case("a.jsonl", b"\xff\xfe{\x00", "UTF-16")]
#[case("a.csv", b"text,text\na,b\n", "twice")]
#[case("a.parquet", b"", "too few")]
#[case("a.parquet", b"PAR1 this is no Parquet file PAR1", "the footer is damaged: it would have 543517801 bytes")]
#[case("a.parquet", b"PAR1 \xff\xff\xff\xff\x04\x00\x00\x00PAR1", "the footer at byte 5 is damaged")]
#[case("a.parquet", b"PAR1 this is the begin of a Parquet file", "ends at byte 40 without the 'PAR1'")]
#[case("a.parquet", b"PARE this is a secret Parquet file PARE", "encrypted Parquet is not read")]
#[case("a.parquet", b"this is no Parquet file at all", "does not begin with 'PAR1'")]
#[case("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "a pointer of Git LFS")]
#[case("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "a pointer of Git LFS")]
#[case("a.parquet", b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page")]
#[case("a.jsonl", b"\n<html><body>Sign in</body></html>\n", "a web page")]
#[case("a.jsonl", b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>\n", "XML, such as stores send")]
#[case("a.arrow", b"", "too few")]
#[case("a.arrow", b"\x00\x00\x00\x00 no Arrow file", "neither")]
#[case("a.jsonl.gz", b"this is not compressed", "damaged gzip data from byte 0 of the file on")]
#[case("a.jsonl.zst", b"this is not compressed", "damaged zstd data from byte 0 of the file on")]
#[tokio::test]
async fn damaged_files_are_named(#[case] name: &str, #[case] content: &[u8], #[case] expected: &str) {
    let files = Files::of(&[(name, content.to_vec())]).await;
    let error = files.all(&ReadOptions { limit: Some(100), ..options("64MB") }).await.unwrap_err();
    assert!(matches!(&error, DatasetError::Malformed { location, .. } if location.ends_with(name)), "{error:?}");
    assert!(error.to_string().contains(expected), "{error}");
}

fn corpus() -> RecordBatch {
    let texts: StringArray = (0..500).map(|row| Some(format!("document {row} {}", row * 7919 % 1000))).collect();
    let ids: StringArray = (0..500).map(|row| Some(row.to_string())).collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("text", Arc::new(texts) as _)]).unwrap()
}

/// A file that was cut anywhere never passes for a shorter one.
#[rstest]
#[case("a.parquet", parquet(&[corpus()], 100))]
#[case("a.arrow", ipc_file(&[corpus().slice(0, 200), corpus().slice(200, 300)]))]
#[case("a.jsonl.gz", compress(&lines(), Compression::Gzip))]
#[case("a.jsonl.zst", compress(&lines(), Compression::Zstd))]
#[tokio::test]
async fn truncated_files_fail(#[case] name: &str, #[case] whole: Vec<u8>) {
    for share in [1, 10, 50, 90, 99] {
        for less in [0, 1, 3] {
            let length = (whole.len() * share / 100).saturating_sub(less).max(1);
            let files = Files::of(&[(name, whole[..length].to_vec())]).await;
            let error = files.all(&options("64MB")).await.unwrap_err();
            let DatasetError::Malformed { location, message } = &error else {
                panic!("{share} % - {less}: {error:?}");
            };
            assert_eq!(location, &format!("memory:///{name}"));
            let says = match name {
                // Fewer than the twelve bytes of the two marks and the length are no file of any content.
                "a.parquet" if length < 12 => "too few",
                "a.parquet" => "the footer is missing: the file ends at byte",
                "a.arrow" => "",
                _ => "the file ends at byte",
            };
            assert!(message.contains(says), "{share} % - {less}: {message}");
            assert!(says.len() < 10 || message.contains(&format!("byte {length}")), "{share} % - {less}: {message}");
        }
    }
    let last = Files::of(&[(name, whole[..whole.len() - 1].to_vec())]).await.all(&options("64MB")).await;
    assert!(matches!(last, Err(DatasetError::Malformed { .. })), "{last:?}");
}

#[tokio::test]
async fn truncated_streams_fail_inside_of_a_message() {
    let whole = ipc_stream(&[corpus()]);
    for length in [9, 100, whole.len() / 2, whole.len() - 9] {
        let files = Files::of(&[("a.arrow", whole[..length].to_vec())]).await;
        let error = files.all(&options("64MB")).await.unwrap_err();
        assert!(matches!(error, DatasetError::Malformed { .. }), "{length}: {error:?}");
    }
}

fn lines() -> Vec<u8> {
    (0..500).map(|row| format!("{{\"text\": \"document {row} {}\"}}\n", row * 7919 % 1000)).collect::<String>().into()
}

/// Damage anywhere gives an error or rows, and no panic leaves the reader.
#[rstest]
#[case("a.parquet", parquet(&[corpus()], 100))]
#[case("a.arrow", ipc_file(&[corpus()]))]
#[case("a.feather", ipc_stream(&[corpus()]))]
#[case("a.jsonl.gz", compress(&lines(), Compression::Gzip))]
#[case("a.jsonl.zst", compress(&lines(), Compression::Zstd))]
#[tokio::test]
async fn damaged_bytes_never_panic(#[case] name: &str, #[case] whole: Vec<u8>) {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut failed = 0;
    for _ in 0..150 {
        let mut damaged = whole.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..damaged.len());
            damaged[at] = random.random();
        }
        match Files::of(&[(name, damaged)]).await.all(&options("64MB")).await {
            Ok(_) => {}
            Err(DatasetError::Malformed { location, .. }) => {
                assert_eq!(location, format!("memory:///{name}"));
                failed += 1;
            }
            Err(DatasetError::MissingColumn { .. } | DatasetError::Setting { .. }) => failed += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(failed > 5, "damage was hardly ever noticed: {failed}");
}

#[rstest]
#[case("a.parquet", parquet(&[corpus()], 100))]
#[case("a.arrow", ipc_file(&[corpus()]))]
#[case("a.jsonl", lines())]
#[tokio::test]
async fn a_file_that_was_replaced_is_refused(#[case] name: &str, #[case] content: Vec<u8>) {
    let files = Files::of(&[(name, content.clone())]).await;
    let plan = files.plan(&options("64MB")).await.unwrap();
    let path = files.open[0].path.clone();
    // The same bytes again: only the entity tag differs.
    files.store.put(&path, content.clone().into()).await.unwrap();
    let error = files.read(&plan, &options("64MB")).await.unwrap_err();
    assert!(matches!(&error, DatasetError::Changed { location, .. } if location.ends_with(name)), "{error:?}");
    // Without a tag the size says it.
    let mut untagged = Files::of(&[(name, content.clone())]).await;
    untagged.open[0].file.etag = None;
    let plan = untagged.plan(&options("64MB")).await.unwrap();
    untagged.store.put(&path, content[..content.len() / 2].to_vec().into()).await.unwrap();
    let error = untagged.read(&plan, &options("64MB")).await.unwrap_err();
    assert!(matches!(error, DatasetError::Changed { .. }), "{error:?}");
}
