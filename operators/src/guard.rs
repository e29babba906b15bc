//! `when:` makes a cascade: only rows that satisfy a predicate are judged, the others pass with typed defaults.

use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;

use crate::columns::default_array;
use crate::operator::{Operator, OperatorSpec, Output, Pass, RowEffect};
use crate::resources::ResourceIdentity;
use crate::{OperatorError, Result};

/// A condition on rows, evaluated by the host (which has an expression engine).
pub trait RowPredicate: Debug + Send + Sync {
    /// Names of the columns that the condition reads.
    fn inputs(&self) -> Vec<String>;

    /// One value per row; null counts as false.
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray>;
}

/// An operator that judges only the rows for which a predicate holds.
///
/// Works around operators whose row effect is [`RowEffect::Same`] (the other rows get typed defaults in the added columns)
/// or [`RowEffect::Fewer`] (the other rows are kept). Operators with any other effect are refused.
#[derive(Debug)]
pub struct Guarded {
    inner: Arc<dyn Operator>,
    predicate: Arc<dyn RowPredicate>,
}

impl Guarded {
    /// Puts `predicate` in front of `inner`.
    pub fn try_new(inner: Arc<dyn Operator>, predicate: Arc<dyn RowPredicate>) -> Result<Self> {
        if inner.row_effect() == RowEffect::Any {
            return Err(crate::config::invalid(
                &inner.spec().kind,
                "when",
                "this operator changes the rows themselves and cannot be applied to some of them only",
            ));
        }
        Ok(Self { inner, predicate })
    }
}

impl Operator for Guarded {
    fn spec(&self) -> &OperatorSpec {
        self.inner.spec()
    }

    fn output_schema(&self) -> &SchemaRef {
        self.inner.output_schema()
    }

    fn inputs(&self) -> Vec<String> {
        let mut inputs = self.inner.inputs();
        for column in self.predicate.inputs() {
            if !inputs.contains(&column) {
                inputs.push(column);
            }
        }
        inputs
    }

    fn row_effect(&self) -> RowEffect {
        self.inner.row_effect()
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.inner.resources()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(GuardedPass {
            inner: Arc::clone(&self.inner),
            predicate: Arc::clone(&self.predicate),
            pass: self.inner.start()?,
            held: Vec::new(),
            judged: Vec::new(),
            rows_judged: 0,
        }))
    }
}

/// Input batches are held until the inner pass has given out as many judged rows as they contain.
struct GuardedPass {
    inner: Arc<dyn Operator>,
    predicate: Arc<dyn RowPredicate>,
    pass: Box<dyn Pass>,
    held: Vec<Held>,
    judged: Vec<RecordBatch>,
    rows_judged: usize,
}

struct Held {
    batch: RecordBatch,
    mask: BooleanArray,
    selected: usize,
}

impl Pass for GuardedPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let mask = without_nulls(self.predicate.evaluate(batch)?);
        let selected = mask.true_count();
        match self.inner.row_effect() {
            RowEffect::Same => {
                let mut inner = Output::default();
                if selected > 0 {
                    self.pass.push(&filter_record_batch(batch, &mask)?, &mut inner)?;
                }
                self.held.push(Held { batch: batch.clone(), mask, selected });
                self.absorb(inner, output)
            }
            RowEffect::Fewer => self.thin(batch, &mask, output),
            RowEffect::Any => Err(not_applicable(self.inner.as_ref())),
        }
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        let mut inner = Output::default();
        self.pass.finish(&mut inner)?;
        match self.inner.row_effect() {
            RowEffect::Same => self.absorb(inner, output),
            _ if inner.accounted() == 0 => Ok(()),
            _ => Err(not_applicable(self.inner.as_ref())),
        }
    }
}

impl GuardedPass {
    /// Takes judged rows from the inner pass and gives out every held batch that is complete.
    fn absorb(&mut self, inner: Output, output: &mut Output) -> Result<()> {
        if inner.rows_rejected() + inner.rows_quarantined() > 0 {
            return Err(not_applicable(self.inner.as_ref()));
        }
        self.rows_judged += inner.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        self.judged.extend(inner.batches);
        let complete = {
            let mut available = self.rows_judged;
            self.held
                .iter()
                .take_while(|held| {
                    let fits = held.selected <= available;
                    available -= if fits { held.selected } else { 0 };
                    fits
                })
                .count()
        };
        if complete == 0 {
            return Ok(());
        }
        let schema = self.inner.output_schema();
        let mut judged = arrow_select::concat::concat_batches(schema, &self.judged)?;
        for held in self.held.drain(..complete) {
            let rows = judged.slice(0, held.selected);
            judged = judged.slice(held.selected, judged.num_rows() - held.selected);
            output.keep(scatter(schema, &held, &rows)?);
        }
        self.rows_judged = judged.num_rows();
        self.judged = vec![judged];
        Ok(())
    }

    /// For operators that leave rows out. Runs of selected rows go through the pass one by one, so that what survives
    /// keeps its place between the rows that are not judged.
    fn thin(&mut self, batch: &RecordBatch, mask: &BooleanArray, output: &mut Output) -> Result<()> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (from, to) in mask.values().set_slices() {
            pieces.push(batch.slice(start, from - start));
            let mut inner = Output::default();
            self.pass.push(&batch.slice(from, to - from), &mut inner)?;
            if inner.accounted() != (to - from) as u64 {
                return Err(not_applicable(self.inner.as_ref()));
            }
            pieces.extend(inner.batches);
            output.rejected.extend(inner.rejected);
            output.quarantined.extend(inner.quarantined);
            start = to;
        }
        pieces.push(batch.slice(start, batch.num_rows() - start));
        output.keep(arrow_select::concat::concat_batches(self.inner.output_schema(), &pieces)?);
        Ok(())
    }
}

/// The held batch with the judged rows' new columns in their places and typed defaults elsewhere.
fn scatter(schema: &SchemaRef, held: &Held, judged: &RecordBatch) -> Result<RecordBatch> {
    let width = held.batch.num_columns();
    let mut next = 0;
    let places: Vec<(usize, usize)> = (0..held.batch.num_rows())
        .map(|row| {
            if held.mask.value(row) {
                next += 1;
                (1, next - 1)
            } else {
                (0, 0)
            }
        })
        .collect();
    let mut columns: Vec<ArrayRef> = held.batch.columns().to_vec();
    for (index, field) in schema.fields().iter().enumerate().skip(width) {
        let default = default_array(field.data_type(), 1);
        columns.push(interleave(&[default.as_ref(), judged.column(index).as_ref()], &places)?);
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

fn without_nulls(mask: BooleanArray) -> BooleanArray {
    match mask.nulls() {
        None => mask,
        Some(nulls) => BooleanArray::new(mask.values() & nulls.inner(), None),
    }
}

fn not_applicable(operator: &dyn Operator) -> OperatorError {
    crate::config::invalid(&operator.spec().kind, "when", "this operator cannot be applied to some of the rows only")
}
