//! Reads the columns that `gradient_pairs` writes.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, GenericStringArray, Int64Array, OffsetSizeTrait, RecordBatch,
    StringViewArray, StructArray,
};
use arrow_schema::{DataType, Schema};
use serde::de::DeserializeOwned;

use super::{Candidate, KIND, PROJECTIONS, PairRow, PairTable, TENSORS, column_type};
use crate::{OperatorError, Result, require_column};

impl PairTable {
    /// Reads batches with the columns `<name>` and `<name>_metadata` that a step of this name has added, and a column of the samples' ids. Rows without a sample are
    /// left out.
    ///
    /// # Errors
    /// No batch, a column that is missing or of another type, an id that is null or there twice, and batches of different tensors.
    pub fn read(batches: &[RecordBatch], name: &str, id: &str) -> Result<Self> {
        let Some(first) = batches.first() else {
            return Err(crate::config::invalid(KIND, "", "there are no rows to read"));
        };
        let (tensors, projections) = notes(first.schema_ref(), name)?;
        let mut rows = Vec::new();
        for batch in batches {
            if notes(batch.schema_ref(), name)? != (tensors.clone(), projections.clone()) {
                let message = format!("column '{name}' has other tensors in some of the batches");
                return Err(crate::config::invalid(KIND, "", message));
            }
            read(batch, name, id, &mut rows)?;
        }
        Self::new(tensors, projections, rows)
    }
}

/// The names of tensors, and numbers of dimensions, of a field.
fn notes(schema: &Schema, name: &str) -> Result<(Vec<String>, Vec<u64>)> {
    let field = schema.field(require_column(KIND, schema, name)?.0);
    fn list<T: DeserializeOwned>(text: &str) -> Option<Vec<T>> {
        serde_json::from_str(text).ok()
    }
    let tensors = field.metadata().get(TENSORS).and_then(|text| list(text));
    let tensors = tensors.ok_or_else(|| {
        let found = format!("{} without the names of tensors in its metadata", field.data_type());
        column_type(name, &found, "what 'gradient_pairs' writes")
    })?;
    let projections = field.metadata().get(PROJECTIONS).and_then(|text| list(text)).unwrap_or_default();
    Ok((tensors, projections))
}

fn read(batch: &RecordBatch, name: &str, id: &str, rows: &mut Vec<PairRow>) -> Result<()> {
    let column = |name: &str| Ok::<_, OperatorError>(batch.column(require_column(KIND, batch.schema_ref(), name)?.0));
    let (pairs, ids, sample) = (column(name)?, column(id)?, column(&format!("{name}_metadata"))?);
    let unlike = |found: &DataType| column_type(name, found, "what 'gradient_pairs' writes");
    let pairs = pairs.as_list_opt::<i32>().ok_or_else(|| unlike(pairs.data_type()))?;
    let sample = sample.as_struct_opt().ok_or_else(|| unlike(sample.data_type()))?;
    let own = numbers(sample, "self_products").ok_or_else(|| unlike(sample.data_type()))?;
    let fields = Fields::of(pairs.values()).ok_or_else(|| unlike(pairs.data_type()))?;
    for row in (0..batch.num_rows()).filter(|&row| pairs.is_valid(row)) {
        let text = text(ids, row).ok_or_else(|| {
            let message = format!("row {row}: its {id} is null, or neither a text nor a whole number");
            crate::config::invalid(KIND, "", message)
        })?;
        let places = pairs.value_offsets()[row] as usize..pairs.value_offsets()[row + 1] as usize;
        let known = !places.is_empty() && fields.truth.is_valid(places.start);
        let truth = places.clone().position(|place| fields.truth.is_valid(place) && fields.truth.value(place));
        rows.push(PairRow {
            id: text,
            self_products: own.of(row),
            truth: known.then_some(truth),
            candidates: places.map(|place| fields.candidate(place)).collect(),
        });
    }
    Ok(())
}

/// The fields of the structs of the list.
struct Fields<'a> {
    originals: &'a ArrayRef,
    truth: &'a BooleanArray,
    bm25: &'a Float64Array,
    cosine: &'a Float64Array,
    products: Numbers<'a>,
    self_products: Numbers<'a>,
    projected: Option<Numbers<'a>>,
}

impl<'a> Fields<'a> {
    fn of(values: &'a ArrayRef) -> Option<Self> {
        let structs = values.as_struct_opt()?;
        let floats = |name| structs.column_by_name(name)?.as_primitive_opt::<Float64Type>();
        Some(Self {
            originals: structs.column_by_name("original").filter(|ids| text_type(ids.data_type()))?,
            truth: structs.column_by_name("is_truth")?.as_boolean_opt()?,
            bm25: floats("bm25")?,
            cosine: floats("cosine")?,
            products: numbers(structs, "products")?,
            self_products: numbers(structs, "self_products")?,
            projected: numbers(structs, "projected"),
        })
    }

    fn candidate(&self, place: usize) -> Candidate {
        let number = |numbers: &Float64Array| numbers.is_valid(place).then(|| numbers.value(place));
        let projected = self.projected.as_ref().map(|projected| projected.each(place)).unwrap_or_default();
        Candidate {
            id: text(self.originals, place).unwrap_or_default(),
            bm25: number(self.bm25),
            cosine: number(self.cosine),
            products: self.products.of(place),
            self_products: self.self_products.of(place),
            projected,
        }
    }
}

/// A column of lists of one size.
struct Numbers<'a> {
    values: &'a Float64Array,
    size: usize,
}

impl Numbers<'_> {
    fn of(&self, row: usize) -> Vec<f64> {
        self.values.values()[row * self.size..(row + 1) * self.size].to_vec()
    }

    fn each(&self, row: usize) -> Vec<Option<f64>> {
        let place = |place: usize| self.values.is_valid(place).then(|| self.values.value(place));
        (row * self.size..(row + 1) * self.size).map(place).collect()
    }
}

fn numbers<'a>(structs: &'a StructArray, name: &str) -> Option<Numbers<'a>> {
    let list = structs.column_by_name(name)?.as_fixed_size_list_opt()?;
    let size = usize::try_from(list.value_length()).ok()?;
    Some(Numbers { values: list.values().as_primitive_opt::<Float64Type>()?, size })
}

fn text_type(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// An id: a text or a whole number.
fn text(array: &ArrayRef, row: usize) -> Option<String> {
    fn of<O: OffsetSizeTrait>(array: &ArrayRef, row: usize) -> Option<String> {
        array.as_any().downcast_ref::<GenericStringArray<O>>().map(|texts| texts.value(row).to_owned())
    }
    if array.is_null(row) {
        return None;
    }
    let view = || array.as_any().downcast_ref::<StringViewArray>().map(|texts| texts.value(row).to_owned());
    let signed = || array.as_any().downcast_ref::<Int64Array>().map(|numbers| numbers.value(row).to_string());
    let unsigned = || array.as_primitive_opt::<UInt64Type>().map(|numbers| numbers.value(row).to_string());
    of::<i32>(array, row).or_else(|| of::<i64>(array, row)).or_else(view).or_else(signed).or_else(unsigned)
}
