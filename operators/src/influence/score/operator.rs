//! The operator: scores of each row behind its columns, rows that have none aside.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, UInt32Builder};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StructArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use arrow_select::filter::filter_record_batch;

use super::KIND;
use super::documents::{Made, Values};
use super::prepared::Prepared;
use super::source::Source;
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
    source: Source,
    prepared: Arc<Prepared>,
}

/// The fields of `<name>_metadata`.
pub(super) fn metadata_fields(prepared: &Prepared) -> Fields {
    let mut fields = vec![
        Field::new("loss", DataType::Float64, true),
        Field::new("tokens", DataType::UInt32, true),
        Field::new("norm", DataType::Float64, true),
    ];
    if prepared.config.candidates.is_some() {
        fields.push(Field::new("weight", DataType::Float64, true));
    }
    fields.into()
}

impl Influence {
    pub(super) fn new(
        spec: OperatorSpec,
        schema: SchemaRef,
        source: Source,
        prepared: Arc<Prepared>,
        identities: Vec<ResourceIdentity>,
    ) -> Self {
        Self { spec, identities, shared: Arc::new(Shared { schema, source, prepared }) }
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
        self.shared.source.inputs()
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
        let Shared { schema, source, prepared } = &*self.shared;
        let first_row = self.rows;
        self.rows += batch.num_rows() as u64;
        let (names, mut columns) = (prepared.names.len(), Columns::default());
        let mut stays = Vec::with_capacity(batch.num_rows());
        for (row, scored) in source.score(prepared, batch)?.into_iter().enumerate() {
            let position = first_row + row as u64;
            stays.push(!matches!(scored, Some(Err(_))));
            match scored {
                Some(Err(message)) => {
                    let message = format!("the row cannot be scored: {message}");
                    output.quarantine_at(batch.slice(row, 1), message, position);
                }
                Some(Ok(made)) => columns.add(Some(made), names, position)?,
                None => columns.add(None, names, position)?,
            }
        }
        let kept = match stays.contains(&false) {
            true => filter_record_batch(batch, &BooleanArray::from(stays))?,
            false => batch.clone(),
        };
        output.keep(extend_batch(&kept, schema, columns.finish(prepared)?)?);
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
    weight: Float64Builder,
}

impl Columns {
    /// Adds what was made of a row, or nulls.
    fn add(&mut self, made: Option<Made>, names: usize, row: u64) -> Result<()> {
        self.valid.push(made.is_some());
        self.weight.append_option(made.as_ref().map(|made| made.weight));
        let Made { loss, tokens, values, .. } = made.unwrap_or_else(|| Made {
            loss: None,
            tokens: None,
            weight: 1.0,
            values: Values { numbers: vec![0.0; names], norm: None },
        });
        self.scores.extend(values.numbers);
        let count = |tokens: usize| {
            let message = format!("{tokens} tokens are too many");
            u32::try_from(tokens).map_err(|_| OperatorError::Row { kind: KIND.to_owned(), row, message })
        };
        self.tokens.append_option(tokens.map(count).transpose()?);
        self.loss.append_option(loss);
        self.norm.append_option(values.norm);
        Ok(())
    }

    fn finish(mut self, prepared: &Prepared) -> Result<Vec<ArrayRef>> {
        let valid = NullBuffer::from(self.valid);
        let column = scores::column(prepared.names.len(), self.scores, Some(valid.clone()))?;
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(self.loss.finish()), Arc::new(self.tokens.finish()), Arc::new(self.norm.finish())];
        let fields = metadata_fields(prepared);
        if fields.len() > columns.len() {
            columns.push(Arc::new(self.weight.finish()));
        }
        let metadata = StructArray::try_new(fields, columns, Some(valid))?;
        Ok(vec![Arc::new(column), Arc::new(metadata)])
    }
}
