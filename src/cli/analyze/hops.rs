//! `gristmill analyze hops`.

use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use gristmill::operators::Resources;
use gristmill::operators::analysis::{HopsForm, HopsRanking, columns};

use super::arguments::HopsArguments;
use super::input::{each, names};
use super::results::unwritable;
use super::{Done, Failure, of, wrong};
use crate::cli::print_line;
use crate::cli::table::number;

pub(super) fn hops(arguments: HopsArguments, resources: &Resources) -> Done {
    let HopsArguments { run, by, output, kind, queries, function, index } = arguments;
    let kind = kind.as_deref().unwrap_or_else(|| suggested_kind(&by));
    let functions = queries.as_ref().map(|queries| names(queries, &function, resources)).transpose()?;
    let beside = |ending: &str| {
        let mut name = output.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (spool_at, part) = (Removed(beside(".spool")), Removed(beside(".part")));
    let spool = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&spool_at.0);
    let mut spool = Some(spool.map_err(|error| unwritable(&spool_at.0, &error))?);
    let mut ranking: Option<HopsRanking<File>> = None;
    each(&run, resources, |batch, _| {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if let Some(spool) = spool.take() {
            let queries = columns::query_names(batch, &by)?;
            let form = HopsForm::new(kind, functions.as_ref().unwrap_or(&queries))?;
            ranking = Some(HopsRanking::new(form, spool));
        }
        match &mut ranking {
            Some(ranking) => ranking.add(batch, &by, index.as_deref()),
            None => Ok(()),
        }
    })?;
    let Some(ranking) = ranking else { return Err(wrong(&run, "there are no rows")) };
    let mut file = BufWriter::new(File::create(&part.0).map_err(|error| unwritable(&part.0, &error))?);
    let rows = ranking.finish(&mut file).map_err(|error| of(&output.display().to_string(), &error))?;
    put_in_place(&part.0, &output)?;
    print_line(&format!("{}: {}", output.display(), number(rows, "row")))?;
    Ok(())
}

/// A ranking is there whole or not at all.
fn put_in_place(part: &Path, output: &Path) -> Result<(), Failure> {
    std::fs::rename(part, output).map_err(|error| unwritable(output, &error))
}

/// The word that the name of a column of scores suggests.
fn suggested_kind(by: &str) -> &'static str {
    let name = by.to_lowercase();
    if name.contains("bm25") {
        "bm25"
    } else if name.contains("cosine") || name.contains("similarity") {
        "similarity"
    } else {
        "influence"
    }
}

/// A file that is gone in the end, whatever happens. One that was put in its place is not there under this name any more.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
