//! `_run/report.html`: what happened, for people. One file without scripts or anything from elsewhere.
//!
//! It is made of the report, the manifest, the plan and the bound steps alone, so the same run gives the same page. Names, reasons, errors
//! and rows come from data that nobody checked; the template engine escapes every text, and only the charts, which are
//! drawn from numbers, go in as markup.

use std::collections::BTreeMap;

use arrow_array::temporal_conversions::timestamp_ms_to_datetime;
use gristmill_datasets::redact;
use gristmill_datasets::run::{CommitRecord, Manifest, RunPlan};
use gristmill_operators::ResourceIdentity;
use gristmill_operators::rank::RankOrder;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;
use serde_json::Value;

use crate::chain::StepSpec;
use crate::error::{PipelineError, Result};
use crate::numbers::{bytes, count, percent, seconds};
use crate::run::ranking::{RankingReport, Score};
use crate::run::report::RunReport;
use crate::run::report::aside::Sample;
use crate::run::report::chart::{self, Chart, Layer, Together};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// Files, resources and slow splits that are listed one by one.
const LISTED: usize = 100;
/// Files with quarantined rows, and slowest splits, that are listed.
const WORST: usize = 10;

/// What a page tells.
pub(super) struct Contents<'a> {
    pub(super) report: &'a RunReport,
    pub(super) manifest: &'a Manifest,
    pub(super) plan: &'a RunPlan,
    pub(super) steps: &'a [StepSpec],
    pub(super) resources: &'a [ResourceIdentity],
    pub(super) samples: &'a [Sample],
}

/// Writes the page.
pub(super) fn render(contents: &Contents<'_>) -> Result<String> {
    let Contents { report, manifest, plan, .. } = contents;
    let failed =
        |error: &dyn std::fmt::Display| PipelineError::Engine(format!("the report cannot be written: {error}"));
    let mut engine = Environment::new();
    engine.set_auto_escape_callback(|_| AutoEscape::Html);
    engine.add_template("page", TEMPLATE).map_err(|error| failed(&error))?;
    let kept = report.rows_in.saturating_sub(report.rows_rejected + report.rows_quarantined);
    let definition = serde_json::to_string_pretty(&report.pipeline).map_err(|error| failed(&error))?;
    let page = Page {
        style: STYLE,
        name: &report.name,
        description: report.pipeline.get("description").and_then(Value::as_str),
        folder: &report.folder,
        version: &report.version,
        fingerprint: &report.fingerprint,
        planned: moment(report.planned_ms),
        balance: Balance {
            rows_in: count(report.rows_in),
            kept: count(kept),
            rejected: count(report.rows_rejected),
            quarantined: count(report.rows_quarantined),
        },
        outcome: outcome(report),
        facts: facts(report),
        steps: step_rows(contents),
        unreadable: count(report.rows_unreadable),
        reasons: reasons(contents),
        quarantined_files: quarantined_files(manifest),
        quarantined_share: percent(report.quarantined_share, 1.0),
        samples: contents.samples.iter().map(SampleRow::of).collect::<Vec<_>>(),
        rows_chart: rows_chart(manifest),
        seconds_chart: seconds_chart(manifest),
        slowest: slowest(manifest),
        files: files(plan),
        files_total: count(plan.files.len() as u64),
        files_left: (plan.files.len() > LISTED).then(|| count((plan.files.len() - LISTED) as u64)),
        ranking: report.ranking.as_ref().map(RankingView::of),
        resources: resources(contents.resources),
        definition,
    };
    let page = minijinja::Value::from(minijinja::value::Serde(page));
    engine.get_template("page").and_then(|template| template.render(page)).map_err(|error| failed(&error))
}

/// What the template reads.
#[derive(Serialize)]
struct Page<'a> {
    style: &'a str,
    name: &'a str,
    description: Option<&'a str>,
    folder: &'a str,
    version: &'a str,
    fingerprint: &'a str,
    planned: String,
    balance: Balance,
    outcome: Outcome,
    facts: Vec<(&'static str, String)>,
    steps: Vec<StepRow>,
    unreadable: String,
    reasons: Vec<(String, String, String, String)>,
    quarantined_files: Vec<(String, String, String)>,
    quarantined_share: String,
    samples: Vec<SampleRow>,
    rows_chart: ChartView,
    seconds_chart: ChartView,
    slowest: Vec<(u64, String, String, String)>,
    files: Vec<(String, String, String)>,
    files_total: String,
    files_left: Option<String>,
    ranking: Option<RankingView>,
    resources: Vec<(String, String)>,
    definition: String,
}

#[derive(Serialize)]
struct Balance {
    rows_in: String,
    kept: String,
    rejected: String,
    quarantined: String,
}

