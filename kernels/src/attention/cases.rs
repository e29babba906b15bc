//! The table of cases, with the answers in double precision.

use super::reference::{self, Inputs, Sums};
use super::shape::Document;
use super::{Attention, Backward, Documents, Forward, Heads, Mask};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Launch, ShapeError, for_float};
use crate::workers::{Serial, Workers};
use std::ops::Range;

pub(crate) const FAMILY: Family = Family { name: "attention", cases, benches };

const REASON: &str = "sums in single precision of products whose magnitude is the scale; weights of tensor cores' products are rounded to the type";

/// How buffers lie in memory: elements after each head and after each row, or heads outside of rows.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Dense,
    /// Projections of queries, keys and values beside each other.
    Fused,
    /// Queries, keys and values of a head beside each other.
    Interleaved,
    /// Strides that are odd.
    Odd,
    HeadsFirst,
}

impl Layout {
    fn heads<B>(self, buffer: B, [rows, heads, width]: [usize; 3]) -> Heads<B> {
        let (row_stride, head_stride) = match self {
            Self::Dense => (heads * width, width),
            Self::Fused => (3 * heads * width, width),
            Self::Interleaved => (3 * heads * width, 3 * width),
            Self::Odd => (heads * (width + 1) + 4 - heads % 2, width + 1),
            Self::HeadsFirst => (width, rows * width),
        };
        Heads { buffer, row_stride, head_stride }
    }

    /// Elements of a buffer.
    fn len(self, shape @ [rows, heads, width]: [usize; 3]) -> usize {
        let strides = self.heads((), shape);
        if rows == 0 { 0 } else { (rows - 1) * strides.row_stride + (heads - 1) * strides.head_stride + width }
    }

    /// Values `[rows, heads, width]` as they lie in memory, with what is not a number in between.
    fn spread(self, values: &[f64], shape @ [_, heads, width]: [usize; 3]) -> Vec<f64> {
        let to = self.heads((), shape);
        let mut spread = vec![f64::NAN; self.len(shape)];
        for (i, value) in values.chunks_exact(width).enumerate() {
            spread[to.range(i / heads, i % heads, width)].copy_from_slice(value);
        }
        spread
    }
}

/// Attention on documents, forward, or backward with what a forward pass gave.
#[derive(Clone)]
struct Case {
    attention: Attention,
    dtype: DType,
    layout: Layout,
    query_offsets: Vec<i64>,
    key_offsets: Vec<i64>,
    q: HostBuffer,
    k: HostBuffer,
    v: HostBuffer,
    /// Results, log-sum-exps and the gradient of the results.
    gradient: Option<[HostBuffer; 3]>,
}

fn offsets(lengths: &[usize]) -> Vec<i64> {
    let mut total = 0;
    let mut offsets = vec![0];
    offsets.extend(lengths.iter().map(|&length| {
        total += length as i64;
        total
    }));
    offsets
}

