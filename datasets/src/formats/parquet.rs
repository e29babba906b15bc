//! Reading Parquet: footers, and row groups one after the other.
//!
//! The column chunks that are needed of a row group are fetched in as few requests as their places allow, and the
//! next row group is fetched while one is decoded. A split that takes only some rows of a row group reads only the
//! pages with those rows, where the file has a page index.
//!
//! A row group that stores more than [`GROUP_BATCHES`] times `batch_bytes` is read as several windows of rows when
//! the file has a page index, so that memory does not follow the size of row groups; without one its column chunks
//! are held at once, and nothing is fetched ahead.
//!
//! How many rows a batch has follows from the footer: as many as have about `batch_bytes` by the mean of the row
//! group. Dictionary-encoded values can be far larger than the footer says; when the strings of a batch would not fit
//! the 32-bit offsets, the rows are decoded again in smaller batches.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::schema::types::SchemaDescriptor;
use tokio::task::JoinHandle;

use super::columns::{Origin, Positions, Shaper, origins};
use super::options::ReadOptions;
use super::source::OpenFile;
use super::{Chunk, guarded};
use crate::error::{DatasetError, Result};
use crate::split::Split;

/// What every Parquet file begins and ends with.
const MARK: &[u8] = b"PAR1";
/// What a file with an encrypted footer ends with.
const ENCRYPTED: &[u8] = b"PARE";

/// What is fetched first from the end of a file: holds the footer of most files.
const FOOTER_GUESS: usize = 64 << 10;

/// Column chunks this near to each other are read in one request; pages of a part of a row group must be nearer,
/// because what lies between them is most of what shall not be read.
const GAP: u64 = 1 << 20;
const PAGE_GAP: u64 = 64 << 10;

/// Stored bytes of a row group that are held at once, in units of `batch_bytes`: 64 MiB by default.
const GROUP_BATCHES: u64 = 8;

/// The footer of a file, from the cache where it is there.
pub(crate) async fn footer(file: &OpenFile, with_pages: bool) -> Result<Arc<ParquetMetaData>> {
    if let Some(footer) = file.footers.get(&file.file, with_pages) {
        return Ok(footer);
    }
    if file.file.size < 12 {
        return Err(file.malformed(format!("{} bytes are too few for a Parquet file", file.file.size)));
    }
    let policy = if with_pages { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
    let footer = ParquetMetaDataReader::new()
        .with_page_index_policy(policy)
        .with_prefetch_hint(Some(FOOTER_GUESS))
        .load_and_finish(Fetch(file), file.file.size)
        .await
        .map_err(|error| parquet_error(file, "footer", error));
    let footer = match footer {
        Ok(footer) => footer,
        Err(error @ DatasetError::Malformed { .. }) => return Err(no_parquet(file, error).await),
        Err(error) => return Err(error),
    };
    check_places(file, &footer)?;
    let footer = Arc::new(footer);
    file.footers.put(&file.file, with_pages, &footer);
    Ok(footer)
}

/// Says of a file without a readable footer what it is: another file, one that was cut short, or a damaged one.
async fn no_parquet(file: &OpenFile, error: DatasetError) -> DatasetError {
    let size = file.file.size;
    let (Ok(head), Ok(tail)) = (file.bytes(0..size.min(64)).await, file.bytes(size - 8..size).await) else {
        return error;
    };
    if let Some(mistaken) = file.mistaken(&head) {
        return mistaken;
    }
    if tail.ends_with(ENCRYPTED) {
        return file.malformed("the file is encrypted, and encrypted Parquet is not read");
    }
    if !head.starts_with(MARK) {
        return file.malformed("no Parquet file: it does not begin with 'PAR1'");
    }
    if !tail.ends_with(MARK) {
        return file.malformed(format!(
            "the footer is missing: the file ends at byte {size} without the 'PAR1' of a whole Parquet file, so it is cut \
             short or still being written"
        ));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    match (size - 8).checked_sub(length) {
        Some(start) => match error {
            DatasetError::Malformed { message, .. } => {
                let reason = message.strip_prefix("footer: ").unwrap_or(&message);
                file.malformed(format!("the footer at byte {start} is damaged: {reason}"))
            }
            other => other,
        },
        None => file.malformed(format!("the footer is damaged: it would have {length} bytes, in a file of {size}")),
    }
}

/// The schema of the record batches that a file holds.
pub(crate) fn schema(file: &OpenFile, footer: &Arc<ParquetMetaData>) -> Result<SchemaRef> {
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(footer), ArrowReaderOptions::new())
        .map_err(|error| parquet_error(file, "schema", error))?;
    Ok(Arc::clone(metadata.schema()))
}

/// A corrupt footer that still parses must not make a request for bytes that are not there.
fn check_places(file: &OpenFile, footer: &ParquetMetaData) -> Result<()> {
    for (number, group) in footer.row_groups().iter().enumerate() {
        if group.num_rows() < 0 {
            return Err(file.malformed(format!("row group {number} has {} rows", group.num_rows())));
        }
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let fits = start >= 0 && column.compressed_size() >= 0;
            if !fits || end.is_none_or(|end| end as u64 > file.file.size) {
                return Err(file.malformed(format!(
                    "row group {number}, column '{}' lies outside of the file: truncated or damaged",
                    column.column_path().string()
                )));
            }
        }
    }
    Ok(())
}

