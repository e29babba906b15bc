//! Scores of any type as integers whose order is that of the ranking.
//!
//! A key is 64 bits, and the smaller key is the better score. Whole numbers and floating-point numbers have their own mapping, so that neither loses a
//! bit: two scores that differ have different keys, and a key gives back its score. The zeros of both signs are one score.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{ArrayRef, Float32Array, Float64Array, Int64Array, UInt64Array};
use arrow_schema::DataType;

use super::RankOrder;
use crate::Result;

/// The type in which scores are compared and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScoreType {
    Float32,
    Float64,
    Int64,
    UInt64,
}

impl ScoreType {
    /// The type for a column of numbers: wide enough for each of its values, except that decimals are rounded to double precision.
    pub(super) fn of(column: &DataType) -> Option<Self> {
        match column {
            DataType::Float16 | DataType::Float32 => Some(Self::Float32),
            signed if signed.is_signed_integer() => Some(Self::Int64),
            unsigned if unsigned.is_unsigned_integer() => Some(Self::UInt64),
            other if other.is_numeric() => Some(Self::Float64),
            _ => None,
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Int64 => DataType::Int64,
            Self::UInt64 => DataType::UInt64,
        }
    }
}

/// How scores become keys and keys become scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) scores: ScoreType,
    pub(crate) order: RankOrder,
}

impl Keys {
    /// The key of a score in single precision; `None` where it is not a number.
    #[inline]
    pub(crate) fn of_f32(self, score: f32) -> Option<u64> {
        (!score.is_nan()).then(|| self.ordered(u64::from(ascending_f32(score))))
    }

    /// The keys of an array of numbers; `None` where there is no number.
    pub(super) fn of_array(self, scores: &ArrayRef) -> Result<Vec<Option<u64>>> {
        let scores = arrow_cast::cast(scores, &self.scores.data_type())?;
        Ok(match self.scores {
            ScoreType::Float32 => {
                scores.as_primitive::<Float32Type>().iter().map(|score| self.of_f32(score?)).collect()
            }
            ScoreType::Float64 => {
                let key = |score: f64| (!score.is_nan()).then(|| self.ordered(ascending_f64(score)));
                scores.as_primitive::<Float64Type>().iter().map(|score| key(score?)).collect()
            }
            ScoreType::Int64 => {
                let key = |score: i64| self.ordered(score.cast_unsigned() ^ SIGN);
                scores.as_primitive::<Int64Type>().iter().map(|score| score.map(key)).collect()
            }
            ScoreType::UInt64 => {
                scores.as_primitive::<UInt64Type>().iter().map(|score| score.map(|score| self.ordered(score))).collect()
            }
        })
    }

    /// The scores of keys.
    pub(super) fn scores(self, keys: impl Iterator<Item = u64>) -> ArrayRef {
        match self.scores {
            ScoreType::Float32 => Arc::new(keys.map(|key| Some(self.score_f32(key))).collect::<Float32Array>()),
            ScoreType::Float64 => {
                Arc::new(keys.map(|key| Some(score_f64(self.ordered(key)))).collect::<Float64Array>())
            }
            ScoreType::Int64 => {
                Arc::new(keys.map(|key| Some((self.ordered(key) ^ SIGN).cast_signed())).collect::<Int64Array>())
            }
            ScoreType::UInt64 => Arc::new(keys.map(|key| Some(self.ordered(key))).collect::<UInt64Array>()),
        }
    }

    /// The score in single precision of a key that was made of one.
    #[inline]
    pub(crate) fn score_f32(self, key: u64) -> f32 {
        // Such keys have 32 bits, or their complement has.
        let bits = self.ordered(key) as u32;
        f32::from_bits(if bits >> 31 == 1 { bits ^ (1 << 31) } else { !bits })
    }

    /// Turns the order around where the highest score is the best; twice is nothing.
    #[inline]
    fn ordered(self, ascending: u64) -> u64 {
        match self.order {
            RankOrder::Ascending => ascending,
            RankOrder::Descending => !ascending,
        }
    }
}

const SIGN: u64 = 1 << 63;

/// Of positive numbers the bits are ordered like the numbers, of negative ones the other way around.
#[inline]
fn ascending_f32(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | (1 << 31) }
}

fn ascending_f64(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | SIGN }
}

fn score_f64(ascending: u64) -> f64 {
    f64::from_bits(if ascending >> 63 == 1 { ascending ^ SIGN } else { !ascending })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow_array::Array;

    use super::*;

    #[test]
    fn keys_are_in_the_order_of_scores_and_give_them_back() {
        let floats = [f64::NEG_INFINITY, -1e300, -1.5, -1e-310, 0.0, 1e-310, 1.5, 16_777_217.0, 1e300, f64::INFINITY];
        let singles = [f32::NEG_INFINITY, -1.5, -1e-40, 0.0, 1e-40, 1.5, f32::INFINITY];
        let columns: [ArrayRef; 4] = [
            Arc::new(Float64Array::from(floats.to_vec())),
            Arc::new(Float32Array::from(singles.to_vec())),
            Arc::new(Int64Array::from(vec![i64::MIN, -7, 0, (1 << 53) + 1, (1 << 53) + 2, i64::MAX])),
            Arc::new(UInt64Array::from(vec![0, 1, 1 << 60, u64::MAX])),
        ];
        for column in columns {
            for order in [RankOrder::Ascending, RankOrder::Descending] {
                let keys = Keys { scores: ScoreType::of(column.data_type()).unwrap(), order };
                let found: Vec<u64> = keys.of_array(&column).unwrap().into_iter().map(Option::unwrap).collect();
                let rises = order == RankOrder::Ascending;
                assert!(found.windows(2).all(|pair| (pair[0] < pair[1]) == rises && pair[0] != pair[1]), "{column:?}");
                assert_eq!(&keys.scores(found.into_iter()), &column);
            }
        }
        let keys = Keys { scores: ScoreType::Float32, order: RankOrder::Descending };
        assert_eq!(keys.of_f32(-0.0), keys.of_f32(0.0));
        assert_eq!(keys.of_f32(f32::NAN), None);
        assert_eq!(keys.score_f32(keys.of_f32(-2.5).unwrap()), -2.5);
    }
}
