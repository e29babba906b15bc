//! Rows of numbers from how they are stored.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Int8Type, UInt16Type};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBuffer;
use half::bf16;

use super::encode::Encoding;
use super::{METADATA_KEY, SketchDescription};
use crate::{OperatorError, Result};

/// Rows of a column of projected gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct SketchRows {
    /// `[rows, width]`; zeros, or anything else, where the row is null.
    pub values: Vec<f32>,
    /// Of a column with rows for tokens, where the rows of each text begin and end, `[texts + 1]`; nothing where a text has one row.
    pub offsets: Option<Vec<usize>>,
    /// Which texts have rows; all where absent.
    pub valid: Option<NullBuffer>,
}

impl SketchDescription {
    /// The numbers of a column, in single precision.
    ///
    /// # Errors
    /// A column of another type than the description says.
    pub fn decode(&self, column: &ArrayRef) -> Result<SketchRows> {
        let expected = self.data_type()?;
        if column.data_type() != &expected {
            return Err(OperatorError::ColumnType {
                kind: METADATA_KEY.to_owned(),
                column: METADATA_KEY.to_owned(),
                found: column.data_type().to_string(),
                expected: expected.to_string(),
            });
        }
        let valid = column.nulls().cloned();
        if !self.per_token {
            return Ok(SketchRows { values: self.numbers(column), offsets: None, valid });
        }
        let lists = column.as_list::<i32>();
        let first = lists.value_offsets().first().map_or(0, |&offset| offset as usize);
        let offsets: Vec<usize> = lists.value_offsets().iter().map(|&offset| offset as usize - first).collect();
        let rows = lists.values().slice(first, offsets.last().copied().unwrap_or(0));
        Ok(SketchRows { values: self.numbers(&rows), offsets: Some(offsets), valid })
    }

    /// The numbers of rows whose type was checked.
    fn numbers(&self, rows: &ArrayRef) -> Vec<f32> {
        let width = self.width();
        // A fixed-size list that is a slice of another has a slice of its values.
        match self.encoding {
            Encoding::F32 => rows.as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec(),
            Encoding::F16 => {
                let values = rows.as_fixed_size_list().values();
                values.as_primitive::<Float16Type>().values().iter().map(|value| value.to_f32()).collect()
            }
            Encoding::Bf16 => {
                let values = rows.as_fixed_size_list().values();
                values
                    .as_primitive::<UInt16Type>()
                    .values()
                    .iter()
                    .map(|&bits| bf16::from_bits(bits).to_f32())
                    .collect()
            }
            Encoding::Int8 => {
                let [values, scales] = [0, 1].map(|column| rows.as_struct().column(column));
                let values = values.as_fixed_size_list().values().as_primitive::<Int8Type>().values();
                self.scaled_numbers(rows.len(), scales, |row, k| f32::from(values[row * width + k]))
            }
            Encoding::Signs => {
                let [values, scales] = [0, 1].map(|column| rows.as_struct().column(column));
                let bits = values.as_fixed_size_binary();
                let sign = |row, k: usize| if bits.value(row)[k / 8] >> (k % 8) & 1 == 1 { 1.0 } else { -1.0 };
                self.scaled_numbers(rows.len(), scales, sign)
            }
        }
    }

    fn scaled_numbers(&self, rows: usize, scales: &ArrayRef, number: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let scales = scales.as_fixed_size_list().values().as_primitive::<Float32Type>().values();
        let modules = &self.projection.modules;
        let mut values = Vec::with_capacity(rows * self.width());
        for row in 0..rows {
            for (module, scale) in modules.iter().zip(&scales[row * modules.len()..]) {
                let places = module.offset..module.offset + module.p * module.q;
                values.extend(places.map(|k| number(row, k) * scale));
            }
        }
        values
    }
}
