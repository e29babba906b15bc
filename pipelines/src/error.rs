//! Errors of pipelines: a definition that is wrong is told apart from a run that fails.

use std::fmt;

use gristmill_datasets::{DatasetError, redact};
use gristmill_operators::OperatorError;

use crate::chain::StepError;

/// The result of a call of this crate.
pub type Result<T, E = PipelineError> = std::result::Result<T, E>;

/// A position in a pipeline file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// A pipeline file that cannot be used as it is. Prints as `file:line:column: message` with the line below.
#[derive(Debug)]
pub struct DefinitionError {
    file: String,
    place: Option<Place>,
    line: Option<String>,
    message: String,
}

impl DefinitionError {
    /// An error at `place` of `text`.
    #[must_use]
    pub fn new(file: &str, text: &str, place: Option<Place>, message: impl Into<String>) -> Self {
        let line = place.and_then(|place| text.lines().nth(place.line.saturating_sub(1))).map(str::to_owned);
        Self { file: file.to_owned(), place, line, message: message.into() }
    }

    /// Where in the file, if the error belongs to a place.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file)?;
        if let Some(place) = self.place {
            write!(formatter, ":{}:{}", place.line, place.column)?;
        }
        write!(formatter, ": {}", redact(&self.message))?;
        if let (Some(place), Some(line)) = (self.place, &self.line) {
            let shown: String = redact(line).chars().take(160).collect();
            let number = place.line.to_string();
            let margin = " ".repeat(number.len());
            write!(formatter, "\n {margin} |\n {number} | {shown}\n {margin} | ")?;
            write!(formatter, "{}^", " ".repeat(place.column.saturating_sub(1).min(160)))?;
        }
        Ok(())
    }
}

impl std::error::Error for DefinitionError {}

/// Anything that keeps a pipeline from being planned or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The pipeline file is wrong.
    #[error(transparent)]
    Definition(#[from] Box<DefinitionError>),
    /// An operator failed.
    #[error("step '{step}': {source}")]
    Operator {
        /// The step's name.
        step: String,
        /// What the operator said.
        source: OperatorError,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Some splits failed, whatever was tried.
    #[error("{failed} of {total} splits failed; the first: {first}")]
    Splits {
        /// Failed splits.
        failed: usize,
        /// Splits of the run.
        total: usize,
        /// Message of the first failure, with its split.
        first: String,
    },
    /// Rows do not add up: a defect of this program or of an operator.
    #[error("rows do not add up: {0}")]
    Conservation(String),
    /// The query engine failed.
    #[error("{0}")]
    Engine(String),
    /// The run was interrupted.
    #[error("interrupted; the same command goes on where it stopped")]
    Interrupted,
}

impl From<DefinitionError> for PipelineError {
    fn from(error: DefinitionError) -> Self {
        Self::Definition(Box::new(error))
    }
}

impl From<StepError> for PipelineError {
    fn from(error: StepError) -> Self {
        Self::Operator { step: error.name, source: error.source }
    }
}

impl PipelineError {
    /// Whether trying the split again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Dataset(error) if error.is_transient())
    }

    /// Whether the data itself is at fault, so that another attempt would end the same way.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Operator { .. } => true,
            Self::Dataset(error) => {
                matches!(
                    error,
                    DatasetError::Malformed { .. } | DatasetError::Changed { .. } | DatasetError::NotFound { .. }
                )
            }
            _ => false,
        }
    }

    /// Whether every split would fail alike, so that going on is pointless.
    #[must_use]
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Conservation(_)
                | Self::Dataset(DatasetError::Unbalanced { .. })
                | Self::Operator { source: OperatorError::Outage { .. }, .. }
        )
    }

    /// Whether the definition, not the run, is at fault: exit code 2.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Definition(_) => true,
            Self::Dataset(error) => matches!(
                error,
                DatasetError::Setting { .. } | DatasetError::MissingColumn { .. } | DatasetError::DifferentRun { .. }
            ),
            _ => false,
        }
    }
}
