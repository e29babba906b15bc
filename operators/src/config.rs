//! Reading an operator's configuration: unknown keys, wrong types and missing keys get errors that name the key.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::nearest;
use crate::{OperatorError, Result};

/// Reads a configuration; `null` stands for an empty one.
pub fn parse<T: DeserializeOwned + JsonSchema>(kind: &str, config: &Value) -> Result<T> {
    let empty = Value::Object(serde_json::Map::new());
    let config = if config.is_null() { &empty } else { config };
    check_keys::<T>(kind, config)?;
    serde_path_to_error::deserialize(config).map_err(|error| OperatorError::InvalidValue {
        kind: kind.to_owned(),
        key: error.path().to_string(),
        message: error.inner().to_string(),
    })
}

/// Reads a configuration and writes it again, so that every default is spelt out.
pub fn complete<T: DeserializeOwned + Serialize + JsonSchema>(kind: &str, config: &Value) -> Result<Value> {
    let parsed: T = parse(kind, config)?;
    serde_json::to_value(parsed).map_err(|error| invalid(kind, "", error.to_string()))
}

/// JSON Schema of a configuration type.
#[must_use]
pub fn schema<T: JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

/// An error about one value.
#[must_use]
pub fn invalid(kind: &str, key: &str, message: impl Into<String>) -> OperatorError {
    OperatorError::InvalidValue { kind: kind.to_owned(), key: key.to_owned(), message: message.into() }
}

fn check_keys<T: JsonSchema>(kind: &str, config: &Value) -> Result<()> {
    let schema = schema::<T>();
    let (Some(given), Some(properties)) = (config.as_object(), schema.get("properties").and_then(Value::as_object))
    else {
        return Ok(());
    };
    let Some(key) = given.keys().find(|key| !properties.contains_key(key.as_str())) else { return Ok(()) };
    Err(OperatorError::UnknownKey {
        kind: kind.to_owned(),
        key: key.clone(),
        nearest: nearest(key, properties.keys().map(String::as_str)),
        allowed: properties.keys().cloned().collect(),
    })
}
