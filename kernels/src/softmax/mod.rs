//! Softmax over the last dimension: y = exp(s·x - max) / Σ exp(s·x - max), and its gradient.
//!
//! A value that is not a number makes its row not a number; so do an infinity, and a row of minus infinities alone. Single minus
//! infinities, as of masks, give zeros.
//!
//! ```
//! use gristmill_kernels::softmax::Softmax;
//! use gristmill_kernels::workers::Serial;
//!
//! let mut y = [0.0; 2];
//! Softmax { width: 2, scale: 1.0 }.forward(&Serial, &[0.0, 3_f32.ln()], &mut y)?;
//! assert!((y[0] - 0.25).abs() < 1e-6 && (y[1] - 0.75).abs() < 1e-6);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

pub(crate) use cases::FAMILY;

/// A softmax over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    /// Elements of a row.
    pub width: usize,
    /// What values are multiplied by first; of attention, 1 / √d.
    pub scale: f32,
}
