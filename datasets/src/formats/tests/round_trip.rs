//! Every format in every compression gives the same rows.

use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch, StringArray};
use rstest::rstest;

use super::support::{Files, compress, ipc_file, ipc_stream, options, parquet};
use crate::Compression;

const TEXTS: [&str; 7] = [
    "plain",
    "two\nlines, \"quoted\"",
    "tab\tand comma,",
    "\u{1f600} Ünïcödé 漢字",
    "  spaces  ",
    "back\\slash",
    "{\"not\": [\"json\"]}",
];

fn batch(from: usize, rows: usize) -> RecordBatch {
    let ids: Int64Array = (from..from + rows).map(|row| row as i64).collect();
    let texts: StringArray = (from..from + rows).map(|row| Some(TEXTS[row % TEXTS.len()])).collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("text", Arc::new(texts) as _)]).unwrap()
}

fn json_rows() -> Vec<String> {
    (0..20).map(|row| serde_json::json!({"id": row, "text": TEXTS[row % TEXTS.len()]}).to_string()).collect()
}

fn content(name: &str) -> Vec<u8> {
    let separated = |delimiter: char| {
        let mut table = format!("id{delimiter}text\r\n");
        for row in 0..20 {
            let text = TEXTS[row % TEXTS.len()].replace('"', "\"\"");
            table.push_str(&format!("{row}{delimiter}\"{text}\"\r\n"));
        }
        table.into_bytes()
    };
    match name.split('.').nth(1).unwrap() {
        "parquet" => parquet(&[batch(0, 12), batch(12, 8)], 7),
        "arrow" => ipc_file(&[batch(0, 12), batch(12, 8)]),
        "feather" => ipc_stream(&[batch(0, 12), batch(12, 8)]),
        "jsonl" => (json_rows().join("\r\n") + "\n\n").into_bytes(),
        "ndjson" => json_rows().join("\n").into_bytes(),
        "json" => format!("[\n{}\n]\n", json_rows().join(",\n")).into_bytes(),
        "csv" => separated(','),
        "tsv" => separated('\t'),
        other => panic!("{other}"),
    }
}

#[rstest]
#[tokio::test]
async fn rows_are_the_same(
    #[values(
        "a.parquet",
        "a.arrow",
        "a.feather",
        "a.jsonl",
        "a.jsonl.gz",
        "a.jsonl.zst",
        "a.ndjson",
        "a.json",
        "a.json.gz",
        "a.json.zst",
        "a.csv",
        "a.csv.gz",
        "a.csv.zst",
        "a.tsv",
        "a.tsv.gz",
        "a.tsv.zst"
    )]
    name: &str,
    #[values("64MB", "100B", "3 rows", "0.25")] size: &str,
) {
    let compression = crate::Format::of_name(name).unwrap().1;
    let files = Files::of(&[(name, compress(&content(name), compression))]).await;
    let rows = files.all(&options(size)).await.unwrap();
    assert_eq!(rows.unreadable, []);
    let expected: Vec<String> = (0..20).map(|row| TEXTS[row % TEXTS.len()].to_owned()).collect();
    assert_eq!(rows.column("text"), expected, "{name}");
    assert_eq!(rows.numbers("id"), (0..20).collect::<Vec<_>>(), "{name}");
}

#[rstest]
#[case(b"{\"train\": [{\"id\": 1, \"text\": \"a\"}], \"note\": [1, 2], \"n\": {\"x\": [{}]}}", None, &["a"])]
#[case(b"{\"train\": [{\"id\": 1, \"text\": \"a\"}], \"test\": [{\"id\": 2, \"text\": \"b\"}]}", Some("test"), &["b"])]
#[case(b"{\"test\": [], \"train\": [{\"id\": 1, \"text\": \"a\"}]}", Some("test"), &[])]
#[case(b"{\"id\": 1, \"text\": \"a\"}\n{\"id\": 2, \"text\": \"b\"}\n", None, &["a", "b"])]
#[case(b"{\"id\": 1, \"text\": \"a\"}", None, &["a"])]
#[case(b"\xef\xbb\xbf[{\"id\": 1, \"text\": \"a\"}]", None, &["a"])]
#[case(b"[]", None, &[])]
#[case(b"", None, &[])]
#[tokio::test]
async fn json_files_of_all_shapes(#[case] content: &[u8], #[case] split: Option<&str>, #[case] expected: &[&str]) {
    let files = Files::of(&[("a.json", content.to_vec())]).await;
    let options = crate::ReadOptions { json_split: split.map(str::to_owned), ..options("64MB") };
    assert_eq!(files.all(&options).await.unwrap().column("text"), expected);
}

