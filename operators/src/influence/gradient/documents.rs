//! Token ids of texts, and which of them are targets.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema};

use super::config::{GradientConfig, Position, Span};
use crate::columns::{TextColumn, require_column};
use crate::config::invalid;
use crate::influence::queries::Query;
use crate::scoring::reader::Reader;
use crate::{OperatorError, Result};

/// A row of the input.
#[derive(Debug, PartialEq)]
pub(in crate::influence) enum Row {
    /// The text, or its answer, is null.
    Null,
    /// It cannot be read, and why.
    Unreadable(String),
    Document(Document),
}

/// A text in tokens.
#[derive(Debug, PartialEq)]
pub(in crate::influence) struct Document {
    pub(in crate::influence) ids: Vec<u32>,
    /// Tokens that are to be predicted; the first one never is.
    pub(in crate::influence) targets: Range<usize>,
    /// How many tokens were cut off.
    pub(in crate::influence) truncated: usize,
}

impl Document {
    /// Places that predict a token.
    pub(in crate::influence) fn places(&self) -> usize {
        self.ids.len().saturating_sub(1)
    }
}

/// Checks, without data, that there are the columns that a configuration names.
pub(in crate::influence) fn check(kind: &str, config: &GradientConfig, input: &Schema) -> Result<()> {
    TextColumn::check(kind, input, &config.column)?;
    if let Some(answer) = &config.answer {
        TextColumn::check(kind, input, answer)?;
    }
    let Some(span) = &config.span else { return Ok(()) };
    if config.answer.is_some() {
        return Err(invalid(kind, "span", "targets are the tokens of `answer`; give one of both"));
    }
    for column in columns(span) {
        let (_, data_type) = require_column(kind, input, column)?;
        if !data_type.is_integer() {
            return Err(OperatorError::ColumnType {
                kind: kind.to_owned(),
                column: column.to_owned(),
                found: data_type.to_string(),
                expected: "whole numbers".to_owned(),
            });
        }
    }
    match span {
        Span { start: Position::Number(start), end: Some(Position::Number(end)) } if start >= end => {
            Err(invalid(kind, "span", format!("from {start} to before {end} there is no token")))
        }
        _ => Ok(()),
    }
}

/// Names of the columns that are read.
pub(in crate::influence) fn inputs(config: &GradientConfig) -> Vec<String> {
    let of_span = config.span.iter().flat_map(columns);
    let names = [config.column.as_str()].into_iter().chain(config.answer.as_deref()).chain(of_span);
    let mut inputs: Vec<String> = Vec::new();
    for name in names {
        if !inputs.iter().any(|known| known == name) {
            inputs.push(name.to_owned());
        }
    }
    inputs
}

/// The columns of a span.
pub(in crate::influence) fn columns(span: &Span) -> impl Iterator<Item = &str> {
    [Some(&span.start), span.end.as_ref()].into_iter().flatten().filter_map(|position| match position {
        Position::Column(column) => Some(column.as_str()),
        Position::Number(_) => None,
    })
}

/// All rows of a batch.
pub(in crate::influence) fn read(
    kind: &str,
    config: &GradientConfig,
    reader: &Reader,
    batch: &RecordBatch,
) -> Result<Vec<Row>> {
    let texts = TextColumn::of(kind, batch, &config.column)?;
    let answers = config.answer.as_ref().map(|answer| TextColumn::of(kind, batch, answer)).transpose()?;
    let span = config.span.as_ref();
    let start = Place::of(kind, batch, span.map(|span| &span.start), 0)?;
    let end = Place::of(kind, batch, span.and_then(|span| span.end.as_ref()), u64::MAX)?;
    let mut ids = Vec::new();
    let mut rows = Vec::with_capacity(batch.num_rows());
    for (row, text) in texts.iter().enumerate() {
        let answer = answers.as_ref().map(|answers| answers.get(row));
        let read = match (text, answer) {
            (None, _) | (_, Some(None)) => Ok(Row::Null),
            (Some(text), Some(Some(answer))) => with_answer(reader, text, answer).map(Row::Document),
            (Some(text), None) => {
                let span = start.at(row).and_then(|start| Ok((start, end.at(row)?)));
                span.and_then(|span| alone(reader, text, span, &mut ids)).map(Row::Document)
            }
        };
        rows.push(read.unwrap_or_else(Row::Unreadable));
    }
    Ok(rows)
}

/// The first tokens of a text, of which those of a span are targets.
fn alone(
    reader: &Reader,
    text: &str,
    (start, end): (u64, u64),
    ids: &mut Vec<u32>,
) -> std::result::Result<Document, String> {
    if start > end {
        return Err(format!("the span begins at token {start}, and ends before token {end}"));
    }
    reader.tokenizer.encode(text, true, ids).map_err(|error| error.to_string())?;
    let kept = ids.len().min(reader.context_length);
    let place = |place: u64| usize::try_from(place).map_or(kept, |place| place.min(kept));
    let start = place(start).max(1);
    let targets = start..place(end).max(start);
    Ok(Document { ids: ids[..kept].to_vec(), targets, truncated: ids.len() - kept })
}

/// The last tokens of a text with its answer, whose tokens are targets: the same as of a query with this prompt and completion.
fn with_answer(reader: &Reader, text: &str, answer: &str) -> std::result::Result<Document, String> {
    let Query { ids: all, first_target } = Query::join(&reader.tokenizer, text, answer)?;
    let truncated = all.len().saturating_sub(reader.context_length);
    let [start, end] = [first_target, all.len()].map(|place| place.saturating_sub(truncated).max(1));
    Ok(Document { ids: all[truncated..].to_vec(), targets: start..end, truncated })
}

/// Where spans begin or end.
enum Place<'a> {
    Everywhere(u64),
    /// In each row, or elsewhere where the row is null.
    Column(&'a ArrayRef, &'a str, u64),
}

impl<'a> Place<'a> {
    fn of(kind: &str, batch: &'a RecordBatch, position: Option<&'a Position>, otherwise: u64) -> Result<Self> {
        Ok(match position {
            None => Self::Everywhere(otherwise),
            Some(Position::Number(number)) => Self::Everywhere(*number),
            Some(Position::Column(name)) => {
                let (index, _) = require_column(kind, batch.schema_ref(), name)?;
                Self::Column(batch.column(index), name, otherwise)
            }
        })
    }

    fn at(&self, row: usize) -> std::result::Result<u64, String> {
        match *self {
            Self::Everywhere(place) => Ok(place),
            Self::Column(column, _, otherwise) if column.is_null(row) => Ok(otherwise),
            Self::Column(column, name, _) => {
                let number = whole_number(column, row);
                u64::try_from(number).map_err(|_| format!("column '{name}' is {number}; a token's place is at least 0"))
            }
        }
    }
}

fn whole_number(column: &ArrayRef, row: usize) -> i128 {
    match column.data_type() {
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        // Checked when the operator was bound: there are no other types of whole numbers.
        _ => column.as_primitive::<Int64Type>().value(row).into(),
    }
}
