//! The mill: takes a split, reads its rows, sends them through the chain, writes the parts and commits.
//!
//! This is the one place where rows of a run flow. It is the same whether the local driver or a plan node on a worker
//! calls it. A split is read, judged and written batch by batch; only writers and operators hold rows back, within the
//! bounds they state.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use futures::StreamExt;
use gristmill_datasets::run::{CommitOutcome, CommitRecord, RunFolder, new_attempt, part_name};
use gristmill_datasets::{
    Chunk, Compression, Footers, Format, OpenFile, ParquetOptions, PartOptions, PartSummary, PartWriter, QuarantineRow,
    SourceFile, Stores, UnreadableRow, quarantine_batch, quarantine_schema, read_split, rejected_batch,
    rejected_schema,
};
use object_store::ObjectStore;
use parking_lot::Mutex;

use crate::chain::{Chain, Ground};
use crate::environment::Environment;
use crate::error::{PipelineError, Result};
use crate::run::progress::Progress;
use crate::run::spec::{RunSpec, WorkItem};

/// Quarantined rows are written in batches of so many, so that a file of nothing but bad rows stays within memory.
const QUARANTINE_ROWS: usize = 256;

/// A run's splits are ground here: everything that they share, bound once per process.
#[derive(Debug)]
pub struct Mill {
    spec: RunSpec,
    chain: Chain,
    stores: Stores,
    store: Arc<dyn ObjectStore>,
    folder: RunFolder,
    output: Vec<usize>,
    output_schema: SchemaRef,
    footers: Footers,
}

impl Mill {
    /// Binds the steps and opens the run folder.
    pub fn bind(spec: RunSpec, environment: &Environment) -> Result<Self> {
        let resources = environment.resources.clone().for_run(&spec.folder);
        let chain = Chain::bind(&spec.steps, &spec.schema, &environment.registry, &resources)?;
        Self::with_chain(spec, chain, environment)
    }

    /// Opens the run folder for steps that are bound already.
    pub fn with_chain(spec: RunSpec, chain: Chain, environment: &Environment) -> Result<Self> {
        let (store, path) = environment.stores.open(&spec.folder)?;
        let folder = RunFolder::new(Arc::clone(&store), path, spec.folder.clone());
        let (output, output_schema) = output_columns(chain.output_schema(), spec.columns.as_deref())?;
        Ok(Self {
            spec,
            chain,
            stores: environment.stores.clone(),
            store,
            folder,
            output,
            output_schema,
            footers: Footers::default(),
        })
    }

    /// The run's description.
    #[must_use]
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// The run folder.
    #[must_use]
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The store that the run folder lies in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The bound chain.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Schema of the parts.
    #[must_use]
    pub fn output_schema(&self) -> &SchemaRef {
        &self.output_schema
    }

    /// Grinds a split and commits it. Gives the record that counts: this attempt's, or that of another that was first.
    pub async fn grind(&self, item: &WorkItem, progress: &Progress) -> Result<CommitRecord> {
        let record = self.write_split(item, progress).await?;
        self.commit(item, record, progress).await
    }

    /// Grinds a split and writes its parts under the names of a new attempt. They count when the record that says so is
    /// committed.
    pub async fn write_split(&self, item: &WorkItem, progress: &Progress) -> Result<CommitRecord> {
        let begun = Instant::now();
        let attempt = new_attempt();
        let mut parts = Parts::new(self, item.split.number, &attempt);
        let ground = self.flow(item, &mut parts, progress).await;
        let (counts, rows) = match ground {
            Ok(ground) => ground,
            Err(error) => {
                parts.abort().await;
                return Err(error);
            }
        };
        let written = parts.close().await?;
        let part = written.kept;
        let record = CommitRecord {
            split: item.split.number,
            part: part.as_ref().map(|(name, _)| name.clone()),
            rejected_part: written.rejected,
            quarantine_part: written.quarantined,
            rows_in: rows.read + rows.unreadable,
            rows_unreadable: rows.unreadable,
            rows_out: part.as_ref().map_or(0, |(_, summary)| summary.rows),
            rows_rejected: counts.iter().map(|count| count.rows_rejected).sum(),
            rows_quarantined: rows.unreadable + counts.iter().map(|count| count.rows_quarantined).sum::<u64>(),
            bytes_in: item.split.bytes,
            bytes_out: part.as_ref().map_or(0, |(_, summary)| summary.bytes),
            attempt,
            source: item.file.url.clone(),
            seconds: begun.elapsed().as_secs_f64(),
            fingerprint: self.spec.fingerprint.clone(),
            steps: counts,
            checksum: part.map(|(_, summary)| summary.blake3),
            ..CommitRecord::default()
        };
        record.balances().map_err(PipelineError::Conservation)?;
        Ok(record)
    }

