//! The table of cases, with the answers in double precision.

use super::launch::Product;
use super::{BLOCK, GROUP, Nf4, Quantised, Values};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::gemm::{GemmError, MatmulOptions, Matrix, MatrixMut};
use crate::launch::{Buffer, DType, Float, Launch, ShapeError, for_float};
use crate::workers::{Serial, Workers};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

pub(crate) const FAMILY: Family = Family { name: "nf4", cases, benches };

/// The buffers of a quantised matrix.
#[derive(Clone)]
struct Quantity {
    nf4: Nf4,
    codes: Vec<u8>,
    scales: Vec<u8>,
    largest: Vec<f32>,
    mean: Vec<f32>,
}

#[derive(Clone)]
struct Quantising {
    nf4: Nf4,
    weights: HostBuffer,
}

#[derive(Clone)]
struct Unquantising {
    from: Quantity,
    dtype: DType,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// y = x·Wᵀ.
    Forward,
    /// dx = dy·W.
    Transposed,
    /// y = x·Wᵀ, each token by itself.
    Vector,
}

#[derive(Clone)]
struct Multiplying {
    weights: Quantity,
    way: Way,
    x: HostBuffer,
    bias: Option<HostBuffer>,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for (rows, columns) in [
            (0, 7),
            (1, 1),
            (3, 21),
            (1, 64),
            (2, 96),
            (5, 128),
            (37, 65),
            (270, 64),
            (1 + random.below(20), random.length(300)),
        ] {
            let weights = random.buffer(dtype, rows * columns, 0.0, 0.02);
            all.push(Box::new(Quantising { nf4: Nf4 { rows, columns }, weights }));
            let from = Quantity::random(rows, columns, &mut random);
            all.push(Box::new(Unquantising { from, dtype }));
        }
    }
    all.extend(special_values());
    for (tokens, rows, columns) in [
        (0, 3, 64),
        (1, 1, 1),
        (2, 0, 64),
        (2, 3, 0),
        (3, 5, 64),
        (5, 19, 33),
        (2, 130, 128),
        (67, 20, 192),
        (2, 70, 200),
        (1 + random.below(9), 1 + random.below(40), random.length(150)),
    ] {
        for way in [Way::Forward, Way::Transposed, Way::Vector] {
            for dtype in [DType::Bf16, DType::F16] {
                let with_bias = random.below(2) == 0;
                all.push(Box::new(Multiplying::new(tokens, [rows, columns], way, dtype, with_bias, &mut random)));
            }
        }
    }
    let mut case = Multiplying::new(3, [17, 64], Way::Forward, DType::Bf16, false, &mut random);
    if let Some(x) = case.x.bf16_mut() {
        (x[5], x[70]) = (bf16::NAN, bf16::INFINITY);
    }
    all.push(Box::new(case));
    all
}

/// Zeros, a block of one value, the largest magnitude below zero, halfway values, the largest and the smallest numbers, and
/// what is not a number or infinite.
fn special_values() -> Vec<Box<dyn Problem>> {
    let mut weights = vec![0.0_f32; BLOCK];
    weights.extend([-0.75; BLOCK]);
    weights.extend((0..BLOCK).map(|i| if i == 40 { -8.0 } else { i as f32 / 10.0 }));
    weights.extend((0..BLOCK).map(|i| if i == 0 { 1.0 } else { super::table::CODE_BOUNDS[i % 15] }));
    weights.extend((0..BLOCK).map(|i| if i == 3 { f32::MAX } else { 1e30 }));
    weights.extend((0..BLOCK).map(|i| f32::from_bits(i as u32)));
    weights.extend([0.0, -0.0, 0.0]);
    let finite = weights.clone();
    let zeros = vec![0.0; 3 * BLOCK + 5];
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    (weights[70], weights[150]) = (f32::NAN, f32::INFINITY);
    for values in [finite, zeros, weights] {
        let nf4 = Nf4 { rows: 1, columns: values.len() };
        all.push(Box::new(Quantising { nf4, weights: HostBuffer::F32(values) }));
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(1);
    let columns = 4096;
    let rows = (bytes / 4 / columns).max(64);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    let weights = random.buffer(DType::F32, rows * columns, 0.0, 0.02);
    all.push(Box::new(Quantising { nf4: Nf4 { rows, columns }, weights }));
    let from = Quantity::random(rows, columns, &mut random);
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        all.push(Box::new(Unquantising { from: from.clone(), dtype }));
    }
    for (tokens, way) in [
        (1, Way::Vector),
        (1, Way::Forward),
        (8, Way::Forward),
        (64, Way::Forward),
        (512, Way::Forward),
        (8, Way::Transposed),
        (512, Way::Transposed),
    ] {
        let inputs = if way == Way::Transposed { rows } else { columns };
        let x = random.buffer(DType::Bf16, tokens * inputs, 0.0, 1.0);
        all.push(Box::new(Multiplying { weights: from.clone(), way, x, bias: None }));
    }
    all
}

