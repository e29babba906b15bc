//! An operator as a function in DataFusion SQL, over Parquet files.

use arrow_schema::{DataType, Field};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use gristmill::operators::OperatorSpec;
use gristmill::pipelines::{Environment, operator_functions};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = SessionContext::new();
    context.register_parquet("notes", "examples/data/corpus", ParquetReadOptions::default()).await?;

    let environment = Environment::standard()?;
    let argument = [Field::new("text", DataType::Utf8View, true)];
    let blocklist = OperatorSpec::new("blocklist", json!({"terms": "examples/data/terms.csv"})).named("flagged");
    let tokens =
        OperatorSpec::new("count_tokens", json!({"tokenizer": "examples/data/tokenizer.json"})).named("tokens");
    for spec in [blocklist, tokens] {
        for function in operator_functions(&spec, &argument, &environment)? {
            context.register_udf(function);
        }
    }

    let sql = "SELECT lang, count(*) AS notes, sum(CAST(flagged(text) AS INT)) AS flagged, sum(tokens(text)) AS tokens \
               FROM notes GROUP BY lang ORDER BY lang";
    context.sql(sql).await?.show().await?;
    Ok(())
}
