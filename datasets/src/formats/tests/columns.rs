//! Which columns come out, and of what type.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field};
use rstest::rstest;

use super::support::{Files, ipc_file, options, parquet};
use crate::{DatasetError, ReadOptions};

fn names(columns: &[&str]) -> Option<Vec<String>> {
    Some(columns.iter().map(|name| (*name).to_owned()).collect())
}

/// Three rows with a struct, the second of which is null.
fn nested() -> RecordBatch {
    let urls: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("hidden"), None]));
    let sizes: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let fields = vec![Field::new("url", DataType::Utf8, true), Field::new("size", DataType::Int64, true)];
    let nulls = NullBuffer::from(vec![true, false, true]);
    let meta = StructArray::try_new(fields.into(), vec![urls, sizes], Some(nulls)).unwrap();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![10, 11, 12]));
    RecordBatch::try_from_iter([("id", ids), ("text", texts), ("meta", Arc::new(meta) as ArrayRef)]).unwrap()
}

const NESTED_LINES: &str = "{\"id\": 10, \"text\": \"x\", \"meta\": {\"url\": \"a\", \"size\": 1}}\n\
                            {\"id\": 11, \"text\": \"y\", \"meta\": null}\n\
                            {\"id\": 12, \"text\": \"z\", \"meta\": {\"size\": 3}, \"more\": 1}\n";

#[rstest]
#[case("a.parquet", parquet(&[nested()], 2))]
#[case("a.arrow", ipc_file(&[nested()]))]
#[case("a.jsonl", NESTED_LINES.into())]
#[tokio::test]
async fn a_path_selects_a_nested_field(#[case] name: &str, #[case] content: Vec<u8>) {
    let files = Files::of(&[(name, content)]).await;
    let select = |columns: &[&str]| ReadOptions { columns: names(columns), ..options("64MB") };
    let rows = files.all(&select(&["meta.url", "text"])).await.unwrap();
    let schema = rows.batches[0].schema();
    assert_eq!(
        schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["id", "meta.url", "text"]
    );
    assert_eq!(rows.column("meta.url"), ["a", "-", "-"], "what is in a null struct is null");
    assert_eq!(rows.column("id"), ["10", "11", "12"]);
    let rows = files.all(&select(&["meta", "meta.size"])).await.unwrap();
    assert_eq!(rows.column("meta.size"), ["1", "-", "3"]);
    let meta = rows.batches[0].column_by_name("meta").unwrap();
    assert_eq!(meta.as_struct().column_by_name("size").unwrap().len(), rows.batches[0].num_rows());
    // The text itself may be inside of a struct, and everything else still comes along.
    let inner = ReadOptions { text: "meta.url".into(), ..options("64MB") };
    let rows = files.all(&inner).await.unwrap();
    assert_eq!(rows.column("meta.url"), ["a", "-", "-"]);
    assert!(rows.batches[0].column_by_name("meta").is_some());
    let error = files.plan(&select(&["meta.ulr"])).await.unwrap_err();
    assert!(matches!(&error, DatasetError::MissingColumn { nearest: Some(near), .. } if near == "meta.url"), "{error}");
}

#[rstest]
#[case("txet", Some("text"))]
#[case("Text", Some("text"))]
#[case("qqqq", None)]
#[tokio::test]
async fn a_misspelt_column_is_named(#[case] text: &str, #[case] near: Option<&str>) {
    for (name, content) in [("a.parquet", parquet(&[nested()], 10)), ("a.jsonl", NESTED_LINES.into())] {
        let files = Files::of(&[(name, content)]).await;
        let error = files.plan(&ReadOptions { text: text.into(), ..options("64MB") }).await.unwrap_err();
        let DatasetError::MissingColumn { column, nearest, available } = error else { panic!("{error:?}") };
        assert_eq!((column.as_str(), nearest.as_deref()), (text, near));
        assert!(available.contains(&"text".to_owned()));
    }
}

#[tokio::test]
async fn text_must_be_strings() {
    let files = Files::of(&[("a.parquet", parquet(&[nested()], 10))]).await;
    let error = files.plan(&ReadOptions { text: "meta".into(), ..options("64MB") }).await.unwrap_err();
    assert!(matches!(&error, DatasetError::Setting { key, .. } if key == "text"), "{error}");
}