fn attention(query_heads: usize, key_heads: usize, width: usize, mask: Mask) -> Attention {
    Attention { query_heads, key_heads, width, scale: 1.0 / (width as f32).sqrt(), mask }
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    let window = Mask::window(5, 7);
    let behind = Mask { left: Some(9), right: Some(0) };
    let ahead = Mask { left: None, right: Some(4) };
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        // Queries and, where they differ, keys of the documents.
        let mut shapes: Vec<(Vec<usize>, Option<Vec<usize>>, Attention, Layout)> = vec![
            (vec![], None, attention(2, 1, 8, Mask::ALL), Layout::Dense),
            (vec![0, 0], None, attention(1, 1, 8, Mask::CAUSAL), Layout::Dense),
            (vec![1], None, attention(1, 1, 1, Mask::ALL), Layout::Odd),
            (vec![3, 0, 17, 1], None, attention(4, 2, 8, Mask::CAUSAL), Layout::Fused),
            (vec![70, 5], None, attention(2, 1, 64, Mask::CAUSAL), Layout::Dense),
            (vec![33, 66], None, attention(1, 1, 40, window), Layout::Interleaved),
            (vec![2, 1, 0, 9], Some(vec![20, 0, 4, 3]), attention(3, 1, 96, Mask::CAUSAL), Layout::HeadsFirst),
            (vec![65], None, attention(1, 1, 128, ahead), Layout::Odd),
            (vec![1], Some(vec![133]), attention(8, 2, 33, Mask::CAUSAL), Layout::Fused),
            (vec![18], Some(vec![37]), attention(1, 1, 256, behind), Layout::Fused),
        ];
        let lengths = [random.length(50), random.length(20), random.length(8)];
        let masks = [Mask::ALL, Mask::CAUSAL, window, behind, ahead, Mask::window(random.below(40), random.below(40))];
        let layouts = [Layout::Dense, Layout::Fused, Layout::Interleaved, Layout::Odd, Layout::HeadsFirst];
        let mask = masks[random.below(masks.len())];
        let (key_heads, group, width) = (1 + random.below(2), 1 + random.below(3), 1 + random.below(80));
        let layout = layouts[random.below(layouts.len())];
        shapes.push((lengths.to_vec(), None, attention(key_heads * group, key_heads, width, mask), layout));
        // The kernels of f16 are those of bf16 but for the type.
        if dtype == DType::F16 {
            shapes = shapes.into_iter().skip(1).step_by(3).collect();
            shapes.push((vec![9], None, attention(1, 1, 96, Mask::CAUSAL), Layout::Dense));
            shapes.push((vec![6], None, attention(1, 1, 200, Mask::ALL), Layout::Odd));
        }
        for (queries, keys, attention, layout) in shapes {
            let keys = keys.unwrap_or_else(|| queries.clone());
            for backward in [false, true] {
                all.push(Box::new(Case::new(attention, dtype, layout, [&queries, &keys], backward, &mut random)));
            }
        }
    }
    for backward in [false, true] {
        // Very many documents, and a very long one.
        let many = vec![1; 40];
        let small = attention(1, 1, 4, Mask::CAUSAL);
        all.push(Box::new(Case::new(small, DType::F32, Layout::Dense, [&many, &many], backward, &mut random)));
        let long = [400];
        let local = attention(1, 1, 4, Mask::window(30, 30));
        all.push(Box::new(Case::new(local, DType::F32, Layout::Dense, [&long, &long], backward, &mut random)));
    }
    for dtype in [DType::F32, DType::Bf16] {
        all.push(Box::new(Case::special(dtype, &mut random)));
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    let mut add = |dtype: DType, attention: Attention, lengths: &[usize]| {
        for backward in [false, true] {
            let lengths = [lengths, lengths];
            let mut case = Case::new(attention, dtype, Layout::Dense, lengths, false, &mut Random::new(1));
            if backward {
                case.add_gradient_from_twin(&mut Random::new(2));
            }
            all.push(Box::new(case));
        }
    };
    // As many tokens as the bytes allow, up to those for which the answer in double precision takes seconds.
    let tokens = (bytes / (12 * 64 * 4)).min(4096);
    for dtype in [DType::F32, DType::Bf16] {
        for length in [128, 512, 2048] {
            let lengths = vec![length; (tokens / length).max(1).min(2048 / length)];
            for mask in [Mask::ALL, Mask::CAUSAL] {
                add(dtype, attention(12, 12, 64, mask), &lengths);
            }
        }
        add(dtype, attention(12, 12, 64, Mask::window(64, 64)), &[2048]);
        add(dtype, attention(32, 8, 128, Mask::CAUSAL), &[1024]);
    }
    for dtype in [DType::F32, DType::Bf16] {
        let one = attention(32, 8, 128, Mask::CAUSAL);
        let (queries, keys) = ([1; 4], [4096; 4]);
        all.push(Box::new(Case::new(one, dtype, Layout::Dense, [&queries, &keys], false, &mut Random::new(1))));
    }
    all
}

