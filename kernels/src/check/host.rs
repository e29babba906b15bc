//! Buffers of any type, in this process's memory and in that of a machine.

use crate::launch::{Buffer, BufferMut, DType, Element, ShapeError};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;

macro_rules! host_buffer {
    ($($(#[$doc:meta])* $variant:ident($type:ty), $as:ident, $as_mut:ident;)*) => {
        /// Values of one type in memory of this process.
        #[derive(Clone, Debug, PartialEq)]
        pub enum HostBuffer {
            $($(#[$doc])* $variant(Vec<$type>),)*
        }

        impl HostBuffer {
            /// The type.
            pub const fn dtype(&self) -> DType {
                match self { $(Self::$variant(_) => DType::$variant,)* }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(values) => values.len(),)* }
            }

            /// The values as bytes, in the order of this machine.
            #[allow(unsafe_code, reason = "numbers as bytes")]
            pub fn bytes(&self) -> &[u8] {
                match self {
                    // SAFETY: numbers have no padding, and any byte is a byte.
                    $(Self::$variant(values) => unsafe {
                        std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values.as_slice()))
                    },)*
                }
            }

            /// The values as bytes that can be written.
            #[allow(unsafe_code, reason = "numbers as bytes")]
            pub fn bytes_mut(&mut self) -> &mut [u8] {
                match self {
                    // SAFETY: numbers have no padding, and any bytes are numbers.
                    $(Self::$variant(values) => unsafe {
                        std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values.as_slice()))
                    },)*
                }
            }

            /// The elements of a range, within the length.
            #[must_use]
            pub fn slice(&self, range: Range<usize>) -> Self {
                match self { $(Self::$variant(values) => Self::$variant(values[range].to_vec()),)* }
            }

            $(
                /// The values, if they are of this type.
                pub fn $as(&self) -> Option<&[$type]> {
                    if let Self::$variant(values) = self { Some(values) } else { None }
                }

                /// The values to be written, if they are of this type.
                pub fn $as_mut(&mut self) -> Option<&mut [$type]> {
                    if let Self::$variant(values) = self { Some(values) } else { None }
                }
            )*
        }

        $(impl From<Vec<$type>> for HostBuffer {
            fn from(values: Vec<$type>) -> Self {
                Self::$variant(values)
            }
        })*
    };
}
host_buffer! {
    /// Single precision.
    F32(f32), f32, f32_mut;
    /// The upper half of single precision.
    Bf16(bf16), bf16, bf16_mut;
    /// Half precision.
    F16(f16), f16, f16_mut;
    /// Integers without sign.
    U32(u32), u32, u32_mut;
    /// Integers.
    I32(i32), i32, i32_mut;
    /// Wide integers.
    I64(i64), i64, i64_mut;
    /// Bytes.
    U8(u8), u8, u8_mut;
}

impl HostBuffer {
    /// Values rounded to the type.
    pub fn from_f64(dtype: DType, values: impl Iterator<Item = f64>) -> Self {
        match dtype {
            DType::F32 => Self::F32(values.map(|value| value as f32).collect()),
            DType::Bf16 => Self::Bf16(values.map(bf16::from_f64).collect()),
            DType::F16 => Self::F16(values.map(f16::from_f64).collect()),
            DType::U32 => Self::U32(values.map(|value| value as u32).collect()),
            DType::I32 => Self::I32(values.map(|value| value as i32).collect()),
            DType::I64 => Self::I64(values.map(|value| value as i64).collect()),
            DType::U8 => Self::U8(values.map(|value| value as u8).collect()),
        }
    }

    /// Values to be overwritten: not numbers where the type has such, so that one left out shows.
    pub fn unwritten(dtype: DType, len: usize) -> Self {
        Self::from_f64(dtype, std::iter::repeat_n(f64::NAN, len))
    }

    /// Zeros.
    pub fn zeros(dtype: DType, len: usize) -> Self {
        Self::from_f64(dtype, std::iter::repeat_n(0.0, len))
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in double precision.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(values) => values.iter().map(|&value| f64::from(value)).collect(),
            Self::Bf16(values) => values.iter().map(|value| value.to_f64()).collect(),
            Self::F16(values) => values.iter().map(|value| value.to_f64()).collect(),
            Self::U32(values) => values.iter().map(|&value| f64::from(value)).collect(),
            Self::I32(values) => values.iter().map(|&value| f64::from(value)).collect(),
            Self::I64(values) => values.iter().map(|&value| value as f64).collect(),
            Self::U8(values) => values.iter().map(|&value| f64::from(value)).collect(),
        }
    }

    /// The first element whose bits differ, where values that are not numbers count as one; or the shorter length.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        if self.dtype() != other.dtype() {
            return Some(0);
        }
        let size = self.dtype().bytes();
        let (own, others) = (self.bytes().chunks_exact(size), other.bytes().chunks_exact(size));
        let (own_values, other_values) = (self.to_f64(), other.to_f64());
        let differs = own
            .zip(others)
            .enumerate()
            .position(|(i, (a, b))| a != b && !(own_values[i].is_nan() && other_values[i].is_nan()));
        differs.or_else(|| (self.len() != other.len()).then(|| self.len().min(other.len())))
    }
}

/// A buffer of any type in the memory of a machine.
#[derive(Clone, Copy, Debug)]
pub struct AnyBuffer<'a> {
    address: u64,
    len: usize,
    dtype: DType,
    life: PhantomData<&'a ()>,
}

impl<'a> AnyBuffer<'a> {
    /// A buffer of `len` elements at `address`.
    ///
    /// # Safety
    /// As of [`Buffer::new`] for inputs and [`BufferMut::new`] for outputs.
    #[allow(unsafe_code, reason = "the promise that the caller makes is what launches stand on")]
    pub const unsafe fn new(address: u64, len: usize, dtype: DType) -> Self {
        Self { address, len, dtype, life: PhantomData }
    }

    /// To be read as elements of type T.
    ///
    /// # Errors
    /// It is of another type.
    #[allow(unsafe_code, reason = "hands on the promise")]
    pub fn read<T: Element>(&self) -> Result<Buffer<'a, T>, ShapeError> {
        self.expect::<T>()?;
        // SAFETY: whoever made this promised it, and the type is the same.
        Ok(unsafe { Buffer::new(self.address, self.len) })
    }

    /// To be written as elements of type T.
    ///
    /// # Errors
    /// It is of another type.
    #[allow(unsafe_code, reason = "hands on the promise")]
    pub fn write<T: Element>(&self) -> Result<BufferMut<'a, T>, ShapeError> {
        self.expect::<T>()?;
        // SAFETY: whoever made this promised it, and the type is the same.
        Ok(unsafe { BufferMut::new(self.address, self.len) })
    }

    /// The first `len` elements to be written as elements of type T, or as many as there are: a workspace that is larger than one
    /// launch needs.
    ///
    /// # Errors
    /// It is of another type.
    #[allow(unsafe_code, reason = "hands on the promise")]
    pub fn write_part<T: Element>(&self, len: usize) -> Result<BufferMut<'a, T>, ShapeError> {
        self.expect::<T>()?;
        // SAFETY: whoever made this promised it for more elements, and the type is the same.
        Ok(unsafe { BufferMut::new(self.address, len.min(self.len)) })
    }

    fn expect<T: Element>(&self) -> Result<(), ShapeError> {
        if self.dtype == T::DTYPE {
            return Ok(());
        }
        Err(ShapeError::Dimension { name: "element type", allowed: "another one", actual: self.dtype.bytes() })
    }
}
