//! Reading Arrow IPC: files, whose record batches can be entered one by one, and streams, which are read from the begin.
//!
//! Which of the two a file is says its first bytes, not its name: saved data sets name streams `.arrow`, too.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{FileDecoder, StreamDecoder, read_footer_length};
use arrow_ipc::{Block, MetadataVersion, root_as_footer, root_as_message};
use arrow_schema::{Schema, SchemaRef};

use super::columns::{Origin, Positions, Shaper, origins};
use super::options::ReadOptions;
use super::source::{ByteStream, OpenFile};
use super::{Chunk, guarded};
use crate::error::{DatasetError, Result};
use crate::split::{Split, SplitUnit};

const MAGIC: &[u8] = b"ARROW1";
/// What marks the begin of a message since version 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Headers of record batches this near to each other are read in one request.
const HEADER_GAP: u64 = 64 << 10;

/// What the end of an IPC file says.
pub(crate) struct IpcFooter {
    pub(crate) schema: SchemaRef,
    version: MetadataVersion,
    dictionaries: Vec<Block>,
    batches: Vec<Block>,
}

/// The footer of an IPC file; `None` when it is a stream.
pub(crate) async fn footer(file: &OpenFile) -> Result<Option<IpcFooter>> {
    let size = file.file.size;
    if size < 8 {
        return Err(file.malformed(format!("{size} bytes are too few for Arrow IPC")));
    }
    let begin = file.bytes(0..8).await?;
    if !begin.starts_with(MAGIC) {
        // Streams of old versions begin with the length of the schema, which is short.
        let length = u32::from_le_bytes([begin[0], begin[1], begin[2], begin[3]]);
        if begin[..4] == CONTINUATION || (1..=MAX_OLD_SCHEMA).contains(&length) {
            return Ok(None);
        }
        return Err(file.malformed("neither an Arrow IPC file nor a stream"));
    }
    let truncated = || file.malformed("the footer of the Arrow IPC file is missing or damaged: truncated");
    if size < 18 {
        return Err(truncated());
    }
    let end = file.bytes(size - 10..size).await?;
    let trailer: [u8; 10] = end[..].try_into().map_err(|_| truncated())?;
    let length = read_footer_length(trailer).map_err(|_| truncated())? as u64;
    let start = (size - 10).checked_sub(length).filter(|start| length > 0 && *start >= 8).ok_or_else(truncated)?;
    let bytes = file.bytes(start..size - 10).await?;
    let parsed = guarded(|| parse_footer(&bytes)).and_then(|footer| footer);
    let footer = parsed.map_err(|error| file.malformed(format!("footer: {error}")))?;
    for block in footer.dictionaries.iter().chain(&footer.batches) {
        if place(block).is_none_or(|place| place.end > start) {
            return Err(file.malformed("a record batch lies outside of the file: truncated or damaged"));
        }
    }
    Ok(Some(footer))
}

const MAX_OLD_SCHEMA: u32 = 16 << 20;

fn parse_footer(bytes: &[u8]) -> Result<IpcFooter, String> {
    let footer = root_as_footer(bytes).map_err(|error| error.to_string())?;
    let schema = footer.schema().ok_or("it has no schema")?;
    Ok(IpcFooter {
        schema: Arc::new(fb_to_schema(schema)),
        version: footer.version(),
        dictionaries: footer.dictionaries().iter().flatten().copied().collect(),
        batches: footer.recordBatches().iter().flatten().copied().collect(),
    })
}

/// Bytes of a message with its body.
fn place(block: &Block) -> Option<Range<u64>> {
    let start = u64::try_from(block.offset()).ok()?;
    let metadata = u64::try_from(block.metaDataLength()).ok().filter(|length| *length >= 8)?;
    let body = u64::try_from(block.bodyLength()).ok()?;
    Some(start..start.checked_add(metadata)?.checked_add(body)?)
}

impl IpcFooter {
    /// Rows and stored bytes of each record batch, read from the headers of their messages.
    pub(crate) async fn groups(&self, file: &OpenFile) -> Result<Vec<(u64, u64)>> {
        let places: Vec<Range<u64>> = self.batches.iter().filter_map(place).collect();
        let headers: Vec<Range<u64>> = places
            .iter()
            .zip(&self.batches)
            .map(|(place, block)| place.start..place.start + block.metaDataLength() as u64)
            .collect();
        let mut groups = Vec::with_capacity(headers.len());
        // Headers of many batches are read in portions, so that neither requests nor memory grow with the file.
        for (headers, places) in headers.chunks(256).zip(places.chunks(256)) {
            for (bytes, place) in file.ranges(headers, HEADER_GAP).await?.iter().zip(places) {
                let rows = guarded(|| message_rows(bytes)).and_then(|rows| rows);
                let rows = rows.map_err(|error| file.malformed(format!("record batch at {}: {error}", place.start)))?;
                groups.push((rows, place.end - place.start));
            }
        }
        Ok(groups)
    }
}

