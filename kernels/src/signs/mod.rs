//! Random signs for projection matrices: element (row, column) of the matrix of a module is a function of its place alone.
//!
//! [`Signs`] is counter-based: a block cipher turns a counter into 128 bits, without a state that would have to be handed on. So any part
//! of a matrix can be made alone, in any order, on any device, with the same bits. The cipher is Philox4x32-10 (Salmon, Moraes, Dror and
//! Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011):
//!
//! | | 32-bit words |
//! |---|---|
//! | key | seed, lower half first |
//! | counter | column / 128; row; module, lower half first |
//! | sign of the column | bit column mod 32 of output word (column / 32) mod 4; 1 is +, 0 is - |
//!
//! Counters of different (module, row, column / 128) differ, so no two elements of any two matrices of one seed share a bit. Rows may be up
//! to 2^32 and columns up to 2^39. A matrix does not depend on its size: the first rows and columns of a large one are the small one.
//!
//! Two published sets of matrices can be made, too, those of bergson, a program for data attribution: [`Signs::bergson_2`] for its versions
//! 2.x, and [`SequentialSigns::bergson_0_26`] for version 0.26, whose generator is a sequence.
//!
//! ```
//! use gristmill_kernels::signs::{Block, Signs, unit_scale};
//! use gristmill_kernels::workers::Serial;
//!
//! // The left projection of one layer: 16 rows, of which each has 2048 signs, scaled so that lengths are kept on average.
//! let signs = Signs::named(42, "layers.0.mlp.down_proj/left");
//! let mut left = vec![0_f32; 16 * 2048];
//! signs.fill(&Serial, Block::first(2048), unit_scale(16), &mut left)?;
//! assert!(left.iter().all(|value| value.abs() == 0.25));
//!
//! // Columns 1000..1010 of row 3 alone.
//! let mut part = [0_f32; 10];
//! signs.fill(&Serial, Block { first_row: 3, first_column: 1000, columns: 10 }, unit_scale(16), &mut part)?;
//! assert_eq!(part, left[3 * 2048 + 1000..3 * 2048 + 1010]);
//! assert_eq!(part[0], 0.25 * signs.sign(3, 1000));
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;
mod philox;
mod sequential;

pub(crate) use cases::FAMILY;
pub use sequential::SequentialSigns;

use md5::{Digest, Md5};

/// Most rows of a matrix.
const MOST_ROWS: u64 = 1 << 32;
/// Most columns of a matrix.
const MOST_COLUMNS: u64 = 1 << 39;
/// Signs of one output of the cipher.
const GROUP: u64 = 128;

/// The signs of one module's matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signs {
    seed: u64,
    module: u64,
}

/// A rectangle of a matrix. How many rows it has follows from the length of what is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// The matrix's row that is the block's first.
    pub first_row: usize,
    /// The matrix's column that is the block's first.
    pub first_column: usize,
    /// Columns of the block.
    pub columns: usize,
}

impl Block {
    /// The block that begins at row 0 and column 0.
    pub const fn first(columns: usize) -> Self {
        Self { first_row: 0, first_column: 0, columns }
    }
}

impl Signs {
    /// The signs of the module of a number.
    pub const fn new(seed: u64, module: u64) -> Self {
        Self { seed, module }
    }

    /// The signs of the module of a name; its number is [`module_number`]. Left and right projections of a layer are two modules: their
    /// names must differ.
    pub fn named(seed: u64, name: &str) -> Self {
        Self::new(seed, module_number(name))
    }

    /// The signs of bergson 2.0 to 2.5 for an identifier, which is `<module>/left`, `<module>/right` or `<module>/single`: the seed is the
    /// first eight bytes of the identifier's MD5, little-endian, and the module is 0.
    ///
    /// bergson's matrix of p rows is this times 1 / √p ([`unit_scale`]) with its default scaling `jl`, and times 1 / √columns with
    /// `row_norm`. (Compared with the matrices that bergson 2.5.1 makes on the CPU, bit for bit.)
    pub fn bergson_2(identifier: &str) -> Self {
        Self::new(module_number(identifier), 0)
    }

    /// The signs of 128 columns of one row, from column 128 · `group` on: column 128 · group + 32 · i + j is bit j of word i; 1 is +.
    pub const fn bits(&self, row: u32, group: u32) -> [u32; 4] {
        philox::philox([group, row, self.module as u32, (self.module >> 32) as u32], self.key())
    }

    /// One sign, 1 or -1. Columns from 2^39 on begin again at column 0.
    pub const fn sign(&self, row: u32, column: u64) -> f32 {
        let word = self.bits(row, (column / GROUP) as u32)[(column % GROUP / 32) as usize];
        if word >> (column % 32) & 1 == 1 { 1.0 } else { -1.0 }
    }

    const fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }
}

/// The number of the module of a name: the first eight bytes of the name's MD5, little-endian.
pub fn module_number(name: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest(name);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// 1 / √rows in single precision, the square root rounded first as in torch's division of a matrix by a number: with it, E(AᵀA) = 1 for a
/// matrix A of so many rows.
pub fn unit_scale(rows: usize) -> f32 {
    1.0 / (rows as f64).sqrt() as f32
}

fn digest(text: &str) -> [u8; 16] {
    Md5::digest(text.as_bytes()).into()
}
