//! The `tests:` of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Rows that go through the steps, and what is expected of them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestDefinition {
    /// What the test shows.
    pub name: String,
    /// Rows in.
    pub rows: Vec<Map<String, Value>>,
    /// Rows expected out, in order. Only the columns that are named are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Vec<Map<String, Value>>>,
    /// Rejections expected, in order: columns of the row, and `_step` and `_reason`. Only what is named is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Vec<Map<String, Value>>>,
}