    /// Commits what [`Mill::write_split`] wrote. Gives the record that counts.
    pub async fn commit(&self, item: &WorkItem, record: CommitRecord, progress: &Progress) -> Result<CommitRecord> {
        let record = match self.folder.commit(&record).await? {
            CommitOutcome::Won | CommitOutcome::AlreadyOurs => record,
            CommitOutcome::Lost(winner) => {
                tracing::info!(
                    split = record.split,
                    winner = winner.attempt,
                    "another attempt committed this split first"
                );
                *winner
            }
        };
        progress.split_done(item.split.bytes, &record.steps);
        Ok(record)
    }

    /// Sends rows of a split through the chain without writing them; for estimates. Stops after `rows` rows.
    pub async fn taste(&self, item: &WorkItem, rows: u64) -> Result<Taste> {
        let begun = Instant::now();
        let mut run = self.chain.start(None)?;
        let mut taste = Taste::default();
        let mut stream =
            read_split(self.open(&item.file)?, &item.split, Arc::clone(&self.spec.schema), &self.spec.read);
        while let Some(chunk) = stream.next().await {
            match chunk? {
                Chunk::Rows(batch) => {
                    taste.rows_in += batch.num_rows() as u64;
                    taste.text_bytes += text_bytes(&batch);
                    let ground = run.push(batch)?;
                    taste.rows_out += ground.batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
                }
                Chunk::Unreadable(_) => taste.rows_in += 1,
            }
            if taste.rows_in >= rows {
                taste.whole = false;
                taste.seconds = begun.elapsed().as_secs_f64();
                return Ok(taste);
            }
        }
        taste.rows_out += run.finish()?.batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        taste.whole = true;
        taste.seconds = begun.elapsed().as_secs_f64();
        Ok(taste)
    }

    /// A part of the run, to be read.
    pub(crate) async fn part(&self, part: &str) -> Result<OpenFile> {
        let found = self.stores.find(&format!("{}/{part}", self.folder.url())).await?;
        let options = &self.spec.parts;
        let (format, compression) = Format::of_name(part).unwrap_or_else(|| (options.format(), Compression::default()));
        let file = found.into_source(format, compression);
        self.open(&file)
    }

    fn open(&self, file: &SourceFile) -> Result<OpenFile> {
        let (store, path) = self.stores.open(&file.url)?;
        Ok(OpenFile::new(store, path, file.clone()).with_footers(self.footers.clone()))
    }

    async fn flow(
        &self,
        item: &WorkItem,
        parts: &mut Parts<'_>,
        progress: &Progress,
    ) -> Result<(Vec<gristmill_datasets::run::StepCount>, RowsRead)> {
        let mut rows = RowsRead::default();
        let mut run = self.chain.start(self.spec.label.as_deref())?;
        let mut stream =
            read_split(self.open(&item.file)?, &item.split, Arc::clone(&self.spec.schema), &self.spec.read);
        while let Some(chunk) = stream.next().await {
            match chunk? {
                Chunk::Rows(batch) => {
                    rows.read += batch.num_rows() as u64;
                    progress.add_read(batch.num_rows() as u64, text_bytes(&batch));
                    let ground = run.push(batch)?;
                    self.write(ground, item, parts, progress).await?;
                }
                Chunk::Unreadable(row) => {
                    rows.unreadable += 1;
                    progress.add_read(1, 0);
                    progress.add_aside(0, 1);
                    parts.quarantine(unreadable(row)).await?;
                }
            }
        }
        let ground = run.finish()?;
        self.write(ground, item, parts, progress).await?;
        Ok((run.counts(), rows))
    }

    async fn write(&self, ground: Ground, item: &WorkItem, parts: &mut Parts<'_>, progress: &Progress) -> Result<()> {
        for batch in ground.batches {
            progress.add_written(batch.num_rows() as u64);
            let written = batch.project(&self.output).map_err(engine)?;
            // From here on the writer alone holds the rows.
            drop(batch);
            parts.keep(written).await?;
        }
        for (step, rejected) in ground.rejected {
            progress.add_aside(rejected.rows.num_rows() as u64, 0);
            if self.spec.rejected {
                parts.reject(&rejected.rows, self.chain.step_name(step), &rejected.reason).await?;
            }
        }
        for (step, quarantined) in ground.quarantined {
            progress.add_aside(0, quarantined.rows.num_rows() as u64);
            let (id, step) = (&self.spec.read.id, self.chain.step_name(step));
            for row in quarantine_rows(&quarantined.rows, &item.file.url, id, step, &quarantined.error)? {
                parts.quarantine(row).await?;
            }
        }
        Ok(())
    }
}

