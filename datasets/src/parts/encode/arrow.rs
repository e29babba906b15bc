//! The encoder of Arrow IPC files.

use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::SchemaRef;

use super::super::chunks::Chunk;
use super::super::options::{ArrowCompression, ArrowOptions};
use super::super::schema::compact;
use super::{Encode, EncodeError};

pub(super) struct ArrowEncoder {
    schema: SchemaRef,
    writer: FileWriter<Vec<u8>>,
    batches: u64,
}

impl ArrowEncoder {
    pub(super) fn new(options: &ArrowOptions, schema: &SchemaRef) -> Result<Self, EncodeError> {
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
