//! Operators as SQL functions.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow_array::{Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use gristmill_operators::{Operator, OperatorSpec, Output, RowEffect};
use parking_lot::Mutex;

use crate::environment::Environment;
use crate::hosts::engine_error;

/// One column that an operator adds, as a scalar function of the operator's input columns.
///
/// Made by [`operator_functions`]. The function is named after the column; its arguments are the operator's input columns
/// in the order given there. Two functions are equal when their specs and columns are, so that the engine merges equal
/// calls and never different ones.
pub struct OperatorFunction {
    spec: OperatorSpec,
    column: String,
    arguments: Vec<String>,
    signature: Signature,
    environment: Environment,
    /// Binding can be costly (a long term list), so operators are kept by the argument types they were bound for.
    bound: Mutex<Vec<(Vec<DataType>, Arc<dyn Operator>)>>,
}

/// Makes the columns that an operator adds callable from SQL: a function for each of them.
///
/// `arguments` are fields with the names that the operator's configuration uses for its input columns, in the order in
/// which the functions take them; their types only serve to find out which columns the operator adds. Operators that
/// change the number of rows have no place in a scalar expression and are refused.
///
/// ```
/// use arrow_schema::{DataType, Field};
/// use datafusion::prelude::SessionContext;
/// use gristmill_operators::OperatorSpec;
/// use gristmill_pipelines::{Environment, operator_functions};
///
/// let spec = OperatorSpec::new("derive", serde_json::json!({"shout": "upper(text)"}));
/// let context = SessionContext::new();
/// for function in operator_functions(&spec, &[Field::new("text", DataType::Utf8, true)], &Environment::local())? {
///     context.register_udf(function);
/// }
/// // SELECT shout(body) FROM documents
/// # Ok::<(), datafusion::error::DataFusionError>(())
/// ```
pub fn operator_functions(
    spec: &OperatorSpec,
    arguments: &[Field],
    environment: &Environment,
) -> Result<Vec<ScalarUDF>> {
    let spec = environment.registry.complete(spec).map_err(engine_error)?;
    let schema: SchemaRef = Arc::new(Schema::new(arguments.to_vec()));
    let operator = environment.registry.bind(&spec, &schema, &environment.resources).map_err(engine_error)?;
    if operator.row_effect() != RowEffect::Same {
        return plan_err!("operator '{}' changes the rows themselves and cannot be a scalar function", spec.kind);
    }
    let types: Vec<DataType> = arguments.iter().map(|field| field.data_type().clone()).collect();
    let added = &operator.output_schema().fields()[arguments.len()..];
    Ok(added
        .iter()
        .map(|field| {
            ScalarUDF::from(OperatorFunction {
                spec: spec.clone(),
                column: field.name().clone(),
                arguments: arguments.iter().map(|field| field.name().clone()).collect(),
                signature: Signature::any(arguments.len(), Volatility::Immutable),
                environment: environment.clone(),
                bound: Mutex::new(vec![(types.clone(), Arc::clone(&operator))]),
            })
        })
        .collect())
}

impl OperatorFunction {
    /// The operator's spec.
    #[must_use]
    pub fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn operator(&self, types: &[DataType]) -> Result<Arc<dyn Operator>> {
        let mut bound = self.bound.lock();
        if let Some((_, operator)) = bound.iter().find(|(known, _)| known == types) {
            return Ok(Arc::clone(operator));
        }
        let operator = self
            .environment
            .registry
            .bind(&self.spec, &self.schema(types), &self.environment.resources)
            .map_err(engine_error)?;
        bound.push((types.to_vec(), Arc::clone(&operator)));
        Ok(operator)
    }

    fn schema(&self, types: &[DataType]) -> SchemaRef {
        let fields: Vec<Field> = self
            .arguments
            .iter()
            .zip(types)
            .map(|(name, data_type)| Field::new(name, data_type.clone(), true))
            .collect();
        Arc::new(Schema::new(fields))
    }
}

impl ScalarUDFImpl for OperatorFunction {
    fn name(&self) -> &str {
        &self.column
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let operator = self.operator(types)?;
        match operator.output_schema().field_with_name(&self.column) {
            Ok(field) => Ok(field.data_type().clone()),
            Err(error) => Err(error.into()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let operator = self.operator(&types)?;
        Ok(Arc::new(operator.output_schema().field_with_name(&self.column)?.clone()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = args.args.iter().map(|value| value.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        let operator = self.operator(&types)?;
        let options = RecordBatchOptions::new().with_row_count(Some(args.number_rows));
        let schema = self.schema(&types);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let mut pass = operator.start().map_err(engine_error)?;
        let mut output = Output::default();
        pass.push(&batch, &mut output).and_then(|()| pass.finish(&mut output)).map_err(engine_error)?;
        let batch = arrow_select::concat::concat_batches(operator.output_schema(), &output.batches)?;
        match batch.column_by_name(&self.column) {
            Some(column) if column.len() == args.number_rows => Ok(ColumnarValue::Array(Arc::clone(column))),
            Some(column) => exec_err!("operator gave {} rows for {}", column.len(), args.number_rows),
            None => exec_err!("operator gave no column '{}'", self.column),
        }
    }
}

impl PartialEq for OperatorFunction {
    fn eq(&self, other: &Self) -> bool {
        (&self.spec, &self.column, &self.arguments) == (&other.spec, &other.column, &other.arguments)
    }
}

impl Eq for OperatorFunction {}

impl Hash for OperatorFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.spec, &self.column, &self.arguments).hash(state);
        self.type_id().hash(state);
    }
}

impl std::fmt::Debug for OperatorFunction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OperatorFunction")
            .field("spec", &self.spec)
            .field("column", &self.column)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}
