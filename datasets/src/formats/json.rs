//! Rows of JSON as record batches.
//!
//! What JSON leaves open is defined as: of equal keys the last one counts; commas may be missing or doubled; a number
//! is read as written, so a whole column holds either integers or doubles. A row that has a key that is no column is
//! unreadable, unless the columns to read were named: nothing is left out in silence.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_json::reader::{Decoder, ReaderBuilder};
use arrow_schema::{DataType, FieldRef, Fields, Schema, SchemaRef};

use super::records::Record;
use super::text::RowDecoder;

/// A decoder keeps the memory that its largest block took, and is kept itself unless that is more than this.
const KEPT_BYTES: usize = 32 << 20;

/// Brackets inside of brackets at most, as most JSON parsers have it.
const MAX_DEPTH: usize = 128;

/// Decodes JSON objects.
pub(crate) struct JsonRows {
    schema: SchemaRef,
    strict: bool,
    batch_rows: usize,
    decoder: Option<Decoder>,
    single: Option<Decoder>,
}

impl JsonRows {
    /// `strict` refuses keys that are not in the schema.
    pub(crate) fn new(schema: Schema, strict: bool, batch_rows: usize) -> Self {
        let schema = Schema::new(schema.fields().iter().map(plain).collect::<Fields>());
        Self { schema: Arc::new(schema), strict, batch_rows, decoder: None, single: None }
    }

    fn build(&self, rows: usize) -> Result<Decoder, String> {
        ReaderBuilder::new(Arc::clone(&self.schema))
            .with_batch_size(rows)
            .with_strict_mode(self.strict)
            .build_decoder()
            .map_err(|error| error.to_string())
    }
}

impl RowDecoder for JsonRows {
    fn decode(&mut self, bytes: &[u8], records: &[Record]) -> Result<RecordBatch, String> {
        // A decoder that met an error cannot be used again, so it is put back only at the end. One row at a time has
        // a small decoder of its own, because the large one is costly to make.
        let slot = if records.len() == 1 { &mut self.single } else { &mut self.decoder };
        let mut decoder = match slot.take() {
            Some(decoder) => decoder,
            None => self.build(if records.len() == 1 { 1 } else { self.batch_rows })?,
        };
        for (number, record) in records.iter().enumerate() {
            let line = &bytes[record.start..=record.end];
            if is_too_deep(line) {
                return Err(format!("brackets are nested more than {MAX_DEPTH} deep"));
            }
            let used = decoder.decode(line).map_err(message)?;
            if decoder.has_partial_record() {
                return Err("the object is not complete".into());
            }
            if decoder.len() != number + 1 || line[used..].iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Err("something follows behind the object".into());
            }
        }
        let batch = decoder.flush().map_err(message)?;
        let batch = batch.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.schema)));
        if records.len() == 1 {
            // Memory of a very large row is not kept.
            self.single = (bytes.len() <= 1 << 20).then_some(decoder);
        } else {
            self.decoder = (bytes.len() <= KEPT_BYTES).then_some(decoder);
        }
        Ok(batch)
    }
}

/// The decoder knows no dictionaries; their values are read and encoded afterwards.
fn plain(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        DataType::List(element) => DataType::List(plain(element)),
        DataType::LargeList(element) => DataType::LargeList(plain(element)),
        _ => return Arc::clone(field),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

fn message(error: arrow_schema::ArrowError) -> String {
    let text = error.to_string();
    text.strip_prefix("Json error: ").map_or(text.clone(), str::to_owned)
}

/// Whether brackets are nested deeper than [`MAX_DEPTH`]. Few rows have so many brackets at all, and counting them is
/// far cheaper than following strings.
fn is_too_deep(line: &[u8]) -> bool {
    if count_open_brackets(line) <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut string, mut escape) = (0_usize, false, false);
    for byte in line {
        match byte {
            _ if escape => escape = false,
            b'\\' if string => escape = true,
            b'"' => string = !string,
            b'[' | b'{' if !string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Counters of one byte, so that the compiler makes vector code of it.
fn count_open_brackets(line: &[u8]) -> usize {
    line.chunks(192)
        .map(|chunk| usize::from(chunk.iter().map(|byte| u8::from(matches!(byte, b'[' | b'{'))).sum::<u8>()))
        .sum()
}