fn message_rows(bytes: &[u8]) -> Result<u64, String> {
    let begin = if bytes.starts_with(&CONTINUATION) { 8 } else { 4 };
    let message = root_as_message(bytes.get(begin..).unwrap_or_default()).map_err(|error| error.to_string())?;
    let batch = message.header_as_record_batch().ok_or("it is no record batch")?;
    u64::try_from(batch.length()).map_err(|_| "its length is negative".to_owned())
}

/// Reads the rows of a split.
pub(crate) struct IpcReader {
    file: OpenFile,
    batches: Batches,
    shaper: Option<Shaper>,
    plan_schema: SchemaRef,
    options: ReadOptions,
    skip: u64,
    take: u64,
    source_row: Option<u64>,
    file_row: Option<u64>,
    /// Rows of a large record batch that are still to be given.
    rest: Option<RecordBatch>,
}

enum Batches {
    File { decoder: FileDecoder, blocks: VecDeque<Block> },
    Stream(IpcStream),
}

impl IpcReader {
    pub(crate) async fn open(
        file: OpenFile,
        split: &Split,
        plan_schema: SchemaRef,
        options: &ReadOptions,
    ) -> Result<Self> {
        let footer = footer(&file).await?;
        let (batches, shaper) = match (split.unit, footer) {
            (SplitUnit::RowGroups, Some(footer)) => {
                let blocks = footer.batches.get(split.start as usize..split.end as usize).ok_or_else(|| {
                    DatasetError::Changed {
                        location: file.file.url.clone(),
                        message: format!("record batches {}..{} were planned", split.start, split.end),
                    }
                })?;
                let origins = origins(&plan_schema, Some(&footer.schema), options);
                let mut decoder = FileDecoder::new(Arc::clone(&footer.schema), footer.version)
                    .with_projection(projection(&footer.schema, &origins));
                for block in &footer.dictionaries {
                    let buffer = read_block(&file, block).await?;
                    guarded(|| decoder.read_dictionary(block, &buffer))
                        .and_then(|read| read.map_err(|error| error.to_string()))
                        .map_err(|error| file.malformed(format!("dictionary at {}: {error}", block.offset())))?;
                }
                let shaper = Shaper::new(Arc::clone(&plan_schema), origins, &file.file.url);
                (Batches::File { decoder, blocks: blocks.iter().copied().collect() }, Some(shaper))
            }
            (SplitUnit::File, None) => (Batches::Stream(IpcStream::open(&file)), None),
            (unit, _) => {
                return Err(DatasetError::Changed {
                    location: file.file.url.clone(),
                    message: format!("its form does not fit a split by {unit:?}"),
                });
            }
        };
        Ok(Self {
            file,
            batches,
            shaper,
            plan_schema,
            options: options.clone(),
            skip: split.skip,
            take: split.take.unwrap_or(u64::MAX),
            source_row: split.first_row,
            file_row: split.file_row,
            rest: None,
        })
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            if self.take == 0 {
                return Ok(None);
            }
            if let Some(batch) = self.rest.take() {
                return self.shape(batch).map(Some);
            }
            let Some(batch) = self.next_batch().await? else { return Ok(None) };
            let rows = batch.num_rows() as u64;
            let left_out = self.skip.min(rows);
            self.skip -= left_out;
            if left_out < rows {
                let wanted = (rows - left_out).min(self.take) as usize;
                self.rest = Some(batch.slice(left_out as usize, wanted));
            }
        }
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        match &mut self.batches {
            Batches::Stream(stream) => stream.next().await,
            Batches::File { decoder, blocks } => {
                let Some(block) = blocks.pop_front() else { return Ok(None) };
                let buffer = read_block(&self.file, &block).await?;
                guarded(|| decoder.read_record_batch(&block, &buffer))
                    .and_then(|read| read.map_err(|error| error.to_string()))
                    .and_then(|batch| batch.ok_or_else(|| "it is empty".to_owned()))
                    .map(Some)
                    .map_err(|error| self.file.malformed(format!("record batch at {}: {error}", block.offset())))
            }
        }
    }

    /// Gives the first rows of a batch, as many as a batch may have, and keeps the others.
    fn shape(&mut self, batch: RecordBatch) -> Result<Chunk> {
        let all = batch.num_rows();
        let per_row = batch.get_array_memory_size() / all.max(1);
        let rows = (self.options.batch_bytes / per_row.max(1)).clamp(1, self.options.batch_rows).min(all);
        if rows < all {
            self.rest = Some(batch.slice(rows, all - rows));
        }
        let batch = batch.slice(0, rows);
        let shaper = match &mut self.shaper {
            Some(shaper) => shaper,
            slot => {
                let origins = origins(&self.plan_schema, Some(&batch.schema()), &self.options);
                slot.insert(Shaper::new(Arc::clone(&self.plan_schema), origins, &self.file.file.url))
            }
        };
        let positions = Positions { source: self.source_row, file: self.file_row, kept: None };
        let shaped = shaper.shape(&batch, &positions).map_err(|error| self.file.malformed(error))?;
        let rows = rows as u64;
        self.take -= rows;
        self.source_row = self.source_row.map(|row| row + rows);
        self.file_row = self.file_row.map(|row| row + rows);
        Ok(Chunk::Rows(shaped))
    }
}

