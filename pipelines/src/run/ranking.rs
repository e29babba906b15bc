//! The ranking of a finished run: the best rows of all splits become `ranking.parquet` or `ranking.jsonl`.
//!
//! Each part holds the best rows of its split. They are read in the order of the splits, one batch at a time, and put together exactly: the better
//! score first, of equal scores the row that comes first in the order of the source. So the file is the same for any number of workers and splits, and
//! after any interruption. `_run/ranking.json` says what is in it; it is written last, so that a ranking it names is complete.

use futures::TryStreamExt;
use gristmill_datasets::run::Manifest;
use gristmill_datasets::{PartOptions, PartWriter};
use gristmill_operators::rank::{RankConfig, RankMerge, RankOrder, RankShape};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::definition::{RANK, RankSink};
use crate::environment::Environment;
use crate::error::{PipelineError, Result};
use crate::inspect;
use crate::run::mill::Mill;
use crate::run::report;

/// What is said of a ranking, for machines.
pub(crate) const SUMMARY: &str = "_run/ranking.json";
/// Queries of which a report says the best and the last score.
const QUERIES_SHOWN: usize = 100;

/// What a ranking holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankingReport {
    /// The file, relative to the run folder.
    pub path: String,
    /// The column that rows are ranked by.
    pub by: String,
    /// Rows for each query at most.
    pub k: u64,
    /// Which end of the scores is the best.
    pub order: RankOrder,
    /// Number of queries.
    pub queries: u64,
    /// Rows of all queries.
    pub rows: u64,
    /// Rows that have scores, whether or not they are in the ranking.
    pub rows_compared: u64,
    /// Rows that have none; they were rejected.
    pub rows_without_scores: u64,
    /// Scores that are not numbers and do not rank.
    pub scores_not_numbers: u64,
    /// The first queries, in the order of the scores.
    pub first_queries: Vec<RankedQuery>,
}

/// One query of a ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankedQuery {
    /// Its name.
    pub query: String,
    /// Its rows.
    pub rows: u64,
    /// The score of the first; a text where it is infinite.
    pub best: Option<Score>,
    /// The score of the last.
    pub last: Option<Score>,
}

/// A score in a report. JSON has no infinite numbers, so those are texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Score {
    /// A number.
    Number(f64),
    /// `inf` or `-inf`.
    Infinite(String),
}

impl From<f64> for Score {
    fn from(score: f64) -> Self {
        if score.is_finite() { Self::Number(score) } else { Self::Infinite(score.to_string()) }
    }
}

/// The ranking that a chain ends in, if it does.
pub(crate) fn shape(chain: &Chain) -> Result<Option<RankShape>> {
    let operators: Vec<_> = chain.operators().collect();
    let Some((last, others)) = operators.split_last().filter(|(last, _)| last.spec().kind == RANK) else {
        return Ok(None);
    };
    let failed = |source| PipelineError::Operator { step: RANK.to_owned(), source };
    let config: RankConfig = gristmill_operators::config::parse(RANK, &last.spec().config).map_err(failed)?;
    let input = others.last().map_or(chain.input_schema(), |operator| operator.output_schema());
    RankShape::of(&config, input).map(Some).map_err(failed)
}

/// Checks that a ranking can be written, without writing anything.
pub(crate) async fn check(shape: &RankShape, options: &PartOptions) -> Result<()> {
    let nowhere = std::sync::Arc::new(object_store::memory::InMemory::new());
    let schema = std::sync::Arc::clone(shape.ranking_schema());
    PartWriter::create(nowhere, RANK.into(), schema, options).await.map(|_| ()).map_err(PipelineError::from)
}

/// Writes the ranking of a run whose manifest is there, unless it is written.
pub(crate) async fn finish(mill: &Mill, manifest: &Manifest, sink: &RankSink) -> Result<Option<RankingReport>> {
    let Some(shape) = shape(mill.chain())? else { return Ok(None) };
    if let Some(written) = written(mill, sink).await? {
        mill.folder().delete_staged_of(sink.file()).await;
        return Ok(Some(written));
    }
    let report = match write(mill, manifest, sink, &shape).await {
        Ok(report) => report,
        // Another driver that finishes the same run may have been faster, and cleaned up what this one had begun.
        Err(error) => return written(mill, sink).await?.map(Some).ok_or(error),
    };
    report::put_json(mill, SUMMARY, &report).await?;
    mill.folder().delete_staged_of(sink.file()).await;
    Ok(Some(report))
}

