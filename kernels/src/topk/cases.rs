//! The table of cases, with the answers in double precision.

use super::{Best, NO_ROW, Queries, Ranking, Rows, Scored, Search, Workspace};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Float, Launch, ShapeError, for_float};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "topk", cases, benches };

/// A search through rows that come in tiles.
#[derive(Clone)]
struct Case {
    width: usize,
    k: usize,
    rows: HostBuffer,
    queries: HostBuffer,
    first_row: i64,
    /// How many rows come at a time.
    tile: usize,
    /// Whether scores are whole numbers, which every order of sums gives exactly. Then many are equal, too.
    exact: bool,
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all = Vec::new();
    let [f32, bf16, f16] = [DType::F32, DType::Bf16, DType::F16];
    for dtypes in [[f32, f32], [bf16, f32], [f16, f32], [bf16, bf16], [f16, f16]] {
        for (rows, width, queries, k) in [
            (0, 3, 2, 4),
            (5, 4, 0, 1),
            (1, 1, 1, 1),
            (7, 9, 3, 16),
            (300, 65, 1, 10),
            (131, 40, 27, 7),
            (random.length(150), 1 + random.length(80), random.length(5), 1 + random.below(70)),
        ] {
            all.push(Case::whole(dtypes, rows, width, queries, k, &mut random));
        }
    }
    for dtype in [f32, bf16, f16] {
        all.push(Case::real(dtype, 100, 1500, 2, 20, &mut random));
    }
    all.push(Case::real(f32, 140, 24, 130, 2, &mut random));
    // The most rows that are kept on a GPU, more rows than one range, and rows that get better and better.
    all.push(Case::whole([f32; 2], 1100, 2, 1, 1024, &mut random));
    all.push(Case::rising(2100, 5, &mut random));
    // More queries than are multiplied at once, and a row number beyond 32 bits.
    let many = Case::whole([f32; 2], 2, 1, 515, 2, &mut random);
    all.push(Case { first_row: 1 << 40, tile: 2, ..many });
    all.push(special_values(&mut random));
    let mut all: Vec<Box<dyn Problem>> = all.into_iter().map(|case| Box::new(case) as Box<dyn Problem>).collect();
    for (queries, k) in [(0, 3), (1, 1), (3, 7), (2, 64), (1, 1024), (random.length(6), 1 + random.below(100))] {
        all.push(Box::new(Joining::new(queries, k, &mut random)));
    }
    all
}

/// Scores that are not numbers, infinite ones, and zeros of both signs, which are equal.
fn special_values(random: &mut Random) -> Case {
    let mut case = Case::whole([DType::F32; 2], 40, 8, 3, 45, random);
    if let Some(rows) = case.rows.f32_mut() {
        (rows[9], rows[20], rows[100], rows[101]) = (f32::NAN, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY);
        rows[160..168].fill(f32::NEG_INFINITY);
        rows[200..208].fill(0.0);
        rows[208..216].fill(-0.0);
    }
    if let Some(queries) = case.queries.f32_mut() {
        queries[..8].fill(1.0);
        queries[8..16].fill(-1.0);
    }
    case
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let [f32, bf16, f16] = [DType::F32, DType::Bf16, DType::F16];
    let mut random = Random::new(1);
    let mut bench = |dtypes: [DType; 2], bytes: usize, width: usize, queries, k| {
        let rows = (bytes / width / dtypes[0].bytes()).max(1);
        let case = Case::whole(dtypes, rows, width, queries, k, &mut random);
        Box::new(Case { tile: rows, ..case }) as Box<dyn Problem>
    };
    vec![
        bench([f32, f32], bytes, 1024, 1, 100),
        bench([f32, f32], bytes, 28_672, 8, 100),
        bench([bf16, f32], bytes, 1024, 1, 100),
        bench([bf16, f32], bytes, 28_672, 1, 100),
        bench([bf16, f32], bytes, 28_672, 8, 100),
        bench([f16, f32], bytes, 28_672, 8, 100),
        bench([f32, f32], bytes / 4, 4096, 1000, 100),
        bench([bf16, f32], bytes / 4, 4096, 1000, 100),
        bench([bf16, bf16], bytes / 4, 4096, 1000, 100),
        bench([bf16, f32], bytes / 4, 256, 1000, 100),
    ]
}

