//! `gristmill analyze`: what is done with ranked and scored rows.

mod agreement;
pub(super) mod arguments;
mod hops;
mod influence;
mod input;
mod lds;
mod pairs;
mod ranked;
mod recall;
mod results;
mod retrieval;

use gristmill::operators::{OperatorError, Resources};
use gristmill::pipelines::{Environment, PipelineError};

use self::arguments::{Analysis, AnalyzeArguments};
use super::{DONE, FAILED};

/// Why an analysis ended.
enum Failure {
    /// The input, with its place.
    Input(String),
    /// The output.
    Output(PipelineError),
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        Self::Output(error)
    }
}

type Done = Result<(), Failure>;

pub(super) async fn analyze(arguments: AnalyzeArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let resources = environment.resources.clone();
    let work = tokio::task::spawn_blocking(move || run(arguments.analysis, &resources));
    match work.await.map_err(|error| PipelineError::Engine(error.to_string()))? {
        Ok(()) => Ok(DONE),
        Err(Failure::Input(message)) => {
            eprintln!("error: {message}");
            Ok(FAILED)
        }
        Err(Failure::Output(error)) => Err(error),
    }
}

fn run(analysis: Analysis, resources: &Resources) -> Done {
    match analysis {
        Analysis::Influence(arguments) => influence::influence(arguments, resources),
        Analysis::Ranked(arguments) => ranked::ranked(arguments, resources),
        Analysis::Retrieval(arguments) => retrieval::retrieval(arguments, resources),
        Analysis::Lds(arguments) => lds::lds(arguments, resources),
        Analysis::Agreement(arguments) => agreement::agreement(arguments, resources),
        Analysis::Pairs(arguments) => pairs::pairs(arguments, resources),
        Analysis::Recall(arguments) => recall::recall(arguments, resources),
        Analysis::Hops(arguments) => hops::hops(arguments, resources),
    }
}

/// An error of a file, unless it names its location already.
fn of(location: &str, error: &OperatorError) -> Failure {
    match error {
        OperatorError::Resource { .. } => Failure::Input(error.to_string()),
        _ => wrong(location, error.to_string().trim_start_matches("analysis: ")),
    }
}

fn wrong(location: &str, message: &str) -> Failure {
    Failure::Input(format!("'{location}': {message}"))
}
