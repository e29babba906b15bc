//! The step: each row is measured by itself.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use gristmill_kernels::workers::Serial;

use super::KIND;
use super::candidates::{self, Candidate};
use super::columns;
use super::config::OnError;
use super::measure::Measured;
use super::samples::{Conversation, SampleColumns, id_of};
use super::study::Study;
use crate::models::{Compute, ModelError};
use crate::operator::{Operator, OperatorSpec, Output, Pass, RowEffect, extend_batch};
use crate::{OperatorError, ResourceIdentity, Result, require_column};

/// A pass computes on the thread that calls it: splits are what runs side by side.
const COMPUTE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// What is read of rows.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) samples: SampleColumns,
    pub(super) truth: Option<String>,
    pub(super) candidates: Option<String>,
    pub(super) top: usize,
    pub(super) on_error: OnError,
}

/// What is known of a row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) candidates: Vec<Candidate>,
    /// The row of the true original.
    pub(super) truth: Option<usize>,
    pub(super) measured: Measured,
}

/// The operator.
#[derive(Debug)]
pub(super) struct Pairs {
    spec: OperatorSpec,
    shared: Arc<Shared>,
    identities: Vec<ResourceIdentity>,
}

#[derive(Debug)]
struct Shared {
    schema: SchemaRef,
    study: Arc<Study>,
    rows: Rows,
}

impl Pairs {
    pub(super) fn new(
        spec: OperatorSpec,
        schema: SchemaRef,
        study: Arc<Study>,
        rows: Rows,
        identities: Vec<ResourceIdentity>,
    ) -> Self {
        Self { spec, shared: Arc::new(Shared { schema, study, rows }), identities }
    }
}

impl Operator for Pairs {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        let Rows { samples, truth, candidates, .. } = &self.shared.rows;
        let mut names = samples.names();
        for name in truth.iter().chain(candidates) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    fn row_effect(&self) -> RowEffect {
        match self.shared.rows.on_error {
            OnError::Fail => RowEffect::Same,
            OnError::Quarantine => RowEffect::Screened,
        }
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.identities.clone()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(PairsPass { shared: Arc::clone(&self.shared), rows: 0 }))
    }
}

struct PairsPass {
    shared: Arc<Shared>,
    /// Rows of earlier batches.
    rows: u64,
}

impl Pass for PairsPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let Shared { schema, study, rows } = &*self.shared;
        let first = self.rows;
        self.rows += batch.num_rows() as u64;
        let conversations = rows.samples.read(batch)?;
        let mut known = Vec::with_capacity(batch.num_rows());
        let mut kept = Vec::with_capacity(batch.num_rows());
        for (place, conversation) in conversations.into_iter().enumerate() {
            let row = match conversation {
                Ok(None) => Ok(None),
                Ok(Some(conversation)) => rows.row(study, batch, place, &conversation)?.map(Some),
                Err(message) => Err(message),
            };
            kept.push(row.is_ok());
            let position = first + place as u64;
            match (row, rows.on_error) {
                (Ok(row), _) => known.push(row),
                (Err(message), OnError::Fail) => {
                    return Err(OperatorError::Row { kind: KIND.to_owned(), row: position, message });
                }
                (Err(message), OnError::Quarantine) => output.quarantine_at(batch.slice(place, 1), message, position),
            }
        }
        let batch = filter_record_batch(batch, &BooleanArray::from(kept))?;
        output.keep(extend_batch(&batch, schema, columns::arrays(schema, study, &known)?)?);
        Ok(())
    }
}

impl Rows {
    /// Measures a row. The inner error is one of the row.
    fn row(
        &self,
        study: &Study,
        batch: &RecordBatch,
        place: usize,
        conversation: &Conversation,
    ) -> Result<Result<Row, String>> {
        let column = |name| Ok::<_, OperatorError>(batch.column(require_column(KIND, batch.schema_ref(), name)?.0));
        let truth = match &self.truth {
            None => None,
            Some(name) => match id_of(column(name)?, place) {
                None => return Ok(Err(format!("its {name} is null"))),
                Some(id) => match study.originals.row(&id) {
                    None => return Ok(Err(format!("its {name} '{id}' is not among the originals"))),
                    row => row,
                },
            },
        };
        let candidates = match (&self.candidates, &study.search) {
            (Some(name), _) => candidates::given(column(name)?, place, &study.originals),
            (None, Some(search)) => match conversation.asked() {
                Ok(question) => Ok(search.best(question, self.top, truth)?),
                Err(message) => Err(message),
            },
            (None, None) => Ok(Vec::new()),
        };
        let read = candidates.and_then(|candidates| Ok((candidates, study.encoder.encode(conversation)?)));
        let (candidates, sample) = match read {
            Ok(read) => read,
            Err(message) => return Ok(Err(message)),
        };
        let originals: Vec<usize> = candidates.iter().map(|candidate| candidate.row).collect();
        match study.measure(COMPUTE, &sample, &originals) {
            Ok(measured) => Ok(Ok(Row { candidates, truth, measured })),
            Err(ModelError::NotFinite { document, loss }) => {
                let original = document.checked_sub(1).and_then(|place| originals.get(place));
                let whose = original.map_or_else(
                    || "its sample".to_owned(),
                    |&original| format!("original '{}'", study.originals.ids[original]),
                );
                Ok(Err(format!("the loss of {whose} is {loss}, and has no gradient")))
            }
            Err(error) => Err(crate::config::invalid(KIND, "model", error.to_string())),
        }
    }
}
