//! The table of cases, with the answers in double precision.

use super::{Embedding, EmbeddingBuffers, Norm, NormBuffers};
use super::{clamp, clamp_backward, clamp_backward_launches, clamp_launches};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Float, Launch, ShapeError, for_float};
use crate::norms::NormKind;
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "residual", cases, benches };

const TYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

#[derive(Clone)]
struct Gather {
    width: usize,
    tokens: HostBuffer,
    positions: Option<(HostBuffer, Vec<i32>)>,
    segment: Option<Vec<f32>>,
    ids: Vec<i32>,
}

#[derive(Clone)]
struct Normed {
    norm: Norm,
    /// Of y.
    dtype: DType,
    /// Where left out, z is normed in place.
    x: Option<Vec<f32>>,
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    z: Option<Vec<f32>>,
    has_y: bool,
}

#[derive(Clone)]
struct Clamped {
    most: f32,
    x: HostBuffer,
}

#[derive(Clone)]
struct ClampedBackward {
    most: f32,
    x: HostBuffer,
    gradient: HostBuffer,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in TYPES {
        for (count, width, vocabulary) in [(0, 4, 3), (1, 1, 1), (5, 7, 9), (3, 300, 4), (1 + random.below(9), 33, 20)]
        {
            all.push(Box::new(Gather::new(count, width, vocabulary, dtype, &mut random)));
        }
        for kind in [None, Some(NormKind::Rms), Some(NormKind::Layer)] {
            for (rows, width) in [(0, 8), (1, 1), (3, 7), (5, 64), (9, 33), (2, 1030), (random.length(20), 100)] {
                all.push(Box::new(Normed::new(kind, rows, width, dtype, &mut random)));
            }
        }
        for len in [0, 1, 9, 2053, random.length(3000)] {
            let mut x = random.buffer(dtype, len, 0.0, 2.0).to_f64();
            if len > 8 {
                (x[1], x[3], x[8]) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
            }
            let gradient = random.buffer(dtype, len, 0.0, 1.0);
            let x = HostBuffer::from_f64(dtype, x.into_iter());
            all.push(Box::new(ClampedBackward { most: 1.5, x: x.clone(), gradient }));
            all.push(Box::new(Clamped { most: 1.5, x }));
        }
    }
    // A value that is not a number stays in its row.
    let mut lost = Normed::new(Some(NormKind::Rms), 4, 12, DType::F32, &mut random);
    lost.x.get_or_insert_with(|| vec![1.0; 48])[14] = f32::NAN;
    all.push(Box::new(lost));
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(1);
    let (width, mut all) = (4096, Vec::<Box<dyn Problem>>::new());
    let rows = bytes / width / 4;
    for dtype in [DType::F32, DType::Bf16] {
        all.push(Box::new(Gather::new(rows, width, 1024, dtype, &mut random)));
        let norm = Norm { kind: Some(NormKind::Rms), width, epsilon: 1e-5, add: false };
        let values = |len| Some(vec![0.5; len]);
        let (x, weight) = (values(rows * width), values(width));
        all.push(Box::new(Normed { norm, dtype, x, weight, bias: None, z: None, has_y: true }));
    }
    all
}

impl Gather {
    fn new(count: usize, width: usize, vocabulary: usize, dtype: DType, random: &mut Random) -> Self {
        let rows = 1 + random.below(6);
        let ids = (0..count).map(|_| random.below(vocabulary) as i32).collect();
        let places = (0..count).map(|_| random.below(rows) as i32).collect();
        let positions = random.below(2) == 0;
        Self {
            width,
            tokens: random.buffer(dtype, vocabulary * width, 0.0, 1.0),
            positions: positions.then(|| (random.buffer(dtype, rows * width, 0.0, 1.0), places)),
            segment: (random.below(2) == 0).then(|| (0..width).map(|_| random.normal() as f32).collect()),
            ids,
        }
    }

    fn typed<'a, T: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let mut rest = inputs[2..].iter();
        let mut next = || rest.next().ok_or(ShapeError::Length { name: "inputs", expected: 3, actual: inputs.len() });
        let positions = match self.positions {
            Some(_) => Some((next()?.read::<T>()?, next()?.read::<i32>()?)),
            None => None,
        };
        let segment = if self.segment.is_some() { Some(next()?.read::<f32>()?) } else { None };
        let (tokens, ids) = (inputs[0].read::<T>()?, inputs[1].read::<i32>()?);
        let x = outputs[0].write()?;
        Embedding { width: self.width }.launches(EmbeddingBuffers { tokens, positions, segment, ids, x })
    }
}

