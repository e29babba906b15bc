//! The table of cases of linear layers, with the answers in double precision.

use super::{Function, LinearBuffers, LinearLayer, LinearOutput, Strides, Tile};
use super::{MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::glu::{self, Activation, exact_activation};
use crate::launch::{DType, Float, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "gemm", cases, benches };

#[derive(Clone)]
struct Case {
    layer: LinearLayer,
    rows: usize,
    x: HostBuffer,
    weights: HostBuffer,
    bias: Option<Vec<f32>>,
    /// Before; its type is that of the result.
    y: HostBuffer,
}

/// Which kernels there are for a type.
const fn tiles(dtype: DType) -> &'static [Tile] {
    match dtype {
        DType::F32 => &[Tile::Small, Tile::Square],
        _ => &[Tile::Small, Tile::Medium, Tile::Square, Tile::Wide],
    }
}

const FUNCTIONS: [Option<Function>; 6] = [
    None,
    Some(Function::Activation(Activation::Silu)),
    Some(Function::Activation(Activation::GeluErf)),
    Some(Function::Activation(Activation::GeluTanh)),
    Some(Function::Tanh),
    Some(Function::Relu),
];

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let whole = dtype == DType::Bf16;
        for (number, &tile) in tiles(dtype).iter().enumerate() {
            // More tiles than one of the smaller kinds; an odd number of inputs; one more than a step.
            let (down, across) = tile.size(dtype == DType::F32);
            let mut shapes = vec![(3, 5, 7), (down + 1, 33, 40)];
            if whole && tile == Tile::Small {
                shapes.extend([(17 * down + 3, across + 1, 8), (2, 40, 1100)]);
            }
            if tile == Tile::Medium || dtype == DType::F32 {
                shapes.push((5, across + 9, 136));
            }
            for (place, (rows, outputs, inputs)) in shapes.into_iter().enumerate() {
                let function = FUNCTIONS[(number + place * 2) % FUNCTIONS.len()];
                let layer = LinearLayer { function, tile: Some(tile), ..LinearLayer::new(inputs, outputs) };
                let accumulate = (number + place) % 2 == 1;
                for transposed in [false, true] {
                    let function = function.filter(|_| !transposed);
                    let layer = LinearLayer { accumulate, transposed, function, ..layer };
                    all.push(Case::new(layer, rows, dtype, &mut random));
                }
            }
        }
        for function in FUNCTIONS {
            let layer = LinearLayer { function, ..LinearLayer::new(random.below(70), 1 + random.below(40)) };
            all.push(Case::new(layer, 1 + random.below(20), dtype, &mut random));
        }
        // Rows of wider ones, aligned and not.
        for (x, weights, y) in [(48, 56, 32), (37, 41, 29)] {
            let strides = Strides { x: Some(x), weights: Some(weights), y: Some(y) };
            let layer = LinearLayer { strides, accumulate: true, ..LinearLayer::new(35, 21) };
            for transposed in [false, true] {
                all.push(Case::new(LinearLayer { transposed, ..layer }, 4, dtype, &mut random));
            }
        }
        for transposed in [false, true] {
            for (rows, outputs, inputs) in [(0, 3, 4), (2, 0, 4), (2, 3, 0)] {
                let layer = LinearLayer { transposed, ..LinearLayer::new(inputs, outputs) };
                all.push(Case::new(layer, rows, dtype, &mut random));
            }
            all.push(special_values(dtype, transposed));
        }
    }
    all.into_iter().map(|case| Box::new(case) as Box<dyn Problem>).collect()
}

/// Values that are not numbers and infinities stay in their rows.
fn special_values(dtype: DType, transposed: bool) -> Case {
    let mut random = Random::new(11);
    let mut case = Case::new(LinearLayer { transposed, ..LinearLayer::new(20, 9) }, 5, dtype, &mut random);
    let mut values = case.x.to_f64();
    (values[25], values[43], values[90]) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
    case.x = HostBuffer::from_f64(dtype, values.into_iter());
    case
}

/// Layers of a model of `bytes / 32,768` hidden values, with the rows of one token, of a few, and of a batch.
fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let width = ((bytes >> 15) & !63).clamp(64, 4096);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        for rows in [1, 16, 256, 8192.min(4 * width)] {
            for (inputs, outputs) in [(width, width), (width, 4 * width), (4 * width, width)] {
                for transposed in [false, true] {
                    let layer = LinearLayer { transposed, ..LinearLayer::new(inputs, outputs) };
                    all.push(Box::new(Case::new(layer, rows, dtype, &mut Random::new(1))));
                }
            }
        }
    }
    all
}

