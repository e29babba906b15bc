//! Where to cut: pure functions from what is in the files to splits.
//!
//! Rows are numbered through the whole source; `skip` and `limit` make a window of it, and each file contributes the part of
//! the window that lies in it. A piece of a file is a range that can be entered directly (row groups, or bytes from the begin of a row), rows
//! to leave out at its begin, and rows to take.

use super::index::RowIndex;
use crate::formats::{ReadOptions, SplitSize};
use crate::split::{Split, SplitUnit};

/// What planning knows of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Contents {
    /// Row groups or record batches.
    Groups(Vec<Group>),
    /// Text that can be entered at every row.
    Text { size: u64, index: Option<RowIndex> },
    /// A file that can only be read from its begin.
    Whole { size: u64, rows: Option<u64>, complete: bool },
}

/// A row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Contents {
    /// Number of rows, or how many were counted before the limit.
    pub(crate) fn rows(&self) -> Option<u64> {
        match self {
            Self::Groups(groups) => Some(groups.iter().map(|group| group.rows).sum()),
            Self::Text { size: 0, .. } | Self::Whole { size: 0, .. } => Some(0),
            Self::Text { index, .. } => index.as_ref().map(|index| index.rows),
            Self::Whole { rows, .. } => *rows,
        }
    }
}

/// The rows `from..to` of a file; `to` is open where the number of rows is not known.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: u64,
    to: Option<u64>,
}

/// A split size in numbers.
#[derive(Clone, Copy, Debug)]
enum Size {
    Rows(u64),
    Bytes(u64),
}

/// Cuts files into splits.
pub(crate) fn cut(files: &[Contents], options: &ReadOptions) -> Vec<Split> {
    let end = options.limit.map(|limit| options.skip.saturating_add(limit));
    let mut windows = Vec::with_capacity(files.len());
    let mut begin = Some(0_u64);
    for file in files {
        let rows = file.rows();
        let window = match (begin, rows) {
            (Some(begin), Some(rows)) => {
                let to = end.map_or(rows, |end| end.saturating_sub(begin).min(rows));
                Window { from: options.skip.saturating_sub(begin).min(to), to: Some(to) }
            }
            _ => Window { from: 0, to: rows },
        };
        windows.push((begin, window));
        begin = begin.zip(rows).map(|(begin, rows)| begin + rows);
    }
    let wanted: u64 = windows.iter().filter_map(|(_, window)| window.to.map(|to| to - window.from)).sum();
    let size = match options.split_size {
        SplitSize::Fraction(share) => Size::Rows(((share * wanted as f64).round() as u64).max(1)),
        SplitSize::Rows(rows) => Size::Rows(rows.max(1)),
        SplitSize::Bytes(bytes) => Size::Bytes(bytes.max(1)),
    };
    let mut splits = Vec::new();
    for (number, (file, (begin, window))) in files.iter().zip(windows).enumerate() {
        let first = splits.len();
        match file {
            Contents::Groups(groups) => cut_groups(groups, window, size, &mut splits),
            Contents::Text { size: bytes, index } => cut_text(*bytes, index.as_ref(), window, size, &mut splits),
            Contents::Whole { size, rows, complete } => take_whole(*size, *rows, *complete, window, &mut splits),
        }
        for (offset, split) in splits[first..].iter_mut().enumerate() {
            split.number = (first + offset) as u64;
            split.file = number as u32;
            split.first_row = begin.zip(split.file_row).map(|(begin, row)| begin + row);
        }
    }
    splits
}

/// Row windows of `rows` rows each.
fn row_windows(window: Window, rows: u64) -> impl Iterator<Item = (u64, u64)> {
    let to = window.to.unwrap_or(window.from);
    (0..(to - window.from).div_ceil(rows)).map(move |number| {
        let from = window.from + number * rows;
        (from, (from + rows).min(to))
    })
}

