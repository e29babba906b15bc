//! Small tables that operators read whole: queries, and what was learned from a corpus.

use std::io::Cursor;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema};
use arrow_select::concat::concat_batches;
use bytes::Bytes;

use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// Reads a table whole, by the end of its name: `.jsonl` and `.ndjson` (one object a line), `.json` (a list of objects), `.arrow` (an IPC file),
/// `.parquet`; a folder in which a run has finished is read in the order of its output, or stands for its ranking.
///
/// # Errors
/// Locations that cannot be read, other formats, and content that is not what the name says.
pub fn read(location: &str, resources: &Resources) -> Result<(RecordBatch, Vec<ResourceIdentity>)> {
    let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
    if let Some(format) = Format::of(location) {
        let (bytes, identity) = resources.read(location)?;
        let table = format.read(bytes).map_err(unusable)?;
        return Ok((table, vec![identity]));
    }
    let folder = location.trim_end_matches('/');
    // Of a run that ranks, the ranking is what its parts were for.
    if let Some((summary, _)) = resources.read_if_there(&format!("{folder}/_run/ranking.json"))? {
        let summary: serde_json::Value =
            serde_json::from_slice(&summary).map_err(|error| unusable(error.to_string()))?;
        let ranking = summary["path"].as_str().filter(|path| Format::of(path).is_some());
        let ranking = ranking.ok_or_else(|| unusable("its _run/ranking.json names no ranking".to_owned()))?;
        return read(&format!("{folder}/{ranking}"), resources);
    }
    let Some((manifest, identity)) = resources.read_if_there(&format!("{folder}/_run/manifest.parquet"))? else {
        return Err(unusable(
            "a table is a .jsonl, .ndjson, .json, .arrow or .parquet file, or the folder of a run that has finished"
                .to_owned(),
        ));
    };
    let mut identities = vec![identity];
    let mut tables = Vec::new();
    for part in parts(manifest).map_err(unusable)? {
        let (table, identity) = read(&format!("{folder}/{part}"), resources)?;
        identities.extend(identity);
        tables.push(table);
    }
    let schema = tables.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    Ok((concat_batches(&schema, &tables).map_err(|error| unusable(error.to_string()))?, identities))
}

/// Reads the batches of an Arrow IPC file.
///
/// # Errors
/// Bytes that are no such file; the location is for the message.
pub fn read_arrow(location: &str, bytes: Bytes) -> Result<Vec<RecordBatch>> {
    let unusable =
        |error: ArrowError| OperatorError::Resource { location: location.to_owned(), message: error.to_string() };
    let reader = arrow_ipc::reader::FileReader::try_new(Cursor::new(bytes), None).map_err(unusable)?;
    reader.collect::<Result<_, ArrowError>>().map_err(unusable)
}

/// The bytes of an Arrow IPC file with these batches, which have one schema.
///
/// # Errors
/// No batch, or batches of several schemas.
pub fn write_arrow(batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    let mut writer = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &schema)?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    Ok(writer.into_inner()?)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Lines,
    List,
    Arrow,
    Parquet,
}

impl Format {
    fn of(location: &str) -> Option<Self> {
        let path = location.split('?').next().unwrap_or(location);
        let name = path.rsplit('/').next().unwrap_or(path);
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Lines),
            "json" => Some(Self::List),
            "arrow" => Some(Self::Arrow),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    fn read(self, bytes: Bytes) -> Result<RecordBatch, String> {
        match self {
            Self::Lines => read_json(&bytes),
            Self::List => {
                let rows: Vec<serde_json::Value> = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
                let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
                read_json(lines.join("\n").as_bytes())
            }
            Self::Arrow => {
                let reader = arrow_ipc::reader::FileReader::try_new(Cursor::new(bytes), None);
                let reader = reader.map_err(|error| error.to_string())?;
                let schema = reader.schema();
                let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
                concat_batches(&schema, &batches).map_err(|error| error.to_string())
            }
            Self::Parquet => read_parquet(bytes),
        }
    }
}

