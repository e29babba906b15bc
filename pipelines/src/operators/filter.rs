//! `filter`: keeps the rows for which a SQL condition holds, and says why the others go.

use std::sync::Arc;

use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use gristmill_operators::{
    Operator, OperatorKind, OperatorSpec, Output, Pass, Resources, Result, RowEffect, RowPredicate, config,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::expressions::Expression;

const KIND: &str = "filter";

/// The kind `filter`.
#[derive(Clone, Copy, Debug)]
pub struct FilterKind;

/// Configuration of `filter`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// SQL condition over the row's columns. Rows for which it is false or null are rejected.
    pub keep: String,
    /// Reason written with rejected rows. Absent: `not (<keep>)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl OperatorKind for FilterKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "keep the rows for which a SQL condition holds, reject the others with a reason"
    }

    fn example(&self) -> &'static str {
        "filter: {keep: \"NOT word_filter AND length(text) > 200\", reason: blocklist or short}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<FilterConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let mut parsed: FilterConfig = config::parse(KIND, config)?;
        parsed.reason.get_or_insert_with(|| format!("not ({})", parsed.keep));
        serde_json::to_value(parsed).map_err(|error| config::invalid(KIND, "", error.to_string()))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: FilterConfig = config::parse(KIND, &spec.config)?;
        let keep = Expression::condition(KIND, "keep", &config.keep, input)?;
        let reason = config.reason.unwrap_or_default();
        Ok(Arc::new(Filter { spec: spec.clone(), keep, reason, schema: Arc::clone(input) }))
    }
}

#[derive(Debug)]
struct Filter {
    spec: OperatorSpec,
    keep: Expression,
    reason: String,
    schema: SchemaRef,
}

impl Operator for Filter {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        self.keep.columns().to_vec()
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Fewer
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(FilterPass { keep: self.keep.clone(), reason: self.reason.clone() }))
    }
}

struct FilterPass {
    keep: Expression,
    reason: String,
}

impl Pass for FilterPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let keep = RowPredicate::evaluate(&self.keep, batch)?;
        let keep = match keep.nulls() {
            Some(nulls) => BooleanArray::new(keep.values() & nulls.inner(), None),
            None => keep,
        };
        if keep.true_count() == batch.num_rows() {
            output.keep(batch.clone());
            return Ok(());
        }
        let rejected = BooleanArray::new(!keep.values(), None);
        output.keep(filter_record_batch(batch, &keep)?);
        output.reject(filter_record_batch(batch, &rejected)?, self.reason.clone());
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
        conformance::check(&FilterKind, &json!({"keep": "character_length(text) > 4 AND id % 2 = 0"}));
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn null_conditions_reject() {
        let batch = conformance::text_batch();
        let nulls = batch["text"].null_count() as u64;
        let spec = OperatorSpec::new(KIND, json!({"keep": "text = text", "reason": "no text"}));
        let registry = conformance::registry_of(Arc::new(FilterKind));
        let operator = registry.bind(&spec, &batch.schema(), &Resources::local()).unwrap();
        let output = gristmill_operators::apply(operator.as_ref(), [batch]).unwrap();
        assert!(nulls > 0);
        assert_eq!(output.rows_rejected(), nulls);
        assert_eq!(output.rejected[0].reason, "no text");
    }
}
