//! One schema for all files, and the columns that are read of it.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use super::probe::Probe;
use crate::error::{DatasetError, Result};
use crate::formats::{ROW_COLUMN, ReadOptions, SOURCE_COLUMN, filled_id, find_column, is_named};
use crate::split::Format;

/// The schema of the record batches that reading gives.
///
/// A column is nullable where any file lacks it. Integers and floating-point numbers of several widths become the
/// widest, strings of several encodings the first that is met, structs and lists follow the same rules inside.
pub(crate) fn unify(probes: &[Probe], options: &ReadOptions) -> Result<SchemaRef> {
    let mut merged: Option<Schema> = None;
    for probe in probes {
        let Some(columns) = &probe.columns else { continue };
        merged = Some(match merged {
            None => columns.as_ref().clone(),
            Some(merged) => add(merged, columns, options).map_err(|(column, message)| DatasetError::Malformed {
                location: probe.file.file.url.clone(),
                message: format!("column '{column}' {message}; all files of a source need one type for it"),
            })?,
        });
        for conflict in &probe.conflicts {
            if is_read(conflict.column(), options) {
                let column = conflict.column();
                let way_out = if column == options.id {
                    "name another column with 'id'"
                } else if column == options.text {
                    "name another column with 'text'"
                } else {
                    "name the other columns with 'columns' to leave it out"
                };
                return Err(probe.file.malformed(format!("{conflict}; all rows need one type for it, or {way_out}")));
            }
        }
    }
    let json = probes.iter().any(|probe| matches!(probe.file.file.format, Format::Json | Format::Jsonl));
    let sampled = probes.iter().any(|probe| probe.columns.is_some());
    let found = merged.unwrap_or_else(Schema::empty);
    let found = if sampled {
        found
    } else {
        // No file has a row, so nothing contradicts the columns that are expected.
        Schema::new(vec![Field::new(&options.text, DataType::Utf8, true)])
    };
    let schema = Schema::new_with_metadata(found.fields().iter().map(known).collect::<Fields>(), found.metadata);
    select(&schema, options, json, sampled).map(Arc::new)
}

/// Whether a top-level column is read at all.
fn is_read(column: &str, options: &ReadOptions) -> bool {
    let begins = |name: &String| name == column || name.strip_prefix(column).is_some_and(|rest| rest.starts_with('.'));
    options.columns.as_ref().is_none_or(|columns| columns.iter().any(begins))
        || begins(&options.text)
        || begins(&options.id)
}

type Mismatch = (String, String);

fn add(merged: Schema, other: &Schema, options: &ReadOptions) -> Result<Schema, Mismatch> {
    let metadata = merged.metadata.clone();
    let read = |field: &FieldRef| is_read(field.name(), options);
    let fields = add_fields(merged.fields(), other.fields(), "", &read)?;
    Ok(Schema::new_with_metadata(fields, metadata))
}

fn add_fields(
    merged: &Fields,
    other: &Fields,
    path: &str,
    read: &dyn Fn(&FieldRef) -> bool,
) -> Result<Fields, Mismatch> {
    let mut fields = Vec::with_capacity(merged.len());
    for field in merged {
        match other.iter().find(|other| other.name() == field.name()) {
            Some(other) if read(field) => fields.push(add_field(field, other, path)?),
            Some(_) => fields.push(Arc::clone(field)),
            None => fields.push(nullable(field)),
        }
    }
    for field in other {
        if !merged.iter().any(|merged| merged.name() == field.name()) {
            fields.push(nullable(field));
        }
    }
    Ok(fields.into())
}

fn nullable(field: &FieldRef) -> FieldRef {
    if field.is_nullable() { Arc::clone(field) } else { Arc::new(field.as_ref().clone().with_nullable(true)) }
}

fn add_field(merged: &FieldRef, other: &FieldRef, path: &str) -> Result<FieldRef, Mismatch> {
    let path = if path.is_empty() { merged.name().clone() } else { format!("{path}.{}", merged.name()) };
    let data_type = widest(merged.data_type(), other.data_type(), &path)?;
    let is_nullable = merged.is_nullable() || other.is_nullable();
    Ok(Arc::new(merged.as_ref().clone().with_data_type(data_type).with_nullable(is_nullable)))
}