impl Quantity {
    fn empty(nf4: Nf4) -> Self {
        let (codes, scales) = (vec![0; nf4.code_bytes()], vec![0; nf4.blocks()]);
        Self { nf4, codes, scales, largest: vec![0.0; nf4.groups()], mean: vec![0.0] }
    }

    /// Random weights of deviation 0.02, quantised.
    fn random(rows: usize, columns: usize, random: &mut Random) -> Self {
        let nf4 = Nf4 { rows, columns };
        let weights = random.buffer(DType::F32, nf4.len(), 0.0, 0.02);
        let mut quantity = Self::empty(nf4);
        if let Some(weights) = weights.f32() {
            // The lengths are those that the matrix has.
            let _ = nf4.quantise(&Serial, Values::F32(weights), quantity.slices_mut());
        }
        quantity
    }

    fn slices_mut(&mut self) -> Quantised<&mut [u8], &mut [f32]> {
        let Self { codes, scales, largest, mean, .. } = self;
        Quantised { codes, scales, largest, mean }
    }

    fn buffers(&self) -> [HostBuffer; 4] {
        let Self { codes, scales, largest, mean, .. } = self.clone();
        [HostBuffer::U8(codes), HostBuffer::U8(scales), HostBuffer::F32(largest), HostBuffer::F32(mean)]
    }

    /// The exact products of numbers and scales, the scales being single-precision numbers.
    fn values(&self) -> Vec<f64> {
        (0..self.nf4.len())
            .map(|i| {
                let pair = self.codes[i / 2];
                let code = usize::from(if i % 2 == 0 { pair >> 4 } else { pair & 15 });
                let block = i / BLOCK;
                let part = f64::from(super::SCALES[usize::from(self.scales[block])]);
                let product = (part * f64::from(self.largest[block / GROUP])) as f32;
                let scale = (f64::from(product) + f64::from(self.mean[0])) as f32;
                f64::from(super::CODES[code]) * f64::from(scale)
            })
            .collect()
    }
}

/// Weights rounded to single precision and then to the type, as what is quantised is given back.
fn rounded(dtype: DType, values: &[f64]) -> Vec<f64> {
    let singles = values.iter().map(|&value| value as f32);
    match dtype {
        DType::Bf16 => singles.map(|value| bf16::from_f32(value).to_f64()).collect(),
        DType::F16 => singles.map(|value| f16::from_f32(value).to_f64()).collect(),
        _ => singles.map(f64::from).collect(),
    }
}

/// The buffers of a quantised matrix in the memory of a machine, which are the inputs from the first on.
fn view<'a>(inputs: &[AnyBuffer<'a>]) -> Result<Quantised<Buffer<'a, u8>, Buffer<'a, f32>>, ShapeError> {
    Ok(Quantised {
        codes: inputs[0].read()?,
        scales: inputs[1].read()?,
        largest: inputs[2].read()?,
        mean: inputs[3].read()?,
    })
}

/// The same on the CPU.
fn slices(inputs: &[HostBuffer]) -> Option<Quantised<&[u8], &[f32]>> {
    Some(Quantised {
        codes: inputs[0].u8()?,
        scales: inputs[1].u8()?,
        largest: inputs[2].f32()?,
        mean: inputs[3].f32()?,
    })
}

