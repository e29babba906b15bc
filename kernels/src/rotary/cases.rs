//! The table of cases, with the answers in double precision.

use super::{Buffers, Direction, Pairing, Rotary};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "rotary", cases, benches };

const REASON: &str = "two products and a sum, relative to both values of the pair";

#[derive(Clone)]
struct Case {
    rotary: Rotary,
    direction: Direction,
    x: HostBuffer,
    cosines: Vec<f32>,
    sines: Vec<f32>,
    positions: Vec<i32>,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for pairing in [Pairing::Halves, Pairing::Neighbours] {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let mut shapes = vec![
                (0, 2, 8, 8),
                (1, 1, 2, 2),
                (5, 3, 64, 64),
                (7, 2, 80, 20),
                (3, 2, 17, 6),
                (4, 1, 5, 0),
                (2, 40, 128, 128),
            ];
            let rotated = 2 * random.below(40);
            shapes.push((random.length(60), 1 + random.below(5), rotated + random.below(30), rotated));
            for (tokens, heads, head_width, rotated) in shapes {
                let direction = if random.below(2) == 0 { Direction::Forward } else { Direction::Backward };
                let rotary = Rotary { heads, head_width, rotated, pairing };
                all.push(Box::new(Case::new(rotary, direction, tokens, dtype, &mut random)));
            }
        }
        let rotary = Rotary { heads: 2, head_width: 20, rotated: 16, pairing };
        let mut special = Case::new(rotary, Direction::Forward, 4, DType::F32, &mut random);
        if let Some(x) = special.x.f32_mut() {
            (x[3], x[45], x[79], x[90]) = (f32::NAN, f32::INFINITY, f32::NAN, 0.0);
        }
        all.push(Box::new(special));
    }
    all
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for pairing in [Pairing::Halves, Pairing::Neighbours] {
        for dtype in [DType::F32, DType::Bf16] {
            let rotary = Rotary { heads: 32, head_width: 128, rotated: 128, pairing };
            all.push(Box::new(Case::new(
                rotary,
                Direction::Forward,
                bytes / 4096 / dtype.bytes(),
                dtype,
                &mut Random::new(1),
            )));
        }
    }
    all
}

impl Case {
    fn new(rotary: Rotary, direction: Direction, tokens: usize, dtype: DType, random: &mut Random) -> Self {
        let (rows, pairs) = (tokens.clamp(1, 512) + 3, rotary.rotated / 2);
        let angle =
            |i: usize| (i / pairs.max(1)) as f64 * 10_000_f64.powf(-((i % pairs.max(1)) as f64) / pairs.max(1) as f64);
        Self {
            rotary,
            direction,
            x: random.buffer(dtype, tokens * rotary.heads * rotary.head_width, 0.0, 2.0),
            cosines: (0..rows * pairs).map(|i| angle(i).cos() as f32).collect(),
            sines: (0..rows * pairs).map(|i| angle(i).sin() as f32).collect(),
            positions: (0..tokens).map(|_| random.below(rows) as i32).collect(),
        }
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let Rotary { heads, head_width, rotated, pairing } = self.rotary;
        let (direction, tokens, dtype) = (self.direction, self.positions.len(), self.x.dtype());
        format!("Rotary {pairing:?} {direction:?}, {tokens} x {heads} x {head_width}, {rotated} turned, {dtype}")
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.x.clone(), self.cosines.clone().into(), self.sines.clone().into(), self.positions.clone().into()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        vec![HostBuffer::unwritten(self.x.dtype(), self.x.len())]
    }

