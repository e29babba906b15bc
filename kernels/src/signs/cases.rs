//! The table of cases, with answers from the cipher written as its paper writes it.

use super::{Block, Signs};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "signs", cases, benches };

#[derive(Clone)]
struct Filling {
    signs: Signs,
    block: Block,
    rows: usize,
    scale: f32,
    dtype: DType,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for (rows, first_row, first_column, columns) in [
            (0, 0, 0, 5),
            (3, 0, 0, 0),
            (1, 0, 0, 1),
            (16, 0, 0, 768),
            (7, 3, 128, 131),
            (5, 1, 127, 2),
            (4, 0, 31, 1000),
            (9, 0, 8, 64),
            // Very many rows, a very long one, and the last row and column that there are.
            (3000, 0, 0, 3),
            (1, 2, 4, 20_000),
            (2, (1 << 32) - 2, (1 << 39) - 300, 300),
            (random.length(30), random.below(1000), random.below(1000), random.length(900)),
        ] {
            all.push(Box::new(Filling {
                signs: Signs::new(random.bits(), random.bits()),
                block: Block { first_row, first_column, columns },
                rows,
                scale: 0.3,
                dtype,
            }));
        }
        for scale in [-2.0, 0.0, 1e-30, f32::INFINITY, f32::NAN] {
            let block = Block { first_row: 0, first_column: 0, columns: 200 };
            all.push(Box::new(Filling { signs: Signs::new(0, 0), block, rows: 2, scale, dtype }));
        }
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        for columns in [2048, 8192] {
            all.push(Box::new(Filling {
                signs: Signs::new(1, 2),
                block: Block::first(columns),
                rows: bytes / columns / dtype.bytes(),
                scale: 0.25,
                dtype,
            }));
        }
    }
    all
}

/// The sign, from the paper's equations: L, R = high(R * M) ^ k ^ L, low(R * M) on both halves of the counter.
fn sign(signs: Signs, row: usize, column: usize) -> f64 {
    let half = |number: u64, upper: bool| if upper { number >> 32 } else { number & 0xffff_ffff };
    let mut words = [(column / 128) as u64, row as u64, half(signs.module, false), half(signs.module, true)];
    for round in 0..10 {
        let key = |upper, step: u64| half(half(signs.seed, upper) + round * step, false);
        let (left, right) = (words[0] * 0xD251_1F53, words[2] * 0xCD9E_8D57);
        words = [
            half(right, true) ^ words[1] ^ key(false, 0x9E37_79B9),
            half(right, false),
            half(left, true) ^ words[3] ^ key(true, 0xBB67_AE85),
            half(left, false),
        ];
    }
    if words[column % 128 / 32] >> (column % 32) & 1 == 1 { 1.0 } else { -1.0 }
}