impl Case {
    fn new(layer: LinearLayer, rows: usize, dtype: DType, random: &mut Random) -> Self {
        let LinearLayer { inputs, outputs, strides, .. } = layer;
        let len = |lines: usize, columns: usize, stride: Option<usize>| {
            if lines == 0 { 0 } else { (lines - 1) * stride.unwrap_or(columns) + columns }
        };
        let result = if random.below(2) == 0 { dtype } else { DType::F32 };
        let (lines, columns) = if layer.transposed { (inputs, outputs) } else { (outputs, inputs) };
        let (x, weights) = (len(rows, inputs, strides.x), len(lines, columns, strides.weights));
        let y = len(rows, outputs, strides.y);
        Self {
            layer,
            rows,
            x: random.buffer(dtype, x, 0.1, 1.0),
            weights: random.buffer(dtype, weights, 0.0, 0.5),
            bias: (!layer.transposed && random.below(3) > 0)
                .then(|| (0..outputs).map(|_| random.normal() as f32).collect()),
            // Between rows there is what must stay as it is.
            y: if layer.accumulate || strides.y.is_some() {
                random.buffer(result, y, 0.0, 1.0)
            } else {
                HostBuffer::unwritten(result, y)
            },
        }
    }

    fn stride(&self) -> usize {
        self.layer.strides.y.unwrap_or(self.layer.outputs)
    }