impl Problem for Gather {
    fn label(&self) -> String {
        let with = |has, name| if has { name } else { "" };
        let positions = with(self.positions.is_some(), ", positions");
        let segment = with(self.segment.is_some(), ", segment");
        format!("embedding of {} x {} {}{positions}{segment}", self.ids.len(), self.width, self.tokens.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        let mut all = vec![self.tokens.clone(), self.ids.clone().into()];
        if let Some((table, places)) = &self.positions {
            all.extend([table.clone(), places.clone().into()]);
        }
        all.extend(self.segment.clone().map(HostBuffer::from));
        all
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(DType::F32, self.ids.len() * self.width)]
    }

    fn expected(&self) -> Vec<Expected> {
        let (tokens, width) = (self.tokens.to_f64(), self.width);
        let table = self.positions.as_ref().map(|(table, _)| table.to_f64());
        let mut x = Vec::new();
        for (token, &id) in self.ids.iter().enumerate() {
            for i in 0..width {
                let segment = self.segment.as_ref().map_or(0.0, |segment| f64::from(segment[i]));
                let place = self.positions.as_ref().map_or(0, |(_, places)| places[token] as usize);
                let position = table.as_ref().map_or(0.0, |table| table[place * width + i]);
                x.push(tokens[id as usize * width + i] + segment + position);
            }
        }
        let scale = vec![4.0; x.len()];
        vec![Expected::scaled(x, scale, Tolerance::rounded(DType::F32, 3e-7, "two additions"))]
    }

    fn cpu(
        &self,
        _: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let (tokens, ids) = (inputs[0].f32()?, inputs[1].i32()?);
        let positions = self.positions.is_some().then(|| Some((inputs[2].f32()?, inputs[3].i32()?)));
        let positions = match positions {
            Some(found) => Some(found?),
            None => None,
        };
        let (segment, x) = (self.segment.as_deref(), outputs[0].f32_mut()?);
        Some(Embedding { width: self.width }.forward(EmbeddingBuffers { tokens, positions, segment, ids, x }))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.tokens.dtype(), T => self.typed::<T>(inputs, outputs))
    }

    fn work(&self) -> Work {
        let values = self.ids.len() * self.width;
        Work { bytes: (values * (4 + self.tokens.dtype().bytes())) as f64, operations: 0.0 }
    }
}

impl Normed {
    fn new(kind: Option<NormKind>, rows: usize, width: usize, dtype: DType, random: &mut Random) -> Self {
        let mut values = |len: usize, mean: f64, has: bool| {
            has.then(|| (0..len).map(|_| (mean + random.normal()) as f32).collect::<Vec<f32>>())
        };
        let choice = (rows + width + dtype.bytes()) % 4;
        let in_place = choice == 1;
        let x = values(rows * width, 0.5, !in_place);
        let weight = values(width, 1.0, !(rows + width).is_multiple_of(3));
        let bias = values(width, 0.0, kind == Some(NormKind::Layer) || rows % 2 == 1);
        let z = values(rows * width, 0.5, choice > 0);
        let norm = Norm { kind, width, epsilon: 1e-5, add: choice > 1 };
        Self { norm, dtype, x, weight, bias, z, has_y: choice != 3 }
    }

    /// Rows, before and alone.
    fn source(&self) -> &[f32] {
        self.x.as_deref().or(self.z.as_deref()).unwrap_or_default()
    }

    fn typed<'a, T: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let mut rest = inputs.iter();
        let mut read = |has: bool| -> Result<_, ShapeError> {
            has.then(|| rest.next()).flatten().map(AnyBuffer::read::<f32>).transpose()
        };
        let (x, weight, bias) = (read(self.x.is_some())?, read(self.weight.is_some())?, read(self.bias.is_some())?);
        let z = self.z.is_some().then(|| outputs[0].write::<f32>()).transpose()?;
        let y = if self.has_y { outputs.last().map(AnyBuffer::write::<T>).transpose()? } else { None };
        self.norm.launches(NormBuffers { x, weight, bias, z, y })
    }
}

impl Problem for Normed {
    fn label(&self) -> String {
        let Norm { kind, width, add, .. } = self.norm;
        let kind = kind.map_or_else(|| "no".to_owned(), |kind| format!("{kind:?}"));
        let (rows, dtype) = (self.source().len().checked_div(width).unwrap_or(0), self.dtype);
        let to = match (self.z.is_some(), self.has_y) {
            (true, true) => "the stream and beside it",
            (true, false) => "the stream",
            _ => "a layer",
        };
        format!("{kind} norm {} {to}, {rows} x {width} {dtype}", if add { "added to" } else { "to" })
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        [&self.x, &self.weight, &self.bias].into_iter().flatten().cloned().map(HostBuffer::from).collect()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let mut all: Vec<HostBuffer> = self.z.iter().cloned().map(HostBuffer::from).collect();
        if self.has_y {
            all.push(HostBuffer::unwritten(self.dtype, self.source().len()));
        }
        all
    }