fn cut_groups(groups: &[Group], window: Window, size: Size, splits: &mut Vec<Split>) {
    let mut starts = Vec::with_capacity(groups.len() + 1);
    starts.push(0_u64);
    for group in groups {
        starts.push(starts[starts.len() - 1] + group.rows);
    }
    let to = window.to.unwrap_or(starts[groups.len()]);
    let piece = |from: u64, to: u64| {
        let start = starts.partition_point(|start| *start <= from) - 1;
        let end = starts.partition_point(|start| *start < to);
        let whole: u64 = starts[end] - starts[start];
        let bytes: u64 = groups[start..end].iter().map(|group| group.bytes).sum();
        let skip = from - starts[start];
        Split {
            unit: SplitUnit::RowGroups,
            start: start as u64,
            end: end as u64,
            skip,
            take: (to != starts[end]).then_some(to - from),
            file_row: Some(from),
            rows: Some(to - from),
            bytes: share(bytes, to - from, whole),
            ..empty()
        }
    };
    match size {
        Size::Rows(rows) => splits.extend(row_windows(window, rows).map(|(from, to)| piece(from, to))),
        Size::Bytes(target) => {
            let (mut from, mut bytes) = (window.from, 0_u64);
            for (number, group) in groups.iter().enumerate() {
                let (start, end) = (starts[number].max(window.from), starts[number + 1].min(to));
                if start >= end {
                    continue;
                }
                if bytes > 0 && bytes + group.bytes > target {
                    splits.push(piece(from, start));
                    (from, bytes) = (start, 0);
                }
                bytes += group.bytes;
            }
            if from < to {
                splits.push(piece(from, to));
            }
        }
    }
}

fn cut_text(size: u64, index: Option<&RowIndex>, window: Window, target: Size, splits: &mut Vec<Split>) {
    let Some(index) = index else {
        let Size::Bytes(target) = target else { return };
        splits.extend((0..size.div_ceil(target)).map(|number| {
            let start = number * target;
            let end = (start + target).min(size);
            let file_row = (start == 0).then_some(0);
            Split { unit: SplitUnit::Bytes, start, end, file_row, bytes: end - start, ..empty() }
        }));
        return;
    };
    let points = &index.points;
    let end_of = |place: usize| points.get(place).map_or((index.end, index.rows), |point| (point.offset, point.row));
    let piece = |from: u64, to: u64| {
        let start = points.partition_point(|point| point.row <= from) - 1;
        let (end, end_row) = end_of(points.partition_point(|point| point.row < to));
        let begin = points[start];
        Split {
            unit: SplitUnit::Bytes,
            start: begin.offset,
            end,
            skip: from - begin.row,
            take: (to != end_row).then_some(to - from),
            file_row: Some(from),
            rows: Some(to - from),
            bytes: share(end - begin.offset, to - from, end_row - begin.row),
            ..empty()
        }
    };
    let to = window.to.unwrap_or(index.rows);
    match target {
        Size::Rows(rows) => splits.extend(row_windows(window, rows).map(|(from, to)| piece(from, to))),
        Size::Bytes(target) => {
            let mut from = window.from;
            let mut begin =
                points.partition_point(|point| point.row <= from).checked_sub(1).map_or(0, |at| points[at].offset);
            for point in points.iter().filter(|point| point.row < to) {
                if point.row > from && point.offset - begin >= target {
                    splits.push(piece(from, point.row));
                    (from, begin) = (point.row, point.offset);
                }
            }
            if from < to {
                splits.push(piece(from, to));
            }
        }
    }
}

fn take_whole(size: u64, rows: Option<u64>, complete: bool, window: Window, splits: &mut Vec<Split>) {
    if size == 0 || window.to.is_some_and(|to| to <= window.from) {
        return;
    }
    let wanted = window.to.map(|to| to - window.from);
    let to_the_end = complete && window.to == rows;
    splits.push(Split {
        unit: SplitUnit::File,
        skip: window.from,
        take: wanted.filter(|_| !to_the_end),
        file_row: Some(window.from),
        rows: wanted,
        bytes: match (wanted, rows) {
            (Some(wanted), Some(rows)) if complete => share(size, wanted, rows),
            _ => size,
        },
        ..empty()
    });
}

fn empty() -> Split {
    Split {
        number: 0,
        file: 0,
        unit: SplitUnit::File,
        start: 0,
        end: 0,
        skip: 0,
        take: None,
        first_row: None,
        file_row: None,
        rows: None,
        bytes: 0,
    }
}

/// The bytes of some rows by their share of all rows of a range.
fn share(bytes: u64, rows: u64, all: u64) -> u64 {
    (u128::from(bytes) * u128::from(rows) / u128::from(all.max(1))) as u64
}
