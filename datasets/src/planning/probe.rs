//! What is in a file, from as few of its bytes as possible.

use arrow_schema::{Schema, SchemaRef};
use serde_json::Value;

use super::cut::{Contents, Group};
use super::infer::{Conflict, Kind, to_fields};
use crate::error::Result;
use crate::formats::{
    Block, Header, IpcStream, OpenFile, ReadOptions, Record, RowStream, csv_fields, ipc_footer, parquet_footer,
    parquet_schema,
};
use crate::split::{Compression, Format};

/// A file that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// The file, its format corrected.
    pub(crate) file: OpenFile,
    pub(crate) contents: Contents,
    /// The columns; `None` where the file was not sampled or has no row.
    pub(crate) columns: Option<SchemaRef>,
    /// Columns of a sample whose values do not fit together.
    pub(crate) conflicts: Vec<Conflict>,
}

/// Text files are sampled only up to this number; the others are read by the schema that was found.
const SAMPLED_FILES: usize = 8;
/// Rows and bytes of a sample.
const SAMPLE_ROWS: usize = 1000;
const SAMPLE_BYTES: usize = 4 << 20;

/// Most samples need no more; requests behind the first one grow.
const FIRST_REQUEST: u64 = 256 << 10;

/// Looks at a file; `number` is its position in the source.
pub(crate) async fn probe(number: usize, file: OpenFile, options: &ReadOptions) -> Result<Probe> {
    match file.file.format {
        Format::Parquet => probe_parquet(file).await,
        Format::Csv | Format::Tsv => probe_csv(file, number < SAMPLED_FILES, options).await,
        Format::Jsonl => probe_json(file, number < SAMPLED_FILES, options).await,
        Format::Json => {
            let file = if holds_lines(&file).await? {
                let mut file = file;
                file.file.format = Format::Jsonl;
                file
            } else {
                file
            };
            probe_json(file, number < SAMPLED_FILES, options).await
        }
        Format::Arrow => probe_arrow(file).await,
    }
}

async fn probe_parquet(file: OpenFile) -> Result<Probe> {
    let footer = parquet_footer(&file, false).await?;
    let columns = parquet_schema(&file, &footer)?;
    let groups = footer
        .row_groups()
        .iter()
        .map(|group| Group { rows: group.num_rows() as u64, bytes: group.compressed_size().max(0) as u64 })
        .collect();
    Ok(Probe { file, contents: Contents::Groups(groups), columns: Some(columns), conflicts: Vec::new() })
}

async fn probe_arrow(file: OpenFile) -> Result<Probe> {
    let (contents, columns) = match ipc_footer(&file).await? {
        Some(footer) => {
            let groups = footer.groups(&file).await?;
            let groups = groups.into_iter().map(|(rows, bytes)| Group { rows, bytes }).collect();
            (Contents::Groups(groups), footer.schema)
        }
        None => {
            let schema = IpcStream::peek(&file).schema().await?;
            (Contents::Whole { size: file.file.size, rows: None, complete: false }, schema)
        }
    };
    Ok(Probe { file, contents, columns: Some(columns), conflicts: Vec::new() })
}

/// Text without compression can be entered in the middle.
fn text_contents(file: &OpenFile) -> Contents {
    let size = file.file.size;
    if file.file.compression == Compression::None && file.file.format != Format::Json {
        Contents::Text { size, index: None }
    } else {
        Contents::Whole { size, rows: None, complete: false }
    }
}

async fn sample(file: &OpenFile, options: &ReadOptions) -> Result<Block> {
    let mut block = Block::new(SAMPLE_ROWS, SAMPLE_BYTES, 0, u64::MAX);
    let mut rows = RowStream::from_begin(file, FIRST_REQUEST, options.json_split.as_deref())?;
    rows.fill(&mut block).await?;
    Ok(block)
}

