//! The table of cases.

use super::launch::{
    BackwardWorkspace, GradientBuffers, HeadBuffers, HeadGradientBuffers, IdBuffer, RowBuffers, ScoreBuffers,
    TokenBuffers,
};
use super::reference::{Reference, best_and_rank, log_sum_exp};
use super::{Gradients, Head, HeadGradients, IGNORED, Ids, LinearCe, Scores, Tokens};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::gemm::{Matrix, Precision, Values};
use crate::launch::{Buffer, BufferMut, DType, Element, Launch, ShapeError, for_float};
use crate::workers::Workers;
use std::ops::Range;
use std::sync::OnceLock;

pub(crate) const FAMILY: Family = Family { name: "linear_ce", cases, benches };

const REASON: &str = "each logit is one chain of `width` products in single precision, which exponentials turn from absolute into \
                      relative errors, and sums over the vocabulary and over rows are pieces of at most 2048";
const LOSS_REASON: &str = "each logit is one chain of `width` products in single precision, and exponentials and logarithms \
                           are good to 1e-6";
const RANK_REASON: &str = "logits are exact here";

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Task {
    /// Losses, and the best token and ranks where logits are exact.
    Forward { exact: bool },
    /// Gradients of hidden states, of the head, or both.
    Backward { hidden: bool, head: bool },
}