    fn typed<'a, T: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let y = if self.y.dtype() == DType::F32 && T::DTYPE != DType::F32 {
            LinearOutput::Single(outputs[0].write()?)
        } else {
            LinearOutput::Same(outputs[0].write()?)
        };
        let bias = self.bias.is_some().then(|| inputs[2].read::<f32>()).transpose()?;
        self.layer.launches::<T>(self.rows, LinearBuffers { x: inputs[0].read()?, weights: inputs[1].read()?, bias, y })
    }

    fn on_cpu(&self, workers: &dyn Workers, x: &[f32], weights: &[f32], y: &mut [f32]) -> Result<(), ShapeError> {
        let LinearLayer { inputs, outputs, strides, function, accumulate, .. } = self.layer;
        let refused = |_| ShapeError::Dimension { name: "x", allowed: "a matrix that fits", actual: x.len() };
        let layout = |rows, columns, stride: Option<usize>| super::Layout {
            rows,
            columns,
            row_stride: stride.unwrap_or(columns),
            column_stride: 1,
        };
        let x = Matrix::strided(Values::F32(x), layout(self.rows, inputs, strides.x)).map_err(refused)?;
        let weights = if self.layer.transposed {
            Matrix::strided(Values::F32(weights), layout(inputs, outputs, strides.weights)).map(Matrix::transposed)
        } else {
            Matrix::strided(Values::F32(weights), layout(outputs, inputs, strides.weights))
        };
        let packed = PackedWeights::pack(weights.map_err(refused)?, Precision::F32).map_err(refused)?;
        let mut sums = vec![0.0; self.rows * outputs];
        let options = MatmulOptions { bias: self.bias.as_deref(), ..MatmulOptions::default() };
        let result = MatrixMut::row_major(&mut sums, self.rows, outputs).map_err(refused)?;
        packed.matmul(x, result, &options).map_err(refused)?;
        match function {
            None => {}
            Some(Function::Tanh) => sums.iter_mut().for_each(|value| *value = value.tanh()),
            Some(Function::Relu) => sums.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value }),
            Some(Function::Activation(activation)) => {
                let before = sums.clone();
                activation.forward(workers, glu::Forward { x: &before[..], up: None, y: &mut sums[..] })?;
            }
        }
        if outputs == 0 {
            return Ok(());
        }
        for (y, sums) in y.chunks_mut(self.stride().max(1)).zip(sums.chunks_exact(outputs)) {
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = if accumulate { sum + *y } else { *sum };
            }
        }
        Ok(())
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let LinearLayer { inputs, outputs, transposed, function, accumulate, tile, strides } = self.layer;
        let tile = tile.map_or_else(String::new, |tile| format!(", {tile:?}"));
        let function = function.map_or_else(String::new, |function| format!(", {function:?}"));
        let bias = if self.bias.is_some() { ", bias" } else { "" };
        let added = if accumulate { ", added" } else { "" };
        let apart = if strides == Strides::default() { "" } else { ", strides" };
        let turned = if transposed { ", transposed" } else { "" };
        let (dtype, result) = (self.x.dtype(), self.y.dtype());
        format!(
            "linear {} x {inputs} to {outputs}, {dtype} to {result}{bias}{function}{added}{turned}{apart}{tile}",
            self.rows
        )
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        let mut all = vec![self.x.clone(), self.weights.clone()];
        all.extend(self.bias.clone().map(HostBuffer::from));
        all
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![self.y.clone()]
    }

    fn expected(&self) -> Vec<Expected> {
        let LinearLayer { inputs, outputs, transposed, strides, function, accumulate, .. } = self.layer;
        let (x, weights, mut y) = (self.x.to_f64(), self.weights.to_f64(), self.y.to_f64());
        let mut scale: Vec<f64> = y.iter().map(|value| value.abs()).collect();
        for row in 0..self.rows {
            for output in 0..outputs {
                let x = &x[row * strides.x.unwrap_or(inputs)..][..inputs];
                let weight = |input: usize| match transposed {
                    true => weights[input * strides.weights.unwrap_or(outputs) + output],
                    false => weights[output * strides.weights.unwrap_or(inputs) + input],
                };
                let products = || x.iter().enumerate().map(|(input, x)| x * weight(input));
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]));
                let sum = bias + products().sum::<f64>();
                let size = bias.abs() + products().map(f64::abs).sum::<f64>();
                let value = match function {
                    None => sum,
                    Some(Function::Tanh) => sum.tanh(),
                    Some(Function::Relu) if sum.is_nan() => sum,
                    Some(Function::Relu) => sum.max(0.0),
                    Some(Function::Activation(activation)) => exact_activation(activation, sum),
                };
                let at = row * self.stride() + output;
                scale[at] = 1.2 * size + if accumulate { y[at].abs() } else { 0.0 };
                y[at] = if accumulate { y[at] + value } else { value };
            }
        }
        // Half a unit in the last place for each sum of a step, at worst all in one direction.
        let relative = 2e-6 + 6e-8 * inputs as f64;
        let tolerance = Tolerance::rounded(self.y.dtype(), relative, "products are added up one after another in f32");
        if scale.iter().any(|scale| !scale.is_finite()) {
            return vec![Expected::values(y, tolerance.with_absolute(1e-4))];
        }
        vec![Expected::scaled(y, scale, tolerance)]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        Some(self.on_cpu(workers, inputs[0].f32()?, inputs[1].f32()?, outputs[0].f32_mut()?))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.x.dtype(), T => self.typed::<T>(inputs, outputs))
    }

    /// Each row alone, computed by every kernel that there is: tiles have the same order of sums.
    fn parts(&self) -> Vec<Part> {
        let LinearLayer { inputs, outputs, strides, .. } = self.layer;
        let mut rows = vec![0, self.rows / 2, self.rows.saturating_sub(1)];
        rows.dedup();
        let dtype = self.x.dtype();
        let mut all = Vec::new();
        for row in rows.into_iter().filter(|&row| row < self.rows) {
            for tile in tiles(dtype).iter().copied().map(Some).chain([None]) {
                let (x, y) = (row * strides.x.unwrap_or(inputs), row * self.stride());
                let layer = LinearLayer { tile, strides: Strides { x: None, y: None, ..strides }, ..self.layer };
                let alone = Self {
                    layer,
                    rows: 1,
                    x: self.x.slice(x..x + inputs),
                    y: self.y.slice(y..y + outputs),
                    ..self.clone()
                };
                all.push(Part { problem: Box::new(alone), pieces: vec![(0, y..y + outputs)] });
            }
        }
        all
    }

    fn work(&self) -> Work {
        let bytes = self.x.bytes().len() + self.weights.bytes().len() + self.y.bytes().len();
        let operations = 2.0 * self.rows as f64 * self.layer.inputs as f64 * self.layer.outputs as f64;
        Work { bytes: bytes as f64, operations }
    }
}
