//! Matrices of a file: rows of single precision, or codes of a product quantiser (Jégou, Douze and Schmid, 2011). Rows stay in the file's
//! bytes and are read from there, so a model takes the memory of its file.

use std::ops::Range;

use bytes::Bytes;

use super::cursor::Cursor;
use crate::Result;

/// Codes are bytes.
const CENTROIDS: usize = 256;

/// A matrix, row by row.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) width: usize,
    bytes: Bytes,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Numbers begin here.
    Dense(usize),
    Quantised {
        /// Codes of rows, `[rows, parts]`.
        codes: Range<usize>,
        quantiser: Quantiser,
        /// Codes of the lengths of rows, and what they stand for.
        lengths: Option<(Range<usize>, Quantiser)>,
    },
}

/// Pieces of rows, of which each is one of 256.
#[derive(Debug)]
struct Quantiser {
    /// Pieces of a row; the last one may be shorter.
    parts: usize,
    part: usize,
    /// `[parts, 256, part]`.
    centroids: Vec<f32>,
}

impl Matrix {
    /// Reads a matrix whose rows have this width.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        bytes: &Bytes,
        name: &str,
        width: usize,
        quantised: bool,
    ) -> Result<Self> {
        let with_lengths = quantised && cursor.switch(&format!("whether lengths of the {name} are apart"))?;
        let rows = cursor.long_count(&format!("the rows of the {name}"))?;
        let found = cursor.long_count(&format!("the width of the {name}"))?;
        if found != width {
            return Err(cursor.unexpected(&format!("the width of the {name}"), found, &width.to_string()));
        }
        let kind = if quantised {
            let size = cursor.count(&format!("the size of the codes of the {name}"))?;
            let codes = cursor.take(&format!("the codes of the {name}"), Some(size))?;
            let quantiser = Quantiser::read(cursor, bytes, name, width)?;
            if rows.checked_mul(quantiser.parts) != Some(size) {
                let message = format!("{size} codes of the {name} cannot be {rows} rows of {}", quantiser.parts);
                return Err(cursor.wrong(message));
            }
            let lengths = if with_lengths {
                let codes = cursor.take(&format!("the lengths of the {name}"), Some(rows))?;
                Some((codes, Quantiser::read(cursor, bytes, name, 1)?))
            } else {
                None
            };
            Kind::Quantised { codes, quantiser, lengths }
        } else {
            let size = rows.checked_mul(width).and_then(|size| size.checked_mul(4));
            Kind::Dense(cursor.take(&format!("the {name}"), size)?.start)
        };
        Ok(Self { rows, width, bytes: bytes.clone(), kind })
    }

    /// Adds a row, which the matrix has, to a sum.
    pub(super) fn add(&self, row: u32, sum: &mut [f32]) {
        match &self.kind {
            Kind::Dense(start) => {
                for (sum, value) in sum.iter_mut().zip(self.dense(*start, row as usize)) {
                    *sum += value;
                }
            }
            Kind::Quantised { codes, quantiser, lengths } => {
                let length = self.length(lengths, row as usize);
                let codes = self.codes(codes, quantiser, row as usize);
                let pieces = quantiser.pieces(codes, self.width);
                for (sum, piece) in sum.chunks_mut(quantiser.part).zip(pieces) {
                    sum.iter_mut().zip(piece).for_each(|(sum, value)| *sum += length * value);
                }
            }
        }
    }

    /// Reads a byte of each line of memory that a row is in, so that rows that are added soon are on their way together.
    pub(super) fn touch(&self, row: u32) -> u8 {
        let (start, length) = match &self.kind {
            Kind::Dense(start) => (start + row as usize * self.width * 4, self.width * 4),
            Kind::Quantised { codes, quantiser, .. } => (codes.start + row as usize * quantiser.parts, quantiser.parts),
        };
        self.bytes[start..start + length].iter().step_by(64).fold(0, |seen, &byte| seen ^ byte)
    }

    /// The product of a row and a vector, added up from its first element to its last.
    pub(super) fn dot(&self, row: usize, vector: &[f32]) -> f32 {
        match &self.kind {
            Kind::Dense(start) => self.dense(*start, row).zip(vector).fold(0.0, |sum, (a, b)| sum + a * b),
            Kind::Quantised { codes, quantiser, lengths } => {
                let length = self.length(lengths, row);
                let pieces = quantiser.pieces(self.codes(codes, quantiser, row), self.width);
                let parts = vector.chunks(quantiser.part).zip(pieces);
                let values = parts.flat_map(|(vector, piece)| vector.iter().zip(piece));
                values.fold(0.0, |sum, (a, b)| sum + a * b) * length
            }
        }
    }

    /// Products of all rows and a vector, as [`Matrix::dot`] adds them up.
    pub(super) fn dots(&self, vector: &[f32], products: &mut Vec<f32>) {
        products.clear();
        products.extend((0..self.rows).map(|row| self.dot(row, vector)));
    }

    fn dense(&self, start: usize, row: usize) -> impl Iterator<Item = f32> + '_ {
        let start = start + row * self.width * 4;
        let bytes = &self.bytes[start..start + self.width * 4];
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    }

    fn codes(&self, codes: &Range<usize>, quantiser: &Quantiser, row: usize) -> &[u8] {
        let start = codes.start + row * quantiser.parts;
        &self.bytes[start..start + quantiser.parts]
    }

    fn length(&self, lengths: &Option<(Range<usize>, Quantiser)>, row: usize) -> f32 {
        lengths
            .as_ref()
            .map_or(1.0, |(codes, quantiser)| quantiser.centroids[usize::from(self.bytes[codes.start + row])])
    }
}

impl Quantiser {
    fn read(cursor: &mut Cursor<'_>, bytes: &Bytes, name: &str, width: usize) -> Result<Self> {
        let sizes = ["width", "number of parts", "size of a part", "size of the last part"];
        let mut found = [0; 4];
        for (found, size) in found.iter_mut().zip(sizes) {
            *found = cursor.count(&format!("the {size} of the quantiser of the {name}"))?;
        }
        let [whole, parts, part, last] = found;
        let fits =
            whole == width && part > 0 && parts == whole.div_ceil(part) && last == whole - (parts.max(1) - 1) * part;
        if !fits {
            let message = format!(
                "the quantiser of the {name} has {parts} parts of {part}, the last of {last}, of rows of {whole}; rows have {width}"
            );
            return Err(cursor.wrong(message));
        }
        let size = whole.checked_mul(CENTROIDS * 4);
        let range = cursor.take(&format!("the quantiser of the {name}"), size)?;
        let centroids =
            bytes[range].chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        Ok(Self { parts, part, centroids: centroids.collect() })
    }

    /// The pieces that codes stand for.
    fn pieces(&self, codes: &[u8], width: usize) -> impl Iterator<Item = &[f32]> {
        codes.iter().enumerate().map(move |(number, &code)| {
            let first = number * self.part;
            let length = self.part.min(width - first);
            let start = first * CENTROIDS + usize::from(code) * length;
            &self.centroids[start..start + length]
        })
    }
}