#[rstest]
#[case("a.jsonl", b"\xef\xbb\xbf{\"text\": \"a\"}\n")]
#[case("a.csv", b"\xef\xbb\xbftext\na\n")]
#[case("a.csv", b"\xef\xbb\xbftext\r\na")]
#[tokio::test]
async fn byte_order_marks_are_no_text(#[case] name: &str, #[case] content: &[u8]) {
    let files = Files::of(&[(name, content.to_vec())]).await;
    assert_eq!(files.all(&options("64MB")).await.unwrap().column("text"), ["a"]);
}

#[rstest]
#[case(Compression::Gzip, "a.jsonl.gz")]
#[case(Compression::Zstd, "a.jsonl.zst")]
#[tokio::test]
async fn several_members_are_one_file(#[case] compression: Compression, #[case] name: &str) {
    let members =
        [b"{\"text\": \"a\"}\n{\"te".as_slice(), b"xt\": \"b\"}\n"].map(|member| compress(member, compression));
    let files = Files::of(&[(name, members.concat())]).await;
    assert_eq!(files.all(&options("64MB")).await.unwrap().column("text"), ["a", "b"]);
}

/// Everything that is not text comes out as it went in.
#[tokio::test]
async fn other_columns_are_untouched() {
    use arrow_array::types::Int8Type;
    use arrow_array::{
        ArrayRef, BinaryArray, Decimal128Array, DictionaryArray, ListArray, StructArray, TimestampMicrosecondArray,
    };
    let words: DictionaryArray<Int8Type> = ["x", "y", "x"].into_iter().collect();
    let blob = BinaryArray::from_vec(vec![b"\xff\x00", b"", b"z"]);
    let decimal = Decimal128Array::from(vec![1, -2, 3]).with_precision_and_scale(20, 3).unwrap();
    let list = ListArray::from_iter_primitive::<arrow_array::types::Float32Type, _, _>(vec![
        Some(vec![Some(1.0), None]),
        None,
        Some(vec![]),
    ]);
    let time = TimestampMicrosecondArray::from(vec![Some(1), None, Some(3)]).with_timezone("UTC");
    let nested =
        StructArray::try_from(vec![("url", Arc::new(StringArray::from(vec!["u", "v", "w"])) as ArrayRef)]).unwrap();
    let batch = RecordBatch::try_from_iter([
        ("text", Arc::new(StringArray::from(vec![Some("a"), None, Some("")])) as ArrayRef),
        ("id", Arc::new(StringArray::from(vec!["1", "2", "3"])) as _),
        ("words", Arc::new(words) as _),
        ("blob", Arc::new(blob) as _),
        ("decimal", Arc::new(decimal) as _),
        ("list", Arc::new(list) as _),
        ("time", Arc::new(time) as _),
        ("nested", Arc::new(nested) as _),
    ])
    .unwrap();
    for (name, content) in [
        ("a.parquet", parquet(&[batch.clone()], 100)),
        ("a.arrow", ipc_file(&[batch.clone()])),
        ("a.feather", ipc_stream(&[batch.clone()])),
    ] {
        let rows = Files::of(&[(name, content)]).await.all(&options("64MB")).await.unwrap();
        assert_eq!(rows.batches[0].columns(), batch.columns(), "{name}");
    }
}
