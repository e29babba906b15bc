//! Writing one part.

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use object_store::ObjectStore;
use object_store::path::Path;

use super::chunks::{Chunk, Chunker};
use super::encode::{Encode, EncodeError, check_json, encoder, limits};
use super::options::PartOptions;
use super::schema::written_schema;
use super::upload::Upload;
use crate::{DatasetError, Result};

/// Writes record batches as one part file.
///
/// The bytes of the file depend on the rows, the schema and the options, and on nothing else: not on how the rows were
/// cut into batches, not on whether strings are held as views, not on the time. The file appears under its name when
/// [`PartWriter::close`] returns, whole or not at all. Memory is bounded by the row group (see [`PartOptions`]), the
/// largest row and 80 MiB of upload buffers.
///
/// Views, dictionaries and runs are written as the plain type of their values, and schema metadata that describes the
/// columns of the file they came from (`huggingface`, `pandas`) is left out.
///
/// ```
/// # use std::sync::Arc;
/// # use arrow_array::{RecordBatch, StringArray};
/// # use object_store::memory::InMemory;
/// use gristmill_datasets::{PartOptions, PartWriter};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// let texts = StringArray::from(vec!["wheat", "rye"]);
/// let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)])?;
/// let store = Arc::new(InMemory::new());
/// let mut writer =
///     PartWriter::create(store, "data/00000-1.parquet".into(), batch.schema(), &PartOptions::default()).await?;
/// writer.write(&batch).await?;
/// let summary = writer.close().await?;
/// assert_eq!((summary.rows, summary.row_groups), (2, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PartWriter {
    location: String,
    input: SchemaRef,
    chunker: Chunker,
    encoder: Box<dyn Encode>,
    upload: Option<Upload>,
    rows: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSummary {
    /// Number of rows.
    pub rows: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// BLAKE3 hash of the file, 64 hexadecimal digits.
    pub blake3: String,
    /// Number of Parquet row groups or Arrow record batches, 0 for JSON lines.
    pub row_groups: u64,
}

