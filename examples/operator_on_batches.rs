//! One operator on a record batch: no engine, no runtime.

use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use gristmill::operators::{OperatorSpec, Registry, Resources, apply};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let texts =
        StringArray::from(vec!["a beetle in the flour", "beetle, mildew and moth", "bread from the stone oven"]);
    let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)])?;

    let spec = OperatorSpec::new("blocklist", json!({"terms": "examples/data/terms.csv", "min_distinct": 2}));
    let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local())?;
    let output = apply(operator.as_ref(), [batch])?;

    for batch in &output.batches {
        println!("{:?}", batch.column_by_name("blocklist"));
        println!("{:?}", batch.column_by_name("blocklist_metadata"));
    }
    Ok(())
}
