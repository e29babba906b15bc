//! The JSON Schema of pipeline files, with the configuration of every registered operator.

use gristmill_operators::Registry;
use serde_json::{Map, Value, json};

use crate::definition::Pipeline;

/// JSON Schema (draft 2020-12) of pipeline files.
///
/// ```
/// use gristmill_pipelines::{operators, pipeline_schema};
///
/// let schema = pipeline_schema(&operators::registry());
/// assert!(schema["$defs"]["Step"]["oneOf"].as_array().is_some_and(|kinds| kinds.len() > 3));
/// ```
#[must_use]
pub fn pipeline_schema(registry: &Registry) -> Value {
    let mut schema = schemars::schema_for!(Pipeline).to_value();
    let steps: Vec<Value> = registry
        .kinds()
        .filter(|kind| kind.is_step())
        .map(|kind| {
            let mut config = kind.config_schema();
            let definitions = config.as_object_mut().and_then(|map| map.remove("$defs"));
            if let Some(properties) = config.get_mut("properties").and_then(Value::as_object_mut) {
                properties.insert(
                    "name".to_owned(),
                    json!({"type": "string", "description": "Name of the step; new columns are named after it."}),
                );
                properties.insert(
                    "when".to_owned(),
                    json!({"type": "string", "description": "SQL condition: only rows for which it holds are judged."}),
                );
            }
            if let (Some(definitions), Some(all)) =
                (definitions, schema.get_mut("$defs").and_then(Value::as_object_mut))
            {
                all.extend(definitions.as_object().cloned().unwrap_or_default());
            }
            let mut properties = Map::new();
            properties.insert(kind.name().to_owned(), config);
            json!({
                "type": "object",
                "description": kind.summary(),
                "properties": properties,
                "required": [kind.name()],
                "additionalProperties": false,
            })
        })
        .collect();
    if let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        definitions.insert("Step".to_owned(), json!({"oneOf": steps}));
    }
    schema
}