impl PartWriter {
    /// Begins a part at `path` of `store` for batches of `schema`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] for options out of range and for column types that the format cannot hold.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        schema: SchemaRef,
        options: &PartOptions,
    ) -> Result<Self> {
        options.validate()?;
        let written = written_schema(&schema);
        check_types(&schema, &written, options)?;
        let chunker = Chunker::new(Arc::clone(&written), limits(options))
            .map_err(|error| unsupported(options, &error.to_string()))?;
        let encoder = encoder(options, &written).map_err(|error| unsupported(options, &error.to_string()))?;
        Ok(Self {
            location: path.to_string(),
            input: schema,
            chunker,
            encoder,
            upload: Some(Upload::new(store, path)),
            rows: 0,
        })
    }

    /// Names the file in errors by its location, such as `s3://bucket/run/data/0.parquet`; without this they name its path
    /// in the store.
    #[must_use]
    pub fn located(mut self, location: impl Into<String>) -> Self {
        self.location = location.into();
        if let Some(upload) = &mut self.upload {
            upload.name(&self.location);
        }
        self
    }

    /// Appends rows.
    ///
    /// # Errors
    /// [`DatasetError::Store`] naming the file where rows cannot be encoded or sent. The part is then given up: nothing
    /// appears under its name, and further calls fail.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.write_owned(batch.clone()).await
    }

    /// The same as [`PartWriter::write`] for a batch that nobody else needs: its memory is free as soon as its rows are
    /// copied or encoded, which matters where one row is very large.
    ///
    /// # Errors
    /// As for [`PartWriter::write`].
    pub async fn write_owned(&mut self, batch: RecordBatch) -> Result<()> {
        let result = self.append(batch).await;
        if result.is_err() {
            self.give_up().await;
        }
        result
    }

    /// Completes the part: the file appears under its name.
    ///
    /// # Errors
    /// As for [`PartWriter::write`].
    pub async fn close(mut self) -> Result<PartSummary> {
        let result = self.complete().await;
        if result.is_err() {
            self.give_up().await;
        }
        result
    }

    /// Gives the part up: nothing appears under its name, and what was sent is taken back. Dropping a writer does the
    /// same as far as a runtime is there to do it.
    ///
    /// # Errors
    /// [`DatasetError::Store`] where the store does not take back what was sent.
    pub async fn abort(mut self) -> Result<()> {
        match self.upload.take() {
            Some(upload) => upload.abort().await,
            None => Ok(()),
        }
    }

    /// Rows taken so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that are encoded so far. The row group under way is not among them.
    #[must_use]
    pub fn bytes_encoded(&self) -> u64 {
        self.upload.as_ref().map_or(0, Upload::bytes)
    }

    async fn append(&mut self, batch: RecordBatch) -> Result<()> {
        if self.upload.is_none() {
            return Err(self.given_up());
        }
        self.check_schema(&batch)?;
        self.rows += batch.num_rows() as u64;
        for chunk in self.chunker.push(batch).map_err(|error| self.error(error))? {
            self.encode(&chunk).await?;
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<PartSummary> {
        if let Some(chunk) = self.chunker.finish().map_err(|error| self.error(error))? {
            self.encode(&chunk).await?;
        }
        let row_groups = self.encoder.finish().map_err(|error| self.error(error))?;
        self.send().await?;
        let Some(upload) = &mut self.upload else { return Err(self.given_up()) };
        let blake3 = upload.finish().await?;
        Ok(PartSummary { rows: self.rows, bytes: upload.bytes(), blake3, row_groups })
    }

    async fn encode(&mut self, chunk: &Chunk) -> Result<()> {
        self.encoder.write(chunk).map_err(|error| self.error(error))?;
        self.send().await
    }

    async fn send(&mut self) -> Result<()> {
        let output = self.encoder.output();
        match &mut self.upload {
            Some(_) if output.is_empty() => Ok(()),
            Some(upload) => upload.take(output).await,
            None => Err(self.given_up()),
        }
    }

    async fn give_up(&mut self) {
        if let Some(upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(location = self.location, %error, "what was sent of a failed part could not be taken back");
        }
    }

    fn check_schema(&self, batch: &RecordBatch) -> Result<()> {
        let schema = batch.schema_ref();
        let same = schema.fields().len() == self.input.fields().len()
            && schema
                .fields()
                .iter()
                .zip(self.input.fields())
                .all(|(have, want)| have.name() == want.name() && have.data_type() == want.data_type());
        match same {
            true => Ok(()),
            false => Err(self.error(format!(
                "a batch has the columns {}, but the part was begun with {}",
                describe(schema),
                describe(&self.input)
            ))),
        }
    }

    fn given_up(&self) -> DatasetError {
        self.error("the part was given up after an earlier error")
    }

    fn error(&self, message: impl ToString) -> DatasetError {
        DatasetError::Store { location: self.location.clone(), message: message.to_string() }
    }
}

impl fmt::Debug for PartWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PartWriter")
            .field("location", &self.location)
            .field("rows", &self.rows)
            .field("bytes_encoded", &self.bytes_encoded())
            .finish_non_exhaustive()
    }
}

fn check_types(schema: &Schema, written: &SchemaRef, options: &PartOptions) -> Result<()> {
    for (field, target) in schema.fields().iter().zip(written.fields()) {
        if field.data_type() != target.data_type() && !arrow_cast::can_cast_types(field.data_type(), target.data_type())
        {
            let message = format!("column '{}' of type {} cannot be written", field.name(), field.data_type());
            return Err(unsupported(options, &message));
        }
    }
    if let PartOptions::Jsonl(_) = options {
        check_json(written).map_err(|error: EncodeError| unsupported(options, &error.to_string()))?;
    }
    Ok(())
}

fn unsupported(options: &PartOptions, message: &str) -> DatasetError {
    DatasetError::Setting { key: format!("sink.{}", options.format()), message: message.to_owned() }
}

fn describe(schema: &Schema) -> String {
    let columns: Vec<String> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    columns.join(", ")
}
