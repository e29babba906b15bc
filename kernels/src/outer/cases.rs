//! The table of cases, with the answers in double precision.

use super::{Outer, Strides};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "outer", cases, benches };

#[derive(Clone)]
struct Summing {
    outer: Outer,
    a: HostBuffer,
    b: HostBuffer,
    offsets: Vec<i64>,
    /// What is in `out` before.
    before: HostBuffer,
    norms: bool,
}

/// How vectors and results lie.
#[derive(Clone, Copy)]
enum Layout {
    /// Modules of a token side by side.
    Interleaved,
    /// Tokens of a module side by side.
    Apart,
    /// Modules of a token side by side, with room between all that is read and written, such that nothing begins at a multiple of
    /// 16 bytes.
    Wide,
}

impl Layout {
    const fn strides(self, rows: usize, modules: usize, width: usize) -> Strides {
        match self {
            Self::Interleaved => Strides::interleaved(modules, width),
            Self::Apart => Strides::apart(rows, width),
            Self::Wide => Strides { row: modules * (width + 3) + 1, module: width + 3 },
        }
    }
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    use Layout::{Apart, Interleaved, Wide};
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for (layout, lengths, modules, p, q) in [
            (Interleaved, &[][..], 2, 4, 4),
            (Interleaved, &[3, 2], 0, 4, 4),
            (Interleaved, &[3, 2], 2, 0, 4),
            (Interleaved, &[1], 1, 1, 1),
            (Interleaved, &[40, 0, 130], 3, 16, 16),
            (Apart, &[33, 200], 2, 16, 16),
            (Wide, &[5, 70], 3, 7, 13),
            (Interleaved, &[65, 1], 2, 32, 32),
            (Wide, &[129], 2, 3, 29),
            (Apart, &[0, 64], 1, 24, 9),
            (Interleaved, &[50, 3], 1, 64, 48),
            (Apart, &[31, 34], 1, 128, 128),
            (Wide, &[17], 1, 2, 133),
            (Interleaved, &[20], 2, 65, 5),
            (Apart, &[9], 2, 1, 40),
        ] {
            all.push(Box::new(Summing::new(layout, lengths, modules, p, q, dtype, &mut random)));
        }
        let lengths: Vec<usize> = (0..1 + random.below(4)).map(|_| random.length(150)).collect();
        let (modules, p, q) = (1 + random.below(3), 1 + random.below(40), 1 + random.below(40));
        let layout = [Interleaved, Apart, Wide][random.below(3)];
        all.push(Box::new(Summing::new(layout, &lengths, modules, p, q, dtype, &mut random)));
        // Very many segments, and a very long one.
        all.push(Box::new(Summing::new(Interleaved, &[1; 300], 1, 3, 2, dtype, &mut random)));
        all.push(Box::new(Summing::new(Interleaved, &[9_000], 1, 5, 8, dtype, &mut random)));
        // Into what is there, with and without norms.
        for norms in [true, false] {
            let mut adding = Summing::new(Wide, &[30, 0, 300], 2, 20, 17, dtype, &mut random);
            adding.outer.accumulate = true;
            adding.before = random.buffer(DType::F32, adding.before.len(), 0.0, 10.0);
            adding.norms = norms;
            all.push(Box::new(adding));
        }
        // Values that are not numbers and infinities, in one row or column of one segment and module each.
        let mut special = Summing::new(Interleaved, &[4, 40, 3], 2, 5, 6, dtype, &mut random);
        let place = |token: usize, module: usize, width: usize| (token * 2 + module) * width;
        special.a.put(place(2, 0, 5) + 1, f64::NAN);
        special.a.put(place(20, 1, 5) + 4, f64::INFINITY);
        special.b.put(place(43, 0, 6) + 5, f64::NEG_INFINITY);
        special.b.put(place(46, 1, 6), f64::NAN);
        all.push(Box::new(special));
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        for (layout, modules, p, length) in [
            (Layout::Interleaved, 112, 16, 1024),
            (Layout::Interleaved, 112, 16, 32),
            (Layout::Apart, 112, 16, 1024),
            (Layout::Interleaved, 112, 32, 256),
            (Layout::Apart, 16, 32, 1024),
            (Layout::Interleaved, 28, 64, 256),
            (Layout::Interleaved, 28, 128, 1024),
        ] {
            let segments = (bytes / (modules * p * dtype.bytes()) / length).max(1);
            all.push(Box::new(Summing::new(
                layout,
                &vec![length; segments],
                modules,
                p,
                p,
                dtype,
                &mut Random::new(1),
            )));
        }
    }
    all
}

impl HostBuffer {
    /// Writes one value, rounded to the type.
    fn put(&mut self, at: usize, value: f64) {
        match self {
            Self::F32(values) => values[at] = value as f32,
            Self::Bf16(values) => values[at] = half::bf16::from_f64(value),
            Self::F16(values) => values[at] = half::f16::from_f64(value),
            _ => {}
        }
    }
}

