//! How rows of numbers are stored.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, Int8Array, ListArray, StructArray,
    UInt16Array,
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields};
use half::{bf16, f16};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SketchDescription;
use crate::Result;
use crate::config::invalid;

/// What numbers are stored as. See the [module](super).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Single precision.
    #[default]
    F32,
    /// Half precision.
    F16,
    /// bfloat16, as UInt16.
    Bf16,
    /// A byte, and a scale for each module.
    Int8,
    /// One bit, and a scale for each module.
    Signs,
}

impl Encoding {
    /// Numbers of this size or more cannot be stored.
    pub(super) const fn limit(self) -> f32 {
        match self {
            // What is halfway to the number after the largest is rounded to infinity.
            Self::F16 => 65_520.0,
            Self::Bf16 => f32::from_bits(0x7f7f_8000),
            Self::F32 | Self::Int8 | Self::Signs => f32::INFINITY,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Signs => "signs",
        }
    }
}

impl SketchDescription {
    /// The type of the column.
    pub(super) fn data_type(&self) -> Result<DataType> {
        let values = list(self.element_type(), self.width())?;
        let row = match self.encoding {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => values,
            Encoding::Int8 => DataType::Struct(self.with_scales(values)?),
            Encoding::Signs => {
                DataType::Struct(self.with_scales(DataType::FixedSizeBinary(size(self.width().div_ceil(8))?))?)
            }
        };
        Ok(if self.per_token { DataType::List(item(row)) } else { row })
    }

    fn element_type(&self) -> DataType {
        match self.encoding {
            Encoding::F32 | Encoding::Signs => DataType::Float32,
            Encoding::F16 => DataType::Float16,
            Encoding::Bf16 => DataType::UInt16,
            Encoding::Int8 => DataType::Int8,
        }
    }

    fn with_scales(&self, values: DataType) -> Result<Fields> {
        let scales = list(DataType::Float32, self.projection.modules.len())?;
        Ok(vec![Field::new("values", values, false), Field::new("scales", scales, false)].into())
    }

    /// The first module and number of a row, `[width]`, that cannot be stored.
    pub(super) fn unstorable(&self, row: &[f32]) -> Option<String> {
        let limit = self.encoding.limit();
        let (place, value) = row.iter().enumerate().find(|(_, value)| !value.is_finite() || value.abs() >= limit)?;
        let module = self.projection.modules.iter().rev().find(|module| module.offset <= place)?;
        let why = if value.is_finite() {
            format!("is {value:e}, and {} has no numbers of {limit:e} and more", self.encoding.name())
        } else {
            format!("is {value}")
        };
        Some(format!("number {} of the gradient of {} {why}", place - module.offset, module.name))
    }

    /// The column of rows, `[rows, width]`, of which those of texts that are null are zeros. With `per_token` `lengths` says how many rows each text has.
    pub(super) fn encode(&self, rows: Vec<f32>, lengths: &[usize], valid: Option<NullBuffer>) -> Result<ArrayRef> {
        let per_token = self.per_token;
        let inner = if per_token { None } else { valid.clone() };
        let count = rows.len() / self.width().max(1);
        let array: ArrayRef = match self.encoding {
            Encoding::F32 => self.fixed(Arc::new(Float32Array::from(rows)), inner)?,
            Encoding::F16 => {
                let values = rows.iter().map(|&value| f16::from_f32(value));
                self.fixed(Arc::new(Float16Array::from_iter_values(values)), inner)?
            }
            Encoding::Bf16 => {
                let values = rows.iter().map(|&value| bf16::from_f32(value).to_bits());
                self.fixed(Arc::new(UInt16Array::from_iter_values(values)), inner)?
            }
            Encoding::Int8 => {
                let (mut values, mut scales) = (Vec::with_capacity(rows.len()), Vec::new());
                for part in self.parts(&rows) {
                    let scale = part.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
                    // A scale that is not a normal number has no reciprocal; such numbers are 0.
                    let scale = if scale.is_normal() { scale } else { 0.0 };
                    scales.push(scale);
                    let quantised = |&value: &f32| if scale > 0.0 { (value / scale).round() as i8 } else { 0 };
                    values.extend(part.iter().map(quantised));
                }
                let values = self.fixed(Arc::new(Int8Array::from(values)), None)?;
                self.scaled(values, scales, inner)?
            }
            Encoding::Signs => {
                let (bytes, mut scales) = (self.width().div_ceil(8), Vec::new());
                for part in self.parts(&rows) {
                    let sum: f64 = part.iter().map(|&value| f64::from(value.abs())).sum();
                    scales.push((sum / part.len().max(1) as f64) as f32);
                }
                let mut bits = vec![0_u8; count * bytes];
                for (bits, row) in bits.chunks_exact_mut(bytes.max(1)).zip(rows.chunks_exact(self.width().max(1))) {
                    row.iter().enumerate().for_each(|(k, &value)| bits[k / 8] |= u8::from(value >= 0.0) << (k % 8));
                }
                let values = FixedSizeBinaryArray::try_new(size(bytes)?, Buffer::from_vec(bits), None)?;
                self.scaled(Arc::new(values), scales, inner)?
            }
        };
        if !per_token {
            return Ok(array);
        }
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        Ok(Arc::new(ListArray::try_new(item(array.data_type().clone()), offsets, array, valid)?))
    }

    /// The part of each module of each row.
    fn parts<'a>(&'a self, rows: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        let modules = &self.projection.modules;
        rows.chunks_exact(self.width().max(1)).flat_map(move |row| {
            modules.iter().map(move |module| &row[module.offset..module.offset + module.p * module.q])
        })
    }

    fn fixed(&self, values: ArrayRef, valid: Option<NullBuffer>) -> Result<ArrayRef> {
        let field = item(values.data_type().clone());
        Ok(Arc::new(FixedSizeListArray::try_new(field, size(self.width())?, values, valid)?))
    }

    fn scaled(&self, values: ArrayRef, scales: Vec<f32>, valid: Option<NullBuffer>) -> Result<ArrayRef> {
        let size = size(self.projection.modules.len())?;
        let scales =
            FixedSizeListArray::try_new(item(DataType::Float32), size, Arc::new(Float32Array::from(scales)), None)?;
        let fields = self.with_scales(values.data_type().clone())?;
        Ok(Arc::new(StructArray::try_new(fields, vec![values, Arc::new(scales)], valid)?))
    }
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, false))
}

fn list(data_type: DataType, width: usize) -> Result<DataType> {
    Ok(DataType::FixedSizeList(item(data_type), size(width)?))
}

fn size(width: usize) -> Result<i32> {
    let most = i32::MAX;
    i32::try_from(width).map_err(|_| {
        invalid("gradient", "dimension", format!("{width} numbers for each text; at most {most} are allowed"))
    })
}