impl Problem for Filling {
    fn label(&self) -> String {
        let Block { first_row, first_column, columns } = self.block;
        format!(
            "signs times {}, {} x {columns} from ({first_row}, {first_column}) {}",
            self.scale, self.rows, self.dtype
        )
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        Vec::new()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(self.dtype, self.rows * self.block.columns)]
    }

    fn expected(&self) -> Vec<Expected> {
        let scale = HostBuffer::from_f64(self.dtype, std::iter::once(f64::from(self.scale))).to_f64()[0];
        let Block { first_row, first_column, columns } = self.block;
        let values = (0..self.rows)
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .map(|(row, column)| scale * sign(self.signs, first_row + row, first_column + column))
            .collect();
        vec![Expected::values(values, Tolerance::EXACT)]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        _: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        Some(match &mut outputs[0] {
            HostBuffer::F32(out) => self.signs.fill(workers, self.block, self.scale, out),
            HostBuffer::Bf16(out) => self.signs.fill(workers, self.block, self.scale, out),
            HostBuffer::F16(out) => self.signs.fill(workers, self.block, self.scale, out),
            _ => return None,
        })
    }

    fn launches<'a>(&self, _: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.dtype, T => self.signs.launches(self.block, self.scale, outputs[0].write::<T>()?))
    }

    /// The later columns of the last row alone.
    fn parts(&self) -> Vec<Part> {
        let Some(row) = self.rows.checked_sub(1) else { return Vec::new() };
        let skipped = self.block.columns / 3;
        let columns = self.block.columns - skipped;
        let block =
            Block { first_row: self.block.first_row + row, first_column: self.block.first_column + skipped, columns };
        let end = self.rows * self.block.columns;
        let problem = Self { block, rows: usize::from(columns > 0), ..self.clone() };
        vec![Part { problem: Box::new(problem), pieces: vec![(0, end - columns..end)] }]
    }

    fn work(&self) -> Work {
        Work { bytes: (self.rows * self.block.columns * self.dtype.bytes()) as f64, operations: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use crate::signs::{Block, Signs, module_number, unit_scale};
    use crate::workers::{Serial, Threads};
    use md5::{Digest, Md5};

    /// What `random_matrix(identifier, rows, columns, "cpu", "rademacher")` of bergson 2.5.1 gives: number of signs that are +, the first
    /// signs of the first and of the last row packed into bytes, highest bit first, and the MD5 of all so packed.
    #[test]
    fn matrices_are_those_of_bergson_2() {
        for (identifier, rows, columns, ones, first, last, all) in [
            (
                "layers.0.mlp.down_proj/left",
                16,
                2048,
                16_394,
                "0bddd6190e7ad8a01dba73a03aad4d46",
                "4c5b6ed25be1d532399d48d38d19bf86",
                "b99d7deb26313cb354aa5e436f9083af",
            ),
            (
                "layers.0.mlp.down_proj/right",
                16,
                8192,
                65_483,
                "cb58458382c1b478219576fe92871d42",
                "fed1d9cd8468b38c30df6c2678a15a12",
                "6fd9db47349b5c7e89226e2d8cdfebe0",
            ),
            ("a/right", 8, 5, 17, "00", "60", "8792e578e49de243d9828e29a8f63bdf"),
            (
                "layers.3.self_attn.q_proj/left",
                7,
                131,
                469,
                "aaf3fadf52d2a7658f34866896d90f42",
                "3d56310d4bbcf8bda597b03b1c55bafc",
                "01bfedc8f54ad6d98f5f948a304de941",
            ),
        ] {
            let mut matrix = vec![0_f32; rows * columns];
            Signs::bergson_2(identifier).fill(&Threads::new(2), Block::first(columns), 1.0, &mut matrix).unwrap();
            assert_eq!(matrix.iter().filter(|&&value| value == 1.0).count(), ones);
            let pack = |signs: &[f32]| -> Vec<u8> {
                let byte = |byte: u8, (i, &sign): (usize, &f32)| byte | u8::from(sign > 0.0) << (7 - i);
                signs.chunks(8).map(|signs| signs.iter().enumerate().fold(0, byte)).collect()
            };
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert!(hex(&pack(&matrix[..columns])).starts_with(first), "{identifier}");
            assert!(hex(&pack(&matrix[(rows - 1) * columns..])).starts_with(last), "{identifier}");
            assert_eq!(hex(&Md5::digest(pack(&matrix))), all, "{identifier}");
        }
    }

    /// Names are numbers that must not change: matrices would.
    #[test]
    fn modules_have_numbers() {
        // `printf abc | md5sum` begins with 900150983cd24fb0.
        assert_eq!(module_number("abc"), u64::from_le_bytes([0x90, 0x01, 0x50, 0x98, 0x3c, 0xd2, 0x4f, 0xb0]));
        assert_eq!(Signs::named(7, "abc"), Signs::new(7, module_number("abc")));
        assert_eq!(unit_scale(16), 0.25);
    }

    /// Rows, modules and seeds are not correlated: of 2^16 products of two signs, about half are 1, within six deviations of 128.
    #[test]
    fn signs_of_different_rows_modules_and_seeds_are_uncorrelated() {
        let row = |signs: Signs, first_row| {
            let mut out = vec![0_f32; 1 << 16];
            signs.fill(&Serial, Block { first_row, first_column: 0, columns: 1 << 16 }, 1.0, &mut out).unwrap();
            out
        };
        let rows = [
            row(Signs::new(0, 0), 0),
            row(Signs::new(0, 0), 1),
            row(Signs::new(0, 1), 0),
            row(Signs::new(1, 0), 0),
            row(Signs::new(0, 1 << 32), 0),
            row(Signs::new(1 << 32, 0), 0),
            vec![1.0; 1 << 16],
        ];
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[..i] {
                let sum: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!(sum.abs() < 6.0 * 256.0, "{sum}");
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let signs = Signs::new(0, 0);
        let fill = |first_row, first_column, columns, len| {
            let block = Block { first_row, first_column, columns };
            signs.fill(&Serial, block, 1.0, &mut vec![0_f32; len]).map_err(|error| error.to_string())
        };
        assert_eq!(fill(0, 0, 3, 4).unwrap_err(), "`out` has 4 elements, not a multiple of 3");
        assert_eq!(
            fill(usize::MAX, 0, 2, 4).unwrap_err(),
            format!("`rows` is {}, and at most 2^32 is allowed", u64::MAX)
        );
        assert_eq!(fill(0, (1 << 39) - 1, 2, 4).unwrap_err(), "`columns` is 549755813889, and at most 2^39 is allowed");
        assert_eq!(fill(0, 0, 0, 0), Ok(()));
    }
}
