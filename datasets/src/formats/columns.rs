//! From the columns of a file to the columns of the plan: paths into structs, missing columns, types, row positions.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Int32Array, LargeListArray, ListArray, RecordBatch, RecordBatchOptions,
    StringArray, StructArray, UInt64Array, make_array, new_null_array,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use super::options::ReadOptions;

/// Name of the column that holds the location of the file.
pub(crate) const SOURCE_COLUMN: &str = "_source";
/// Name of the column that holds the position of the row in its file.
pub(crate) const ROW_COLUMN: &str = "_row";

/// Where a column of the plan comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A column of the file, or a field inside one.
    Path(Vec<String>),
    /// The file does not have it.
    Missing,
    /// The position of the row in the source.
    Position,
    /// The location of the file.
    Source,
    /// The position of the row in the file.
    Row,
}

/// Which rows of which place a batch holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Positions {
    /// Position of the first record in the source, where known.
    pub(crate) source: Option<u64>,
    /// Position of the first record in the file, where known.
    pub(crate) file: Option<u64>,
    /// Which of the records the rows are; all, one after the other, when absent.
    pub(crate) kept: Option<Vec<u64>>,
}

impl Positions {
    fn array(&self, first: u64, rows: usize) -> UInt64Array {
        match &self.kept {
            None => (first..first + rows as u64).collect::<Vec<_>>().into(),
            Some(kept) => kept.iter().map(|offset| first + offset).collect::<Vec<_>>().into(),
        }
    }
}

/// Makes record batches with the schema of the plan from record batches with the columns of the file.
#[derive(Debug)]
pub(crate) struct Shaper {
    schema: SchemaRef,
    origins: Vec<Origin>,
    location: String,
}

impl Shaper {
    pub(crate) fn new(schema: SchemaRef, origins: Vec<Origin>, location: &str) -> Self {
        Self { schema, origins, location: location.to_owned() }
    }

    /// Every column in the schema of the plan; `batch` holds at least the columns that the origins name.
    pub(crate) fn shape(&self, batch: &RecordBatch, positions: &Positions) -> Result<RecordBatch, String> {
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(self.origins.len());
        for (field, origin) in self.schema.fields().iter().zip(&self.origins) {
            let column: ArrayRef =
                match origin {
                    Origin::Missing => new_null_array(field.data_type(), rows),
                    Origin::Position => Arc::new(positions.array(
                        positions.source.ok_or(
                            "the position of the split in the source is not known: plan it with the same options",
                        )?,
                        rows,
                    )),
                    Origin::Row => Arc::new(positions.array(
                        positions.file.ok_or(
                            "the position of the split in the file is not known: plan it with the same options",
                        )?,
                        rows,
                    )),
                    Origin::Source => {
                        let values = Arc::new(StringArray::from(vec![self.location.as_str()]));
                        let keys = Int32Array::from(vec![0; rows]);
                        Arc::new(DictionaryArray::try_new(keys, values).map_err(|error| error.to_string())?)
                    }
                    Origin::Path(path) => {
                        let column = extract(batch, path)
                            .ok_or_else(|| format!("column '{}' is not where it was", path.join(".")))?;
                        adapt(&column, field.data_type())
                            .map_err(|error| format!("column '{}': {error}", field.name()))?
                    }
                };
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| error.to_string())
    }
}

/// Where every column of the plan is in a file with this schema.
///
/// `schema` is `None` for JSON, whose files have none of their own: there every column of the plan is looked for, and a
/// dot separates in the names that the options give.
pub(crate) fn origins(plan: &Schema, file: Option<&Schema>, options: &ReadOptions) -> Vec<Origin> {
    plan.fields()
        .iter()
        .map(|field| {
            let name = field.name();
            if options.provenance && name == SOURCE_COLUMN {
                return Origin::Source;
            }
            if options.provenance && name == ROW_COLUMN {
                return Origin::Row;
            }
            let filled = name == &options.id && is_filled_id(field);
            match file {
                None if filled => Origin::Position,
                None if is_named(name, options) => Origin::Path(name.split('.').map(str::to_owned).collect()),
                None => Origin::Path(vec![name.clone()]),
                Some(file) => match find(file, name) {
                    Some((path, _)) => Origin::Path(path),
                    None if filled => Origin::Position,
                    None => Origin::Missing,
                },
            }
        })
        .collect()
}

/// Whether the options name this column, in contrast to one that comes along.
pub(crate) fn is_named(name: &str, options: &ReadOptions) -> bool {
    options.columns.is_some() || name == options.text || name == options.id
}

/// The field of an id column that is filled with positions. Columns that are read may be null wherever a file could lack
/// them, and a file that states a required one has it.
pub(crate) fn filled_id(name: &str) -> Field {
    Field::new(name, DataType::UInt64, false)
}

