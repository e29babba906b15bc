//! Tables in and out: ranked rows in the hops form, and columns of all types.

use std::io::Cursor;
use std::sync::Arc;

use arrow_array::{Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, Schema};

use super::*;

fn scored(rows: &[(i64, &str, Option<[f32; 3]>)]) -> RecordBatch {
    let queries = ["one", "two", "three"].map(str::to_owned);
    let valid: NullBuffer = rows.iter().map(|row| row.2.is_some()).collect::<Vec<bool>>().into();
    let values = rows.iter().flat_map(|row| row.2.unwrap_or_default()).collect();
    let scores = crate::scores::column(3, values, Some(valid)).unwrap();
    let fields = vec![
        Field::new("uid", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        crate::scores::field("influence", &queries).unwrap(),
    ];
    let uids = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let texts = StringArray::from_iter_values(rows.iter().map(|row| row.1));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(uids), Arc::new(texts), Arc::new(scores)])
        .unwrap()
}

#[test]
fn hops_rows_are_the_original_ones_with_scores_in_order() {
    let functions = ["<FN>", "<IN>", "<FN>"].map(str::to_owned);
    let form = HopsForm::new("influence", &functions).unwrap();
    assert_eq!(form.keys(), ["f_influence_score", "i_influence_score"]);
    let mut ranking = HopsRanking::new(form, Cursor::new(Vec::new()));
    // Rows 0 and 3 tie, row 1 has no scores; batches are cut anywhere.
    let rows = [
        (7, "a \"b\"\nc}", Some([1.0, 2.0, 3.0])),
        (7, "none", None),
        (8, "high", Some([4.0, 8.0, 4.0])),
        (9, "tie", Some([2.0, 2.0, 2.0])),
        (10, "low", Some([-1.0, -1.0, 0.0])),
    ];
    for piece in [&rows[..0], &rows[..2], &rows[2..]] {
        ranking.add(&scored(piece), "influence", None).unwrap();
    }
    let mut output = Vec::new();
    assert_eq!(ranking.finish(&mut output).unwrap(), 5);
    let text = String::from_utf8(output).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        text.lines().next().unwrap(),
        r#"{"uid":8,"text":"high","f_influence_score":4.0,"i_influence_score":8.0,"combined_influence_score":6.0,"original_index":2}"#
    );
    let indices: Vec<u64> = lines.iter().map(|line| line["original_index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [2, 0, 3, 4, 1]);
    assert_eq!(
        (&lines[1]["text"], &lines[1]["combined_influence_score"]),
        (&Value::from("a \"b\"\nc}"), &Value::from(2.0))
    );
    assert_eq!(lines[3]["f_influence_score"], -0.5);
    assert_eq!(lines[4]["combined_influence_score"], Value::Null);
}

#[test]
fn hops_positions_may_come_from_a_column() {
    let form = HopsForm::new("bm25", &["a".to_owned(), "b".to_owned(), "c d".to_owned()]).unwrap();
    let mut ranking = HopsRanking::new(form, Cursor::new(Vec::new()));
    let rows = [(9, "later", Some([1.0, 1.0, 1.0])), (3, "earlier", Some([1.0, 1.0, 1.0]))];
    ranking.add(&scored(&rows), "influence", Some("uid")).unwrap();
    let mut output = Vec::new();
    ranking.finish(&mut output).unwrap();
    let text = String::from_utf8(output).unwrap();
    assert!(
        text.starts_with(r#"{"uid":3,"text":"earlier","a_bm25_score":1.0,"b_bm25_score":1.0,"c_d_bm25_score":1.0,"#),
        "{text}"
    );
    assert!(text.ends_with("\"original_index\":9}\n"), "{text}");
}

#[test]
fn hops_refuses_what_it_cannot_rank() {
    for (functions, says) in [
        (&[][..], "no queries"),
        (&["<FN>", "f"], "'<FN>' and 'f' both give the key 'f_x_score'"),
        (&["combined"], "'combined' gives the key"),
        (&["<>"], "'<>' gives the key '_x_score'"),
    ] {
        let functions: Vec<String> = functions.iter().map(|name| (*name).to_owned()).collect();
        let message = HopsForm::new("x", &functions).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let form = || HopsForm::new("x", &["a".to_owned(), "b".to_owned(), "c".to_owned()]).unwrap();
    let message = |batch: &RecordBatch, by: &str, index: Option<&str>| {
        HopsRanking::new(form(), Cursor::new(Vec::new())).add(batch, by, index).unwrap_err().to_string()
    };
    let rows = [(1, "a", Some([1.0, 1.0, 1.0])), (-1, "b", Some([1.0, f32::INFINITY, 1.0]))];
    let batch = scored(&rows);
    assert!(message(&batch, "influenze", None).contains("no column 'influenze', did you mean 'influence'?"));
    assert!(message(&batch, "text", None).contains("column 'text' has type Utf8, expected scores"));
    assert!(message(&batch, "uid", None).contains("row 0: column 'uid': 1 scores; there are 3 queries"));
    assert!(message(&batch, "influence", None).contains("row 1: column 'influence': score inf for query 1"));
    assert!(
        message(&batch, "influence", Some("uid")).contains("row 1: column 'uid': -1; a whole number of at least 0")
    );
    let taken = RecordBatch::try_from_iter([("a_x_score", Arc::new(Float32Array::from(vec![1.0])) as _)]).unwrap();
    assert!(message(&taken, "a_x_score", None).contains("already has a column 'a_x_score'"));
}

#[test]
fn columns_are_read_whatever_their_types() {
    let lines = r#"{"n": 1, "f": 0.5, "s": "x", "b": true, "l": [0, 2], "v": [1.5, 2]}
{"n": null, "f": 2, "s": null, "b": false, "l": [1], "v": null}
"#;
    let schema = arrow_json::reader::infer_json_schema(Cursor::new(lines), None).unwrap().0;
    let mut reader = arrow_json::ReaderBuilder::new(Arc::new(schema)).build(Cursor::new(lines)).unwrap();
    let batch = reader.next().unwrap().unwrap();
    assert_eq!(columns::numbers(&batch, "n", 0).unwrap(), [Some(1.0), None]);
    assert_eq!(columns::numbers(&batch, "f", 0).unwrap(), [Some(0.5), Some(2.0)]);
    assert!(
        columns::numbers(&batch, "s", 0)
            .unwrap_err()
            .to_string()
            .contains("column 's' has type Utf8, expected numbers")
    );
    assert_eq!(columns::names(&batch, "n").unwrap(), [Some("1".to_owned()), None]);
    assert_eq!(columns::names(&batch, "s").unwrap(), [Some("x".to_owned()), None]);
    assert_eq!(columns::names(&batch, "b").unwrap()[1].as_deref(), Some("false"));
    assert!(columns::names(&batch, "f").unwrap_err().to_string().contains("expected text or whole numbers"));
    assert_eq!(columns::position_lists(&batch, "l", 0).unwrap(), [vec![0, 2], vec![1]]);
    assert!(
        columns::position_lists(&batch, "v", 5)
            .unwrap_err()
            .to_string()
            .contains("row 5: column 'v': 1.5; a list of whole")
    );
    assert!(columns::position_lists(&batch, "s", 0).is_err());
    assert_eq!(columns::query_names(&batch, "v").unwrap(), ["0", "1"]);
    assert_eq!(columns::query_names(&batch, "f").unwrap(), ["f"]);
    assert!(columns::query_names(&batch, "s").is_err());
    assert!(columns::score_columns(batch.schema_ref()).is_empty());
    let mut seen = Vec::new();
    columns::each_scores(&batch, "v", 3, |row, scores| {
        seen.push((row, scores.map(<[f32]>::to_vec)));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [(3, Some(vec![1.5, 2.0])), (4, None)]);
    // A slice of a column of scores reads its own rows.
    let batch = scored(&[(1, "a", Some([1.0, 2.0, 3.0])), (2, "b", Some([4.0, 5.0, 6.0]))]).slice(1, 1);
    assert_eq!(columns::score_columns(batch.schema_ref()), ["influence"]);
    assert_eq!(columns::query_names(&batch, "influence").unwrap(), ["one", "two", "three"]);
    columns::each_scores(&batch, "influence", 0, |row, scores| {
        assert_eq!((row, scores), (0, Some(&[4.0, 5.0, 6.0][..])));
        Ok(())
    })
    .unwrap();
}
