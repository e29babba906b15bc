//! A run folder must not lie where the source is looked for: its parts would be rows of the source at the next start, and
//! the run could never be gone on with.

use gristmill_datasets::Format;

use crate::definition::PipelineFile;
use crate::error::Result;
use crate::run::driver::folder_url;

/// Refuses a run folder, given as a URL, that a folder or pattern of the source takes in.
pub(crate) fn check(file: &PipelineFile, run_folder: &str) -> Result<()> {
    let sink = &file.pipeline().sink;
    let extension = sink.part_options().extension();
    for pattern in file.pipeline().source.patterns() {
        let Some(base) = searched(&pattern, extension) else { continue };
        // A location that cannot be written to holds no run folder.
        let Ok(base) = folder_url(&base) else { continue };
        let Some(rest) = run_folder.strip_prefix(&base).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            continue;
        };
        // Folders that are passed over keep the two apart.
        if rest.split('/').any(|name| name.starts_with(['_', '.'])) {
            continue;
        }
        let message = format!(
            "sink: the run folder '{run_folder}' lies where the source '{pattern}' is looked for, so its parts would be read \
             as rows of the source; name a folder elsewhere"
        );
        return Err(file.error(&format!("sink.{}.path", sink.kind()), message).into());
    }
    Ok(())
}

/// The folder in which a pattern finds files at any depth that are named like parts; `None` where it finds no such file.
fn searched(pattern: &str, extension: &str) -> Option<String> {
    let Some(wildcard) = pattern.find(['*', '?', '[', '{']) else {
        return Format::of_name(pattern).is_none().then(|| pattern.to_owned());
    };
    let (_, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let fits = name.ends_with(extension) || !name.contains('.');
    if !pattern.contains("**") || !fits {
        return None;
    }
    match pattern[..wildcard].rsplit_once('/') {
        Some((base, _)) => Some(base.to_owned()),
        None => Some(".".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn run_folders_and_sources_are_kept_apart() {
        for (source, sink, refused) in [
            ("/data/corpus", "/data/corpus", true),
            ("/data/corpus/", "/data/corpus/out", true),
            ("/data/corpus/**", "/data/corpus/deeper/out", true),
            ("/data/**/*.parquet", "/data/corpus/out", true),
            ("s3://bucket/corpus", "s3://bucket/corpus/out", true),
            ("/data/corpus", "/data/corpus-out", false),
            ("/data/corpus", "/data/out", false),
            ("/data/corpus", "/data/corpus/_out", false),
            ("/data/corpus/*.parquet", "/data/corpus/out", false),
            ("/data/corpus/**/*.jsonl", "/data/corpus/out", false),
            ("/data/corpus/a.parquet", "/data/corpus", false),
            ("hf://datasets/org/name", "/data/out", false),
        ] {
            let text = format!("source: {{path: \"{source}\"}}\nsink: {{parquet: {{path: \"{sink}\"}}}}\n");
            let file = PipelineFile::parse("p.yaml", &text, &[] as &[&str]).unwrap();
            let checked = check(&file, &folder_url(sink).unwrap());
            assert_eq!(checked.is_err(), refused, "{source} and {sink}");
            if let Err(error) = checked {
                assert!(error.to_string().starts_with("p.yaml:2:18: sink: the run folder '"), "{error}");
            }
        }
    }
}