impl Summing {
    fn new(
        layout: Layout,
        lengths: &[usize],
        modules: usize,
        p: usize,
        q: usize,
        dtype: DType,
        random: &mut Random,
    ) -> Self {
        let mut offsets = vec![0_i64];
        let mut tokens = 0;
        for length in lengths {
            tokens += length;
            offsets.push(tokens as i64);
        }
        let outer = Outer {
            tokens,
            modules,
            p,
            q,
            a: layout.strides(tokens, modules, p),
            b: layout.strides(tokens, modules, q),
            out: layout.strides(lengths.len(), modules, p * q),
            accumulate: false,
        };
        let extent = |strides: Strides, rows, size| strides.extent(rows, modules, size).unwrap_or(0);
        let mut values = |strides, size| random.buffer(dtype, extent(strides, tokens, size), 0.2, 1.0);
        let (a, b) = (values(outer.a, p), values(outer.b, q));
        let before = HostBuffer::unwritten(DType::F32, extent(outer.out, lengths.len(), p * q));
        Self { outer, a, b, offsets, before, norms: true }
    }

    fn segments(&self) -> usize {
        self.offsets.len() - 1
    }

    fn result(&self, segment: usize, module: usize) -> usize {
        segment * self.outer.out.row + module * self.outer.out.module
    }
}

impl Problem for Summing {
    fn label(&self) -> String {
        let Outer { tokens, modules, p, q, a, accumulate, .. } = self.outer;
        let layout = if a.row == modules * p { "side by side" } else { "apart" };
        let (segments, dtype) = (self.segments(), self.a.dtype());
        let added = if accumulate { ", added" } else { "" };
        format!("{modules} modules {layout}, {segments} segments, {tokens} tokens, {p} x {q} {dtype}{added}")
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.a.clone(), self.b.clone(), self.offsets.clone().into()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let mut all = vec![self.before.clone()];
        if self.norms {
            all.push(HostBuffer::unwritten(DType::F32, self.segments() * self.outer.modules));
        }
        all
    }

    fn expected(&self) -> Vec<Expected> {
        let Outer { modules, p, q, accumulate, .. } = self.outer;
        let (a, b) = (self.a.to_f64(), self.b.to_f64());
        let (mut out, mut norms) = (self.before.to_f64(), Vec::new());
        let (mut scales, mut norm_scales) = (vec![0.0; out.len()], Vec::new());
        for segment in 0..self.segments() {
            for module in 0..modules {
                let first = self.result(segment, module);
                let (mut norm, mut norm_scale) = (0.0, 0.0);
                for (i, j) in (0..p).flat_map(|i| (0..q).map(move |j| (i, j))) {
                    let at = first + i * q + j;
                    let mut sum = if accumulate { out[at] } else { 0.0 };
                    let mut scale = sum.abs();
                    for token in self.offsets[segment] as usize..self.offsets[segment + 1] as usize {
                        let left = a[token * self.outer.a.row + module * self.outer.a.module + i];
                        let right = b[token * self.outer.b.row + module * self.outer.b.module + j];
                        sum += left * right;
                        scale += (left * right).abs();
                    }
                    (out[at], scales[at]) = (sum, scale);
                    norm += sum * sum;
                    norm_scale += scale * scale;
                }
                norms.push(norm);
                norm_scales.push(norm_scale);
            }
        }
        let reason = "chains of up to 1,024 products and then of as many sums, whose errors mostly cancel";
        let mut all = vec![Expected::scaled(out, scales, Tolerance::rounded(DType::F32, 1e-5, reason))];
        if self.norms {
            let reason = "squares have twice the relative error, and are added up in single precision";
            all.push(Expected::scaled(norms, norm_scales, Tolerance::rounded(DType::F32, 3e-5, reason)));
        }
        all
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let (a, b, offsets) = (inputs[0].f32()?, inputs[1].f32()?, inputs[2].i64()?);
        let (out, norms) = outputs.split_first_mut()?;
        let norms = norms.first_mut().and_then(HostBuffer::f32_mut);
        Some(self.outer.run(workers, a, b, offsets, out.f32_mut()?, norms))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        let (offsets, out) = (inputs[2].read()?, outputs[0].write()?);
        let norms = outputs.get(1).map(AnyBuffer::write).transpose()?;
        for_float!(self.a.dtype(), T => {
            self.outer.launches(inputs[0].read::<T>()?, inputs[1].read()?, offsets, out, norms)
        })
    }

    /// The first segment's first module and the last one's last, each alone.
    fn parts(&self) -> Vec<Part> {
        let Outer { modules, p, q, .. } = self.outer;
        let (Some(segment), Some(module)) = (self.segments().checked_sub(1), modules.checked_sub(1)) else {
            return Vec::new();
        };
        let alone = |segment: usize, module: usize| {
            let (start, end) = (self.offsets[segment] as usize, self.offsets[segment + 1] as usize);
            let cut = |values: &HostBuffer, strides: Strides| {
                let first = start * strides.row + module * strides.module;
                values.slice(first.min(values.len())..values.len())
            };
            let result = self.result(segment, module)..self.result(segment, module) + p * q;
            let norm = segment * modules + module;
            let problem = Self {
                outer: Outer { tokens: end - start, modules: 1, out: Strides::interleaved(1, p * q), ..self.outer },
                a: cut(&self.a, self.outer.a),
                b: cut(&self.b, self.outer.b),
                offsets: vec![0, (end - start) as i64],
                before: self.before.slice(result.clone()),
                norms: self.norms,
            };
            let mut pieces = vec![(0, result)];
            if self.norms {
                pieces.push((1, norm..norm + 1));
            }
            Part { problem: Box::new(problem), pieces }
        };
        vec![alone(0, 0), alone(segment, module)]
    }