impl Case {
    fn new(
        attention: Attention,
        dtype: DType,
        layout: Layout,
        [queries, keys]: [&[usize]; 2],
        backward: bool,
        random: &mut Random,
    ) -> Self {
        let (query_offsets, key_offsets) = (offsets(queries), offsets(keys));
        let mut heads = |rows: usize, heads: usize| {
            let shape = [rows, heads, attention.width];
            let values: Vec<f64> = (0..rows * heads * attention.width).map(|_| random.normal()).collect();
            HostBuffer::from_f64(dtype, layout.spread(&values, shape).into_iter())
        };
        let (query_rows, key_rows) = (queries.iter().sum(), keys.iter().sum());
        let q = heads(query_rows, attention.query_heads);
        let (k, v) = (heads(key_rows, attention.key_heads), heads(key_rows, attention.key_heads));
        let d_o = backward.then(|| heads(query_rows, attention.query_heads));
        let mut case = Self { attention, dtype, layout, query_offsets, key_offsets, q, k, v, gradient: None };
        if let Some(d_o) = d_o {
            let (o, log_sums) = case.forward_reference();
            let o = HostBuffer::from_f64(dtype, layout.spread(&o.values, case.query_shape()).into_iter());
            case.gradient = Some([o, HostBuffer::from_f64(DType::F32, log_sums.into_iter()), d_o]);
        }
        case
    }

    /// Makes it a backward pass, with results that the twin computes: the reference takes too long for a dense problem of
    /// realistic size.
    fn add_gradient_from_twin(&mut self, random: &mut Random) {
        let single =
            |buffer: &HostBuffer| -> Vec<f32> { buffer.to_f64().into_iter().map(|value| value as f32).collect() };
        let (q, k, v) = (single(&self.q), single(&self.k), single(&self.v));
        let (mut o, mut log_sums) = (vec![0.0; q.len()], vec![0.0; self.query_rows() * self.attention.query_heads]);
        let computed = self.attention.forward(
            &Serial,
            self.wrap(&self.query_offsets[..], &self.key_offsets[..]),
            Forward {
                q: self.queries(&q[..]),
                k: self.keys(&k[..]),
                v: self.keys(&v[..]),
                o: self.queries(&mut o[..]),
                log_sums: Some(&mut log_sums),
            },
        );
        // Shapes that do not belong together show when the problem is solved.
        if computed.is_ok() {
            let o = HostBuffer::from_f64(self.dtype, o.into_iter().map(f64::from));
            let d_o = random.buffer(self.dtype, self.q.len(), 0.0, 1.0);
            self.gradient = Some([o, log_sums.into(), d_o]);
        }
    }

    /// Values that are not numbers, and infinities: in one query, in all keys' reach, and in a document of its own.
    fn special(dtype: DType, random: &mut Random) -> Self {
        let lengths = [4, 3, 5];
        let attention = attention(1, 1, 8, Mask::ALL);
        let mut case = Self::new(attention, dtype, Layout::Dense, [&lengths, &lengths], false, random);
        let set = |buffer: &mut HostBuffer, at: usize, value: f64| {
            let mut values = buffer.to_f64();
            values[at] = value;
            *buffer = HostBuffer::from_f64(dtype, values.into_iter());
        };
        // One query of the first document, a value of the second, and a key of the third.
        set(&mut case.q, 8, f64::NAN);
        set(&mut case.v, 4 * 8 + 5, f64::INFINITY);
        set(&mut case.k, 7 * 8 + 1, f64::NAN);
        case
    }

    fn query_rows(&self) -> usize {
        self.query_offsets.last().map_or(0, |&last| last as usize)
    }

    fn key_rows(&self) -> usize {
        self.key_offsets.last().map_or(0, |&last| last as usize)
    }

    fn query_shape(&self) -> [usize; 3] {
        [self.query_rows(), self.attention.query_heads, self.attention.width]
    }

    fn key_shape(&self) -> [usize; 3] {
        [self.key_rows(), self.attention.key_heads, self.attention.width]
    }

    fn documents(&self) -> Vec<Document> {
        let rows = |offsets: &[i64], i: usize| offsets[i] as usize..offsets[i + 1] as usize;
        (0..self.query_offsets.len() - 1)
            .map(|i| Document { queries: rows(&self.query_offsets, i), keys: rows(&self.key_offsets, i) })
            .collect()
    }

    fn queries<B>(&self, buffer: B) -> Heads<B> {
        self.layout.heads(buffer, self.query_shape())
    }

    fn keys<B>(&self, buffer: B) -> Heads<B> {
        self.layout.heads(buffer, self.key_shape())
    }