#[derive(Clone)]
struct Case {
    linear_ce: LinearCe,
    task: Task,
    hidden: HostBuffer,
    head: HostBuffer,
    /// Empty where there is none.
    bias: HostBuffer,
    ids: HostBuffer,
    /// Empty where each row has one token.
    offsets: Vec<i64>,
    /// Of a backward pass.
    weights: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// What gradients of the head are added to.
    before: f32,
    packed: OnceLock<Head>,
}

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
        }
        let (rows, width) =
            (random.length(if plain { 40 } else { 12 }), 1 + random.length(if plain { 90 } else { 70 }));
        let vocabulary = 1 + random.length(if plain { 700 } else { 300 });
        let any = Shape { rows, width, vocabulary, exact: false, scale: 0.5, smoothing: 0.1, bias: true, ..shape };
        all.push(Box::new(Case::forward(any, &mut random)));
        all.push(Box::new(Case::forward(Shape { exact: true, wide_ids: true, ..any }, &mut random)));
        all.push(Box::new(Case::backward(any, true, true, &mut random)));
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
    let half = Shape { rows: 130, width: 8, vocabulary: 129, dtype: DType::Bf16, ..long };
    all.push(Box::new(Case::forward(half, &mut random)));
    all.push(Box::new(Case::backward(half, true, true, &mut random)));
    for dtype in [DType::F32, DType::Bf16] {
        all.push(Box::new(special(dtype, &mut random)));
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
        let mut case = Self::forward(Shape { lists: false, ..shape }, random);
        let [x, w, b] = case.numbers();
        let reference = case.reference(&x, &w, &b);
        case.log_sum_exp = (0..shape.rows).map(|row| log_sum_exp(&reference.logits(row)) as f32).collect();
        // The weight of an ignored row is not looked at.
        let weight = |id: &i64| if *id == IGNORED { f32::NAN } else { random.normal() as f32 };
        case.weights = case.ids().iter().map(weight).collect();
        case.before = 0.5;
        case.task = Task::Backward { hidden, head };
        case
    }

    fn numbers(&self) -> [Vec<f64>; 3] {
        [self.hidden.to_f64(), self.head.to_f64(), self.bias.to_f64()]
    }

    fn reference<'a>(&self, hidden: &'a [f64], head: &'a [f64], bias: &'a [f64]) -> Reference<'a> {
        let bias = (!self.bias.is_empty()).then_some(bias);
        Reference { linear_ce: self.linear_ce, hidden, head, bias }
    }

    fn ids(&self) -> Vec<i64> {
        self.ids.to_f64().iter().map(|&id| id as i64).collect()
    }

    fn rows(&self) -> usize {
        self.hidden.len().checked_div(self.linear_ce.width).unwrap_or_else(|| self.token_rows())
    }

    fn token_rows(&self) -> usize {
        if self.offsets.is_empty() { self.ids.len() } else { self.offsets.len() - 1 }
    }

    fn tokens(&self, rows: Range<usize>) -> Range<usize> {
        match self.offsets.as_slice() {
            [] => rows,
            offsets => offsets[rows.start] as usize..offsets[rows.end] as usize,
        }
    }

    fn expected_scores(&self, exact: bool) -> Vec<Expected> {
        let [x, w, b] = self.numbers();
        let reference = self.reference(&x, &w, &b);
        let (ids, rows) = (self.ids(), self.rows());
        let (mut losses, mut loss_scales, mut log_sums, mut scales) = (vec![], vec![], vec![], vec![]);
        let (mut bests, mut best_log_probabilities, mut ranks) = (vec![], vec![], vec![]);
        for row in 0..rows {
            let logits = reference.logits(row);
            let log_sum = log_sum_exp(&logits);
            let scale = 2.0 * reference.magnitude(row) + 1.0 + if log_sum.is_finite() { log_sum.abs() } else { 0.0 };
            for id in &ids[self.tokens(row..row + 1)] {
                losses.push(reference.loss(&logits, *id));
                loss_scales.push(scale);
            }
            log_sums.push(log_sum);
            scales.push(scale);
            let (best, rank) = best_and_rank(&logits, if self.offsets.is_empty() { ids[row] } else { IGNORED });
            bests.push(best as f64);
            best_log_probabilities.push(usize::try_from(best).map_or(f64::NAN, |best| logits[best] - log_sum));
            ranks.push(rank as f64);
        }
        let relative = 1.2e-7 * (self.linear_ce.width + 16) as f64;
        let tolerance = Tolerance { absolute: 2e-6, relative, reason: LOSS_REASON };
        let mut all = vec![
            Expected::scaled(losses, loss_scales, tolerance),
            Expected::scaled(log_sums, scales.clone(), tolerance),
        ];
        if exact {
            let reason = Tolerance { reason: RANK_REASON, ..Tolerance::EXACT };
            all.push(Expected::values(bests, reason));
            all.push(Expected::scaled(best_log_probabilities, scales, tolerance));
            if self.offsets.is_empty() {
                all.push(Expected::values(ranks, reason));
            }
        }
        all
    }

    fn expected_gradients(&self, hidden: bool, head: bool) -> Vec<Expected> {
        let [x, w, b] = self.numbers();
        let reference = self.reference(&x, &w, &b);
        let weights: Vec<f64> = self.weights.iter().map(|&weight| f64::from(weight)).collect();
        let slopes = reference.slopes(&self.ids(), &weights);
        let dtype = self.hidden.dtype();
        let magnitude = (0..self.rows()).map(|row| reference.magnitude(row)).fold(0.0, f64::max);
        // The gradient of each logit is rounded to the type before it is multiplied, and so are weighted hidden states.
        let rounding = Tolerance::rounded(dtype, 0.0, REASON).relative;
        let relative = 1.2e-7 * ((self.linear_ce.width + 16) as f64 * (2.0 + magnitude) + 2048.0) + 2.0 * rounding;
        // Of f16, shares below 6e-5 have fewer digits: half of 6e-8 is lost from each.
        let lost = if dtype == DType::F16 { 3e-8 * self.linear_ce.vocabulary as f64 * 10.0 } else { 0.0 };
        let mut all = Vec::new();
        if hidden {
            let tolerance = Tolerance::rounded(dtype, relative, REASON).with_absolute(lost + 1e-7);
            all.push(Expected::scaled(slopes.hidden, slopes.hidden_scale, tolerance));
        }
        if head {
            let tolerance = Tolerance { absolute: lost + 1e-7, relative, reason: REASON };
            let add = |values: Vec<f64>| values.into_iter().map(|value| value + f64::from(self.before)).collect();
            all.push(Expected::scaled(add(slopes.head), slopes.head_scale, tolerance));
            if !self.bias.is_empty() {
                all.push(Expected::scaled(add(slopes.bias), slopes.bias_scale, tolerance));
            }
        }
        all
    }

    /// Workspaces of the launches, which the twin has no use for.
    fn workspaces(&self) -> Vec<HostBuffer> {
        let rows = self.rows();
        match self.task {
            Task::Forward { .. } => {
                vec![HostBuffer::unwritten(DType::F32, self.linear_ce.forward_workspace(rows))]
            }
            Task::Backward { .. } => {
                let (values, sums) = self.linear_ce.backward_workspace(rows);
                vec![HostBuffer::unwritten(self.hidden.dtype(), values), HostBuffer::unwritten(DType::F32, sums)]
            }
        }
    }

    /// Outputs beside the workspaces.
    fn results(&self) -> Vec<HostBuffer> {
        let rows = self.rows();
        let floats = |len| HostBuffer::unwritten(DType::F32, len);
        let mut all = Vec::new();
        match self.task {
            Task::Forward { exact } => {
                all.extend([floats(self.ids.len()), floats(rows)]);
                if exact {
                    all.extend([HostBuffer::I32(vec![-7; rows]), floats(rows)]);
                    if self.offsets.is_empty() {
                        all.push(HostBuffer::I32(vec![-7; rows]));
                    }
                }
            }
            Task::Backward { hidden, head } => {
                if hidden {
                    all.push(HostBuffer::unwritten(self.hidden.dtype(), self.hidden.len()));
                }
                if head {
                    all.push(HostBuffer::F32(vec![self.before; self.head.len()]));
                    if !self.bias.is_empty() {
                        all.push(HostBuffer::F32(vec![self.before; self.bias.len()]));
                    }
                }
            }
        }
        all
    }

    /// The case of one row, and where its results lie in those of the whole.
    fn alone(&self, row: usize) -> Part {
        let LinearCe { width, .. } = self.linear_ce;
        let tokens = self.tokens(row..row + 1);
        let hidden_range = row * width..(row + 1) * width;
        let offsets = if self.offsets.is_empty() { Vec::new() } else { vec![0, tokens.len() as i64] };
        let mut alone = Self {
            hidden: self.hidden.slice(hidden_range.clone()),
            ids: self.ids.slice(tokens.clone()),
            offsets,
            ..self.clone()
        };
        let rows = row..row + 1;
        let pieces = match self.task {
            Task::Forward { .. } => {
                let others = (1..self.results().len()).map(|output| (output, rows.clone()));
                std::iter::once((0, tokens)).chain(others).collect()
            }
            Task::Backward { .. } => {
                alone.task = Task::Backward { hidden: true, head: false };
                alone.weights = self.weights[rows.clone()].to_vec();
                alone.log_sum_exp = self.log_sum_exp[rows].to_vec();
                vec![(0, hidden_range)]
            }
        };
        Part { problem: Box::new(alone), pieces }
    }

    fn cpu_head(&self) -> Option<Result<&Head, ShapeError>> {
        let LinearCe { width, vocabulary, .. } = self.linear_ce;
        let (head, bias) = (self.head.f32()?, self.bias.f32()?);
        if let Some(head) = self.packed.get() {
            return Some(Ok(head));
        }
        let bias = (!bias.is_empty()).then_some(bias);
        let packed = Matrix::row_major(Values::F32(head), vocabulary, width)
            .map_err(super::head::shape)
            .and_then(|weights| Head::with_gradients(weights, bias, Precision::F32));
        Some(packed.map(|head| self.packed.get_or_init(|| head)))
    }

    fn solve_on_cpu(
        &self,
        workers: &dyn Workers,
        head: &Head,
        hidden: &[f32],
        outputs: &mut [HostBuffer],
    ) -> Result<(), ShapeError> {
        let ids = match &self.ids {
            HostBuffer::I64(ids) => Ids::I64(ids),
            ids => Ids::I32(ids.i32().unwrap_or_default()),
        };
        match self.task {
            Task::Forward { exact } => {
                let offsets = (!self.offsets.is_empty()).then_some(self.offsets.as_slice());
                let [loss, log_sum_exp, others @ ..] = outputs else { return Ok(()) };
                let (loss, log_sum_exp) =
                    (loss.f32_mut().unwrap_or_default(), log_sum_exp.f32_mut().unwrap_or_default());
                let mut scores = Scores::new(loss, log_sum_exp);
                if let (true, [best, best_log_probability, rank, ..]) = (exact, others) {
                    scores.best = best.i32_mut();
                    scores.best_log_probability = best_log_probability.f32_mut();
                    // With lists of tokens the workspace stands here, which is of another type.
                    scores.rank = rank.i32_mut();
                }
                self.linear_ce.forward(workers, hidden, head, Tokens { ids, offsets }, scores)
            }
            Task::Backward { hidden: wants_hidden, head: wants_head } => {
                let mut outputs = outputs.iter_mut();
                let dh = if wants_hidden { outputs.next().and_then(HostBuffer::f32_mut) } else { None };
                let dw = if wants_head { outputs.next().and_then(HostBuffer::f32_mut) } else { None };
                let db = if self.bias.is_empty() { None } else { outputs.next().and_then(HostBuffer::f32_mut) };
                let gradients = Gradients { hidden: dh, head: dw.map(|weights| HeadGradients { weights, bias: db }) };
                let (sums, weights) = (&self.log_sum_exp, &self.weights);
                self.linear_ce.backward(workers, hidden, head, ids, sums, weights, gradients)
            }
        }
    }

    fn launches_of<'a, T: crate::launch::Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let mut outputs = outputs.iter();
        let bias = if self.bias.is_empty() { None } else { Some(inputs[2].read::<T>()?) };
        let head = HeadBuffers { weights: inputs[1].read()?, bias };
        let ids = match self.ids.dtype() {
            DType::I64 => IdBuffer::I64(inputs[3].read()?),
            _ => IdBuffer::I32(inputs[3].read()?),
        };
        let hidden: Buffer<'a, T> = inputs[0].read()?;
        match self.task {
            Task::Forward { exact } => {
                let offsets = if self.offsets.is_empty() { None } else { Some(inputs[4].read()?) };
                let scores = ScoreBuffers {
                    loss: next(&mut outputs)?,
                    log_sum_exp: next(&mut outputs)?,
                    best: if exact { Some(next(&mut outputs)?) } else { None },
                    best_log_probability: if exact { Some(next(&mut outputs)?) } else { None },
                    rank: if exact && offsets.is_none() { Some(next(&mut outputs)?) } else { None },
                    workspace: next(&mut outputs)?,
                };
                self.linear_ce.forward_launches(hidden, head, TokenBuffers { ids, offsets }, scores)
            }
            Task::Backward { hidden: wants_hidden, head: wants_head } => {
                let dh: Option<BufferMut<'a, T>> = if wants_hidden { Some(next(&mut outputs)?) } else { None };
                let dw = if wants_head { Some(next(&mut outputs)?) } else { None };
                let db = if wants_head && bias.is_some() { Some(next(&mut outputs)?) } else { None };
                let gradients = GradientBuffers {
                    hidden: dh,
                    head: dw.map(|weights| HeadGradientBuffers { weights, bias: db }),
                    workspace: BackwardWorkspace { values: next(&mut outputs)?, sums: next(&mut outputs)? },
                };
                let rows = RowBuffers { hidden, ids, log_sum_exp: inputs[4].read()?, weights: inputs[5].read()? };
                self.linear_ce.backward_launches(rows, head, gradients)
            }
        }
    }
}

