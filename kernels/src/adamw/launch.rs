//! Launches of the CUDA kernels in `cuda/adamw.cu`.

use super::{AdamW, Tensor};
use crate::launch::{Argument, Buffer, BufferMut, Float, Launch, ShapeError, expect_len, kernel_name, to_grid, to_i64};

/// Elements that a block handles, and tensors of a launch, as in the source.
const CHUNK: usize = 16_384;
const TENSORS: usize = 4;

/// Elements of the workspace of [`clip_launches`] for gradients of these lengths.
pub fn clip_workspace_len(lengths: impl IntoIterator<Item = usize>) -> usize {
    lengths.into_iter().map(|len| len.div_ceil(CHUNK)).sum()
}

/// The launches that compute the norm of all gradients: `result[0]` is the norm, `result[1]` what gradients are to be multiplied
/// by so that it is at most `most`.
///
/// # Errors
/// Lengths that do not belong together.
pub fn clip_launches<'a, T: Float>(
    gradients: &[Buffer<'a, T>],
    most: f32,
    workspace: BufferMut<'a, f32>,
    result: BufferMut<'a, f32>,
) -> Result<Vec<Launch<'a>>, ShapeError> {
    let chunks = clip_workspace_len(gradients.iter().map(Buffer::len));
    expect_len("workspace", workspace.len(), chunks)?;
    expect_len("result", result.len(), 2)?;
    let mut launches = Vec::new();
    let mut first = 0;
    for group in gradients.chunks(TENSORS) {
        let blocks = clip_workspace_len(group.iter().map(Buffer::len));
        if blocks == 0 {
            continue;
        }
        let mut arguments = four(group.iter().map(Buffer::argument), Argument::Address(0));
        arguments.extend(counts(group.iter().map(Buffer::len))?);
        arguments.extend([workspace.argument(), Argument::I64(to_i64("chunks", first)?)]);
        let grid = [to_grid("chunks", blocks)?, 1, 1];
        launches.push(Launch::new("adamw", kernel_name!(T, "adamw_squares"), grid, [256, 1, 1], arguments));
        first += blocks;
    }
    let arguments =
        vec![workspace.argument(), result.argument(), Argument::I64(to_i64("chunks", chunks)?), Argument::F32(most)];
    launches.push(Launch::new("adamw", "adamw_clip", [1, 1, 1], [256, 1, 1], arguments));
    Ok(launches)
}

impl AdamW {
    /// The launches of step `number`, counted from 1. `clip` is the result of [`clip_launches`], if gradients are to be clipped.
    ///
    /// # Errors
    /// Buffers of one tensor that differ in length, or a number of 0.
    #[allow(clippy::type_complexity, reason = "a tensor of buffers")]
    pub fn step_launches<'a, T: Float>(
        &self,
        number: u32,
        clip: Option<Buffer<'a, f32>>,
        tensors: &[Tensor<BufferMut<'a, f32>, Buffer<'a, T>, BufferMut<'a, T>>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        expect_number(number)?;
        expect_len("clip", clip.map_or(2, |clip| clip.len()), 2)?;
        for tensor in tensors {
            let len = tensor.gradients.len();
            expect_len("parameters", tensor.parameters.len(), len)?;
            expect_len("first_moment", tensor.first_moment.len(), len)?;
            expect_len("second_moment", tensor.second_moment.len(), len)?;
            expect_len("copy", tensor.copy.as_ref().map_or(len, BufferMut::len), len)?;
        }
        let step = self.numbers(number);
        let mut launches = Vec::new();
        for group in tensors.chunks(TENSORS) {
            let lengths = || group.iter().map(|tensor| tensor.gradients.len());
            let blocks = clip_workspace_len(lengths());
            if blocks == 0 {
                continue;
            }
            let none = Argument::Address(0);
            let mut arguments = four(group.iter().map(|tensor| tensor.parameters.argument()), none);
            arguments.extend(four(group.iter().map(|tensor| tensor.gradients.argument()), none));
            arguments.extend(four(group.iter().map(|tensor| tensor.first_moment.argument()), none));
            arguments.extend(four(group.iter().map(|tensor| tensor.second_moment.argument()), none));
            arguments
                .extend(four(group.iter().map(|tensor| tensor.copy.as_ref().map_or(none, BufferMut::argument)), none));
            arguments.extend(counts(lengths())?);
            arguments.push(clip.map_or(none, |clip| clip.argument()));
            let numbers = [step.beta1, step.beta2, step.epsilon, step.keep, step.step_size, step.second_scale];
            arguments.extend(numbers.map(Argument::F32));
            let grid = [to_grid("chunks", blocks)?, 1, 1];
            launches.push(Launch::new("adamw", kernel_name!(T, "adamw_step"), grid, [256, 1, 1], arguments));
        }
        Ok(launches)
    }
}

/// Steps are counted from 1: corrections of the moments divide by zero at 0.
pub(super) const fn expect_number(number: u32) -> Result<(), ShapeError> {
    if number == 0 {
        return Err(ShapeError::Dimension { name: "number of the step", allowed: "at least 1", actual: 0 });
    }
    Ok(())
}

fn four(arguments: impl Iterator<Item = Argument>, rest: Argument) -> Vec<Argument> {
    arguments.chain(std::iter::repeat(rest)).take(TENSORS).collect()
}

fn counts(lengths: impl Iterator<Item = usize>) -> Result<Vec<Argument>, ShapeError> {
    let counts = lengths.map(|len| to_i64("gradients", len).map(Argument::I64)).collect::<Result<Vec<_>, _>>()?;
    Ok(four(counts.into_iter(), Argument::I64(0)))
}
