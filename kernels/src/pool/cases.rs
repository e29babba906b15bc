//! The table of cases, with the answers in double precision.

use super::{Pool, l2_normalise, l2_normalise_launches};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "pool", cases, benches };

const ALL: [Pool; 4] = [Pool::Mean, Pool::First, Pool::Last, Pool::Max];
const EPSILON: f32 = 1e-12;

#[derive(Clone)]
struct Pooling {
    pool: Pool,
    width: usize,
    x: HostBuffer,
    offsets: Vec<i64>,
}

#[derive(Clone)]
struct Normalising {
    width: usize,
    x: HostBuffer,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for pool in ALL {
            for (documents, width) in
                [(0, 5), (3, 0), (1, 1), (4, 33), (7, 300), (random.length(20), random.length(400))]
            {
                let lengths: Vec<usize> = (0..documents).map(|_| random.length(200)).collect();
                all.push(Box::new(Pooling::new(pool, width, &lengths, dtype, &mut random)));
            }
        }
        for (rows, width) in
            [(0, 4), (2, 0), (1, 1), (9, 33), (3, 768), (2, 2500), (random.length(30), random.length(900))]
        {
            let x = random.buffer(dtype, rows * width, 0.3, 2.0);
            all.push(Box::new(Normalising { width, x }));
        }
    }
    // Very many documents, and a very long one.
    all.push(Box::new(Pooling::new(Pool::Mean, 3, &vec![1; 3000], DType::F32, &mut random)));
    all.push(Box::new(Pooling::new(Pool::Mean, 3, &[20_000], DType::F32, &mut random)));
    for pool in ALL {
        let mut special = Pooling::new(pool, 9, &[3, 0, 4, 1], DType::F32, &mut random);
        if let Some(x) = special.x.f32_mut() {
            (x[4], x[31], x[66]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        }
        all.push(Box::new(special));
    }
    let x = HostBuffer::F32(vec![0.0, 0.0, 1.0, f32::NAN, 1e-20, 1e-20, f32::INFINITY, 1.0]);
    all.push(Box::new(Normalising { width: 2, x }));
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        let mut random = Random::new(1);
        let rows = bytes / 1024 / dtype.bytes();
        for pool in [Pool::Mean, Pool::Max] {
            all.push(Box::new(Pooling::new(pool, 1024, &vec![128; rows / 128], dtype, &mut random)));
        }
        let x = random.buffer(dtype, rows * 1024, 0.0, 1.0);
        all.push(Box::new(Normalising { width: 1024, x }));
    }
    all
}

impl Pooling {
    fn new(pool: Pool, width: usize, lengths: &[usize], dtype: DType, random: &mut Random) -> Self {
        let mut offsets = vec![0_i64];
        let mut rows = 0;
        for length in lengths {
            rows += length;
            offsets.push(rows as i64);
        }
        Self { pool, width, x: random.buffer(dtype, rows * width, 0.5, 1.0), offsets }
    }

    fn documents(&self) -> usize {
        self.offsets.len() - 1
    }
}

impl Problem for Pooling {
    fn label(&self) -> String {
        let (documents, rows) = (self.documents(), self.offsets[self.documents()]);
        format!("{:?} of {documents} documents, {rows} x {} {}", self.pool, self.width, self.x.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.x.clone(), self.offsets.clone().into()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(self.x.dtype(), self.documents() * self.width)]
    }

