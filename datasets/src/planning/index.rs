//! How many rows a text file has, and where some of them begin.

use super::cut::Contents;
use crate::error::Result;
use crate::formats::{OpenFile, ReadOptions, RowStream, Sink, SplitSize, count_stream_rows};
use crate::split::Format;

/// Beginnings of rows, near enough to each other that the rows between are quickly passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowIndex {
    /// Rows that were counted.
    pub(crate) rows: u64,
    /// Whether the file was read to its end.
    pub(crate) complete: bool,
    /// Where the rows that were counted end: every one of them begins before, and no other one.
    pub(crate) end: u64,
    /// Position in bytes and number of some rows, ascending, the first row among them.
    pub(crate) points: Vec<Point>,
}

/// The begin of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) offset: u64,
    pub(crate) row: u64,
}

/// A point comes after so many rows or bytes: 16 bytes of memory for each MiB of a file, unless splits are smaller than that.
const POINT_ROWS: u64 = 1024;
const POINT_BYTES: u64 = 1 << 20;
/// Points in a split of some bytes, so that its size is met well enough.
const POINTS_IN_SPLIT: u64 = 16;
/// With a limit little may be wanted: reading begins with requests of this size, which grow.
const FIRST_REQUEST: u64 = 256 << 10;

struct Counter {
    index: RowIndex,
    at_most: u64,
    point_bytes: u64,
}

impl Sink for Counter {
    fn bytes(&mut self, _: &[u8]) {}

    fn end(&mut self, offset: u64) {
        let row = self.index.rows;
        let far = self
            .index
            .points
            .last()
            .is_none_or(|last| row - last.row >= POINT_ROWS || offset - last.offset >= self.point_bytes);
        if far {
            self.index.points.push(Point { offset, row });
        }
        self.index.rows += 1;
        self.index.end = offset + 1;
    }

    fn discard(&mut self) {}

    fn is_full(&self) -> bool {
        self.index.rows >= self.at_most
    }
}

/// Reads a file through, or as far as `at_most` rows go, in bounded memory.
pub(crate) async fn count(
    file: &OpenFile,
    contents: Contents,
    options: &ReadOptions,
    at_most: u64,
) -> Result<Contents> {
    if file.file.format == Format::Arrow {
        let (rows, complete) = count_stream_rows(file, at_most).await?;
        return Ok(Contents::Whole { size: file.file.size, rows: Some(rows), complete });
    }
    let requested = if at_most == u64::MAX { u64::MAX } else { FIRST_REQUEST };
    let mut rows = RowStream::from_begin(file, requested, options.json_split.as_deref())?;
    let point_bytes = match options.split_size {
        SplitSize::Bytes(size) => (size / POINTS_IN_SPLIT).clamp(1, POINT_BYTES),
        SplitSize::Rows(_) | SplitSize::Fraction(_) => POINT_BYTES,
    };
    let mut counter = Counter { index: RowIndex::default(), at_most, point_bytes };
    while !rows.is_finished() && !counter.is_full() {
        rows.fill(&mut counter).await?;
    }
    counter.index.complete = rows.is_finished();
    if counter.index.complete {
        counter.index.end = file.file.size;
    }
    Ok(match contents {
        Contents::Text { size, .. } => Contents::Text { size, index: Some(counter.index) },
        Contents::Whole { size, .. } => {
            Contents::Whole { size, rows: Some(counter.index.rows), complete: counter.index.complete }
        }
        groups @ Contents::Groups(_) => groups,
    })
}
