//! Checks of every kernel against answers in double precision, on every machine there is.
//!
//! A [`Family`] has a table of [`Problem`]s; a [`Machine`] solves them: the CPU twins ([`Cpu`]), a GPU (`gpu::Gpu`), or,
//! in this crate's tests, the CUDA kernels run on the CPU. [`check`] compares the results with what is expected, and then
//! demands the same bits on a second run, and the same bits for a part of the problem computed alone.
//!
//! ```
//! use gristmill_kernels::check::{Cpu, check, families};
//! use gristmill_kernels::workers::Serial;
//!
//! for family in families() {
//!     for problem in (family.cases)(1) {
//!         check(&*problem, &Cpu(&Serial)).unwrap();
//!     }
//! }
//! ```

mod compare;
mod host;
mod random;

pub use compare::{Expected, Tolerance};
pub use host::{AnyBuffer, HostBuffer};
pub use random::Random;

use crate::launch::{Launch, ShapeError};
use crate::workers::Workers;
use std::ops::Range;

/// A family of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, which is that of its module and of its source file.
    pub name: &'static str,
    /// Small problems of all kinds. Those of random size and content follow from the seed.
    pub cases: fn(seed: u64) -> Vec<Box<dyn Problem>>,
    /// Problems of realistic shape, for timing, whose largest buffer has about so many bytes.
    pub benches: fn(bytes: usize) -> Vec<Box<dyn Problem>>,
}

/// All families.
pub const fn families() -> &'static [Family] {
    &[
        crate::adamw::FAMILY,
        crate::attention::FAMILY,
        crate::gemm::FAMILY,
        crate::glu::FAMILY,
        crate::linear_ce::FAMILY,
        crate::nf4::FAMILY,
        crate::norms::FAMILY,
        crate::outer::FAMILY,
        crate::pool::FAMILY,
        crate::residual::FAMILY,
        crate::rotary::FAMILY,
        crate::scan::FAMILY,
        crate::signs::FAMILY,
        crate::softmax::FAMILY,
        crate::topk::FAMILY,
    ]
}

/// Something to compute with the kernels of one family, with its data and its answer.
pub trait Problem: Send + Sync {
    /// What is computed, on which shape and type.
    fn label(&self) -> String;

    /// What is read.
    fn inputs(&self) -> Vec<HostBuffer>;

    /// What is written, as it is before.
    fn outputs(&self) -> Vec<HostBuffer>;

    /// For each output, what it must be afterwards.
    fn expected(&self) -> Vec<Expected>;

    /// Solves it with the CPU twin; `None` where the twin does not know the element type.
    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>>;

    /// The launches that solve it, in order. The buffers are the inputs and outputs in the memory of the machine.
    ///
    /// # Errors
    /// Where a launcher refuses.
    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError>;

    /// Parts that must have the same bits when they are computed alone.
    fn parts(&self) -> Vec<Part> {
        Vec::new()
    }

    /// What solving it takes at least.
    fn work(&self) -> Work;
}

/// A part of a problem.
#[allow(missing_debug_implementations, reason = "problems are shown by their labels")]
pub struct Part {
    /// The part as a problem of its own.
    pub problem: Box<dyn Problem>,
    /// Number of an output, and the range of the whole problem's output that the part's output is.
    pub pieces: Vec<(usize, Range<usize>)>,
}

/// What a problem takes at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes to be read and written, each once.
    pub bytes: f64,
    /// Additions and multiplications, where they are what limits; else 0.
    pub operations: f64,
}

/// Something that solves problems.
pub trait Machine {
    /// What it is called in messages.
    fn name(&self) -> String;

    /// The outputs afterwards; `None` where it cannot solve this one. Machines that work in varying order vary it by `round`.
    ///
    /// # Errors
    /// Why it failed.
    fn solve(&self, problem: &dyn Problem, round: u64) -> Result<Option<Vec<HostBuffer>>, String>;
}

/// The CPU twins, on the workers given.
#[allow(missing_debug_implementations, reason = "workers need not be shown")]
#[derive(Clone, Copy)]
pub struct Cpu<'a>(pub &'a dyn Workers);

