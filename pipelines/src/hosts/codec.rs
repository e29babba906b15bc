//! The serialised form of plan nodes and functions: a magic prefix and the spec as JSON.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    DefaultPhysicalExtensionCodec, PhysicalExtensionCodec, PhysicalProtoConverterExtension,
};

use crate::chain::StepSpec;
use crate::environment::Environment;
use crate::hosts::OperatorExec;
use crate::run::SplitExec;

const OPERATOR: &[u8] = b"gristmill/operator/1\0";
const SPLIT: &[u8] = b"gristmill/split/1\0";

/// Carries gristmill's plan nodes to other processes. Everything else is left to the codec inside.
///
/// The receiving side needs the same operator kinds: its [`Environment`] binds what arrives.
#[derive(Debug)]
pub struct OperatorCodec {
    environment: Environment,
    inner: Arc<dyn PhysicalExtensionCodec>,
}

impl OperatorCodec {
    /// A codec that knows gristmill's nodes only.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self::around(environment, Arc::new(DefaultPhysicalExtensionCodec {}))
    }

    /// A codec that hands other nodes to `inner`.
    #[must_use]
    pub fn around(environment: Environment, inner: Arc<dyn PhysicalExtensionCodec>) -> Self {
        Self { environment, inner }
    }
}

impl PhysicalExtensionCodec for OperatorCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(json) = bytes.strip_prefix(OPERATOR) {
            let step: StepSpec =
                serde_json::from_slice(json).map_err(|error| DataFusionError::External(error.into()))?;
            return Ok(Arc::new(OperatorExec::try_new(step, only(inputs)?, self.environment.clone())?));
        }
        if let Some(json) = bytes.strip_prefix(SPLIT) {
            let spec = serde_json::from_slice(json).map_err(|error| DataFusionError::External(error.into()))?;
            return Ok(Arc::new(SplitExec::try_new(spec, only(inputs)?, self.environment.clone())?));
        }
        self.inner.try_decode(bytes, inputs, context, converter)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let written = if let Some(operator) = node.downcast_ref::<OperatorExec>() {
            bytes.extend_from_slice(OPERATOR);
            serde_json::to_writer(&mut *bytes, operator.step())
        } else if let Some(split) = node.downcast_ref::<SplitExec>() {
            bytes.extend_from_slice(SPLIT);
            serde_json::to_writer(&mut *bytes, split.spec())
        } else {
            return self.inner.try_encode(node, bytes, converter);
        };
        written.map_err(|error| DataFusionError::External(error.into()))
    }
}

fn only(inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>> {
    match inputs {
        [input] => Ok(Arc::clone(input)),
        _ => internal_err!("a gristmill node has one child, found {}", inputs.len()),
    }
}
