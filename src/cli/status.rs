//! `gristmill status`.

use gristmill::datasets::DatasetError;
use gristmill::datasets::run::{RunFolder, RunStatus};
use gristmill::pipelines::run;
use gristmill::pipelines::{Environment, PipelineError};
use serde_json::{Value, json};

use super::arguments::StatusArguments;
use super::run::ranked;
use super::table::{bytes, count, percent, seconds};
use super::{DONE, print_json, print_line};

pub(super) async fn status(arguments: StatusArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let url = gristmill::pipelines::run::folder_url(&arguments.folder)?;
    let (store, path) = environment.stores.open(&url)?;
    let fits = run::fits_of(environment, &url).await?;
    let status = match RunFolder::new(store, path, url.clone()).status().await {
        // The run itself is planned when all is learned.
        Err(DatasetError::NotFound { .. }) if !fits.is_empty() => return learning(&arguments, &url, &fits),
        status => status?,
    };
    let ranking = run::ranking_of(environment, &url).await?;
    let state = match (status.finished, status.failed.is_empty()) {
        (true, _) => "finished",
        (false, true) => "unfinished",
        (false, false) => "unfinished, with splits given up",
    };
    let totals = &status.totals;
    if arguments.json {
        let failed: Vec<_> = status
            .failed
            .iter()
            .map(|record| json!({"split": record.split, "source": record.source, "error": record.error}))
            .collect();
        print_json(&json!({
            "name": status.name, "folder": url, "state": state, "finished": status.finished,
            "fingerprint": status.fingerprint, "planned_ms": status.created_ms,
            "splits": status.total, "committed": status.committed, "failed": failed,
            "rows_in": totals.rows_in, "rows_out": totals.rows_out, "rows_rejected": totals.rows_rejected,
            "rows_quarantined": totals.rows_quarantined, "bytes_in": totals.bytes_in, "bytes_out": totals.bytes_out,
            "seconds": totals.seconds, "learned": learned_json(&fits), "ranking": ranking,
        }))?;
        return Ok(DONE);
    }
    print_line(&format!(
        "{}: {state}, {} of {} splits committed ({})",
        status.name,
        count(status.committed),
        count(status.total),
        percent(status.committed as f64, status.total as f64)
    ))?;
    print_line(&format!(
        "{} rows in = {} kept + {} rejected + {} quarantined; {} rows out; {} -> {}; {} of work",
        count(totals.rows_in),
        count(totals.rows_in.saturating_sub(totals.rows_rejected + totals.rows_quarantined)),
        count(totals.rows_rejected),
        count(totals.rows_quarantined),
        count(totals.rows_out),
        bytes(totals.bytes_in as f64),
        bytes(totals.bytes_out as f64),
        seconds(totals.seconds)
    ))?;
    for (name, fit) in &fits {
        print_line(&learned_line(name, fit))?;
    }
    if let Some(ranking) = &ranking {
        print_line(&format!("{} are ranked in {url}/{}", ranked(ranking), ranking.path))?;
    }
    for record in &status.failed {
        let error = record.error.as_deref().unwrap_or("no error is recorded");
        print_line(&format!("split {} of {} was given up: {error}", record.split, record.source))?;
    }
    if !status.failed.is_empty() {
        print_line("running the pipeline again tries them again")?;
    }
    Ok(DONE)
}

/// A run whose steps still learn.
fn learning(arguments: &StatusArguments, url: &str, fits: &[(String, RunStatus)]) -> Result<u8, PipelineError> {
    if arguments.json {
        print_json(&json!({"folder": url, "state": "learning", "finished": false, "learned": learned_json(fits)}))?;
        return Ok(DONE);
    }
    print_line("steps learn from the corpus; the run itself comes after that")?;
    for (name, fit) in fits {
        print_line(&learned_line(name, fit))?;
    }
    Ok(DONE)
}

fn learned_json(fits: &[(String, RunStatus)]) -> Vec<Value> {
    let fit = |(name, fit): &(String, RunStatus)| json!({"name": name, "splits": fit.total, "committed": fit.committed, "finished": fit.finished, "rows_in": fit.totals.rows_in});
    fits.iter().map(fit).collect()
}

fn learned_line(name: &str, fit: &RunStatus) -> String {
    let state = if fit.finished { "learned" } else { "learning" };
    let (committed, total) = (count(fit.committed), count(fit.total));
    format!("{name}: {state}, {committed} of {total} splits committed, {} rows", count(fit.totals.rows_in))
}