async fn probe_json(file: OpenFile, sampled: bool, options: &ReadOptions) -> Result<Probe> {
    let contents = text_contents(&file);
    let mut probe = Probe { file, contents, columns: None, conflicts: Vec::new() };
    if !sampled {
        return Ok(probe);
    }
    let block = sample(&probe.file, options).await?;
    let mut columns: Vec<(String, Kind)> = Vec::new();
    let mut wrong = None;
    let mut rows = 0;
    for record in &block.records {
        let line = &block.bytes[record.start..record.end];
        match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(members)) => {
                rows += 1;
                for (name, value) in members {
                    let kind = Kind::of_json(&value);
                    let merged = match (kind, columns.iter_mut().find(|(column, _)| *column == name)) {
                        // Text that is no string is a fault of the row, not of the source.
                        (Ok(kind), Some((_, column)))
                            if name == options.text && (kind == Kind::String || *column == Kind::String) =>
                        {
                            *column = Kind::String;
                            Ok(())
                        }
                        (Ok(kind), Some((_, column))) => column.merge(kind, &name),
                        (Ok(kind), None) => {
                            columns.push((name, kind));
                            Ok(())
                        }
                        (Err(conflict), _) => Err(conflict.inside(&name)),
                    };
                    if let Err(conflict) = merged {
                        probe.conflicts.push(conflict.at(record.offset, &value));
                    }
                }
            }
            Ok(_) => wrong = wrong.or_else(|| Some(describe(record, "it is no object"))),
            Err(error) => wrong = wrong.or_else(|| Some(describe(record, &error.to_string()))),
        }
    }
    if let (0, Some(wrong)) = (rows, wrong) {
        if let Some(mistaken) = probe.file.mistaken(&block.bytes) {
            return Err(mistaken);
        }
        return Err(probe
            .file
            .malformed(format!("none of the first {} rows is a JSON object: {wrong}", block.records.len())));
    }
    if rows > 0 {
        probe.columns = Some(Schema::new(to_fields(&columns)).into());
    }
    Ok(probe)
}

fn describe(record: &Record, error: &str) -> String {
    format!("the row at byte {}: {error}", record.offset)
}

async fn probe_csv(file: OpenFile, sampled: bool, options: &ReadOptions) -> Result<Probe> {
    let contents = text_contents(&file);
    let header = Header::read(&file).await?;
    let names = header.names();
    let mut kinds: Vec<(String, Kind)> = names.iter().map(|name| (name.clone(), Kind::Unknown)).collect();
    if sampled && !names.is_empty() {
        let block = sample(&file, options).await?;
        for record in &block.records {
            // Rows with another number of fields come out as unreadable and say nothing about types.
            let Ok(fields) = csv_fields(&block.bytes[record.start..record.end], &header) else { continue };
            if fields.len() != kinds.len() {
                continue;
            }
            for ((name, kind), field) in kinds.iter_mut().zip(fields) {
                // What does not fit a narrower type is text.
                if *name == options.text || kind.merge(Kind::of_field(&field), name).is_err() {
                    *kind = Kind::String;
                }
            }
        }
    }
    if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
        return Err(file.malformed(format!("the header has the column '{name}' twice")));
    }
    let columns = (!names.is_empty()).then(|| Schema::new(to_fields(&kinds)).into());
    Ok(Probe { file, contents, columns, conflicts: Vec::new() })
}

/// Whether a `.json` file holds JSON lines: its first line is a whole object, and either more follow, or it is no
/// object of arrays of rows.
async fn holds_lines(file: &OpenFile) -> Result<bool> {
    let mut lines = file.clone();
    lines.file.format = Format::Jsonl;
    let mut block = Block::new(2, SAMPLE_BYTES, 0, 2);
    RowStream::from_begin(&lines, FIRST_REQUEST, None)?.fill(&mut block).await?;
    let Some(first) = block.records.first() else { return Ok(false) };
    let Ok(Value::Object(members)) = serde_json::from_slice::<Value>(&block.bytes[first.start..first.end]) else {
        return Ok(false);
    };
    let splits =
        members.values().any(|value| value.as_array().is_some_and(|rows| rows.first().is_some_and(Value::is_object)));
    Ok(block.records.len() > 1 || !splits)
}
