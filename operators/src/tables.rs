//! Small tables that operators read whole: queries, and what was learned from a corpus.

use std::io::Cursor;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema};
use arrow_select::concat::concat_batches;
use bytes::Bytes;

use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// Reads a table whole, by the end of its name: `.jsonl` and `.ndjson` (one object a line), `.json` (a list of objects), `.arrow` (an IPC file),
/// `.parquet`; a folder in which a run has finished is read in the order of its output.
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
    let Some((manifest, identity)) = resources.read_if_there(&format!("{folder}/_run/manifest.parquet"))? else {
        return Err(unusable(NO_TABLE.to_owned()));
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

/// Goes through the same tables batch by batch, in order, so that only one file is held at a time. Of Parquet and Arrow files only `columns` are read,
/// those of them that there are; all where none are named.
///
/// # Errors
/// As [`read`] does, and what `take` says.
pub fn each_batch(
    location: &str,
    resources: &Resources,
    columns: Option<&[&str]>,
    take: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
    if let Some(format) = Format::of(location) {
        let (bytes, _) = resources.read(location)?;
        return match format.batches(bytes, columns).map_err(unusable)? {
            Batches::Whole(batch) => take(batch),
            Batches::Each(batches) => {
                batches.into_iter().try_for_each(|batch| take(batch.map_err(|error| unusable(error.to_string()))?))
            }
        };
    }
    let folder = location.trim_end_matches('/');
    let Some((manifest, _)) = resources.read_if_there(&format!("{folder}/_run/manifest.parquet"))? else {
        return Err(unusable(NO_TABLE.to_owned()));
    };
    for part in parts(manifest).map_err(unusable)? {
        each_batch(&format!("{folder}/{part}"), resources, columns, take)?;
    }
    Ok(())
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

const NO_TABLE: &str =
    "a table is a .jsonl, .ndjson, .json, .arrow or .parquet file, or the folder of a run that has finished";

enum Batches {
    Whole(RecordBatch),
    Each(Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>),
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

    fn batches(self, bytes: Bytes, columns: Option<&[&str]>) -> Result<Batches, String> {
        Ok(match self {
            Self::Lines | Self::List => Batches::Whole(self.read(bytes)?),
            Self::Arrow => {
                let named = |schema: &Schema| -> Option<Vec<usize>> {
                    let places =
                        |columns: &[&str]| columns.iter().filter_map(|name| schema.index_of(name).ok()).collect();
                    columns.map(places)
                };
                let open = |places| arrow_ipc::reader::FileReader::try_new(Cursor::new(bytes.clone()), places);
                let whole = open(None).map_err(|error| error.to_string())?;
                match named(&whole.schema()) {
                    None => Batches::Each(Box::new(whole)),
                    places => Batches::Each(Box::new(open(places).map_err(|error| error.to_string())?)),
                }
            }
            Self::Parquet => Batches::Each(parquet_batches(bytes, columns)?),
        })
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

#[cfg(not(feature = "parquet"))]
fn parquet_batches(
    bytes: Bytes,
    _: Option<&[&str]>,
) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>, String> {
    read_parquet(bytes).map(|batch| Box::new(std::iter::once(Ok(batch))) as _)
}

#[cfg(feature = "parquet")]
fn parquet_batches(
    bytes: Bytes,
    columns: Option<&[&str]>,
) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>, String> {
    use parquet::arrow::ProjectionMask;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    let mask = match columns {
        Some(columns) => {
            let roots: Vec<usize> = columns.iter().filter_map(|name| builder.schema().index_of(name).ok()).collect();
            ProjectionMask::roots(builder.parquet_schema(), roots)
        }
        None => ProjectionMask::all(),
    };
    let reader = builder.with_projection(mask).build().map_err(|error| error.to_string())?;
    Ok(Box::new(reader))
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

    #[test]
    #[cfg(feature = "parquet")]
    fn batches_come_in_order_with_the_columns_that_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("q.jsonl"), "{\"id\": \"a\", \"n\": 1}\n{\"id\": \"b\", \"n\": 2}\n").unwrap();
        let resources = Resources::local();
        let (table, _) = read(&at("q.jsonl"), &resources).unwrap();
        let pieces = [table.slice(0, 1), table.slice(1, 1)];
        std::fs::write(at("q.arrow"), write_arrow(&pieces).unwrap()).unwrap();
        let write = |name: &str, batch: &RecordBatch| {
            let file = std::fs::File::create(at(name)).unwrap();
            let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(batch).unwrap();
            writer.close().unwrap();
        };
        write("q.parquet", &table);
        // A run of two parts, of which the one with the higher split is named first.
        std::fs::create_dir_all(folder.path().join("run/_run")).unwrap();
        write("run/0.parquet", &pieces[0]);
        write("run/1.parquet", &pieces[1]);
        let splits = arrow_array::UInt64Array::from(vec![1, 2, 0]);
        let parts = arrow_array::StringArray::from(vec![Some("1.parquet"), None, Some("0.parquet")]);
        let manifest = [("split", Arc::new(splits) as _), ("part", Arc::new(parts) as _)];
        write(
            "run/_run/manifest.parquet",
            &RecordBatch::try_from_iter_with_nullable(manifest.into_iter().map(|(name, array)| (name, array, true)))
                .unwrap(),
        );
        for name in ["q.jsonl", "q.arrow", "q.parquet", "run"] {
            for columns in [None, Some(&["n", "absent"][..])] {
                let mut batches = Vec::new();
                let mut take = |batch| {
                    batches.push(batch);
                    Ok(())
                };
                each_batch(&at(name), &resources, columns, &mut take).unwrap();
                let joined = concat_batches(&batches[0].schema(), &batches).unwrap();
                assert_eq!(&joined["n"], &table["n"], "{name}");
                // Lines are read whole.
                assert_eq!(joined.num_columns(), if columns.is_some() && name != "q.jsonl" { 1 } else { 2 }, "{name}");
            }
        }
        let says = each_batch(&at("none"), &resources, None, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(says.contains("or the folder of a run that has finished"), "{says}");
    }
}