impl Problem for Quantising {
    fn label(&self) -> String {
        format!("quantises {} x {} {}", self.nf4.rows, self.nf4.columns, self.weights.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.weights.clone()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![
            HostBuffer::unwritten(DType::U8, self.nf4.code_bytes()),
            HostBuffer::unwritten(DType::U8, self.nf4.blocks()),
            HostBuffer::unwritten(DType::F32, self.nf4.groups()),
            HostBuffer::unwritten(DType::F32, 1),
            HostBuffer::unwritten(DType::F32, self.nf4.blocks()),
        ]
    }

    /// Every step in single precision, one number at a time.
    fn expected(&self) -> Vec<Expected> {
        let weights: Vec<f32> = self.weights.to_f64().into_iter().map(|value| value as f32).collect();
        let magnitude =
            |largest: f32, value: &f32| if largest.is_nan() || value.abs() <= largest { largest } else { value.abs() };
        let scales: Vec<f32> = weights.chunks(BLOCK).map(|block| block.iter().fold(0.0, magnitude)).collect();
        let nearest = |map: &[f32], value: f32, largest: f32| {
            // Not `max`, which would leave out what is not a number.
            let scaled = value * (1.0 / if largest < 1e-38 { 1e-38 } else { largest });
            map.windows(2).filter(|pair| scaled > (pair[0] + pair[1]) / 2.0 || scaled.is_nan()).count() as f64
        };
        let codes: Vec<f64> =
            weights.iter().enumerate().map(|(i, &value)| nearest(&super::CODES, value, scales[i / BLOCK])).collect();
        let codes = codes.chunks(2).map(|pair| 16.0 * pair[0] + pair.get(1).copied().unwrap_or(7.0)).collect();
        let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
        let mean = if scales.is_empty() { 0.0 } else { (sum / scales.len() as f64) as f32 };
        let centred: Vec<f32> = scales.iter().map(|scale| scale - mean).collect();
        let largest: Vec<f32> = centred.chunks(GROUP).map(|group| group.iter().fold(0.0, magnitude)).collect();
        let of_scales =
            centred.iter().enumerate().map(|(i, &value)| nearest(&super::SCALES, value, largest[i / GROUP])).collect();
        let exact = |values| Expected::values(values, Tolerance::EXACT);
        let wide = |values: Vec<f32>| exact(values.into_iter().map(f64::from).collect());
        vec![exact(codes), exact(of_scales), wide(largest), wide(vec![mean]), Expected::anything()]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let weights = match &inputs[0] {
            HostBuffer::Bf16(values) => Values::Bf16(values),
            HostBuffer::F16(values) => Values::F16(values),
            other => Values::F32(other.f32()?),
        };
        let [codes, scales, largest, mean, ..] = outputs else { return None };
        let to = Quantised {
            codes: codes.u8_mut()?,
            scales: scales.u8_mut()?,
            largest: largest.f32_mut()?,
            mean: mean.f32_mut()?,
        };
        Some(self.nf4.quantise(workers, weights, to))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        let to = Quantised {
            codes: outputs[0].write()?,
            scales: outputs[1].write()?,
            largest: outputs[2].write()?,
            mean: outputs[3].write()?,
        };
        let workspace = outputs[4].write()?;
        for_float!(self.weights.dtype(), T => self.nf4.quantise_launches::<T>(inputs[0].read()?, &to, &workspace))
    }

    fn work(&self) -> Work {
        let bytes = self.weights.bytes().len() + self.nf4.code_bytes() + self.nf4.blocks();
        Work { bytes: bytes as f64, operations: 0.0 }
    }
}

impl Problem for Unquantising {
    fn label(&self) -> String {
        format!("unquantises {} x {} to {}", self.from.nf4.rows, self.from.nf4.columns, self.dtype)
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        self.from.buffers().to_vec()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(self.dtype, self.from.nf4.len())]
    }

    fn expected(&self) -> Vec<Expected> {
        vec![Expected::values(rounded(self.dtype, &self.from.values()), Tolerance::EXACT)]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let (nf4, from) = (self.from.nf4, slices(inputs)?);
        Some(match &mut outputs[0] {
            HostBuffer::Bf16(to) => nf4.dequantise(workers, from, to),
            HostBuffer::F16(to) => nf4.dequantise(workers, from, to),
            other => nf4.dequantise(workers, from, other.f32_mut()?),
        })
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        let from = view(inputs)?;
        for_float!(self.dtype, T => self.from.nf4.dequantise_launches::<T>(&from, &outputs[0].write()?))
    }

    fn work(&self) -> Work {
        let bytes = self.from.codes.len() + self.from.scales.len() + self.from.nf4.len() * self.dtype.bytes();
        Work { bytes: bytes as f64, operations: 0.0 }
    }
}

impl Multiplying {
    fn new(
        tokens: usize,
        [rows, columns]: [usize; 2],
        way: Way,
        dtype: DType,
        with_bias: bool,
        random: &mut Random,
    ) -> Self {
        let weights = Quantity::random(rows, columns, random);
        let (inputs, outputs) = if way == Way::Transposed { (rows, columns) } else { (columns, rows) };
        let x = random.buffer(dtype, tokens * inputs, 0.0, 1.0);
        let bias = with_bias.then(|| random.buffer(dtype, outputs, 0.0, 0.1));
        Self { weights, way, x, bias }
    }

    /// Elements of a token before and after.
    fn widths(&self) -> (usize, usize) {
        let Nf4 { rows, columns } = self.weights.nf4;
        if self.way == Way::Transposed { (rows, columns) } else { (columns, rows) }
    }

