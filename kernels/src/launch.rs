//! What a kernel is launched with, whatever runs it.
//!
//! A launcher of a family checks shapes, and returns the [`Launch`]es that do the work, in order. It does not run them: a GPU
//! does, on a stream, or a test runs them on the CPU. Buffers are addresses with a length and an element type, so that
//! memory of any owner can be used: a tensor library's, this crate's, or that of a test.

use std::fmt;
use std::marker::PhantomData;

/// Element types of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// The upper half of a single-precision number.
    Bf16,
    /// IEEE half precision.
    F16,
    /// 32-bit integer without sign.
    U32,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// A byte.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::I64 => 8,
            Self::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
        })
    }
}

/// Types that buffers can hold.
pub trait Element: Copy + Default + Send + Sync + 'static + sealed::Sealed {
    /// The type as a value.
    const DTYPE: DType;
}

/// Element types that kernels compute on; each kernel exists once for each.
pub trait Float: Element {
    /// The nearest value, ties to even.
    fn from_single(value: f32) -> Self;
    /// The value.
    fn to_single(self) -> f32;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),*) => {
        $(impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}
elements!(f32 => F32, half::bf16 => Bf16, half::f16 => F16, u32 => U32, i32 => I32, i64 => I64, u8 => U8);
macro_rules! floats {
    ($($type:ty, $from:expr, $to:expr;)*) => {
        $(impl Float for $type {
            fn from_single(value: f32) -> Self {
                $from(value)
            }
            fn to_single(self) -> f32 {
                $to(self)
            }
        })*
    };
}
floats! {
    f32, std::convert::identity, std::convert::identity;
    half::bf16, half::bf16::from_f32, half::bf16::to_f32;
    half::f16, half::f16::from_f32, half::f16::to_f32;
}

/// Memory that a launch reads, on the machine that will run it.
#[derive(Debug)]
pub struct Buffer<'a, T> {
    address: u64,
    len: usize,
    life: PhantomData<&'a [T]>,
}

impl<T> Clone for Buffer<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Buffer<'_, T> {}

