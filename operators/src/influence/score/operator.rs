//! The operator: scores of each row behind its columns, rows that have none aside.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, UInt32Builder};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StructArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use arrow_select::filter::filter_record_batch;

use super::documents::{Made, Values};
use super::prepared::Prepared;
use super::{KIND, source};
use crate::config::invalid;
use crate::operator::{Operator, OperatorSpec, Output, Pass, RowEffect, extend_batch};
use crate::resources::ResourceIdentity;
use crate::{OperatorError, Result, scores};

/// The operator, bound.
#[derive(Debug)]
pub(super) struct Influence {
    spec: OperatorSpec,
    identities: Vec<ResourceIdentity>,
    shared: Arc<Shared>,
}

/// What all passes share.
#[derive(Debug)]
struct Shared {
    schema: SchemaRef,
    column: String,
    prepared: Arc<Prepared>,
}

/// The fields of `<name>_metadata`.
pub(super) fn metadata_fields() -> Fields {
    vec![
        Field::new("loss", DataType::Float64, true),
        Field::new("tokens", DataType::UInt32, false),
        Field::new("norm", DataType::Float64, true),
    ]
    .into()
}

impl Influence {
    pub(super) fn new(
        spec: OperatorSpec,
        schema: SchemaRef,
        column: String,
        prepared: Arc<Prepared>,
        identities: Vec<ResourceIdentity>,
    ) -> Self {
        Self { spec, identities, shared: Arc::new(Shared { schema, column, prepared }) }
    }
}

impl Operator for Influence {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.shared.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Screened
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.identities.clone()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(InfluencePass { shared: Arc::clone(&self.shared), rows: 0 }))
    }
}

struct InfluencePass {
    shared: Arc<Shared>,
    /// Rows of earlier batches.
    rows: u64,
}

impl Pass for InfluencePass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let Shared { schema, column, prepared } = &*self.shared;
        let first_row = self.rows;
        self.rows += batch.num_rows() as u64;
        let (documents, present) = source::documents(prepared, column, batch, first_row)?;
        let made = prepared.engine.score(&prepared.reader.model, &documents);
        let mut made = made.map_err(|error| invalid(KIND, "model", error.to_string()))?.into_iter();
        let (mut columns, mut stays) = (Columns::default(), Vec::with_capacity(present.len()));
        for (row, present) in present.into_iter().enumerate() {
            let made = if present { made.next() } else { None };
            stays.push(!matches!(made, Some(Err(_))));
            match made {
                Some(Err(message)) => {
                    let message = format!("it cannot be scored with this model: {message}");
                    output.quarantine_at(batch.slice(row, 1), message, first_row + row as u64);
                }
                Some(Ok(made)) => columns.add(Some(made), prepared.names.len(), first_row + row as u64)?,
                None => columns.add(None, prepared.names.len(), first_row + row as u64)?,
            }
        }
        let kept = match stays.contains(&false) {
            true => filter_record_batch(batch, &BooleanArray::from(stays))?,
            false => batch.clone(),
        };
        output.keep(extend_batch(&kept, schema, columns.finish(prepared.names.len())?)?);
        Ok(())
    }
}

/// The columns that are added.
#[derive(Default)]
struct Columns {
    scores: Vec<f32>,
    valid: Vec<bool>,
    loss: Float64Builder,
    tokens: UInt32Builder,
    norm: Float64Builder,
}

impl Columns {
    /// Adds what was made of a row, or nulls.
    fn add(&mut self, made: Option<Made>, names: usize, row: u64) -> Result<()> {
        self.valid.push(made.is_some());
        let Made { loss, tokens, values } = made.unwrap_or_else(|| Made {
            loss: None,
            tokens: 0,
            values: Values { numbers: vec![0.0; names], norm: None },
        });
        self.scores.extend(values.numbers);
        let too_many =
            |_| OperatorError::Row { kind: KIND.to_owned(), row, message: format!("{tokens} tokens are too many") };
        self.tokens.append_value(u32::try_from(tokens).map_err(too_many)?);
        self.loss.append_option(loss);
        self.norm.append_option(values.norm);
        Ok(())
    }

    fn finish(mut self, names: usize) -> Result<Vec<ArrayRef>> {
        let valid = NullBuffer::from(self.valid);
        let column = scores::column(names, self.scores, Some(valid.clone()))?;
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.loss.finish()), Arc::new(self.tokens.finish()), Arc::new(self.norm.finish())];
        let metadata = StructArray::try_new(metadata_fields(), columns, Some(valid))?;
        Ok(vec![Arc::new(column), Arc::new(metadata)])
    }
}
