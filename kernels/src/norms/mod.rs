//! RMSNorm and LayerNorm over the last dimension, with and without weight and bias, forward and backward.
//!
//! RMSNorm: y = x / sqrt(mean(x²) + ε) · weight + bias (Zhang and Sennrich, 2019). LayerNorm: the same of x - mean(x) (Ba, Kiros
//! and Hinton, 2016), the variance being the mean of squares of that, not a difference of means. Everything is computed in single
//! precision, whatever the elements are. The backward pass computes the statistics again from x: one more reduction of values
//! that are read anyway, and nothing to keep from the forward pass.
//!
//! ```
//! use gristmill_kernels::norms::{Forward, Norm, NormKind};
//! use gristmill_kernels::workers::Serial;
//!
//! let norm = Norm { kind: NormKind::Rms, width: 2, epsilon: 0.0 };
//! let mut y = [0.0; 2];
//! norm.forward(&Serial, Forward { x: &[3.0, 4.0], weight: Some(&[1.0, 10.0]), bias: None, y: &mut y })?;
//! assert!((y[0] - 3.0 / 12.5_f32.sqrt()).abs() < 1e-6 && (y[1] - 40.0 / 12.5_f32.sqrt()).abs() < 1e-5);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

pub(crate) use cases::FAMILY;

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By the mean square.
    Rms,
    /// By mean and variance.
    Layer,
}

/// A norm over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which norm.
    pub kind: NormKind,
    /// Elements of a row.
    pub width: usize,
    /// Added to the mean square or the variance.
    pub epsilon: f32,
}

/// Buffers of a forward pass: R to be read, W to be written.
#[derive(Clone, Copy, Debug)]
pub struct Forward<R, W> {
    /// Rows, `[rows, width]`.
    pub x: R,
    /// `[width]`; all ones where left out.
    pub weight: Option<R>,
    /// `[width]`; all zeros where left out.
    pub bias: Option<R>,
    /// Normalised rows, `[rows, width]`.
    pub y: W,
}

/// Buffers of a backward pass: R to be read, W to be written.
#[derive(Clone, Copy, Debug)]
pub struct Backward<R, W> {
    /// The rows of the forward pass, `[rows, width]`.
    pub x: R,
    /// `[width]`, as in the forward pass.
    pub weight: Option<R>,
    /// Gradient of y, `[rows, width]`.
    pub dy: R,
    /// Gradient of x, `[rows, width]`.
    pub dx: W,
    /// Gradient of the weight, `[width]`, if wanted: a sum over rows.
    pub dweight: Option<W>,
    /// Gradient of the bias, `[width]`, if wanted: a sum over rows.
    pub dbias: Option<W>,
}