/// The top-level columns that are read.
fn projection(schema: &Schema, origins: &[Origin]) -> Vec<usize> {
    let is_read =
        |name: &String| origins.iter().any(|origin| matches!(origin, Origin::Path(path) if path.first() == Some(name)));
    schema.fields().iter().enumerate().filter(|(_, field)| is_read(field.name())).map(|(index, _)| index).collect()
}

async fn read_block(file: &OpenFile, block: &Block) -> Result<Buffer> {
    let place = place(block).ok_or_else(|| file.malformed("a record batch has no place"))?;
    Ok(Buffer::from(file.bytes(place).await?))
}

/// The record batches of a stream.
pub(crate) struct IpcStream {
    file: OpenFile,
    bytes: ByteStream,
    decoder: StreamDecoder,
    pending: Buffer,
}

impl IpcStream {
    pub(crate) fn open(file: &OpenFile) -> Self {
        let bytes = ByteStream::new(file.clone(), 0, file.file.size);
        Self { file: file.clone(), bytes, decoder: StreamDecoder::new(), pending: Buffer::default() }
    }

    /// Only the begin of a stream is going to be read.
    pub(crate) fn peek(file: &OpenFile) -> Self {
        let bytes = ByteStream::new(file.clone(), 0, 64 << 10);
        Self { file: file.clone(), bytes, decoder: StreamDecoder::new(), pending: Buffer::default() }
    }

    /// The schema at the begin of the stream.
    pub(crate) async fn schema(&mut self) -> Result<SchemaRef> {
        loop {
            if let Some(schema) = self.decoder.schema() {
                return Ok(schema);
            }
            if self.step().await?.is_none() {
                return Err(self.file.malformed("the Arrow IPC stream has no schema"));
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match self.step().await? {
                Some(Some(batch)) => return Ok(Some(batch)),
                Some(None) => {}
                None => {
                    return match self.decoder.finish() {
                        Ok(()) => Ok(None),
                        Err(_) => Err(self.file.malformed("truncated Arrow IPC stream: the end is missing")),
                    };
                }
            }
        }
    }

    /// Decodes what is there; `None` at the end of the file.
    async fn step(&mut self) -> Result<Option<Option<RecordBatch>>> {
        if self.pending.is_empty() {
            match self.bytes.next().await? {
                Some(bytes) => self.pending = Buffer::from(bytes),
                None => return Ok(None),
            }
        }
        guarded(|| self.decoder.decode(&mut self.pending))
            .and_then(|decoded| decoded.map_err(|error| error.to_string()))
            .map(Some)
            .map_err(|error| self.file.malformed(format!("Arrow IPC stream: {error}")))
    }
}

/// Number of rows of a stream, or `at_most`; and whether its end was reached.
pub(crate) async fn count_rows(file: &OpenFile, at_most: u64) -> Result<(u64, bool)> {
    let mut stream = IpcStream::open(file);
    let mut rows = 0;
    while let Some(batch) = stream.next().await? {
        rows += batch.num_rows() as u64;
        if rows >= at_most {
            return Ok((at_most, false));
        }
    }
    Ok((rows, true))
}