    fn forward_reference(&self) -> (Sums, Vec<f64>) {
        let (q, k, v) = (self.queries(self.q.to_f64()), self.keys(self.k.to_f64()), self.keys(self.v.to_f64()));
        reference::forward(&self.attention, &self.documents(), self.query_rows(), [&q, &k, &v])
    }

    fn wrap<R>(&self, query_offsets: R, key_offsets: R) -> Documents<R> {
        Documents { query_rows: self.query_rows(), key_rows: self.key_rows(), query_offsets, key_offsets }
    }

    /// The document alone; only where its rows lie together.
    fn alone(&self, document: &Document) -> Part {
        let range = |rows: &Range<usize>, shape: [usize; 3]| -> Range<usize> {
            let start = rows.start * self.layout.heads((), shape).row_stride;
            start..start + self.layout.len([rows.len(), shape[1], shape[2]])
        };
        let (queries, keys) = (range(&document.queries, self.query_shape()), range(&document.keys, self.key_shape()));
        let heads = self.attention.query_heads;
        let sums = document.queries.start * heads..document.queries.end * heads;
        // A document without rows has no place in a buffer.
        let cut = |buffer: &HostBuffer, range: &Range<usize>| {
            if range.is_empty() { HostBuffer::zeros(buffer.dtype(), 0) } else { buffer.slice(range.clone()) }
        };
        let problem = Self {
            query_offsets: offsets(&[document.queries.len()]),
            key_offsets: offsets(&[document.keys.len()]),
            q: cut(&self.q, &queries),
            k: cut(&self.k, &keys),
            v: cut(&self.v, &keys),
            gradient: self
                .gradient
                .as_ref()
                .map(|[o, log_sums, d_o]| [cut(o, &queries), cut(log_sums, &sums), cut(d_o, &queries)]),
            ..self.clone()
        };
        let mut pieces = match &self.gradient {
            None => vec![(0, queries), (1, sums)],
            Some(_) => vec![(0, queries), (1, keys.clone()), (2, keys)],
        };
        pieces.retain(|(_, range)| !range.is_empty());
        Part { problem: Box::new(problem), pieces }
    }

    fn expect(&self, sums: &Sums, shape: [usize; 3]) -> Expected {
        let rounded_weights = match self.dtype {
            DType::Bf16 => 1.0 / 256.0,
            DType::F16 => 1.0 / 2048.0,
            _ => 0.0,
        };
        let tolerance =
            Tolerance::rounded(self.dtype, 1e-5 + rounded_weights, REASON).with_absolute(match self.dtype {
                // Weights below the smallest number of the type, and products of them.
                DType::F16 => 1e-6,
                _ => 1e-30,
            });
        let spread = |values: &[f64]| self.layout.spread(values, shape);
        Expected::scaled(spread(&sums.values), spread(&sums.magnitudes), tolerance)
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let Attention { query_heads, key_heads, width, mask, .. } = self.attention;
        let (queries, keys) = (self.query_rows(), self.key_rows());
        let limit = |limit: Option<usize>| limit.map_or("all".to_owned(), |limit| limit.to_string());
        let direction = if self.gradient.is_some() { "backward" } else { "forward" };
        format!(
            "{direction}, {} documents, {queries} / {keys} rows, {query_heads} / {key_heads} x {width} {}, {} left, {} right",
            self.query_offsets.len() - 1,
            self.dtype,
            limit(mask.left),
            limit(mask.right)
        )
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        let mut inputs = vec![self.query_offsets.clone().into(), self.key_offsets.clone().into()];
        inputs.extend([&self.q, &self.k, &self.v].into_iter().chain(self.gradient.iter().flatten()).cloned());
        inputs
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let sums = HostBuffer::unwritten(DType::F32, self.query_rows() * self.attention.query_heads);
        let of = |shape| HostBuffer::unwritten(self.dtype, self.layout.len(shape));
        let (queries, keys) = (self.query_shape(), self.key_shape());
        match self.gradient {
            None => vec![of(queries), sums],
            Some(_) => vec![of(queries), of(keys), of(keys), sums],
        }
    }

