//! A look at files or at a run's output: what there is, and its first rows.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gristmill_datasets::run::RunFolder;
use gristmill_datasets::{Chunk, DatasetError, Format, ListOptions, OpenFile, ReadOptions, SourceFile};
use serde_json::Value;

use crate::environment::Environment;
use crate::error::{PipelineError, Result};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// The files, in order; of a run the first ones.
    pub files: Vec<SourceFile>,
    /// How many files there are.
    pub total_files: u64,
    /// Bytes of all files, as stored.
    pub stored: u64,
    /// Rows in all files, where that is known without reading them.
    pub rows: Option<u64>,
    /// Schema of the rows.
    pub schema: SchemaRef,
    /// The first rows, each a JSON object.
    pub head: Vec<Value>,
    /// What is wrong with those of the first rows that cannot be read, with their places.
    pub unreadable: Vec<String>,
}

/// Looks at files: a path, a glob, a folder or a data set.
pub async fn files(target: &str, environment: &Environment, rows: usize) -> Result<Inspection> {
    let found = environment.stores.list(&[target.to_owned()], &ListOptions::default()).await?;
    let files: Vec<SourceFile> = found
        .into_iter()
        .map(|found| {
            let (format, compression) = Format::of_name(found.name()).ok_or_else(|| DatasetError::Location {
                location: found.url.clone(),
                message: "the format cannot be told from the name".to_owned(),
            })?;
            Ok(found.into_source(format, compression))
        })
        .collect::<Result<_, DatasetError>>()?;
    look(files, environment, rows).await
}

/// Looks at the ranking of a run or at its parts, also while it runs.
pub async fn run_output(folder: &RunFolder, url: &str, environment: &Environment, rows: usize) -> Result<Inspection> {
    // A ranking is what its parts were for.
    if let Some(ranking) = crate::run::ranking_of(environment, url).await? {
        let found = environment.stores.find(&format!("{url}/{}", ranking.path)).await?;
        let format = Format::of_name(found.name());
        let files = format.map(|(format, compression)| found.into_source(format, compression)).into_iter().collect();
        return Ok(Inspection { rows: Some(ranking.rows), ..look(files, environment, rows).await? });
    }
    let records = match folder.read_manifest().await? {
        Some(manifest) => manifest.records,
        None => {
            let mut records = Vec::new();
            for split in folder.committed().await? {
                records.extend(folder.read_commit(split).await?);
            }
            records
        }
    };
    let mut files = Vec::new();
    for part in records.iter().filter_map(|record| record.part.as_ref()) {
        let found = environment.stores.find(&format!("{url}/{part}")).await?;
        if let Some((format, compression)) = Format::of_name(found.name()) {
            files.push(found.into_source(format, compression));
        }
        // The head comes from the first parts; the others only count.
        if files.len() >= 5 {
            break;
        }
    }
    let mut inspection = look(files, environment, rows).await?;
    inspection.rows = Some(records.iter().map(|record| record.rows_out).sum());
    inspection.stored = records.iter().map(|record| record.bytes_out).sum();
    inspection.total_files = records.iter().filter(|record| record.part.is_some()).count() as u64;
    Ok(inspection)
}

async fn look(files: Vec<SourceFile>, environment: &Environment, rows: usize) -> Result<Inspection> {
    let open = |file: &SourceFile| -> Result<OpenFile> {
        let (store, path) = environment.stores.open(&file.url)?;
        Ok(OpenFile::new(store, path, file.clone()))
    };
    let (total_files, stored) = (files.len() as u64, files.iter().map(|file| file.size).sum());
    let Some(first) = files.first() else {
        let schema = Arc::new(arrow_schema::Schema::empty());
        return Ok(Inspection {
            files,
            total_files,
            stored,
            rows: Some(0),
            schema,
            head: Vec::new(),
            unreadable: Vec::new(),
        });
    };
    let options = read_options(rows as u64);
    let schema = gristmill_datasets::source_schema(vec![open(first)?], &options).await?;
    let (mut head, mut unreadable) = (Vec::new(), Vec::new());
    let mut chunks = chunks_of(open(first)?, read_options(rows as u64)).await?;
    while let Some(chunk) = chunks.try_next().await? {
        match chunk {
            Chunk::Rows(batch) => head.extend(as_json(&batch)?),
            Chunk::Unreadable(row) => {
                unreadable
                    .push(format!("'{}': the row at byte {} cannot be read: {}", row.source, row.offset, row.error));
            }
        }
    }
    head.truncate(rows);
    Ok(Inspection { files, total_files, stored, rows: None, schema, head, unreadable })
}

/// The first rows of a file, with whatever columns it has. Unreadable rows are passed over.
pub(crate) async fn rows_of(file: OpenFile, rows: u64) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    batches_of(file, read_options(rows)).await
}

/// All rows of a file, of the columns that are named.
pub(crate) async fn columns_of(
    file: OpenFile,
    columns: Vec<String>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    batches_of(file, ReadOptions { require_text: false, columns: Some(columns), ..ReadOptions::default() }).await
}

async fn batches_of(file: OpenFile, options: ReadOptions) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let batches = chunks_of(file, options).await?.filter_map(|chunk| async move {
        match chunk {
            Ok(Chunk::Rows(batch)) => Some(Ok(batch)),
            Ok(Chunk::Unreadable(_)) => None,
            Err(error) => Some(Err(error)),
        }
    });
    Ok(batches.boxed())
}

async fn chunks_of(file: OpenFile, options: ReadOptions) -> Result<BoxStream<'static, Result<Chunk>>> {
    let plan = gristmill_datasets::plan(vec![file.clone()], &options).await?;
    let schema = plan.schema;
    let chunks = futures::stream::iter(plan.splits)
        .flat_map(move |split| gristmill_datasets::read_split(file.clone(), &split, Arc::clone(&schema), &options));
    Ok(chunks.map(|chunk| chunk.map_err(PipelineError::from)).boxed())
}

/// A look asks nothing of the columns.
fn read_options(rows: u64) -> ReadOptions {
    ReadOptions { require_text: false, limit: Some(rows), ..ReadOptions::default() }
}

fn as_json(batch: &RecordBatch) -> Result<Vec<Value>> {
    let engine = |error: &dyn std::fmt::Display| PipelineError::Engine(error.to_string());
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| engine(&error))?;
    let bytes = writer.into_inner();
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).map_err(|error| engine(&error)))
        .collect()
}