    fn expected(&self) -> Vec<Expected> {
        let x = self.x.to_f64();
        let (mut y, mut scale) = (Vec::new(), Vec::new());
        for pair in self.offsets.windows(2) {
            let rows = pair[0] as usize..pair[1] as usize;
            for column in 0..self.width {
                let values = || rows.clone().map(|row| x[row * self.width + column]);
                let count = rows.len().max(1) as f64;
                let most = |most: f64, value: f64| if value > most || value.is_nan() { value } else { most };
                y.push(match self.pool {
                    _ if rows.is_empty() => 0.0,
                    Pool::Mean => values().sum::<f64>() / count,
                    Pool::First => x[rows.start * self.width + column],
                    Pool::Last => x[(rows.end - 1) * self.width + column],
                    Pool::Max => values().fold(f64::NEG_INFINITY, most),
                });
                scale.push(values().map(f64::abs).sum::<f64>() / count);
            }
        }
        let tolerance = match self.pool {
            Pool::Mean => {
                Tolerance::rounded(self.x.dtype(), 2e-5, "sums of up to 64 and of up to 400 numbers, one after another")
            }
            _ => Tolerance::EXACT,
        };
        vec![if self.pool == Pool::Mean {
            Expected::scaled(y, scale, tolerance)
        } else {
            Expected::values(y, tolerance)
        }]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        Some(self.pool.forward(workers, self.width, inputs[0].f32()?, inputs[1].i64()?, outputs[0].f32_mut()?))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        let offsets = inputs[1].read()?;
        for_float!(self.x.dtype(), T => self.pool.launches(self.width, inputs[0].read::<T>()?, offsets, outputs[0].write()?))
    }

    /// The last document alone.
    fn parts(&self) -> Vec<Part> {
        let Some(document) = self.documents().checked_sub(1) else { return Vec::new() };
        let (start, end) = (self.offsets[document], self.offsets[document + 1]);
        let x = self.x.slice(start as usize * self.width..end as usize * self.width);
        let alone = Self { x, offsets: vec![0, end - start], ..self.clone() };
        vec![Part { problem: Box::new(alone), pieces: vec![(0, document * self.width..(document + 1) * self.width)] }]
    }

    fn work(&self) -> Work {
        let elements = match self.pool {
            Pool::First | Pool::Last => 2 * self.documents() * self.width,
            Pool::Mean | Pool::Max => self.x.len() + self.documents() * self.width,
        };
        Work { bytes: (elements * self.x.dtype().bytes()) as f64, operations: 0.0 }
    }
}

impl Problem for Normalising {
    fn label(&self) -> String {
        let rows = self.x.len().checked_div(self.width).unwrap_or(0);
        format!("L2 normalise, {rows} x {} {}", self.width, self.x.dtype())
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.x.clone()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(self.x.dtype(), self.x.len())]
    }

    fn expected(&self) -> Vec<Expected> {
        let mut y = Vec::with_capacity(self.x.len());
        for row in self.x.to_f64().chunks_exact(self.width.max(1)) {
            let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            let length = if length < f64::from(EPSILON) { f64::from(EPSILON) } else { length };
            y.extend(row.iter().map(|value| value / length));
        }
        vec![Expected::values(y, Tolerance::rounded(self.x.dtype(), 2e-6, "squares are added up in single precision"))]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        Some(l2_normalise(workers, self.width, EPSILON, inputs[0].f32()?, outputs[0].f32_mut()?))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        for_float!(self.x.dtype(), T => l2_normalise_launches(self.width, EPSILON, inputs[0].read::<T>()?, outputs[0].write()?))
    }

    fn parts(&self) -> Vec<Part> {
        if self.x.len() < self.width || self.width == 0 {
            return Vec::new();
        }
        let range = self.x.len() - self.width..self.x.len();
        vec![Part {
            problem: Box::new(Self { width: self.width, x: self.x.slice(range.clone()) }),
            pieces: vec![(0, range)],
        }]
    }

    fn work(&self) -> Work {
        Work { bytes: (2 * self.x.len() * self.x.dtype().bytes()) as f64, operations: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;
    use crate::workers::Serial;

    #[test]
    fn wrong_offsets_are_named() {
        let mut y = [0.0; 2];
        for (offsets, index) in [([0, 4, 4], 1), ([0, 2, 1], 2), ([-1, 0, 0], 0)] {
            let error = Pool::Mean.forward(&Serial, 1, &[0.0; 3], &offsets, &mut y).unwrap_err();
            assert!(error.to_string().starts_with(&format!("`offsets` at {index} is {}", offsets[index])), "{error}");
        }
    }
}