fn read_json(bytes: &[u8]) -> Result<RecordBatch, String> {
    let (schema, rows) =
        arrow_json::reader::infer_json_schema(Cursor::new(bytes), None).map_err(|error| error.to_string())?;
    let schema = Arc::new(schema);
    let reader =
        arrow_json::ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(rows.max(1)).build(Cursor::new(bytes));
    let batches = reader.map_err(|error| error.to_string())?.collect::<Result<Vec<_>, _>>();
    concat_batches(&schema, &batches.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(_: Bytes) -> Result<RecordBatch, String> {
    Err("this program was built without the feature 'parquet'; give the table as .jsonl or .arrow".to_owned())
}

#[cfg(feature = "parquet")]
fn read_parquet(bytes: Bytes) -> Result<RecordBatch, String> {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    let schema = Arc::clone(builder.schema());
    let reader = builder.build().map_err(|error| error.to_string())?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    concat_batches(&schema, &batches).map_err(|error| error.to_string())
}

/// The parts that a manifest names, in the order of the output.
fn parts(manifest: Bytes) -> Result<Vec<String>, String> {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;

    let table = read_parquet(manifest)?;
    let column = |name: &str| table.column_by_name(name).ok_or_else(|| format!("its manifest has no column '{name}'"));
    let splits = column("split")?;
    let splits = splits.as_primitive_opt::<UInt64Type>().ok_or("column 'split' of its manifest is not UInt64")?;
    let names = column("part")?;
    let name = |row: usize| match (names.as_string_opt::<i32>(), names.as_string_view_opt()) {
        (Some(names), _) if names.is_valid(row) => Some(names.value(row).to_owned()),
        (_, Some(names)) if names.is_valid(row) => Some(names.value(row).to_owned()),
        _ => None,
    };
    let mut parts: Vec<(u64, String)> =
        (0..table.num_rows()).filter_map(|row| Some((splits.value(row), name(row)?))).collect();
    parts.sort_unstable();
    Ok(parts.into_iter().map(|(_, part)| part).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow_array::cast::AsArray;

    use super::*;

    #[test]
    fn formats_give_the_same_table() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let resources = Resources::local();
        std::fs::write(at("q.jsonl"), "{\"id\": \"a\", \"n\": 1}\n{\"id\": \"b\"}\n").unwrap();
        std::fs::write(at("q.json"), "[{\"id\": \"a\", \"n\": 1}, {\"id\": \"b\"}]").unwrap();
        let (table, identities) = read(&at("q.jsonl"), &resources).unwrap();
        assert_eq!((table.num_rows(), identities.len()), (2, 1));
        assert_eq!(table["id"].as_string::<i32>().value(1), "b");
        assert_eq!(read(&at("q.json"), &resources).unwrap().0, table);
        std::fs::write(at("q.arrow"), write_arrow(std::slice::from_ref(&table)).unwrap()).unwrap();
        assert_eq!(read(&at("q.arrow"), &resources).unwrap().0, table);
        std::fs::create_dir_all(folder.path().join("ranked/_run")).unwrap();
        std::fs::write(at("ranked/_run/ranking.json"), "{\"path\": \"ranking.jsonl\"}").unwrap();
        std::fs::copy(at("q.jsonl"), at("ranked/ranking.jsonl")).unwrap();
        assert_eq!(read(&at("ranked/"), &resources).unwrap().0, table);
        for (name, content, says) in [
            ("bad.jsonl", "{\"id\": ", "bad.jsonl"),
            ("bad.json", "{}", "bad.json"),
            ("bad.arrow", "no", "bad.arrow"),
            ("bad.parquet", "no", "bad.parquet"),
            ("bad.txt", "no", "a table is a .jsonl"),
        ] {
            std::fs::write(at(name), content).unwrap();
            let message = read(&at(name), &resources).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
