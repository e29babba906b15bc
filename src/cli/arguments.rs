//! The command line as clap reads it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Grinds text corpora: filters, scores, counts and tokenizes documents, and survives being killed.
#[derive(Debug, Parser)]
#[command(name = "gristmill", version, about, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline, or go on with it where it stopped.
    Run(RunArguments),
    /// Show splits, operators, fingerprint and an estimate, without running.
    Plan(PlanArguments),
    /// Check a pipeline against its real source, without reading rows.
    Validate(PipelineOnly),
    /// Run the tests that a pipeline file carries.
    Test(TestArguments),
    /// Show how far a run is.
    Status(StatusArguments),
    /// Show schema, size and first rows of files or of a run's output.
    Inspect(InspectArguments),
    /// Print the JSON Schema of pipeline files.
    Schema,
    /// List the operators, or show one.
    Operators(OperatorsArguments),
    /// Write a model with its adapter merged into the weights.
    Merge(MergeArguments),
    /// Analyze ranked or scored rows: metrics, statistics and plots.
    Analyze(super::analyze::arguments::AnalyzeArguments),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PipelineArguments {
    /// Pipeline file.
    pub(crate) file: PathBuf,
    /// Overrides by dotted path, such as source.limit=1000 or steps.1.threshold=0.5.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Rows to read at most; the same as source.limit=N.
    #[arg(long, value_name = "ROWS")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArguments,
    /// Splits worked on at the same time; all processors by default. The result does not depend on it.
    #[arg(long, short, env = "GRISTMILL_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// Start over in a new run folder beside one that exists.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Show neither progress nor the closing table.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Progress as JSON lines on standard error, the report as JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArguments,
    /// Splits to sample for the estimate; 0 makes none.
    #[arg(long, default_value_t = 3, value_name = "SPLITS")]
    pub(crate) sample: usize,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PipelineOnly {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArguments,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Tests bring their own rows, so there is no limit to set.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Pipeline file.
    pub(crate) file: PathBuf,
    /// Overrides by dotted path, such as steps.1.threshold=0.5.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Run folder: a path or URL.
    pub(crate) folder: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Files, a glob, a data set or a run folder: a path or URL.
    pub(crate) target: String,
    /// Rows to show.
    #[arg(long, default_value_t = 5)]
    pub(crate) rows: usize,
    /// Print the rows as JSON lines and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OperatorsArguments {
    /// Show this operator's configuration.
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// The model: a folder, a URL or a repository on the Hugging Face Hub.
    pub(crate) model: String,
    /// Its adapter, as peft saves it.
    pub(crate) adapter: String,
    /// A new or an empty folder.
    pub(crate) out: PathBuf,
    /// Bytes of tensors in a file of weights at most.
    #[arg(long, default_value_t = 5_000_000_000, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) shard_bytes: u64,
}
