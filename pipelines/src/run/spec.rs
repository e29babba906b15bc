//! How a split is processed, as one serialisable value: what a worker anywhere needs besides the split itself.

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use datafusion::error::DataFusionError;
use gristmill_datasets::{PartOptions, ReadOptions, SourceFile, Split};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::chain::StepSpec;

/// Everything that does not differ between the splits of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSpec {
    /// URL of the run folder.
    pub folder: String,
    /// Fingerprint of the run, written into every commit record.
    pub fingerprint: String,
    /// Number of splits of the run; part names have as many digits as the last one needs.
    pub splits: u64,
    /// How the source is read.
    pub read: ReadOptions,
    /// Schema of the rows that reading gives.
    #[serde(with = "schema_as_ipc")]
    pub schema: SchemaRef,
    /// The steps, completed.
    pub steps: Vec<StepSpec>,
    /// How parts are written.
    pub parts: PartOptions,
    /// Columns of the chain's output that are written; all where absent.
    pub columns: Option<Vec<String>>,
    /// Whether rejected rows are written.
    pub rejected: bool,
    /// Boolean column that verdicts are compared with.
    pub label: Option<String>,
}

/// One split and the file that it is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkItem {
    /// The split.
    pub split: Split,
    /// Its file.
    pub file: SourceFile,
}

/// An Arrow schema as the bytes of an IPC message, in Base64: field metadata and every type survive.
pub(crate) mod schema_as_ipc {
    use super::{Deserialize, Deserializer, SchemaRef, Serializer, decode_schema, encode_schema};

    pub(crate) fn serialize<S: Serializer>(schema: &SchemaRef, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode_schema(schema))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SchemaRef, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode_schema(&text).map_err(serde::de::Error::custom)
    }
}

/// The schema as text.
#[must_use]
pub fn encode_schema(schema: &Schema) -> String {
    parquet::arrow::encode_arrow_schema(schema)
}

/// The schema that [`encode_schema`] wrote.
pub fn decode_schema(text: &str) -> Result<SchemaRef, DataFusionError> {
    use arrow_ipc::root_as_message;
    use base64::Engine;

    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    // A continuation marker and a length stand before the message.
    let message = bytes.get(8..).unwrap_or_default();
    let fail = |message: String| DataFusionError::Internal(format!("a schema cannot be read: {message}"));
    let message = root_as_message(message).map_err(|error| fail(error.to_string()))?;
    let schema = message.header_as_schema().ok_or_else(|| fail("the message holds something else".to_owned()))?;
    Ok(Arc::new(arrow_ipc::convert::fb_to_schema(schema)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow_schema::{DataType, Field};

    use super::*;

    #[test]
    fn schemas_survive() {
        let nested = DataType::List(Arc::new(Field::new("item", DataType::Decimal128(20, 3), true)));
        let field = Field::new("b", nested, true).with_metadata([("k".to_owned(), "v".to_owned())].into());
        let schema = Schema::new(vec![Field::new("a", DataType::Utf8View, false), field]);
        let again = decode_schema(&encode_schema(&schema)).unwrap();
        assert_eq!(again.as_ref(), &schema);
        assert!(decode_schema("AAAA").is_err());
        assert!(decode_schema("not base64!").is_err());
    }
}
