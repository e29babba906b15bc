//! How much memory and time a ranking takes: synthetic scores of many rows for many queries, through a whole run with the sink `rank`.
//!
//! ```text
//! rank_scale FOLDER [ROWS [QUERIES [K [WORKERS]]]]
//! ```
//!
//! A corpus of so many rows is written to FOLDER (an id and a short text each), a step adds scores that are made of row and query by a hash, and the sink
//! keeps the best k rows of each query. Printed are the time, the largest memory that the process ever held (Linux), and whether the ranking
//! has what sorting the scores of some queries gives.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{Schema, SchemaRef};
use gristmill_operators::{
    Operator, OperatorKind, OperatorSpec, Output, Pass, Resources, Result, RowEffect, config, scores,
};
use gristmill_pipelines::run::{self, RunOptions, Unobserved};
use gristmill_pipelines::{Environment, PipelineFile};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Adds scores that look random.
#[derive(Debug)]
struct HashedScores;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HashedScoresConfig {
    queries: usize,
}

/// A score of a row and a query: 24 bits of a hash (the finaliser of SplitMix64), so that none is equal to many others.
fn score(row: u64, query: u64) -> f32 {
    let mut hash = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ query.wrapping_mul(0xd1b5_4a32_d192_ed03);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((hash ^ (hash >> 31)) >> 40) as f32
}

impl OperatorKind for HashedScores {
    fn name(&self) -> &'static str {
        "hashed_scores"
    }

    fn summary(&self) -> &'static str {
        "add scores that look random"
    }

    fn example(&self) -> &'static str {
        "hashed_scores: {queries: 1000}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<HashedScoresConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<HashedScoresConfig>(self.name(), config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _: &Resources) -> Result<Arc<dyn Operator>> {
        let HashedScoresConfig { queries } = config::parse(self.name(), &spec.config)?;
        let names: Vec<String> = (0..queries).map(|query| format!("query {query}")).collect();
        let mut fields = input.fields().to_vec();
        fields.push(Arc::new(scores::field(&spec.name, &names)?));
        Ok(Arc::new(BoundScores { spec: spec.clone(), queries, schema: Arc::new(Schema::new(fields)) }))
    }
}

#[derive(Clone, Debug)]
struct BoundScores {
    spec: OperatorSpec,
    queries: usize,
    schema: SchemaRef,
}

impl Operator for BoundScores {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec!["id".to_owned()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(self.clone()))
    }
}

impl Pass for BoundScores {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let mut values = Vec::with_capacity(batch.num_rows() * self.queries);
        for row in batch["id"].as_primitive::<UInt64Type>().values() {
            values.extend((0..self.queries as u64).map(|query| score(*row, query)));
        }
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(scores::column(self.queries, values, None)?));
        output.keep(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(())
    }
}

type Failure = Box<dyn std::error::Error>;

fn write_corpus(path: &Path, rows: u64) -> std::result::Result<(), Failure> {
    let batch = |first: u64, rows: u64| -> std::result::Result<RecordBatch, Failure> {
        let ids = UInt64Array::from_iter_values(first..first + rows);
        let texts = (first..first + rows).map(|row| format!("The text of row {row}, which is {}.", "long ".repeat(40)));
        let texts = StringArray::from_iter_values(texts);
        Ok(RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("text", Arc::new(texts) as ArrayRef)])?)
    };
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path)?, batch(0, 0)?.schema(), None)?;
    for first in (0..rows).step_by(10_000) {
        writer.write(&batch(first, (rows - first).min(10_000))?)?;
        if first % 50_000 == 40_000 {
            writer.flush()?;
        }
    }
    writer.close()?;
    Ok(())
}

/// Whether the ids of a query's ranking are those of sorting its scores.
fn agrees(ranking: &[RecordBatch], query: u64, rows: u64, k: usize) -> bool {
    let mut all: Vec<(f32, u64)> = (0..rows).map(|row| (score(row, query), row)).collect();
    all.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    let expected = all.into_iter().take(k).map(|(_, row)| row);
    let name = format!("query {query}");
    let found = ranking.iter().flat_map(|batch| {
        let (names, ids) = (batch["query"].as_string::<i32>(), batch["id"].as_primitive::<UInt64Type>());
        let of_query: Vec<u64> =
            (0..batch.num_rows()).filter(|row| names.value(*row) == name).map(|row| ids.value(row)).collect();
        of_query
    });
    found.eq(expected)
}

/// The largest resident memory of this process so far, in megabytes; nothing where the system does not say.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1000)
}

#[tokio::main]
async fn main() -> std::result::Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("rank_scale FOLDER [ROWS [QUERIES [K [WORKERS]]]]")?;
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (rows, queries, k, workers) = (number(1_000_000)?, number(1000)?, number(100)?, number(2)?);
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    let corpus = folder.join(format!("corpus-{rows}.parquet"));
    if !corpus.exists() {
        write_corpus(&corpus, rows)?;
    }
    let run_folder = folder.join(format!("ranked-{rows}-{queries}-{k}-{workers}"));
    println!("before the run: {:?} MB at most", peak());
    let file = PipelineFile::from_value(json!({
        "name": "scale",
        "source": {"path": corpus, "split_size": "50000 rows"},
        "steps": [{"hashed_scores": {"queries": queries}}],
        "sink": {"rank": {"path": run_folder, "by": "hashed_scores", "k": k, "columns": ["id", "text"]}},
    }))?;
    let environment = Environment::standard()?.with_operator(Arc::new(HashedScores));
    let options = RunOptions { workers: workers as usize, fresh: false };
    let begun = Instant::now();
    let report = run::run(&file, &environment, &options, Arc::new(Unobserved)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{rows} rows x {queries} queries, k {k}, {workers} workers, {} splits: {seconds:.1} s", report.splits);
    for step in &report.steps {
        println!("  {}: {:.1} s of work", step.name, step.seconds);
    }
    println!("after the run: {:?} MB at most; {} bytes of parts", peak(), report.bytes_out);
    let ranking = std::fs::File::open(run_folder.join("ranking.parquet"))?;
    println!("ranking: {} bytes", ranking.metadata()?.len());
    let ranking =
        ParquetRecordBatchReaderBuilder::try_new(ranking)?.build()?.collect::<std::result::Result<Vec<_>, _>>()?;
    for query in [0, queries / 2, queries - 1] {
        println!("query {query} is as sorting gives it: {}", agrees(&ranking, query, rows, k as usize));
    }
    Ok(())
}
