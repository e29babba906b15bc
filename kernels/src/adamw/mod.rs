//! AdamW (Loshchilov and Hutter, 2019) on many tensors at once, and clipping by the norm of all gradients.
//!
//! Parameters, both moments and all arithmetic are in single precision, whatever the model computes in: a second moment in bf16 does
//! not move when 0.1 % of it change. A model in half precision gets its parameters as a rounded copy, written by the same step.
//! As PyTorch's `AdamW`: p ← p (1 - lr λ) - lr / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε). As its `clip_grad_norm_`: gradients are
//! multiplied by most / (norm + 1e-6) where the norm is above the most allowed. A norm that is not a number makes the step's
//! result not a number.
//!
//! ```
//! use gristmill_kernels::adamw::{AdamW, Tensor};
//! use gristmill_kernels::workers::Serial;
//!
//! let adamw = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
//! let (mut parameters, gradients) = ([1.0, 1.0], [0.5, -0.25]);
//! let (mut first, mut second) = ([0.0; 2], [0.0; 2]);
//! let tensor = Tensor { parameters: &mut parameters[..], gradients: &gradients[..], first_moment: &mut first[..], second_moment: &mut second[..], copy: None };
//! adamw.step(&Serial, 1, None, &mut [tensor])?;
//! assert!((parameters[0] - 0.9).abs() < 1e-6 && (parameters[1] - 1.1).abs() < 1e-6);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

pub(crate) use cases::FAMILY;
pub use cpu::clip;
pub use launch::{clip_launches, clip_workspace_len};

/// Settings of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a parameter that is taken off, times the learning rate.
    pub weight_decay: f64,
}

/// One tensor's buffers, of one length: G of gradients, C of the copy, S of the rest.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<S, G, C> {
    /// Parameters.
    pub parameters: S,
    /// Their gradients.
    pub gradients: G,
    /// Moving mean of gradients; zeros before the first step.
    pub first_moment: S,
    /// Moving mean of their squares; zeros before the first step.
    pub second_moment: S,
    /// Takes the parameters, rounded to the gradients' type, if wanted.
    pub copy: Option<C>,
}

/// Numbers of one step, in single precision.
#[derive(Clone, Copy, Debug)]
struct Step {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    keep: f32,
    step_size: f32,
    second_scale: f32,
}

impl AdamW {
    /// `number` counts from 1.
    fn numbers(&self, number: u32) -> Step {
        let correction = |beta: f64| 1.0 - beta.powf(f64::from(number));
        Step {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            epsilon: self.epsilon as f32,
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            step_size: (self.learning_rate / correction(self.beta1)) as f32,
            second_scale: (1.0 / correction(self.beta2).sqrt()) as f32,
        }
    }
}
