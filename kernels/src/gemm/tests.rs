//! Every engine that the machine has, and every engine's packing and loops with a micro-kernel in plain Rust, against sums in f64.

#![allow(unsafe_code, reason = "the emulated micro-kernels work on raw memory, as the real ones do")]

use std::marker::PhantomData;

use proptest::prelude::*;

use super::driver::{Job, Kernel, Right, Start, Tile, multiply};
use super::element::{Bf16, Bf16Format, Element, Format, WeightElement, round_to_bf16};
use super::pack::{Chunk, PANEL, chunks, panel_len};
use super::*;

/// The micro-kernel `K` in plain Rust: the same packing and block sizes, read number by number.
struct Emulated<K>(PhantomData<K>);

impl<K: Kernel> Kernel for Emulated<K> {
    type Left = K::Left;
    type Right = K::Right;
    const ROWS: usize = K::ROWS;
    const ROW_UNIT: usize = K::ROW_UNIT;
    const GROUP: usize = K::GROUP;
    const DEPTH: usize = K::DEPTH;
    const BLOCK_ROWS: usize = K::BLOCK_ROWS;

    fn panels(rows: usize) -> usize {
        K::panels(rows)
    }

    unsafe fn run(tile: &Tile<K::Left, K::Right>) {
        assert!((1..=K::ROWS).contains(&tile.rows) && tile.rows.is_multiple_of(K::ROW_UNIT));
        assert!(tile.panels >= 1 && tile.depth > 0 && tile.depth.is_multiple_of(K::GROUP) && tile.depth <= K::DEPTH);
        for row in 0..tile.rows {
            for column in 0..tile.panels * PANEL {
                // SAFETY: these are the places that the documentation of the packed orders names, for each k of the tile.
                unsafe {
                    let panel = tile.right.add(column / PANEL * tile.panel_stride);
                    let mut sum = 0.0f32;
                    for k in 0..tile.depth {
                        let left = tile.left.add((k / K::GROUP * tile.rows + row) * K::GROUP + k % K::GROUP).read();
                        let pair = K::Right::PAIR;
                        let right = panel.add((k / pair * PANEL + column % PANEL) * pair + k % pair).read();
                        sum = left.value().mul_add(right.value(), sum);
                    }
                    let out = tile.out.add(row * tile.out_stride + column);
                    *out = match tile.start {
                        Start::Zero => sum,
                        Start::Bias => *tile.bias.add(column) + sum,
                        Start::Keep => *out + sum,
                    };
                }
            }
        }
    }
}

/// What is tested: an engine that runs here, or the emulation of one that need not.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Engine(Engine, Precision),
    #[cfg(target_arch = "x86_64")]
    Emulated(Engine, Precision),
}

impl Subject {
    fn all() -> Vec<Self> {
        let mut subjects = Vec::new();
        for precision in [Precision::F32, Precision::Bf16] {
            for engine in Engine::ALL.into_iter().filter(|engine| engine.computes(precision)) {
                if engine.is_available() {
                    subjects.push(Self::Engine(engine, precision));
                }
                #[cfg(target_arch = "x86_64")]
                if engine != Engine::Portable {
                    subjects.push(Self::Emulated(engine, precision));
                }
            }
        }
        subjects
    }

    fn precision(self) -> Precision {
        match self {
            Self::Engine(_, precision) => precision,
            #[cfg(target_arch = "x86_64")]
            Self::Emulated(_, precision) => precision,
        }
    }