impl<'a, T: Element> Buffer<'a, T> {
    /// A buffer of `len` elements at `address`.
    ///
    /// # Safety
    /// The memory must be valid on the machine that runs the launch, hold initialised elements when the launch is run, and stay
    /// so until the launch has ended, which may be after `'a` where the machine works asynchronously. It must not be written
    /// meanwhile. The address must be a multiple of the element's size.
    #[allow(unsafe_code, reason = "the promise that the caller makes is what launches stand on")]
    pub const unsafe fn new(address: u64, len: usize) -> Self {
        Self { address, len, life: PhantomData }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is behind the first `count` elements; nothing where there are no more.
    #[must_use]
    pub fn skip(self, count: usize) -> Self {
        let count = count.min(self.len);
        Self { address: self.address + (count * size_of::<T>()) as u64, len: self.len - count, ..self }
    }

    pub(crate) const fn argument(&self) -> Argument {
        Argument::Address(self.address)
    }

    /// The address of the element `offset`, at most the length.
    pub(crate) const fn argument_at(&self, offset: usize) -> Argument {
        Argument::Address(self.address + (offset * size_of::<T>()) as u64)
    }

    /// `len` elements from `offset` on, or as many as there are.
    #[must_use]
    pub const fn part(&self, offset: usize, len: usize) -> Self {
        let offset = if offset < self.len { offset } else { self.len };
        let rest = self.len - offset;
        let address = self.address + (offset * size_of::<T>()) as u64;
        Self { address, len: if len < rest { len } else { rest }, life: PhantomData }
    }
}

/// Memory that a launch writes, and may read, on the machine that will run it.
#[derive(Debug)]
pub struct BufferMut<'a, T> {
    address: u64,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<'a, T: Element> BufferMut<'a, T> {
    /// A buffer of `len` elements at `address`.
    ///
    /// # Safety
    /// As of [`Buffer::new`], and nothing else may use the memory until the launch has ended.
    #[allow(unsafe_code, reason = "the promise that the caller makes is what launches stand on")]
    pub const unsafe fn new(address: u64, len: usize) -> Self {
        Self { address, len, life: PhantomData }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is behind the first `count` elements; nothing where there are no more.
    #[must_use]
    pub fn skip(self, count: usize) -> Self {
        let count = count.min(self.len);
        Self { address: self.address + (count * size_of::<T>()) as u64, len: self.len - count, ..self }
    }

    /// Several launches may use one buffer, one after another.
    pub(crate) const fn argument(&self) -> Argument {
        Argument::Address(self.address)
    }

    /// The address of the element `offset`, at most the length.
    pub(crate) const fn argument_at(&self, offset: usize) -> Argument {
        Argument::Address(self.address + (offset * size_of::<T>()) as u64)
    }
}

/// The argument of a buffer that may be left out: address 0 where it is.
pub(crate) fn optional<T: Element>(buffer: Option<&Buffer<'_, T>>) -> Argument {
    buffer.map_or(Argument::Address(0), Buffer::argument)
}

/// The argument of a buffer to be written that may be left out: address 0 where it is.
pub(crate) fn optional_mut<T: Element>(buffer: Option<&BufferMut<'_, T>>) -> Argument {
    buffer.map_or(Argument::Address(0), BufferMut::argument)
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer on the machine that runs the launch.
    Address(u64),
    /// `int`.
    I32(i32),
    /// `unsigned int`.
    U32(u32),
    /// `long long`.
    I64(i64),
    /// `unsigned long long`.
    U64(u64),
    /// `float`.
    F32(f32),
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    family: &'static str,
    kernel: &'static str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    arguments: Vec<Argument>,
    life: PhantomData<&'a ()>,
}

impl<'a> Launch<'a> {
    /// The caller answers for the arguments being those of the kernel, and for its accesses staying within the buffers.
    pub(crate) fn new(
        family: &'static str,
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: Vec<Argument>,
    ) -> Self {
        Self { family, kernel, grid, block, shared_bytes: 0, arguments, life: PhantomData }
    }

    pub(crate) const fn with_shared_bytes(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// The family, which is the module that holds the kernel.
    pub const fn family(&self) -> &'static str {
        self.family
    }

    /// Name of the kernel.
    pub const fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// Blocks in x, y, z.
    pub const fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Threads of a block in x, y, z.
    pub const fn block(&self) -> [u32; 3] {
        self.block
    }

    /// Bytes of dynamic shared memory of a block.
    pub const fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// The arguments in order.
    pub fn arguments(&self) -> &[Argument] {
        &self.arguments
    }
}

/// Buffers and shapes that do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// A buffer is not as long as the others say.
    #[error("`{name}` has {actual} elements, and {expected} are needed")]
    Length {
        /// What the buffer is to the operation.
        name: &'static str,
        /// Elements needed.
        expected: usize,
        /// Elements there are.
        actual: usize,
    },
    /// A buffer does not divide into rows.
    #[error("`{name}` has {actual} elements, not a multiple of {width}")]
    Rows {
        /// What the buffer is to the operation.
        name: &'static str,
        /// Elements of a row.
        width: usize,
        /// Elements there are.
        actual: usize,
    },
    /// A dimension is too large for the kernel, or of a kind that it cannot work with.
    #[error("`{name}` is {actual}, and {allowed} is allowed")]
    Dimension {
        /// The dimension.
        name: &'static str,
        /// What may be given.
        allowed: &'static str,
        /// What was given.
        actual: usize,
    },
    /// A position, an offset or an index that points outside of what it points into.
    #[error("`{name}` at {index} is {actual}, and {allowed} is allowed")]
    Value {
        /// The buffer.
        name: &'static str,
        /// Which of its elements.
        index: usize,
        /// What may be given.
        allowed: &'static str,
        /// What was given.
        actual: i64,
    },
}

/// Checks a length.
pub(crate) const fn expect_len(name: &'static str, actual: usize, expected: usize) -> Result<(), ShapeError> {
    if actual == expected { Ok(()) } else { Err(ShapeError::Length { name, expected, actual }) }
}

/// Number of rows of `width` elements; none where the width is 0.
pub(crate) const fn expect_rows(name: &'static str, actual: usize, width: usize) -> Result<usize, ShapeError> {
    if width == 0 {
        return if actual == 0 { Ok(0) } else { Err(ShapeError::Rows { name, width, actual }) };
    }
    if actual.is_multiple_of(width) { Ok(actual / width) } else { Err(ShapeError::Rows { name, width, actual }) }
}

/// A dimension as the kernels' `int`.
pub(crate) fn to_i32(name: &'static str, value: usize) -> Result<i32, ShapeError> {
    i32::try_from(value).map_err(|_| ShapeError::Dimension { name, allowed: "at most 2,147,483,647", actual: value })
}

/// A number of blocks in x.
pub(crate) fn to_grid(name: &'static str, value: usize) -> Result<u32, ShapeError> {
    to_i32(name, value).map(i32::cast_unsigned)
}

/// A dimension as the kernels' `long long`.
pub(crate) fn to_i64(name: &'static str, value: usize) -> Result<i64, ShapeError> {
    i64::try_from(value).map_err(|_| ShapeError::Dimension { name, allowed: "at most 2^63 - 1", actual: value })
}

/// Threads of a block that handles rows, and how many rows it holds at a time: a row has as many threads as it has packs of 16
/// bytes, in whole warps.
pub(crate) fn row_block<T>(width: usize) -> ([u32; 3], usize) {
    const THREADS: usize = 256;
    let packs = width.div_ceil(16 / size_of::<T>());
    let threads = packs.next_power_of_two().clamp(32, THREADS);
    let rows = THREADS / threads;
    ([threads as u32, rows as u32, 1], rows)
}

/// The name of a kernel for an element type: `kernel_name!(T, "rms_norm_forward")` is "rms_norm_forward_bf16" where T is bf16.
macro_rules! kernel_name {
    ($type:ty, $base:literal) => {
        match <$type as $crate::launch::Element>::DTYPE {
            $crate::launch::DType::Bf16 => concat!($base, "_bf16"),
            $crate::launch::DType::F16 => concat!($base, "_f16"),
            _ => concat!($base, "_f32"),
        }
    };
}
pub(crate) use kernel_name;

/// Chooses a type by a [`DType`]: `for_float!(dtype, T => expression with T)`.
macro_rules! for_float {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            $crate::launch::DType::Bf16 => {
                type $type = half::bf16;
                $body
            }
            $crate::launch::DType::F16 => {
                type $type = half::f16;
                $body
            }
            _ => {
                type $type = f32;
                $body
            }
        }
    };
}
pub(crate) use for_float;
