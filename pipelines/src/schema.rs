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
            refer_to_own(&mut config, kind.name());
            if let (Some(Value::Object(definitions)), Some(all)) =
                (definitions, schema.get_mut("$defs").and_then(Value::as_object_mut))
            {
                all.extend(definitions.into_iter().map(|(name, mut definition)| {
                    refer_to_own(&mut definition, kind.name());
                    (own_name(kind.name(), &name), definition)
                }));
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

/// The definitions of kinds stand beside one another, and two kinds may have different ones of the same name.
fn own_name(kind: &str, definition: &str) -> String {
    format!("{kind}.{definition}")
}

/// Makes references to definitions those to the kind's own.
fn refer_to_own(schema: &mut Value, kind: &str) {
    match schema {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| match value {
            Value::String(reference) if key == "$ref" => {
                if let Some(name) = reference.strip_prefix("#/$defs/") {
                    *reference = format!("#/$defs/{}", own_name(kind, name));
                }
            }
            other => refer_to_own(other, kind),
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| refer_to_own(item, kind)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn references<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
        match schema {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                Value::String(reference) if key == "$ref" => found.push(reference),
                other => references(other, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_is_to_the_definition_of_its_own_kind() {
        let registry = crate::operators::registry();
        let schema = pipeline_schema(&registry);
        let mut found = Vec::new();
        references(&schema, &mut found);
        assert!(found.len() > 10);
        for reference in found {
            assert!(schema.pointer(&reference[1..]).is_some(), "{reference} is not there");
        }
        for kind in registry.kinds().filter(|kind| kind.is_step()) {
            let definitions = kind.config_schema()["$defs"].as_object().cloned().unwrap_or_default();
            for (name, mut definition) in definitions {
                refer_to_own(&mut definition, kind.name());
                assert_eq!(schema["$defs"][own_name(kind.name(), &name)], definition, "{} {name}", kind.name());
            }
        }
    }
}
