//! Encoders: chunks of rows in, bytes of a file out.

use std::io::{self, Write};

use arrow_array::RecordBatch;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use arrow_schema::{ArrowError, SchemaRef};
use flate2::write::GzEncoder;
use parquet::errors::ParquetError;

use super::chunks::{CHUNK_BYTES, CHUNK_ROWS, Chunk, ChunkLimits};
use super::options::{ArrowCompression, ArrowOptions, JsonlOptions, ParquetOptions, PartOptions};
use super::parquet::ParquetEncoder;
use super::schema::compact;
use crate::Compression;

/// Why rows could not be encoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum EncodeError {
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Turns chunks into the bytes of one file. After [`Encode::write`] and [`Encode::finish`], what is ready lies in
/// [`Encode::output`], from where the caller takes it.
pub(super) trait Encode: Send {
    /// Encodes a chunk.
    fn write(&mut self, chunk: &Chunk) -> Result<(), EncodeError>;
    /// Encodes the end of the file and gives the number of row groups or record batches, 0 for formats without.
    fn finish(&mut self) -> Result<u64, EncodeError>;
    /// The bytes that are ready.
    fn output(&mut self) -> &mut Vec<u8>;
}

/// The encoder of a format for columns of the written schema.
pub(super) fn encoder(options: &PartOptions, schema: &SchemaRef) -> Result<Box<dyn Encode>, EncodeError> {
    Ok(match options {
        PartOptions::Parquet(options) => Box::new(ParquetEncoder::new(options.clone(), SchemaRef::clone(schema))?),
        PartOptions::Jsonl(options) => Box::new(JsonlEncoder::new(options)?),
        PartOptions::Arrow(options) => Box::new(ArrowEncoder::new(options, schema)?),
    })
}

/// Where chunks and groups end in a format.
pub(super) fn limits(options: &PartOptions) -> ChunkLimits {
    let (group_rows, group_bytes) = match options {
        PartOptions::Parquet(ParquetOptions { row_group_rows, row_group_bytes, .. }) => {
            (*row_group_rows, *row_group_bytes)
        }
        PartOptions::Jsonl(_) | PartOptions::Arrow(_) => (u64::MAX, u64::MAX),
    };
    match options {
        // A chunk is one record batch of the file, and small ones cost readers more than they save writers.
        PartOptions::Arrow(_) => ChunkLimits { rows: 8 * CHUNK_ROWS, bytes: 16 * CHUNK_BYTES, group_rows, group_bytes },
        _ => ChunkLimits { rows: CHUNK_ROWS, bytes: CHUNK_BYTES, group_rows, group_bytes },
    }
}

/// Every line holds every column, null or not, so that all lines have the same keys and a reader that infers the columns
/// from the first lines finds them all. Binary values are hexadecimal text; numbers that JSON does not know (NaN and
/// the infinities) are null.
struct JsonlEncoder {
    lines: Vec<u8>,
    output: Compressor,
}

enum Compressor {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl JsonlEncoder {
    fn new(options: &JsonlOptions) -> Result<Self, EncodeError> {
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

struct ArrowEncoder {
    schema: SchemaRef,
    writer: FileWriter<Vec<u8>>,
    batches: u64,
}

impl ArrowEncoder {
    fn new(options: &ArrowOptions, schema: &SchemaRef) -> Result<Self, EncodeError> {
        let compression = match options.compression {
            ArrowCompression::None => None,
            ArrowCompression::Lz4 => Some(CompressionType::LZ4_FRAME),
            ArrowCompression::Zstd => Some(CompressionType::ZSTD),
        };
        let options = IpcWriteOptions::default().try_with_compression(compression)?;
        let writer = FileWriter::try_new_with_options(Vec::new(), schema, options)?;
        Ok(Self { schema: SchemaRef::clone(schema), writer, batches: 0 })
    }
}

impl Encode for ArrowEncoder {
    fn write(&mut self, chunk: &Chunk) -> Result<(), EncodeError> {
        // Buffers go to the file as they are, with what lies in the unused bits of a slice's bitmaps.
        self.writer.write(&compact(&chunk.rows, &self.schema)?)?;
        self.batches += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<u64, EncodeError> {
        self.writer.finish()?;
        Ok(self.batches)
    }

    fn output(&mut self) -> &mut Vec<u8> {
        self.writer.get_mut()
    }
}

/// Checks that rows of the schema can be encoded as JSON, by encoding none.
pub(super) fn check_json(schema: &SchemaRef) -> Result<(), EncodeError> {
    let mut writer = WriterBuilder::new().build::<_, LineDelimited>(Vec::new());
    Ok(writer.write(&RecordBatch::new_empty(SchemaRef::clone(schema)))?)
}
