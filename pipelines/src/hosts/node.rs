//! Operators as nodes of a physical plan.

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};
use gristmill_operators::{Operator, Output, Pass};

use crate::chain::StepSpec;
use crate::environment::Environment;
use crate::hosts::engine_error;

/// A plan node that hosts one operator: batches of its child go through the operator, partition by partition, in order.
///
/// Rows that the operator rejects or quarantines leave the stream and are counted in the node's metrics
/// (`rows_rejected`, `rows_quarantined`); a pipeline run, which keeps them, does not go through this node.
///
/// ```
/// # use std::sync::Arc;
/// # use datafusion::prelude::SessionContext;
/// use gristmill_operators::OperatorSpec;
/// use gristmill_pipelines::{Environment, OperatorExec, StepSpec};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let context = SessionContext::new();
/// let documents = context.sql("SELECT 'a text' AS text").await?.create_physical_plan().await?;
/// let step = StepSpec {
///     operator: OperatorSpec::new("derive", serde_json::json!({"n": "character_length(text)"})),
///     when: None,
/// };
/// let plan = Arc::new(OperatorExec::try_new(step, documents, Environment::local())?);
/// let batches = datafusion::physical_plan::collect(plan, context.task_ctx()).await?;
/// assert_eq!(batches[0].num_columns(), 2);
/// # Ok::<(), datafusion::error::DataFusionError>(())
/// # })?;
/// # Ok::<(), datafusion::error::DataFusionError>(())
/// ```
#[derive(Debug)]
pub struct OperatorExec {
    step: StepSpec,
    operator: Arc<dyn Operator>,
    input: Arc<dyn ExecutionPlan>,
    environment: Environment,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl OperatorExec {
    /// Binds the step to the child's schema.
    pub fn try_new(step: StepSpec, input: Arc<dyn ExecutionPlan>, environment: Environment) -> Result<Self> {
        let operator = environment.registry.complete(&step.operator).map_err(engine_error)?;
        let step = StepSpec { operator, when: step.when };
        let operator =
            step.bind(&input.schema(), &environment.registry, &environment.resources).map_err(engine_error)?;
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(operator.output_schema())),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        ));
        Ok(Self { step, operator, input, environment, properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// The step that is hosted, with all defaults filled in.
    #[must_use]
    pub fn step(&self) -> &StepSpec {
        &self.step
    }
}

impl DisplayAs for OperatorExec {
    fn fmt_as(&self, _format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.step.operator;
        write!(formatter, "OperatorExec: {}@{} name={}", spec.kind, spec.version, spec.name)?;
        self.step.when.iter().try_for_each(|when| write!(formatter, " when={when}"))
    }
}

impl ExecutionPlan for OperatorExec {
    fn name(&self) -> &str {
        "OperatorExec"
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
        Ok(Arc::new(Self::try_new(self.step.clone(), input, self.environment.clone())?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let hosted = Hosted {
            input: Some(self.input.execute(partition, context)?),
            pass: self.operator.start().map_err(engine_error)?,
            ready: Vec::new().into_iter(),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            rejected: datafusion::physical_plan::metrics::MetricBuilder::new(&self.metrics)
                .counter("rows_rejected", partition),
            quarantined: datafusion::physical_plan::metrics::MetricBuilder::new(&self.metrics)
                .counter("rows_quarantined", partition),
        };
        let rows =
            stream::try_unfold(
                hosted,
                |mut hosted| async move { Ok(hosted.next().await?.map(|batch| (batch, hosted))) },
            );
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.operator.output_schema()), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One partition: the child's stream, the pass over it, and batches that are finished but not yet given out.
struct Hosted {
    input: Option<SendableRecordBatchStream>,
    pass: Box<dyn Pass>,
    ready: std::vec::IntoIter<RecordBatch>,
    metrics: BaselineMetrics,
    rejected: datafusion::physical_plan::metrics::Count,
    quarantined: datafusion::physical_plan::metrics::Count,
}

impl Hosted {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.next() {
                self.metrics.output_rows().add(batch.num_rows());
                return Ok(Some(batch));
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            let next = input.next().await.transpose()?;
            let mut output = Output::default();
            {
                let _timer = self.metrics.elapsed_compute().timer();
                match &next {
                    Some(batch) => self.pass.push(batch, &mut output),
                    None => self.pass.finish(&mut output),
                }
                .map_err(engine_error)?;
            }
            if next.is_none() {
                self.input = None;
            }
            self.rejected.add(usize::try_from(output.rows_rejected()).unwrap_or(usize::MAX));
            self.quarantined.add(usize::try_from(output.rows_quarantined()).unwrap_or(usize::MAX));
            self.ready = output.batches.into_iter();
        }
    }
}