impl Case {
    /// Whole numbers from -3 to 3. Rows come in two tiles.
    fn whole(dtypes: [DType; 2], rows: usize, width: usize, queries: usize, k: usize, random: &mut Random) -> Self {
        let mut buffer = |dtype, rows: usize| {
            let values = (0..rows * width).map(|_| random.below(7) as f64 - 3.0);
            HostBuffer::from_f64(dtype, values.collect::<Vec<_>>().into_iter())
        };
        let (queries, rows_of_index) = (buffer(dtypes[1], queries), buffer(dtypes[0], rows));
        let tile = rows.div_ceil(2).max(1);
        Self { width, k, rows: rows_of_index, queries, first_row: 17, tile, exact: true }
    }

    /// Real numbers: which of two nearly equal rows is the better one is then for rounding to say.
    fn real(dtype: DType, rows: usize, width: usize, queries: usize, k: usize, random: &mut Random) -> Self {
        Self {
            width,
            k,
            rows: random.buffer(dtype, rows * width, 0.0, 1.0),
            queries: random.buffer(DType::F32, queries * width, 0.0, 1.0),
            first_row: 0,
            tile: rows.div_ceil(2).max(1),
            exact: false,
        }
    }

    /// Each row is better than the one before, for one query; and the other way round for another.
    fn rising(rows: usize, k: usize, random: &mut Random) -> Self {
        let case = Self::whole([DType::F32; 2], 0, 1, 0, k, random);
        let values = HostBuffer::from_f64(DType::F32, (0..rows).map(|row| row as f64));
        Self { rows: values, queries: HostBuffer::F32(vec![1.0, -1.0]), tile: rows, ..case }
    }

    fn row_count(&self) -> usize {
        self.rows.len() / self.width
    }

    fn query_count(&self) -> usize {
        self.queries.len() / self.width
    }