/// The next output.
fn next<'a, T: Element>(outputs: &mut std::slice::Iter<'_, AnyBuffer<'a>>) -> Result<BufferMut<'a, T>, ShapeError> {
    let missing = ShapeError::Length { name: "outputs", expected: 1, actual: 0 };
    outputs.next().ok_or(missing)?.write()
}

impl Problem for Case {
    fn label(&self) -> String {
        let LinearCe { width, vocabulary, .. } = self.linear_ce;
        let kind = match self.task {
            Task::Forward { .. } if !self.offsets.is_empty() => "forward of lists",
            Task::Forward { .. } => "forward",
            Task::Backward { head: false, .. } => "backward to hidden states",
            Task::Backward { hidden: false, .. } => "backward to the head",
            Task::Backward { .. } => "backward",
        };
        format!("LinearCe {kind}, {} x {width} with {vocabulary} tokens {}", self.rows(), self.hidden.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        let mut all = vec![self.hidden.clone(), self.head.clone(), self.bias.clone(), self.ids.clone()];
        match self.task {
            Task::Forward { .. } => all.push(self.offsets.clone().into()),
            Task::Backward { .. } => all.extend([self.log_sum_exp.clone().into(), self.weights.clone().into()]),
        }
        all
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let mut all = self.results();
        all.extend(self.workspaces());
        all
    }

    fn expected(&self) -> Vec<Expected> {
        let mut all = match self.task {
            Task::Forward { exact } => self.expected_scores(exact),
            Task::Backward { hidden, head } => self.expected_gradients(hidden, head),
        };
        all.extend(self.workspaces().iter().map(|_| Expected::anything()));
        all
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let hidden = inputs[0].f32()?;
        let head = self.cpu_head()?;
        Some(head.and_then(|head| self.solve_on_cpu(workers, head, hidden, outputs)))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.hidden.dtype(), T => self.launches_of::<T>(inputs, outputs))
    }

    fn parts(&self) -> Vec<Part> {
        if matches!(self.task, Task::Backward { hidden: false, .. }) {
            return Vec::new();
        }
        let rows = self.rows();
        let mut chosen = vec![0, rows / 2, rows.saturating_sub(1)];
        chosen.dedup();
        chosen.into_iter().filter(|&row| row < rows).map(|row| self.alone(row)).collect()
    }

    fn work(&self) -> Work {
        let LinearCe { width, vocabulary, .. } = self.linear_ce;
        let product = 2.0 * self.rows() as f64 * width as f64 * vocabulary as f64;
        let products = match self.task {
            Task::Forward { .. } => 1,
            Task::Backward { hidden, head } => 1 + usize::from(hidden) + usize::from(head),
        };
        let read = (self.hidden.len() + self.head.len()) * self.hidden.dtype().bytes();
        let written: usize = self.results().iter().map(|result| result.bytes().len()).sum();
        Work { bytes: (read + written) as f64, operations: product * products as f64 }
    }
}
