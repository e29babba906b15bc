//! Real corpora, where the data folder is there.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rstest::rstest;

use super::support::{Rows, options};
use crate::{Format, OpenFile, ReadOptions, SourceFile, plan, read_split};
use futures::TryStreamExt;

fn data() -> Option<PathBuf> {
    let default = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("GRISTMILL_DATA").map_or(default, PathBuf::from);
    let found = folder.canonicalize().ok().filter(|folder| folder.is_dir());
    if found.is_none() {
        println!("skipped: no data folder; GRISTMILL_DATA names it");
    }
    found
}

async fn open(folder: &FilePath, name: &str) -> OpenFile {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap());
    let path = Path::from(name);
    let meta = store.head(&path).await.unwrap();
    let (format, compression) = Format::of_name(name).unwrap();
    let file = SourceFile {
        url: format!("file:///{name}"),
        size: meta.size,
        etag: meta.e_tag,
        version: None,
        modified_ms: Some(meta.last_modified.timestamp_millis()),
        format,
        compression,
    };
    OpenFile::new(store, path, file)
}

async fn read(files: Vec<OpenFile>, options: &ReadOptions) -> (usize, Rows) {
    let plan = plan(files.clone(), options).await.unwrap();
    let mut chunks = Vec::new();
    for split in &plan.splits {
        let mut file = files[split.file as usize].clone();
        file.file = plan.files[split.file as usize].clone();
        chunks
            .extend(read_split(file, split, Arc::clone(&plan.schema), options).try_collect::<Vec<_>>().await.unwrap());
    }
    (plan.splits.len(), Rows::of(chunks))
}

#[rstest]
#[case("64MB", 6)]
#[case("1MB", 12)]
#[case("1000 rows", 24)]
#[tokio::test]
async fn the_corpus_has_all_its_rows(#[case] size: &str, #[case] splits: usize) {
    let Some(folder) = data() else { return };
    let mut files = Vec::new();
    for number in 0..6 {
        files.push(open(&folder, &format!("corpus/docs-0000{number}-of-00006.parquet")).await);
    }
    let (count, rows) = read(files, &options(size)).await;
    assert_eq!(rows.count(), 21842);
    assert_eq!(rows.unreadable, []);
    let mut ids = rows.column("id");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 21842);
    assert_eq!(count, splits);
}

#[rstest]
#[case("corpus/sample.jsonl", "text", 1000)]
#[case("instruct/gsm8k_train.jsonl", "question", 7473)]
#[case("instruct/HumanEval.jsonl.gz", "prompt", 164)]
#[case("instruct/codegen_instruct.json", "instruction", 4535)]
#[case("eval/bbh/penguins_in_a_table.json", "input", 146)]
#[tokio::test]
async fn text_files_have_all_their_rows(#[case] name: &str, #[case] text: &str, #[case] rows: usize) {
    let Some(folder) = data() else { return };
    for size in ["64MB", "100KB", "50 rows", "0.03"] {
        let options = ReadOptions { text: text.into(), ..options(size) };
        let (_, read) = read(vec![open(&folder, name).await], &options).await;
        assert_eq!((read.count(), &read.unreadable[..]), (rows, &[][..]), "{name} {size}");
    }
}