#[tokio::test]
async fn files_are_read_with_one_schema() {
    let narrow = RecordBatch::try_from_iter([
        ("text", Arc::new(StringArray::from(vec!["p"])) as ArrayRef),
        ("n", Arc::new(Int32Array::from(vec![1])) as _),
    ])
    .unwrap();
    let files = Files::of(&[
        ("a.parquet", parquet(&[narrow], 10)),
        ("b.jsonl", b"{\"text\": \"q\", \"n\": 3000000000, \"extra\": true}\n{\"text\": null, \"id\": 5}\n".to_vec()),
        ("c.csv", b"n,text\n7,r\n".to_vec()),
    ])
    .await;
    let rows = files.all(&options("64MB")).await.unwrap();
    assert_eq!(rows.column("text"), ["p", "q", "-", "r"]);
    assert_eq!(rows.column("n"), ["1", "3000000000", "-", "7"]);
    assert_eq!(rows.column("extra"), ["-", "true", "-", "-"]);
    // A file has ids, so the rows without are null and not counted.
    assert_eq!(rows.column("id"), ["-", "-", "5", "-"]);
    assert!(rows.batches.iter().all(|batch| batch.schema() == rows.batches[0].schema()));
    assert_eq!(rows.batches[0].schema().field_with_name("n").unwrap().data_type(), &DataType::Int64);
}

#[tokio::test]
async fn files_that_do_not_fit_together_are_named() {
    let words = RecordBatch::try_from_iter([
        ("text", Arc::new(StringArray::from(vec!["p"])) as ArrayRef),
        ("n", Arc::new(StringArray::from(vec!["one"])) as _),
    ])
    .unwrap();
    let files =
        Files::of(&[("a.jsonl", b"{\"text\": \"q\", \"n\": 3}\n".to_vec()), ("b.parquet", parquet(&[words], 10))])
            .await;
    let error = files.plan(&options("64MB")).await.unwrap_err();
    assert!(
        matches!(&error, DatasetError::Malformed { location, message }
        if location.ends_with("b.parquet") && message.contains("'n'") && message.contains("Utf8") && message.contains("Int64")),
        "{error}"
    );
    // Left out, it does no harm.
    let rows = files.all(&ReadOptions { columns: names(&["text"]), ..options("64MB") }).await.unwrap();
    assert_eq!(rows.column("text"), ["q", "p"]);
}

#[tokio::test]
async fn rows_that_differ_in_type_are_named() {
    let files =
        Files::of(&[("a.jsonl", b"{\"text\": \"q\", \"n\": 3}\n{\"text\": \"q\", \"n\": \"x\"}\n".to_vec())]).await;
    let error = files.plan(&options("64MB")).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(&error, DatasetError::Malformed { location, .. } if location.ends_with("a.jsonl")), "{error:?}");
    assert!(message.contains("column 'n' is an integer in one row and a string in another"), "{message}");
    assert!(message.contains("the one at byte 22: \"x\"; all rows need one type"), "{message}");
    assert!(message.contains("'columns' to leave it out"), "{message}");
    let ids = Files::of(&[("a.jsonl", b"{\"id\": 1}\n{\"id\": \"x\"}\n".to_vec())]).await;
    let message = ids.plan(&options("64MB")).await.unwrap_err().to_string();
    assert!(message.contains("column 'id'") && message.contains("name another column with 'id'"), "{message}");
    let rows = files.all(&ReadOptions { columns: names(&["text"]), ..options("64MB") }).await.unwrap();
    assert_eq!(rows.count(), 2);
}

#[rstest]
#[case(&[])]
#[case(&[("a.jsonl", b"" as &[u8])])]
#[case(&[("a.csv", b"" as &[u8]), ("b.jsonl", b"\n\n")])]
#[case(&[("a.csv", b"text\n" as &[u8])])]
#[tokio::test]
async fn no_rows_are_no_error(#[case] contents: &[(&str, &[u8])]) {
    let contents: Vec<(&str, Vec<u8>)> = contents.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect();
    let files = Files::of(&contents).await;
    let plan = files.plan(&options("64MB")).await.unwrap();
    assert!(plan.schema.field_with_name("text").is_ok());
    assert_eq!(files.all(&options("64MB")).await.unwrap().count(), 0);
}

#[tokio::test]
async fn provenance_does_not_hide_a_column() {
    let files = Files::of(&[("a.jsonl", b"{\"text\": \"q\", \"_row\": 3}\n".to_vec())]).await;
    let error = files.plan(&ReadOptions { provenance: true, ..options("64MB") }).await.unwrap_err();
    assert!(matches!(&error, DatasetError::Setting { key, .. } if key == "provenance"), "{error}");
}
