//! Thin hosts around the [`Operator`](gristmill_operators::Operator) trait inside DataFusion: SQL functions and plan nodes.
//!
//! The direct call is [`gristmill_operators::apply`]; these are the other three. [`operator_functions`] makes the columns
//! that an operator adds callable from SQL and DataFrames. [`OperatorExec`] puts any operator into a physical plan, and
//! [`OperatorCodec`] carries such plans to other processes: what travels is the step's spec, nothing else.

mod codec;
mod function;
mod node;

use datafusion::error::DataFusionError;
use gristmill_operators::OperatorError;

pub use codec::OperatorCodec;
pub use function::{OperatorFunction, operator_functions};
pub use node::OperatorExec;

pub(crate) fn engine_error(error: OperatorError) -> DataFusionError {
    match error {
        OperatorError::Arrow(error) => error.into(),
        other => DataFusionError::External(Box::new(other)),
    }
}
