//! The first quarantined rows of a run, for its report.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use futures::TryStreamExt;
use gristmill_datasets::run::Manifest;

use crate::error::{PipelineError, Result};
use crate::inspect;
use crate::run::mill::Mill;

/// Rows that a report shows.
const SAMPLES: usize = 20;
/// Rows of one part that it shows, so that one bad file does not hide the others.
const SAMPLES_OF_A_PART: u64 = 5;
/// Bytes of a row that it shows.
const SHOWN_BYTES: usize = 160;

/// A quarantined row as a report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) step: String,
    pub(super) error: String,
    pub(super) source: String,
    pub(super) offset: Option<u64>,
    pub(super) row: Option<u64>,
    pub(super) id: Option<String>,
    pub(super) raw: Option<String>,
    pub(super) length: Option<u64>,
}

/// The first quarantined rows in the order of the output, a few of each part.
pub(super) async fn samples(mill: &Mill, manifest: &Manifest) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for part in manifest.records.iter().filter_map(|record| record.quarantine_part.as_deref()) {
        let mut left = SAMPLES_OF_A_PART;
        let mut batches = inspect::rows_of(mill.part(part).await?, left).await?;
        while let Some(batch) = batches.try_next().await? {
            for row in 0..batch.num_rows() {
                if samples.len() == SAMPLES {
                    return Ok(samples);
                }
                if left == 0 {
                    break;
                }
                left -= 1;
                samples.push(sample(&batch, row)?);
            }
        }
    }
    Ok(samples)
}

fn sample(batch: &RecordBatch, row: usize) -> Result<Sample> {
    let column = |name: &str| {
        batch.column_by_name(name).ok_or_else(|| PipelineError::Engine(format!("quarantined rows have no '{name}'")))
    };
    let text = |name: &str| -> Result<Option<String>> {
        let column = column(name)?;
        let texts = column.as_string_opt::<i32>().filter(|texts| texts.is_valid(row));
        Ok(texts.map(|texts| texts.value(row).to_owned()))
    };
    let number = |name: &str| -> Result<Option<u64>> {
        let column = column(name)?;
        let numbers = column.as_primitive_opt::<UInt64Type>().filter(|numbers| numbers.is_valid(row));
        Ok(numbers.map(|numbers| numbers.value(row)))
    };
    let raw = column("raw")?.as_binary_opt::<i32>().filter(|raw| raw.is_valid(row)).map(|raw| shown(raw.value(row)));
    Ok(Sample {
        step: text("step")?.unwrap_or_default(),
        error: text("error")?.map(|error| visible(error.as_bytes())).unwrap_or_default(),
        source: text("source")?.unwrap_or_default(),
        offset: number("offset")?,
        row: number("row")?,
        id: text("id")?.map(|id| visible(id.as_bytes())),
        raw,
        length: number("length")?,
    })
}

/// The first bytes as text.
fn shown(bytes: &[u8]) -> String {
    let mut text = visible(&bytes[..bytes.len().min(SHOWN_BYTES)]);
    if bytes.len() > SHOWN_BYTES {
        text.push('…');
    }
    text
}

/// Bytes as text: what is no text, or cannot be seen, is written as an escape, so that nothing of the data acts on whoever
/// reads it.
fn visible(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || is_invisible(character) {
                text.extend(character.escape_unicode());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Marks that reorder or hide text around them.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_escaped() {
        assert_eq!(shown(b"{\"a\": \xff\x00}\n"), "{\"a\": \\xff\\u{0}}\\u{a}");
        assert_eq!(shown("é\u{202e}x".as_bytes()), "é\\u{202e}x");
        assert_eq!(shown(&[b'x'; 200]).chars().count(), SHOWN_BYTES + 1);
        assert_eq!(shown(b""), "");
    }
}
