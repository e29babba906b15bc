//! Reading text formats: bytes, rows, record batches.
//!
//! Rows are collected in blocks of about `batch_bytes` and a block is decoded at once. When a block does not decode,
//! every row of it is tried alone: those that fail come out as unreadable rows, the others are decoded together
//! again. So one bad row costs decoding its block twice, and which rows are good does not depend on their neighbours.

use std::collections::VecDeque;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use bytes::{Buf, Bytes};

use super::columns::{Positions, Shaper, needed, origins};
use super::csv::{CsvRows, Header};
use super::decompress::TextStream;
use super::json::JsonRows;
use super::options::ReadOptions;
use super::records::{Block, CsvFramer, Framer, JsonFramer, LineFramer, MAX_RAW_BYTES, MAX_ROW_BYTES, Record, Sink};
use super::source::OpenFile;
use super::{Chunk, UnreadableRow, guarded};
use crate::error::{DatasetError, Result};
use crate::split::{Format, Split, SplitUnit};

/// Decodes rows that a framer found.
pub(crate) trait RowDecoder: Send {
    /// One row of the batch for each record, or an error when any of them is wrong.
    fn decode(&mut self, bytes: &[u8], records: &[Record]) -> Result<RecordBatch, String>;
}

/// The rows of a file, or of a range of it, one after the other into a sink.
pub(crate) struct RowStream {
    file: OpenFile,
    stream: TextStream,
    framer: Framer,
    pending: Bytes,
    /// The next piece is the first of the file.
    begin: bool,
    finished: bool,
}

impl RowStream {
    /// The rows whose first byte lies in `start..end`; compressed files and JSON files are always read from the
    /// begin.
    pub(crate) fn open(file: &OpenFile, start: u64, end: u64, json_split: Option<&str>) -> Result<Self> {
        Self::new(file, start, end, end, json_split)
    }

    fn new(file: &OpenFile, start: u64, end: u64, requested: u64, json_split: Option<&str>) -> Result<Self> {
        let whole = file.file.compression != crate::split::Compression::None || file.file.format == Format::Json;
        let (start, end) = if whole { (0, u64::MAX) } else { (start, end) };
        let (framer, first) = match file.file.format {
            Format::Csv | Format::Tsv => {
                let delimiter = if file.file.format == Format::Csv { b',' } else { b'\t' };
                (Framer::Csv(CsvFramer::new(delimiter, start, end, start == 0)), start)
            }
            Format::Json => (Framer::Json(JsonFramer::new(json_split.map(str::to_owned))), 0),
            _ => (Framer::Lines(LineFramer::new(start, end)), LineFramer::first_byte(start)),
        };
        let stream = TextStream::new(file, first, requested.min(end).min(file.file.size))?;
        Ok(Self { file: file.clone(), stream, framer, pending: Bytes::new(), begin: first == 0, finished: false })
    }

    /// The rows from the begin of a file, of which about `bytes` are going to be read.
    pub(crate) fn from_begin(file: &OpenFile, bytes: u64, json_split: Option<&str>) -> Result<Self> {
        Self::new(file, 0, u64::MAX, bytes, json_split)
    }

    /// Feeds the sink until it is full or no row is left.
    pub(crate) async fn fill(&mut self, sink: &mut impl Sink) -> Result<()> {
        while !self.finished && !sink.is_full() {
            if self.framer.is_done() {
                self.finished = true;
                break;
            }
            if self.pending.is_empty() {
                match self.next_piece().await? {
                    Some(bytes) => self.pending = bytes,
                    None => {
                        self.framer.finish(sink).map_err(|message| self.file.malformed(message))?;
                        self.finished = true;
                        break;
                    }
                }
            }
            let used = self.framer.push(&self.pending, sink).map_err(|message| self.file.malformed(message))?;
            self.pending.advance(used);
        }
        Ok(())
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// A byte order mark is replaced by white space, so that positions in the file stay what they are.
    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let Some(mut bytes) = self.stream.next().await? else { return Ok(None) };
        if !self.begin {
            return Ok(Some(bytes));
        }
        self.begin = false;
        while bytes.len() < MARK.len() && MARK.starts_with(&bytes) {
            match self.stream.next().await? {
                Some(more) => bytes = [bytes, more].concat().into(),
                None => break,
            }
        }
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(self.file.malformed("the text is UTF-16; only UTF-8 is read"));
        }
        if bytes.starts_with(MARK) {
            let mut marked = bytes.to_vec();
            let blank = if matches!(self.framer, Framer::Csv(_)) { b'\r' } else { b' ' };
            marked[..MARK.len()].fill(blank);
            bytes = marked.into();
        }
        Ok(Some(bytes))
    }
}

const MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the rows of a split.
pub(crate) struct TextReader {
    file: OpenFile,
    rows: RowStream,
    block: Block,
    decoder: Box<dyn RowDecoder>,
    shaper: Shaper,
    /// Position in the source, and in the file, of the next row, where known.
    source_row: Option<u64>,
    file_row: Option<u64>,
    ready: VecDeque<Chunk>,
}

