//! Launches of the CUDA kernels in `cuda/topk.cu`.

use super::NO_ROW;
use crate::launch::{
    Argument, Buffer, BufferMut, DType, Float, Launch, ShapeError, expect_len, expect_rows, kernel_name, optional,
    optional_mut, to_grid, to_i32, to_i64,
};

const FAMILY: &str = "topk";
const THREADS: u32 = 256;
/// Rows that are kept at most: they are sorted in shared memory.
const MOST_KEPT: usize = 1024;
/// Queries that are multiplied with a tile of rows at once.
const MOST_QUERIES: usize = 512;
/// Scores of a tile of rows and a block of queries.
const MOST_SCORES: usize = 1 << 24;
/// Rows of a tile at most, however few queries there are.
const MOST_ROWS: usize = 1 << 18;
/// Rows that one block looks through. Fewer make more lists to be joined, more leave a GPU idle where there are few queries.
const RANGE: usize = 2048;

/// A search on a GPU: scores of rows with queries, and the best of them.
///
/// Queries are given in single precision, or in the type of the rows if that is a half-precision type; then tensor cores multiply
/// them, which is several times as fast from some dozen queries on. The two ways add up in different orders, and neither has the
/// bits of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Elements of a row and of a query, at least 1.
    pub width: usize,
    /// Number of queries.
    pub queries: usize,
    /// Rows that are kept for each query, from 1 to 1,024.
    pub k: usize,
}

/// The state of a search in the memory of a GPU: the best rows so far, the best first.
///
/// Places that no row has taken have minus infinity and [`NO_ROW`].
#[derive(Debug)]
pub struct Ranking<'a> {
    /// `[queries, k]`.
    pub scores: BufferMut<'a, f32>,
    /// Row numbers, `[queries, k]`.
    pub rows: BufferMut<'a, i64>,
    /// How many scores of each query were not numbers, `[queries]`, if that is to be counted.
    pub not_numbers: Option<BufferMut<'a, i64>>,
}

/// Memory that an update works in. What it holds afterwards means nothing.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// [`Search::scores_len`] elements.
    pub scores: BufferMut<'a, f32>,
    /// [`Search::keys_len`] elements.
    pub keys: BufferMut<'a, i64>,
}

impl Search {
    /// Rows of a tile.
    fn tile_rows(&self) -> usize {
        let rows = MOST_SCORES / self.queries.clamp(1, MOST_QUERIES);
        rows.min(MOST_ROWS) / RANGE * RANGE
    }

    /// Elements of scores to work in, for updates of at most so many rows.
    pub fn scores_len(&self, rows: usize) -> usize {
        self.queries.min(MOST_QUERIES) * rows.min(self.tile_rows())
    }

    /// Elements of keys to work in, for updates of at most so many rows.
    pub fn keys_len(&self, rows: usize) -> usize {
        self.queries.min(MOST_QUERIES) * rows.min(self.tile_rows()).div_ceil(RANGE) * (self.k + 1)
    }

