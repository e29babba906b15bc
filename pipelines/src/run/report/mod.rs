//! What a finished run says about itself: `_run/report.json` for machines, `_run/report.html` for people, and beside them
//! metrics and a sample of judgments.

mod aside;
mod chart;
mod page;

use gristmill_datasets::run::{Manifest, RunPlan, StepCount, Totals};
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::PipelineFile;
use crate::error::{PipelineError, Result};
use crate::run::mill::Mill;
use crate::run::ranking::RankingReport;
use crate::run::{judgments, metrics, ranking, token_budget};
use crate::secrets::without_credentials;

/// The report of a finished run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunReport {
    /// Name of the pipeline.
    pub name: String,
    /// URL of the run folder.
    pub folder: String,
    /// Version of the program that wrote the report.
    pub version: String,
    /// Fingerprint of the run.
    pub fingerprint: String,
    /// When the run was planned, in milliseconds since 1970.
    pub planned_ms: i64,
    /// Files of the source.
    pub files: u64,
    /// Splits.
    pub splits: u64,
    /// Parts; splits of which no row survived have none.
    pub parts: u64,
    /// Rows read, unreadable ones included.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Rows that steps rejected.
    pub rows_rejected: u64,
    /// Rows quarantined: unreadable ones and those that steps could not process.
    pub rows_quarantined: u64,
    /// Rows that could not be read.
    pub rows_unreadable: u64,
    /// Quarantined rows as a share of the rows read.
    pub quarantined_share: f64,
    /// The share that `max_quarantined` allows.
    pub max_quarantined: Option<f64>,
    /// Bytes read, as stored.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Time spent in splits, summed over workers.
    pub seconds: f64,
    /// What each step did.
    pub steps: Vec<StepCount>,
    /// The ranking, if the sink makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<RankingReport>,
    /// The pipeline, with every default filled in and without the credentials of its locations.
    pub pipeline: Value,
}

impl RunReport {
    /// Whether more rows were quarantined than the pipeline allows.
    #[must_use]
    pub fn too_many_quarantined(&self) -> bool {
        self.max_quarantined.is_some_and(|share| self.quarantined_share > share)
    }
}

/// Writes the report of a run whose manifest is there. Writing it again gives the same files.
pub(crate) async fn finish(file: &PipelineFile, mill: &Mill, plan: &RunPlan, manifest: &Manifest) -> Result<RunReport> {
    let mut report = of_manifest(file, mill, plan, manifest)?;
    if let Some(sink) = file.pipeline().sink.ranking() {
        report.ranking = ranking::finish(mill, manifest, sink).await?;
    }
    let common = file.pipeline().sink.common();
    if let Some(definition) = &common.metrics {
        let metrics = metrics::of_steps(&report.steps, definition, report.rows_in);
        put_json(mill, "_run/metrics.json", &metrics).await?;
    }
    if let Some(sample) = &common.judgments {
        let csv = judgments::sample(mill, manifest, sample.rows).await?;
        put(mill, "_run/judgments.csv", csv).await?;
    }
    if let Some(wanted) = &common.token_budget {
        put_json(mill, "_run/token_budget.json", &token_budget::find(mill, manifest, wanted).await?).await?;
    }
    let samples = aside::samples(mill, manifest).await?;
    let contents = page::Contents {
        report: &report,
        manifest,
        plan,
        steps: &mill.spec().steps,
        resources: &mill.chain().resources(),
        samples: &samples,
    };
    put(mill, "_run/report.html", page::render(&contents)?.into_bytes()).await?;
    put_json(mill, "_run/report.json", &report).await?;
    Ok(report)
}

fn of_manifest(file: &PipelineFile, mill: &Mill, plan: &RunPlan, manifest: &Manifest) -> Result<RunReport> {
    let Totals {
        rows_in,
        rows_unreadable,
        rows_out,
        rows_rejected,
        rows_quarantined,
        bytes_in,
        bytes_out,
        seconds,
        ..
    } = manifest.totals();
    let mut steps: Vec<StepCount> = Vec::new();
    for record in &manifest.records {
        if steps.is_empty() {
            steps.clone_from(&record.steps);
            continue;
        }
        for (step, more) in steps.iter_mut().zip(&record.steps) {
            step.merge(more);
        }
    }
    if rows_in != rows_quarantined + rows_rejected + steps.last().map_or(rows_out, |_| kept(&steps)) {
        return Err(PipelineError::Conservation(format!(
            "{rows_in} rows in, {rows_rejected} rejected, {rows_quarantined} quarantined, {rows_out} out"
        )));
    }
    let pipeline = serde_json::to_value(file.pipeline()).map_err(|error| PipelineError::Engine(error.to_string()))?;
    Ok(RunReport {
        name: plan.name.clone(),
        folder: mill.folder().url().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: plan.fingerprint.value.clone(),
        planned_ms: plan.created_ms,
        files: plan.files.len() as u64,
        splits: plan.total(),
        parts: manifest.parts().count() as u64,
        rows_in,
        rows_out,
        rows_rejected,
        rows_quarantined,
        rows_unreadable,
        quarantined_share: if rows_in == 0 { 0.0 } else { rows_quarantined as f64 / rows_in as f64 },
        max_quarantined: file.pipeline().max_quarantined,
        bytes_in,
        bytes_out,
        seconds,
        steps,
        ranking: None,
        pipeline: without_credentials(pipeline),
    })
}

/// Source rows that are represented in the output: what every step kept, net of the rows that packing or cutting made.
fn kept(steps: &[StepCount]) -> u64 {
    let first = steps.first().map_or(0, |step| step.rows_in);
    let lost: u64 = steps.iter().map(|step| step.rows_rejected + step.rows_quarantined).sum();
    first.saturating_sub(lost)
}

pub(crate) async fn put_json<T: Serialize>(mill: &Mill, name: &str, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| PipelineError::Engine(error.to_string()))?;
    put(mill, name, text).await
}

async fn put(mill: &Mill, name: &str, bytes: Vec<u8>) -> Result<()> {
    let path = mill.folder().path(name);
    let location = format!("{}/{name}", mill.folder().url());
    mill.store()
        .put(&path, PutPayload::from(bytes))
        .await
        .map(|_| ())
        .map_err(|error| gristmill_datasets::store_error(&location, error).into())
}
