//! One suite that every operator kind passes, whatever its host.
//!
//! [`check`] binds a kind over a table with awkward text and shows that: empty input works; `Utf8`, `LargeUtf8` and
//! `Utf8View` columns, sliced arrays and any batch boundaries give the same rows; a second pass gives the same rows; the
//! spec survives serialisation; completed configurations are stable; unknown keys are refused; every row is accounted for.
//! It panics with a message at the first thing that does not hold, so it belongs in tests. Embedders run it on their own
//! kinds.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test suite fails by panicking")]

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use serde_json::Value;

use crate::operator::{Operator, OperatorKind, OperatorSpec, RowEffect, apply};
use crate::registry::Registry;
use crate::resources::Resources;

/// The layouts a text column may have.
const LAYOUTS: [&str; 3] = ["utf8", "large_utf8", "utf8_view"];

/// Text of the suite: null, empty, white space, several scripts, combining marks, case that grows when folded, emoji,
/// a long row.
#[must_use]
pub fn texts() -> Vec<Option<String>> {
    let mut texts: Vec<Option<String>> = [
        "the quick brown fox jumps over the lazy dog",
        "",
        " ",
        "Straße İstanbul ΌΣΟΣ ǅ ﬁ",
        "知识就是力量。知识就是力量。",
        "e\u{301}clair naïve cafe\u{301}",
        "👩‍👩‍👧‍👦 🏳️‍🌈 family",
        "tab\tnew\nline\r\nnull-free\u{a0}space",
        "The QUICK Brown FOX",
        "a",
        "fox fox fox dog",
        "Привет, мир! مرحبا بالعالم",
    ]
    .into_iter()
    .map(|text| Some(text.to_owned()))
    .collect();
    texts.insert(3, None);
    texts.push(None);
    texts.push(Some("lorem ipsum dolor fox ".repeat(400)));
    texts
}

/// The suite's table: `id` (Int64), `text` (Utf8, with nulls), `label` (Utf8).
#[must_use]
pub fn text_batch() -> RecordBatch {
    table("utf8")
}

/// Runs the whole suite on one configuration.
pub fn check(kind: &dyn OperatorKind, config: &Value) {
    check_with(kind, config, &Resources::local());
}

/// Like [`check`], with resources of the caller's.
pub fn check_with(kind: &dyn OperatorKind, config: &Value, resources: &Resources) {
    let complete = kind.complete(config).unwrap_or_else(|error| panic!("{}: {error}", kind.name()));
    assert_eq!(kind.complete(&complete).expect("completed twice"), complete, "completing is not idempotent");
    let spec = OperatorSpec {
        kind: kind.name().to_owned(),
        version: kind.version(),
        name: kind.name().to_owned(),
        config: complete.clone(),
    };
    let json = serde_json::to_string(&spec).expect("spec serialises");
    let spec: OperatorSpec = serde_json::from_str(&json).expect("spec deserialises");
    assert_eq!(serde_json::to_string(&spec).expect("spec serialises"), json, "spec round trip");
    assert!(kind.config_schema().get("properties").is_some(), "configuration has no schema");
    assert!(kind.example().contains(kind.name()), "example does not name the kind");
    refuses_unknown_keys(kind, &complete);

    let bind = |batch: &RecordBatch| {
        kind.bind(&spec, &batch.schema(), resources)
            .unwrap_or_else(|error| panic!("{} does not bind: {error}", kind.name()))
    };
    let whole = text_batch();
    let expected = run(bind(&whole).as_ref(), std::slice::from_ref(&whole));
    for layout in LAYOUTS {
        let table = table(layout);
        let operator = bind(&table);
        assert!(
            operator.inputs().iter().all(|input| table.column_by_name(input).is_some()),
            "inputs() names a column that does not exist"
        );
        same(&run(operator.as_ref(), std::slice::from_ref(&table)), &expected, layout);
        same(&run(operator.as_ref(), &batches(&table, 1)), &expected, &format!("{layout}, one row a batch"));
        same(&run(operator.as_ref(), &batches(&table, 4)), &expected, &format!("{layout}, four rows a batch"));
        same(&run(operator.as_ref(), &sliced(&table)), &expected, &format!("{layout}, sliced"));
        let with_empty: Vec<RecordBatch> =
            batches(&table, 5).into_iter().flat_map(|batch| [batch.slice(0, 0), batch]).collect();
        same(&run(operator.as_ref(), &with_empty), &expected, &format!("{layout}, empty batches between"));
        let nothing = run(operator.as_ref(), &[table.slice(0, 0)]);
        assert_eq!(nothing.1, 0, "an empty batch accounts for rows");
        same(&run(operator.as_ref(), &[]), &nothing, &format!("{layout}, no batch at all"));
    }
}

/// Rows of batches as JSON lines of their debug form, for comparing.
#[must_use]
pub fn rows_as_json(batches: &[RecordBatch]) -> Vec<String> {
    batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(|row| render_row(batch, row)).collect::<Vec<_>>())
        .collect()
}

type Rows = (Vec<String>, u64);