impl Machine for Cpu<'_> {
    fn name(&self) -> String {
        "CPU".into()
    }

    fn solve(&self, problem: &dyn Problem, _: u64) -> Result<Option<Vec<HostBuffer>>, String> {
        let mut outputs = problem.outputs();
        match problem.cpu(self.0, &problem.inputs(), &mut outputs) {
            None => Ok(None),
            Some(Ok(())) => Ok(Some(outputs)),
            Some(Err(error)) => Err(error.to_string()),
        }
    }
}

/// Whether a machine could solve a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did, rightly.
    Passed,
    /// It does not know this kind of problem.
    NotForThisMachine,
}

/// A problem that a machine did not solve rightly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{machine}: {problem}: {message}")]
pub struct CheckError {
    /// The machine.
    pub machine: String,
    /// The label of the problem.
    pub problem: String,
    /// What was wrong.
    pub message: String,
}

/// Lets `machine` solve `problem`, compares the result, and repeats it.
///
/// # Errors
/// The machine failed, a value is further off than the tolerance, a repetition had other bits, or a part computed alone had.
pub fn check(problem: &dyn Problem, machine: &dyn Machine) -> Result<Outcome, CheckError> {
    let wrong = |message: String| CheckError { machine: machine.name(), problem: problem.label(), message };
    let Some(results) = machine.solve(problem, 0).map_err(wrong)? else { return Ok(Outcome::NotForThisMachine) };
    let expected = problem.expected();
    if expected.len() != results.len() {
        return Err(wrong(format!("{} outputs, and answers for {}", results.len(), expected.len())));
    }
    for (number, (result, expected)) in results.iter().zip(&expected).enumerate() {
        expected.compare(result).map_err(|message| wrong(format!("output {number}: {message}")))?;
    }

    let again = machine.solve(problem, 1).map_err(wrong)?.unwrap_or_default();
    for (number, (first, second)) in results.iter().zip(&again).enumerate() {
        if let Some(at) = first.first_difference(second) {
            return Err(wrong(format!("output {number} has other bits on the second run, first at {at}")));
        }
    }

    for part in problem.parts() {
        let alone = machine.solve(&*part.problem, 2).map_err(wrong)?.unwrap_or_default();
        for (output, range) in part.pieces {
            let (Some(whole), Some(alone)) = (results.get(output), alone.get(output)) else {
                return Err(wrong(format!("a part has no output {output}")));
            };
            if let Some(at) = whole.slice(range.clone()).first_difference(alone) {
                let label = part.problem.label();
                return Err(wrong(format!("output {output}, {range:?}: other bits than {label} alone, first at {at}")));
            }
        }
    }
    Ok(Outcome::Passed)
}

/// The slope of `f` along each coordinate of `at`, by central differences in double precision. For tests of backward passes: a
/// reference's gradient agrees with its forward pass where this agrees with it.
///
/// The step is 1e-5 times the coordinate's magnitude or 1, which leaves an error of about 1e-9 for functions of magnitude 1.
pub fn slopes(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut point = at.to_vec();
    (0..at.len())
        .map(|i| {
            let step = 1e-5 * at[i].abs().max(1.0);
            point[i] = at[i] + step;
            let above = f(&point);
            point[i] = at[i] - step;
            let below = f(&point);
            point[i] = at[i];
            (above - below) / (2.0 * step)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Cpu, HostBuffer, Machine, families};
    use crate::simd::PLAIN_ONLY;
    use crate::workers::Serial;

    #[test]
    fn twins_have_the_same_bits_without_vector_instructions() {
        for family in families() {
            for problem in (family.cases)(3) {
                let solve = |plain| {
                    PLAIN_ONLY.set(plain);
                    let results = Cpu(&Serial).solve(&*problem, 0).unwrap();
                    PLAIN_ONLY.set(false);
                    results
                };
                let (Some(wide), Some(plain)) = (solve(false), solve(true)) else { continue };
                for (wide, plain) in wide.iter().zip(&plain) {
                    assert_eq!(HostBuffer::first_difference(wide, plain), None, "{}", problem.label());
                }
            }
        }
    }
}