/// What is said of the ranking in a run folder; `None` where it is not complete.
pub async fn ranking_of(environment: &Environment, folder: &str) -> Result<Option<RankingReport>> {
    let location = format!("{folder}/{SUMMARY}");
    match environment.stores.read_all(&location).await {
        Ok(bytes) => Ok(Some(parse(&bytes, &location)?)),
        // Stores that may not be listed refuse what is not there.
        Err(gristmill_datasets::DatasetError::NotFound { .. } | gristmill_datasets::DatasetError::Denied { .. }) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn written(mill: &Mill, sink: &RankSink) -> Result<Option<RankingReport>> {
    let location = |name: &str| format!("{}/{name}", mill.folder().url());
    let bytes = match mill.store().get(&mill.folder().path(SUMMARY)).await {
        Ok(found) => found.bytes().await.map_err(|error| gristmill_datasets::store_error(&location(SUMMARY), error))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(gristmill_datasets::store_error(&location(SUMMARY), error).into()),
    };
    let report = parse(&bytes, &location(SUMMARY))?;
    if report.path != sink.file() {
        return Ok(None);
    }
    match mill.store().head(&mill.folder().path(sink.file())).await {
        Ok(_) => Ok(Some(report)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(gristmill_datasets::store_error(&location(sink.file()), error).into()),
    }
}

fn parse(bytes: &[u8], location: &str) -> Result<RankingReport> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("{error}; delete it, and the next run writes the ranking again");
        gristmill_datasets::DatasetError::Malformed { location: location.to_owned(), message }.into()
    })
}

async fn write(mill: &Mill, manifest: &Manifest, sink: &RankSink, shape: &RankShape) -> Result<RankingReport> {
    let failed = |source| PipelineError::Operator { step: RANK.to_owned(), source };
    let mut merge = RankMerge::new(shape);
    let columns: Vec<String> = shape.part_schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut records: Vec<_> = manifest.records.iter().collect();
    records.sort_by_key(|record| record.split);
    for part in records.iter().filter_map(|record| record.part.as_deref()) {
        let mut batches = inspect::columns_of(mill.part(part).await?, columns.clone()).await?;
        while let Some(batch) = batches.try_next().await? {
            merge.push(&batch).map_err(failed)?;
        }
    }
    let mut ranked = merge.finish().map_err(failed)?;
    let path = mill.folder().path(sink.file());
    let schema = std::sync::Arc::clone(shape.ranking_schema());
    let writer = PartWriter::create(std::sync::Arc::clone(mill.store()), path, schema, &sink.ranking_options()).await?;
    let mut writer = writer.located(format!("{}/{}", mill.folder().url(), sink.file()));
    for batch in ranked.by_ref() {
        writer.write_owned(batch.map_err(failed)?).await?;
    }
    let rows = writer.close().await?.rows;
    let counts = manifest.records.iter().filter_map(|record| record.steps.last());
    let (compared, without) =
        counts.fold((0, 0), |(kept, rejected), step| (kept + step.rows_kept, rejected + step.rows_rejected));
    let first_queries = (0..shape.queries().len().min(QUERIES_SHOWN))
        .filter_map(|query| ranked.query(query).transpose())
        .map(|query| {
            let query = query.map_err(failed)?;
            Ok(RankedQuery {
                query: query.query,
                rows: query.rows,
                best: query.best.map(Score::from),
                last: query.last.map(Score::from),
            })
        })
        .collect::<Result<_>>()?;
    Ok(RankingReport {
        path: sink.file().to_owned(),
        by: sink.by.clone(),
        k: u64::from(sink.k),
        order: sink.order,
        queries: shape.queries().len() as u64,
        rows,
        rows_compared: compared,
        rows_without_scores: without,
        scores_not_numbers: ranked.not_numbers(),
        first_queries,
    })
}
