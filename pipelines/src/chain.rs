//! The chain of steps that every split goes through.
//!
//! [`Chain`] is the bound form: operators in order, each with the schema it reads and gives. [`ChainRun`] is one split's pass
//! through it. It is synchronous and knows nothing of files or engines; whoever drives it decides where rows come from and
//! where they go. Every row is accounted for at every step, and [`ChainRun::finish`] fails if one is not.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use gristmill_datasets::run::{StepCount, VerdictCount};
use gristmill_operators::{
    Guarded, Operator, OperatorError, OperatorSpec, Output, Pass, Quarantined, Registry, Rejected, ResourceIdentity,
    Resources, RowEffect,
};
use serde::{Deserialize, Serialize};

use crate::definition::StepDefinition;
use crate::expressions::Expression;

/// One step of a chain, as it travels: the completed spec and the condition on rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepSpec {
    /// The operator.
    pub operator: OperatorSpec,
    /// SQL condition: only rows for which it holds are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// An error of one step.
#[derive(Debug, thiserror::Error)]
#[error("step {index} ('{name}'): {source}")]
pub struct StepError {
    /// Position of the step, from 0.
    pub index: usize,
    /// Name of the step.
    pub name: String,
    /// What its operator said.
    pub source: OperatorError,
}

/// Steps bound to a source schema.
#[derive(Clone, Debug)]
pub struct Chain {
    input: SchemaRef,
    steps: Vec<BoundStep>,
}

#[derive(Clone, Debug)]
struct BoundStep {
    spec: StepSpec,
    operator: Arc<dyn Operator>,
    /// Positions, in the step's output, of boolean columns that the step added.
    verdicts: Vec<usize>,
}

impl StepSpec {
    /// The step's spec with its version and all defaults filled in.
    pub fn complete(step: &StepDefinition, registry: &Registry) -> Result<Self, OperatorError> {
        let spec = OperatorSpec::new(&step.kind, step.config.clone()).named(&step.name);
        Ok(Self { operator: registry.complete(&spec)?, when: step.when.clone() })
    }

    /// Binds the step to the schema of the rows it gets.
    pub fn bind(
        &self,
        input: &SchemaRef,
        registry: &Registry,
        resources: &Resources,
    ) -> Result<Arc<dyn Operator>, OperatorError> {
        let operator = registry.bind(&self.operator, input, resources)?;
        let Some(when) = &self.when else { return Ok(operator) };
        let predicate = Expression::condition(&self.operator.kind, "when", when, input)?;
        Ok(Arc::new(Guarded::try_new(operator, Arc::new(predicate))?))
    }
}

impl Chain {
    /// Binds completed steps to the schema that the source gives.
    pub fn bind(
        steps: &[StepSpec],
        input: &SchemaRef,
        registry: &Registry,
        resources: &Resources,
    ) -> Result<Self, StepError> {
        let mut bound: Vec<BoundStep> = Vec::with_capacity(steps.len());
        let mut schema = Arc::clone(input);
        for (index, step) in steps.iter().enumerate() {
            let operator = step.bind(&schema, registry, resources).map_err(|source| StepError {
                index,
                name: step.operator.name.clone(),
                source,
            })?;
            let verdicts = match operator.row_effect() {
                RowEffect::Same | RowEffect::Screened => (schema.fields().len()
                    ..operator.output_schema().fields().len())
                    .filter(|&column| *operator.output_schema().field(column).data_type() == DataType::Boolean)
                    .collect(),
                _ => Vec::new(),
            };
            schema = Arc::clone(operator.output_schema());
            bound.push(BoundStep { spec: step.clone(), operator, verdicts });
        }
        Ok(Self { input: Arc::clone(input), steps: bound })
    }

    /// Schema of the rows that go in.
    #[must_use]
    pub fn input_schema(&self) -> &SchemaRef {
        &self.input
    }

    /// Schema of the rows that come out.
    #[must_use]
    pub fn output_schema(&self) -> &SchemaRef {
        self.steps.last().map_or(&self.input, |step| step.operator.output_schema())
    }

    /// Name of a step.
    #[must_use]
    pub fn step_name(&self, index: usize) -> &str {
        self.steps.get(index).map_or("", |step| step.spec.operator.name.as_str())
    }

    /// The steps, as they travel.
    pub fn specs(&self) -> impl Iterator<Item = &StepSpec> {
        self.steps.iter().map(|step| &step.spec)
    }

    /// The bound operators, in order.
    pub fn operators(&self) -> impl Iterator<Item = &Arc<dyn Operator>> {
        self.steps.iter().map(|step| &step.operator)
    }

    /// Identities of all resources that influence the result.
    #[must_use]
    pub fn resources(&self) -> Vec<ResourceIdentity> {
        self.steps.iter().flat_map(|step| step.operator.resources()).collect()
    }

    /// Names of the source columns that steps read.
    #[must_use]
    pub fn required_columns(&self) -> Vec<String> {
        let mut required: Vec<String> = Vec::new();
        for column in self.steps.iter().flat_map(|step| step.operator.inputs()) {
            if self.input.column_with_name(&column).is_some() && !required.contains(&column) {
                required.push(column);
            }
        }
        required
    }