    fn search(&self) -> Search {
        Search { width: self.width, queries: self.query_count(), k: self.k }
    }

    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        let (count, tile) = (self.row_count(), self.tile);
        (0..count).step_by(tile).map(move |start| (start, tile.min(count - start)))
    }

    fn typed<'a, T: Float, Q: Float>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let (rows, queries) = (inputs[0].read::<T>()?, inputs[1].read::<Q>()?);
        let state =
            Ranking { scores: outputs[0].write()?, rows: outputs[1].write()?, not_numbers: Some(outputs[2].write()?) };
        let mut launches = self.search().clear_launches(&state)?;
        for (start, count) in self.tiles() {
            let tile = rows.part(start * self.width, count * self.width);
            // A workspace for a tile is part of one for the largest.
            let workspace = Workspace {
                scores: outputs[3].write_part(self.search().scores_len(count))?,
                keys: outputs[4].write_part(self.search().keys_len(count))?,
            };
            let first_row = self.first_row + start as i64;
            launches.extend(self.search().update_launches(tile, queries, first_row, &state, &workspace)?);
        }
        Ok(launches)
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        format!(
            "best {} of {} x {} {} for {} queries {}",
            self.k,
            self.row_count(),
            self.width,
            self.rows.dtype(),
            self.query_count(),
            self.queries.dtype()
        )
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.rows.clone(), self.queries.clone()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let (search, tile) = (self.search(), self.tile.min(self.row_count()));
        let places = search.queries * self.k;
        vec![
            HostBuffer::unwritten(DType::F32, places),
            HostBuffer::unwritten(DType::I64, places),
            HostBuffer::unwritten(DType::I64, search.queries),
            HostBuffer::unwritten(DType::F32, search.scores_len(tile)),
            HostBuffer::unwritten(DType::I64, search.keys_len(tile)),
        ]
    }

    fn expected(&self) -> Vec<Expected> {
        let (rows, queries) = (self.rows.to_f64(), self.queries.to_f64());
        let (mut scores, mut numbers, mut lost, mut scales) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for query in queries.chunks_exact(self.width) {
            let (mut ranked, mut scale) = (Vec::new(), 0.0_f64);
            for (row, number) in rows.chunks_exact(self.width).zip(self.first_row..) {
                let products = row.iter().zip(query).map(|(row, query)| row * query);
                scale = scale.max(products.clone().map(f64::abs).sum());
                ranked.push((products.sum::<f64>(), number));
            }
            let all = ranked.len();
            ranked.retain(|(score, _)| !score.is_nan());
            lost.push((all - ranked.len()) as f64);
            ranked.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal).then(a.1.cmp(&b.1)));
            ranked.resize(self.k.max(ranked.len()), (f64::NEG_INFINITY, NO_ROW));
            scores.extend(ranked[..self.k].iter().map(|place| place.0));
            numbers.extend(ranked[..self.k].iter().map(|place| place.1 as f64));
            scales.extend(std::iter::repeat_n(scale, self.k));
        }
        let (scores, numbers) = if self.exact {
            (Expected::values(scores, Tolerance::EXACT), Expected::values(numbers, Tolerance::EXACT))
        } else {
            let reason =
                "sums of some thousand products in single precision; a rank's score moves no more than scores do";
            let tolerance = Tolerance { absolute: 0.0, relative: 2e-6, reason };
            (Expected::scaled(scores, scales, tolerance), Expected::anything())
        };
        let lost = Expected::values(lost, Tolerance::EXACT);
        vec![scores, numbers, lost, Expected::anything(), Expected::anything()]
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let queries = inputs[1].f32()?;
        let [scores, numbers, lost, ..] = outputs else { return None };
        let mut solve = || {
            let queries = Queries::pack(queries, self.width)?;
            let mut best = Best::new(queries.len(), self.k)?;
            for (start, count) in self.tiles() {
                let range = start * self.width..(start + count) * self.width;
                let rows = match &inputs[0] {
                    HostBuffer::Bf16(values) => Rows::Bf16(&values[range]),
                    HostBuffer::F16(values) => Rows::F16(&values[range]),
                    other => Rows::F32(other.f32().map_or(&[], |values| &values[range])),
                };
                queries.update(workers, rows, self.first_row + start as i64, &mut best)?;
            }
            if let (Some(scores), Some(numbers), Some(lost)) = (scores.f32_mut(), numbers.i64_mut(), lost.i64_mut()) {
                best.write(scores, numbers)?;
                (0..).zip(lost).for_each(|(query, lost)| *lost = best.not_numbers(query) as i64);
            }
            Ok(())
        };
        Some(solve())
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        if self.queries.dtype() == DType::F32 {
            return for_float!(self.rows.dtype(), T => self.typed::<T, f32>(inputs, outputs));
        }
        for_float!(self.rows.dtype(), T => self.typed::<T, T>(inputs, outputs))
    }

    /// The last query alone, and all queries with other tiles.
    fn parts(&self) -> Vec<Part> {
        let queries = self.query_count();
        let mut parts: Vec<Part> = queries
            .checked_sub(1)
            .into_iter()
            .map(|query| {
                let one = self.queries.slice(query * self.width..(query + 1) * self.width);
                let places = query * self.k..(query + 1) * self.k;
                let pieces = vec![(0, places.clone()), (1, places), (2, query..query + 1)];
                Part { problem: Box::new(Self { queries: one, ..self.clone() }), pieces }
            })
            .collect();
        let tile = (self.tile / 2 + 3).min(self.row_count().max(1));
        let places = 0..queries * self.k;
        let pieces = vec![(0, places.clone()), (1, places), (2, 0..queries)];
        parts.push(Part { problem: Box::new(Self { tile, ..self.clone() }), pieces });
        parts
    }

    fn work(&self) -> Work {
        let (rows, queries) = (self.row_count() as f64, self.query_count() as f64);
        let bytes = self.rows.bytes().len() + self.queries.bytes().len() + self.query_count() * self.k * 12;
        // With few queries reading is the limit.
        let operations = if self.query_count() > 8 { 2.0 * rows * queries * self.width as f64 } else { 0.0 };
        Work { bytes: bytes as f64, operations }
    }
}

/// Two states of the same queries, made one.
#[derive(Clone)]
struct Joining {
    k: usize,
    /// Scores, rows and counts of each.
    states: [State; 2],
}

#[derive(Clone)]
struct State {
    scores: Vec<f32>,
    rows: Vec<i64>,
    not_numbers: Vec<i64>,
}

impl Joining {
    /// Scores of which many are equal, some infinite; each state is partly empty in some queries.
    fn new(queries: usize, k: usize, random: &mut Random) -> Self {
        let mut state = |rows_from: i64| {
            let (mut scores, mut rows) = (Vec::new(), Vec::new());
            for _ in 0..queries {
                let taken = if random.below(2) == 0 { k } else { random.below(k + 1) };
                let mut entries: Vec<(f32, i64)> = (0..taken as i64)
                    .map(|row| match random.below(12) {
                        0 => (f32::INFINITY, rows_from + 2 * row),
                        1 => (f32::NEG_INFINITY, rows_from + 2 * row),
                        score => (score as f32 - 6.0, rows_from + 2 * row),
                    })
                    .collect();
                entries.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                entries.resize(k, (f32::NEG_INFINITY, NO_ROW));
                scores.extend(entries.iter().map(|entry| entry.0));
                rows.extend(entries.iter().map(|entry| entry.1));
            }
            let not_numbers = (0..queries).map(|_| random.below(5) as i64).collect();
            State { scores, rows, not_numbers }
        };
        // Rows of one lie between those of the other.
        Self { k, states: [state(5), state(4)] }
    }