impl TextReader {
    pub(crate) async fn open(
        file: OpenFile,
        split: &Split,
        plan_schema: SchemaRef,
        options: &ReadOptions,
    ) -> Result<Self> {
        let (start, end) = match split.unit {
            SplitUnit::Bytes => (split.start, split.end),
            SplitUnit::File => (0, file.file.size),
            SplitUnit::RowGroups => {
                return Err(DatasetError::Setting {
                    key: "split".into(),
                    message: format!("{} files have no row groups", file.file.format),
                });
            }
        };
        let rows = RowStream::open(&file, start, end, options.json_split.as_deref())?;
        let take = split.take.unwrap_or(u64::MAX);
        let block = Block::new(options.batch_rows, options.batch_bytes, split.skip, take);
        let (decoder, origins): (Box<dyn RowDecoder>, _) = match file.file.format {
            Format::Csv | Format::Tsv => {
                let header = Header::read(&file).await?;
                let origins = origins(&plan_schema, Some(&header.schema()), options);
                (Box::new(CsvRows::new(&header, &plan_schema, &origins)), origins)
            }
            _ => {
                let origins = origins(&plan_schema, None, options);
                let schema = Schema::new(needed(&plan_schema, &origins));
                (Box::new(JsonRows::new(schema, options.columns.is_none(), options.batch_rows)), origins)
            }
        };
        let shaper = Shaper::new(plan_schema, origins, &file.file.url);
        let (source_row, file_row) = (split.first_row, split.file_row);
        Ok(Self { file, rows, block, decoder, shaper, source_row, file_row, ready: VecDeque::new() })
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            self.block.clear();
            if !self.block.is_satisfied() {
                self.rows.fill(&mut self.block).await?;
            }
            if self.block.records.is_empty() {
                if self.block.is_satisfied() || self.rows.is_finished() {
                    return Ok(None);
                }
                continue;
            }
            self.decode()?;
            // The batch has copies of the rows, and a large row is not to be held twice while the batch is worked on.
            self.block.clear();
        }
    }

    fn decode(&mut self) -> Result<()> {
        let count = self.block.records.len() as u64;
        let mut positions = Positions { source: self.source_row, file: self.file_row, kept: None };
        let whole = !self.block.records.iter().any(Record::is_cut);
        let batch = match whole.then(|| self.decode_records(None)) {
            Some(Ok(batch)) => batch,
            _ => {
                let (good, kept) = self.sort_out();
                positions.kept = Some(kept);
                if good.is_empty() {
                    self.advance(count);
                    return Ok(());
                }
                self.decode_records(Some(&good)).map_err(|error| {
                    self.file.malformed(format!(
                        "rows from byte {} on decode alone and not together: {error}",
                        good[0].offset
                    ))
                })?
            }
        };
        let shaped = self.shaper.shape(&batch, &positions).map_err(|error| self.file.malformed(error))?;
        self.ready.push_back(Chunk::Rows(shaped));
        self.advance(count);
        Ok(())
    }

    /// Tries every row alone: the good ones with their places in the block; the others are put out.
    fn sort_out(&mut self) -> (Vec<Record>, Vec<u64>) {
        let (mut good, mut kept) = (Vec::new(), Vec::new());
        for (place, record) in self.block.records.clone().into_iter().enumerate() {
            let error = if record.is_cut() {
                Some(format!("the row has {} bytes and {MAX_ROW_BYTES} are the most", record.length))
            } else {
                self.decode_records(Some(&[record])).err()
            };
            match error {
                None => {
                    good.push(record);
                    kept.push(place as u64);
                }
                Some(error) => {
                    let raw = &self.block.bytes[record.start..record.end];
                    let raw = Bytes::copy_from_slice(&raw[..raw.len().min(MAX_RAW_BYTES)]);
                    self.ready.push_back(Chunk::Unreadable(UnreadableRow {
                        source: self.file.file.url.clone(),
                        offset: record.offset,
                        row: self.file_row.map(|first| first + place as u64),
                        raw,
                        length: record.length,
                        error: shorten(error),
                    }));
                }
            }
        }
        (good, kept)
    }

    fn decode_records(&mut self, records: Option<&[Record]>) -> Result<RecordBatch, String> {
        let records = records.unwrap_or(&self.block.records);
        let batch = guarded(|| self.decoder.decode(&self.block.bytes, records))??;
        if batch.num_rows() != records.len() {
            return Err(format!("{} rows came of {}", batch.num_rows(), records.len()));
        }
        Ok(batch)
    }

    fn advance(&mut self, rows: u64) {
        self.source_row = self.source_row.map(|row| row + rows);
        self.file_row = self.file_row.map(|row| row + rows);
    }
}

/// Decoders quote the value in question, which can be a whole document.
fn shorten(mut error: String) -> String {
    const LENGTH: usize = 500;
    if error.len() > LENGTH {
        let end = (0..=LENGTH).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
        error.truncate(end);
        error.push('…');
    }
    error
}