pub(crate) fn is_filled_id(field: &Field) -> bool {
    field.data_type() == &DataType::UInt64 && !field.is_nullable()
}

/// The column of this exact name, or the field at this dotted path, nullable where a struct around it is.
pub(crate) fn find(schema: &Schema, name: &str) -> Option<(Vec<String>, FieldRef)> {
    if let Ok(field) = schema.field_with_name(name) {
        return Some((vec![name.to_owned()], Arc::new(field.clone())));
    }
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    let (first, rest) = path.split_first()?;
    let mut field = Arc::new(schema.field_with_name(first).ok()?.clone());
    for step in rest {
        let DataType::Struct(fields) = field.data_type() else { return None };
        let nullable = field.is_nullable();
        let inner = fields.iter().find(|inner| inner.name() == step)?;
        field = Arc::new(inner.as_ref().clone().with_nullable(nullable || inner.is_nullable()));
    }
    Some((path, Arc::new(field.as_ref().clone().with_name(name))))
}

/// The array at a path; null where a struct around it is null.
fn extract(batch: &RecordBatch, path: &[String]) -> Option<ArrayRef> {
    let (first, rest) = path.split_first()?;
    let mut array = Arc::clone(batch.column_by_name(first)?);
    for step in rest {
        let parent = array.as_struct_opt()?;
        let child = Arc::clone(parent.column_by_name(step)?);
        let nulls = NullBuffer::union(parent.nulls(), child.nulls());
        array = if parent.nulls().is_none() {
            child
        } else {
            make_array(child.to_data().into_builder().nulls(nulls).build().ok()?)
        };
    }
    Some(array)
}

/// The same values as another type: fields of structs go by name, everything else by cast. A value that does not fit is an
/// error, never a null.
fn adapt(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, String> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), target) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let from = array.as_struct();
            let columns = fields
                .iter()
                .map(|field| match from.column_by_name(field.name()) {
                    Some(column) => adapt(column, field.data_type()),
                    None => Ok(new_null_array(field.data_type(), array.len())),
                })
                .collect::<Result<Vec<_>, _>>()?;
            let adapted = if fields.is_empty() {
                StructArray::new_empty_fields(array.len(), from.nulls().cloned())
            } else {
                StructArray::try_new(fields.clone(), columns, from.nulls().cloned())
                    .map_err(|error| error.to_string())?
            };
            Ok(Arc::new(adapted))
        }
        (DataType::List(_), DataType::List(field)) => {
            let (_, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            let values = adapt(&values, field.data_type())?;
            let adapted = ListArray::try_new(Arc::clone(field), offsets, values, nulls);
            Ok(Arc::new(adapted.map_err(|error| error.to_string())?))
        }
        (DataType::LargeList(_), DataType::LargeList(field)) => {
            let (_, offsets, values, nulls) = array.as_list::<i64>().clone().into_parts();
            let values = adapt(&values, field.data_type())?;
            let adapted = LargeListArray::try_new(Arc::clone(field), offsets, values, nulls);
            Ok(Arc::new(adapted.map_err(|error| error.to_string())?))
        }
        _ => {
            let options = arrow_cast::CastOptions { safe: false, ..Default::default() };
            arrow_cast::cast_with_options(array, target, &options).map_err(|error| error.to_string())
        }
    }
}

/// The fields that a reader of nested data has to read so that every path is there: whole columns, or structs with only
/// the fields that are asked for. In the order of first use.
pub(crate) fn needed(plan: &Schema, origins: &[Origin]) -> Fields {
    /// A column to read: all of it, or some fields of a struct.
    struct Node {
        name: String,
        whole: Option<FieldRef>,
        children: Vec<Node>,
    }
    fn add(nodes: &mut Vec<Node>, path: &[String], field: &FieldRef) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = nodes.iter().position(|node| &node.name == first).unwrap_or_else(|| {
            nodes.push(Node { name: first.clone(), whole: None, children: Vec::new() });
            nodes.len() - 1
        });
        if rest.is_empty() {
            nodes[at].whole = Some(Arc::clone(field));
        } else {
            add(&mut nodes[at].children, rest, field);
        }
    }
    fn field(node: &Node) -> Field {
        match &node.whole {
            Some(whole) => Field::new(&node.name, whole.data_type().clone(), true),
            None => {
                let fields: Vec<Field> = node.children.iter().map(field).collect();
                Field::new(&node.name, DataType::Struct(fields.into()), true)
            }
        }
    }
    let mut nodes = Vec::new();
    for (column, origin) in plan.fields().iter().zip(origins) {
        if let Origin::Path(path) = origin {
            add(&mut nodes, path, column);
        }
    }
    nodes.iter().map(field).collect()
}
