//! What a configuration says of queries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::config::invalid;

/// Queries of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueriesConfig {
    /// The table: `.jsonl`, `.json`, `.arrow`, `.parquet`, or the folder of a run that has finished.
    pub path: String,
    /// The column of prompts; `prompt` if neither it nor `text` is given.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The column of completions; `completion` if neither it nor `text` is given.
    #[serde(default)]
    pub completion: Option<String>,
    /// The column of whole texts, in place of prompts and completions.
    #[serde(default)]
    pub text: Option<String>,
    /// The column of the queries' names, text or whole numbers; the numbers of rows from 0 if left out.
    #[serde(default)]
    pub id: Option<String>,
    /// The column of the groups that `aggregate` puts together, text or whole numbers; one group of all if left out.
    #[serde(default)]
    pub group: Option<String>,
    /// Of which tokens the loss is: `completion` where there are prompts, else `all`.
    #[serde(default)]
    pub loss_on: Option<LossOn>,
    /// Which scores a row gets.
    #[serde(default)]
    pub aggregate: Aggregate,
}

/// Of which tokens of a query the loss is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// Those of the completion, given the prompt.
    Completion,
    /// All but the first.
    All,
}

/// Which scores a row gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// One for each query, under its name.
    #[default]
    None,
    /// The mean over the queries of each group, under the group's name, or over all, as `mean`.
    Mean,
    /// The largest of the queries of each group, under the group's name, or of all, as `nearest`.
    Nearest,
}

impl QueriesConfig {
    /// The configuration with its defaults, under the key `queries` of a kind.
    ///
    /// # Errors
    /// Keys that exclude or need one another.
    pub(crate) fn complete(mut self, kind: &str) -> Result<Self> {
        let wrong = |key: &str, message: &str| Err(invalid(kind, &format!("queries.{key}"), message));
        if self.text.is_some() {
            if self.prompt.is_some() || self.completion.is_some() {
                return wrong("text", "a query is either a text or a prompt with its completion; give one of them");
            }
            if self.loss_on == Some(LossOn::Completion) {
                return wrong("loss_on", "a text has no completion; 'all' is allowed, or 'prompt' and 'completion'");
            }
            self.loss_on = Some(LossOn::All);
        } else {
            match (&self.prompt, &self.completion) {
                (Some(_), None) => return wrong("completion", "the key is missing beside 'prompt'"),
                (None, Some(_)) => return wrong("prompt", "the key is missing beside 'completion'"),
                _ => {}
            }
            self.prompt.get_or_insert_with(|| "prompt".to_owned());
            self.completion.get_or_insert_with(|| "completion".to_owned());
            self.loss_on.get_or_insert(LossOn::Completion);
        }
        if self.group.is_some() && self.aggregate == Aggregate::None {
            return wrong("group", "groups are for 'aggregate: mean' and 'aggregate: nearest'");
        }
        Ok(self)
    }
}
