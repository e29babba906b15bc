//! The plan node that grinds splits: what a run is on an engine that executes plans elsewhere.
//!
//! Its child is the work list, an in-memory table with one row and one partition per split; its output is one row per
//! split, saying which record was committed. The leaf is a plain in-memory scan because engines that cut plans into tasks
//! know how to cut that one, and the split travels as data because a task does not know its partition's global number.
//! What it answers is for display only: the commit log decides what is done.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{StreamExt, TryStreamExt, stream};
use gristmill_datasets::run::CommitRecord;

use crate::environment::Environment;
use crate::error::PipelineError;
use crate::run::mill::Mills;
use crate::run::progress::Progress;
use crate::run::spec::{RunSpec, WorkItem};

static MILLS: LazyLock<Mills> = LazyLock::new(Mills::default);

/// Grinds the splits of its child's rows: reads, judges, writes and commits each.
#[derive(Debug)]
pub struct SplitExec {
    spec: RunSpec,
    environment: Environment,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SplitExec {
    /// A node over a work list made by [`work_list`].
    pub fn try_new(spec: RunSpec, input: Arc<dyn ExecutionPlan>, environment: Environment) -> Result<Self> {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(outcome_schema()),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        ));
        Ok(Self { spec, environment, input, properties })
    }

    /// What all splits share.
    #[must_use]
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }
}

/// The work list: an in-memory leaf with one partition per split.
pub fn work_list(items: &[WorkItem]) -> Result<Arc<dyn ExecutionPlan>> {
    let partitions = items
        .iter()
        .map(|item| {
            let json = serde_json::to_string(item).map_err(|error| DataFusionError::External(error.into()))?;
            let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![json]))];
            Ok(vec![RecordBatch::try_new(work_schema(), columns)?])
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(MemorySourceConfig::try_new_exec(&partitions, work_schema(), None)?)
}

fn work_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("work", DataType::Utf8, false)]))
}

fn outcome_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("split", DataType::UInt64, false),
        Field::new("part", DataType::Utf8, true),
        Field::new("rows_out", DataType::UInt64, false),
        Field::new("attempt", DataType::Utf8, false),
    ]))
}

fn items_of(batch: &RecordBatch) -> Result<Vec<WorkItem>> {
    let work = batch.column(0).as_string::<i32>();
    (0..work.len())
        .map(|row| serde_json::from_str(work.value(row)).map_err(|error| DataFusionError::External(error.into())))
        .collect()
}

fn outcome(record: &CommitRecord) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![record.split])),
        Arc::new(StringArray::from(vec![record.part.clone()])),
        Arc::new(UInt64Array::from(vec![record.rows_out])),
        Arc::new(StringArray::from(vec![record.attempt.clone()])),
    ];
    Ok(RecordBatch::try_new(outcome_schema(), columns)?)
}

/// Engines retry a task when its error is an I/O error, and only then.
fn engine_error(error: PipelineError) -> DataFusionError {
    if error.is_transient() {
        return DataFusionError::IoError(std::io::Error::other(error));
    }
    DataFusionError::External(Box::new(error))
}

impl DisplayAs for SplitExec {
    fn fmt_as(&self, _format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<&str> = self.spec.steps.iter().map(|step| step.operator.kind.as_str()).collect();
        write!(formatter, "SplitExec: steps=[{}] folder={}", steps.join(", "), self.spec.folder)
    }
}

impl ExecutionPlan for SplitExec {
    fn name(&self) -> &str {
        "SplitExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        Ok(Arc::new(Self::try_new(self.spec.clone(), input, self.environment.clone())?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mill = MILLS.get(&self.spec, &self.environment).map_err(engine_error)?;
        let rows = self
            .input
            .execute(partition, context)?
            .map(|batch| items_of(&batch?))
            .map_ok(|items| stream::iter(items.into_iter().map(Ok::<_, DataFusionError>)))
            .try_flatten()
            .and_then(move |item| {
                let mill = Arc::clone(&mill);
                async move {
                    let folder = mill.folder();
                    // An engine that loses a worker runs its finished tasks again; such a split costs one read.
                    if let Some(done) =
                        folder.read_commit(item.split.number).await.map_err(|error| engine_error(error.into()))?
                    {
                        return outcome(&done);
                    }
                    let progress = Progress::new(1, 0, item.split.bytes);
                    let record = mill.grind(&item, &progress).await.map_err(engine_error)?;
                    outcome(&record)
                }
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(outcome_schema(), rows)))
    }
}