    /// The launch that makes a state without rows.
    ///
    /// # Errors
    /// Lengths that do not belong together, or a k that is not possible.
    pub fn clear_launches<'a>(&self, state: &Ranking<'a>) -> Result<Vec<Launch<'a>>, ShapeError> {
        self.expect(state)?;
        if self.queries == 0 {
            return Ok(Vec::new());
        }
        let arguments = vec![
            state.scores.argument(),
            state.rows.argument(),
            optional_mut(state.not_numbers.as_ref()),
            Argument::I64(to_i64("queries", state.scores.len())?),
            Argument::I64(to_i64("queries", self.queries)?),
        ];
        let grid = [to_grid("queries", state.scores.len().div_ceil(THREADS as usize))?, 1, 1];
        Ok(vec![Launch::new(FAMILY, "topk_clear", grid, [THREADS, 1, 1], arguments)])
    }

    /// The launches that score rows `[rows, width]`, the first of which has the number `first_row`, with queries `[queries, width]`,
    /// and keep the best. Any rows are divided into tiles that fit into the workspace.
    ///
    /// # Errors
    /// Lengths that do not belong together, a k that is not possible, row numbers beyond what can be counted, or queries that are
    /// neither in single precision nor of the type of the rows.
    pub fn update_launches<'a, T: Float, Q: Float>(
        &self,
        rows: Buffer<'a, T>,
        queries: Buffer<'a, Q>,
        first_row: i64,
        state: &Ranking<'a>,
        workspace: &Workspace<'a>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        self.expect(state)?;
        let count = expect_rows("rows", rows.len(), self.width)?;
        expect_len("queries", queries.len(), self.queries * self.width)?;
        expect_len("scores to work in", workspace.scores.len(), self.scores_len(count))?;
        expect_len("keys to work in", workspace.keys.len(), self.keys_len(count))?;
        if Q::DTYPE != DType::F32 && Q::DTYPE != T::DTYPE {
            let allowed = "the size of single precision or of the rows' type";
            return Err(ShapeError::Dimension { name: "element of queries", allowed, actual: Q::DTYPE.bytes() });
        }
        if first_row.checked_add(to_i64("rows", count)?).is_none_or(|end| end == NO_ROW) {
            let allowed = "rows up to 2^63 - 3";
            return Err(ShapeError::Value { name: "first row", index: 0, allowed, actual: first_row });
        }
        let mut launches = Vec::new();
        if self.width == 0 {
            return Ok(launches);
        }
        for row in (0..count).step_by(self.tile_rows()) {
            let tile = rows.part(row * self.width, self.tile_rows() * self.width);
            for query in (0..self.queries).step_by(MOST_QUERIES) {
                let some = queries.part(query * self.width, MOST_QUERIES * self.width);
                let first_row = first_row + to_i64("rows", row)?;
                self.tile(&mut launches, tile, some, query, first_row, state, workspace)?;
            }
        }
        Ok(launches)
    }

    /// The launches that take the rows of another state into `state`.
    ///
    /// # Errors
    /// Lengths that do not belong together, or a k that is not possible.
    pub fn merge_launches<'a>(
        &self,
        scores: Buffer<'a, f32>,
        rows: Buffer<'a, i64>,
        not_numbers: Option<Buffer<'a, i64>>,
        state: &Ranking<'a>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        self.expect(state)?;
        expect_len("other scores", scores.len(), state.scores.len())?;
        expect_len("other rows", rows.len(), state.rows.len())?;
        expect_len("other counts", not_numbers.map_or(self.queries, |counts| counts.len()), self.queries)?;
        if self.queries == 0 {
            return Ok(Vec::new());
        }
        let arguments = vec![
            scores.argument(),
            rows.argument(),
            optional(not_numbers.as_ref()),
            state.scores.argument(),
            state.rows.argument(),
            optional_mut(state.not_numbers.as_ref()),
            Argument::I32(to_i32("k", self.k)?),
            Argument::I32(to_i32("k", self.k.next_power_of_two())?),
        ];
        let grid = [to_grid("queries", self.queries)?, 1, 1];
        Ok(vec![Launch::new(FAMILY, "topk_join", grid, [THREADS, 1, 1], arguments)])
    }

    fn expect(&self, state: &Ranking<'_>) -> Result<(), ShapeError> {
        if self.k == 0 || self.k > MOST_KEPT {
            return Err(ShapeError::Dimension { name: "k", allowed: "1 to 1,024", actual: self.k });
        }
        expect_len("scores", state.scores.len(), self.queries * self.k)?;
        expect_len("rows", state.rows.len(), self.queries * self.k)?;
        expect_len("counts", state.not_numbers.as_ref().map_or(self.queries, BufferMut::len), self.queries)
    }

    /// A tile of rows with a block of queries, the first of which is `query`.
    #[allow(clippy::too_many_arguments, reason = "what three launches need")]
    fn tile<'a, T: Float, Q: Float>(
        &self,
        launches: &mut Vec<Launch<'a>>,
        rows: Buffer<'a, T>,
        queries: Buffer<'a, Q>,
        query: usize,
        first_row: i64,
        state: &Ranking<'a>,
        workspace: &Workspace<'a>,
    ) -> Result<(), ShapeError> {
        let (row_count, query_count) = (rows.len() / self.width, queries.len() / self.width);
        let (kernel, rows_of_block, queries_of_block) = if Q::DTYPE != DType::F32 {
            (if T::DTYPE == DType::F16 { "topk_same_f16" } else { "topk_same_bf16" }, 128, 128)
        } else if query_count <= 24 {
            (kernel_name!(T, "topk_few"), 256, 8)
        } else {
            (kernel_name!(T, "topk_many"), 128, 128)
        };
        let count = Argument::I64(to_i64("rows", row_count)?);
        let arguments = vec![
            rows.argument(),
            queries.argument(),
            workspace.scores.argument(),
            count,
            Argument::I32(to_i32("queries", query_count)?),
            Argument::I32(to_i32("width", self.width)?),
        ];
        let blocks = to_grid("rows", row_count.div_ceil(rows_of_block))?;
        let grid = [blocks, to_grid("queries", query_count.div_ceil(queries_of_block))?, 1];
        launches.push(Launch::new(FAMILY, kernel, grid, [THREADS, 1, 1], arguments));

        let ranges = row_count.div_ceil(RANGE);
        let (keys, lost) = (workspace.keys.argument(), workspace.keys.argument_at(query_count * ranges * self.k));
        let (scores, places) = (state.scores.argument_at(query * self.k), state.rows.argument_at(query * self.k));
        let k = Argument::I32(to_i32("k", self.k)?);
        let padded = Argument::I32(to_i32("k", self.k.next_power_of_two())?);
        let first_row = Argument::I64(first_row);
        let range = Argument::I32(to_i32("rows", RANGE)?);
        let arguments =
            vec![workspace.scores.argument(), scores, places, keys, lost, count, first_row, k, padded, range];
        let grid = [to_grid("rows", ranges)?, to_grid("queries", query_count)?, 1];
        launches.push(Launch::new(FAMILY, "topk_select", grid, [THREADS, 1, 1], arguments));

        let totals = state.not_numbers.as_ref().map_or(Argument::Address(0), |counts| counts.argument_at(query));
        let ranges = Argument::I32(to_i32("rows", ranges)?);
        let arguments = vec![keys, lost, scores, places, totals, first_row, k, padded, ranges];
        let grid = [to_grid("queries", query_count)?, 1, 1];
        launches.push(Launch::new(FAMILY, "topk_merge", grid, [THREADS, 1, 1], arguments));
        Ok(())
    }
}
