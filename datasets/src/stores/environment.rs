//! The settings that a user keeps in environment variables.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A snapshot of environment variables. Stores read their settings from it and from nowhere else, so that a test or an
/// embedding program can give its own.
///
/// # Example
/// ```
/// use gristmill_datasets::Environment;
///
/// let environment = Environment::of([("AWS_REGION", "eu-central-1"), ("HF_HUB_OFFLINE", "1")]);
/// assert_eq!(environment.get("AWS_REGION"), Some("eu-central-1"));
/// assert!(environment.is_on("HF_HUB_OFFLINE"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(Arc<BTreeMap<String, String>>);

impl Environment {
    /// The variables of this process. Those that are not valid UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        Self(Arc::new(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        ))
    }

    /// The given variables and no others.
    #[must_use]
    pub fn of<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(Arc::new(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
    }

    /// The value of a variable; one that is set to nothing counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    }

    /// Whether a variable is set to `1`, `true`, `yes` or `on`.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.trim().to_ascii_lowercase().as_str()))
    }

    /// A path in a variable, `~/` being the home folder.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.get(name)?;
        Some(match value.strip_prefix("~/") {
            Some(rest) => self.home()?.join(rest),
            None => PathBuf::from(value),
        })
    }

    /// The home folder.
    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        self.get("HOME").or_else(|| self.get("USERPROFILE")).map(PathBuf::from)
    }

    /// All variables whose names begin so.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(name, value)| name.starts_with(prefix) && !value.trim().is_empty())
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Values may be credentials, so only the number of variables is shown.
impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Environment({} variables)", self.0.len())
    }
}
