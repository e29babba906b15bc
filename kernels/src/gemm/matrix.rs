//! Views of the caller's matrices.

use super::GemmError;

/// Numbers of one of the formats that inputs may have. Half-precision numbers are given as their bits.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// IEEE 754 binary32.
    F32(&'a [f32]),
    /// bfloat16: the upper half of a binary32.
    Bf16(&'a [u16]),
    /// IEEE 754 binary16.
    F16(&'a [u16]),
}

impl Values<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) | Self::F16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the elements of a matrix lie: element (r, c) at `r * row_stride + c * column_stride`, counted in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl Layout {
    /// Rows one behind the other, without gaps.
    pub fn row_major(rows: usize, columns: usize) -> Self {
        Self { rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// How many elements the memory must have at least.
    fn needed(&self) -> Result<usize, GemmError> {
        if self.rows == 0 || self.columns == 0 {
            return Ok(0);
        }
        let last_row = (self.rows - 1).checked_mul(self.row_stride);
        let last_column = (self.columns - 1).checked_mul(self.column_stride);
        last_row
            .zip(last_column)
            .and_then(|(row, column)| row.checked_add(column)?.checked_add(1))
            .ok_or(GemmError::TooLarge)
    }
}

/// A matrix to be read.
///
/// ```
/// use gristmill_kernels::gemm::{Matrix, Values};
///
/// let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let matrix = Matrix::row_major(Values::F32(&values), 2, 3)?;
/// assert_eq!(matrix.transposed().layout().rows, 3);
/// # Ok::<(), gristmill_kernels::gemm::GemmError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: Values<'a>,
    layout: Layout,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows follow one another without gaps.
    ///
    /// # Errors
    ///
    /// Where `values` has fewer than `rows * columns` elements.
    pub fn row_major(values: Values<'a>, rows: usize, columns: usize) -> Result<Self, GemmError> {
        Self::strided(values, Layout::row_major(rows, columns))
    }

    /// A matrix of any layout; strides may be 0, which repeats a row or a column.
    ///
    /// # Errors
    ///
    /// Where an element would lie outside of `values`.
    pub fn strided(values: Values<'a>, layout: Layout) -> Result<Self, GemmError> {
        let needed = layout.needed()?;
        if values.len() < needed {
            return Err(GemmError::TooShort { needed, found: values.len() });
        }
        Ok(Self { values, layout })
    }

    /// The same numbers with rows and columns exchanged; nothing is copied.
    #[must_use]
    pub fn transposed(self) -> Self {
        let Layout { rows, columns, row_stride, column_stride } = self.layout;
        let layout = Layout { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride };
        Self { values: self.values, layout }
    }

    /// Its size and where its elements lie.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its elements, in the order of memory.
    pub(super) fn values(&self) -> Values<'a> {
        self.values
    }
}

/// A matrix of f32 to be written, with the elements of a row side by side.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    values: &'a mut [f32],
    layout: Layout,
}

impl<'a> MatrixMut<'a> {
    /// A matrix whose rows follow one another without gaps.
    ///
    /// # Errors
    ///
    /// Where `values` has fewer than `rows * columns` elements.
    pub fn row_major(values: &'a mut [f32], rows: usize, columns: usize) -> Result<Self, GemmError> {
        Self::strided(values, rows, columns, columns)
    }

    /// A matrix whose rows begin `row_stride` elements apart; what lies between two rows is left as it is.
    ///
    /// # Errors
    ///
    /// Where rows would overlap or an element would lie outside of `values`.
    pub fn strided(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Result<Self, GemmError> {
        let layout = Layout { rows, columns, row_stride, column_stride: 1 };
        if rows > 1 && row_stride < columns {
            return Err(GemmError::Overlapping { row_stride, columns });
        }
        let needed = layout.needed()?;
        if values.len() < needed {
            return Err(GemmError::TooShort { needed, found: values.len() });
        }
        Ok(Self { values, layout })
    }

    /// Its size and where its elements lie.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its memory.
    pub(super) fn values(&mut self) -> &mut [f32] {
        self.values
    }
}