    /// Which steps the last one depends on: those that leave rows out or give others, and those whose columns it reads, itself or by way of another step. The others only add
    /// columns. Rows that one of them would put aside stay.
    #[must_use]
    pub fn needed_by_last(&self) -> Vec<bool> {
        let mut needed = vec![true; self.steps.len()];
        let mut columns: Vec<String> = Vec::new();
        for (index, step) in self.steps.iter().enumerate().rev() {
            let before = match index.checked_sub(1) {
                Some(before) => self.steps[before].operator.output_schema(),
                None => &self.input,
            };
            let adds_only = matches!(step.operator.row_effect(), RowEffect::Same | RowEffect::Screened);
            let added = step.operator.output_schema().fields().iter().skip(before.fields().len());
            let is_last = index + 1 == self.steps.len();
            needed[index] = is_last || !adds_only || added.into_iter().any(|field| columns.contains(field.name()));
            if needed[index] {
                columns.extend(step.operator.inputs());
            }
        }
        needed
    }

    /// Names of the verdict columns: booleans that steps added.
    #[must_use]
    pub fn verdict_columns(&self) -> Vec<String> {
        let name = |step: &BoundStep, column: usize| step.operator.output_schema().field(column).name().clone();
        self.steps.iter().flat_map(|step| step.verdicts.iter().map(move |&column| name(step, column))).collect()
    }

    /// Begins one split's pass. `label` names a boolean column that verdicts are compared with.
    pub fn start(&self, label: Option<&str>) -> Result<ChainRun, StepError> {
        let mut stages = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let name = step.spec.operator.name.clone();
            let pass = step.operator.start().map_err(|source| StepError { index, name: name.clone(), source })?;
            let verdicts = step
                .verdicts
                .iter()
                .map(|&column| VerdictCount {
                    column: step.operator.output_schema().field(column).name().clone(),
                    ..VerdictCount::default()
                })
                .collect();
            let count = StepCount { name, kind: step.spec.operator.kind.clone(), verdicts, ..StepCount::default() };
            stages.push(Stage { pass, verdicts: step.verdicts.clone(), count });
        }
        Ok(ChainRun { stages, label: label.map(str::to_owned) })
    }
}

/// What came out of the chain for some input.
#[derive(Debug, Default)]
pub struct Ground {
    /// Finished rows, in order.
    pub batches: Vec<RecordBatch>,
    /// Rows left out, with the index of the step.
    pub rejected: Vec<(usize, Rejected)>,
    /// Rows that failed, with the index of the step.
    pub quarantined: Vec<(usize, Quarantined)>,
}

/// One split's pass through a chain.
pub struct ChainRun {
    stages: Vec<Stage>,
    label: Option<String>,
}

struct Stage {
    pass: Box<dyn Pass>,
    verdicts: Vec<usize>,
    count: StepCount,
}

impl ChainRun {
    /// Sends a batch through all steps.
    pub fn push(&mut self, batch: RecordBatch) -> Result<Ground, StepError> {
        let mut ground = Ground::default();
        self.feed(0, vec![batch], &mut ground)?;
        Ok(ground)
    }

    /// Gives out what steps held back, and checks that every row is accounted for.
    pub fn finish(&mut self) -> Result<Ground, StepError> {
        let mut ground = Ground::default();
        for index in 0..self.stages.len() {
            let batches = self.run_stage(index, &mut ground, |pass, output| pass.finish(output))?;
            self.feed(index + 1, batches, &mut ground)?;
            let count = &self.stages[index].count;
            let accounted = count.rows_kept + count.rows_rejected + count.rows_quarantined;
            if accounted != count.rows_in {
                let message = format!(
                    "{} rows came in, but {} were kept, {} rejected and {} quarantined",
                    count.rows_in, count.rows_kept, count.rows_rejected, count.rows_quarantined
                );
                return Err(self.error(index, gristmill_operators::config::invalid(&count.kind, "", message)));
            }
        }
        Ok(ground)
    }

    /// What each step did so far.
    #[must_use]
    pub fn counts(&self) -> Vec<StepCount> {
        self.stages.iter().map(|stage| stage.count.clone()).collect()
    }

    fn feed(&mut self, first: usize, mut batches: Vec<RecordBatch>, ground: &mut Ground) -> Result<(), StepError> {
        for index in first..self.stages.len() {
            let mut next = Vec::with_capacity(batches.len());
            for batch in batches {
                self.stages[index].count.rows_in += batch.num_rows() as u64;
                next.extend(self.run_stage(index, ground, |pass, output| pass.push(&batch, output))?);
            }
            batches = next;
        }
        ground.batches.append(&mut batches);
        Ok(())
    }

