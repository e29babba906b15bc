//! The table of cases, with the answers in double precision.

use super::{AdamW, Tensor, clip, clip_launches, clip_workspace_len};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Float, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "adamw", cases, benches };

/// Where there is a `most`, the norm is computed and gradients are clipped, and the outputs end in its result and a workspace.
#[derive(Clone)]
struct Case {
    adamw: AdamW,
    number: u32,
    most: Option<f32>,
    copies: bool,
    gradients: Vec<HostBuffer>,
    /// Parameters, first and second moment of each tensor.
    states: Vec<[HostBuffer; 3]>,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    let lengths = [16_385, 0, 7, 16_384, 3, 1, 0, 40_000];
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for (tensors, number, most) in [(0, 1, Some(1.0)), (6, 1, None), (3, 2, Some(1e9)), (8, 7, Some(0.5))] {
            all.push(Box::new(Case::new(&lengths[..tensors], number, most, dtype, &mut random)));
        }
        let lengths: Vec<usize> = (0..random.below(7)).map(|_| random.length(3000)).collect();
        all.push(Box::new(Case::new(&lengths, 1 + random.below(2000) as u32, Some(1.0), dtype, &mut random)));
    }
    for most in [None, Some(1.0)] {
        let mut special = Case::new(&[20, 9], 3, most, DType::F32, &mut random);
        if let Some(gradients) = special.gradients[0].f32_mut() {
            (gradients[3], gradients[4]) = (f32::NAN, 0.0);
        }
        all.push(Box::new(special));
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        for most in [None, Some(1.0)] {
            all.push(Box::new(Case::new(&[bytes / 16; 4], 10, most, dtype, &mut Random::new(1))));
        }
    }
    all
}

