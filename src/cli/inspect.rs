//! `gristmill inspect`: what files or the output of a run look like.

use gristmill::datasets::run::RunFolder;
use gristmill::pipelines::{Environment, Inspection, PipelineError, inspect as look};

use super::arguments::InspectArguments;
use super::plan::columns;
use super::table::{bytes, count, number, table};
use super::{DONE, print_line};

pub(super) async fn inspect(arguments: InspectArguments, environment: &Environment) -> Result<u8, PipelineError> {
    let Inspection { files, total_files, stored, rows, schema, head, unreadable } =
        match run_folder(&arguments.target, environment).await? {
            Some((folder, url)) => look::run_output(&folder, &url, environment, arguments.rows).await?,
            None => look::files(&arguments.target, environment, arguments.rows).await?,
        };
    for row in &unreadable {
        eprintln!("note: {row}");
    }
    if arguments.json {
        for row in &head {
            print_line(&row.to_string())?;
        }
        return Ok(DONE);
    }
    let known = rows.map_or_else(|| "an unknown number of rows".to_owned(), |rows| number(rows, "row"));
    print_line(&format!("{}, {} stored, {known}", number(total_files, "file"), bytes(stored as f64)))?;
    let listed = files.len().min(5);
    for file in &files[..listed] {
        print_line(&format!("  {} {} {}", file.url, file.format, bytes(file.size as f64)))?;
    }
    let others = total_files.saturating_sub(listed as u64);
    if others > 0 {
        print_line(&format!("  … and {} more", count(others)))?;
    }
    let fields = columns(&schema);
    let text = |field: &serde_json::Value, key: &str| field[key].as_str().unwrap_or_default().to_owned();
    let rows = fields.iter().map(|field| vec![text(field, "name"), text(field, "type")]).collect();
    print_line(&table(&["column", "type"], rows, &[]).to_string())?;
    for row in &head {
        print_line(&shorten(&row.to_string(), 400))?;
    }
    Ok(DONE)
}

/// The run folder that a target is, if it holds a plan.
async fn run_folder(target: &str, environment: &Environment) -> Result<Option<(RunFolder, String)>, PipelineError> {
    if target.contains(['*', '?', '[', '{']) || target.starts_with("hf://") || target.starts_with("http") {
        return Ok(None);
    }
    let url = gristmill::pipelines::run::folder_url(target)?;
    let (store, path) = environment.stores.open(&url)?;
    let folder = RunFolder::new(store, path, url.clone());
    Ok(folder.read_plan().await?.map(|_| (folder, url)))
}

fn shorten(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
