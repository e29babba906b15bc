//! One operator, four hosts, the same rows: direct call, SQL function, plan node (also after its serialised form), pipeline.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use gristmill::operators::{OperatorSpec, RowEffect, apply, conformance};
use gristmill::pipelines::run::{self, Mill, SplitExec, WorkItem, work_list};
use gristmill::pipelines::{Environment, OperatorCodec, OperatorExec, PipelineFile, StepSpec, operator_functions};
use serde_json::json;

use crate::support::{TERMS, Workspace, lines, parts, pipeline};

fn specs(workspace: &Workspace) -> Vec<OperatorSpec> {
    let terms = workspace.write("terms.txt", "fox\ndog\nwissen\n知识\n");
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/tokenizer.json");
    let model = |name: &str| format!("{}/tests/fixtures/models/{name}", env!("CARGO_MANIFEST_DIR"));
    vec![
        OperatorSpec::new("blocklist", json!({"terms": terms})),
        OperatorSpec::new("count_tokens", json!({"tokenizer": tokenizer})),
        OperatorSpec::new("tokenize", json!({"tokenizer": tokenizer})),
        OperatorSpec::new("classify", json!({"model": model("bert-classifier"), "context_length": 64})),
        OperatorSpec::new(
            "fasttext",
            json!({"model": concat!(env!("CARGO_MANIFEST_DIR"), "/operators/src/fasttext/testdata/hs.bin"), "label": "en", "top": 2}),
        ),
        OperatorSpec::new("embed", json!({"model": model("modernbert-classifier")})),
        OperatorSpec::new("perplexity", json!({"model": model("llama")})),
        OperatorSpec::new("next_token", json!({"model": model("llama"), "top": 2})),
        OperatorSpec::new(
            "generate",
            json!({"model": model("llama"), "chat": false, "max_characters": 40, "max_tokens": 3}),
        ),
        OperatorSpec::new("derive", json!({"n": "character_length(text)"})),
        OperatorSpec::new("filter", json!({"keep": "id % 2 = 0"})),
        OperatorSpec::new("select", json!({"columns": ["id", "upper(text) AS shout"]})),
        OperatorSpec::new("sample", json!({"fraction": 0.5})),
    ]
}