impl Case {
    fn new(lengths: &[usize], number: u32, most: Option<f32>, dtype: DType, random: &mut Random) -> Self {
        let mut state = |len: usize| {
            let second = random.buffer(DType::F32, len, 0.0, 0.1).to_f64();
            [
                random.buffer(DType::F32, len, 0.0, 1.0),
                random.buffer(DType::F32, len, 0.0, 0.1),
                HostBuffer::from_f64(DType::F32, second.into_iter().map(|value| value * value + 1e-4)),
            ]
        };
        let states = lengths.iter().map(|&len| state(len)).collect();
        Self {
            adamw: AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 },
            number,
            most,
            copies: dtype != DType::F32,
            gradients: lengths.iter().map(|&len| random.buffer(dtype, len, 0.0, 1.0)).collect(),
            states,
        }
    }

    fn dtype(&self) -> DType {
        self.gradients.first().map_or(DType::F32, HostBuffer::dtype)
    }

    /// Outputs of one tensor: parameters, moments, and the copy.
    fn outputs_each(&self) -> usize {
        3 + usize::from(self.copies)
    }

    fn elements(&self) -> usize {
        self.gradients.iter().map(HostBuffer::len).sum()
    }

    fn typed<'a, T: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let gradients = inputs.iter().map(AnyBuffer::read::<T>).collect::<Result<Vec<_>, _>>()?;
        let mut launches = Vec::new();
        let mut result = None;
        if let (Some(most), [.., clipped, workspace]) = (self.most, outputs) {
            launches.extend(clip_launches(&gradients, most, workspace.write()?, clipped.write()?)?);
            result = Some(clipped.read::<f32>()?);
        }
        let mut tensors = Vec::new();
        for (outputs, &gradients) in outputs.chunks(self.outputs_each()).zip(&gradients) {
            tensors.push(Tensor {
                parameters: outputs[0].write::<f32>()?,
                gradients,
                first_moment: outputs[1].write()?,
                second_moment: outputs[2].write()?,
                copy: outputs.get(3).filter(|_| self.copies).map(AnyBuffer::write::<T>).transpose()?,
            });
        }
        launches.extend(self.adamw.step_launches(self.number, result, &tensors)?);
        Ok(launches)
    }

    /// The norm, and what gradients are multiplied by.
    fn clipped(&self) -> (f64, f64) {
        let norm = self.gradients.iter().flat_map(HostBuffer::to_f64).map(|value| value * value).sum::<f64>().sqrt();
        let most = f64::from(self.most.unwrap_or(f32::INFINITY));
        let factor = if norm <= most || self.most.is_none() { 1.0 } else { most / (norm + 1e-6) };
        (norm, factor)
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let clipped = if self.most.is_some() { ", clipped" } else { "" };
        let (tensors, elements, dtype) = (self.gradients.len(), self.elements(), self.dtype());
        format!("AdamW step {}{clipped}, {tensors} tensors of {elements} elements, gradients {dtype}", self.number)
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        self.gradients.clone()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let mut outputs = Vec::new();
        for (state, gradients) in self.states.iter().zip(&self.gradients) {
            outputs.extend(state.iter().cloned());
            if self.copies {
                outputs.push(HostBuffer::unwritten(gradients.dtype(), gradients.len()));
            }
        }
        if self.most.is_some() {
            outputs.push(HostBuffer::unwritten(DType::F32, 2));
            outputs.push(HostBuffer::unwritten(
                DType::F32,
                clip_workspace_len(self.gradients.iter().map(HostBuffer::len)),
            ));
        }
        outputs
    }

    fn expected(&self) -> Vec<Expected> {
        let (norm, factor) = self.clipped();
        let AdamW { learning_rate, beta1, beta2, epsilon, weight_decay } = self.adamw;
        let correction = |beta: f64| 1.0 - beta.powf(f64::from(self.number));
        let reason = "a few roundings each, and those of the settings to single precision";
        let exact = Tolerance::rounded(DType::F32, 3e-6, reason);
        let mut expected = Vec::new();
        for (state, gradients) in self.states.iter().zip(&self.gradients) {
            let [parameters, first, second] = state.each_ref().map(HostBuffer::to_f64);
            let gradients = gradients.to_f64();
            let mut results = [Vec::new(), Vec::new(), Vec::new()];
            let mut scales = [Vec::new(), Vec::new()];
            for i in 0..gradients.len() {
                let gradient = gradients[i] * factor;
                let m = beta1 * first[i] + (1.0 - beta1) * gradient;
                // 1 - β₂ loses digits when β₂ is rounded to single precision.
                let v = beta2 * second[i] + (1.0 - beta2) * gradient * gradient;
                let below = v.sqrt() / correction(beta2).sqrt() + epsilon;
                let change = learning_rate / correction(beta1) * m / below;
                results[0].push(parameters[i] * (1.0 - learning_rate * weight_decay) - change);
                results[1].push(m);
                results[2].push(v);
                let m_scale = first[i].abs() + gradient.abs();
                scales[0].push(parameters[i].abs() + learning_rate / correction(beta1) * m_scale / below * 10.0);
                scales[1].push(m_scale);
            }
            let [result, m, v] = results;
            let [scale, m_scale] = scales;
            let copy = self.copies.then(|| {
                let tolerance = Tolerance::rounded(self.dtype(), 3e-6, reason);
                Expected::scaled(result.clone(), scale.clone(), tolerance)
            });
            expected.push(Expected::scaled(result, scale, exact));
            expected.push(Expected::scaled(m, m_scale, exact));
            let tolerance = Tolerance { relative: 5e-5, reason: "1 - beta2 has four digits less than beta2", ..exact };
            expected.push(Expected::values(v, tolerance));
            expected.extend(copy);
        }
        if self.most.is_some() {
            let tolerance = Tolerance::rounded(DType::F32, 1e-5, "squares are added up in single precision");
            expected.push(Expected::values(vec![norm, factor], tolerance));
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
        if self.copies {
            return None;
        }
        let gradients = inputs.iter().map(HostBuffer::f32).collect::<Option<Vec<_>>>()?;
        let clipped = self.most.map(|most| clip(workers, &gradients, most));
        let mut tensors = Vec::new();
        let states = outputs.len() - if self.most.is_some() { 2 } else { 0 };
        let (states, rest) = outputs.split_at_mut(states);
        for (state, gradients) in states.chunks_exact_mut(3).zip(gradients) {
            let [parameters, first, second] = state else { return None };
            tensors.push(Tensor {
                parameters: parameters.f32_mut()?,
                gradients,
                first_moment: first.f32_mut()?,
                second_moment: second.f32_mut()?,
                copy: None,
            });
        }
        let result = self.adamw.step(workers, self.number, clipped, &mut tensors);
        if let (Some(clipped), Some(to)) = (clipped, rest.first_mut()) {
            to.f32_mut()?.copy_from_slice(&clipped);
        }
        Some(result)
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.dtype(), T => self.typed::<T>(inputs, outputs))
    }

    /// The first tensor alone, where gradients are not clipped by the norm of all.
    fn parts(&self) -> Vec<Part> {
        if self.most.is_some() || self.gradients.is_empty() {
            return Vec::new();
        }
        let alone = Self { gradients: self.gradients[..1].to_vec(), states: self.states[..1].to_vec(), ..self.clone() };
        let pieces = (0..self.outputs_each()).map(|output| (output, 0..self.gradients[0].len())).collect();
        vec![Part { problem: Box::new(alone), pieces }]
    }

    fn work(&self) -> Work {
        let width = self.dtype().bytes();
        let each = 6 * 4 + width + if self.copies { width } else { 0 } + if self.most.is_some() { width } else { 0 };
        Work { bytes: (self.elements() * each) as f64, operations: 0.0 }
    }
}