fn run(operator: &dyn Operator, batches: &[RecordBatch]) -> Rows {
    let rows_in: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let output = apply(operator, batches.iter().cloned()).unwrap_or_else(|error| panic!("run failed: {error}"));
    for batch in &output.batches {
        assert_eq!(batch.schema_ref(), operator.output_schema(), "a batch does not have the output schema");
    }
    assert_eq!(output.accounted(), rows_in, "rows in are not rows kept + rejected + quarantined");
    match operator.row_effect() {
        RowEffect::Same => {
            assert_eq!(output.rows(), rows_in, "row effect is Same");
            assert_eq!(output.rows_rejected() + output.rows_quarantined(), 0, "row effect is Same");
        }
        RowEffect::Screened => {
            assert_eq!(output.rows() + output.rows_quarantined(), rows_in, "row effect is Screened");
            for quarantined in &output.quarantined {
                let stated = quarantined.positions.len();
                assert_eq!(stated, quarantined.rows.num_rows(), "row effect is Screened, and positions are not stated");
            }
        }
        RowEffect::Fewer => assert_eq!(output.rows(), output.kept, "row effect is Fewer"),
        RowEffect::Any => {}
    }
    let mut rows = rows_as_json(&output.batches);
    for rejected in &output.rejected {
        rows.extend(
            rows_as_json(std::slice::from_ref(&rejected.rows)).iter().map(|row| format!("- {} {row}", rejected.reason)),
        );
    }
    for quarantined in &output.quarantined {
        rows.extend(
            rows_as_json(std::slice::from_ref(&quarantined.rows))
                .iter()
                .map(|row| format!("! {} {row}", quarantined.error)),
        );
    }
    (rows, output.accounted())
}

/// Rejected and quarantined rows come per batch, so they are compared as a set after the kept rows.
fn same(found: &Rows, expected: &Rows, how: &str) {
    let split = |rows: &Rows| {
        let (mut aside, kept): (Vec<String>, Vec<String>) =
            rows.0.iter().cloned().partition(|row| row.starts_with("- ") || row.starts_with("! "));
        aside.sort();
        (kept, aside)
    };
    let ((found, found_aside), (expected, expected_aside)) = (split(found), split(expected));
    for (what, found, expected) in [("kept", found, expected), ("left out", found_aside, expected_aside)] {
        assert_eq!(found.len(), expected.len(), "other rows {what} with {how}");
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                found == expected,
                "row {row} {what} differs with {how}:\n{}\n{}",
                shorten(found),
                shorten(expected)
            );
        }
    }
}

fn shorten(row: &str) -> String {
    row.chars().take(600).collect()
}

fn refuses_unknown_keys(kind: &dyn OperatorKind, config: &Value) {
    let mut config = config.clone();
    if let Some(object) = config.as_object_mut() {
        object.insert("no_such_key".to_owned(), Value::Bool(true));
        let error = kind.complete(&config).expect_err("an unknown key is accepted");
        assert!(error.to_string().contains("no_such_key"), "the error does not name the key: {error}");
    }
}

fn table(layout: &str) -> RecordBatch {
    let texts = texts();
    let ids: Int64Array = (0..i64::try_from(texts.len()).unwrap()).collect();
    let labels: Vec<String> = (0..texts.len()).map(|row| format!("label {}", row % 3)).collect();
    let text: ArrayRef = match layout {
        "utf8" => Arc::new(StringArray::from(texts)),
        "large_utf8" => Arc::new(LargeStringArray::from(texts)),
        _ => Arc::new(StringViewArray::from_iter(texts)),
    };
    RecordBatch::try_from_iter([
        ("id", Arc::new(ids) as ArrayRef),
        ("text", text),
        ("label", Arc::new(StringArray::from(labels)) as ArrayRef),
    ])
    .map(nullable_text)
    .unwrap()
}

fn nullable_text(batch: RecordBatch) -> RecordBatch {
    let fields: Vec<_> = batch
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(field.name() == "text"))
        .collect();
    RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(fields)), batch.columns().to_vec()).unwrap()
}

fn batches(table: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    (0..table.num_rows()).step_by(rows).map(|start| table.slice(start, rows.min(table.num_rows() - start))).collect()
}

/// The same rows as a slice of a longer array, so that offsets do not begin at 0.
fn sliced(table: &RecordBatch) -> Vec<RecordBatch> {
    let twice = arrow_select::concat::concat_batches(table.schema_ref(), [table, table]).unwrap();
    vec![twice.slice(table.num_rows(), table.num_rows())]
}

/// Values only: text layouts must not show.
fn render_row(batch: &RecordBatch, row: usize) -> String {
    let cells: Vec<String> = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| format!("{}={}", field.name(), render(column, row)))
        .collect();
    cells.join(" ")
}

fn render(column: &ArrayRef, row: usize) -> String {
    use arrow_array::cast::AsArray;
    use arrow_schema::DataType;

    if column.is_null(row) {
        return "null".to_owned();
    }
    // Numbers by value: an expression engine may count in wider integers over wider text.
    macro_rules! integers {
        ($($type:ident => $native:ident),*) => {
            match column.data_type() {
                $(DataType::$native => return column.as_primitive::<arrow_array::types::$type>().value(row).to_string(),)*
                _ => {}
            }
        };
    }
    integers!(
        Int8Type => Int8, Int16Type => Int16, Int32Type => Int32, Int64Type => Int64,
        UInt8Type => UInt8, UInt16Type => UInt16, UInt32Type => UInt32, UInt64Type => UInt64
    );
    match column.data_type() {
        DataType::Utf8 => format!("{:?}", column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => format!("{:?}", column.as_string::<i64>().value(row)),
        DataType::Utf8View => format!("{:?}", column.as_string_view().value(row)),
        _ => format!("{:?}", column.slice(row, 1)),
    }
}

/// A registry with one kind, for tests of hosts.
#[must_use]
pub fn registry_of(kind: Arc<dyn OperatorKind>) -> Registry {
    let mut registry = Registry::empty();
    registry.add(kind);
    registry
}