    fn tokens(&self) -> usize {
        self.x.len().checked_div(self.widths().0).unwrap_or(0)
    }

    fn typed<'a, T: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let bias = self.bias.is_some().then(|| inputs[5].read::<T>()).transpose()?;
        let product = Product { x: inputs[4].read::<T>()?, weights: view(inputs)?, bias, y: outputs[0].write()? };
        match self.way {
            Way::Forward => self.weights.nf4.matmul_launches(&product),
            Way::Transposed => self.weights.nf4.matmul_transposed_launches(&product),
            Way::Vector => self.weights.nf4.vector_launches(&product),
        }
    }

    /// The twin's product: of bf16, in single precision.
    fn multiply(&self, inputs: &[HostBuffer]) -> Option<Result<Vec<f32>, GemmError>> {
        let ((before, after), tokens) = (self.widths(), self.tokens());
        let (weights, x) = (slices(inputs)?, inputs[4].bf16()?);
        let bias: Option<Vec<f32>> =
            self.bias.as_ref().map(|bias| bias.to_f64().into_iter().map(|value| value as f32).collect());
        let options = MatmulOptions { bias: bias.as_deref(), ..Default::default() };
        let mut y = vec![0.0; tokens * after];
        let mut solve = || {
            let x = Matrix::row_major(crate::gemm::Values::Bf16(x.reinterpret_cast()), tokens, before)?;
            let y = MatrixMut::row_major(&mut y, tokens, after)?;
            match self.way {
                Way::Transposed => self.weights.nf4.matmul_transposed(weights, x, y, &options),
                _ => self.weights.nf4.matmul(weights, x, y, &options),
            }
        };
        let result = solve();
        Some(result.map(|()| y))
    }
}

impl Problem for Multiplying {
    fn label(&self) -> String {
        let Nf4 { rows, columns } = self.weights.nf4;
        let bias = if self.bias.is_some() { " with bias" } else { "" };
        format!("{:?} product{bias}, {} tokens by {rows} x {columns}, {}", self.way, self.tokens(), self.x.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        self.weights.buffers().into_iter().chain([self.x.clone()]).chain(self.bias.clone()).collect()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(self.x.dtype(), self.tokens() * self.widths().1)]
    }

    fn expected(&self) -> Vec<Expected> {
        let (before, after) = self.widths();
        let columns = self.weights.nf4.columns;
        let (weights, x) = (rounded(self.x.dtype(), &self.weights.values()), self.x.to_f64());
        let bias = self.bias.as_ref().map(HostBuffer::to_f64);
        let (mut values, mut scales) = (Vec::new(), Vec::new());
        for x in x.chunks_exact(before.max(1)) {
            for output in 0..after {
                let bias = bias.as_ref().map_or(0.0, |bias| bias[output]);
                let (mut sum, mut scale) = (bias, bias.abs());
                for (k, x) in x.iter().enumerate() {
                    let place = if self.way == Way::Transposed { k * columns + output } else { output * columns + k };
                    sum += x * weights[place];
                    scale += (x * weights[place]).abs();
                }
                values.push(sum);
                scales.push(scale);
            }
        }
        let reason = "sums in single precision of exact products, and one rounding";
        let tolerance = Tolerance::rounded(self.x.dtype(), 2e-6, reason);
        vec![Expected::scaled(values, scales, tolerance)]
    }

    fn cpu(
        &self,
        _: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let to = outputs[0].bf16_mut()?;
        let refused = |_| ShapeError::Dimension { name: "product", allowed: "another shape", actual: self.x.len() };
        let result = self.multiply(inputs)?.map_err(refused);
        Some(result.map(|y| to.convert_from_f32_slice(&y)))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.x.dtype(), T => self.typed::<T>(inputs, outputs))
    }

    /// The last token alone.
    fn parts(&self) -> Vec<Part> {
        let (before, after) = self.widths();
        let Some(last) = self.tokens().checked_sub(1) else { return Vec::new() };
        let alone = Self { x: self.x.slice(last * before..(last + 1) * before), ..self.clone() };
        vec![Part { problem: Box::new(alone), pieces: vec![(0, last * after..(last + 1) * after)] }]
    }

    fn work(&self) -> Work {
        let weights = self.weights.codes.len() + self.weights.scales.len();
        let bytes = weights + self.x.bytes().len() + self.tokens() * self.widths().1 * self.x.dtype().bytes();
        let operations = 2.0 * (self.tokens() * self.weights.nf4.len()) as f64;
        Work { bytes: bytes as f64, operations }
    }
}
