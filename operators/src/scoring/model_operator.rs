//! What the operators that read texts with a model have in common: all but their configuration and the columns they make.

use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;

use super::reader::Reader;
use crate::Result;
use crate::operator::{Operator, OperatorSpec, Output, Pass, RowEffect, extend_batch};
use crate::resources::ResourceIdentity;

/// The columns that an operator makes of a batch of texts.
pub(super) trait Columns: Debug + Send + Sync + 'static {
    /// One column for each field that was added; the first row of the batch has this number in its stream.
    fn make(&self, reader: &Reader, batch: &RecordBatch, first_row: u64) -> Result<Vec<ArrayRef>>;
}

/// The operator that adds these columns behind those of the input. The schema has their fields already.
pub(super) fn model_operator(
    spec: &OperatorSpec,
    schema: SchemaRef,
    reader: Reader,
    columns: impl Columns,
) -> Arc<dyn Operator> {
    Arc::new(ModelOperator { spec: spec.clone(), shared: Arc::new(Shared { schema, reader, columns }) })
}

#[derive(Debug)]
struct ModelOperator<C> {
    spec: OperatorSpec,
    shared: Arc<Shared<C>>,
}

/// What all passes share.
#[derive(Debug)]
struct Shared<C> {
    schema: SchemaRef,
    reader: Reader,
    columns: C,
}

impl<C: Columns> Operator for ModelOperator<C> {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.shared.reader.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.shared.reader.resources()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(ModelPass { shared: Arc::clone(&self.shared), rows: 0 }))
    }
}

struct ModelPass<C> {
    shared: Arc<Shared<C>>,
    /// Rows of earlier batches.
    rows: u64,
}

impl<C: Columns> Pass for ModelPass<C> {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let Shared { schema, reader, columns } = &*self.shared;
        let added = columns.make(reader, batch, self.rows)?;
        self.rows += batch.num_rows() as u64;
        output.keep(extend_batch(batch, schema, added)?);
        Ok(())
    }
}