    fn run_stage(
        &mut self,
        index: usize,
        ground: &mut Ground,
        work: impl FnOnce(&mut dyn Pass, &mut Output) -> Result<(), OperatorError>,
    ) -> Result<Vec<RecordBatch>, StepError> {
        let begun = Instant::now();
        let mut output = Output::default();
        let stage = &mut self.stages[index];
        if let Err(source) = work(stage.pass.as_mut(), &mut output) {
            return Err(self.error(index, source));
        }
        stage.count.rows_kept += output.kept;
        stage.count.rows_rejected += output.rows_rejected();
        stage.count.rows_quarantined += output.rows_quarantined();
        stage.count.rows_out += output.rows();
        for batch in &output.batches {
            for (verdict, &column) in stage.count.verdicts.iter_mut().zip(&stage.verdicts) {
                count_verdicts(verdict, batch, column, self.label.as_deref());
            }
        }
        stage.count.seconds += begun.elapsed().as_secs_f64();
        ground.rejected.extend(output.rejected.into_iter().map(|rejected| (index, rejected)));
        ground.quarantined.extend(output.quarantined.into_iter().map(|quarantined| (index, quarantined)));
        Ok(output.batches)
    }

    fn error(&self, index: usize, source: OperatorError) -> StepError {
        StepError { index, name: self.stages[index].count.name.clone(), source }
    }
}

impl std::fmt::Debug for ChainRun {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ChainRun").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// Adds the verdicts of a batch to a count; null counts as false on both sides.
fn count_verdicts(count: &mut VerdictCount, batch: &RecordBatch, column: usize, label: Option<&str>) {
    let Some(verdicts) = batch.column(column).as_boolean_opt() else { return };
    let flagged = verdicts.true_count() as u64;
    count.flagged += flagged;
    let labels = label.and_then(|label| batch.column_by_name(label)).and_then(|array| array.as_boolean_opt());
    let Some(labels) = labels else { return };
    let both = (0..batch.num_rows())
        .filter(|&row| verdicts.is_valid(row) && verdicts.value(row) && labels.is_valid(row) && labels.value(row))
        .count() as u64;
    let positives = labels.true_count() as u64;
    count.true_positives += both;
    count.false_positives += flagged - both;
    count.false_negatives += positives - both;
    count.true_negatives += batch.num_rows() as u64 + both - flagged - positives;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gristmill_operators::conformance;
    use serde_json::json;

    use super::*;

    fn chain(steps: serde_json::Value) -> Chain {
        let registry = crate::operators::registry();
        let steps: Vec<StepDefinition> = serde_json::from_value(steps).unwrap();
        let specs: Vec<StepSpec> = steps.iter().map(|step| StepSpec::complete(step, &registry).unwrap()).collect();
        Chain::bind(&specs, &conformance::text_batch().schema(), &registry, &Resources::local()).unwrap()
    }

    #[test]
    fn a_cascade_accounts_for_every_row() {
        let chain = chain(json!([
            {"derive": {"long": "character_length(text) > 10", "even": "id % 2 = 0"}},
            {"derive": {"name": "second", "when": "long", "shout": "upper(text)", "flag": "even"}},
            {"filter": {"keep": "NOT long OR even", "reason": "odd"}},
            {"sample": {"fraction": 0.5, "by": "id"}},
            {"select": {"columns": ["id", "shout"]}},
        ]));
        let table = conformance::text_batch();
        let expected = {
            let mut run = chain.start(Some("even")).unwrap();
            let mut rows = conformance::rows_as_json(&run.push(table.clone()).unwrap().batches);
            rows.extend(conformance::rows_as_json(&run.finish().unwrap().batches));
            let counts = run.counts();
            for (before, after) in counts.iter().zip(&counts[1..]) {
                assert_eq!(before.rows_out, after.rows_in);
            }
            assert_eq!(counts[0].rows_in, table.num_rows() as u64);
            assert!(counts[2].rows_rejected > 0 && counts[3].rows_rejected > 0);
            let even = &counts[0].verdicts[1];
            assert_eq!((even.column.as_str(), even.false_positives, even.false_negatives), ("even", 0, 0));
            assert_eq!(even.true_positives + even.true_negatives, table.num_rows() as u64);
            let flag = &counts[1].verdicts[0];
            assert!(flag.false_negatives > 0, "rows that 'when' leaves out have verdict false");
            rows
        };
        let mut run = chain.start(None).unwrap();
        let mut rows = Vec::new();
        for row in 0..table.num_rows() {
            rows.extend(conformance::rows_as_json(&run.push(table.slice(row, 1)).unwrap().batches));
        }
        rows.extend(conformance::rows_as_json(&run.finish().unwrap().batches));
        assert_eq!(rows, expected);
        assert!(!rows.is_empty());
    }

    #[test]
    fn a_guarded_step_gives_typed_defaults() {
        let chain =
            chain(json!([{"derive": {"when": "id = 0", "n": "character_length(text)", "b": "true", "s": "'x'"}}]));
        let mut run = chain.start(None).unwrap();
        let output = run.push(conformance::text_batch()).unwrap().batches.remove(0);
        let last = output.num_rows() - 1;
        assert!(output["b"].as_boolean().value(0) && !output["b"].as_boolean().value(last));
        assert_eq!(output["s"].as_string::<i32>().value(last), "");
        assert_eq!(output["n"].null_count(), 0);
    }
}
