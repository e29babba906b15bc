//! Rows of CSV and TSV as record batches.
//!
//! The first row of a file names its columns; every file may have them in an order of its own. Fields may be quoted in
//! both formats. A field that is empty is null, in columns of strings as well.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_csv::reader::{Decoder, ReaderBuilder};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::columns::Origin;
use super::records::{Block, CsvFramer, Framer, Record, Sink};
use super::source::OpenFile;
use super::text::RowDecoder;
use crate::error::Result;
use crate::split::Format;

/// A header is short; what is longer is no table of values.
const MAX_HEADER_BYTES: u64 = 4 << 20;

const OPEN_QUOTE: &str = "a quote is not closed";

/// The names of the columns of a file in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    names: Vec<String>,
    delimiter: u8,
}

impl Header {
    /// Reads the first row; no column in an empty file.
    pub(crate) async fn read(file: &OpenFile) -> Result<Self> {
        let delimiter = if file.file.format == Format::Csv { b',' } else { b'\t' };
        let mut block = Block::new(1, usize::MAX, 0, 1);
        let mut stream = super::decompress::TextStream::new(file, 0, file.file.size.min(64 << 10))?;
        let mut framer = Framer::Csv(CsvFramer::new(delimiter, 0, u64::MAX, false));
        let mut begin = true;
        while !block.is_full() {
            if block.open_bytes() > MAX_HEADER_BYTES {
                return Err(file.malformed(format!("the header is longer than {MAX_HEADER_BYTES} bytes")));
            }
            match stream.next().await? {
                Some(bytes) => {
                    let mark = if begin && bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
                    begin = false;
                    framer.push(&bytes[mark..], &mut block).map_err(|error| file.malformed(error))?;
                }
                None => {
                    framer.finish(&mut block).map_err(|error| file.malformed(error))?;
                    break;
                }
            }
        }
        let Some(record) = block.records.first() else {
            return Ok(Self { names: Vec::new(), delimiter });
        };
        let names = split(trimmed(&block.bytes[record.start..record.end]), delimiter)
            .map_err(|error| file.malformed(format!("header: {error}")))?;
        Ok(Self { names, delimiter })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// All columns as strings.
    pub(crate) fn schema(&self) -> Schema {
        Schema::new(self.names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect::<Vec<_>>())
    }
}

/// The fields of a row of a file with this header.
pub(crate) fn fields(row: &[u8], header: &Header) -> Result<Vec<String>, String> {
    split(trimmed(row), header.delimiter)
}

/// The fields of a row without quotes around them.
fn split(row: &[u8], delimiter: u8) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let (mut field, mut quoted, mut at) = (Vec::new(), false, 0);
    let mut begin = true;
    while at < row.len() {
        let byte = row[at];
        at += 1;
        match byte {
            b'"' if quoted && row.get(at) == Some(&b'"') => {
                field.push(b'"');
                at += 1;
            }
            b'"' if quoted => quoted = false,
            b'"' if begin => quoted = true,
            _ if byte == delimiter && !quoted => {
                fields.push(text(std::mem::take(&mut field))?);
                begin = true;
                continue;
            }
            _ => field.push(byte),
        }
        begin = false;
    }
    if quoted {
        return Err(OPEN_QUOTE.into());
    }
    fields.push(text(field)?);
    Ok(fields)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

/// Without the carriage return of a line end.
fn trimmed(row: &[u8]) -> &[u8] {
    row.strip_suffix(b"\r").unwrap_or(row)
}

/// Decodes rows of fields.
pub(crate) struct CsvRows {
    schema: SchemaRef,
    delimiter: u8,
    projection: Vec<usize>,
    decoder: Option<Decoder>,
}

impl CsvRows {
    /// Columns have the types of the plan; the ones that are not read only count.
    pub(crate) fn new(header: &Header, plan: &Schema, origins: &[Origin]) -> Self {
        let mut fields: Vec<Field> = header.names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let mut projection = Vec::new();
        for (field, origin) in plan.fields().iter().zip(origins) {
            let Origin::Path(path) = origin else { continue };
            if let Some(index) = header.names.iter().position(|name| Some(name) == path.first()) {
                fields[index] = Field::new(&header.names[index], read_type(field.data_type()), true);
                projection.push(index);
            }
        }
        projection.sort_unstable();
        projection.dedup();
        Self { schema: Arc::new(Schema::new(fields)), delimiter: header.delimiter, projection, decoder: None }
    }
}

/// Types that are read as they are; others are read as strings and cast.
fn read_type(target: &DataType) -> DataType {
    match target {
        DataType::Boolean | DataType::Float64 | DataType::LargeUtf8 | DataType::Utf8View => target.clone(),
        target if target.is_integer() => target.clone(),
        _ => DataType::Utf8,
    }
}

impl RowDecoder for CsvRows {
    fn decode(&mut self, bytes: &[u8], records: &[Record]) -> Result<RecordBatch, String> {
        let mut decoder = self.decoder.take().unwrap_or_else(|| {
            ReaderBuilder::new(Arc::clone(&self.schema))
                .with_delimiter(self.delimiter)
                .with_terminator(b'\n')
                .with_batch_size(usize::MAX >> 8)
                .with_projection(self.projection.clone())
                .build_decoder()
        });
        for record in records {
            let row = trimmed(&bytes[record.start..record.end]);
            for piece in [row, b"\n"] {
                let used = decoder.decode(piece).map_err(message)?;
                if used != piece.len() {
                    return Err("the row is not complete".into());
                }
            }
        }
        let batch = decoder.flush().map_err(message)?.ok_or(OPEN_QUOTE)?;
        if batch.num_rows() != records.len() {
            return Err(OPEN_QUOTE.into());
        }
        self.decoder = Some(decoder);
        Ok(batch)
    }
}

fn message(error: arrow_schema::ArrowError) -> String {
    let text = error.to_string();
    text.strip_prefix("Csv error: ").map_or(text.clone(), str::to_owned)
}