/// What a sampled split gave.
#[derive(Clone, Debug, Default)]
pub struct Taste {
    /// Rows read.
    pub rows_in: u64,
    /// Rows that came out of the chain.
    pub rows_out: u64,
    /// Bytes of text read.
    pub text_bytes: u64,
    /// Time it took.
    pub seconds: f64,
    /// Whether the split was read to its end.
    pub whole: bool,
}

#[derive(Default)]
struct RowsRead {
    read: u64,
    unreadable: u64,
}

/// Opens the file of one kind that an attempt writes.
async fn create(
    mill: &Mill,
    (kind, split, attempt): (&str, u64, &str),
    schema: SchemaRef,
    options: &PartOptions,
) -> Result<(String, PartWriter)> {
    let name = part_name(kind, split, mill.spec.splits, attempt, options.extension());
    let path = mill.folder.path(&name);
    let location = format!("{}/{name}", mill.folder.url());
    let writer = PartWriter::create(Arc::clone(&mill.store), path, schema, options).await?;
    Ok((name, writer.located(location)))
}

/// The files that an attempt writes. Each is created when its first row comes, so that none is empty.
struct Parts<'a> {
    mill: &'a Mill,
    split: u64,
    attempt: &'a str,
    kept: Option<(String, PartWriter)>,
    rejected: Option<(String, PartWriter)>,
    quarantined: Option<(String, PartWriter)>,
    pending: Vec<QuarantineRow>,
}

struct Written {
    kept: Option<(String, PartSummary)>,
    rejected: Option<String>,
    quarantined: Option<String>,
}

impl<'a> Parts<'a> {
    fn new(mill: &'a Mill, split: u64, attempt: &'a str) -> Self {
        Self { mill, split, attempt, kept: None, rejected: None, quarantined: None, pending: Vec::new() }
    }

    async fn keep(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let options = &self.mill.spec.parts;
        if self.kept.is_none() {
            let schema = Arc::clone(&self.mill.output_schema);
            self.kept = Some(create(self.mill, ("data", self.split, self.attempt), schema, options).await?);
        }
        if let Some((_, writer)) = &mut self.kept {
            writer.write_owned(batch).await?;
        }
        Ok(())
    }

    async fn reject(&mut self, rows: &RecordBatch, step: &str, reason: &str) -> Result<()> {
        let schema = rejected_schema(&self.mill.spec.schema)?;
        let batch = rejected_batch(&schema, rows, step, reason)?;
        if self.rejected.is_none() {
            let place = ("rejected", self.split, self.attempt);
            self.rejected = Some(create(self.mill, place, schema, &side_options()).await?);
        }
        if let Some((_, writer)) = &mut self.rejected {
            writer.write(&batch).await?;
        }
        Ok(())
    }

    async fn quarantine(&mut self, row: QuarantineRow) -> Result<()> {
        self.pending.push(row);
        if self.pending.len() < QUARANTINE_ROWS { Ok(()) } else { self.flush_quarantine().await }
    }

    async fn flush_quarantine(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.quarantined.is_none() {
            let place = ("quarantine", self.split, self.attempt);
            self.quarantined = Some(create(self.mill, place, quarantine_schema(), &side_options()).await?);
        }
        let batch = quarantine_batch(&self.pending)?;
        self.pending.clear();
        if let Some((_, writer)) = &mut self.quarantined {
            writer.write(&batch).await?;
        }
        Ok(())
    }

    async fn close(mut self) -> Result<Written> {
        self.flush_quarantine().await?;
        let mut written = Written { kept: None, rejected: None, quarantined: None };
        if let Some((name, writer)) = self.kept.take() {
            written.kept = Some((name, writer.close().await?));
        }
        if let Some((name, writer)) = self.rejected.take() {
            writer.close().await?;
            written.rejected = Some(name);
        }
        if let Some((name, writer)) = self.quarantined.take() {
            writer.close().await?;
            written.quarantined = Some(name);
        }
        Ok(written)
    }

