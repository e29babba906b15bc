//! `gristmill plan` and `gristmill validate`.

use arrow_schema::Schema;
use gristmill::datasets::{SourceFile, Split, SplitUnit};
use gristmill::operators::rank::RankShape;
use gristmill::pipelines::run::{self, Estimate, Learning, Mill, Spread};
use gristmill::pipelines::{Chain, Environment, PipelineError, without_credentials};
use serde::Serialize;
use serde_json::{Value, json};

use super::arguments::{PipelineOnly, PlanArguments};
use super::table::{bytes, count, number, seconds, table};
use super::{DONE, load, print_json, print_line};

/// Splits that are shown; the rest is summed up.
const SHOWN_SPLITS: usize = 10;

/// A plan for programs.
#[derive(Serialize)]
struct PlanJson<'a> {
    name: &'a str,
    folder: &'a str,
    fingerprint: &'a str,
    files: &'a [SourceFile],
    splits: &'a [Split],
    steps: Value,
    source_schema: Vec<Value>,
    output_schema: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    learns_first: Option<Value>,
    estimate: Option<&'a Estimate>,
}

pub(super) async fn plan(arguments: PlanArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let file = load(&arguments.pipeline)?;
    let folder = run::run_folder(&file, environment, false).await?;
    // What a step has to learn is a run of its own, which comes first.
    let fit = run::planned_fit(&file, environment, &folder).await?;
    let (prepared, folder, learning) = match fit {
        Some(fit) => (fit.prepared, fit.folder, Some(fit.learning)),
        None => (run::prepare(&file, environment, &folder).await?, folder, None),
    };
    let plan = &prepared.plan;
    let mill = Mill::with_chain(prepared.spec.clone(), prepared.chain.clone(), environment)?;
    let estimate = match arguments.sample {
        0 => None,
        samples => Some(run::estimate(&mill, plan, samples).await?),
    };
    if arguments.json {
        print_json(&PlanJson {
            name: &plan.name,
            folder: &folder,
            fingerprint: &plan.fingerprint.value,
            files: &plan.files,
            splits: &plan.splits,
            steps: without_credentials(json!(prepared.spec.steps)),
            source_schema: columns(prepared.chain.input_schema()),
            output_schema: columns(result_schema(&prepared.output_schema, prepared.ranking.as_ref())),
            learns_first: learning.as_ref().map(learning_json),
            estimate: estimate.as_ref(),
        })?;
        return Ok(DONE);
    }
    if let Some(learning) = &learning {
        print_line(&format!(
            "{}; this is the plan of that, and the rest is planned when it is done\n",
            learns(learning)
        ))?;
    }
    let rows: Vec<Vec<String>> = plan
        .splits
        .iter()
        .take(SHOWN_SPLITS)
        .map(|split| {
            vec![
                split.number.to_string(),
                plan.files[split.file as usize].url.clone(),
                range(split),
                split.rows.map(count).unwrap_or_else(|| "?".to_owned()),
                bytes(split.bytes as f64),
            ]
        })
        .collect();
    print_line(&table(&["split", "file", "range", "rows", "stored"], rows, &[0, 3, 4]).to_string())?;
    if plan.splits.len() > SHOWN_SPLITS {
        print_line(&format!("… and {} more splits", count((plan.splits.len() - SHOWN_SPLITS) as u64)))?;
    }
    print_line(&chain_text(&prepared.chain, &prepared.output_schema, prepared.ranking.as_ref()))?;
    let stored: u64 = plan.splits.iter().map(|split| split.bytes).sum();
    print_line(&format!(
        "\n{}, {}, {} stored -> {folder}\nfingerprint {}",
        number(plan.files.len() as u64, "file"),
        number(plan.total(), "split"),
        bytes(stored as f64),
        plan.fingerprint.value
    ))?;
    if let Some(estimate) = estimate {
        print_line(&estimate_text(&estimate, prepared.ranking.is_none() && learning.is_none()))?;
    }
    Ok(DONE)
}