    fn expected(&self) -> Vec<Expected> {
        let Some([o, log_sums, d_o]) = &self.gradient else {
            let (o, log_sums) = self.forward_reference();
            // Of a sum of scores of either sign; nearly all are of magnitude 1.
            let tolerance = Tolerance { absolute: 1e-5, relative: 1e-6, reason: "scores in single precision" };
            return vec![self.expect(&o, self.query_shape()), Expected::values(log_sums, tolerance)];
        };
        let gradients = reference::backward(
            &self.attention,
            &self.documents(),
            [self.query_rows(), self.key_rows()],
            &Inputs {
                q: &self.queries(self.q.to_f64()),
                k: &self.keys(self.k.to_f64()),
                v: &self.keys(self.v.to_f64()),
                o: &self.queries(o.to_f64()),
                d_o: &self.queries(d_o.to_f64()),
                log_sums: &log_sums.to_f64(),
            },
        );
        let shapes = [self.query_shape(), self.key_shape(), self.key_shape()];
        let expected = gradients.iter().zip(shapes).map(|(gradient, shape)| self.expect(gradient, shape));
        expected.chain([Expected::anything()]).collect()
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let documents = self.wrap(inputs[0].i64()?, inputs[1].i64()?);
        let read = |i: usize| inputs[i].f32();
        let (q, k, v) = (self.queries(read(2)?), self.keys(read(3)?), self.keys(read(4)?));
        Some(match (outputs, inputs.len()) {
            ([o, log_sums], _) => {
                let (o, log_sums) = (self.queries(o.f32_mut()?), Some(log_sums.f32_mut()?));
                self.attention.forward(workers, documents, Forward { q, k, v, o, log_sums })
            }
            ([dq, dk, dv, _], 8) => {
                let (o, log_sums, d_o) = (self.queries(read(5)?), read(6)?, self.queries(read(7)?));
                let (dq, dk) = (self.queries(dq.f32_mut()?), self.keys(dk.f32_mut()?));
                let dv = self.keys(dv.f32_mut()?);
                let slices = Backward { q, k, v, o, d_o, log_sums, dq, dk, dv };
                self.attention.backward(workers, documents, slices)
            }
            _ => return None,
        })
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        let documents = self.wrap(inputs[0].read::<i64>()?, inputs[1].read::<i64>()?);
        for_float!(self.dtype, T => {
            let (q, k) = (self.queries(inputs[2].read::<T>()?), self.keys(inputs[3].read::<T>()?));
            let v = self.keys(inputs[4].read::<T>()?);
            if self.gradient.is_none() {
                let (o, log_sums) = (self.queries(outputs[0].write::<T>()?), Some(outputs[1].write::<f32>()?));
                return self.attention.forward_launches(documents, Forward { q, k, v, o, log_sums });
            }
            let (o, log_sums) = (self.queries(inputs[5].read::<T>()?), inputs[6].read::<f32>()?);
            let d_o = self.queries(inputs[7].read::<T>()?);
            let (dq, dk) = (self.queries(outputs[0].write::<T>()?), self.keys(outputs[1].write::<T>()?));
            let dv = self.keys(outputs[2].write::<T>()?);
            let buffers = Backward { q, k, v, o, d_o, log_sums, dq, dk, dv };
            self.attention.backward_launches(documents, buffers, outputs[3].write::<f32>()?)
        })
    }

    fn parts(&self) -> Vec<Part> {
        if matches!(self.layout, Layout::HeadsFirst) {
            return Vec::new();
        }
        let documents = self.documents();
        let mut chosen = vec![0, documents.len() / 2, documents.len().saturating_sub(1)];
        chosen.dedup();
        if documents.len() < 2 {
            return Vec::new();
        }
        chosen.into_iter().map(|number| self.alone(&documents[number])).collect()
    }

    fn work(&self) -> Work {
        let (queries, keys): (usize, usize) = (self.query_shape().iter().product(), self.key_shape().iter().product());
        // Backward reads q, o, d_o and writes dq; reads k, v and writes dk, dv.
        let (elements, products) =
            if self.gradient.is_some() { (4 * queries + 4 * keys, 5) } else { (2 * queries + 2 * keys, 2) };
        let sums = 4 * self.query_rows() * self.attention.query_heads;
        let pairs = reference::pairs(&self.attention, &self.documents());
        Work {
            bytes: (elements * self.dtype.bytes() + sums) as f64,
            operations: (2 * products * self.attention.width * pairs) as f64,
        }
    }
}