#[derive(Serialize)]
struct Outcome {
    class: &'static str,
    text: String,
}

fn outcome(report: &RunReport) -> Outcome {
    let share = percent(report.quarantined_share, 1.0);
    let of = format!("{} of {} rows were quarantined ({share})", count(report.rows_quarantined), count(report.rows_in));
    match report.max_quarantined {
        Some(allowed) if report.too_many_quarantined() => {
            Outcome { class: "bad", text: format!("{of}; allowed are {}", percent(allowed, 1.0)) }
        }
        _ if report.rows_quarantined > 0 => Outcome { class: "warn", text: of },
        _ => Outcome { class: "good", text: "Finished; every row is accounted for".to_owned() },
    }
}

fn facts(report: &RunReport) -> Vec<(&'static str, String)> {
    vec![
        ("Rows out", count(report.rows_out)),
        ("Parts", count(report.parts)),
        ("Splits", count(report.splits)),
        ("Files read", count(report.files)),
        ("Stored bytes read", bytes(report.bytes_in as f64)),
        ("Bytes written", bytes(report.bytes_out as f64)),
        ("Work", seconds(report.seconds)),
    ]
}

#[derive(Serialize)]
struct StepRow {
    name: String,
    kind: String,
    rows_in: String,
    kept: String,
    rejected: String,
    quarantined: String,
    rows_out: String,
    flagged: String,
    time: String,
    /// Share of the time in percent, for the bar behind it.
    time_share: String,
}

fn step_rows(contents: &Contents<'_>) -> Vec<StepRow> {
    let total: f64 = contents.report.steps.iter().map(|step| step.seconds).sum();
    let row = |step: &gristmill_datasets::run::StepCount| {
        let verdicts = step.verdicts.iter().map(|verdict| {
            let share = percent(verdict.flagged as f64, step.rows_in as f64);
            if verdict.column == step.name { share } else { format!("{} {share}", verdict.column) }
        });
        StepRow {
            name: step.name.clone(),
            kind: step.kind.clone(),
            rows_in: count(step.rows_in),
            kept: count(step.rows_kept),
            rejected: count(step.rows_rejected),
            quarantined: count(step.rows_quarantined),
            rows_out: count(step.rows_out),
            flagged: verdicts.collect::<Vec<_>>().join(", "),
            time: percent(step.seconds, total),
            time_share: format!("{:.1}", if total > 0.0 { step.seconds / total * 100.0 } else { 0.0 }),
        }
    };
    contents.report.steps.iter().map(row).collect()
}

/// Steps that rejected rows, with the reason that their definition gives.
fn reasons(contents: &Contents<'_>) -> Vec<(String, String, String, String)> {
    let rows_in = contents.report.rows_in as f64;
    let reason = |position: usize| {
        let spec = contents.steps.get(position);
        spec.and_then(|spec| spec.operator.config.get("reason"))
            .and_then(Value::as_str)
            .unwrap_or("as the operator says")
    };
    let steps = contents.report.steps.iter().enumerate().filter(|(_, step)| step.rows_rejected > 0);
    steps
        .map(|(position, step)| {
            let share = percent(step.rows_rejected as f64, rows_in);
            (step.name.clone(), reason(position).to_owned(), count(step.rows_rejected), share)
        })
        .collect()
}

/// Files with the most quarantined rows, most first, then by name.
fn quarantined_files(manifest: &Manifest) -> Vec<(String, String, String)> {
    let mut by_file: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in &manifest.records {
        let (quarantined, rows) = by_file.entry(&record.source).or_default();
        *quarantined += record.rows_quarantined;
        *rows += record.rows_in;
    }
    let mut files: Vec<_> = by_file.into_iter().filter(|(_, (quarantined, _))| *quarantined > 0).collect();
    files.sort_by_key(|(_, (quarantined, _))| std::cmp::Reverse(*quarantined));
    files.truncate(WORST);
    let shown = |(file, (quarantined, rows)): (&str, (u64, u64))| {
        (file.to_owned(), count(quarantined), percent(quarantined as f64, rows as f64))
    };
    files.into_iter().map(shown).collect()
}

#[derive(Serialize)]
struct SampleRow {
    step: String,
    error: String,
    place: String,
    raw: Option<String>,
    length: Option<String>,
}

impl SampleRow {
    fn of(sample: &Sample) -> Self {
        let mut place = vec![sample.source.clone()];
        place.extend(sample.row.map(|row| format!("row {}", count(row))));
        place.extend(sample.offset.map(|offset| format!("byte {}", count(offset))));
        place.extend(sample.id.as_ref().map(|id| format!("id {id}")));
        Self {
            step: sample.step.clone(),
            error: sample.error.clone(),
            place: place.join(", "),
            raw: sample.raw.clone(),
            length: sample.length.map(|length| bytes(length as f64)),
        }
    }
}

