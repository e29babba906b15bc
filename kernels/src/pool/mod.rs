//! One row for each document out of packed rows, and rows of length 1: what makes an embedding of a document.
//!
//! Document d has rows `offsets[d]..offsets[d + 1]`. A document without rows gives zeros. Means are sums of sums of 64 rows, in
//! the order of rows.
//!
//! ```
//! use gristmill_kernels::pool::{Pool, l2_normalise};
//! use gristmill_kernels::workers::Serial;
//!
//! let mut y = [0.0; 4];
//! Pool::Mean.forward(&Serial, 2, &[1.0, 1.0, 5.0, 7.0, 0.0, 2.0], &[0, 2, 3], &mut y)?;
//! assert_eq!(y, [3.0, 4.0, 0.0, 2.0]);
//! let mut unit = [0.0; 4];
//! l2_normalise(&Serial, 2, 1e-12, &y, &mut unit)?;
//! assert!((unit[0] - 0.6).abs() < 1e-6 && (unit[1] - 0.8).abs() < 1e-6);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

pub(crate) use cases::FAMILY;
pub use cpu::l2_normalise;
pub use launch::l2_normalise_launches;

/// What a document's rows become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Pool {
    /// Their mean.
    Mean = 0,
    /// The first one, such as BERT's `[CLS]`.
    First = 1,
    /// The last one.
    Last = 2,
    /// The largest value of each column; not a number where one is not.
    Max = 3,
}