    fn work(&self) -> Work {
        let Outer { tokens, modules, p, q, accumulate, .. } = self.outer;
        let read = tokens * modules * (p + q) * self.a.dtype().bytes();
        let results = self.segments() * modules;
        let written = results * (p * q * if accumulate { 8 } else { 4 } + 4 * usize::from(self.norms));
        Work { bytes: (read + written) as f64, operations: (2 * tokens * modules * p * q) as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Summing};
    use crate::check::{HostBuffer, Problem, Random};
    use crate::launch::DType;
    use crate::outer::{Outer, Strides};
    use crate::workers::Serial;

    const SMALL: Outer = Outer {
        tokens: 3,
        modules: 2,
        p: 2,
        q: 2,
        a: Strides::interleaved(2, 2),
        b: Strides::interleaved(2, 2),
        out: Strides::interleaved(2, 4),
        accumulate: false,
    };

    fn error(outer: Outer, a: usize, out: usize, norms: usize, offsets: &[i64]) -> String {
        let (a, b) = (vec![0.0; a], vec![0.0; 12]);
        let (mut out, mut norms) = (vec![0.0; out], vec![0.0; norms]);
        outer.run(&Serial, &a, &b, offsets, &mut out, Some(&mut norms)).unwrap_err().to_string()
    }

    #[test]
    fn wrong_shapes_are_named() {
        assert_eq!(error(SMALL, 11, 16, 4, &[0, 1, 3]), "`a` has 11 elements, and 12 are needed");
        assert_eq!(error(SMALL, 12, 15, 4, &[0, 1, 3]), "`out` has 15 elements, and 16 are needed");
        assert_eq!(error(SMALL, 12, 16, 3, &[0, 1, 3]), "`norms` has 3 elements, and 4 are needed");
        let huge = Outer { a: Strides { row: usize::MAX, module: 1 }, ..SMALL };
        assert_eq!(error(huge, 12, 16, 4, &[0, 1, 3]), format!("`a` has 12 elements, and {} are needed", usize::MAX));
        for (offsets, index) in [([0, 4, 4], 1), ([0, 2, 1], 2), ([-1, 0, 0], 0)] {
            let message = error(SMALL, 12, 16, 4, &offsets);
            assert!(message.starts_with(&format!("`offsets` at {index} is {}", offsets[index])), "{message}");
        }
    }

    #[test]
    fn results_that_overlap_are_refused() {
        for (row, module) in [(8, 3), (7, 4), (3, 8), (0, 4), (4, 4)] {
            let message = error(Outer { out: Strides { row, module }, ..SMALL }, 12, 99, 4, &[0, 1, 3]);
            assert!(message.contains("no two results overlap"), "{row} {module}: {message}");
        }
        for (row, module) in [(8, 4), (4, 8), (100, 4), (9, 5)] {
            let outer = Outer { out: Strides { row, module }, ..SMALL };
            assert!(outer.run(&Serial, &[0.0; 12], &[0.0; 12], &[0, 1, 3], &mut [0.0; 200], None).is_ok());
        }
        // One segment, or one module, leaves its stride without a meaning.
        let alone = Outer { modules: 1, out: Strides { row: 4, module: 0 }, ..SMALL };
        assert!(alone.run(&Serial, &[0.0; 12], &[0.0; 12], &[0, 1, 3], &mut [0.0; 8], None).is_ok());
    }

    /// The sums are gradients: of f(W) = sum over t of a_t W b_t, the slope along W is the sum of a_t b_t^T.
    #[test]
    fn sums_are_slopes() {
        let problem = Summing::new(Layout::Interleaved, &[7], 1, 3, 4, DType::F32, &mut Random::new(5));
        let (a, b) = (problem.a.to_f64(), problem.b.to_f64());
        let f = |w: &[f64]| -> f64 {
            let term = |t: usize, i: usize, j: usize| a[3 * t + i] * w[4 * i + j] * b[4 * t + j];
            (0..7).flat_map(|t| (0..12).map(move |k| (t, k / 4, k % 4))).map(|(t, i, j)| term(t, i, j)).sum()
        };
        let slopes = crate::check::slopes(&[0.1; 12], f);
        let mut outputs = problem.outputs();
        problem.cpu(&Serial, &problem.inputs(), &mut outputs).unwrap().unwrap();
        for (value, slope) in HostBuffer::to_f64(&outputs[0]).iter().zip(slopes) {
            assert!((value - slope).abs() < 1e-5, "{value} {slope}");
        }
    }
}
