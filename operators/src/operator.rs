//! The operator trait: what every host (direct call, SQL function, plan node, remote plan node) works with.
//!
//! An operator is pure description until [`Operator::start`] makes a [`Pass`] for one ordered stream. A pass is
//! synchronous: the host decides on which thread it runs. It may hold rows back (to look ahead, to batch for a device) and
//! must give all of them out by [`Pass::finish`]. Whatever a pass does with a row is accounted for in [`Output`]: kept,
//! rejected with a reason, or quarantined with an error. Hosts check that the sum is the number of rows pushed.

use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result};

/// What an operator is: serialised alike in the pipeline file, in plan bytes and in a run's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OperatorSpec {
    /// The registered kind, such as `blocklist`.
    pub kind: String,
    /// Version of the kind's semantics; 0 asks for the newest and is filled in when bound.
    #[serde(default)]
    pub version: u32,
    /// Name of the step; output columns are named after it.
    pub name: String,
    /// The kind's configuration; [`Registry::complete`](crate::Registry::complete) fills in the defaults.
    #[serde(default)]
    pub config: Value,
}

impl OperatorSpec {
    /// A spec of the newest version, named after its kind.
    #[must_use]
    pub fn new(kind: &str, config: Value) -> Self {
        Self { kind: kind.to_owned(), version: 0, name: kind.to_owned(), config }
    }

    /// The same spec under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }
}

/// A kind of operator that a [`Registry`](crate::Registry) knows.
pub trait OperatorKind: Debug + Send + Sync {
    /// The name used in pipeline files.
    fn name(&self) -> &'static str;

    /// Version of the semantics. Raised whenever the same configuration could give other rows.
    fn version(&self) -> u32 {
        1
    }

    /// The part of a completed configuration that results depend on, for the run's fingerprint. What it leaves out, such as how many requests are
    /// under way at once, may change between a run and its resumption.
    fn identity(&self, config: &Value) -> Value {
        config.clone()
    }

    /// Whether a pipeline may have it as a step. Kinds whose rows depend on where a stream ends are none: sinks and fits put them at the end of a chain.
    fn is_step(&self) -> bool {
        true
    }

    /// One line for `gristmill operators`.
    fn summary(&self) -> &'static str;

    /// The step as it would stand in a pipeline file.
    fn example(&self) -> &'static str;

    /// JSON Schema of the configuration.
    fn config_schema(&self) -> Value;

    /// The configuration with every default filled in; an error for an unknown key or a wrong value.
    fn complete(&self, config: &Value) -> Result<Value>;

    /// What has to be learned from the rows that reach the step before a spec of this completed configuration can be bound: `None` where
    /// it has all it needs. Hosts ask again after each thing that was learned.
    fn fit(&self, _config: &Value) -> Result<Option<Fit>> {
        Ok(None)
    }

    /// Puts together what a [`Fit`] of this kind gave for streams of rows, in the order of the streams: the content of the file that is learned.
    fn combine(
        &self,
        spec: &OperatorSpec,
        _parts: &mut dyn Iterator<Item = Result<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        Err(crate::config::invalid(&spec.kind, "", "nothing is learned with this kind"))
    }

    /// Binds a completed spec to an input schema. Reads resources (term lists, tokenizers) through `resources`.
    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>>;
}

/// Something that is learned from a corpus before a step runs, such as the document frequencies of terms.
///
/// A host runs `spec` in the place of the step, over the same rows and with the same `when`, gives all batches that come out to
/// [`OperatorKind::combine`] of the spec's kind, keeps the result as an Arrow IPC file, and sets `key` of the step's configuration to the place of that file.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Makes partial statistics of a stream of rows, with [`RowEffect::Any`].
    pub spec: OperatorSpec,
    /// The key of the step's configuration that takes the location of the file.
    pub key: &'static str,
    /// Only the first so many rows of the source are learned from; all where absent.
    pub rows: Option<u64>,
}

/// How the rows that come out relate to the rows that went in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowEffect {
    /// One row out for each row in, in the same order, with columns added behind the input's columns.
    Same,
    /// Like [`Same`](Self::Same), but some rows may be quarantined; their positions are stated.
    Screened,
    /// Some of the rows, in the same order, with the same columns.
    Fewer,
    /// Anything: packing, windows, projections with another schema.
    Any,
}

/// An operator bound to an input schema.
pub trait Operator: Debug + Send + Sync {
    /// The completed spec this operator was bound from.
    fn spec(&self) -> &OperatorSpec;

    /// Schema of the batches that come out.
    fn output_schema(&self) -> &SchemaRef;

    /// Names of the input columns that are read.
    fn inputs(&self) -> Vec<String>;