struct Fetch<'a>(&'a OpenFile);

impl MetadataFetch for Fetch<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let read = self.0.bytes(range);
        async move { read.await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }
}

/// A failure of reading bytes keeps what it is; everything else is a fault of the file.
fn parquet_error(file: &OpenFile, place: &str, error: ParquetError) -> DatasetError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<DatasetError>() {
            Ok(error) => *error,
            Err(error) => file.malformed(format!("{place}: {error}")),
        },
        error => {
            let text = error.to_string();
            file.malformed(format!("{place}: {}", text.strip_prefix("Parquet error: ").unwrap_or(&text)))
        }
    }
}

/// Rows of a row group that are still to be read.
#[derive(Clone, Copy, Debug)]
struct Window {
    group: usize,
    /// Position of the row group's first row in the file.
    first_row: u64,
    skip: u64,
    take: u64,
    batch_rows: usize,
}

/// Reads the rows of a split.
pub(crate) struct ParquetReader {
    file: OpenFile,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    shaper: Shaper,
    windows: VecDeque<Window>,
    current: Option<(Window, ParquetRecordBatchReader)>,
    ahead: Option<Ahead>,
    /// Stored bytes that may be fetched ahead.
    budget: u64,
    /// Position in the source of the file's first row, where known; may lie before 0 in a file that begins before the
    /// source.
    file_first_row: Option<i128>,
}

/// Column chunks of a row group that are being fetched.
struct Ahead {
    group: usize,
    ranges: Vec<Range<u64>>,
    bytes: JoinHandle<Result<Vec<Bytes>>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.bytes.abort();
    }
}

