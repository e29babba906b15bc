//! The table of cases, with the answers in double precision.

use super::{Backward, Forward, Norm, NormKind};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Float, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "norms", cases, benches };

const REASON: &str = "rows are added up in single precision in up to 256 threads, each some ten values";

/// A forward pass, or a backward pass where there is a gradient of y.
#[derive(Clone)]
struct Case {
    norm: Norm,
    x: HostBuffer,
    weight: Option<HostBuffer>,
    bias: Option<HostBuffer>,
    dy: Option<HostBuffer>,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut cases = Vec::new();
    let mut add = |kind, rows, width, dtype, random: &mut Random| {
        for backward in [false, true] {
            let parameters = random.below(4);
            cases.push(Case::new(kind, rows, width, dtype, parameters, backward, random));
        }
    };
    for kind in [NormKind::Rms, NormKind::Layer] {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for (rows, width) in [(0, 8), (3, 0), (1, 1), (2, 7), (5, 64), (37, 33), (3, 1000), (2, 2049)] {
                add(kind, rows, width, dtype, &mut random);
            }
            let (rows, width) = (random.length(40), random.length(1500));
            add(kind, rows, width, dtype, &mut random);
        }
        // More rows than one piece of the sums, and a row too wide for sums in shared memory.
        add(kind, 70, 24, DType::F32, &mut random);
        add(kind, 18, 6401, DType::F32, &mut random);
    }
    let mut all: Vec<Case> = cases;
    for kind in [NormKind::Rms, NormKind::Layer] {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            all.push(Case::new(kind, 5, 6401, dtype, 3, true, &mut random));
        }
    }
    all.extend(special_values());
    all.into_iter().map(|case| Box::new(case) as Box<dyn Problem>).collect()
}