    /// Gives up the attempt. What cannot be removed now is named by no record and removed when the run is finished.
    async fn abort(self) {
        for (name, writer) in [self.kept, self.rejected, self.quarantined].into_iter().flatten() {
            if let Err(error) = writer.abort().await {
                tracing::warn!(part = name, %error, "an abandoned part could not be removed yet");
            }
        }
    }
}

/// Rejected and quarantined rows are Parquet whatever the sink writes: they are read by people with SQL.
fn side_options() -> PartOptions {
    PartOptions::Parquet(ParquetOptions::default())
}

fn unreadable(row: UnreadableRow) -> QuarantineRow {
    QuarantineRow {
        step: "read".to_owned(),
        error: row.error,
        source: row.source,
        offset: Some(row.offset),
        row: row.row,
        raw: Some(row.raw.to_vec()),
        length: Some(row.length),
        id: None,
    }
}

/// Rows that an operator could not process, each as JSON.
fn quarantine_rows(rows: &RecordBatch, source: &str, id: &str, step: &str, error: &str) -> Result<Vec<QuarantineRow>> {
    let ids = rows.column_by_name(id).map(|ids| arrow_cast::cast(ids, &DataType::Utf8)).transpose().map_err(engine)?;
    (0..rows.num_rows())
        .map(|row| {
            let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
            writer.write(&rows.slice(row, 1)).and_then(|()| writer.finish()).map_err(engine)?;
            let raw = writer.into_inner();
            let ids = ids.as_ref().and_then(|ids| ids.as_string_opt::<i32>());
            Ok(QuarantineRow {
                step: step.to_owned(),
                error: error.to_owned(),
                source: source.to_owned(),
                offset: None,
                row: None,
                length: Some(raw.len() as u64),
                raw: Some(raw),
                id: ids.filter(|ids| ids.is_valid(row)).map(|ids| ids.value(row).to_owned()),
            })
        })
        .collect()
}

/// Positions and schema of the columns that are written.
pub(crate) fn output_columns(schema: &SchemaRef, columns: Option<&[String]>) -> Result<(Vec<usize>, SchemaRef)> {
    let positions: Vec<usize> = match columns {
        None => (0..schema.fields().len()).collect(),
        Some(names) => names.iter().map(|name| schema.index_of(name).map_err(engine)).collect::<Result<_>>()?,
    };
    let projected = schema.project(&positions).map_err(engine)?;
    Ok((positions, Arc::new(projected)))
}

/// Bytes of all text in a batch.
fn text_bytes(batch: &RecordBatch) -> u64 {
    let bytes = |array: &dyn Array| match array.data_type() {
        DataType::Utf8 => {
            let offsets = array.as_string::<i32>().value_offsets();
            offsets.last().zip(offsets.first()).map_or(0, |(last, first)| u64::try_from(last - first).unwrap_or(0))
        }
        DataType::LargeUtf8 => {
            let offsets = array.as_string::<i64>().value_offsets();
            offsets.last().zip(offsets.first()).map_or(0, |(last, first)| u64::try_from(last - first).unwrap_or(0))
        }
        DataType::Utf8View => array.as_string_view().lengths().map(u64::from).sum(),
        _ => 0,
    };
    batch.columns().iter().map(|column| bytes(column.as_ref())).sum()
}

fn engine(error: arrow_schema::ArrowError) -> PipelineError {
    PipelineError::Engine(error.to_string())
}

/// Runs whose mills a worker keeps; more than it works on at a time, fewer than would hold many models in memory.
const KEPT_MILLS: usize = 8;

/// Mills by what they grind, for workers that get many splits of few runs: a term list is not compiled for each split.
#[derive(Debug, Default)]
pub(crate) struct Mills {
    /// The latest used is the last.
    bound: Mutex<Vec<(String, Arc<Mill>)>>,
}

impl Mills {
    pub(crate) fn get(&self, spec: &RunSpec, environment: &Environment) -> Result<Arc<Mill>> {
        let key = serde_json::to_string(spec).map_err(|error| PipelineError::Engine(error.to_string()))?;
        let mut bound = self.bound.lock();
        let entry = match bound.iter().position(|(known, _)| *known == key) {
            Some(place) => bound.remove(place),
            None => (key, Arc::new(Mill::bind(spec.clone(), environment)?)),
        };
        let mill = Arc::clone(&entry.1);
        bound.push(entry);
        let surplus = bound.len().saturating_sub(KEPT_MILLS);
        bound.drain(..surplus);
        Ok(mill)
    }
}
