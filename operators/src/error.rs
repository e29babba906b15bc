//! What can go wrong in an operator, in terms the author of a pipeline can act on.

use arrow_schema::ArrowError;

/// The result of an operator call.
pub type Result<T, E = OperatorError> = std::result::Result<T, E>;

/// A failure of an operator. Every variant names the place and what would have been allowed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// No operator of that kind is registered.
    #[error("unknown operator '{kind}'{}; known operators: {}", suggestion(.nearest), .known.join(", "))]
    UnknownKind {
        /// The kind that was asked for.
        kind: String,
        /// The registered kind that is spelt most alike, if one is close.
        nearest: Option<String>,
        /// All registered kinds.
        known: Vec<String>,
    },
    /// A configuration has a key that the operator does not know.
    #[error("{kind}: unknown key '{key}'{}; allowed keys: {}", suggestion(.nearest), .allowed.join(", "))]
    UnknownKey {
        /// The operator's kind.
        kind: String,
        /// The key as written.
        key: String,
        /// The allowed key that is spelt most alike, if one is close.
        nearest: Option<String>,
        /// All allowed keys.
        allowed: Vec<String>,
    },
    /// A configuration value is missing, of the wrong type or out of range.
    #[error("{kind}: {}{message}", key_prefix(.key))]
    InvalidValue {
        /// The operator's kind.
        kind: String,
        /// Dotted path of the key inside the configuration; empty for the whole.
        key: String,
        /// The wrong value and what is allowed.
        message: String,
    },
    /// The input has no such column.
    #[error("{kind}: no column '{column}'{}; columns: {}", suggestion(.nearest), .available.join(", "))]
    MissingColumn {
        /// The operator's kind.
        kind: String,
        /// The column that was asked for.
        column: String,
        /// The column that is spelt most alike, if one is close.
        nearest: Option<String>,
        /// The columns of the input.
        available: Vec<String>,
    },
    /// A column exists but has a type the operator cannot read.
    #[error("{kind}: column '{column}' has type {found}, expected {expected}")]
    ColumnType {
        /// The operator's kind.
        kind: String,
        /// The column.
        column: String,
        /// Its Arrow type.
        found: String,
        /// The types that are accepted.
        expected: String,
    },
    /// A column that the operator would add exists already.
    #[error("{kind}: the input already has a column '{column}'; choose another name")]
    DuplicateColumn {
        /// The operator's kind.
        kind: String,
        /// The column.
        column: String,
    },
    /// A term list, tokenizer or other resource cannot be read or is malformed.
    #[error("cannot use '{location}': {message}")]
    Resource {
        /// Path or URL of the resource.
        location: String,
        /// What is wrong, with a line number where there is one.
        message: String,
    },
    /// A row cannot be processed and the operator's error policy is to stop.
    #[error("{kind}: row {row}: {message}")]
    Row {
        /// The operator's kind.
        kind: String,
        /// Position of the row in its stream, from 0.
        row: u64,
        /// What is wrong with it.
        message: String,
    },
    /// What the operator depends on does not work, whatever the row: every other row would fail alike, and a later run may succeed.
    #[error("{kind}: {message}")]
    Outage {
        /// The operator's kind.
        kind: String,
        /// What does not work.
        message: String,
    },
    /// A SQL expression has no value for a row.
    #[error("'{expression}': {message}{}", of_row(.row))]
    Expression {
        /// The expression.
        expression: String,
        /// What is wrong.
        message: String,
        /// The values of the row that the expression reads, as JSON; empty where no single row is at fault.
        row: String,
    },
    /// An Arrow computation failed.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// The candidate that is spelt most like `word`, if it is close enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.chars().count().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(", did you mean '{name}'?")).unwrap_or_default()
}

fn of_row(row: &str) -> String {
    if row.is_empty() { String::new() } else { format!("; in the row {row}") }
}

fn key_prefix(key: &str) -> String {
    if key.is_empty() || key == "." { String::new() } else { format!("'{key}': ") }
}
