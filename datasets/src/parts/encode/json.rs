//! The encoder of JSON lines.

use std::io::Write;

use arrow_array::RecordBatch;
use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use arrow_schema::SchemaRef;
use flate2::write::GzEncoder;

use super::super::chunks::{CHUNK_BYTES, Chunk};
use super::super::options::JsonlOptions;
use super::{Encode, EncodeError};
use crate::Compression;

/// Every line holds every column, null or not, so that all lines have the same keys and a reader that infers the columns
/// from the first lines finds them all. Binary values are hexadecimal text; numbers that JSON does not know (NaN and
/// the infinities) are null.
pub(super) struct JsonlEncoder {
    lines: Vec<u8>,
    output: Compressor,
}

enum Compressor {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl JsonlEncoder {
    pub(super) fn new(options: &JsonlOptions) -> Result<Self, EncodeError> {
        let output = match options.compression {
            Compression::None => Compressor::None(Vec::new()),
            Compression::Gzip => {
                let level = options.level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
                // The header holds no name and no time, so the same lines give the same bytes.
                Compressor::Gzip(flate2::GzBuilder::new().mtime(0).write(Vec::new(), level))
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), options.level.unwrap_or(3))?;
                encoder.include_checksum(true)?;
                Compressor::Zstd(encoder)
            }
        };
        Ok(Self { lines: Vec::new(), output })
    }
}

impl Encode for JsonlEncoder {
    fn write(&mut self, chunk: &Chunk) -> Result<(), EncodeError> {
        self.lines.clear();
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut self.lines);
        writer.write(&chunk.rows)?;
        writer.finish()?;
        match &mut self.output {
            Compressor::None(output) => output.write_all(&self.lines)?,
            Compressor::Gzip(output) => output.write_all(&self.lines)?,
            Compressor::Zstd(output) => output.write_all(&self.lines)?,
        }
        // One huge row must not keep its memory for the rest of the part.
        self.lines.shrink_to(4 * CHUNK_BYTES as usize);
        Ok(())
    }

    fn finish(&mut self) -> Result<u64, EncodeError> {
        match &mut self.output {
            Compressor::None(_) => {}
            Compressor::Gzip(output) => output.try_finish()?,
            Compressor::Zstd(output) => output.do_finish()?,
        }
        Ok(0)
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match &mut self.output {
            Compressor::None(output) => output,
            Compressor::Gzip(output) => output.get_mut(),
            Compressor::Zstd(output) => output.get_mut(),
        }
    }
}

/// Checks that rows of the schema can be encoded as JSON, by encoding none.
pub(in crate::parts) fn check_json(schema: &SchemaRef) -> Result<(), EncodeError> {
    let mut writer = WriterBuilder::new().build::<_, LineDelimited>(Vec::new());
    Ok(writer.write(&RecordBatch::new_empty(SchemaRef::clone(schema)))?)
}