    fn expected(&self) -> Vec<Expected> {
        let Norm { kind, width, epsilon, add } = self.norm;
        let (mut values, mut scale) = (Vec::new(), Vec::new());
        for row in self.source().chunks_exact(width.max(1)) {
            let row: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
            let mean = if kind == Some(NormKind::Layer) { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / width as f64;
            let factor = if kind.is_some() { 1.0 / (variance + f64::from(epsilon)).sqrt() } else { 1.0 };
            for (i, value) in row.iter().enumerate() {
                let weight = self.weight.as_ref().map_or(1.0, |weight| f64::from(weight[i]));
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
                let before = if add { self.z.as_ref().map_or(0.0, |z| f64::from(z[values.len()])) } else { 0.0 };
                values.push((value - mean) * factor * weight + bias + before);
                scale.push((value.abs() + mean.abs()) * factor * weight.abs() + bias.abs() + before.abs() + 1.0);
            }
        }
        let reason = "rows are added up in single precision in up to 256 threads, each some ten values";
        let of = |dtype| Expected::scaled(values.clone(), scale.clone(), Tolerance::rounded(dtype, 2e-6, reason));
        let mut all = Vec::new();
        all.extend(self.z.is_some().then(|| of(DType::F32)));
        all.extend(self.has_y.then(|| of(self.dtype)));
        all
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        _: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        if self.dtype != DType::F32 {
            return None;
        }
        let (mut z, mut y) = (None, None);
        let mut rest = outputs.iter_mut();
        if self.z.is_some() {
            z = Some(rest.next()?.f32_mut()?);
        }
        if self.has_y {
            y = Some(rest.next()?.f32_mut()?);
        }
        let buffers =
            NormBuffers { x: self.x.as_deref(), weight: self.weight.as_deref(), bias: self.bias.as_deref(), z, y };
        Some(self.norm.forward(workers, buffers))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.dtype, T => self.typed::<T>(inputs, outputs))
    }

    fn parts(&self) -> Vec<Part> {
        let width = self.norm.width;
        let rows = self.source().len().checked_div(width).unwrap_or(0);
        let outputs = self.outputs().len();
        let mut chosen = vec![0, rows / 2, rows.saturating_sub(1)];
        chosen.dedup();
        chosen
            .into_iter()
            .filter(|&row| row < rows)
            .map(|row| {
                let range = row * width..(row + 1) * width;
                let slice = |values: &Option<Vec<f32>>| values.as_ref().map(|values| values[range.clone()].to_vec());
                let alone = Self { x: slice(&self.x), z: slice(&self.z), ..self.clone() };
                let pieces = (0..outputs).map(|output| (output, range.clone())).collect();
                Part { problem: Box::new(alone), pieces }
            })
            .collect()
    }

    fn work(&self) -> Work {
        let bytes: usize = self.inputs().iter().chain(&self.outputs()).map(|buffer| buffer.bytes().len()).sum();
        Work { bytes: bytes as f64, operations: 0.0 }
    }
}

impl Problem for Clamped {
    fn label(&self) -> String {
        format!("clamp of {} {}", self.x.len(), self.x.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        Vec::new()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![self.x.clone()]
    }

    fn expected(&self) -> Vec<Expected> {
        let most = f64::from(self.most);
        let within = |value: f64| if value.is_nan() { value } else { value.clamp(-most, most) };
        vec![Expected::values(self.x.to_f64().into_iter().map(within).collect(), Tolerance::EXACT)]
    }

    fn cpu(&self, _: &dyn Workers, _: &[HostBuffer], outputs: &mut [HostBuffer]) -> Option<Result<(), ShapeError>> {
        clamp(self.most, outputs[0].f32_mut()?);
        Some(Ok(()))
    }

    fn launches<'a>(&self, _: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.x.dtype(), T => clamp_launches::<T>(self.most, outputs[0].write()?))
    }

    fn work(&self) -> Work {
        Work { bytes: (2 * self.x.bytes().len()) as f64, operations: 0.0 }
    }
}

impl Problem for ClampedBackward {
    fn label(&self) -> String {
        format!("way back through a clamp of {} {}", self.x.len(), self.x.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.x.clone()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![self.gradient.clone()]
    }

    fn expected(&self) -> Vec<Expected> {
        let (most, gradient) = (f64::from(self.most), self.gradient.to_f64());
        let through = self.x.to_f64().into_iter().zip(gradient).map(|(x, g)| if x.abs() > most { 0.0 } else { g });
        vec![Expected::values(through.collect(), Tolerance::EXACT)]
    }

    fn cpu(
        &self,
        _: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        Some(clamp_backward(self.most, inputs[0].f32()?, outputs[0].f32_mut()?))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.x.dtype(), T => clamp_backward_launches::<T>(self.most, inputs[0].read()?, outputs[0].write()?))
    }

    fn work(&self) -> Work {
        Work { bytes: (3 * self.x.bytes().len()) as f64, operations: 0.0 }
    }
}