    fn expected(&self) -> Vec<Expected> {
        let (y, scale) =
            turn(self.rotary, self.direction, &self.x.to_f64(), &self.cosines, &self.sines, &self.positions);
        vec![Expected::scaled(y, scale, Tolerance::rounded(self.x.dtype(), 3e-7, REASON))]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let (x, cosines, sines) = (inputs[0].f32()?, inputs[1].f32()?, inputs[2].f32()?);
        let buffers = Buffers { x, cosines, sines, positions: inputs[3].i32()?, y: outputs[0].f32_mut()? };
        Some(self.rotary.apply(workers, self.direction, buffers))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        let (cosines, sines, positions) = (inputs[1].read()?, inputs[2].read()?, inputs[3].read()?);
        for_float!(self.x.dtype(), T => {
            let buffers = Buffers { x: inputs[0].read::<T>()?, cosines, sines, positions, y: outputs[0].write()? };
            self.rotary.launches(self.direction, buffers)
        })
    }

    /// One token alone.
    fn parts(&self) -> Vec<Part> {
        let Some(token) = self.positions.len().checked_sub(1) else { return Vec::new() };
        let width = self.rotary.heads * self.rotary.head_width;
        let range = token * width..(token + 1) * width;
        let alone =
            Self { x: self.x.slice(range.clone()), positions: self.positions[token..].to_vec(), ..self.clone() };
        vec![Part { problem: Box::new(alone), pieces: vec![(0, range)] }]
    }

    fn work(&self) -> Work {
        Work { bytes: (2 * self.x.len() * self.x.dtype().bytes()) as f64, operations: 0.0 }
    }
}

/// The result, and what it is added up from.
fn turn(
    rotary: Rotary,
    direction: Direction,
    x: &[f64],
    cosines: &[f32],
    sines: &[f32],
    positions: &[i32],
) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut scale) = (x.to_vec(), vec![0.0; x.len()]);
    let pairs = rotary.rotated / 2;
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..rotary.heads {
            let base = (token * rotary.heads + head) * rotary.head_width;
            for pair in 0..pairs {
                let (first, second) = match rotary.pairing {
                    Pairing::Halves => (base + pair, base + pair + pairs),
                    Pairing::Neighbours => (base + 2 * pair, base + 2 * pair + 1),
                };
                let angle = position as usize * pairs + pair;
                let (cosine, sine) = (f64::from(cosines[angle]), f64::from(sines[angle]));
                let sine = if direction == Direction::Backward { -sine } else { sine };
                y[first] = x[first] * cosine - x[second] * sine;
                y[second] = x[second] * cosine + x[first] * sine;
                let size = x[first].abs() + x[second].abs();
                (scale[first], scale[second]) = (size, size);
            }
        }
    }
    (y, scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::slopes;
    use crate::workers::Serial;

    #[test]
    fn backward_is_the_slope_of_forward() {
        for pairing in [Pairing::Halves, Pairing::Neighbours] {
            let rotary = Rotary { heads: 2, head_width: 7, rotated: 4, pairing };
            let mut random = Random::new(2);
            let case = Case::new(rotary, Direction::Forward, 3, DType::F32, &mut random);
            let (x, dy) = (case.x.to_f64(), random.buffer(DType::F32, case.x.len(), 0.0, 1.0).to_f64());
            let apply =
                |direction, x: &[f64]| turn(rotary, direction, x, &case.cosines, &case.sines, &case.positions).0;
            let along = slopes(&x, |x| apply(Direction::Forward, x).iter().zip(&dy).map(|(y, dy)| y * dy).sum());
            for (slope, gradient) in along.iter().zip(apply(Direction::Backward, &dy)) {
                assert!((slope - gradient).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn wrong_positions_are_named() {
        let rotary = Rotary { heads: 1, head_width: 2, rotated: 2, pairing: Pairing::Halves };
        let mut y = [0.0; 4];
        for wrong in [-1, 3] {
            let buffers = Buffers {
                x: &[0.0; 4][..],
                cosines: &[1.0; 3][..],
                sines: &[0.0; 3][..],
                positions: &[2, wrong][..],
                y: &mut y[..],
            };
            let error = rotary.apply(&Serial, Direction::Forward, buffers).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("`positions` at 1 is {wrong}, and a row of the tables of cosines and sines is allowed")
            );
        }
    }
}
