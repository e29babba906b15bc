//! `count_tokens` and `tokenize` against the tokenizer library called directly, on corpus text.
//!
//! `cargo bench -p gristmill-operators --bench tokens`. The data is found through `GRISTMILL_DATA`, by default
//! `../shared/data` beside the workspace; without it nothing is measured.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use gristmill_operators::tokens::Tokenizer;
use gristmill_operators::{OperatorSpec, Registry, Resources, apply};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokenizers::pipeline::{EncodeOptions, Override};

const TOKENIZERS: [&str; 4] = ["gpt-neox-olmo-dolma-v1_5", "dolma2", "mistral-v1", "bert-base-uncased"];

fn data() -> PathBuf {
    std::env::var_os("GRISTMILL_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from)
}

fn corpus(data: &Path) -> Option<Vec<RecordBatch>> {
    let file = File::open(data.join("corpus/docs-00001-of-00006.parquet")).ok()?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).ok()?.build().ok()?;
    reader.map(|batch| batch.ok()?.project(&[1]).ok()).collect()
}

fn tokens(criterion: &mut Criterion) {
    let data = data();
    let Some(batches) = corpus(&data) else {
        println!("skipped: no data at {}", data.display());
        return;
    };
    let columns: Vec<_> = batches.iter().map(|batch| batch.column(0).as_string::<i32>()).collect();
    let texts: Vec<&str> = columns.iter().flat_map(|column| column.iter().flatten()).collect();
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    for name in TOKENIZERS {
        let path = data.join("tokenizers").join(format!("{name}.json"));
        let (Some(location), Ok(json)) = (path.to_str(), std::fs::read_to_string(&path)) else {
            println!("skipped: no tokenizer at {}", path.display());
            continue;
        };
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Bytes(bytes as u64));

        let Ok(library) = tokenizers::canonicalize_str(&json)
            .map_err(drop)
            .and_then(|json| tokenizers::from_json(&json).map_err(drop))
        else {
            println!("skipped: {} cannot be read", path.display());
            continue;
        };
        let options = EncodeOptions {
            add_special_tokens: false,
            encode_special_tokens: false,
            padding: Override::Off,
            truncation: Override::Off,
        };
        group.bench_function("library, encode_into", |bencher| {
            let mut ids = Vec::new();
            bencher.iter(|| {
                texts.iter().fold(0, |count, text| {
                    ids.clear();
                    library.encode_into(text, &options, &mut ids).map_or(0, |()| count + ids.len())
                })
            });
        });

        let Ok((tokenizer, _)) = Tokenizer::load(location, &Resources::local()) else { continue };
        group.bench_function("counter, new", |bencher| {
            bencher.iter(|| {
                let mut counter = tokenizer.counter();
                texts.iter().map(|text| counter.count(text, false).unwrap_or(0)).sum::<usize>()
            });
        });
        for (kind, config) in [
            ("count_tokens", serde_json::json!({"tokenizer": location})),
            ("tokenize", serde_json::json!({"tokenizer": location, "special_tokens": false})),
        ] {
            let spec = OperatorSpec::new(kind, config);
            let Ok(operator) = Registry::standard().bind(&spec, &batches[0].schema(), &Resources::local()) else {
                continue;
            };
            group.bench_function(kind, |bencher| {
                bencher.iter(|| apply(operator.as_ref(), batches.iter().cloned()).map(|output| output.rows()));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, tokens);
criterion_main!(benches);
