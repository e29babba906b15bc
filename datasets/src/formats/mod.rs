//! Reading splits of files in all formats as record batches, unreadable rows beside them.

mod columns;
mod csv;
mod decompress;
mod footers;
mod ipc;
mod json;
mod name;
mod options;
mod parquet;
mod records;
mod source;
#[cfg(test)]
mod tests;
mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, try_unfold};

pub(crate) use self::columns::{ROW_COLUMN, SOURCE_COLUMN, filled_id, find as find_column, is_filled_id, is_named};
pub(crate) use self::csv::{Header, fields as csv_fields};
pub use self::footers::Footers;
use self::ipc::IpcReader;
pub(crate) use self::ipc::{IpcStream, count_rows as count_stream_rows, footer as ipc_footer};
pub use self::name::is_dataset_metadata;
pub use self::options::{ReadOptions, SplitSize};
use self::parquet::ParquetReader;
pub(crate) use self::parquet::{footer as parquet_footer, schema as parquet_schema};
pub(crate) use self::records::{Block, Record, Sink};
pub use self::source::OpenFile;
pub(crate) use self::text::RowStream;
use self::text::TextReader;
use crate::error::Result;
use crate::split::{Format, Split};

/// A piece of what a split holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// Rows with the schema of the plan; at least one.
    Rows(RecordBatch),
    /// A row that cannot be read.
    Unreadable(UnreadableRow),
}

/// A row that is not what its format or the schema of the source wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRow {
    /// Location of the file.
    pub source: String,
    /// Position in bytes of the row's begin, in the decompressed file where it is compressed.
    pub offset: u64,
    /// Position of the row in the file from 0, where the plan knows it.
    pub row: Option<u64>,
    /// The bytes of the row, at most the first MiB.
    pub raw: Bytes,
    /// How many bytes the row has.
    pub length: u64,
    /// What is wrong.
    pub error: String,
}

/// Reads a split: record batches with exactly the schema of the plan, in the order of the file, and the rows that cannot be
/// read between them (those of a batch come before it). The same split always gives the same chunks.
///
/// Memory is bounded by `batch_bytes`, the size of the largest row (1 GiB at most; a longer one is unreadable), for Arrow the stored size
/// of a record batch, and for Parquet 16 times `batch_bytes`, or the stored size of a row group that is larger and has no page index. Must be polled inside of a tokio runtime.
///
/// # Errors
/// [`DatasetError::Malformed`](crate::DatasetError::Malformed) where the file is damaged as a whole,
/// [`DatasetError::Changed`](crate::DatasetError::Changed) where it is not the planned one any more, and what the store
/// answers. The stream ends after an error.
pub fn read_split(
    file: OpenFile,
    split: &Split,
    plan_schema: SchemaRef,
    options: &ReadOptions,
) -> BoxStream<'static, Result<Chunk>> {
    let (split, options) = (split.clone(), options.clone());
    let open = async move { Reader::open(file, &split, plan_schema, &options).await };
    futures::stream::once(open)
        .map(|reader| match reader {
            Ok(reader) => {
                try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|chunk| (chunk, reader))) })
                    .boxed()
            }
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        })
        .flatten()
        .boxed()
}

enum Reader {
    Parquet(Box<ParquetReader>),
    Arrow(Box<IpcReader>),
    Text(Box<TextReader>),
}

impl Reader {
    async fn open(file: OpenFile, split: &Split, schema: SchemaRef, options: &ReadOptions) -> Result<Self> {
        options.validate()?;
        match file.file.format {
            Format::Parquet => Ok(Self::Parquet(Box::new(ParquetReader::open(file, split, schema, options).await?))),
            Format::Arrow => Ok(Self::Arrow(Box::new(IpcReader::open(file, split, schema, options).await?))),
            _ => Ok(Self::Text(Box::new(TextReader::open(file, split, schema, options).await?))),
        }
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        match self {
            Self::Parquet(reader) => reader.next().await,
            Self::Arrow(reader) => reader.next().await,
            Self::Text(reader) => reader.next().await,
        }
    }
}

/// Decoders of other crates are not free of panics on damaged data; one is reported like any other fault of the data. What
/// was decoded with is not used again.
fn guarded<T>(decode: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).map_err(|panic| {
        let message = panic.downcast_ref::<&str>().map(|message| (*message).to_owned());
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("damaged data: {}", message.unwrap_or_else(|| "the decoder gave up".into()))
    })
}
