//! Runs the `tests:` of a pipeline: rows in, rows and rejections out.
//!
//! The rows of a test become a record batch as a JSON source would read them; the text and id columns are added where the
//! test leaves them out. They go through the bound steps by direct call. Only the columns that a test names are compared. What steps learn from
//! a corpus, they learn from the rows of the test.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema_from_iterator;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::Serialize;
use serde_json::{Map, Value};

use gristmill_operators::{OperatorError, Resources, tables};

use crate::chain::{Chain, StepError, StepSpec};
use crate::definition::{PipelineFile, TestDefinition};
use crate::environment::Environment;
use crate::error::{PipelineError, Result};
use crate::run::{Learned, complete_steps, learning_steps, set_learned, step_error};

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestOutcome {
    /// Name of the test.
    pub name: String,
    /// What was not as expected, a line each; empty when the test passed.
    pub differences: Vec<String>,
}

impl TestOutcome {
    /// Whether everything was as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Runs every test of a pipeline file.
pub fn run_tests(file: &PipelineFile, environment: &Environment) -> Result<Vec<TestOutcome>> {
    let steps = complete_steps(file, environment)?;
    file.pipeline()
        .tests
        .iter()
        .enumerate()
        .map(|(index, test)| {
            let batch = rows_of(file, index, test)?;
            let (steps, resources) = learn(file, environment, steps.clone(), &batch)?;
            let chain = bind(file, environment, &steps, &batch, &resources)?;
            run_test(test, &chain, batch)
        })
        .collect()
}

fn bind(
    file: &PipelineFile,
    environment: &Environment,
    steps: &[StepSpec],
    batch: &RecordBatch,
    resources: &Resources,
) -> Result<Chain> {
    Chain::bind(steps, &batch.schema(), &environment.registry, resources)
        .map_err(|StepError { index, name, source }| step_error(file, index, &name, source))
}

/// The steps with what they learn from the rows of a test, and the resources among which that is.
fn learn(
    file: &PipelineFile,
    environment: &Environment,
    mut steps: Vec<StepSpec>,
    batch: &RecordBatch,
) -> Result<(Vec<StepSpec>, Resources)> {
    let mut files = BTreeMap::new();
    let mut resources = environment.resources.clone();
    let mut progress = Learned::default();
    while let Some(learning) = progress.next(file, &environment.registry, &steps)? {
        let failed = |error: OperatorError| step_error(file, learning.index, &learning.step, error);
        let chain = learning_steps(file, &environment.registry, &steps, &learning)?;
        let chain = bind(file, environment, &chain, batch, &resources)?;
        let rows = learning.rows.and_then(|rows| usize::try_from(rows).ok());
        let mut run = chain.start(None)?;
        let mut batches = run.push(batch.slice(0, batch.num_rows().min(rows.unwrap_or(usize::MAX))))?.batches;
        batches.extend(run.finish()?.batches);
        let part = arrow_select::concat::concat_batches(chain.output_schema(), &batches).map_err(engine)?;
        let kind = environment.registry.kind(&learning.spec().kind).map_err(failed)?;
        let combined = kind.combine(learning.spec(), &mut std::iter::once(Ok(part)));
        let bytes = combined.and_then(|combined| tables::write_arrow(&combined)).map_err(failed)?;
        let location = format!("learned/{}-{}.arrow", learning.step, learning.key);
        files.insert(location.clone(), bytes.into());
        resources = environment.resources.clone().over(files.clone());
        set_learned(file, &environment.registry, &mut steps, &learning, &location)?;
    }
    Ok((steps, resources))
}

fn run_test(test: &TestDefinition, chain: &Chain, batch: RecordBatch) -> Result<TestOutcome> {
    let differences = match differences(test, chain, batch) {
        // Rows that a step cannot process are how this test ended, not the end of all tests.
        Err(error @ PipelineError::Operator { .. }) => vec![error.to_string()],
        other => other?,
    };
    Ok(TestOutcome { name: test.name.clone(), differences })
}

fn differences(test: &TestDefinition, chain: &Chain, batch: RecordBatch) -> Result<Vec<String>> {
    let mut run = chain.start(None)?;
    let mut ground = run.push(batch)?;
    let rest = run.finish()?;
    ground.batches.extend(rest.batches);
    ground.rejected.extend(rest.rejected);
    ground.quarantined.extend(rest.quarantined);

    let mut differences = Vec::new();
    if let Some(expected) = &test.expect {
        compare("row", expected, &to_rows(&ground.batches)?, &mut differences);
    }
    if let Some(expected) = &test.rejected {
        let mut found = Vec::new();
        for (step, rejected) in &ground.rejected {
            for mut row in to_rows(std::slice::from_ref(&rejected.rows))? {
                row.insert("_step".to_owned(), chain.step_name(*step).into());
                row.insert("_reason".to_owned(), rejected.reason.clone().into());
                found.push(row);
            }
        }
        compare("rejection", expected, &found, &mut differences);
    }
    for (step, quarantined) in &ground.quarantined {
        let rows = quarantined.rows.num_rows();
        let noun = if rows == 1 { "row" } else { "rows" };
        differences.push(format!("{rows} {noun} quarantined by '{}': {}", chain.step_name(*step), quarantined.error));
    }
    Ok(differences)
}

fn compare(what: &str, expected: &[Map<String, Value>], found: &[Map<String, Value>], differences: &mut Vec<String>) {
    if expected.len() != found.len() {
        differences.push(format!("expected {} {what}s, found {}", expected.len(), found.len()));
        for row in found {
            differences.push(format!("  found {}", Value::Object(row.clone())));
        }
        return;
    }
    for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
        for (column, value) in expected {
            match found.get(column) {
                Some(other) if equal(value, other) => {}
                Some(other) => {
                    differences.push(format!("{what} {index}, column '{column}': expected {value}, found {other}"));
                }
                None => differences.push(format!(
                    "{what} {index}: no column '{column}'; columns: {}",
                    found.keys().cloned().collect::<Vec<_>>().join(", ")
                )),
            }
        }
    }
}