fn widest(first: &DataType, second: &DataType, path: &str) -> Result<DataType, Mismatch> {
    use DataType::{
        Float16, Float32, Float64, Int8, Int16, Int32, Int64, LargeList, List, Null, Struct, UInt8, UInt16, UInt32,
        UInt64,
    };
    let mismatch = || Err((path.to_owned(), format!("is {second} here and {first} before")));
    if first == second {
        return Ok(first.clone());
    }
    let rank = |data_type: &DataType| match data_type {
        UInt8 => Some((1, false)),
        UInt16 => Some((2, false)),
        UInt32 => Some((3, false)),
        UInt64 => Some((4, false)),
        Int8 => Some((1, true)),
        Int16 => Some((2, true)),
        Int32 => Some((3, true)),
        Int64 => Some((4, true)),
        _ => None,
    };
    let float = |data_type: &DataType| matches!(data_type, Float16 | Float32 | Float64);
    match (first, second) {
        (Null, other) | (other, Null) => Ok(other.clone()),
        (Struct(first), Struct(second)) => Ok(Struct(add_fields(first, second, path, &|_| true)?)),
        (List(first), List(second)) => Ok(List(element(first, second, path)?)),
        (LargeList(first), LargeList(second)) => Ok(LargeList(element(first, second, path)?)),
        _ if is_string(first) && is_string(second) => Ok(first.clone()),
        _ if float(first) && float(second) => {
            Ok(if first == &Float64 || second == &Float64 { Float64 } else { Float32 })
        }
        _ if float(first) && rank(second).is_some() || rank(first).is_some() && float(second) => Ok(Float64),
        _ => match (rank(first), rank(second)) {
            (Some((a, true)), Some((b, true))) => Ok([Int8, Int16, Int32, Int64][usize::max(a, b) - 1].clone()),
            (Some((a, false)), Some((b, false))) => Ok([UInt8, UInt16, UInt32, UInt64][usize::max(a, b) - 1].clone()),
            // The signed one has to hold all values of the unsigned one.
            (Some((a, true)), Some((b, false))) | (Some((b, false)), Some((a, true))) if b < 4 => {
                Ok([Int8, Int16, Int32, Int64][usize::max(a, b + 1) - 1].clone())
            }
            _ => mismatch(),
        },
    }
}

fn element(first: &FieldRef, second: &FieldRef, path: &str) -> Result<FieldRef, Mismatch> {
    let data_type = widest(first.data_type(), second.data_type(), &format!("{path}[]"))?;
    let is_nullable = first.is_nullable() || second.is_nullable();
    Ok(Arc::new(first.as_ref().clone().with_data_type(data_type).with_nullable(is_nullable)))
}

/// Whether an operator can take the column for text.
fn is_string(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_string(values),
        _ => false,
    }
}

/// A column of which only nulls were seen becomes one of strings.
fn known(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Null => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(known).collect()),
        DataType::List(element) => DataType::List(known(element)),
        _ => return Arc::clone(field),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// The columns that are read, in their order: as the files have them, or as `columns` says with `id` and `text` in
/// front where it does not name them.
fn select(schema: &Schema, options: &ReadOptions, json: bool, sampled: bool) -> Result<Schema> {
    let find = |name: &str| {
        let found = find_column(schema, name)?;
        if json && is_named(name, options) && name.contains('.') && found.0.len() == 1 {
            return None;
        }
        Some(found.1)
    };
    let text = find(&options.text);
    if text.is_none() && options.require_text {
        return Err(missing(schema, &options.text));
    }
    if let Some(text) = text.as_ref().filter(|text| options.require_text && !is_string(text.data_type())) {
        return Err(DatasetError::Setting {
            key: "text".into(),
            message: format!("column '{}' is {} and no string", options.text, text.data_type()),
        });
    }
    let id = match find(&options.id) {
        // A required unsigned integer would look like one that is to be filled.
        Some(id) => Arc::new(id.as_ref().clone().with_nullable(id.is_nullable() || json)),
        None => Arc::new(filled_id(&options.id)),
    };
    let mut fields: Vec<FieldRef> = Vec::new();
    let mut push = |field: FieldRef| {
        if !fields.iter().any(|known| known.name() == field.name()) {
            fields.push(field);
        }
    };
    match &options.columns {
        None => {
            if find(&options.id).is_none() {
                push(Arc::clone(&id));
            }
            for field in schema.fields() {
                push(if field.name() == &options.id { Arc::clone(&id) } else { Arc::clone(field) });
            }
            push(id);
            text.into_iter().for_each(push);
        }
        Some(columns) => {
            if !columns.contains(&options.id) {
                push(Arc::clone(&id));
            }
            if let Some(text) = text.filter(|_| options.require_text && !columns.contains(&options.text)) {
                push(text);
            }
            for name in columns {
                let field = match find(name) {
                    _ if name == &options.id => Arc::clone(&id),
                    Some(field) => field,
                    None if !sampled => Arc::new(Field::new(name, DataType::Utf8, true)),
                    None => return Err(missing(schema, name)),
                };
                push(field);
            }
        }
    }
    if options.provenance {
        for name in [SOURCE_COLUMN, ROW_COLUMN] {
            if fields.iter().any(|field| field.name() == name) {
                return Err(DatasetError::Setting {
                    key: "provenance".into(),
                    message: format!("the files have a column '{name}' already; leave it out with 'columns'"),
                });
            }
        }
        let source = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        fields.push(Arc::new(Field::new(SOURCE_COLUMN, source, false)));
        fields.push(Arc::new(Field::new(ROW_COLUMN, DataType::UInt64, false)));
    }
    Ok(Schema::new_with_metadata(fields, schema.metadata.clone()))
}

fn missing(schema: &Schema, column: &str) -> DatasetError {
    let mut available = Vec::new();
    for field in schema.fields() {
        available.push(field.name().clone());
        if let DataType::Struct(fields) = field.data_type() {
            available.extend(fields.iter().map(|inner| format!("{}.{}", field.name(), inner.name())));
        }
    }
    let likeness = |name: &String| strsim::jaro_winkler(&name.to_lowercase(), &column.to_lowercase());
    let nearest = available
        .iter()
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|first, second| first.0.total_cmp(&second.0))
        .map(|(_, name)| name.clone());
    DatasetError::MissingColumn { column: column.to_owned(), nearest, available }
}
