//! A whole pipeline from Rust, with an operator kind of the program's own.

use std::sync::Arc;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use gristmill::operators::{
    Operator, OperatorKind, OperatorSpec, Output, Pass, Resources, Result, RowEffect, TextColumn, config,
};
use gristmill::pipelines::{Environment, PipelineFile, run};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Counts the lines of a text.
#[derive(Debug)]
struct CountLines;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CountLinesConfig {
    /// Column that holds the text.
    #[serde(default = "text")]
    column: String,
}

fn text() -> String {
    "text".to_owned()
}

impl OperatorKind for CountLines {
    fn name(&self) -> &'static str {
        "count_lines"
    }

    fn summary(&self) -> &'static str {
        "count the lines of a text"
    }

    fn example(&self) -> &'static str {
        "count_lines: {name: lines}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<CountLinesConfig>()
    }

    fn complete(&self, value: &Value) -> Result<Value> {
        config::complete::<CountLinesConfig>(self.name(), value)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _: &Resources) -> Result<Arc<dyn Operator>> {
        let CountLinesConfig { column } = config::parse(self.name(), &spec.config)?;
        TextColumn::check(self.name(), input, &column)?;
        let mut fields = input.fields().to_vec();
        fields.push(Arc::new(Field::new(&spec.name, DataType::UInt64, true)));
        Ok(Arc::new(BoundCountLines { spec: spec.clone(), column, schema: Arc::new(Schema::new(fields)) }))
    }
}

#[derive(Clone, Debug)]
struct BoundCountLines {
    spec: OperatorSpec,
    column: String,
    schema: SchemaRef,
}

impl Operator for BoundCountLines {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(self.clone()))
    }
}

impl Pass for BoundCountLines {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let texts = TextColumn::of("count_lines", batch, &self.column)?;
        let lines: UInt64Array = texts.iter().map(|text| text.map(|text| text.lines().count() as u64)).collect();
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(lines));
        output.keep(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // The suite that every operator of gristmill passes: any string layout, any batch boundaries, nulls, slices.
    gristmill::operators::conformance::check(&CountLines, &json!({}));

    let file = PipelineFile::from_value(json!({
        "name": "lines",
        "source": {"path": "examples/data/corpus.jsonl.gz"},
        "steps": [{"count_lines": {"name": "lines"}}, {"filter": {"keep": "lines > 0"}}],
        "sink": {"parquet": {"path": "out/lines", "sidecar": true}},
    }))?;
    let environment = Environment::standard()?.with_operator(Arc::new(CountLines));
    let report = run::run(&file, &environment, &run::RunOptions::default(), Arc::new(run::Unobserved)).await?;
    println!("{} of {} rows kept, in {}", report.rows_out, report.rows_in, report.folder);
    Ok(())
}