    /// How rows out relate to rows in.
    fn row_effect(&self) -> RowEffect;

    /// Identities of the resources that influence the result, for the run's fingerprint.
    fn resources(&self) -> Vec<ResourceIdentity> {
        Vec::new()
    }

    /// Begins a pass over one ordered stream of batches that have the input schema.
    fn start(&self) -> Result<Box<dyn Pass>>;
}

/// One pass over one ordered stream.
pub trait Pass: Send {
    /// Takes the next batch. What is finished goes to `output`; rows may be held back.
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()>;

    /// Gives out what was held back. Called once, after the last batch.
    fn finish(&mut self, _output: &mut Output) -> Result<()> {
        Ok(())
    }
}

/// Rows that an operator decided to leave out.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The rows, with the operator's input schema.
    pub rows: RecordBatch,
    /// Why; the same for all of them.
    pub reason: String,
}

/// Rows that an operator could not process.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// The rows, with the operator's input schema.
    pub rows: RecordBatch,
    /// What is wrong with them.
    pub error: String,
    /// Which rows of the stream they are, from 0; empty where the operator does not say.
    pub positions: Vec<u64>,
}

/// What came out of a pass, with every row that went in accounted for.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Finished batches, in order.
    pub batches: Vec<RecordBatch>,
    /// Rows left out, with the reason.
    pub rejected: Vec<Rejected>,
    /// Rows that failed, with the error.
    pub quarantined: Vec<Quarantined>,
    /// Input rows represented in `batches`. Equal to the rows of `batches` unless the row effect is
    /// [`RowEffect::Any`], where the pass states it.
    pub kept: u64,
}

impl Output {
    /// Adds a finished batch whose rows stand for one input row each.
    pub fn keep(&mut self, batch: RecordBatch) {
        self.kept += batch.num_rows() as u64;
        self.batches.push(batch);
    }

    /// Adds a finished batch that stands for `input_rows` rows of the input.
    pub fn keep_as(&mut self, batch: RecordBatch, input_rows: u64) {
        self.kept += input_rows;
        self.batches.push(batch);
    }

    /// Adds rows that are left out.
    pub fn reject(&mut self, rows: RecordBatch, reason: impl Into<String>) {
        if rows.num_rows() > 0 {
            self.rejected.push(Rejected { rows, reason: reason.into() });
        }
    }

    /// Adds rows that cannot be processed.
    pub fn quarantine(&mut self, rows: RecordBatch, error: impl Into<String>) {
        if rows.num_rows() > 0 {
            self.quarantined.push(Quarantined { rows, error: error.into(), positions: Vec::new() });
        }
    }

    /// Adds a row that cannot be processed, the one at `position` of the stream that was pushed.
    pub fn quarantine_at(&mut self, row: RecordBatch, error: impl Into<String>, position: u64) {
        self.quarantined.push(Quarantined { rows: row, error: error.into(), positions: vec![position] });
    }

    /// Rows in `batches`.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }

    /// Rows in `rejected`.
    #[must_use]
    pub fn rows_rejected(&self) -> u64 {
        self.rejected.iter().map(|rejected| rejected.rows.num_rows() as u64).sum()
    }

    /// Rows in `quarantined`.
    #[must_use]
    pub fn rows_quarantined(&self) -> u64 {
        self.quarantined.iter().map(|quarantined| quarantined.rows.num_rows() as u64).sum()
    }

    /// Input rows accounted for: kept, rejected or quarantined.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        self.kept + self.rows_rejected() + self.rows_quarantined()
    }
}

/// Runs an operator over batches by direct call, as one stream.
pub fn apply(operator: &dyn Operator, batches: impl IntoIterator<Item = RecordBatch>) -> Result<Output> {
    let mut pass = operator.start()?;
    let mut output = Output::default();
    for batch in batches {
        pass.push(&batch, &mut output)?;
    }
    pass.finish(&mut output)?;
    Ok(output)
}

/// The input schema with new columns behind; an error where one of them exists already.
pub(crate) fn extend_schema(spec: &OperatorSpec, input: &SchemaRef, added: Vec<Field>) -> Result<SchemaRef> {
    let mut fields = input.fields().to_vec();
    for field in added {
        if input.column_with_name(field.name()).is_some() {
            return Err(OperatorError::DuplicateColumn { kind: spec.kind.clone(), column: field.name().clone() });
        }
        fields.push(Arc::new(field));
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, input.metadata().clone())))
}

/// The batch with new columns behind, under a schema made by [`extend_schema`].
pub(crate) fn extend_batch(batch: &RecordBatch, schema: &SchemaRef, added: Vec<ArrayRef>) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns.extend(added);
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