    fn multiply(self, left: Matrix<'_>, weights: Weights<'_>, mut out: MatrixMut<'_>, job: Job<'_>) {
        match (self, weights) {
            (Self::Engine(engine, _), Weights::Packed(packed)) => {
                let Job { bias, accumulate, threads } = job;
                let options = MatmulOptions { bias, accumulate, threads, engine: Some(engine) };
                packed.matmul(left, out, &options).unwrap();
            }
            (Self::Engine(engine, precision), Weights::Plain(right)) => {
                assert!(job.bias.is_none());
                let Job { accumulate, threads, .. } = job;
                gemm(left, right, out, &GemmOptions { precision, accumulate, threads, engine: Some(engine) }).unwrap();
            }
            #[cfg(target_arch = "x86_64")]
            (Self::Emulated(engine, Precision::F32), weights) => {
                let right = match weights {
                    Weights::Packed(PackedWeights { panels: Panels::F32(panels), .. }) => {
                        Right::Packed { panels: panels.as_slice(), stride: panel_len::<f32>(left.layout().columns) }
                    }
                    Weights::Packed(_) => panic!("weights packed in another precision"),
                    Weights::Plain(right) => Right::Plain(right),
                };
                // SAFETY: emulated micro-kernels need no features.
                unsafe {
                    match engine {
                        Engine::Avx2 => multiply::<Emulated<avx2::Avx2F32>>(left, right, &mut out, job),
                        _ => multiply::<Emulated<avx512::Avx512F32>>(left, right, &mut out, job),
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            (Self::Emulated(engine, Precision::Bf16), weights) => {
                let right = match weights {
                    Weights::Packed(PackedWeights { panels: Panels::Bf16(panels), .. }) => {
                        Right::Packed { panels: panels.as_slice(), stride: panel_len::<Bf16>(left.layout().columns) }
                    }
                    Weights::Packed(_) => panic!("weights packed in another precision"),
                    Weights::Plain(right) => Right::Plain(right),
                };
                // SAFETY: as above.
                unsafe {
                    match engine {
                        Engine::Avx2 => multiply::<Emulated<avx2::Avx2Bf16>>(left, right, &mut out, job),
                        Engine::Avx512 => multiply::<Emulated<avx512::Avx512Widening>>(left, right, &mut out, job),
                        Engine::Avx512Bf16 => multiply::<Emulated<avx512::Avx512Dot>>(left, right, &mut out, job),
                        _ => multiply::<Emulated<amx::Amx>>(left, right, &mut out, job),
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Weights<'a> {
    Packed(&'a PackedWeights),
    Plain(Matrix<'a>),
}

/// xorshift64*, as numbers in [-1, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Element (row, column) of a matrix in f64, after rounding to `precision`.
fn element(matrix: Matrix<'_>, row: usize, column: usize, precision: Precision) -> f64 {
    let layout = matrix.layout();
    let index = row * layout.row_stride + column * layout.column_stride;
    let value = match matrix.values() {
        Values::F32(values) => values[index],
        Values::Bf16(values) => Bf16Format::widen(values[index]),
        Values::F16(values) => super::element::F16Format::widen(values[index]),
    };
    f64::from(if precision == Precision::Bf16 { Bf16Format::widen(round_to_bf16(value)) } else { value })
}

/// Compares `out` with left · right + before.
///
/// The tolerance is (k + 3)·2⁻²⁴·Σ|aᵢbᵢ| + 2⁻²²·|before|: each of at most k + 3 roundings (products, sums, blocks, bias) has a relative
/// error of at most 2⁻²⁴, and no partial sum exceeds the sum of absolute values (Higham, Accuracy and Stability of Numerical Algorithms, 3.1, whose
/// factor k·u is doubled here, as AMX and AVX512-BF16 may round twice in a step). Operands in bf16 are rounded in the reference, too.
fn check(
    left: Matrix<'_>,
    right: Matrix<'_>,
    before: impl Fn(usize, usize) -> f64,
    out: &[f32],
    stride: usize,
    precision: Precision,
    label: &str,
) {
    let (m, k, n) = (left.layout().rows, left.layout().columns, right.layout().columns);
    for row in 0..m {
        let left: Vec<f64> = (0..k).map(|index| element(left, row, index, precision)).collect();
        for column in 0..n {
            let begin = before(row, column);
            let (mut sum, mut size) = (begin, 0.0);
            for (index, left) in left.iter().enumerate() {
                let product = left * element(right, index, column, precision);
                sum += product;
                size += product.abs();
            }
            let found = f64::from(out[row * stride + column]);
            let tolerance = (k + 3) as f64 * 2f64.powi(-23) * size + 2f64.powi(-22) * begin.abs();
            assert!(
                (found - sum).abs() <= tolerance,
                "{label} at ({row}, {column}): {found} instead of {sum} ± {tolerance}"
            );
        }
    }
}

const SHAPES: [(usize, usize, usize); 26] = [
    (0, 0, 0),
    (0, 5, 3),
    (3, 0, 5),
    (4, 7, 0),
    (1, 1, 1),
    (1, 16, 8),
    (1, 130, 300),
    (2, 33, 7),
    (3, 65, 31),
    (4, 17, 33),
    (5, 15, 257),
    (6, 16, 256),
    (7, 31, 255),
    (8, 48, 64),
    (13, 47, 65),
    (14, 32, 512),
    (15, 129, 513),
    (16, 16, 32),
    (17, 40, 1030),
    (29, 36, 40),
    (33, 34, 35),
    (64, 100, 77),
    (200, 37, 260),
    (345, 20, 600),
    (530, 19, 290),
    (9, 2100, 40),
];

#[test]
fn products_agree_with_sums_in_f64() {
    let mut random = Random(1);
    for (m, n, k) in SHAPES {
        let (x, w, bias) = (random.numbers(m * k), random.numbers(n * k), random.numbers(n));
        let x = Matrix::row_major(Values::F32(&x), m, k).unwrap();
        let w = Matrix::row_major(Values::F32(&w), n, k).unwrap();
        for subject in Subject::all() {
            let packed = PackedWeights::pack(w, subject.precision()).unwrap();
            for (accumulate, bias) in [(false, None), (false, Some(&bias)), (true, None), (true, Some(&bias))] {
                let label = format!("{subject:?} {m}x{n}x{k} accumulate {accumulate} bias {}", bias.is_some());
                // Rows are a little apart; what lies between must stay.
                let stride = n + 3;
                let first = random.numbers(m * stride);
                let mut y = first.clone();
                let job = Job { bias: bias.map(Vec::as_slice), accumulate, threads: 1 };
                subject.multiply(x, Weights::Packed(&packed), MatrixMut::strided(&mut y, m, n, stride).unwrap(), job);
                let before = |row: usize, column: usize| {
                    let kept = if accumulate { f64::from(first[row * stride + column]) } else { 0.0 };
                    kept + bias.map_or(0.0, |bias| f64::from(bias[column]))
                };
                check(x, w.transposed(), before, &y, stride, subject.precision(), &label);
                for row in 0..m {
                    assert_eq!(
                        y[row * stride + n..(row + 1) * stride],
                        first[row * stride + n..(row + 1) * stride],
                        "{label}"
                    );
                }
            }
        }
    }
}

#[test]
fn plain_products_have_the_bits_of_packed_ones() {
    let mut random = Random(2);
    for (m, n, k) in SHAPES {
        let (a, b, c) = (random.numbers(m * k), random.numbers(k * n), random.numbers(m * n));
        // The same two matrices, stored by rows and by columns.
        let by_columns = |values: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
        };
        let (a_columns, b_columns) = (by_columns(&a, m, k), by_columns(&b, k, n));
        let matrix = |values, rows, columns| Matrix::row_major(values, rows, columns).unwrap();
        let lefts = [matrix(Values::F32(&a), m, k), matrix(Values::F32(&a_columns), k, m).transposed()];
        let rights = [matrix(Values::F32(&b), k, n), matrix(Values::F32(&b_columns), n, k).transposed()];
        for subject in Subject::all() {
            let job = Job { bias: None, accumulate: true, threads: 1 };
            let mut expected = c.clone();
            let packed = PackedWeights::pack(rights[0].transposed(), subject.precision()).unwrap();
            subject.multiply(
                lefts[0],
                Weights::Packed(&packed),
                MatrixMut::row_major(&mut expected, m, n).unwrap(),
                job,
            );
            for left in lefts {
                for right in rights {
                    let mut out = c.clone();
                    subject.multiply(left, Weights::Plain(right), MatrixMut::row_major(&mut out, m, n).unwrap(), job);
                    assert!(same_bits(&out, &expected), "{subject:?} {m}x{n}x{k}");
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_nor_on_threads() {
    let mut random = Random(3);
    for (n, k) in [(1, 5), (40, 300), (133, 1100), (2100, 70)] {
        let most = 600;
        let (x, w, bias) = (random.numbers(most * k), random.numbers(n * k), random.numbers(n));
        for subject in Subject::all() {
            // Emulation is slow, and its rows are independent by construction; what is left to see needs few rows.
            let counts: &[usize] = match subject {
                Subject::Engine(..) => &[1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 14, 15, 16, 17, 29, 31, 32, 33, 65, 200, 600],
                #[cfg(target_arch = "x86_64")]
                Subject::Emulated(..) => &[1, 3, 7, 15, 17, 33],
            };
            let packed =
                PackedWeights::pack(Matrix::row_major(Values::F32(&w), n, k).unwrap(), subject.precision()).unwrap();
            let run = |rows: std::ops::Range<usize>, threads: usize| {
                let mut y = vec![f32::NAN; rows.len() * n];
                let x = Matrix::row_major(Values::F32(&x[rows.start * k..]), rows.len(), k).unwrap();
                let job = Job { bias: Some(&bias), accumulate: false, threads };
                let out = MatrixMut::row_major(&mut y, rows.len(), n).unwrap();
                subject.multiply(x, Weights::Packed(&packed), out, job);
                y
            };
            let all = *counts.last().unwrap();
            let expected = run(0..all, 1);
            for &count in counts {
                for first in [0, (all - count) / 2, all - count] {
                    for threads in [1, 2, 5] {
                        let y = run(first..first + count, threads);
                        let expected = &expected[first * n..(first + count) * n];
                        assert!(
                            same_bits(&y, expected),
                            "{subject:?} {n}x{k}: {count} rows from {first}, {threads} threads"
                        );
                    }
                }
            }
        }
    }
}

/// A NaN or an infinity reaches exactly the results that it belongs to, also where tiles are padded.
#[test]
fn infinity_and_nan_propagate() {
    let mut random = Random(4);
    for (m, n, k) in [(1, 1, 1), (5, 19, 9), (17, 35, 41), (33, 17, 300)] {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            // Positive numbers, so that an infinity does not meet one of the other sign.
            let mut x: Vec<f32> = random.numbers(m * k).iter().map(|x| x.abs() + 0.5).collect();
            let mut w: Vec<f32> = random.numbers(n * k).iter().map(|w| w.abs() + 0.5).collect();
            x[(m - 1) * k + k / 2] = bad;
            w[(n - 1) * k + k - 1] = bad;
            let x = Matrix::row_major(Values::F32(&x), m, k).unwrap();
            let w = Matrix::row_major(Values::F32(&w), n, k).unwrap();
            for subject in Subject::all() {
                let packed = PackedWeights::pack(w, subject.precision()).unwrap();
                let mut y = vec![0.0; m * n];
                let job = Job { bias: None, accumulate: false, threads: 1 };
                subject.multiply(x, Weights::Packed(&packed), MatrixMut::row_major(&mut y, m, n).unwrap(), job);
                for row in 0..m {
                    for column in 0..n {
                        let found = y[row * n + column];
                        let label = format!("{subject:?} {m}x{n}x{k} {bad} at ({row}, {column}): {found}");
                        let expected = (0..k).fold(0.0, |sum, index| {
                            sum + element(x, row, index, Precision::F32) * element(w, column, index, Precision::F32)
                        });
                        assert_eq!(found.is_nan(), expected.is_nan(), "{label}");
                        assert_eq!(found.is_infinite(), expected.is_infinite(), "{label}");
                        assert!(!found.is_infinite() || f64::from(found) == expected, "{label}");
                    }
                }
            }
        }
    }
}

#[test]
fn half_precision_inputs_are_their_values() {
    let mut random = Random(5);
    let (m, n, k) = (7, 21, 45);
    // Multiples of 1/128 below 1 are exact in both formats.
    let exact = |values: Vec<f32>| -> Vec<f32> { values.iter().map(|value| (value * 128.0).round() / 128.0).collect() };
    let (x, w) = (exact(random.numbers(m * k)), exact(random.numbers(n * k)));
    let bf16 = |values: &[f32]| -> Vec<u16> { values.iter().map(|value| (value.to_bits() >> 16) as u16).collect() };
    let f16 = |values: &[f32]| -> Vec<u16> {
        let all: Vec<(u16, f32)> = (0..=u16::MAX)
            .map(|raw| (raw, super::element::F16Format::widen(raw)))
            .filter(|(_, value)| value.is_finite())
            .collect();
        values.iter().map(|value| all.iter().find(|(_, other)| other == value).unwrap().0).collect()
    };
    let (x_bf16, w_bf16, x_f16, w_f16) = (bf16(&x), bf16(&w), f16(&x), f16(&w));
    for subject in Subject::all() {
        let run = |x: Values<'_>, w: Values<'_>| {
            let packed = PackedWeights::pack(Matrix::row_major(w, n, k).unwrap(), subject.precision()).unwrap();
            let mut y = vec![0.0; m * n];
            let job = Job { bias: None, accumulate: false, threads: 1 };
            let x = Matrix::row_major(x, m, k).unwrap();
            subject.multiply(x, Weights::Packed(&packed), MatrixMut::row_major(&mut y, m, n).unwrap(), job);
            y
        };
        let expected = run(Values::F32(&x), Values::F32(&w));
        assert!(same_bits(&run(Values::Bf16(&x_bf16), Values::Bf16(&w_bf16)), &expected), "{subject:?}");
        assert!(same_bits(&run(Values::F16(&x_f16), Values::F16(&w_f16)), &expected), "{subject:?}");
    }
}

#[test]
fn wrong_sizes_and_engines_are_refused() {
    let values = [0.0f32; 12];
    let matrix = |rows, columns| Matrix::row_major(Values::F32(&values), rows, columns);
    assert_eq!(matrix(4, 4).unwrap_err(), GemmError::TooShort { needed: 16, found: 12 });
    let huge = Layout { rows: usize::MAX, columns: 2, row_stride: 3, column_stride: 1 };
    assert_eq!(Matrix::strided(Values::F32(&values), huge).unwrap_err(), GemmError::TooLarge);
    let repeated = Layout { rows: usize::MAX, columns: 2, row_stride: 0, column_stride: 1 };
    let repeated = Matrix::strided(Values::F32(&values), repeated).unwrap();
    assert_eq!(PackedWeights::pack(repeated, Precision::F32).unwrap_err(), GemmError::TooLarge);
    let mut out = [7.0f32; 12];
    assert_eq!(
        MatrixMut::strided(&mut out, 2, 4, 3).unwrap_err(),
        GemmError::Overlapping { row_stride: 3, columns: 4 }
    );
    let packed = PackedWeights::pack(matrix(3, 4).unwrap(), Precision::F32).unwrap();
    assert_eq!((packed.outputs(), packed.inputs(), packed.memory()), (3, 4, 16 * 8 * 4));
    let mut refused = |x, rows, columns, options: &MatmulOptions<'_>| {
        packed.matmul(x, MatrixMut::row_major(&mut out, rows, columns).unwrap(), options).unwrap_err()
    };
    let options = MatmulOptions::default();
    let shape = |what, expected, found| GemmError::Shape { what, expected, found };
    assert_eq!(refused(matrix(2, 3).unwrap(), 2, 3, &options), shape("columns of x", 4, 3));
    assert_eq!(refused(matrix(2, 4).unwrap(), 2, 2, &options), shape("columns of y", 3, 2));
    assert_eq!(refused(matrix(2, 4).unwrap(), 3, 3, &options), shape("rows of y", 2, 3));
    let short = MatmulOptions { bias: Some(&[1.0]), ..options };
    assert_eq!(refused(matrix(2, 4).unwrap(), 2, 3, &short), shape("length of the bias", 3, 1));
    let unsuitable = MatmulOptions { engine: Some(Engine::Amx), ..options };
    assert_eq!(
        refused(matrix(2, 4).unwrap(), 2, 3, &unsuitable),
        GemmError::EngineUnsuitable { engine: Engine::Amx, precision: Precision::F32 }
    );
    for engine in Engine::ALL.into_iter().filter(|engine| !engine.is_available()) {
        let options = GemmOptions { precision: Precision::Bf16, engine: Some(engine), ..Default::default() };
        let (a, b) = (matrix(2, 3).unwrap(), matrix(3, 2).unwrap());
        let refused = gemm(a, b, MatrixMut::row_major(&mut out, 2, 2).unwrap(), &options);
        assert_eq!(refused, Err(GemmError::EngineUnavailable(engine)));
    }
    assert_eq!(out, [7.0; 12]);
    let refused = gemm(
        matrix(2, 3).unwrap(),
        matrix(2, 3).unwrap(),
        MatrixMut::row_major(&mut out, 2, 3).unwrap(),
        &GemmOptions::default(),
    );
    assert_eq!(refused, Err(shape("rows of b", 3, 2)));
}

#[test]
fn chunks_cover_all_rows_in_equal_parts() {
    for (most, unit) in [(4, 1), (6, 1), (14, 1), (32, 16)] {
        for rows in 0..200 {
            let chunks: Vec<Chunk> = chunks(5..5 + rows, most, unit).collect();
            let mut next = 5;
            for chunk in &chunks {
                assert_eq!(chunk.row, next);
                assert!(chunk.rows > 0 && chunk.rows <= chunk.stored && chunk.stored <= most);
                assert_eq!(chunk.stored, chunk.rows.next_multiple_of(unit));
                next += chunk.rows;
            }
            assert_eq!(next, 5 + rows);
            assert_eq!(chunks.len(), rows.div_ceil(most));
            let sizes = chunks.iter().map(|chunk| chunk.stored);
            assert!(sizes.clone().max().unwrap_or(0) - sizes.min().unwrap_or(0) <= unit);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any size, any strides (also 0 and gaps), any number of threads, packed and plain.
    #[test]
    fn any_matrices(
        (m, n, k) in (0usize..80, 0usize..90, 0usize..600),
        gaps in prop::array::uniform3(0usize..4),
        (by_columns, repeat) in (any::<[bool; 2]>(), any::<bool>()),
        threads in 0usize..4,
        accumulate: bool,
        seed in 1u64..,
    ) {
        let mut random = Random(seed);
        let layout = |rows: usize, columns: usize, by_columns: bool, gap: usize| {
            if by_columns {
                Layout { rows, columns, row_stride: 1 + gap, column_stride: rows * (1 + gap) + gap }
            } else {
                Layout { rows, columns, row_stride: columns + gap, column_stride: 1 }
            }
        };
        let mut left = layout(m, k, by_columns[0], gaps[0]);
        if repeat {
            left.row_stride = 0;
        }
        let right = layout(k, n, by_columns[1], gaps[1]);
        let values = |layout: &Layout| layout.rows * layout.row_stride + layout.columns * layout.column_stride + 1;
        let (a, b) = (random.numbers(values(&left)), random.numbers(values(&right)));
        let left = Matrix::strided(Values::F32(&a), left).unwrap();
        let right = Matrix::strided(Values::F32(&b), right).unwrap();
        let stride = n + gaps[2];
        let first = random.numbers(m * stride);
        for subject in Subject::all() {
            let packed = PackedWeights::pack(right.transposed(), subject.precision()).unwrap();
            let mut results = Vec::new();
            for weights in [Weights::Packed(&packed), Weights::Plain(right), Weights::Packed(&packed)] {
                let mut out = first.clone();
                let job = Job { bias: None, accumulate, threads };
                subject.multiply(left, weights, MatrixMut::strided(&mut out, m, n, stride).unwrap(), job);
                results.push(out);
            }
            let before = |row: usize, column: usize| {
                if accumulate { f64::from(first[row * stride + column]) } else { 0.0 }
            };
            check(left, right, before, &results[0], stride, subject.precision(), &format!("{subject:?}"));
            prop_assert!(same_bits(&results[0], &results[1]) && same_bits(&results[0], &results[2]), "{:?}", subject);
        }
    }

    /// A packed operand gives back every number, at the place that its documentation names.
    #[test]
    fn bf16_rounding_is_within_half_a_unit(value: f32) {
        let rounded = Bf16::pack(value).value();
        if value.is_nan() {
            prop_assert!(rounded.is_nan());
        } else if rounded.is_finite() {
            // Eight bits of significand: half a unit is 2⁻⁹ of the number's power of two, or of the smallest normal one.
            prop_assert!((f64::from(rounded) - f64::from(value)).abs() <= f64::from(value.abs().max(f32::MIN_POSITIVE)) * 2f64.powi(-8));
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
