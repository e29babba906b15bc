//! The columns that the step adds.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, StringBuilder, UInt32Builder, UInt64Builder};
use arrow_array::{ArrayRef, FixedSizeListArray, Float64Array, ListArray, StructArray};
use arrow_buffer::{NullBuffer, NullBufferBuilder, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use serde_json::json;

use super::operator::Row;
use super::study::Study;
use super::{KIND, PROJECTIONS, TENSORS};
use crate::config::invalid;
use crate::{OperatorError, Result};

/// `<name>` and `<name>_metadata`.
pub(super) fn fields(name: &str, study: &Study) -> Result<Vec<Field>> {
    let tensors = size("tensors", study.tensors.names.len())?;
    let numbers = || DataType::FixedSizeList(item(false), tensors);
    let mut pair = vec![
        Field::new("original", DataType::Utf8, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("is_truth", DataType::Boolean, true),
        Field::new("bm25", DataType::Float64, true),
        Field::new("cosine", DataType::Float64, true),
        Field::new("products", numbers(), false),
        Field::new("self_products", numbers(), false),
    ];
    let mut notes = vec![(TENSORS.to_owned(), json!(study.tensors.names).to_string())];
    if let Some(projection) = &study.projection {
        let sizes = size("projection.shares", projection.sizes.len())?;
        pair.push(Field::new("projected", DataType::FixedSizeList(item(true), sizes), false));
        let dimensions: Vec<usize> = projection.sizes.iter().map(|size| size.iter().sum()).collect();
        notes.push((PROJECTIONS.to_owned(), json!(dimensions).to_string()));
    }
    let pair = Arc::new(Field::new("item", DataType::Struct(pair.into()), false));
    let sample = vec![
        Field::new("loss", DataType::Float64, false),
        Field::new("tokens", DataType::UInt32, false),
        Field::new("self_products", numbers(), false),
    ];
    Ok(vec![
        Field::new(name, DataType::List(pair), true).with_metadata(notes.into_iter().collect()),
        Field::new(format!("{name}_metadata"), DataType::Struct(sample.into()), true),
    ])
}

/// The two columns of rows, under a schema whose last two fields they are. Of a row without a sample both are null.
pub(super) fn arrays(schema: &SchemaRef, study: &Study, rows: &[Option<Row>]) -> Result<Vec<ArrayRef>> {
    let tensors = study.tensors.names.len();
    let pairs = rows.iter().flatten().flat_map(|row| {
        let each = row.candidates.iter().zip(&row.measured.pairs);
        each.map(|(candidate, pair)| (candidate, pair, row.truth))
    });
    let (mut originals, mut numbers) = (StringBuilder::new(), UInt64Builder::new());
    let (mut truths, mut scores, mut cosines) = (BooleanBuilder::new(), Float64Builder::new(), Float64Builder::new());
    let [mut products, mut self_products] = [Vec::new(), Vec::new()];
    let mut projected = Float64Builder::new();
    let mut count = 0;
    for (candidate, pair, truth) in pairs {
        count += 1;
        originals.append_value(&study.originals.ids[candidate.row]);
        numbers.append_value(candidate.row as u64);
        truths.append_option(truth.map(|truth| truth == candidate.row));
        scores.append_option(candidate.bm25);
        cosines.append_option(pair.cosine);
        products.extend_from_slice(&pair.products);
        self_products.extend_from_slice(&pair.self_products);
        pair.projected.iter().for_each(|cosine| projected.append_option(*cosine));
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(originals.finish()),
        Arc::new(numbers.finish()),
        Arc::new(truths.finish()),
        Arc::new(scores.finish()),
        Arc::new(cosines.finish()),
        list(tensors, products, None)?,
        list(tensors, self_products, None)?,
    ];
    if let Some(projection) = &study.projection {
        let size = size("projection.shares", projection.sizes.len())?;
        columns.push(Arc::new(FixedSizeListArray::try_new(item(true), size, Arc::new(projected.finish()), None)?));
    }

    let (mut losses, mut tokens) = (Float64Builder::new(), UInt32Builder::new());
    let mut own = Vec::with_capacity(rows.len() * tensors);
    let mut nulls = NullBufferBuilder::new(rows.len());
    for row in rows {
        nulls.append(row.is_some());
        let measured = row.as_ref().map(|row| &row.measured);
        losses.append_value(measured.map_or(0.0, |measured| measured.loss));
        tokens.append_value(measured.map_or(0, |measured| u32::try_from(measured.tokens).unwrap_or(u32::MAX)));
        match measured {
            Some(measured) => own.extend_from_slice(&measured.self_products),
            None => own.resize(own.len() + tensors, 0.0),
        }
    }
    let nulls = nulls.finish();
    let sample: Vec<ArrayRef> = vec![Arc::new(losses.finish()), Arc::new(tokens.finish()), list(tensors, own, None)?];

    let [.., pairs_field, sample_field] = schema.fields().as_ref() else {
        return Err(invalid(KIND, "", "the schema lacks the step's columns"));
    };
    let (DataType::List(pair_field), DataType::Struct(sample_fields)) =
        (pairs_field.data_type(), sample_field.data_type())
    else {
        return Err(invalid(KIND, "", "the schema has other columns than the step's"));
    };
    let lengths = rows.iter().map(|row| row.as_ref().map_or(0, |row| row.candidates.len()));
    let structs = match pair_field.data_type() {
        DataType::Struct(fields) => struct_of(fields, columns, count, None)?,
        _ => return Err(invalid(KIND, "", "the schema has other columns than the step's")),
    };
    let pairs = ListArray::try_new(
        Arc::clone(pair_field),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(structs),
        nulls.clone(),
    )?;
    Ok(vec![Arc::new(pairs), Arc::new(struct_of(sample_fields, sample, rows.len(), nulls)?)])
}

fn struct_of(fields: &Fields, columns: Vec<ArrayRef>, rows: usize, nulls: Option<NullBuffer>) -> Result<StructArray> {
    StructArray::try_new_with_length(fields.clone(), columns, nulls, rows).map_err(OperatorError::from)
}

fn list(width: usize, values: Vec<f64>, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    let size = size("tensors", width)?;
    Ok(Arc::new(FixedSizeListArray::try_new(item(false), size, Arc::new(Float64Array::from(values)), nulls)?))
}

fn size(key: &str, count: usize) -> Result<i32> {
    i32::try_from(count).map_err(|_| invalid(KIND, key, format!("{count} are too many")))
}

fn item(nullable: bool) -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float64, nullable))
}
