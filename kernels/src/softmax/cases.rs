//! The table of cases, with the answers in double precision.

use super::Softmax;
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "softmax", cases, benches };

const REASON: &str = "exponentials to 3e-7, their arguments rounded at a magnitude of some ten, and a sum of each row";

/// A forward pass of x, or a backward pass of y and a gradient.
#[derive(Clone)]
struct Case {
    softmax: Softmax,
    input: HostBuffer,
    dy: Option<HostBuffer>,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let mut shapes = vec![(0, 8), (3, 0), (1, 1), (2, 7), (9, 64), (37, 33), (3, 1000), (2, 2049)];
        shapes.push((random.length(40), random.length(1500)));
        for (rows, width) in shapes {
            for backward in [false, true] {
                all.push(Box::new(Case::new(rows, width, dtype, backward, &mut random)));
            }
        }
    }
    let mut special = Case::new(6, 40, DType::F32, false, &mut random);
    if let Some(x) = special.input.f32_mut() {
        x[45] = f32::NAN;
        x[87] = f32::INFINITY;
        x[120..150].fill(f32::NEG_INFINITY);
        x[160..200].fill(f32::NEG_INFINITY);
        x[200..240].iter_mut().for_each(|value| *value *= 1e4);
    }
    all.push(Box::new(special));
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        for backward in [false, true] {
            all.push(Box::new(Case::new(bytes / 1024 / dtype.bytes(), 1024, dtype, backward, &mut Random::new(1))));
        }
    }
    all
}

impl Case {
    fn new(rows: usize, width: usize, dtype: DType, backward: bool, random: &mut Random) -> Self {
        let softmax = Softmax { width, scale: if random.below(2) == 0 { 1.0 } else { 0.125 } };
        let x = random.buffer(dtype, rows * width, 0.0, 4.0);
        let input = if backward { HostBuffer::from_f64(dtype, forward(softmax, &x.to_f64()).into_iter()) } else { x };
        Self { softmax, input, dy: backward.then(|| random.buffer(dtype, rows * width, 0.0, 1.0)) }
    }

    fn rows(&self) -> usize {
        self.input.len().checked_div(self.softmax.width).unwrap_or(0)
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let direction = if self.dy.is_some() { "backward" } else { "forward" };
        format!("Softmax {direction}, {} x {} {}", self.rows(), self.softmax.width, self.input.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        std::iter::once(&self.input).chain(&self.dy).cloned().collect()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(self.input.dtype(), self.input.len())]
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input.to_f64();
        let tolerance = Tolerance::rounded(self.input.dtype(), 6e-6, REASON);
        match &self.dy {
            None => vec![Expected::values(forward(self.softmax, &input), tolerance.with_absolute(1e-37))],
            Some(dy) => {
                let (dx, scale) = backward(self.softmax, &input, &dy.to_f64());
                vec![Expected::scaled(dx, scale, tolerance)]
            }
        }
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let (input, output) = (inputs[0].f32()?, outputs[0].f32_mut()?);
        Some(match inputs.get(1) {
            None => self.softmax.forward(workers, input, output),
            Some(dy) => self.softmax.backward(workers, input, dy.f32()?, output),
        })
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.input.dtype(), T => match inputs.get(1) {
            None => self.softmax.forward_launches::<T>(inputs[0].read()?, outputs[0].write()?),
            Some(dy) => self.softmax.backward_launches::<T>(inputs[0].read()?, dy.read()?, outputs[0].write()?),
        })
    }

    fn parts(&self) -> Vec<Part> {
        let width = self.softmax.width;
        let rows = [0, self.rows() / 2, self.rows().saturating_sub(1)];
        rows.into_iter()
            .filter(|&row| row < self.rows())
            .map(|row| {
                let range = row * width..(row + 1) * width;
                let dy = self.dy.as_ref().map(|dy| dy.slice(range.clone()));
                let alone = Self { softmax: self.softmax, input: self.input.slice(range.clone()), dy };
                Part { problem: Box::new(alone), pieces: vec![(0, range)] }
            })
            .collect()
    }

    fn work(&self) -> Work {
        let passes = if self.dy.is_some() { 3 } else { 2 };
        Work { bytes: (passes * self.input.len() * self.input.dtype().bytes()) as f64, operations: 0.0 }
    }
}

fn forward(softmax: Softmax, x: &[f64]) -> Vec<f64> {
    let scale = f64::from(softmax.scale);
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(softmax.width.max(1)) {
        let most = row.iter().map(|value| value * scale).fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = row.iter().map(|value| (value * scale - most).exp()).collect();
        let sum: f64 = powers.iter().sum();
        y.extend(powers.iter().map(|power| power / sum));
    }
    y
}

/// The gradient, and what it is added up from.
fn backward(softmax: Softmax, y: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let scale = f64::from(softmax.scale);
    let width = softmax.width.max(1);
    let (mut dx, mut scales) = (Vec::new(), Vec::new());
    for (y, dy) in y.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let sum: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
        let magnitude: f64 = y.iter().zip(dy).map(|(y, dy)| (y * dy).abs()).sum();
        dx.extend(y.iter().zip(dy).map(|(y, dy)| scale * y * (dy - sum)));
        scales.extend(y.iter().zip(dy).map(|(y, dy)| scale * y * (dy.abs() + magnitude)));
    }
    (dx, scales)
}

#[cfg(test)]
mod tests {
    use super::{Softmax, backward, forward};
    use crate::check::{Random, slopes};

    #[test]
    fn gradients_are_slopes_of_the_forward_pass() {
        for (width, scale) in [(1, 1.0), (5, 0.125), (8, 2.0)] {
            let softmax = Softmax { width, scale };
            let mut random = Random::new(5);
            let mut normal = || -> Vec<f64> { (0..2 * width).map(|_| random.normal()).collect() };
            let (x, dy) = (normal(), normal());
            let dot = |x: &[f64]| forward(softmax, x).iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>();
            let (dx, _) = backward(softmax, &forward(softmax, &x), &dy);
            for (slope, gradient) in slopes(&x, dot).iter().zip(&dx) {
                assert!((slope - gradient).abs() < 1e-8, "{slope} {gradient}");
            }
        }
    }
}
