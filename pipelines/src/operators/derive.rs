//! `derive`: adds columns computed by SQL expressions.
//!
//! The configuration is a map from new column to expression. All expressions see the input columns only, not each other;
//! a second `derive` step sees the columns of the first.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use gristmill_operators::{
    Operator, OperatorError, OperatorKind, OperatorSpec, Output, Pass, Resources, Result, RowEffect, config,
};
use serde_json::{Map, Value, json};

use crate::expressions::Expression;

const KIND: &str = "derive";

/// The kind `derive`.
#[derive(Clone, Copy, Debug)]
pub struct DeriveKind;

impl OperatorKind for DeriveKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "add columns computed by SQL expressions"
    }

    fn example(&self) -> &'static str {
        "derive: {characters: character_length(text), host: \"split_part(url, '/', 3)\"}"
    }

    fn config_schema(&self) -> Value {
        json!({
            "type": "object",
            "description": "SQL expressions by the name of the column they add.",
            "minProperties": 1,
            "properties": {},
            "additionalProperties": {"type": "string"}
        })
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        expressions(config)?;
        Ok(config.clone())
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _resources: &Resources) -> Result<Arc<dyn Operator>> {
        let mut bound = Vec::new();
        let mut fields = input.fields().to_vec();
        for (column, sql) in expressions(&spec.config)? {
            if input.column_with_name(&column).is_some() {
                return Err(OperatorError::DuplicateColumn { kind: KIND.to_owned(), column });
            }
            let expression = Expression::bind(KIND, &column, &sql, input)?;
            fields.push(Arc::new(expression.field(&column)));
            bound.push(expression);
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()));
        Ok(Arc::new(Derive { spec: spec.clone(), expressions: bound.into(), schema }))
    }
}

fn expressions(config: &Value) -> Result<Vec<(String, String)>> {
    let map: &Map<String, Value> = config
        .as_object()
        .filter(|map| !map.is_empty())
        .ok_or_else(|| config::invalid(KIND, "", "expected a map from new column to SQL expression"))?;
    map.iter()
        .map(|(column, sql)| match sql.as_str() {
            Some(sql) => Ok((column.clone(), sql.to_owned())),
            None if sql.is_number() => Ok((column.clone(), sql.to_string())),
            None => Err(config::invalid(KIND, column, format!("expected a SQL expression as text, found {sql}"))),
        })
        .collect()
}

#[derive(Debug)]
struct Derive {
    spec: OperatorSpec,
    expressions: Arc<[Expression]>,
    schema: SchemaRef,
}

impl Operator for Derive {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        let mut inputs: Vec<String> =
            self.expressions.iter().flat_map(|expression| expression.columns().to_vec()).collect();
        inputs.sort();
        inputs.dedup();
        inputs
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(DerivePass { expressions: Arc::clone(&self.expressions), schema: Arc::clone(&self.schema) }))
    }
}

struct DerivePass {
    expressions: Arc<[Expression]>,
    schema: SchemaRef,
}

impl Pass for DerivePass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let mut columns = batch.columns().to_vec();
        for expression in self.expressions.iter() {
            columns.push(expression.evaluate(batch)?);
        }
        output.keep(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gristmill_operators::conformance;

    use super::*;

    #[test]
    fn conforms() {
        conformance::check(&DeriveKind, &json!({"characters": "character_length(text)", "shout": "upper(label)"}));
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn wrong_configurations_are_refused() {
        let schema = conformance::text_batch().schema();
        let registry = conformance::registry_of(Arc::new(DeriveKind));
        for (config, part) in [
            (json!({}), "expected a map"),
            (json!({"label": "upper(label)"}), "already has a column 'label'"),
            (json!({"x": [1]}), "'x': expected a SQL expression"),
            (json!({"x": "uper(label)"}), "uper"),
        ] {
            let spec = OperatorSpec::new(KIND, config.clone());
            let error = registry.bind(&spec, &schema, &Resources::local()).unwrap_err().to_string();
            assert!(error.contains(part), "{config}: {error}");
        }
    }
}
