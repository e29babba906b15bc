//! From files to splits: what is in the files, one schema for all of them, and where to cut.
//!
//! Planning reads as little as it can: the footers of Parquet and Arrow files, the begin of the first text files for their
//! schema. It reads text files through when the number of their rows is needed, that is when splits are windows of rows, when rows are
//! skipped or limited, when the `id` column has to be filled, or with `provenance`; and CSV files that are larger than a split, because
//! only reading from the begin tells a line end between rows from one in quotes. With a limit nothing is read behind the rows that are wanted.

pub(crate) mod cut;
pub(crate) mod index;
mod infer;
mod probe;
mod schema;

use arrow_schema::SchemaRef;
use futures::stream::{StreamExt, TryStreamExt, iter};

use self::cut::{Contents, cut};
use self::index::count;
use self::probe::{Probe, probe};
use crate::error::{DatasetError, Result};
use crate::formats::{OpenFile, ReadOptions, SplitSize};
use crate::split::{Format, SourcePlan};

/// Files that are looked at together.
const CONCURRENT: usize = 16;
/// Files that are looked at ahead when a limit may make the rest needless.
const CONCURRENT_LIMITED: usize = 2;
/// Files that are read through together.
const COUNTED: usize = 4;

/// Resolves files to splits and a schema.
///
/// Splits follow the order of the files and, within, of the rows; every row that `skip` and `limit` leave is in exactly one of them.
/// Positions (`skip`, `limit`, `first_row`) count unreadable rows like others, and empty lines not at all. The files of the plan can be fewer than
/// those given when the limit ends before them, and a `.json` file that holds JSON lines becomes [`Format::Jsonl`].
///
/// # Errors
/// [`DatasetError::MissingColumn`] for `text`, and for `columns` that no file has; [`DatasetError::Setting`] for a wrong setting and for a `text`
/// column that holds no strings; [`DatasetError::Malformed`] naming file and column when files do not fit together, and for damaged files.
///
/// ```
/// # use std::sync::Arc;
/// # use gristmill_datasets::*;
/// # use object_store::{memory::InMemory, path::Path, ObjectStore, ObjectStoreExt};
/// # use futures::TryStreamExt;
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
/// let path = Path::from("a.jsonl");
/// let lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
/// store.put(&path, lines.into()).await?;
/// let file = SourceFile {
///     url: "memory:///a.jsonl".into(), size: lines.len() as u64, etag: None, version: None, modified_ms: None,
///     format: Format::Jsonl, compression: Compression::None,
/// };
/// let open = OpenFile::new(store, path, file);
///
/// let options = ReadOptions { split_size: "1 rows".parse()?, ..ReadOptions::default() };
/// let plan = plan(vec![open.clone()], &options).await?;
/// assert_eq!(plan.splits.len(), 2);
/// let chunks: Vec<Chunk> = read_split(open, &plan.splits[1], plan.schema.clone(), &options).try_collect().await?;
/// assert!(matches!(&chunks[..], [Chunk::Rows(batch)] if batch.num_rows() == 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn plan(files: Vec<OpenFile>, options: &ReadOptions) -> Result<SourcePlan> {
    options.validate()?;
    if u32::try_from(files.len()).is_err() {
        return Err(DatasetError::Setting {
            key: "path".into(),
            message: format!("{} files are too many", files.len()),
        });
    }
    let mut probes = look_at(files, options).await?;
    let schema = schema::unify(&probes, options)?;
    let fills_id =
        schema.fields().iter().any(|field| field.name() == &options.id && crate::formats::is_filled_id(field));
    count_where_needed(&mut probes, options, fills_id).await?;
    let contents: Vec<Contents> = probes.iter().map(|probe| probe.contents.clone()).collect();
    let splits = cut(&contents, options);
    let files = probes.into_iter().map(|probe| probe.file.file).collect();
    Ok(SourcePlan { files, splits, schema })
}

/// The schema that [`plan`] would give, without counting rows or cutting splits.
///
/// # Errors
/// As [`plan`].
pub async fn source_schema(files: Vec<OpenFile>, options: &ReadOptions) -> Result<SchemaRef> {
    options.validate()?;
    let options = ReadOptions { skip: 0, limit: None, ..options.clone() };
    schema::unify(&look_at(files, &options).await?, &options)
}

/// Looks at the files in order, and no further than the limit.
async fn look_at(files: Vec<OpenFile>, options: &ReadOptions) -> Result<Vec<Probe>> {
    let concurrent = if options.limit.is_some() { CONCURRENT_LIMITED } else { CONCURRENT };
    let wanted = options.limit.map(|limit| options.skip.saturating_add(limit));
    let mut found =
        iter(files.into_iter().enumerate()).map(|(number, file)| probe(number, file, options)).buffered(concurrent);
    let (mut probes, mut rows) = (Vec::new(), 0_u64);
    while let Some(mut probe) = found.try_next().await? {
        if let Some(wanted) = wanted {
            if probe.contents.rows().is_none() {
                probe.contents = count(&probe.file, probe.contents, options, wanted.saturating_sub(rows)).await?;
            }
            rows = rows.saturating_add(probe.contents.rows().unwrap_or(0));
        }
        probes.push(probe);
        if wanted.is_some_and(|wanted| rows >= wanted) {
            break;
        }
    }
    Ok(probes)
}

async fn count_where_needed(probes: &mut [Probe], options: &ReadOptions, fills_id: bool) -> Result<()> {
    let rows_matter = !matches!(options.split_size, SplitSize::Bytes(_))
        || options.skip > 0
        || options.limit.is_some()
        || options.provenance
        || fills_id;
    let places: Vec<usize> = probes
        .iter()
        .enumerate()
        .filter(|(_, probe)| probe.contents.rows().is_none() && (rows_matter || must_be_cut_by_reading(probe, options)))
        .map(|(place, _)| place)
        .collect();
    let tasks: Vec<_> = places
        .iter()
        .map(|place| (probes[*place].file.clone(), probes[*place].contents.clone(), options.clone()))
        .collect();
    let counted: Vec<Contents> = iter(tasks)
        .map(|(file, contents, options)| {
            let location = file.file.url.clone();
            let task = tokio::spawn(async move { count(&file, contents, &options, u64::MAX).await });
            async move {
                task.await
                    .map_err(|error| DatasetError::Transient { location, message: format!("counting rows: {error}") })?
            }
        })
        .buffered(COUNTED)
        .try_collect()
        .await?;
    for (place, contents) in places.into_iter().zip(counted) {
        probes[place].contents = contents;
    }
    Ok(())
}

/// Whether only reading from the begin shows where this file can be cut.
fn must_be_cut_by_reading(probe: &Probe, options: &ReadOptions) -> bool {
    let quoted = matches!(probe.file.file.format, Format::Csv | Format::Tsv);
    let larger = matches!(options.split_size, SplitSize::Bytes(size) if probe.file.file.size > size);
    quoted && larger && matches!(probe.contents, Contents::Text { .. })
}