/// Values that are not numbers, infinities, zeros, and a mean far from zero.
fn special_values() -> Vec<Case> {
    let mut all = Vec::new();
    for kind in [NormKind::Rms, NormKind::Layer] {
        for backward in [false, true] {
            let mut random = Random::new(7);
            let mut case = Case::new(kind, 6, 40, DType::F32, 3, backward, &mut random);
            if let Some(x) = case.x.f32_mut() {
                x[45] = f32::NAN;
                x[87] = f32::INFINITY;
                x[120..160].fill(0.0);
                x[160..200].iter_mut().for_each(|value| *value += 1000.0);
            }
            // Gradients of the weight add up all rows, so they would all be lost; they are not what is shown here.
            (case.weight, case.bias) = (None, None);
            all.push(case);
        }
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for kind in [NormKind::Rms, NormKind::Layer] {
        for dtype in [DType::F32, DType::Bf16] {
            for backward in [false, true] {
                let parameters = if kind == NormKind::Rms { 1 } else { 3 };
                all.push(Box::new(Case::new(
                    kind,
                    bytes / 4096 / dtype.bytes(),
                    4096,
                    dtype,
                    parameters,
                    backward,
                    &mut Random::new(1),
                )));
            }
        }
    }
    all
}

impl Case {
    /// `parameters`: bit 0 for a weight, bit 1 for a bias.
    fn new(
        kind: NormKind,
        rows: usize,
        width: usize,
        dtype: DType,
        parameters: usize,
        backward: bool,
        random: &mut Random,
    ) -> Self {
        let norm = Norm { kind, width, epsilon: 1e-5 };
        Self {
            norm,
            x: random.buffer(dtype, rows * width, 0.5, 2.0),
            weight: (parameters & 1 != 0).then(|| random.buffer(dtype, width, 1.0, 0.3)),
            bias: (parameters & 2 != 0).then(|| random.buffer(dtype, width, 0.0, 0.3)),
            dy: backward.then(|| random.buffer(dtype, rows * width, 0.0, 1.0)),
        }
    }

    fn dtype(&self) -> DType {
        self.x.dtype()
    }

    fn rows(&self) -> usize {
        self.x.len().checked_div(self.norm.width).unwrap_or(0)
    }

    fn sums(&self) -> bool {
        self.weight.is_some() || self.bias.is_some()
    }

    /// Where x, weight, bias and dy are among the inputs.
    fn places(&self) -> (Option<usize>, Option<usize>, Option<usize>) {
        let weight = self.weight.is_some().then_some(1);
        let bias = self.bias.is_some().then_some(1 + usize::from(self.weight.is_some()));
        let dy = 1 + usize::from(self.weight.is_some()) + usize::from(self.bias.is_some());
        (weight, bias, self.dy.is_some().then_some(dy))
    }

    fn typed<'a, T: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let (weight, bias, dy) = self.places();
        let read = |place: Option<usize>| place.map(|place| inputs[place].read::<T>()).transpose();
        let x = inputs[0].read::<T>()?;
        let (weight, bias) = (read(weight)?, read(bias)?);
        let Some(dy) = read(dy)? else {
            return self.norm.forward_launches(Forward { x, weight, bias, y: outputs[0].write()? });
        };
        let dweight = self.weight.is_some().then(|| outputs[1].write::<T>()).transpose()?;
        let dbias = bias.is_some().then(|| outputs[1 + usize::from(self.weight.is_some())].write::<T>()).transpose()?;
        let workspace = if self.sums() { outputs.last().map(AnyBuffer::write::<f32>).transpose()? } else { None };
        self.norm.backward_launches(Backward { x, weight, dy, dx: outputs[0].write()?, dweight, dbias }, workspace)
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let direction = if self.dy.is_some() { "backward" } else { "forward" };
        let with = match (&self.weight, &self.bias) {
            (None, None) => "",
            (Some(_), None) => " with weight",
            (None, Some(_)) => " with bias",
            (Some(_), Some(_)) => " with weight and bias",
        };
        format!("{:?} norm {direction}{with}, {} x {} {}", self.norm.kind, self.rows(), self.norm.width, self.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        [Some(&self.x), self.weight.as_ref(), self.bias.as_ref(), self.dy.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let unwritten = |len| HostBuffer::unwritten(self.dtype(), len);
        let mut outputs = vec![unwritten(self.x.len())];
        if self.dy.is_some() {
            outputs.extend(self.weight.iter().chain(&self.bias).map(|parameter| unwritten(parameter.len())));
            if self.sums() {
                outputs.push(HostBuffer::unwritten(DType::F32, self.norm.workspace_len(self.rows())));
            }
        }
        outputs
    }

    fn expected(&self) -> Vec<Expected> {
        let x = self.x.to_f64();
        let weight = self.weight.as_ref().map(HostBuffer::to_f64);
        let bias = self.bias.as_ref().map(HostBuffer::to_f64);
        let tolerance = Tolerance::rounded(self.dtype(), 2e-6, REASON);
        let Some(dy) = self.dy.as_ref().map(HostBuffer::to_f64) else {
            let y = forward(self.norm, &x, weight.as_deref(), bias.as_deref());
            // The mean is subtracted from each value, so an error of the mean is relative to the values.
            let scale = scales(self.norm, &x, weight.as_deref());
            return vec![Expected::scaled(y, scale, tolerance)];
        };
        let gradients = backward(self.norm, &x, weight.as_deref(), &dy);
        let mut expected = vec![Expected::scaled(gradients.dx, gradients.dx_scale, tolerance)];
        if self.weight.is_some() {
            let tolerance = Tolerance::rounded(self.dtype(), 1e-5, "a sum over rows, with the errors of each row");
            expected.push(Expected::scaled(gradients.dweight, gradients.dweight_scale, tolerance));
        }
        if self.bias.is_some() {
            expected.push(Expected::scaled(gradients.dbias, gradients.dbias_scale, tolerance));
        }
        if self.sums() {
            expected.push(Expected::anything());
        }
        expected
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let (weight, bias, dy) = self.places();
        let x = inputs[0].f32()?;
        let weight = weight.and_then(|place| inputs[place].f32());
        let bias = bias.and_then(|place| inputs[place].f32());
        let Some(dy) = dy.and_then(|place| inputs[place].f32()) else {
            return Some(self.norm.forward(workers, Forward { x, weight, bias, y: outputs[0].f32_mut()? }));
        };
        let mut outputs = outputs.iter_mut();
        let dx = outputs.next()?.f32_mut()?;
        let dweight = if weight.is_some() { Some(outputs.next()?.f32_mut()?) } else { None };
        let dbias = if bias.is_some() { Some(outputs.next()?.f32_mut()?) } else { None };
        Some(self.norm.backward(workers, Backward { x, weight, dy, dx, dweight, dbias }))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.dtype(), T => self.typed::<T>(inputs, outputs))
    }

    /// Each row alone, of the output that has rows.
    fn parts(&self) -> Vec<Part> {
        let width = self.norm.width;
        let rows = [0, self.rows() / 2, self.rows().saturating_sub(1)];
        rows.into_iter()
            .filter(|&row| row < self.rows())
            .map(|row| {
                let range = row * width..(row + 1) * width;
                let dy = self.dy.as_ref().map(|dy| dy.slice(range.clone()));
                let alone = Self { x: self.x.slice(range.clone()), dy, ..self.clone() };
                Part { problem: Box::new(alone), pieces: vec![(0, range)] }
            })
            .collect()
    }

    fn work(&self) -> Work {
        let passes = if self.dy.is_some() { 3 } else { 2 };
        Work { bytes: (passes * self.x.len() * self.dtype().bytes()) as f64, operations: 0.0 }
    }
}

fn statistics(norm: Norm, row: &[f64]) -> (f64, f64) {
    let width = row.len() as f64;
    let mean = if norm.kind == NormKind::Layer { row.iter().sum::<f64>() / width } else { 0.0 };
    let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / width;
    (mean, 1.0 / (variance + f64::from(norm.epsilon)).sqrt())
}

fn forward(norm: Norm, x: &[f64], weight: Option<&[f64]>, bias: Option<&[f64]>) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(norm.width.max(1)) {
        let (mean, scale) = statistics(norm, row);
        for (i, value) in row.iter().enumerate() {
            y.push((value - mean) * scale * weight.map_or(1.0, |weight| weight[i]) + bias.map_or(0.0, |bias| bias[i]));
        }
    }
    y
}

