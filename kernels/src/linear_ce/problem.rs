//! A case of the table: its numbers, its answer, and how machines are asked.

use super::launch::{
    BackwardWorkspace, GradientBuffers, HeadBuffers, HeadGradientBuffers, IdBuffer, RowBuffers, ScoreBuffers,
    TokenBuffers,
};
use super::reference::{Reference, best_and_rank, log_sum_exp};
use super::{Gradients, Head, HeadGradients, IGNORED, Ids, LinearCe, Scores, Tokens};
use crate::check::{AnyBuffer, Expected, HostBuffer, Part, Problem, Tolerance, Work};
use crate::gemm::{Matrix, Precision, Values};
use crate::launch::{Buffer, BufferMut, DType, Element, Float, Launch, ShapeError, for_float};
use crate::workers::Workers;
use std::ops::Range;
use std::sync::OnceLock;

const REASON: &str = "each logit is one chain of `width` products in single precision, which exponentials turn from absolute into \
                      relative errors, and sums over the vocabulary and over rows are pieces of at most 2048";
const LOSS_REASON: &str = "each logit is one chain of `width` products in single precision, and exponentials and logarithms \
                           are good to 1e-6";
const RANK_REASON: &str = "logits are exact here";

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Task {
    /// Losses, and the best token and ranks where logits are exact.
    Forward { exact: bool },
    /// Gradients of hidden states, of the head, or both.
    Backward { hidden: bool, head: bool },
    /// Losses and the gradient of hidden states, in one pass where there is such.
    Together,
}

#[derive(Clone)]
pub(super) struct Case {
    pub(super) linear_ce: LinearCe,
    pub(super) task: Task,
    pub(super) hidden: HostBuffer,
    pub(super) head: HostBuffer,
    /// Empty where there is none.
    pub(super) bias: HostBuffer,
    pub(super) ids: HostBuffer,
    /// Empty where each row has one token.
    pub(super) offsets: Vec<i64>,
    /// Of a backward pass.
    pub(super) weights: Vec<f32>,
    pub(super) log_sum_exp: Vec<f32>,
    /// What gradients of the head are added to.
    pub(super) before: f32,
    pub(super) packed: OnceLock<Head>,
}

impl Case {
    pub(super) fn numbers(&self) -> [Vec<f64>; 3] {
        [self.hidden.to_f64(), self.head.to_f64(), self.bias.to_f64()]
    }

    pub(super) fn reference<'a>(&self, hidden: &'a [f64], head: &'a [f64], bias: &'a [f64]) -> Reference<'a> {
        let bias = (!self.bias.is_empty()).then_some(bias);
        Reference { linear_ce: self.linear_ce, hidden, head, bias }
    }

    pub(super) fn ids(&self) -> Vec<i64> {
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
        let mut all = Vec::new();
        if !matches!(self.task, Task::Backward { .. }) {
            all.push(HostBuffer::unwritten(DType::F32, self.linear_ce.forward_workspace(rows)));
        }
        if !matches!(self.task, Task::Forward { .. }) {
            let (values, sums) = self.linear_ce.backward_workspace(rows);
            all.push(HostBuffer::unwritten(self.hidden.dtype(), values));
            all.push(HostBuffer::unwritten(DType::F32, sums));
        }
        all
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
            Task::Together => {
                all.extend([floats(self.ids.len()), floats(rows)]);
                all.push(HostBuffer::unwritten(self.hidden.dtype(), self.hidden.len()));
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
            Task::Together => {
                alone.weights = self.weights[rows.clone()].to_vec();
                vec![(0, rows.clone()), (1, rows), (2, hidden_range)]
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
            Task::Together => {
                let [loss, log_sum_exp, dh, ..] = outputs else { return Ok(()) };
                let (loss, log_sum_exp) =
                    (loss.f32_mut().unwrap_or_default(), log_sum_exp.f32_mut().unwrap_or_default());
                let (scores, dh) = (Scores::new(loss, log_sum_exp), dh.f32_mut().unwrap_or_default());
                self.linear_ce.forward_backward(workers, hidden, head, ids, &self.weights, scores, dh)
            }
        }
    }

    fn launches_of<'a, T: Float>(
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
            Task::Together => {
                let all = outputs.as_slice();
                let [loss, log_sum_exp, dh, workspace, values, sums] = all else {
                    return Err(ShapeError::Length { name: "outputs", expected: 6, actual: all.len() });
                };
                let scores = ScoreBuffers {
                    loss: loss.write()?,
                    log_sum_exp: log_sum_exp.write()?,
                    best: None,
                    best_log_probability: None,
                    rank: None,
                    workspace: workspace.write()?,
                };
                let tokens = TokenBuffers { ids, offsets: None };
                let mut launches = self.linear_ce.forward_launches(hidden, head, tokens, scores)?;
                let rows = RowBuffers { hidden, ids, log_sum_exp: log_sum_exp.read()?, weights: inputs[5].read()? };
                let gradients = GradientBuffers {
                    hidden: Some(dh.write::<T>()?),
                    head: None,
                    workspace: BackwardWorkspace { values: values.write()?, sums: sums.write()? },
                };
                launches.extend(self.linear_ce.backward_launches(rows, head, gradients)?);
                Ok(launches)
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
            Task::Together => "forward and backward to hidden states",
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
            Task::Backward { .. } | Task::Together => {
                all.extend([self.log_sum_exp.clone().into(), self.weights.clone().into()])
            }
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
            Task::Together => {
                let mut all = self.expected_scores(false);
                all.extend(self.expected_gradients(true, false));
                all
            }
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
            Task::Together => 2,
        };
        let read = (self.hidden.len() + self.head.len()) * self.hidden.dtype().bytes();
        let written: usize = self.results().iter().map(|result| result.bytes().len()).sum();
        Work { bytes: (read + written) as f64, operations: product * products as f64 }
    }
}
