//! The table of cases, with the answers in double precision.

use super::{Activation, Backward, Forward};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Float, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "glu", cases, benches };

const ALL: [Activation; 3] = [Activation::Silu, Activation::GeluErf, Activation::GeluTanh];
const REASON: &str =
    "exponentials to 3e-7 and error functions to 4e-7, their arguments rounded at a magnitude of some ten";

/// A forward pass, or a backward pass where there is a gradient of y.
#[derive(Clone)]
struct Case {
    activation: Activation,
    x: HostBuffer,
    up: Option<HostBuffer>,
    dy: Option<HostBuffer>,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for activation in ALL {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for len in [0, 1, 7, 8, 2049, 16_385, random.length(5000)] {
                let (gated, backward) = (random.below(2) == 0, random.below(2) == 0);
                all.push(Box::new(Case::new(activation, len, dtype, gated, backward, &mut random)));
            }
        }
        for gated in [false, true] {
            for backward in [false, true] {
                let mut case = Case::new(activation, 100, DType::F32, gated, backward, &mut random);
                if let Some(x) = case.x.f32_mut() {
                    x[..8].copy_from_slice(&[f32::NAN, 0.0, -0.0, 1e-30, -1e-30, 90.0, -90.0, 30.0]);
                    if !backward {
                        x[8] = f32::INFINITY;
                    }
                }
                all.push(Box::new(case));
            }
        }
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for activation in ALL {
        for dtype in [DType::F32, DType::Bf16] {
            for backward in [false, true] {
                let gated = activation != Activation::GeluErf;
                all.push(Box::new(Case::new(
                    activation,
                    bytes / dtype.bytes(),
                    dtype,
                    gated,
                    backward,
                    &mut Random::new(1),
                )));
            }
        }
    }
    all
}

impl Case {
    fn new(activation: Activation, len: usize, dtype: DType, gated: bool, backward: bool, random: &mut Random) -> Self {
        Self {
            activation,
            x: random.buffer(dtype, len, 0.0, 2.5),
            up: gated.then(|| random.buffer(dtype, len, 0.0, 1.0)),
            dy: backward.then(|| random.buffer(dtype, len, 0.0, 1.0)),
        }
    }

    fn typed<'a, T: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let x = inputs[0].read::<T>()?;
        let up = if self.up.is_some() { Some(inputs[1].read::<T>()?) } else { None };
        if self.dy.is_none() {
            return self.activation.forward_launches(Forward { x, up, y: outputs[0].write()? });
        }
        let dy = inputs[1 + usize::from(up.is_some())].read::<T>()?;
        let up = up.map(|up| outputs[1].write::<T>().map(|dup| (up, dup))).transpose()?;
        self.activation.backward_launches(Backward { x, dy, dx: outputs[0].write()?, up })
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let direction = if self.dy.is_some() { "backward" } else { "forward" };
        let gated = if self.up.is_some() { " as a gate" } else { "" };
        format!("{:?}{gated} {direction}, {} {}", self.activation, self.x.len(), self.x.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        std::iter::once(&self.x).chain(&self.up).chain(&self.dy).cloned().collect()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let count = if self.dy.is_some() && self.up.is_some() { 2 } else { 1 };
        vec![HostBuffer::unwritten(self.x.dtype(), self.x.len()); count]
    }

