//! What `judge` and `generate` have in common: all but their configuration and the columns they make of answers.

use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;

use super::prompt::Prompter;
use super::{Answer, Answerer, AskError, Request, Sampling};
use crate::operator::{Operator, OperatorSpec, Output, Pass, RowEffect, extend_batch};
use crate::{OperatorError, ResourceIdentity, Result};

/// What becomes of a row without an answer that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scoring) enum OnError {
    /// It gets columns all the same, and the error stands in them.
    Keep,
    Quarantine,
    Fail,
}

/// The columns that an operator makes of answers.
pub(in crate::scoring) trait Columns: Debug + Send + Sync + 'static {
    /// What is read out of an answer.
    type Value;

    /// Reads an answer; the error says why it cannot be used.
    fn read(&self, answer: &Answer) -> Result<Self::Value, String>;

    /// One column for each field that was added.
    fn make(&self, rows: &[Row<Self::Value>]) -> Result<Vec<ArrayRef>>;
}

/// What is known of a row. All is absent where its text is null, which is not asked about.
#[derive(Debug)]
pub(in crate::scoring) struct Row<V> {
    pub(in crate::scoring) answer: Option<Answer>,
    pub(in crate::scoring) value: Option<V>,
    pub(in crate::scoring) error: Option<String>,
}

/// What an operator that asks works with.
#[derive(Debug)]
pub(in crate::scoring) struct Asking<C> {
    /// The input's fields and those of the columns.
    pub(in crate::scoring) schema: SchemaRef,
    pub(in crate::scoring) prompter: Prompter,
    pub(in crate::scoring) answerer: Arc<dyn Answerer>,
    pub(in crate::scoring) sampling: Sampling,
    pub(in crate::scoring) on_error: OnError,
    pub(in crate::scoring) columns: C,
}

impl<C: Columns> Asking<C> {
    pub(in crate::scoring) fn operator(self, spec: &OperatorSpec) -> Arc<dyn Operator> {
        Arc::new(AskingOperator { spec: spec.clone(), shared: Arc::new(self) })
    }

    /// What is known of each row of a batch.
    fn ask(&self, kind: &str, batch: &RecordBatch) -> Result<Vec<Row<C::Value>>> {
        let mut requests = Vec::new();
        let mut rows: Vec<Row<C::Value>> = Vec::with_capacity(batch.num_rows());
        let mut asked = Vec::new();
        for (row, input) in self.prompter.inputs_of(batch)?.into_iter().enumerate() {
            let mut error = None;
            match input {
                None => {}
                Some(Err(message)) => error = Some(message),
                Some(Ok(input)) => {
                    asked.push(row);
                    requests.push(Request { input, sampling: self.sampling.clone() });
                }
            }
            rows.push(Row { answer: None, value: None, error });
        }
        for (row, answer) in asked.into_iter().zip(self.answerer.answer(&requests)) {
            let row = &mut rows[row];
            match answer {
                Ok(answer) => {
                    match self.columns.read(&answer) {
                        Ok(value) => row.value = Some(value),
                        Err(message) => row.error = Some(message),
                    }
                    row.answer = Some(answer);
                }
                Err(AskError::Request(message)) => row.error = Some(message),
                Err(AskError::Answerer(message)) => {
                    return Err(OperatorError::Outage { kind: kind.to_owned(), message });
                }
            }
        }
        Ok(rows)
    }
}

#[derive(Debug)]
struct AskingOperator<C> {
    spec: OperatorSpec,
    shared: Arc<Asking<C>>,
}

impl<C: Columns> Operator for AskingOperator<C> {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        self.shared.prompter.inputs()
    }

    fn row_effect(&self) -> RowEffect {
        if self.shared.on_error == OnError::Quarantine { RowEffect::Screened } else { RowEffect::Same }
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        let mut resources = self.shared.prompter.identities().to_vec();
        resources.extend(self.shared.answerer.identities());
        resources
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(AskingPass { kind: self.spec.kind.clone(), shared: Arc::clone(&self.shared), rows: 0 }))
    }
}

struct AskingPass<C> {
    kind: String,
    shared: Arc<Asking<C>>,
    /// Rows of earlier batches.
    rows: u64,
}

impl<C: Columns> Pass for AskingPass<C> {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let Asking { schema, on_error, columns, .. } = &*self.shared;
        let mut rows = self.shared.ask(&self.kind, batch)?;
        let first = self.rows;
        self.rows += batch.num_rows() as u64;
        let mut kept = batch.clone();
        if *on_error != OnError::Keep && rows.iter().any(|row| row.error.is_some()) {
            for (place, row) in rows.iter().enumerate() {
                let (Some(message), position) = (&row.error, first + place as u64) else { continue };
                if *on_error == OnError::Fail {
                    let message = message.clone();
                    return Err(OperatorError::Row { kind: self.kind.clone(), row: position, message });
                }
                output.quarantine_at(batch.slice(place, 1), message.as_str(), position);
            }
            let mask: BooleanArray = rows.iter().map(|row| Some(row.error.is_none())).collect();
            kept = filter_record_batch(batch, &mask)?;
            rows.retain(|row| row.error.is_none());
        }
        output.keep(extend_batch(&kept, schema, columns.make(&rows)?)?);
        Ok(())
    }
}
