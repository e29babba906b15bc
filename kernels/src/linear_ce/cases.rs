//! The table of cases.

use super::problem::{Case, Task};
use super::reference::log_sum_exp;
use super::{IGNORED, LinearCe};
use crate::check::{Family, HostBuffer, Problem, Random};
use crate::launch::DType;
use std::sync::OnceLock;

pub(crate) const FAMILY: Family = Family { name: "linear_ce", cases, benches };

/// What a case is made of beside its numbers.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    width: usize,
    vocabulary: usize,
    dtype: DType,
    /// Numbers are multiples of 1/4, so that logits are exact, and many are equal.
    exact: bool,
    bias: bool,
    scale: f32,
    smoothing: f32,
    /// Rows have lists of tokens.
    lists: bool,
    wide_ids: bool,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let plain = dtype == DType::F32;
        let shape = Shape {
            rows: 1,
            width: 1,
            vocabulary: 1,
            dtype,
            exact: true,
            bias: false,
            scale: 1.0,
            smoothing: 0.0,
            lists: false,
            wide_ids: false,
        };
        for (rows, width, vocabulary) in [(0, 3, 5), (2, 0, 9), (1, 1, 1), (3, 5, 0), (5, 40, 130), (33, 17, 300)] {
            let bias = vocabulary % 2 == 1;
            let shape = Shape { rows, width, vocabulary, bias, wide_ids: bias, ..shape };
            all.push(Box::new(Case::forward(shape, &mut random)));
            all.push(Box::new(Case::forward(Shape { lists: true, exact: false, ..shape }, &mut random)));
            all.push(Box::new(Case::backward(shape, rows != 2, rows != 5, &mut random)));
            all.push(Box::new(Case::together(shape, &mut random)));
        }
        let (rows, width) =
            (random.length(if plain { 40 } else { 12 }), 1 + random.length(if plain { 90 } else { 70 }));
        let vocabulary = 1 + random.length(if plain { 700 } else { 300 });
        let any = Shape { rows, width, vocabulary, exact: false, scale: 0.5, smoothing: 0.1, bias: true, ..shape };
        all.push(Box::new(Case::forward(any, &mut random)));
        all.push(Box::new(Case::forward(Shape { exact: true, wide_ids: true, ..any }, &mut random)));
        all.push(Box::new(Case::backward(any, true, true, &mut random)));
        if plain {
            all.push(Box::new(Case::together(any, &mut random)));
            all.push(Box::new(Case::together(Shape { smoothing: 0.0, ..any }, &mut random)));
        }
    }
    let long = Shape {
        rows: 1,
        width: 3,
        vocabulary: 9001,
        dtype: DType::F32,
        exact: true,
        bias: false,
        scale: 1.0,
        smoothing: 0.0,
        lists: false,
        wide_ids: false,
    };
    // More tokens than one step of a backward pass takes, and more rows.
    all.push(Box::new(Case::forward(long, &mut random)));
    all.push(Box::new(Case::backward(long, true, true, &mut random)));
    let many = Shape { rows: 1100, width: 2, vocabulary: 11, ..long };
    all.push(Box::new(Case::forward(many, &mut random)));
    all.push(Box::new(Case::backward(many, true, true, &mut random)));
    all.push(Box::new(Case::together(many, &mut random)));
    let half = Shape { rows: 130, width: 8, vocabulary: 129, dtype: DType::Bf16, ..long };
    all.push(Box::new(Case::forward(half, &mut random)));
    all.push(Box::new(Case::backward(half, true, true, &mut random)));
    for dtype in [DType::F32, DType::Bf16] {
        let forward = special(dtype, &mut random);
        all.push(Box::new(forward.clone().into_together(&mut random)));
        all.push(Box::new(forward));
    }
    all
}

