//! What can go wrong with data outside the program, in terms a caller can act on.

/// The result of a call of this crate.
pub type Result<T, E = DatasetError> = std::result::Result<T, E>;

/// A failure of reading, writing or planning. Messages name the place and never contain credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A location cannot be understood or is not supported by this build.
    #[error("'{location}': {message}")]
    Location {
        /// The location as written, without credentials.
        location: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// Nothing is there.
    #[error("{}{}", absent(.location), hinted(.hint))]
    NotFound {
        /// The location.
        location: String,
        /// What may have been meant.
        hint: Option<String>,
    },
    /// A folder is there, and no file of rows below it.
    #[error(
        "'{location}' holds no file of a known format (.parquet, .jsonl, .ndjson, .json, .csv, .tsv, .arrow, .feather, \
         and text with .gz or .zst behind it): {hint}"
    )]
    NoData {
        /// The folder.
        location: String,
        /// What is there instead.
        hint: String,
    },
    /// Access was refused.
    #[error("no access to '{location}': {message}")]
    Denied {
        /// The location.
        location: String,
        /// What the store said and which setting gives access.
        message: String,
    },
    /// A store failed in a way that may pass: worth another attempt.
    #[error("'{location}' failed for now: {message}")]
    Transient {
        /// The location.
        location: String,
        /// What happened.
        message: String,
    },
    /// A file is malformed as a whole: truncated, corrupt footer, wrong format.
    #[error("'{location}' is malformed: {message}")]
    Malformed {
        /// The file.
        location: String,
        /// What is wrong, with a position where there is one.
        message: String,
    },
    /// A file is no longer what it was when the run was planned.
    #[error("'{location}' has changed since the run was planned: {message}")]
    Changed {
        /// The file.
        location: String,
        /// What differs.
        message: String,
    },
    /// A run folder holds another run than the one that was asked for.
    #[error(
        "'{location}' is of another run: {}; go on with the definition and the files of that run, name another folder, or \
         start over in a new folder beside it (--fresh)",
        .differences.join("; ")
    )]
    DifferentRun {
        /// The plan of the run that is there.
        location: String,
        /// What differs, one line each.
        differences: Vec<String>,
    },
    /// A run cannot be finished: splits are not committed.
    #[error("'{location}': {} of {total} splits are not committed, first {}", .missing.len(), listed(.missing))]
    Incomplete {
        /// The commit records.
        location: String,
        /// Number of splits of the run.
        total: u64,
        /// The splits without a record.
        missing: Vec<u64>,
    },
    /// Rows are unaccounted for.
    #[error("'{location}': {message}")]
    Unbalanced {
        /// The record, or the records.
        location: String,
        /// The equation that does not hold.
        message: String,
    },
    /// The source has no such column.
    #[error("no column '{column}'{}; columns: {}", did_you_mean(.nearest), .available.join(", "))]
    MissingColumn {
        /// The column that was asked for.
        column: String,
        /// The column that is spelt most alike.
        nearest: Option<String>,
        /// The columns there are.
        available: Vec<String>,
    },
    /// A setting has a wrong value.
    #[error("{key}: {message}")]
    Setting {
        /// The key.
        key: String,
        /// The wrong value and what is allowed.
        message: String,
    },
    /// A store operation failed for good.
    #[error("'{location}': {message}")]
    Store {
        /// The location.
        location: String,
        /// What happened.
        message: String,
    },
}

impl DatasetError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

fn listed(numbers: &[u64]) -> String {
    numbers.iter().take(5).map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// A pattern stands for nothing; anything else is not there. Only in web addresses a question mark is no wildcard.
fn absent(location: &str) -> String {
    if !location.starts_with("http") && location.contains(['*', '?', '[', '{']) {
        format!("no file matches '{location}'")
    } else {
        format!("'{location}' does not exist")
    }
}

fn hinted(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(", did you mean '{name}'?")).unwrap_or_default()
}