    fn query_count(&self) -> usize {
        self.states[0].not_numbers.len()
    }
}

impl State {
    fn buffers(&self) -> Vec<HostBuffer> {
        vec![self.scores.clone().into(), self.rows.clone().into(), self.not_numbers.clone().into()]
    }

    fn query(&self, query: usize, k: usize) -> Self {
        let places = query * k..(query + 1) * k;
        let (scores, rows) = (self.scores[places.clone()].to_vec(), self.rows[places].to_vec());
        Self { scores, rows, not_numbers: vec![self.not_numbers[query]] }
    }
}

impl Problem for Joining {
    fn label(&self) -> String {
        format!("two states of {} queries joined, best {}", self.query_count(), self.k)
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        self.states[1].buffers()
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        self.states[0].buffers()
    }

    fn expected(&self) -> Vec<Expected> {
        let [own, other] = &self.states;
        let (mut scores, mut rows) = (Vec::new(), Vec::new());
        for query in 0..self.query_count() {
            let places = query * self.k..(query + 1) * self.k;
            let entries = |state: &State| -> Vec<(f32, i64)> {
                state.scores[places.clone()].iter().copied().zip(state.rows[places.clone()].iter().copied()).collect()
            };
            let mut all = [entries(own), entries(other)].concat();
            all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            scores.extend(all[..self.k].iter().map(|entry| f64::from(entry.0)));
            rows.extend(all[..self.k].iter().map(|entry| entry.1 as f64));
        }
        let counts = own.not_numbers.iter().zip(&other.not_numbers).map(|(own, other)| (own + other) as f64);
        [scores, rows, counts.collect()].map(|values| Expected::values(values, Tolerance::EXACT)).into()
    }

    fn cpu(
        &self,
        _: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let read = |buffers: &[HostBuffer]| -> Option<Result<Best, ShapeError>> {
            let (scores, rows, counts) = (buffers[0].f32()?, buffers[1].i64()?, buffers[2].i64()?);
            Some(Best::new(counts.len(), self.k).map(|mut best| {
                for (query, &count) in counts.iter().enumerate() {
                    let places = query * self.k..(query + 1) * self.k;
                    let entries = scores[places.clone()].iter().zip(&rows[places]).filter(|(_, row)| **row != NO_ROW);
                    let entries: Vec<Scored> = entries.map(|(&score, &row)| Scored { score, row }).collect();
                    best.offer(query, &entries);
                    best.offer(query, &vec![Scored { score: f32::NAN, row: 0 }; count as usize]);
                }
                best
            }))
        };
        let (own, other) = (read(outputs)?, read(inputs)?);
        let [scores, rows, counts] = outputs else { return None };
        let (scores, rows, counts) = (scores.f32_mut()?, rows.i64_mut()?, counts.i64_mut()?);
        Some(own.and_then(|mut own| {
            own.merge(&other?)?;
            (0..).zip(counts).for_each(|(query, count)| *count = own.not_numbers(query) as i64);
            own.write(scores, rows)
        }))
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        let state =
            Ranking { scores: outputs[0].write()?, rows: outputs[1].write()?, not_numbers: Some(outputs[2].write()?) };
        // A width does not matter: no score is computed.
        let search = Search { width: 1, queries: self.query_count(), k: self.k };
        search.merge_launches(inputs[0].read()?, inputs[1].read()?, Some(inputs[2].read()?), &state)
    }

    fn parts(&self) -> Vec<Part> {
        let last = self.query_count().checked_sub(1);
        last.into_iter()
            .map(|query| {
                let [own, other] = &self.states;
                let problem = Self { k: self.k, states: [own.query(query, self.k), other.query(query, self.k)] };
                let places = query * self.k..(query + 1) * self.k;
                Part {
                    problem: Box::new(problem),
                    pieces: vec![(0, places.clone()), (1, places), (2, query..query + 1)],
                }
            })
            .collect()
    }