#[derive(Serialize)]
struct RankingView {
    path: String,
    by: String,
    order: &'static str,
    k: String,
    queries: String,
    rows: String,
    compared: String,
    without_scores: String,
    not_numbers: Option<String>,
    /// Name, rows, best and last score.
    first: Vec<(String, String, String, String)>,
    others: Option<String>,
}

impl RankingView {
    fn of(ranking: &RankingReport) -> Self {
        let shown = |score: &Option<Score>| match score {
            Some(Score::Number(number)) => number.to_string(),
            Some(Score::Infinite(text)) => text.clone(),
            None => String::new(),
        };
        let others = ranking.queries.saturating_sub(ranking.first_queries.len() as u64);
        let queries = ranking.first_queries.iter();
        Self {
            path: ranking.path.clone(),
            by: ranking.by.clone(),
            order: match ranking.order {
                RankOrder::Descending => "highest",
                RankOrder::Ascending => "lowest",
            },
            k: count(ranking.k),
            queries: count(ranking.queries),
            rows: count(ranking.rows),
            compared: count(ranking.rows_compared),
            without_scores: count(ranking.rows_without_scores),
            not_numbers: (ranking.scores_not_numbers > 0).then(|| count(ranking.scores_not_numbers)),
            first: queries
                .map(|query| (query.query.clone(), count(query.rows), shown(&query.best), shown(&query.last)))
                .collect(),
            others: (others > 0).then(|| count(others)),
        }
    }
}

#[derive(Serialize)]
struct ChartView {
    svg: String,
    tallest: String,
    unit: String,
    last: String,
}

fn view(chart: Chart, tallest: String, splits: usize) -> ChartView {
    let unit = match chart.splits_per_bar {
        1 => "one split".to_owned(),
        many => format!("{many} splits"),
    };
    let last = count(splits.saturating_sub(1) as u64);
    ChartView { svg: chart.svg, tallest, unit, last }
}

fn rows_chart(manifest: &Manifest) -> ChartView {
    let of = |class, get: fn(&CommitRecord) -> u64| Layer {
        class,
        values: manifest.records.iter().map(|record| get(record) as f64).collect(),
    };
    let layers = [
        of("kept", |record| record.rows_in.saturating_sub(record.rows_rejected + record.rows_quarantined)),
        of("rejected", |record| record.rows_rejected),
        of("quarantined", |record| record.rows_quarantined),
    ];
    let chart = chart::stacked("Rows kept, rejected and quarantined by split", &layers, Together::Sum);
    let tallest = format!("{} rows", count(chart.tallest as u64));
    view(chart, tallest, manifest.records.len())
}

fn seconds_chart(manifest: &Manifest) -> ChartView {
    let values = manifest.records.iter().map(|record| record.seconds).collect();
    let layers = [Layer { class: "seconds", values }];
    let chart = chart::stacked("Seconds by split; the slowest of the splits of a bar", &layers, Together::Largest);
    let tallest = seconds(chart.tallest);
    view(chart, tallest, manifest.records.len())
}

fn slowest(manifest: &Manifest) -> Vec<(u64, String, String, String)> {
    let mut records: Vec<&CommitRecord> = manifest.records.iter().collect();
    records.sort_by(|left, right| right.seconds.total_cmp(&left.seconds).then(left.split.cmp(&right.split)));
    let shown =
        |record: &CommitRecord| (record.split, record.source.clone(), count(record.rows_in), seconds(record.seconds));
    records.into_iter().take(WORST).map(shown).collect()
}

fn files(plan: &RunPlan) -> Vec<(String, String, String)> {
    let shown = |file: &gristmill_datasets::SourceFile| {
        (file.url.clone(), bytes(file.size as f64), file.etag.clone().unwrap_or_default())
    };
    plan.files.iter().take(LISTED).map(shown).collect()
}

/// Term lists, tokenizers and the like, by location, with the hash that the fingerprint holds.
fn resources(resources: &[ResourceIdentity]) -> Vec<(String, String)> {
    let shown = resources.iter().map(|resource| (redact(&resource.location), resource.hash.clone()));
    shown.collect::<BTreeMap<_, _>>().into_iter().take(LISTED).collect()
}

fn moment(milliseconds: i64) -> String {
    timestamp_ms_to_datetime(milliseconds)
        .map(|moment| moment.format("%Y-%m-%d %H:%M:%S UTC").to_string())
        .unwrap_or_default()
}
