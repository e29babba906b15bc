//! `gristmill run`.

use std::sync::Arc;
use std::time::Instant;

use gristmill::pipelines::run::{self, RankingReport, RunOptions, RunReport};
use gristmill::pipelines::{Environment, PipelineError};

use super::arguments::RunArguments;
use super::live::{Live, Show};
use super::table::{bytes, count, number, percent, seconds};
use super::{DONE, QUARANTINED, load, print_json, print_line, table};

pub(super) async fn run(arguments: RunArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let file = load(&arguments.pipeline)?;
    let mut options = RunOptions { fresh: arguments.fresh, ..RunOptions::default() };
    if let Some(workers) = arguments.workers {
        options.workers = usize::from(workers);
    }
    let begun = Instant::now();
    let live = Arc::new(Live::new(Show::choose(arguments.quiet, arguments.json)));
    let ended = run::run(&file, environment, &options, Arc::clone(&live) as Arc<dyn run::Observer>).await;
    live.end();
    let report = ended?;
    if arguments.json {
        print_json(&report)?;
    } else if !arguments.quiet {
        print_line(&closing(&report, live.was_complete(), begun.elapsed().as_secs_f64()))?;
    }
    if report.too_many_quarantined() {
        let allowed = report.max_quarantined.unwrap_or_default();
        eprintln!(
            "error: {} of {} rows were quarantined ({}), allowed are {}; see {}/quarantine",
            count(report.rows_quarantined),
            count(report.rows_in),
            percent(report.quarantined_share, 1.0),
            percent(allowed, 1.0),
            report.folder
        );
        return Ok(QUARANTINED);
    }
    Ok(DONE)
}

/// How much a ranking holds.
pub(super) fn ranked(ranking: &RankingReport) -> String {
    let queries =
        if ranking.queries == 1 { "1 query".to_owned() } else { format!("{} queries", count(ranking.queries)) };
    format!("{} of {} for {queries}", number(ranking.rows, "row"), count(ranking.rows_compared))
}

fn closing(report: &RunReport, was_complete: bool, elapsed: f64) -> String {
    let steps = table::steps(&report.steps, report.rows_in, report.rows_unreadable);
    let mut lines = vec![
        steps.to_string(),
        format!(
            "{}: {} rows in = {} kept + {} rejected + {} quarantined",
            report.name,
            count(report.rows_in),
            count(report.rows_in - report.rows_rejected - report.rows_quarantined),
            count(report.rows_rejected),
            count(report.rows_quarantined)
        ),
        format!(
            "{} in {}, {} -> {}, {}",
            number(report.rows_out, "row"),
            number(report.parts, "part"),
            bytes(report.bytes_in as f64),
            bytes(report.bytes_out as f64),
            if was_complete {
                "all of it done before: nothing was run again".to_owned()
            } else {
                format!("in {} ({} of work)", seconds(elapsed), seconds(report.seconds))
            }
        ),
        report.folder.clone(),
        format!("{}/_run/report.html says more", report.folder),
    ];
    if let Some(ranking) = &report.ranking {
        lines.push(format!("{} are ranked in {}/{}", ranked(ranking), report.folder, ranking.path));
        if ranking.scores_not_numbers > 0 {
            lines.push(format!("{} are not numbers and do not rank", number(ranking.scores_not_numbers, "score")));
        }
    }
    if report.rows_quarantined > 0 {
        lines.push(format!(
            "{} could not be processed and {} in {}/quarantine, with error, file, position and content",
            number(report.rows_quarantined, "row"),
            if report.rows_quarantined == 1 { "is" } else { "are" },
            report.folder
        ));
    }
    lines.join("\n")
}