    fn work(&self) -> Work {
        Work { bytes: (3 * self.query_count() * self.k * 12) as f64, operations: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::{Serial, Threads};

    fn ranked(best: &Best) -> Vec<Vec<Scored>> {
        (0..best.len()).map(|query| best.ranked(query)).collect()
    }

    /// Tiles of all sizes, backwards, and through two states that are merged; for few queries, whose rows are divided among
    /// tasks, and for more than one task has.
    #[test]
    fn the_result_does_not_depend_on_how_rows_come() {
        for (rows, width, queries, k) in [(2600, 1030, 2, 30), (90, 20, 300, 7)] {
            let case = Case::real(DType::F32, rows, width, queries, k, &mut Random::new(5));
            let values = case.rows.f32().unwrap();
            let queries = Queries::pack(case.queries.f32().unwrap(), width).unwrap();
            let new = || Best::new(queries.len(), k).unwrap();
            let mut whole = new();
            queries.update(&Threads::new(3), Rows::F32(values), 0, &mut whole).unwrap();
            for tile in [1, 3, 64, 101, rows - 1] {
                let (mut first, mut second) = (new(), new());
                for (number, start) in (0..rows).step_by(tile).collect::<Vec<_>>().into_iter().rev().enumerate() {
                    let tile = Rows::F32(&values[start * width..(start + tile).min(rows) * width]);
                    let best = if number % 2 == 0 { &mut first } else { &mut second };
                    queries.update(&Serial, tile, start as i64, best).unwrap();
                }
                first.merge(&second).unwrap();
                assert_eq!(ranked(&first), ranked(&whole), "tiles of {tile}");
            }
        }
    }

    #[test]
    fn whole_numbers_have_a_factor_for_each_row() {
        let queries = Queries::pack(&[1.0, 2.0, 0.5, 0.0, -1.0, 1.0], 3).unwrap();
        let mut best = Best::new(2, 2).unwrap();
        let rows = Rows::I8 { values: &[127, -128, 4, 1, 1, 2, 5, 0, 0], factors: &[0.5, 2.0, 1.0] };
        queries.update(&Serial, rows, 10, &mut best).unwrap();
        let scored = |score, row| Scored { score, row };
        assert_eq!(best.ranked(0), [scored(8.0, 11), scored(5.0, 12)]);
        assert_eq!(best.ranked(1), [scored(66.0, 10), scored(2.0, 11)]);
        let short = Rows::I8 { values: &[1, 2, 3], factors: &[] };
        assert!(queries.update(&Serial, short, 0, &mut best).is_err());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        assert!(Queries::pack(&[1.0; 5], 2).is_err());
        assert!(Best::new(3, 0).is_err());
        let queries = Queries::pack(&[1.0; 4], 2).unwrap();
        let mut best = Best::new(2, 3).unwrap();
        assert!(queries.update(&Serial, Rows::F32(&[1.0; 3]), 0, &mut best).is_err());
        assert!(queries.update(&Serial, Rows::F32(&[1.0; 4]), i64::MAX - 1, &mut best).is_err());
        assert!(queries.update(&Serial, Rows::F32(&[1.0; 4]), 0, &mut Best::new(1, 3).unwrap()).is_err());
        assert!(best.merge(&Best::new(1, 3).unwrap()).is_err());
        assert!(best.write(&mut [0.0; 6], &mut [0; 5]).is_err());
        assert!(best.ranked(0).is_empty() && best.ranked(9).is_empty());
    }

    /// A state that was written, read back through its entries, and merged with other rows.
    #[test]
    fn a_state_can_be_written_and_read_back() {
        let queries = Queries::pack(&[1.0], 1).unwrap();
        let (mut first, mut second) = (Best::new(1, 3).unwrap(), Best::new(1, 3).unwrap());
        queries.update(&Serial, Rows::F32(&[4.0, 9.0]), 0, &mut first).unwrap();
        queries.update(&Serial, Rows::F32(&[9.0, 4.0, 5.0]), 7, &mut second).unwrap();
        let (mut scores, mut rows) = ([0.0; 3], [0; 3]);
        first.write(&mut scores, &mut rows).unwrap();
        assert_eq!((scores, rows), ([9.0, 4.0, f32::NEG_INFINITY], [1, 0, NO_ROW]));
        let entries: Vec<Scored> = scores.into_iter().zip(rows).map(|(score, row)| Scored { score, row }).collect();
        second.offer(0, &entries);
        let scored = |score, row| Scored { score, row };
        assert_eq!(second.ranked(0), [scored(9.0, 1), scored(9.0, 7), scored(5.0, 9)]);
    }
}