/// Rows with numbers that are none and with infinite ones, beside ordinary rows.
fn special(dtype: DType, random: &mut Random) -> Case {
    let shape = Shape {
        rows: 6,
        width: 4,
        vocabulary: 300,
        dtype,
        exact: true,
        bias: true,
        scale: 1.0,
        smoothing: 0.0,
        lists: false,
        wide_ids: false,
    };
    let mut case = Case::forward(shape, random);
    let mut hidden = case.hidden.to_f64();
    hidden[5] = f64::NAN;
    hidden[9] = f64::INFINITY;
    case.hidden = HostBuffer::from_f64(dtype, hidden.into_iter());
    // Tokens that are never to be chosen, whole tiles of them.
    let mut bias = case.bias.to_f64();
    bias[..260].fill(f64::NEG_INFINITY);
    bias[7] = 0.25;
    case.bias = HostBuffer::from_f64(dtype, bias.into_iter());
    let mut ids = vec![7, 8, 9, 3, 299, 280];
    ids[5] = IGNORED as i32;
    case.ids = HostBuffer::I32(ids);
    case
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        let shape = Shape {
            rows: 512,
            width: 768,
            vocabulary: (bytes / 768 / dtype.bytes()).clamp(1000, 50_304),
            dtype,
            exact: false,
            bias: false,
            scale: 1.0,
            smoothing: 0.0,
            lists: false,
            wide_ids: false,
        };
        let mut random = Random::new(1);
        all.push(Box::new(Case::forward(shape, &mut random)));
        all.push(Box::new(Case::together(shape, &mut random)));
        all.push(Box::new(Case::backward(shape, true, false, &mut random)));
        all.push(Box::new(Case::backward(shape, true, true, &mut random)));
    }
    all
}

impl Case {
    fn forward(shape: Shape, random: &mut Random) -> Self {
        let Shape { rows, width, vocabulary, dtype, exact, .. } = shape;
        let mut numbers = |len: usize, deviation: f64| {
            if exact {
                HostBuffer::from_f64(dtype, (0..len).map(|_| (random.below(9) as f64 - 4.0) / 4.0))
            } else {
                random.buffer(dtype, len, 0.0, deviation)
            }
        };
        let hidden = numbers(rows * width, 1.0);
        let head = numbers(vocabulary * width, 3.0 / (width.max(9) as f64).sqrt());
        let bias = numbers(if shape.bias { vocabulary } else { 0 }, 1.0);
        let mut offsets = Vec::new();
        if shape.lists {
            offsets.push(0);
            for row in 0..rows {
                offsets.push(offsets[row] + random.below(if row == 1 { 40 } else { 4 }) as i64);
            }
        }
        let count = offsets.last().map_or(rows, |&last| last as usize);
        let ids = (0..count).map(|_| {
            if vocabulary == 0 || random.below(5) == 0 { IGNORED as f64 } else { random.below(vocabulary) as f64 }
        });
        let ids = HostBuffer::from_f64(if shape.wide_ids { DType::I64 } else { DType::I32 }, ids);
        let linear_ce = LinearCe { width, vocabulary, logit_scale: shape.scale, label_smoothing: shape.smoothing };
        Self {
            linear_ce,
            task: Task::Forward { exact },
            hidden,
            head,
            bias,
            ids,
            offsets,
            weights: Vec::new(),
            log_sum_exp: Vec::new(),
            before: 0.0,
            packed: OnceLock::new(),
        }
    }

    fn backward(shape: Shape, hidden: bool, head: bool, random: &mut Random) -> Self {
        let mut case = Self::forward(Shape { lists: false, ..shape }, random).with_weights(random);
        let [x, w, b] = case.numbers();
        let reference = case.reference(&x, &w, &b);
        case.log_sum_exp = (0..shape.rows).map(|row| log_sum_exp(&reference.logits(row)) as f32).collect();
        case.before = 0.5;
        case.task = Task::Backward { hidden, head };
        case
    }

    fn together(shape: Shape, random: &mut Random) -> Self {
        Self::forward(Shape { lists: false, ..shape }, random).into_together(random)
    }

    fn into_together(self, random: &mut Random) -> Self {
        Self { task: Task::Together, ..self.with_weights(random) }
    }

    /// With gradients of losses, of which those of ignored rows are not looked at.
    fn with_weights(mut self, random: &mut Random) -> Self {
        let weight = |id: &i64| if *id == IGNORED { f32::NAN } else { random.normal() as f32 };
        self.weights = self.ids().iter().map(weight).collect();
        self
    }
}
