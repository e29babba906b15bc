//! Against ids that the Python package made, on real text. Skipped where the data is absent.

use std::fs::File;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

/// Each tokenizer with the number of tokens of the documents of shard 00001 of at most 200,000 bytes.
const SHARD_TOKENS: [(&str, usize); 11] = [
    ("bert-base-uncased", 4_274_376),
    ("dolma2", 3_914_174),
    ("gpt-neox-olmo-dolma-v1_5", 4_491_631),
    ("gpt2", 5_626_626),
    ("mistral-v1", 4_602_194),
    ("tiny-bpe", 7_338_427),
    ("tiny-llama", 7_801_659),
    ("tiny-modernbert", 7_341_417),
    ("tiny-qwen2", 7_245_391),
    ("tiny-unigram", 4_205_242),
    ("tiny-wordpiece", 5_800_430),
];

/// The folder with the data, or `None` with a printed line.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("GRISTMILL_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no data at {}", folder.display());
    None
}

fn read(path: &Path) -> Vec<RecordBatch> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect()
}

fn texts(path: &Path) -> Vec<String> {
    let column = |batch: &RecordBatch| std::sync::Arc::clone(batch.column_by_name("text").unwrap());
    let owned = |texts: ArrayRef| texts.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect();
    read(path).iter().map(column).flat_map(|texts| -> Vec<String> { owned(texts) }).collect()
}

fn lists(batches: &[RecordBatch], column: &str) -> Vec<Vec<u32>> {
    let columns = batches.iter().map(|batch| batch.column_by_name(column).unwrap().as_list::<i32>());
    columns
        .flat_map(|lists| {
            (0..lists.len())
                .map(|row| lists.value(row).as_primitive::<UInt32Type>().values().to_vec())
                .collect::<Vec<_>>()
        })
        .collect()
}

fn tokenizer(data: &Path, name: &str) -> Tokenizer {
    let path = data.join("tokenizers").join(format!("{name}.json"));
    Tokenizer::load(path.to_str().unwrap(), &Resources::local()).unwrap().0
}

#[test]
fn ids_are_those_of_the_reference() {
    let Some(data) = data() else { return };
    let folder = data.join("reference/tokenization");
    let texts = texts(&folder.join("docs.parquet"));
    assert_eq!(texts.len(), 549);
    for (name, _) in SHARD_TOKENS {
        let tokenizer = tokenizer(&data, name);
        let mut counter = tokenizer.counter();
        let reference = read(&folder.join(format!("{name}.parquet")));
        let (plain, prefix, suffix) =
            (lists(&reference, "ids"), lists(&reference, "special_prefix"), lists(&reference, "special_suffix"));
        assert_eq!(plain.len(), texts.len());
        for (row, text) in texts.iter().enumerate() {
            assert_eq!(encode(&tokenizer, text, false), plain[row], "{name}, row {row}");
            let special = [&prefix[row][..], &plain[row], &suffix[row]].concat();
            assert_eq!(encode(&tokenizer, text, true), special, "{name}, row {row}");
            assert_eq!(counter.count(text, false).unwrap(), plain[row].len(), "{name}, row {row}");
            assert_eq!(counter.count(text, true).unwrap(), special.len(), "{name}, row {row}");
        }
    }
}

#[test]
fn counts_of_a_shard_are_those_of_the_reference() {
    let Some(data) = data() else { return };
    let mut texts = texts(&data.join("corpus/docs-00001-of-00006.parquet"));
    texts.retain(|text| text.len() <= 200_000);
    assert_eq!(texts.len(), 3639);
    for (name, expected) in SHARD_TOKENS {
        let tokenizer = tokenizer(&data, name);
        let mut counter = tokenizer.counter();
        let mut ids = Vec::new();
        let mut total = 0;
        for (row, text) in texts.iter().enumerate() {
            tokenizer.encode(text, false, &mut ids).unwrap();
            assert_eq!(counter.count(text, false).unwrap(), ids.len(), "{name}, row {row}");
            total += ids.len();
        }
        assert_eq!(total, expected, "{name}");
    }
}