fn round_trip(plan: Arc<dyn ExecutionPlan>, context: &TaskContext) -> Arc<dyn ExecutionPlan> {
    let codec = OperatorCodec::new(Environment::local());
    let bytes = physical_plan_to_bytes_with_extension_codec(plan, &codec).unwrap();
    physical_plan_from_bytes_with_extension_codec(&bytes, context, &codec).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operator_gives_the_same_rows_in_every_host() {
    let workspace = Workspace::new();
    let environment = Environment::local();
    let table = conformance::text_batch();
    for spec in specs(&workspace) {
        let operator = environment.registry.bind(&spec, &table.schema(), &environment.resources).unwrap();
        let direct = apply(operator.as_ref(), [table.clone()]).unwrap();
        let expected = conformance::rows_as_json(&direct.batches);
        assert!(!expected.is_empty(), "{}", spec.kind);

        let context = SessionContext::new();
        context.register_batch("t", table.clone()).unwrap();
        let scan = context.sql("SELECT * FROM t").await.unwrap().create_physical_plan().await.unwrap();
        let step = StepSpec { operator: spec.clone(), when: None };
        let node: Arc<dyn ExecutionPlan> = Arc::new(OperatorExec::try_new(step, scan, environment.clone()).unwrap());
        let hosted = collect(Arc::clone(&node), context.task_ctx()).await.unwrap();
        assert_eq!(conformance::rows_as_json(&hosted), expected, "plan node of {}", spec.kind);

        let travelled = round_trip(node, &context.task_ctx());
        let hosted = collect(travelled, context.task_ctx()).await.unwrap();
        assert_eq!(
            conformance::rows_as_json(&hosted),
            expected,
            "plan node of {} after its serialised form",
            spec.kind
        );

        let fields: Vec<Field> =
            operator.inputs().iter().map(|name| table.schema().field_with_name(name).unwrap().clone()).collect();
        let functions = operator_functions(&spec, &fields, &environment);
        if operator.row_effect() != RowEffect::Same {
            assert!(functions.unwrap_err().to_string().contains("changes the rows"), "{}", spec.kind);
            continue;
        }
        let mut calls = Vec::new();
        for function in functions.unwrap() {
            let arguments: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            calls.push(format!("{0}({1}) AS {0}", function.name(), arguments.join(", ")));
            context.register_udf(function);
        }
        let sql = format!("SELECT id, text, label, {} FROM t", calls.join(", "));
        let selected: Vec<RecordBatch> = context.sql(&sql).await.unwrap().collect().await.unwrap();
        assert_eq!(conformance::rows_as_json(&selected), expected, "SQL functions of {}", spec.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_take_any_text_layout_and_constants() {
    let workspace = Workspace::new();
    let environment = Environment::local();
    let context = SessionContext::new();
    let spec = specs(&workspace).remove(0).named("flagged");
    for function in operator_functions(&spec, &[Field::new("text", DataType::Utf8, true)], &environment).unwrap() {
        context.register_udf(function);
    }
    for sql in [
        "SELECT flagged('a fox and a dog')",
        "SELECT flagged(arrow_cast('a fox and a dog', 'Utf8View'))",
        "SELECT flagged(arrow_cast('a fox and a dog', 'LargeUtf8'))",
    ] {
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        let values = conformance::rows_as_json(&batches);
        assert!(values[0].contains("true"), "{sql}: {values:?}");
    }
}

/// The plan that would be sent to workers gives the parts of a local run, also after its serialised form.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_as_a_plan_gives_the_same_parts() {
    let workspace = Workspace::new();
    let terms = workspace.write("terms.txt", TERMS);
    workspace.write("corpus/a.jsonl", lines(0, 950));
    let source = workspace.path("corpus/*.jsonl").display().to_string();
    let text = |sink: &str| {
        pipeline(&source, &workspace.path(sink).display().to_string())
            .replace("terms.txt", &terms.display().to_string())
    };
    let environment = Environment::local();
    let local = PipelineFile::parse("p.yaml", &text("local"), &[] as &[&str]).unwrap();
    run::run(&local, &environment, &run::RunOptions::default(), Arc::new(run::Unobserved)).await.unwrap();

    let planned = PipelineFile::parse("p.yaml", &text("planned"), &[] as &[&str]).unwrap();
    let folder = run::run_folder(&planned, &environment, false).await.unwrap();
    let prepared = run::prepare(&planned, &environment, &folder).await.unwrap();
    let mill = Mill::bind(prepared.spec.clone(), &environment).unwrap();
    mill.folder().open_or_create_plan(&prepared.plan).await.unwrap();
    let items: Vec<WorkItem> = prepared
        .plan
        .splits
        .iter()
        .map(|split| WorkItem { split: split.clone(), file: prepared.plan.files[split.file as usize].clone() })
        .collect();
    assert_eq!(items.len(), 10);
    let node = SplitExec::try_new(prepared.spec.clone(), work_list(&items).unwrap(), environment.clone()).unwrap();
    let context = SessionContext::new();
    let plan = round_trip(Arc::new(node), &context.task_ctx());
    for attempt in 0..2 {
        // The second time every split is committed, and executing it again changes nothing.
        for partition in 0..items.len() {
            let batches =
                datafusion::physical_plan::common::collect(plan.execute(partition, context.task_ctx()).unwrap())
                    .await
                    .unwrap();
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1, "attempt {attempt}");
        }
    }
    mill.folder().finish(&prepared.plan).await.unwrap();
    assert_eq!(parts(&workspace.path("planned")), parts(&workspace.path("local")));
}
