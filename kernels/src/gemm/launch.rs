//! Launches of the CUDA kernels in `cuda/gemm.cu`.

use crate::glu::Activation;
use crate::launch::{
    Argument, Buffer, BufferMut, DType, Element, Float, Launch, ShapeError, expect_len, optional, to_grid, to_i32,
    to_i64,
};

/// A linear layer on a GPU: y = f(x·Wᵀ + b) (+ y), with x `[rows, inputs]` and W `[outputs, inputs]`; or, [transposed](Self::transposed),
/// y = x·W (+ y) with W `[inputs, outputs]`.
///
/// Sums are f32. That of an element goes over the inputs in their order, whatever the number of rows and whichever kernel computes it, so that a
/// row has the same bits alone and among others. Products of f32 are exact f32, never tf32.
///
/// Rows of x, W and y may be parts of wider ones: [`Strides`]. On a GPU operands of bf16 and f16 are read fastest where addresses and strides are
/// multiples of 16 bytes.
///
/// The kernels are this crate's own, so that a GPU needs nothing but its driver. A library such as cuBLASLt could stand behind the same launches; it divides
/// sums in ways that depend on the number of rows, so a row would no longer have the same bits alone and in a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearLayer {
    /// Columns of x and of W; rows of W where it is transposed.
    pub inputs: usize,
    /// Rows of W, and columns of y; columns of W where it is transposed.
    pub outputs: usize,
    /// Whether W is `[inputs, outputs]`; there is neither bias nor function then. So the way back through a layer reads the weights that its way forward
    /// reads: its inputs are gradients of what the layer gave, and its outputs those of what the layer read.
    pub transposed: bool,
    /// How far rows are apart, where there is something between them.
    pub strides: Strides,
    /// What is applied to a sum and its bias.
    pub function: Option<Function>,
    /// Adds to y instead of overwriting it.
    pub accumulate: bool,
    /// Which kernel computes; the one that fits the shape, if none is named. Results have the same bits.
    pub tile: Option<Tile>,
}

/// Elements from one row to the next; as many as there are columns where left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strides {
    /// Of x.
    pub x: Option<usize>,
    /// Of W.
    pub weights: Option<usize>,
    /// Of y.
    pub y: Option<usize>,
}

/// What can be applied to a result before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// As of feed-forward layers.
    Activation(Activation),
    /// The hyperbolic tangent.
    Tanh,
    /// The larger one of the value and zero; not a number where the value is not.
    Relu,
}

/// Rows and columns that a block of threads computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 128 by 256; bf16 and f16 only.
    Wide,
    /// 128 by 128.
    Square,
    /// 64 by 64; bf16 and f16 only.
    Medium,
    /// 16 by 32, or 32 by 32 in f32: for few rows.
    Small,
}

/// Buffers of a linear layer.
#[derive(Debug)]
pub struct LinearBuffers<'a, T> {
    /// `[rows, inputs]`.
    pub x: Buffer<'a, T>,
    /// `[outputs, inputs]`, or `[inputs, outputs]`.
    pub weights: Buffer<'a, T>,
    /// `[outputs]`.
    pub bias: Option<Buffer<'a, f32>>,
    /// `[rows, outputs]`.
    pub y: LinearOutput<'a, T>,
}

/// Where results go.
#[derive(Debug)]
pub enum LinearOutput<'a, T> {
    /// Rounded to the type of x.
    Same(BufferMut<'a, T>),
    /// As they are.
    Single(BufferMut<'a, f32>),
}

const FAMILY: &str = "gemm";

/// Blocks that a large GPU runs at once, about: a tile is taken where there are enough of its size.
const BLOCKS: usize = 128;

impl Tile {
    pub(super) const fn size(self, single: bool) -> (usize, usize) {
        match self {
            Self::Wide => (128, 256),
            Self::Square => (128, 128),
            Self::Medium => (64, 64),
            Self::Small if single => (32, 32),
            Self::Small => (16, 32),
        }
    }

    const fn blocks(self, single: bool, rows: usize, outputs: usize) -> usize {
        let (down, across) = self.size(single);
        rows.div_ceil(down).saturating_mul(outputs.div_ceil(across))
    }

    /// Threads of a block, and bytes of dynamic shared memory: as the templates in `cuda/gemm.cu` say.
    const fn resources(self, single: bool, transposed: bool) -> (u32, u32) {
        const fn bytes(rows: u32, columns: u32, depth: u32, stages: u32, transposed: bool) -> u32 {
            let weights = if transposed { depth * (columns + 8) } else { columns * (depth + 8) };
            2 * (rows * (depth + 8) + weights) * stages
        }
        match self {
            _ if single => (256, 0),
            Self::Wide => (256, bytes(128, 256, 32, 3, transposed)),
            Self::Square => (256, bytes(128, 128, 32, 4, transposed)),
            Self::Medium => (128, bytes(64, 64, 64, 3, transposed)),
            Self::Small => (64, bytes(16, 32, 128, 4, transposed)),
        }
    }

    /// The tile for a shape.
    const fn choose(single: bool, rows: usize, outputs: usize) -> Self {
        if single {
            return if Self::Square.blocks(true, rows, outputs) < BLOCKS { Self::Small } else { Self::Square };
        }
        if rows <= 16 {
            Self::Small
        } else if Self::Square.blocks(false, rows, outputs) < BLOCKS {
            Self::Medium
        } else if Self::Wide.blocks(false, rows, outputs) < 2 * BLOCKS {
            Self::Square
        } else {
            Self::Wide
        }
    }

    fn kernel(self, dtype: DType, transposed: bool) -> Result<&'static str, ShapeError> {
        macro_rules! name {
            ($rest:literal) => {
                if transposed { concat!("gemm_transposed_", $rest) } else { concat!("gemm_", $rest) }
            };
        }
        Ok(match (self, dtype) {
            (Self::Wide, DType::Bf16) => name!("wide_bf16"),
            (Self::Square, DType::Bf16) => name!("square_bf16"),
            (Self::Medium, DType::Bf16) => name!("medium_bf16"),
            (Self::Small, DType::Bf16) => name!("small_bf16"),
            (Self::Wide, DType::F16) => name!("wide_f16"),
            (Self::Square, DType::F16) => name!("square_f16"),
            (Self::Medium, DType::F16) => name!("medium_f16"),
            (Self::Small, DType::F16) => name!("small_f16"),
            (Self::Square, _) => name!("square_f32"),
            (Self::Small, _) => name!("small_f32"),
            (Self::Wide | Self::Medium, _) => {
                let allowed = "two bytes for this tile";
                return Err(ShapeError::Dimension { name: "element of x", allowed, actual: dtype.bytes() });
            }
        })
    }
}