impl ParquetReader {
    pub(crate) async fn open(
        file: OpenFile,
        split: &Split,
        plan_schema: SchemaRef,
        options: &ReadOptions,
    ) -> Result<Self> {
        let mut footer = footer(&file, false).await?;
        let groups = footer.num_row_groups() as u64;
        if split.end > groups || split.start > split.end {
            return Err(DatasetError::Changed {
                location: file.file.url.clone(),
                message: format!("row groups {}..{} of {groups} were planned", split.start, split.end),
            });
        }
        let origins = origins(&plan_schema, Some(schema(&file, &footer)?.as_ref()), options);
        let mask = mask(footer.file_metadata().schema_descr(), &origins);
        let budget = GROUP_BATCHES * options.batch_bytes as u64;
        let groups = &footer.row_groups()[split.start as usize..split.end as usize];
        let large = groups.iter().any(|group| stored_bytes(group, &mask) > budget);
        if large || split.skip > 0 || split.take.is_some() {
            footer = self::footer(&file, true).await?;
        }
        let metadata = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())
            .map_err(|error| parquet_error(&file, "schema", error))?;
        let windows = windows(metadata.metadata(), &mask, split, options);
        let start_row: u64 = rows_before(metadata.metadata(), split.start);
        let file_first_row = split.first_row.map(|row| i128::from(row) - i128::from(start_row + split.skip));
        let shaper = Shaper::new(plan_schema, origins, &file.file.url);
        Ok(Self { file, metadata, mask, shaper, windows, current: None, ahead: None, budget, file_first_row })
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            if let Some((window, reader)) = &mut self.current {
                let place = format!("row group {}", window.group);
                let decoded = guarded(|| reader.next().transpose());
                match decoded {
                    Ok(Ok(Some(batch))) => {
                        let chunk = self.shape(&batch)?;
                        return Ok(Some(chunk));
                    }
                    Ok(Ok(None)) if window.take == 0 => {
                        self.current = None;
                    }
                    Ok(Ok(None)) => {
                        let message = format!("{place}: {} rows less than its footer says", window.take);
                        return Err(self.file.malformed(message));
                    }
                    // Strings of a batch can pass 2 GiB when they are stored once and used often.
                    Ok(Err(error)) if window.batch_rows > 1 && error.to_string().contains("overflow") => {
                        let smaller = Window { batch_rows: (window.batch_rows / 16).max(1), ..*window };
                        self.windows.push_front(smaller);
                        self.current = None;
                    }
                    Ok(Err(error)) => return Err(self.file.malformed(format!("{place}: {error}"))),
                    Err(panic) => return Err(self.file.malformed(format!("{place}: {panic}"))),
                }
                continue;
            }
            let Some(window) = self.windows.pop_front() else { return Ok(None) };
            if window.take > 0 {
                let reader = self.open_group(window).await?;
                self.current = Some((window, reader));
            }
        }
    }

    fn shape(&mut self, batch: &RecordBatch) -> Result<Chunk> {
        let Some((window, _)) = &mut self.current else { return Err(self.file.malformed("no row group is open")) };
        let row = window.first_row + window.skip;
        let rows = batch.num_rows() as u64;
        window.skip += rows;
        window.take = window.take.saturating_sub(rows);
        let source = self.file_first_row.and_then(|first| u64::try_from(first + i128::from(row)).ok());
        let positions = Positions { source, file: Some(row), kept: None };
        let shaped = self.shaper.shape(batch, &positions);
        shaped.map(Chunk::Rows).map_err(|error| self.file.malformed(format!("rows from {row}: {error}")))
    }

    async fn open_group(&mut self, window: Window) -> Result<ParquetRecordBatchReader> {
        let place = format!("row group {}", window.group);
        let gap = if self.is_whole(&window) { GAP } else { PAGE_GAP };
        let mut decoder = ParquetPushDecoderBuilder::new_with_metadata(self.metadata.clone())
            .with_projection(self.mask.clone())
            .with_row_groups(vec![window.group])
            .with_batch_size(window.batch_rows)
            .with_offset(window.skip as usize)
            .with_limit(window.take as usize)
            .build()
            .map_err(|error| parquet_error(&self.file, &place, error))?;
        if let Some(mut ahead) = self.ahead.take()
            && ahead.group == window.group
        {
            let bytes = (&mut ahead.bytes).await.map_err(|error| DatasetError::Transient {
                location: self.file.file.url.clone(),
                message: error.to_string(),
            })??;
            let ranges = std::mem::take(&mut ahead.ranges);
            decoder.push_ranges(ranges, bytes).map_err(|error| parquet_error(&self.file, &place, error))?;
        }
        loop {
            let step = guarded(|| decoder.try_next_reader())
                .map_err(|panic| self.file.malformed(format!("{place}: {panic}")))?
                .map_err(|error| parquet_error(&self.file, &place, error))?;
            match step {
                DecodeResult::Data(reader) => {
                    self.fetch_ahead();
                    return Ok(reader);
                }
                DecodeResult::NeedsData(ranges) => {
                    let bytes = self.file.ranges(&ranges, gap).await?;
                    push(&mut decoder, ranges, bytes).map_err(|error| parquet_error(&self.file, &place, error))?;
                }
                DecodeResult::Finished => {
                    return Err(self.file.malformed(format!("{place} has fewer rows than its footer says")));
                }
            }
        }
    }

    fn is_whole(&self, window: &Window) -> bool {
        window.skip == 0 && window.take == self.metadata.metadata().row_group(window.group).num_rows() as u64
    }

    /// Starts to fetch the row group that comes next, unless it is a partial one, whose pages are not known yet.
    fn fetch_ahead(&mut self) {
        let Some(next) = self.windows.front() else { return };
        let group = self.metadata.metadata().row_group(next.group);
        if !self.is_whole(next) || stored_bytes(group, &self.mask) > self.budget {
            return;
        }
        let ranges: Vec<Range<u64>> = selected(group, &self.mask)
            .map(|column| {
                let (start, length) = group.column(column).byte_range();
                start..start + length
            })
            .collect();
        let file = self.file.clone();
        let wanted = ranges.clone();
        let bytes = tokio::spawn(async move { file.ranges(&wanted, GAP).await });
        self.ahead = Some(Ahead { group: next.group, ranges, bytes });
    }
}

