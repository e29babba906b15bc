//! Activations, alone or as the gate of a product, forward and backward.
//!
//! SwiGLU is SiLU(gate) · up, GeGLU is GELU(gate) · up (Shazeer, 2020). SiLU: x / (1 + e^-x). GELU: x Φ(x) with the normal
//! distribution's Φ by the error function, or its tanh form x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks and
//! Gimpel, 2016). Errors are relative to |x|, not to the value where that is tiny.
//!
//! ```
//! use gristmill_kernels::glu::{Activation, Forward};
//! use gristmill_kernels::workers::Serial;
//!
//! let mut y = [0.0];
//! Activation::Silu.forward(&Serial, Forward { x: &[1.0], up: Some(&[2.0]), y: &mut y })?;
//! assert!((y[0] - 1.462_117).abs() < 1e-6);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

#[cfg(test)]
pub(crate) use cases::exact_erf;
pub(crate) use cases::{FAMILY, exact_activation};

/// What is applied to x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Activation {
    /// x / (1 + e^-x), also called swish.
    Silu = 0,
    /// x Φ(x) by the error function.
    GeluErf = 1,
    /// The approximation by tanh, called `gelu_new` and `gelu_pytorch_tanh` by others.
    GeluTanh = 2,
}

/// Buffers of a forward pass, of one length: R to be read, W to be written.
#[derive(Clone, Copy, Debug)]
pub struct Forward<R, W> {
    /// What is activated: the gate where there is an `up`.
    pub x: R,
    /// What the activated values are multiplied by.
    pub up: Option<R>,
    /// The result.
    pub y: W,
}

/// Buffers of a backward pass, of one length: R to be read, W to be written.
#[derive(Clone, Copy, Debug)]
pub struct Backward<R, W> {
    /// As in the forward pass.
    pub x: R,
    /// Gradient of y.
    pub dy: R,
    /// Gradient of x.
    pub dx: W,
    /// Where the forward pass had an `up`: it, and its gradient.
    pub up: Option<(R, W)>,
}