/// What the values of a forward pass are added up from.
fn scales(norm: Norm, x: &[f64], weight: Option<&[f64]>) -> Vec<f64> {
    let mut scales = Vec::with_capacity(x.len());
    for row in x.chunks_exact(norm.width.max(1)) {
        let (mean, scale) = statistics(norm, row);
        scales.extend(
            row.iter().enumerate().map(|(i, value)| {
                (value.abs() + mean.abs()) * scale * weight.map_or(1.0, |weight| weight[i].abs()) + 1.0
            }),
        );
    }
    scales
}

struct Gradients {
    dx: Vec<f64>,
    dx_scale: Vec<f64>,
    dweight: Vec<f64>,
    dweight_scale: Vec<f64>,
    dbias: Vec<f64>,
    dbias_scale: Vec<f64>,
}

fn backward(norm: Norm, x: &[f64], weight: Option<&[f64]>, dy: &[f64]) -> Gradients {
    let width = norm.width;
    let zeros = || vec![0.0; width];
    let mut gradients = Gradients {
        dx: Vec::with_capacity(x.len()),
        dx_scale: Vec::with_capacity(x.len()),
        dweight: zeros(),
        dweight_scale: zeros(),
        dbias: zeros(),
        dbias_scale: zeros(),
    };
    for (row, dy) in x.chunks_exact(width.max(1)).zip(dy.chunks_exact(width.max(1))) {
        let (mean, scale) = statistics(norm, row);
        let normalised: Vec<f64> = row.iter().map(|value| (value - mean) * scale).collect();
        let gradient: Vec<f64> =
            dy.iter().enumerate().map(|(i, dy)| dy * weight.map_or(1.0, |weight| weight[i])).collect();
        let mean_gradient =
            if norm.kind == NormKind::Layer { gradient.iter().sum::<f64>() / width as f64 } else { 0.0 };
        let mean_product = gradient.iter().zip(&normalised).map(|(g, n)| g * n).sum::<f64>() / width as f64;
        // How much an error of the mean moves the normalised values.
        let shift = mean.abs() * scale;
        for i in 0..width {
            gradients.dx.push(scale * (gradient[i] - mean_gradient - normalised[i] * mean_product));
            gradients.dx_scale.push(scale * (2.0 + gradient[i].abs() + normalised[i].abs()) * (1.0 + shift));
            gradients.dweight[i] += dy[i] * normalised[i];
            gradients.dweight_scale[i] += (dy[i] * (normalised[i].abs() + shift)).abs();
            gradients.dbias[i] += dy[i];
            gradients.dbias_scale[i] += dy[i].abs();
        }
    }
    gradients
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::slopes;

    /// Slopes of sum(dy · y) along x, weight and bias.
    #[test]
    fn gradients_are_slopes_of_the_forward_pass() {
        for kind in [NormKind::Rms, NormKind::Layer] {
            for (rows, width) in [(1, 1), (2, 5), (3, 8)] {
                let mut random = Random::new(3);
                let case = Case::new(kind, rows, width, DType::F32, 3, true, &mut random);
                let norm = case.norm;
                let (x, dy) = (case.x.to_f64(), case.dy.unwrap().to_f64());
                let (weight, bias) = (case.weight.unwrap().to_f64(), case.bias.unwrap().to_f64());
                let dot = |y: Vec<f64>| y.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>();
                let gradients = backward(norm, &x, Some(&weight), &dy);
                let along_x = slopes(&x, |x| dot(forward(norm, x, Some(&weight), Some(&bias))));
                let along_weight = slopes(&weight, |weight| dot(forward(norm, &x, Some(weight), Some(&bias))));
                let along_bias = slopes(&bias, |bias| dot(forward(norm, &x, Some(&weight), Some(bias))));
                let pairs = [(along_x, gradients.dx), (along_weight, gradients.dweight), (along_bias, gradients.dbias)];
                for (slopes, gradient) in pairs {
                    for (slope, gradient) in slopes.iter().zip(&gradient) {
                        assert!((slope - gradient).abs() < 1e-7 * (1.0 + slope.abs()), "{slope} {gradient}");
                    }
                }
            }
        }
    }
}