fn push(decoder: &mut ParquetPushDecoder, ranges: Vec<Range<u64>>, bytes: Vec<Bytes>) -> parquet::errors::Result<()> {
    decoder.push_ranges(ranges, bytes)
}

/// The leaf columns under the paths that are read.
fn mask(schema: &SchemaDescriptor, origins: &[Origin]) -> ProjectionMask {
    let leaves = schema.columns().iter().enumerate().filter(|(_, leaf)| {
        origins.iter().any(|origin| match origin {
            Origin::Path(path) => leaf.path().parts().starts_with(path),
            _ => false,
        })
    });
    ProjectionMask::leaves(schema, leaves.map(|(index, _)| index))
}

fn selected<'a>(group: &'a RowGroupMetaData, mask: &'a ProjectionMask) -> impl Iterator<Item = usize> + 'a {
    (0..group.num_columns()).filter(|column| mask.leaf_included(*column))
}

fn rows_before(footer: &ParquetMetaData, group: u64) -> u64 {
    footer.row_groups()[..group as usize].iter().map(|group| group.num_rows() as u64).sum()
}

fn windows(footer: &ParquetMetaData, mask: &ProjectionMask, split: &Split, options: &ReadOptions) -> VecDeque<Window> {
    let mut first_row = rows_before(footer, split.start);
    let (mut skip, mut take) = (split.skip, split.take.unwrap_or(u64::MAX));
    let mut windows = VecDeque::new();
    for index in split.start as usize..split.end as usize {
        let group = footer.row_group(index);
        let rows = group.num_rows() as u64;
        let left_out = skip.min(rows);
        let taken = take.min(rows - left_out);
        let batch_rows = batch_rows(group, mask, options);
        let piece = if has_pages(footer, index) {
            let pieces = stored_bytes(group, mask).div_ceil(GROUP_BATCHES * options.batch_bytes as u64);
            rows.div_ceil(pieces.max(1)).max(1)
        } else {
            rows.max(1)
        };
        let mut from = left_out;
        while from < left_out + taken {
            let to = (from + piece).min(left_out + taken);
            windows.push_back(Window { group: index, first_row, skip: from, take: to - from, batch_rows });
            from = to;
        }
        (skip, take) = (skip - left_out, take - taken);
        first_row += rows;
    }
    windows
}

/// Whether the places of the pages of a row group are known.
fn has_pages(footer: &ParquetMetaData, group: usize) -> bool {
    footer.offset_index().and_then(|index| index.get(group)).is_some_and(|columns| !columns.is_empty())
}

fn stored_bytes(group: &RowGroupMetaData, mask: &ProjectionMask) -> u64 {
    selected(group, mask).map(|column| group.column(column).byte_range().1).sum()
}

/// As many rows as have `batch_bytes` by the mean of the row group.
fn batch_rows(group: &RowGroupMetaData, mask: &ProjectionMask, options: &ReadOptions) -> usize {
    let bytes: u64 = selected(group, mask)
        .map(|column| {
            let column = group.column(column);
            let stored = column.uncompressed_size().max(0) as u64;
            stored.max(column.unencoded_byte_array_data_bytes().unwrap_or(0).max(0) as u64)
        })
        .sum();
    let rows = (group.num_rows().max(1) as u64).saturating_mul(options.batch_bytes as u64) / bytes.max(1);
    rows.clamp(1, options.batch_rows as u64) as usize
}
