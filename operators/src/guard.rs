//! `when:` makes a cascade: only rows that satisfy a predicate are judged, the others pass with typed defaults.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;

use crate::columns::default_array;
use crate::operator::{Operator, OperatorSpec, Output, Pass, Quarantined, RowEffect};
use crate::resources::ResourceIdentity;
use crate::{OperatorError, Result, scores};

/// A condition on rows, evaluated by the host (which has an expression engine).
pub trait RowPredicate: Debug + Send + Sync {
    /// Names of the columns that the condition reads.
    fn inputs(&self) -> Vec<String>;

    /// One value per row; null counts as false.
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray>;
}

/// An operator that judges only the rows for which a predicate holds.
///
/// Works around operators whose row effect is [`RowEffect::Same`] or [`RowEffect::Screened`] (the other rows get typed defaults in the
/// added columns) or [`RowEffect::Fewer`] (the other rows are kept). Operators with any other effect are refused.
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
            quarantined: VecDeque::new(),
            given_out: 0,
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
    /// Positions of quarantined rows in the stream of selected rows, in order, as far as their batches are held.
    quarantined: VecDeque<u64>,
    /// Selected rows of the batches that were given out.
    given_out: u64,
}

struct Held {
    batch: RecordBatch,
    mask: BooleanArray,
    selected: usize,
}

impl Held {
    /// The batch without some of its selected rows, given in order.
    fn without(self, gone: &[u64]) -> Result<Self> {
        let mut selected = 0;
        let stays: BooleanArray = (0..self.batch.num_rows())
            .map(|row| {
                let is_gone = self.mask.value(row) && gone.binary_search(&selected).is_ok();
                selected += u64::from(self.mask.value(row));
                Some(!is_gone)
            })
            .collect();
        let mask = arrow_select::filter::filter(&self.mask, &stays)?.as_boolean().clone();
        Ok(Self { batch: filter_record_batch(&self.batch, &stays)?, selected: mask.true_count(), mask })
    }
}

impl Pass for GuardedPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let mask = without_nulls(self.predicate.evaluate(batch)?);
        let selected = mask.true_count();
        match self.inner.row_effect() {
            RowEffect::Same | RowEffect::Screened => {
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
            RowEffect::Same | RowEffect::Screened => self.absorb(inner, output),
            _ if inner.accounted() == 0 => Ok(()),
            _ => Err(not_applicable(self.inner.as_ref())),
        }
    }
}

impl GuardedPass {
    /// Takes judged rows from the inner pass and gives out every held batch that is complete.
    fn absorb(&mut self, inner: Output, output: &mut Output) -> Result<()> {
        self.screen(&inner)?;
        output
            .quarantined
            .extend(inner.quarantined.into_iter().map(|gone| Quarantined { positions: Vec::new(), ..gone }));
        self.rows_judged += inner.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        self.judged.extend(inner.batches);
        let complete = {
            let (mut available, mut end, mut gone_before) = (self.rows_judged, self.given_out, 0);
            self.held
                .iter()
                .take_while(|held| {
                    end += held.selected as u64;
                    let gone = self.quarantined.partition_point(|&position| position < end);
                    let judged = held.selected - (gone - gone_before);
                    gone_before = gone;
                    let fits = judged <= available;
                    available -= if fits { judged } else { 0 };
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
            let begin = self.given_out;
            self.given_out += held.selected as u64;
            let gone = self.quarantined.partition_point(|&position| position < self.given_out);
            let gone: Vec<u64> = self.quarantined.drain(..gone).map(|position| position - begin).collect();
            let held = if gone.is_empty() { held } else { held.without(&gone)? };
            let rows = judged.slice(0, held.selected);
            judged = judged.slice(held.selected, judged.num_rows() - held.selected);
            output.keep(scatter(schema, &held, &rows)?);
        }
        self.rows_judged = judged.num_rows();
        self.judged = vec![judged];
        Ok(())
    }

    /// Takes note of which rows the inner pass quarantined.
    fn screen(&mut self, inner: &Output) -> Result<()> {
        let stated = inner.quarantined.iter().map(|gone| gone.positions.len() as u64).sum::<u64>();
        let may_quarantine = self.inner.row_effect() == RowEffect::Screened;
        if inner.rows_rejected() > 0
            || inner.rows_quarantined() > 0 && !(may_quarantine && stated == inner.rows_quarantined())
        {
            return Err(not_applicable(self.inner.as_ref()));
        }
        self.quarantined.extend(inner.quarantined.iter().flat_map(|gone| &gone.positions));
        self.quarantined.make_contiguous().sort_unstable();
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
        // A row that was not compared has no scores; zeros would rank.
        let default = match scores::is_scores(field) {
            true => new_null_array(field.data_type(), 1),
            false => default_array(field.data_type(), 1),
        };
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
