//! How long it takes to go on with a run, to finish it and to ask for its status, by number of splits. A driver that
//! finishes knows the records that it committed itself, one that resumed reads the others.
//!
//! ```text
//! cargo bench -p gristmill-datasets --no-default-features --bench resume -- 100000
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use arrow_schema::Schema;
use futures::{StreamExt, TryStreamExt, stream};
use gristmill_datasets::run::{CommitRecord, Fingerprint, Opened, RunFolder, RunPlan, StepCount, new_attempt};
use gristmill_datasets::{Compression, Format, SourceFile, SourcePlan, Split, SplitUnit};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use serde_json::json;

/// Splits of a file.
const PER_FILE: u64 = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` adds flags of its own.
    let counts: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    for splits in if counts.is_empty() { vec![1_000, 10_000] } else { counts } {
        measure(splits).await?;
    }
    Ok(())
}

async fn measure(splits: u64) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let root = Path::from_absolute_path(folder.path())?;
    let run = RunFolder::new(Arc::new(LocalFileSystem::new()), root, format!("file://{}", folder.path().display()));
    let plan = plan_of(splits);
    println!("{splits} splits of {} files", plan.files.len());

    let begin = Instant::now();
    run.open_or_create_plan(&plan).await?;
    println!("  plan written      {:>8.3} s", begin.elapsed().as_secs_f64());

    let records: Vec<CommitRecord> = (0..splits).map(|split| record_of(&plan, split)).collect();
    let begin = Instant::now();
    stream::iter(records.clone())
        .map(|record| {
            let run = run.clone();
            async move { tokio::spawn(async move { run.commit(&record).await }).await }
        })
        .buffer_unordered(64)
        .map_err(Box::<dyn Error>::from)
        .try_for_each(|outcome| async move { outcome.map(|_| ()).map_err(Into::into) })
        .await?;
    println!("  all committed     {:>8.3} s", begin.elapsed().as_secs_f64());

    let begin = Instant::now();
    let opened = run.open_or_create_plan(&plan).await?;
    let plan_read = begin.elapsed();
    let committed = run.committed().await?;
    println!(
        "  resumed           {:>8.3} s, of it reading the plan {:.3} s",
        begin.elapsed().as_secs_f64(),
        plan_read.as_secs_f64()
    );
    if !matches!(opened, Opened::Resumed(_)) || committed.len() as u64 != splits {
        return Err("the run was not resumed as a whole".into());
    }

    for what in ["status, running  ", "finished         ", "status, finished "] {
        let begin = Instant::now();
        if what.starts_with("status") {
            run.status().await?;
        } else {
            run.finish(&plan).await?;
        }
        println!("  {what} {:>8.3} s", begin.elapsed().as_secs_f64());
    }

    let finished = run.read_manifest().await?;
    std::fs::remove_file(folder.path().join("_run/manifest.parquet"))?;
    let begin = Instant::now();
    let known = run.finish_knowing(&plan, records).await?;
    println!("  finished, knowing {:>8.3} s", begin.elapsed().as_secs_f64());
    if finished != Some(known) {
        return Err("what is known and what is read differ".into());
    }
    Ok(())
}

fn plan_of(splits: u64) -> RunPlan {
    let files: Vec<SourceFile> = (0..splits.div_ceil(PER_FILE))
        .map(|number| SourceFile {
            url: format!("s3://bucket/corpus/crawl=2024-10/part-{number:06}.parquet"),
            size: 1 << 30,
            etag: Some(format!("\"{number:032x}\"")),
            version: None,
            modified_ms: None,
            format: Format::Parquet,
            compression: Compression::None,
        })
        .collect();
    let split = |number| Split {
        number,
        file: u32::try_from(number / PER_FILE).unwrap_or(u32::MAX),
        unit: SplitUnit::RowGroups,
        start: number % PER_FILE,
        end: number % PER_FILE + 1,
        skip: 0,
        take: None,
        first_row: Some(number * 10_000),
        file_row: Some(number % PER_FILE * 10_000),
        rows: Some(10_000),
        bytes: 128 << 20,
    };
    let fingerprint = Fingerprint::of(json!({"inputs": files, "steps": [{"name": "filter"}]}));
    let source = SourcePlan { files, splits: (0..splits).map(split).collect(), schema: Arc::new(Schema::empty()) };
    RunPlan::new("resume", fingerprint, &source, json!({}))
}

fn record_of(plan: &RunPlan, split: u64) -> CommitRecord {
    let step = |name: &str| StepCount {
        name: name.into(),
        kind: "filter".into(),
        rows_in: 10_000,
        rows_rejected: 10_000,
        ..StepCount::default()
    };
    CommitRecord {
        split,
        rows_in: 10_000,
        rows_rejected: 10_000,
        bytes_in: 128 << 20,
        attempt: new_attempt(),
        source: plan.files[0].url.clone(),
        seconds: 12.5,
        fingerprint: plan.fingerprint.value.clone(),
        steps: vec![step("filter")],
        ..CommitRecord::default()
    }
}
