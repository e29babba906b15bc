//! Pipelines over text corpora: definition, planning and running, on DataFusion.
//!
//! * [`PipelineFile`] reads a pipeline file; [`Pipeline`] is what it says.
//! * [`run::run`] runs or resumes it; [`run::prepare`], [`run::estimate`] and [`run::validate`] look at it without running.
//! * [`operator_functions`] and [`OperatorExec`] host operators in SQL, DataFrames and physical plans; [`OperatorCodec`]
//!   carries the latter to other processes.
//! * [`numbers`] writes counts, sizes and times as people read them.
//! * [`operators`] holds the operators that are SQL expressions: `filter`, `derive`, `select`.

mod chain;
mod definition;
mod environment;
mod error;
mod expressions;
mod hosts;
pub mod inspect;
#[cfg(feature = "http")]
mod network;
pub mod numbers;
pub mod operators;
mod records;
pub mod run;
mod schema;
mod secrets;
mod testing;
mod under_way;

pub use chain::{Chain, ChainRun, Ground, StepError, StepSpec};
pub use definition::{
    ArrowSink, JsonlSink, Judgments, MetricsDefinition, OneOrMany, ParquetSink, Pipeline, PipelineFile, RankSettings,
    RankSink, RankingFormat, SinkCommon, SinkDefinition, SourceDefinition, SplitSizeText, StepDefinition,
    TestDefinition, TokenBudgetDefinition,
};
pub use environment::Environment;
pub use error::{DefinitionError, PipelineError, Place, Result};
pub use expressions::Expression;
pub use hosts::{OperatorCodec, OperatorExec, OperatorFunction, operator_functions};
pub use inspect::Inspection;
pub use schema::pipeline_schema;
pub use secrets::without_credentials;
pub use testing::{TestOutcome, run_tests};
pub use under_way::UnderWay;
