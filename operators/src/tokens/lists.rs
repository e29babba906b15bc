//! Lists of token ids as Arrow arrays of the smallest type that holds every id.

use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::{ArrayRef, ListArray, UInt8Array, UInt16Array, UInt32Array};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, FieldRef};

use crate::Result;

/// The smallest unsigned integer type that holds ids below `vocab_size`.
pub(super) fn id_type(vocab_size: usize) -> DataType {
    match vocab_size {
        0..=0x100 => DataType::UInt8,
        0x101..=0x1_0000 => DataType::UInt16,
        _ => DataType::UInt32,
    }
}

/// The type of a column of id lists.
pub(super) fn list_type(ids: DataType) -> DataType {
    DataType::List(item_field(ids))
}

fn item_field(ids: DataType) -> FieldRef {
    Arc::new(Field::new_list_field(ids, false))
}

/// Builds a column of id lists.
#[derive(Debug)]
pub(super) struct IdLists {
    values: Values,
    offsets: Vec<i32>,
    valid: BooleanBufferBuilder,
}

#[derive(Debug)]
enum Values {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl IdLists {
    /// An empty column for ids below `vocab_size`.
    pub(super) fn new(vocab_size: usize) -> Self {
        let values = match id_type(vocab_size) {
            DataType::UInt8 => Values::U8(Vec::new()),
            DataType::UInt16 => Values::U16(Vec::new()),
            _ => Values::U32(Vec::new()),
        };
        Self { values, offsets: vec![0], valid: BooleanBufferBuilder::new(0) }
    }

    /// Lists so far.
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether a list of `length` more ids still fits under Arrow's 32-bit offsets.
    pub(super) fn fits(&self, length: usize) -> bool {
        self.ids() + length <= i32::MAX as usize
    }

    /// Adds ids to the list that [`end`](Self::end) will end. They must fit.
    pub(super) fn extend(&mut self, ids: &[u32]) {
        // No id is cut: the type was chosen for the tokenizer's largest.
        match &mut self.values {
            Values::U8(values) => values.extend(ids.iter().map(|&id| id as u8)),
            Values::U16(values) => values.extend(ids.iter().map(|&id| id as u16)),
            Values::U32(values) => values.extend_from_slice(ids),
        }
    }

    /// Ends the current list.
    pub(super) fn end(&mut self) {
        self.offsets.push(i32::try_from(self.ids()).unwrap_or(i32::MAX));
        self.valid.append(true);
    }

    /// Adds a null.
    pub(super) fn null(&mut self) {
        self.offsets.push(i32::try_from(self.ids()).unwrap_or(i32::MAX));
        self.valid.append(false);
    }

    /// The column; this is empty again afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let (values, ids): (ArrayRef, DataType) = match &mut self.values {
            Values::U8(values) => (Arc::new(UInt8Array::from(std::mem::take(values))), DataType::UInt8),
            Values::U16(values) => (Arc::new(UInt16Array::from(std::mem::take(values))), DataType::UInt16),
            Values::U32(values) => (Arc::new(UInt32Array::from(std::mem::take(values))), DataType::UInt32),
        };
        let nulls = NullBuffer::new(self.valid.finish());
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(ListArray::try_new(item_field(ids), offsets, values, nulls)?))
    }

    fn ids(&self) -> usize {
        match &self.values {
            Values::U8(values) => values.len(),
            Values::U16(values) => values.len(),
            Values::U32(values) => values.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{UInt8Type, UInt16Type, UInt32Type};

    use super::*;

    #[test]
    fn ids_get_the_smallest_type_that_holds_them() {
        let cases = [
            (0, DataType::UInt8),
            (256, DataType::UInt8),
            (257, DataType::UInt16),
            (65_536, DataType::UInt16),
            (65_537, DataType::UInt32),
        ];
        for (vocab_size, expected) in cases {
            assert_eq!(id_type(vocab_size), expected, "{vocab_size}");
            let largest = u32::try_from(vocab_size.max(1) - 1).unwrap_or(u32::MAX);
            let mut lists = IdLists::new(vocab_size);
            lists.extend(&[0]);
            lists.extend(&[largest]);
            lists.end();
            lists.null();
            lists.end();
            let column = lists.finish().expect("builds");
            assert_eq!(*column.data_type(), list_type(expected.clone()));
            assert_eq!((column.len(), column.null_count(), column.is_null(1)), (3, 1, true));
            let first = column.as_list::<i32>().value(0);
            let last = match expected {
                DataType::UInt8 => u32::from(first.as_primitive::<UInt8Type>().value(1)),
                DataType::UInt16 => u32::from(first.as_primitive::<UInt16Type>().value(1)),
                _ => first.as_primitive::<UInt32Type>().value(1),
            };
            assert_eq!(last, largest);
            assert_eq!(lists.len(), 0, "a finished builder is empty");
        }
    }
}
