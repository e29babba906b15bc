//! What `gristmill analyze` takes.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArguments {
    #[command(subcommand)]
    pub(crate) analysis: Analysis,
}

/// Tables are .jsonl, .ndjson, .json, .parquet or .arrow files, or folders of finished runs: paths or URLs.
#[derive(Debug, Subcommand)]
pub(crate) enum Analysis {
    /// Do scores credit the rows that a model was trained on?
    Influence(InfluenceArguments),
    /// What each function's scores say of the documents of each function.
    Ranked(RankedArguments),
    /// Recall, precision, MRR, mAP and nDCG of rankings.
    Retrieval(RetrievalArguments),
    /// Do scores foretell what models become that are trained on subsets of the rows?
    Lds(LdsArguments),
    /// How much columns of scores agree.
    Agreement(AgreementArguments),
    /// Which tensors' gradients find the original of a rewritten sample: runs of gradient_pairs.
    Pairs(PairsArguments),
    /// How many of the best rows did candidates miss? Of a ranking by influence with `candidates`.
    Recall(RecallArguments),
    /// Write scored rows as ranked ones, in the form of the benchmark with hop functions.
    Hops(HopsArguments),
}

/// Where results go.
#[derive(Clone, Debug, Args)]
pub(crate) struct Results {
    /// Folder for the JSON file and the plots; it is made where it is not there.
    #[arg(long, default_value = "analysis_results", value_name = "FOLDER")]
    pub(crate) output_dir: PathBuf,
    /// Draw plots, too, as SVG files.
    #[arg(long, visible_alias = "create-plots")]
    pub(crate) plots: bool,
    /// Print the JSON, and no table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How intervals of means over queries are drawn.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Intervals {
    /// How often queries are drawn again for the intervals of means.
    #[arg(long, default_value_t = 10_000, value_name = "DRAWS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) bootstrap: u32,
    /// The same seed gives the same intervals.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct InfluenceArguments {
    /// Ranked or scored rows.
    pub(crate) input: String,
    /// Column of scores; combined_influence_score, influence_score or the only combined_..._score by default.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) score: Option<String>,
    /// Table with training_status (trained or untrained) and, where there are any, split_group and experiment_type of each row of the data set, in its
    /// order; the input's own columns by default.
    #[arg(long, value_name = "TABLE")]
    pub(crate) status: Option<String>,
    /// Column that says which row of --status is meant; by default the input's original_index is the position there.
    #[arg(long, value_name = "COLUMN", requires = "status")]
    pub(crate) on: Option<String>,
    /// Show every top, every statistic and the highest and lowest rows.
    #[arg(long, visible_alias = "detailed-analysis")]
    pub(crate) detailed: bool,
    #[command(flatten)]
    pub(crate) results: Results,
}

#[derive(Debug, Args)]
pub(crate) struct RankedArguments {
    /// Ranked or scored rows.
    pub(crate) input: String,
    /// Columns of scores; by default each ..._influence_score, ..._bm25_score and ..._similarity_score but the combined one, or columns of scores of a run.
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub(crate) score: Vec<String>,
    /// Column with each document's function.
    #[arg(long, default_value = "func", value_name = "COLUMN")]
    pub(crate) function: String,
    #[command(flatten)]
    pub(crate) results: Results,
}

#[derive(Debug, Args)]
pub(crate) struct RetrievalArguments {
    /// Rankings: columns query, rank (or score) and the one of --item.
    pub(crate) ranking: String,
    /// What is relevant: columns query, that of --item and, where items are not equally relevant, relevance.
    #[arg(long, value_name = "TABLE")]
    pub(crate) truth: String,
    /// Column of both tables that says which document is meant; id where both have it, else row.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) item: Option<String>,
    /// Numbers of first documents to look at.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 10, 20, 100].map(known))]
    pub(crate) k: Vec<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
    #[command(flatten)]
    pub(crate) results: Results,
}