pub(super) async fn validate(arguments: PipelineOnly, environment: &Environment) -> Result<u8, PipelineError> {
    let file = load(&arguments.pipeline)?;
    run::run_folder(&file, environment, false).await?;
    let valid = run::validate(&file, environment).await?;
    if arguments.json {
        let value = json!({
            "valid": true,
            "files": valid.files.len(),
            "source_schema": columns(&valid.schema),
            "output_schema": columns(result_schema(&valid.output_schema, valid.ranking.as_ref())),
            "learns_first": valid.learning.as_ref().map(learning_json),
        });
        print_json(&value)?;
        return Ok(DONE);
    }
    print_line(&chain_text(&valid.chain, &valid.output_schema, valid.ranking.as_ref()))?;
    if let Some(learning) = &valid.learning {
        print_line(&format!("\n{}; that step and those behind it are checked when it is done", learns(learning)))?;
    }
    print_line(&format!("\n{} is valid: {}", file.file(), number(valid.files.len() as u64, "file")))?;
    Ok(DONE)
}

/// What of its file a split covers.
fn range(split: &Split) -> String {
    let rows = match (split.skip, split.take) {
        (0, None) => String::new(),
        (skip, None) => format!(", from row {}", count(skip)),
        (skip, Some(take)) => format!(", rows {}..{}", count(skip), count(skip + take)),
    };
    let range = match split.unit {
        SplitUnit::File => "whole file".to_owned(),
        SplitUnit::RowGroups if split.end == split.start + 1 => format!("row group {}", split.start),
        SplitUnit::RowGroups => format!("row groups {}..{}", split.start, split.end),
        SplitUnit::Bytes => format!("bytes {}..{}", count(split.start), count(split.end)),
    };
    format!("{range}{rows}")
}

pub(super) fn columns(schema: &Schema) -> Vec<Value> {
    let fields = schema.fields().iter();
    fields.map(|field| json!({"name": field.name(), "type": field.data_type().to_string()})).collect()
}

/// The schema of what a run gives: of its ranking, or of its parts.
fn result_schema<'a>(parts: &'a Schema, ranking: Option<&'a RankShape>) -> &'a Schema {
    ranking.map_or(parts, |ranking| ranking.ranking_schema())
}

fn learning_json(learning: &Learning) -> Value {
    json!({"step": learning.step, "key": learning.key, "rows": learning.rows})
}

fn learns(learning: &Learning) -> String {
    let Learning { step, key, rows, .. } = learning;
    let of = rows.map_or_else(|| "all rows".to_owned(), |rows| format!("the first {}", number(rows, "row")));
    format!("step '{step}' first learns '{key}' from {of} of the source")
}

fn chain_text(chain: &Chain, output: &Schema, ranking: Option<&RankShape>) -> String {
    let list = |schema: &Schema| {
        let fields = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        fields.collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![format!("source  {}", list(chain.input_schema()))];
    for (position, step) in chain.specs().enumerate() {
        let when = step.when.as_ref().map(|when| format!("  when {when}")).unwrap_or_default();
        let named =
            if step.operator.name == step.operator.kind { String::new() } else { format!(" '{}'", step.operator.name) };
        lines.push(format!(
            "{position:>6}  {}{named} {}{when}",
            step.operator.kind,
            without_credentials(step.operator.config.clone())
        ));
    }
    match ranking {
        Some(ranking) => lines.push(format!(
            "sink    {} for each of {}: {}",
            number(ranking.k() as u64, "row"),
            match ranking.queries().len() {
                1 => "1 query".to_owned(),
                queries => format!("{} queries", count(queries as u64)),
            },
            list(ranking.ranking_schema())
        )),
        None => lines.push(format!("sink    {}", list(output))),
    }
    lines.join("\n")
}

fn estimate_text(estimate: &Estimate, counts_rows: bool) -> String {
    let of = |spread: &Spread, show: &dyn Fn(f64) -> String| {
        if (spread.high - spread.low).abs() < 0.5 {
            return show(spread.mean);
        }
        format!("{} ({} to {})", show(spread.mean), show(spread.low), show(spread.high))
    };
    let rows = |value: f64| count(value.round().max(0.0) as u64);
    // What comes out when a split ends, a sample does not see.
    let out = if counts_rows { format!("\n  rows out    {}", of(&estimate.rows_out, &rows)) } else { String::new() };
    format!(
        "\nestimate from {} of {}:\n  rows in     {}{out}\n  text        {}\n  time        {} of one worker, writing not included",
        number(estimate.rows_sampled, "row"),
        number(estimate.samples as u64, "split"),
        of(&estimate.rows_in, &rows),
        of(&estimate.text_bytes, &bytes),
        of(&estimate.worker_seconds, &seconds),
    )
}
