//! `select`: the columns of the output, in order, as SQL expressions.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use gristmill_operators::{
    Operator, OperatorKind, OperatorSpec, Output, Pass, Resources, Result, RowEffect, config, require_column,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::expressions::Expression;

const KIND: &str = "select";

/// The kind `select`.
#[derive(Clone, Copy, Debug)]
pub struct SelectKind;

/// Configuration of `select`: what to keep, or what to drop.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectConfig {
    /// The columns of the output, in order: names, or SQL expressions with `AS name`; `*` stands for all columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Names of columns to leave out; all others stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<Vec<String>>,
}

impl OperatorKind for SelectKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "choose, rename, reorder or drop columns"
    }

    fn example(&self) -> &'static str {
        "select: {columns: [id, text, \"lower(lang) AS lang\"]}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<SelectConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let parsed: SelectConfig = config::parse(KIND, config)?;
        match (&parsed.columns, &parsed.drop) {
            (Some(columns), None) if !columns.is_empty() => {}
            (None, Some(drop)) if !drop.is_empty() => {}
            (Some(_), Some(_)) => return Err(config::invalid(KIND, "drop", "'columns' and 'drop' exclude each other")),
            _ => return Err(config::invalid(KIND, "columns", "one of 'columns' and 'drop' must name a column")),
        }
        config::complete::<SelectConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: SelectConfig = config::parse(KIND, &spec.config)?;
        let items = match (config.columns, config.drop) {
            (Some(columns), _) => columns,
            (None, Some(drop)) => {
                for column in &drop {
                    require_column(KIND, input, column)?;
                }
                let names = input.fields().iter().map(|field| field.name().clone());
                names.filter(|name| !drop.contains(name)).map(|name| quote(&name)).collect()
            }
            (None, None) => Vec::new(),
        };
        let mut columns: Vec<(String, Expression)> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let key = format!("columns.{index}");
            if item.trim() == "*" {
                for field in input.fields() {
                    columns.push((field.name().clone(), Expression::bind(KIND, &key, &quote(field.name()), input)?));
                }
                continue;
            }
            let expression = Expression::bind(KIND, &key, item, input)?;
            let name = expression.alias().map(str::to_owned).or_else(|| plain_column(&expression, input));
            let Some(name) = name else {
                return Err(config::invalid(KIND, &key, format!("'{item}' needs a name; write '{item} AS name'")));
            };
            columns.push((name, expression));
        }
        let mut fields = Vec::with_capacity(columns.len());
        for (index, (name, expression)) in columns.iter().enumerate() {
            if columns[..index].iter().any(|(other, _)| other == name) {
                return Err(config::invalid(KIND, "columns", format!("two columns are named '{name}'")));
            }
            // A column that is only carried through keeps its field, metadata included.
            let carried = expression.columns().first().filter(|_| plain_column(expression, input).is_some());
            fields.push(match carried.and_then(|column| input.field_with_name(column).ok()) {
                Some(field) => field.clone().with_name(name),
                None => expression.field(name),
            });
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()));
        let expressions = columns.into_iter().map(|(_, expression)| expression).collect();
        Ok(Arc::new(Select { spec: spec.clone(), expressions, schema }))
    }
}

/// The column's name if the expression is nothing but a column.
fn plain_column(expression: &Expression, input: &SchemaRef) -> Option<String> {
    let [column] = expression.columns() else { return None };
    let sql = expression.sql().trim();
    let bare = expression
        .alias()
        .and_then(|alias| sql.strip_suffix(alias).or_else(|| sql.strip_suffix(&quote(alias))))
        .and_then(|head| head.trim_end().get(..head.trim_end().len().saturating_sub(2)))
        .map_or(sql, str::trim);
    let is_column = bare == column || bare == quote(column);
    (is_column && input.column_with_name(column).is_some()).then(|| column.clone())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[derive(Debug)]
struct Select {
    spec: OperatorSpec,
    expressions: Arc<[Expression]>,
    schema: SchemaRef,
}

impl Operator for Select {
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
        RowEffect::Any
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(SelectPass { expressions: Arc::clone(&self.expressions), schema: Arc::clone(&self.schema) }))
    }
}

struct SelectPass {
    expressions: Arc<[Expression]>,
    schema: SchemaRef,
}

impl Pass for SelectPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let columns =
            self.expressions.iter().map(|expression| expression.evaluate(batch)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        output.keep(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gristmill_operators::conformance;
    use serde_json::json;

    use super::*;

    #[test]
    fn conforms() {
        conformance::check(&SelectKind, &json!({"columns": ["label AS kind", "*", "id + 1 AS next"]}));
        conformance::check(&SelectKind, &json!({"drop": ["label"]}));
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn names_and_errors() {
        let schema = conformance::text_batch().schema();
        let registry = conformance::registry_of(Arc::new(SelectKind));
        let bind = |config: Value| registry.bind(&OperatorSpec::new(KIND, config), &schema, &Resources::local());
        let bound = bind(json!({"columns": ["label", "text AS body", "\"id\" AS \"key\""]})).unwrap();
        let names: Vec<&str> = bound.output_schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["label", "body", "key"]);
        assert!(bound.output_schema().field(1).is_nullable() && !bound.output_schema().field(2).is_nullable());
        for (config, part) in [
            (json!({"columns": ["id + 1"]}), "needs a name"),
            (json!({"columns": ["id", "id"]}), "two columns are named 'id'"),
            (json!({"columns": ["txt"]}), "did you mean 'text'?"),
            (json!({"drop": ["txt"]}), "did you mean 'text'?"),
            (json!({"columns": ["id"], "drop": ["text"]}), "exclude each other"),
            (json!({}), "must name a column"),
        ] {
            let error = bind(config.clone()).unwrap_err().to_string();
            assert!(error.contains(part), "{config}: {error}");
        }
    }
}