/// Equal as values: 1 and 1.0 are the same number, and of a struct only the named fields count.
fn equal(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Number(left), Value::Number(right)) => {
            left == right
                || left.as_f64().zip(right.as_f64()).is_some_and(|(l, r)| (l - r).abs() <= 1e-9 * l.abs().max(1.0))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.iter().all(|(key, value)| right.get(key).is_some_and(|other| equal(value, other)))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| equal(l, r))
        }
        _ => expected == found,
    }
}

fn to_rows(batches: &[RecordBatch]) -> Result<Vec<Map<String, Value>>> {
    let mut bytes = Vec::new();
    let mut writer = arrow_json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow_json::writer::LineDelimited>(&mut bytes);
    for batch in batches {
        writer.write(batch).map_err(engine)?;
    }
    writer.finish().map_err(engine)?;
    drop(writer);
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).map_err(|error| PipelineError::Engine(error.to_string())))
        .collect()
}

fn rows_of(file: &PipelineFile, index: usize, test: &TestDefinition) -> Result<RecordBatch> {
    let source = &file.pipeline().source;
    let fail =
        |message: String| PipelineError::from(file.error(&format!("tests.{index}.rows"), format!("rows: {message}")));
    let values: Vec<Value> = test.rows.iter().cloned().map(Value::Object).collect();
    let inferred = infer_json_schema_from_iterator(values.iter().map(Ok)).map_err(|error| fail(error.to_string()))?;
    let schema = with_text(&inferred, &source.text);
    let mut decoder =
        ReaderBuilder::new(Arc::clone(&schema)).build_decoder().map_err(|error| fail(error.to_string()))?;
    decoder.serialize(&values).map_err(|error| fail(error.to_string()))?;
    let batch = decoder.flush().map_err(|error| fail(error.to_string()))?;
    let batch = batch.unwrap_or_else(|| RecordBatch::new_empty(schema));
    with_id(batch, &source.id).map_err(|error| fail(error.to_string()))
}

fn with_text(schema: &Schema, text: &str) -> SchemaRef {
    let mut fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Null => field.as_ref().clone().with_data_type(DataType::Utf8),
            _ => field.as_ref().clone(),
        })
        .collect();
    if schema.column_with_name(text).is_none() {
        fields.push(Field::new(text, DataType::Utf8, true));
    }
    Arc::new(Schema::new(fields))
}

fn with_id(batch: RecordBatch, id: &str) -> Result<RecordBatch, arrow_schema::ArrowError> {
    if batch.column_by_name(id).is_some() {
        return Ok(batch);
    }
    let mut fields = vec![Arc::new(Field::new(id, DataType::UInt64, false))];
    fields.extend(batch.schema().fields().iter().map(Arc::clone));
    let mut columns: Vec<arrow_array::ArrayRef> =
        vec![Arc::new(UInt64Array::from_iter_values(0..batch.num_rows() as u64))];
    columns.extend(batch.columns().iter().map(Arc::clone));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn engine(error: arrow_schema::ArrowError) -> PipelineError {
    PipelineError::Engine(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn outcomes(tests: &str) -> Vec<TestOutcome> {
        let text = format!(
            "source: {{path: unread.jsonl}}\nsteps:\n  - derive: {{n: character_length(text)}}\n  - filter: {{keep: n > 2, reason: short}}\nsink: {{parquet: {{path: out}}}}\ntests:\n{tests}"
        );
        let file = PipelineFile::parse("p.yaml", &text, &[] as &[&str]).unwrap();
        run_tests(&file, &Environment::local()).unwrap()
    }

    #[test]
    fn tests_pass_and_fail() {
        let passing = outcomes(
            "  - name: a\n    rows: [{text: abcd}, {text: a, id: 7}, {}]\n    expect: [{text: abcd, n: 4}]\n    rejected: [{id: 7, _reason: short, _step: filter}, {n: null}]\n",
        );
        assert_eq!(passing[0].differences, [] as [&str; 0]);
        let failing = outcomes(
            "  - {name: value, rows: [{text: abcd}], expect: [{n: 5}]}\n  - {name: count, rows: [{text: abcd}], expect: []}\n  - {name: column, rows: [{text: abcd}], expect: [{m: 1}]}\n",
        );
        let lines: Vec<&str> = failing.iter().map(|outcome| outcome.differences[0].as_str()).collect();
        assert_eq!(lines[0], "row 0, column 'n': expected 5, found 4");
        assert_eq!(lines[1], "expected 0 rows, found 1");
        assert!(lines[2].contains("no column 'm'"), "{}", lines[2]);
    }

    #[test]
    fn rows_that_a_step_cannot_process_fail_their_test_alone() {
        let text = "source: {path: unread.jsonl}\nsteps: [derive: {n: CAST(text AS INT)}]\nsink: {parquet: {path: out}}\ntests:\n  - {name: word, rows: [{text: many}], expect: []}\n  - {name: number, rows: [{text: '7'}], expect: [{n: 7}]}\n";
        let file = PipelineFile::parse("p.yaml", text, &[] as &[&str]).unwrap();
        let outcomes = run_tests(&file, &Environment::local()).unwrap();
        assert!(outcomes[0].differences[0].contains("Cannot cast string 'many'"), "{outcomes:?}");
        assert!(outcomes[1].passed(), "{outcomes:?}");
    }
}