#[derive(Debug, Args)]
pub(crate) struct LdsArguments {
    /// Scored rows, whose positions subsets name; several tables are compared.
    #[arg(required = true)]
    pub(crate) scores: Vec<String>,
    /// Subsets of the rows: columns subset (its name or number) and rows (a list of positions from 0).
    #[arg(long, value_name = "TABLE")]
    pub(crate) subsets: String,
    /// What models trained on subsets give: columns subset, query and output, the higher the better, such as a log-likelihood. Several outputs of
    /// one subset and query are averaged.
    #[arg(long, value_name = "TABLE")]
    pub(crate) outputs: String,
    /// Outputs are losses, the lower the better.
    #[arg(long)]
    pub(crate) losses: bool,
    /// Columns of scores; all that a run has by default.
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub(crate) by: Vec<String>,
    /// Table whose column id has the names of the queries in the order of the scores, for scores that do not have them.
    #[arg(long, value_name = "TABLE")]
    pub(crate) queries: Option<String>,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
    #[command(flatten)]
    pub(crate) results: Results,
}

#[derive(Debug, Args)]
pub(crate) struct AgreementArguments {
    /// Scored rows; several tables are compared, which have the same rows and queries.
    #[arg(required = true)]
    pub(crate) scores: Vec<String>,
    /// Columns of scores; all that a run has by default.
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub(crate) by: Vec<String>,
    /// Numbers of highest rows whose overlap is told.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100].map(known))]
    pub(crate) k: Vec<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) results: Results,
}

#[derive(Debug, Args)]
pub(crate) struct PairsArguments {
    /// Runs with a step gradient_pairs; several that had parts of the samples are put together.
    #[arg(required = true)]
    pub(crate) runs: Vec<String>,
    /// Name of the step.
    #[arg(long, default_value = "pairs", value_name = "STEP")]
    pub(crate) by: String,
    /// Column with the samples' ids.
    #[arg(long, default_value = "id", value_name = "COLUMN")]
    pub(crate) id: String,
    /// How many of the samples are named that a single tensor judges most unlike all of them.
    #[arg(long, default_value_t = 3, value_name = "NUMBER")]
    pub(crate) divergent: usize,
    /// Write cosines and products of all pairs, too, as JSON files in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) families: Option<PathBuf>,
    /// Of --families: how samples were made; a folder of that name.
    #[arg(long, default_value = "paraphrased", value_name = "NAME")]
    pub(crate) setting: String,
    /// Of --families: what the model is called; a folder of that name.
    #[arg(long, default_value = "model", value_name = "NAME")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) results: Results,
}

#[derive(Debug, Args)]
pub(crate) struct RecallArguments {
    /// A ranking with the metadata of its scores among its columns.
    pub(crate) ranking: String,
    /// Column with the weights, or with a field of that name; the only one that has such a field by default.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) by: Option<String>,
    #[command(flatten)]
    pub(crate) results: Results,
}

#[derive(Debug, Args)]
pub(crate) struct HopsArguments {
    /// Scored rows.
    pub(crate) run: String,
    /// Column of scores.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) by: String,
    /// File to write, JSON lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The word between a function and `_score`: influence, bm25 or similarity; by default what the name of --by suggests.
    #[arg(long, value_name = "WORD", value_parser = ["influence", "bm25", "similarity"])]
    pub(crate) kind: Option<String>,
    /// Table with the function of each query, in the order of the scores; by default a query's name is its function.
    #[arg(long, value_name = "TABLE")]
    pub(crate) queries: Option<String>,
    /// Column of --queries with the function.
    #[arg(long, default_value = "func", value_name = "COLUMN", requires = "queries")]
    pub(crate) function: String,
    /// Column with each row's position in its data set; by default its position among the rows.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) index: Option<String>,
}

const fn known(k: usize) -> NonZeroUsize {
    match NonZeroUsize::new(k) {
        Some(k) => k,
        None => NonZeroUsize::MIN,
    }
}
