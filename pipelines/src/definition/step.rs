//! One step: a map with one entry, the operator's kind and its configuration.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A step of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDefinition {
    /// The operator's kind.
    pub kind: String,
    /// Name of the step, the kind where absent. New columns are named after it.
    pub name: String,
    /// SQL predicate: only rows for which it holds are judged; the others get typed defaults.
    pub when: Option<String>,
    /// The operator's own configuration.
    pub config: Value,
}

impl Serialize for StepDefinition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut config = match &self.config {
            Value::Object(map) => map.clone(),
            _ => Map::new(),
        };
        config.insert("name".to_owned(), self.name.clone().into());
        if let Some(when) = &self.when {
            config.insert("when".to_owned(), when.clone().into());
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.kind, &config)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for StepDefinition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let (kind, config) = match value {
            Value::String(kind) => (kind, Value::Null),
            Value::Object(map) if map.len() == 1 => {
                map.into_iter().next().ok_or_else(|| D::Error::custom("a step is a map with one kind"))?
            }
            Value::Object(map) => {
                let keys: Vec<&str> = map.keys().map(String::as_str).collect();
                let message = format!("a step is a map with one kind, found the keys {}", keys.join(", "));
                return Err(D::Error::custom(message));
            }
            other => return Err(D::Error::custom(format!("a step is a map with one kind, found {other}"))),
        };
        let mut config = match config {
            Value::Null => Map::new(),
            Value::Object(map) => map,
            other => {
                return Err(D::Error::custom(format!("the configuration of '{kind}' must be a map, found {other}")));
            }
        };
        let name = match text_of(&mut config, "name")? {
            Some(name) if is_column_name(&name) => name,
            Some(name) => {
                let message = format!("name: '{name}' cannot be a column name; use letters, digits and '_'");
                return Err(D::Error::custom(message));
            }
            None => kind.clone(),
        };
        let when = text_of(&mut config, "when")?;
        Ok(Self { kind, name, when, config: Value::Object(config) })
    }
}

impl JsonSchema for StepDefinition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Step".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "description": "One operator: its kind and its configuration."
        })
    }
}

fn text_of<E: serde::de::Error>(config: &mut Map<String, Value>, key: &str) -> Result<Option<String>, E> {
    match config.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(E::custom(format!("{key}: expected text, found {other}"))),
    }
}

/// Names become columns and SQL function names, so they are kept plain.
fn is_column_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|character| character.is_alphanumeric() || character == '_')
}
