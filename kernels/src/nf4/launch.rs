//! Launches of the CUDA kernels in `cuda/nf4.cu`.

use super::{GROUP, Nf4, Quantised};
use crate::launch::{
    Argument, Buffer, BufferMut, DType, Float, Launch, ShapeError, expect_len, expect_rows, kernel_name, optional,
    to_grid, to_i32, to_i64,
};

const FAMILY: &str = "nf4";
const THREADS: u32 = 256;
/// Tokens and outputs of a block of threads in a product.
const TILE: [usize; 2] = [64, 128];

/// Buffers of a product with quantised weights.
#[derive(Debug)]
pub struct Product<'a, T> {
    /// One operand, `[tokens, columns]`; of the transposed product `[tokens, rows]`.
    pub x: Buffer<'a, T>,
    /// The weights.
    pub weights: Quantised<Buffer<'a, u8>, Buffer<'a, f32>>,
    /// Added to each token's result, if given.
    pub bias: Option<Buffer<'a, T>>,
    /// The result, `[tokens, rows]`; of the transposed product `[tokens, columns]`.
    pub y: BufferMut<'a, T>,
}

impl Nf4 {
    /// Launches that quantise `[rows, columns]`. The workspace has [`Self::blocks`] elements.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn quantise_launches<'a, T: Float>(
        &self,
        weights: Buffer<'a, T>,
        to: &Quantised<BufferMut<'a, u8>, BufferMut<'a, f32>>,
        workspace: &BufferMut<'a, f32>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        self.expect(to.codes.len(), to.scales.len(), to.largest.len(), to.mean.len())?;
        expect_len("weights", weights.len(), self.len())?;
        expect_len("workspace", workspace.len(), self.blocks())?;
        let (len, blocks) =
            (Argument::I64(to_i64("weights", self.len())?), Argument::I64(to_i64("weights", self.blocks())?));
        let launch = |kernel, grid: usize, arguments| -> Result<Launch<'a>, ShapeError> {
            Ok(Launch::new(FAMILY, kernel, [to_grid("weights", grid)?, 1, 1], [THREADS, 1, 1], arguments))
        };
        let mut launches = Vec::new();
        if !self.is_empty() {
            let arguments = vec![weights.argument(), to.codes.argument(), workspace.argument(), len];
            launches.push(launch(kernel_name!(T, "nf4_quantise"), self.blocks().div_ceil(8), arguments)?);
        }
        launches.push(launch("nf4_mean", 1, vec![workspace.argument(), to.mean.argument(), blocks])?);
        if !self.is_empty() {
            let (scales, largest) = (to.scales.argument(), to.largest.argument());
            let arguments = vec![workspace.argument(), to.mean.argument(), scales, largest, blocks];
            launches.push(launch("nf4_scales", self.blocks().div_ceil(GROUP), arguments)?);
        }
        Ok(launches)
    }

    /// Launches that give the weights `[rows, columns]` that codes stand for.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn dequantise_launches<'a, T: Float>(
        &self,
        from: &Quantised<Buffer<'a, u8>, Buffer<'a, f32>>,
        to: &BufferMut<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        self.expect(from.codes.len(), from.scales.len(), from.largest.len(), from.mean.len())?;
        expect_len("weights", to.len(), self.len())?;
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments = arguments(from).to_vec();
        arguments.extend([to.argument(), Argument::I64(to_i64("weights", self.len())?)]);
        let grid = [to_grid("weights", self.len().div_ceil(8 * THREADS as usize))?, 1, 1];
        Ok(vec![Launch::new(FAMILY, kernel_name!(T, "nf4_dequantise"), grid, [THREADS, 1, 1], arguments)])
    }

    /// Launches that compute y = x·Wᵀ (+ bias) on tensor cores, with weights rounded to the type of x, which is bf16 or f16.
    ///
    /// A token's result does not depend on the other tokens. For one token [`Self::vector_launches`] is faster, and adds up in another
    /// order.
    ///
    /// # Errors
    /// Lengths that do not belong together, or an element type that tensor cores do not multiply.
    pub fn matmul_launches<'a, T: Float>(&self, product: &Product<'a, T>) -> Result<Vec<Launch<'a>>, ShapeError> {
        let kernel = half_kernel::<T>("nf4_matmul_bf16", "nf4_matmul_f16")?;
        let tokens = self.expect_product(product, self.columns, self.rows)?;
        let grid = [to_grid("tokens", tokens.div_ceil(TILE[0]))?, blocks_of("rows", self.rows, TILE[1])?, 1];
        self.product(product, kernel, tokens, grid)
    }

    /// Launches that compute y = x·W (+ bias), the gradient of the input of a frozen layer. Otherwise as [`Self::matmul_launches`].
    ///
    /// # Errors
    /// Lengths that do not belong together, or an element type that tensor cores do not multiply.
    pub fn matmul_transposed_launches<'a, T: Float>(
        &self,
        product: &Product<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let kernel = half_kernel::<T>("nf4_matmul_transposed_bf16", "nf4_matmul_transposed_f16")?;
        let tokens = self.expect_product(product, self.rows, self.columns)?;
        let grid = [to_grid("tokens", tokens.div_ceil(TILE[0]))?, blocks_of("columns", self.columns, TILE[1])?, 1];
        self.product(product, kernel, tokens, grid)
    }

    /// Launches that compute y = x·Wᵀ (+ bias) for each of a few tokens by itself, in single precision: for one token the weights are
    /// read once, and that is all that takes time; more tokens read them again each.
    ///
    /// # Errors
    /// Lengths that do not belong together, or an element type other than bf16 and f16.
    pub fn vector_launches<'a, T: Float>(&self, product: &Product<'a, T>) -> Result<Vec<Launch<'a>>, ShapeError> {
        let kernel = half_kernel::<T>("nf4_vector_bf16", "nf4_vector_f16")?;
        let tokens = self.expect_product(product, self.columns, self.rows)?;
        let grid = [to_grid("rows", self.rows.div_ceil(8))?, blocks_of("tokens", tokens, 1)?, 1];
        self.product(product, kernel, tokens, grid)
    }

    fn expect_product<T: Float>(
        &self,
        product: &Product<'_, T>,
        inputs: usize,
        outputs: usize,
    ) -> Result<usize, ShapeError> {
        let Product { x, weights, bias, y } = product;
        self.expect(weights.codes.len(), weights.scales.len(), weights.largest.len(), weights.mean.len())?;
        let tokens = if inputs == 0 { expect_rows("y", y.len(), outputs)? } else { expect_rows("x", x.len(), inputs)? };
        expect_len("x", x.len(), tokens * inputs)?;
        expect_len("y", y.len(), tokens * outputs)?;
        expect_len("bias", bias.map_or(outputs, |bias| bias.len()), outputs)?;
        Ok(tokens)
    }

    fn product<'a, T: Float>(
        &self,
        product: &Product<'a, T>,
        kernel: &'static str,
        tokens: usize,
        grid: [u32; 3],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        if product.y.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = vec![product.x.argument()];
        all.extend(arguments(&product.weights));
        all.extend([
            optional(product.bias.as_ref()),
            product.y.argument(),
            Argument::I64(to_i64("tokens", tokens)?),
            Argument::I32(to_i32("rows", self.rows)?),
            Argument::I32(to_i32("columns", self.columns)?),
        ]);
        Ok(vec![Launch::new(FAMILY, kernel, grid, [THREADS, 1, 1], all)])
    }
}

fn arguments(weights: &Quantised<Buffer<'_, u8>, Buffer<'_, f32>>) -> [Argument; 4] {
    let Quantised { codes, scales, largest, mean } = weights;
    [codes.argument(), scales.argument(), largest.argument(), mean.argument()]
}

fn half_kernel<T: Float>(bf16: &'static str, f16: &'static str) -> Result<&'static str, ShapeError> {
    match T::DTYPE {
        DType::Bf16 => Ok(bf16),
        DType::F16 => Ok(f16),
        other => Err(ShapeError::Dimension { name: "element of x", allowed: "two bytes", actual: other.bytes() }),
    }
}

/// A number of blocks in y.
fn blocks_of(name: &'static str, value: usize, each: usize) -> Result<u32, ShapeError> {
    let blocks = value.div_ceil(each);
    if blocks > 65_535 {
        return Err(ShapeError::Dimension { name, allowed: "at most 65,535 blocks of threads", actual: value });
    }
    Ok(blocks as u32)
}
