//! Counts and tokenizes a whole corpus with every tokenizer, checks that each count is the number of ids, and prints how
//! fast both were.
//!
//! usage: `corpus_tokens DATA [OUT]`. DATA is a folder with `corpus/docs-*.parquet` (column `text`) and
//! `tokenizers/*.json`. With OUT, the ids go to `OUT/<tokenizer>.parquet`, for `benches/peers/tokens_peer.py --ours OUT`.
//! Exits with an error at the first count that is wrong.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use gristmill_operators::{OperatorSpec, Output, Registry, Resources};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let data = arguments.next().ok_or("usage: corpus_tokens DATA [OUT]")?;
    let out = arguments.next();
    let batches = corpus(&data)?;
    let bytes: usize = batches.iter().map(|batch| batch.column(0).as_string::<i32>().value_data().len()).sum();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    println!("{rows} texts, {:.1} MB", bytes as f64 / 1e6);
    for tokenizer in files(&data.join("tokenizers"), ".json")? {
        let name = tokenizer.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (counts, first, again) = counted(&tokenizer, &batches)?;
        let (ids, tokenized) = tokenized(&tokenizer, &batches)?;
        compare(&counts, &ids)?;
        let rate = |seconds: f64| bytes as f64 / 1e6 / seconds;
        println!(
            "{name:28} count {:6.1} MB/s, again {:6.1} MB/s, tokenize {:6.1} MB/s",
            rate(first),
            rate(again),
            rate(tokenized)
        );
        if let Some(out) = &out {
            write(&out.join(format!("{name}.parquet")), &ids)?;
        }
    }
    Ok(())
}

/// The texts of the corpus, in the order of its files.
fn corpus(data: &Path) -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    let mut batches = Vec::new();
    for file in files(&data.join("corpus"), ".parquet")? {
        for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?.build()? {
            let batch = batch?;
            batches.push(batch.project(&[batch.schema().index_of("text")?])?);
        }
    }
    Ok(batches)
}

fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn run(
    kind: &str,
    config: serde_json::Value,
    batches: &[RecordBatch],
    passes: usize,
) -> Result<(Output, Vec<f64>), Box<dyn Error>> {
    let spec = OperatorSpec::new(kind, config).named("ids");
    let operator = Registry::standard().bind(&spec, &batches[0].schema(), &Resources::local())?;
    let (mut output, mut seconds) = (Output::default(), Vec::new());
    for _ in 0..passes {
        let start = Instant::now();
        output = gristmill_operators::apply(operator.as_ref(), batches.iter().cloned())?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok((output, seconds))
}

fn counted(tokenizer: &Path, batches: &[RecordBatch]) -> Result<(Output, f64, f64), Box<dyn Error>> {
    let (output, seconds) = run("count_tokens", serde_json::json!({"tokenizer": tokenizer}), batches, 2)?;
    Ok((output, seconds[0], seconds[1]))
}

fn tokenized(tokenizer: &Path, batches: &[RecordBatch]) -> Result<(Output, f64), Box<dyn Error>> {
    let config = serde_json::json!({"tokenizer": tokenizer, "special_tokens": false});
    let (output, seconds) = run("tokenize", config, batches, 1)?;
    Ok((output, seconds[0]))
}

fn compare(counts: &Output, ids: &Output) -> Result<(), Box<dyn Error>> {
    for (counts, ids) in counts.batches.iter().zip(&ids.batches) {
        let (counts, ids) = (counts.column(1).as_primitive::<UInt32Type>(), ids.column(1).as_list::<i32>());
        for row in 0..counts.len() {
            if counts.value(row) as usize != ids.value_length(row) as usize {
                return Err(format!("row {row}: {} counted, {} ids", counts.value(row), ids.value_length(row)).into());
            }
        }
    }
    Ok(())
}

fn write(path: &Path, output: &Output) -> Result<(), Box<dyn Error>> {
    let first = output.batches.first().ok_or("no rows")?.project(&[1])?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, first.schema(), None)?;
    for batch in &output.batches {
        writer.write(&batch.project(&[1])?)?;
    }
    writer.close()?;
    Ok(())
}