impl Function {
    const fn number(this: Option<Self>) -> i32 {
        match this {
            None => -1,
            Some(Self::Activation(activation)) => activation as i32,
            Some(Self::Tanh) => 3,
            Some(Self::Relu) => 4,
        }
    }
}

impl LinearLayer {
    /// A layer with rows one behind the other, that overwrites y.
    pub const fn new(inputs: usize, outputs: usize) -> Self {
        let strides = Strides { x: None, weights: None, y: None };
        Self { inputs, outputs, transposed: false, strides, function: None, accumulate: false, tile: None }
    }

    /// The launches for so many rows.
    ///
    /// # Errors
    /// Lengths and strides that do not belong together, dimensions that are too large, and a tile that does not exist for the type.
    pub fn launches<'a, T: Float>(
        &self,
        rows: usize,
        buffers: LinearBuffers<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let LinearBuffers { x, weights, bias, y } = buffers;
        let Strides { x: x_stride, weights: weight_stride, y: y_stride } = self.strides;
        let x_stride = expect_matrix("x", x.len(), rows, self.inputs, x_stride)?;
        let (lines, columns) = if self.transposed { (self.inputs, self.outputs) } else { (self.outputs, self.inputs) };
        let weight_stride = expect_matrix("weights", weights.len(), lines, columns, weight_stride)?;
        expect_len("bias", bias.map_or(self.outputs, |bias| bias.len()), self.outputs)?;
        if self.transposed && (bias.is_some() || self.function.is_some()) {
            let allowed = "none where weights are transposed";
            return Err(ShapeError::Dimension { name: "bias or function", allowed, actual: self.outputs });
        }
        let (y, len, single) = match &y {
            LinearOutput::Same(y) => (y.argument(), y.len(), T::DTYPE == DType::F32),
            LinearOutput::Single(y) => (y.argument(), y.len(), true),
        };
        let y_stride = expect_matrix("y", len, rows, self.outputs, y_stride)?;
        if rows == 0 || self.outputs == 0 {
            return Ok(Vec::new());
        }
        let plain = T::DTYPE == f32::DTYPE;
        let tile = self.tile.unwrap_or_else(|| Tile::choose(plain, rows, self.outputs));
        let kernel = tile.kernel(T::DTYPE, self.transposed)?;
        let (threads, shared_bytes) = tile.resources(plain, self.transposed);
        // Steps over the inputs are counted beyond their end.
        to_i32("inputs", self.inputs.saturating_add(4096))?;
        let arguments = vec![
            x.argument(),
            weights.argument(),
            optional(bias.as_ref()),
            y,
            Argument::I64(to_i64("stride of x", x_stride)?),
            Argument::I64(to_i64("stride of weights", weight_stride)?),
            Argument::I64(to_i64("stride of y", y_stride)?),
            Argument::I64(to_i64("rows", rows)?),
            Argument::I32(to_i32("inputs", self.inputs)?),
            Argument::I32(to_i32("outputs", self.outputs.saturating_add(4096))? - 4096),
            Argument::I32(Function::number(self.function)),
            Argument::I32(i32::from(self.accumulate)),
            Argument::I32(i32::from(single)),
        ];
        let grid = [to_grid("rows", tile.blocks(plain, rows, self.outputs))?, 1, 1];
        Ok(vec![Launch::new(FAMILY, kernel, grid, [threads, 1, 1], arguments).with_shared_bytes(shared_bytes)])
    }
}

/// The stride of a matrix that the buffer holds.
fn expect_matrix(
    name: &'static str,
    len: usize,
    rows: usize,
    columns: usize,
    stride: Option<usize>,
) -> Result<usize, ShapeError> {
    let Some(stride) = stride else {
        expect_len(name, len, rows.saturating_mul(columns))?;
        return Ok(columns);
    };
    if stride < columns {
        return Err(ShapeError::Dimension { name, allowed: "a stride of at least a row's columns", actual: stride });
    }
    let expected = rows.saturating_sub(1).saturating_mul(stride).saturating_add(if rows > 0 { columns } else { 0 });
    if len < expected { Err(ShapeError::Length { name, expected, actual: len }) } else { Ok(stride) }
}
