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

/// The schema of the same tables as [`read`] takes, of which one file is read only. A run without output has no columns.
///
/// # Errors
/// As [`read`] does.
pub fn schema(location: &str, resources: &Resources) -> Result<Arc<Schema>> {
    let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
    if let Some(format) = Format::of(location) {
        let (bytes, _) = resources.read(location)?;
        return format.schema(bytes).map_err(unusable);
    }
    let folder = location.trim_end_matches('/');
    let Some((manifest, _)) = resources.read_if_there(&format!("{folder}/_run/manifest.parquet"))? else {
        return Err(unusable(NO_TABLE.to_owned()));
    };
    match parts(manifest).map_err(unusable)?.first() {
        Some(part) => schema(&format!("{folder}/{part}"), resources),
        None => Ok(Arc::new(Schema::empty())),
    }
}

/// Positions of the columns of a file that are to be read, by its schema; all where there are none.
pub type Columns<'a> = &'a dyn Fn(&Schema) -> Result<Option<Vec<usize>>>;

/// Goes through the same tables as [`read`] batch by batch, in order, so that only one file is held at a time. `columns` is asked for each file.
///
/// # Errors
/// As [`read`] does, and what `columns` and `take` say.
pub fn each_batch(
    location: &str,
    resources: &Resources,
    columns: Columns<'_>,
    take: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
    if let Some(format) = Format::of(location) {
        let (bytes, _) = resources.read(location)?;
        let batches = format.batches(bytes, columns, &unusable)?;
        return batches.into_iter().try_for_each(|batch| take(batch.map_err(|error| unusable(error.to_string()))?));
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

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

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

    fn schema(self, bytes: Bytes) -> Result<Arc<Schema>, String> {
        match self {
            Self::Lines | Self::List => self.read(bytes).map(|batch| batch.schema()),
            Self::Arrow => {
                let reader = arrow_ipc::reader::FileReader::try_new(Cursor::new(bytes), None);
                reader.map(|reader| reader.schema()).map_err(|error| error.to_string())
            }
            Self::Parquet => parquet_schema(bytes),
        }
    }

    fn batches(
        self,
        bytes: Bytes,
        columns: Columns<'_>,
        unusable: &dyn Fn(String) -> OperatorError,
    ) -> Result<Batches> {
        match self {
            Self::Lines | Self::List => {
                let batch = self.read(bytes).map_err(unusable)?;
                let batch = match columns(batch.schema_ref())? {
                    Some(places) => batch.project(&places)?,
                    None => batch,
                };
                Ok(Box::new(std::iter::once(Ok(batch))))
            }
            Self::Arrow => {
                let open = |places| {
                    arrow_ipc::reader::FileReader::try_new(Cursor::new(bytes.clone()), places)
                        .map_err(|error| unusable(error.to_string()))
                };
                let whole = open(None)?;
                match columns(&whole.schema())? {
                    None => Ok(Box::new(whole)),
                    places => Ok(Box::new(open(places)?)),
                }
            }
            Self::Parquet => parquet_batches(bytes, columns, unusable),
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

#[cfg(not(feature = "parquet"))]
fn parquet_schema(bytes: Bytes) -> Result<Arc<Schema>, String> {
    read_parquet(bytes).map(|batch| batch.schema())
}

#[cfg(feature = "parquet")]
fn parquet_schema(bytes: Bytes) -> Result<Arc<Schema>, String> {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    Ok(Arc::clone(builder.schema()))
}

#[cfg(not(feature = "parquet"))]
fn parquet_batches(bytes: Bytes, _: Columns<'_>, unusable: &dyn Fn(String) -> OperatorError) -> Result<Batches> {
    let batch = read_parquet(bytes).map_err(unusable)?;
    Ok(Box::new(std::iter::once(Ok(batch))))
}

#[cfg(feature = "parquet")]
fn parquet_batches(bytes: Bytes, columns: Columns<'_>, unusable: &dyn Fn(String) -> OperatorError) -> Result<Batches> {
    use parquet::arrow::ProjectionMask;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| unusable(error.to_string()))?;
    let mask = match columns(builder.schema())? {
        Some(places) => ProjectionMask::roots(builder.parquet_schema(), places),
        None => ProjectionMask::all(),
    };
    let reader = builder.with_projection(mask).build().map_err(|error| unusable(error.to_string()))?;
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
            assert_eq!(schema(&at(name), &resources).unwrap().fields(), table.schema().fields(), "{name}");
            for some in [false, true] {
                let mut batches = Vec::new();
                let mut take = |batch| {
                    batches.push(batch);
                    Ok(())
                };
                let columns = |schema: &Schema| Ok(some.then(|| vec![schema.index_of("n").unwrap()]));
                each_batch(&at(name), &resources, &columns, &mut take).unwrap();
                let joined = concat_batches(&batches[0].schema(), &batches).unwrap();
                assert_eq!((&joined["n"], joined.num_columns()), (&table["n"], if some { 1 } else { 2 }), "{name}");
                let refused = |_: &Schema| Err(crate::config::invalid("k", "c", "no such column"));
                assert!(each_batch(&at(name), &resources, &refused, &mut |_| Ok(())).is_err());
            }
        }
        let says = each_batch(&at("none"), &resources, &|_| Ok(None), &mut |_| Ok(())).unwrap_err().to_string();
        assert!(says.contains("or the folder of a run that has finished"), "{says}");
    }
}