    fn expected(&self) -> Vec<Expected> {
        let x = self.x.to_f64();
        let tolerance = Tolerance::rounded(self.x.dtype(), 3e-6, REASON);
        let ones = || vec![1.0; x.len()];
        let up = self.up.as_ref().map_or_else(ones, HostBuffer::to_f64);
        let dy = self.dy.as_ref().map_or_else(ones, HostBuffer::to_f64);
        let (values, slopes): (Vec<f64>, Vec<f64>) = x.iter().map(|&x| activate(self.activation, x)).unzip();
        let product = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
        // What the result would be of a value, or a slope, as large as they get near that x.
        let near: Vec<f64> = x.iter().map(|x| if x.is_finite() { x.abs() } else { 0.0 }).collect();
        let steep: Vec<f64> = near.iter().map(|x| 1.0 + x).collect();
        if self.dy.is_none() {
            return vec![Expected::scaled(product(&values, &up), product(&near, &up), tolerance)];
        }
        let gradient = product(&dy, &up);
        let mut expected = vec![Expected::scaled(product(&gradient, &slopes), product(&gradient, &steep), tolerance)];
        if self.up.is_some() {
            expected.push(Expected::scaled(product(&dy, &values), product(&dy, &near), tolerance));
        }
        expected
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let x = inputs[0].f32()?;
        let up = if self.up.is_some() { Some(inputs[1].f32()?) } else { None };
        let mut outputs = outputs.iter_mut();
        let first = outputs.next()?.f32_mut()?;
        if self.dy.is_none() {
            return Some(self.activation.forward(workers, Forward { x, up, y: first }));
        }
        let dy = inputs.last()?.f32()?;
        let up = match up {
            Some(up) => Some((up, outputs.next()?.f32_mut()?)),
            None => None,
        };
        Some(self.activation.backward(workers, Backward { x, dy, dx: first, up }))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.x.dtype(), T => self.typed::<T>(inputs, outputs))
    }

    /// A range that begins off the beat of packs and vectors.
    fn parts(&self) -> Vec<Part> {
        if self.x.len() < 20 {
            return Vec::new();
        }
        let range = 3..self.x.len() - 2;
        let slice = |buffer: &Option<HostBuffer>| buffer.as_ref().map(|buffer| buffer.slice(range.clone()));
        let alone = Self {
            activation: self.activation,
            x: self.x.slice(range.clone()),
            up: slice(&self.up),
            dy: slice(&self.dy),
        };
        let pieces = (0..self.outputs().len()).map(|output| (output, range.clone())).collect();
        vec![Part { problem: Box::new(alone), pieces }]
    }

    fn work(&self) -> Work {
        let buffers = self.inputs().len() + self.outputs().len();
        Work { bytes: (buffers * self.x.len() * self.x.dtype().bytes()) as f64, operations: 0.0 }
    }
}

/// The value alone.
pub(crate) fn exact_activation(activation: Activation, x: f64) -> f64 {
    activate(activation, x).0
}

/// Value and slope.
fn activate(activation: Activation, x: f64) -> (f64, f64) {
    match activation {
        Activation::Silu => {
            let gate = 1.0 / (1.0 + (-x).exp());
            (x * gate, gate + x * gate * (1.0 - gate))
        }
        Activation::GeluErf => {
            let phi = 0.5 * (1.0 + exact_erf(x * std::f64::consts::FRAC_1_SQRT_2));
            let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            (x * phi, phi + x * density)
        }
        Activation::GeluTanh => {
            let factor = std::f64::consts::FRAC_2_PI.sqrt();
            let tanh = (factor * (x + 0.044715 * x * x * x)).tanh();
            let slope = (1.0 - tanh * tanh) * factor * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * slope)
        }
    }
}

/// The error function: its power series near zero, and beyond 3 the continued fraction of its complement.
pub(crate) fn exact_erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let magnitude = x.abs();
    if magnitude < 3.0 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..100 {
            let n = f64::from(n);
            term *= -magnitude * magnitude / n;
            sum += term / (2.0 * n + 1.0);
        }
        return (sum * 2.0 / std::f64::consts::PI.sqrt()).copysign(x);
    }
    if magnitude > 6.0 {
        return 1_f64.copysign(x);
    }
    let mut fraction = 0.0;
    for n in (1..60).rev() {
        fraction = f64::from(n) / 2.0 / (magnitude + fraction);
    }
    let complement = (-magnitude * magnitude).exp() / std::f64::consts::PI.sqrt() / (magnitude + fraction);
    (1.0 - complement).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::{ALL, activate, exact_erf};
    use crate::check::slopes;

    #[test]
    fn slopes_are_those_of_the_values() {
        for activation in ALL {
            for x in [-6.0, -1.0, -0.1, 0.0, 0.3, 2.0, 7.0] {
                let slope = slopes(&[x], |x| activate(activation, x[0]).0)[0];
                assert!((slope - activate(activation, x).1).abs() < 1e-8, "{activation:?} at {x}");
            }
        }
    }

    /// Values of Abramowitz and Stegun, table 7.1.
    #[test]
    fn error_function_has_tabulated_values() {
        let table = [
            (0.1, 0.112_462_916_0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (3.0, 0.999_977_909_5),
        ];
        for (x, y) in table {
            assert!((exact_erf(x) - y).abs() < 1e-10, "{x}");
            assert!((exact_erf(-x) + y).abs() < 1e-10, "{x}");
        }
        assert!((exact_erf(2.999_999_999) - exact_erf(3.0)).abs() < 1e-12);
    }
}
