//! Writing what analyses find: a JSON file, plots, and a table or JSON on the terminal.

use std::path::Path;

use gristmill::datasets::DatasetError;
use serde::Serialize;

use super::Failure;
use super::arguments::Results;
use crate::cli::{print_json, print_line};

/// What a table is called: the name of the file without its ending, or that of the folder.
pub(super) fn stem(location: &str) -> String {
    let path = location.split(['?', '#']).next().unwrap_or(location).trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
}

impl Results {
    /// Writes `<name>.json` and the plots, each under its own name, and prints what was found: the lines of `text`, or the JSON.
    pub(super) fn give<T: Serialize>(
        &self,
        name: &str,
        found: &T,
        text: impl FnOnce() -> Vec<String>,
        plots: impl FnOnce() -> Vec<(String, String)>,
    ) -> Result<(), Failure> {
        let mut json = serde_json::to_vec_pretty(found)
            .map_err(|error| Failure::Input(format!("the result cannot be written as JSON: {error}")))?;
        json.push(b'\n');
        let mut written = vec![(format!("{name}.json"), json)];
        if self.plots {
            written.extend(plots().into_iter().map(|(plot, svg)| (format!("{name}_{plot}.svg"), svg.into_bytes())));
        }
        std::fs::create_dir_all(&self.output_dir).map_err(|error| unwritable(&self.output_dir, &error))?;
        let mut paths = Vec::new();
        for (file, content) in written {
            let path = self.output_dir.join(file);
            std::fs::write(&path, content).map_err(|error| unwritable(&path, &error))?;
            paths.push(path);
        }
        if self.json {
            return Ok(print_json(found)?);
        }
        for line in text() {
            print_line(&line)?;
        }
        for path in paths {
            print_line(&format!("wrote {}", path.display()))?;
        }
        Ok(())
    }
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Output(DatasetError::Store { location: path.display().to_string(), message: error.to_string() }.into())
}

/// A number of a result, with four places; nothing where there is none.
pub(super) fn shown(value: impl Into<Option<f64>>) -> String {
    match value.into() {
        Some(value) if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) => format!("{value:.3e}"),
        Some(value) => format!("{value:.4}"),
        None => "-".to_owned(),
    }
}
