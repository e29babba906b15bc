//! Encoders: chunks of rows in, bytes of a file out.

mod arrow;
mod json;
mod parquet;

use std::io;

use ::parquet::errors::ParquetError;
use arrow_schema::{ArrowError, SchemaRef};

use self::arrow::ArrowEncoder;
use self::json::JsonlEncoder;
pub(super) use self::json::check_json;
use self::parquet::ParquetEncoder;
use super::chunks::{CHUNK_BYTES, CHUNK_ROWS, Chunk, ChunkLimits};
use super::options::{ParquetOptions, PartOptions};

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
