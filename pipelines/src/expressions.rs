//! SQL expressions over the row, for `filter`, `derive`, `select` and `when`.
//!
//! Expressions are DataFusion's, bound to the schema of the step. Column names are taken as they stand (no folding to
//! lower case). An expression that could give another value when a split is run again (`random()`, `now()`) is refused, since
//! results must not depend on interruptions.

use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionConfig;
use gristmill_operators::{OperatorError, RowPredicate, default_array, nearest};

/// So many characters of a row are shown in an error.
const SHOWN_ROW: usize = 200;

/// A SQL expression bound to a schema.
#[derive(Clone, Debug)]
pub struct Expression {
    sql: String,
    alias: Option<String>,
    columns: Vec<String>,
    physical: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    nullable: bool,
}

impl Expression {
    /// Parses `sql` and binds it to `schema`; `kind` and `key` name the setting in errors.
    pub fn bind(kind: &str, key: &str, sql: &str, schema: &SchemaRef) -> Result<Self, OperatorError> {
        let fail = |message: String| gristmill_operators::config::invalid(kind, key, format!("{message} in '{sql}'"));
        if sql.trim().is_empty() {
            return Err(gristmill_operators::config::invalid(kind, key, "the expression is empty"));
        }
        let state = &*STATE;
        let df_schema = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| fail(error.to_string()))?;
        let parsed = state.create_logical_expr(sql, &df_schema).map_err(|error| fail(explain(&error, schema)))?;
        refuse(&parsed).map_err(&fail)?;
        let mut columns: Vec<String> = parsed.column_refs().into_iter().map(|column| column.name.clone()).collect();
        columns.sort();
        let (alias, bare) = match parsed {
            Expr::Alias(alias) => (Some(alias.name), *alias.expr),
            other => (None, other),
        };
        let physical = state.create_physical_expr(bare, &df_schema).map_err(|error| fail(explain(&error, schema)))?;
        let data_type = physical.data_type(schema).map_err(|error| fail(error.to_string()))?;
        let nullable = physical.nullable(schema).map_err(|error| fail(error.to_string()))?;
        let bound = Self { sql: sql.to_owned(), alias, columns, physical, data_type, nullable };
        bound.check_patterns(schema).map_err(fail)?;
        Ok(bound)
    }

    /// The engine looks at a regular expression when the first row comes. One row of typed defaults finds a wrong one now;
    /// whatever else such a row may fail with says nothing about the expression.
    fn check_patterns(&self, schema: &SchemaRef) -> Result<(), String> {
        let columns = schema.fields().iter().map(|field| default_array(field.data_type(), 1)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let relaxed: Vec<Field> =
            schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let Ok(row) = RecordBatch::try_new_with_options(Arc::new(Schema::new(relaxed)), columns, &options) else {
            return Ok(());
        };
        match self.compute(&row).map_err(|error| error.to_string()) {
            Err(text) if text.to_lowercase().contains("regular expression") || text.contains("regex parse") => {
                Err(explain_pattern(&text))
            }
            _ => Ok(()),
        }
    }

    /// Like [`bind`](Self::bind), for a condition: the expression must be boolean.
    pub fn condition(kind: &str, key: &str, sql: &str, schema: &SchemaRef) -> Result<Self, OperatorError> {
        let expression = Self::bind(kind, key, sql, schema)?;
        if expression.data_type == DataType::Boolean {
            return Ok(expression);
        }
        let message = format!("'{sql}' has type {}, a condition must be Boolean", expression.data_type);
        Err(gristmill_operators::config::invalid(kind, key, message))
    }

    /// The text.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The alias given with `AS`.
    #[must_use]
    pub fn alias(&self) -> Option<&str> {
        self.alias.as_deref()
    }

    /// Names of the columns that are read.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The result as a field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Field {
        Field::new(name, self.data_type.clone(), self.nullable)
    }

    /// One value per row.
    ///
    /// # Errors
    /// [`OperatorError::Expression`] with the first row that has no value, such as a text that is cast to a number and is
    /// none.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, OperatorError> {
        self.compute(batch).map_err(|error| {
            let rows = (0..batch.num_rows()).map(|row| batch.slice(row, 1));
            let failed = rows.into_iter().find_map(|row| self.compute(&row).err().map(|error| (row, error)));
            let (row, error) = failed.unwrap_or_else(|| (batch.slice(0, 0), error));
            self.failure(&row, &error)
        })
    }

    /// An error about one row, which shows the values that the expression reads.
    fn failure(&self, row: &RecordBatch, error: &OperatorError) -> OperatorError {
        let text = error.to_string();
        let mut message = ["Arrow error: ", "Compute error: ", "Execution error: ", "Cast error: "]
            .iter()
            .fold(text.as_str(), |text, prefix| text.strip_prefix(prefix).unwrap_or(text))
            .to_owned();
        if message.contains("Cannot cast") {
            message.push_str(" (TRY_CAST gives null instead)");
        }
        OperatorError::Expression { expression: self.sql.clone(), message, row: self.shown(row) }
    }

    /// The values that the expression reads of a row, as JSON of bounded length; empty where there is no row.
    fn shown(&self, row: &RecordBatch) -> String {
        let schema = row.schema();
        let columns: Vec<usize> = self.columns.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
        let written = row.project(&columns).and_then(|row| writer.write(&row)).and_then(|()| writer.finish());
        let text = String::from_utf8_lossy(&writer.into_inner()).trim().to_owned();
        match text.char_indices().nth(SHOWN_ROW) {
            _ if columns.is_empty() || written.is_err() => String::new(),
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    fn compute(&self, batch: &RecordBatch) -> Result<ArrayRef, OperatorError> {
        let value = self.physical.evaluate(batch).map_err(engine_error)?;
        value.into_array(batch.num_rows()).map_err(engine_error)
    }
}

impl RowPredicate for Expression {
    fn inputs(&self) -> Vec<String> {
        self.columns.clone()
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, OperatorError> {
        let array = Self::evaluate(self, batch)?;
        array.as_boolean_opt().cloned().ok_or_else(|| OperatorError::ColumnType {
            kind: "when".to_owned(),
            column: self.sql.clone(),
            found: array.data_type().to_string(),
            expected: "Boolean".to_owned(),
        })
    }
}

/// Functions and options that expressions are bound with. Fixed, so that a worker elsewhere binds alike.
static STATE: LazyLock<SessionState> = LazyLock::new(|| {
    let config = SessionConfig::new()
        .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
        .set_bool("datafusion.sql_parser.parse_float_as_decimal", false);
    SessionStateBuilder::new().with_config(config).with_default_features().build()
});

/// Refuses what could give another value on a second try, and what needs more than the row.
fn refuse(expression: &Expr) -> Result<(), String> {
    let mut found = None;
    let walked = expression.apply(|node| {
        found = match node {
            Expr::ScalarFunction(function) if function.func.signature().volatility != Volatility::Immutable => {
                let name = function.func.name();
                Some(format!(
                    "the function '{name}' can give another value when a split is run again, which is not allowed"
                ))
            }
            Expr::AggregateFunction(function) => Some(of_one_row(&format!("the function '{}'", function.func.name()))),
            Expr::WindowFunction(function) => Some(of_one_row(&format!("the function '{}'", function.fun.name()))),
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => Some(of_one_row("a subquery")),
            _ => None,
        };
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    match (walked, found) {
        (Err(error), _) => Err(error.to_string()),
        (Ok(_), Some(message)) => Err(message),
        (Ok(_), None) => Ok(()),
    }
}

fn of_one_row(what: &str) -> String {
    format!("{what} needs other rows, and an expression sees one row at a time")
}

/// The pattern and what is wrong with it, out of the drawing that the regular expression engine makes of both.
fn explain_pattern(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let pattern = lines.by_ref().skip_while(|line| *line != "regex parse error:").nth(1);
    let reason = lines.find_map(|line| line.strip_prefix("error: "));
    match (pattern, reason) {
        (Some(pattern), Some(reason)) => format!("the regular expression '{pattern}' does not compile: {reason},"),
        _ => text.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// DataFusion's message without its prefixes; a missing column gets the near one.
fn explain(error: &DataFusionError, schema: &SchemaRef) -> String {
    let root = error.find_root();
    if let DataFusionError::SchemaError(schema_error, _) = root
        && let datafusion::common::SchemaError::FieldNotFound { field, .. } = schema_error.as_ref()
    {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let suggestion = nearest(&field.name, names.iter().copied())
            .map(|name| format!(", did you mean '{name}'?"))
            .unwrap_or_default();
        return format!("no column '{}'{suggestion}; columns: {};", field.name, names.join(", "));
    }
    let text = root.strip_backtrace();
    let text = text.strip_prefix("Error during planning: ").unwrap_or(&text);
    let text = text.strip_prefix("SQL error: ").unwrap_or(text);
    let text = text.strip_prefix("This feature is not implemented: ").unwrap_or(text);
    if let Some(wrong) = ["ParserError(\"", "TokenizerError(\""].iter().find_map(|kind| text.strip_prefix(kind)) {
        let wrong = wrong.trim_end_matches("\")").replace("\\\"", "\"");
        return format!("this is no SQL expression: {}", wrong.replace("found: EOF", "found: the end"));
    }
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim_end_matches('.');
    match lines.next().and_then(|line| line.strip_prefix("Did you mean ")) {
        Some(hint) => format!("{first}, did you mean {hint}"),
        None => first.to_owned(),
    }
}

fn engine_error(error: DataFusionError) -> OperatorError {
    match error {
        DataFusionError::ArrowError(error, _) => OperatorError::Arrow(*error),
        other => OperatorError::Arrow(arrow_schema::ArrowError::ComputeError(other.strip_backtrace())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::unwrap_in_result, clippy::panic)]

    use arrow_array::{Array, Int64Array, StringArray};

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("warc_URL", DataType::Utf8, true),
        ]))
    }

    #[test]
    fn names_keep_their_case_and_results_are_per_row() {
        let batch = RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(Int64Array::from(vec![1, 2, 3])),
                Arc::new(StringArray::from(vec![Some("a"), None, Some("abc")])),
            ],
        )
        .unwrap();
        let long = Expression::condition("filter", "keep", "LENGTH(warc_URL) > 1 AND id > 0", &schema()).unwrap();
        assert_eq!(long.columns(), ["id", "warc_URL"]);
        let mask = RowPredicate::evaluate(&long, &batch).unwrap();
        assert_eq!(mask.iter().collect::<Vec<_>>(), [Some(false), None, Some(true)]);
        let constant = Expression::bind("derive", "x", "1 + 1 AS two", &schema()).unwrap();
        assert_eq!((constant.alias(), constant.evaluate(&batch).unwrap().len()), (Some("two"), 3));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (sql, part) in [
            ("warc_url = 'x'", "did you mean 'warc_URL'?"),
            ("id >", "this is no SQL expression: Expected: an expression, found: the end in 'id >'"),
            ("warc_URL = 'x", "this is no SQL expression: Unterminated string literal"),
            ("count(*) > 1", "the function 'count' needs other rows"),
            ("row_number() OVER () > 1", "needs other rows"),
            ("(SELECT 1) = id", "a subquery needs other rows"),
            ("no_such_function(id)", "no_such_function"),
            ("lenth(warc_URL) > 2", "Invalid function 'lenth', did you mean 'length'?"),
            ("id", "must be Boolean"),
            ("random() > 0.5", "'random' can give another value"),
            ("now() > '2020-01-01'", "'now' can give another value"),
            (
                "regexp_like(warc_URL, '(')",
                "the regular expression '(' does not compile: unclosed group, in 'regexp_like",
            ),
            ("", "empty"),
            ("id IN (SELECT 1)", "id IN"),
            ("true; DROP TABLE x", "DROP"),
        ] {
            let error = Expression::condition("filter", "keep", sql, &schema());
            let message = error.map(|_| String::new()).unwrap_or_else(|error| error.to_string());
            assert!(message.contains(part), "{sql}: {message:?} has no {part:?}");
        }
    }

    #[test]
    fn a_row_without_a_value_is_shown() {
        let texts = StringArray::from(vec![Some("1"), None, Some("two"), Some("x"), Some("5")]);
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("text", DataType::Utf8, true),
        ]));
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])), Arc::new(texts)],
        )
        .unwrap();
        let number = Expression::bind("derive", "n", "CAST(text AS INT)", &schema).unwrap();
        let error = number.evaluate(&batch).unwrap_err();
        let OperatorError::Expression { expression, message, row } = &error else { panic!("{error:?}") };
        assert_eq!((expression.as_str(), row.as_str()), ("CAST(text AS INT)", r#"{"text":"two"}"#));
        assert!(message.starts_with("Cannot cast string 'two'") && message.contains("TRY_CAST"), "{message}");
        assert_eq!(number.evaluate(&batch.slice(0, 2)).unwrap().null_count(), 1);
        let lenient = Expression::bind("derive", "n", "TRY_CAST(text AS INT)", &schema).unwrap();
        assert_eq!(lenient.evaluate(&batch).unwrap().null_count(), 3);
    }
}
