use std::time::Instant;
use arrow_array::cast::AsArray;
use gristmill_operators::tokens::Tokenizer;
use tokenizers::pipeline::{EncodeOptions, Override};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap();
    let mode = args.next().unwrap();
    let files: Vec<String> = args.collect();
    let mut texts: Vec<String> = vec![];
    for f in files {
        for b in ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(f).unwrap()).unwrap().build().unwrap() {
            let b = b.unwrap();
            let c = b.column_by_name("text").unwrap();
            texts.extend(c.as_string::<i32>().iter().map(|t| t.unwrap().to_owned()));
        }
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    let json = std::fs::read(&path).unwrap();
    for round in 0..2 {
        let tokenizer = Tokenizer::from_bytes(&path, &json).unwrap();
        let lib = tokenizers::from_json(&tokenizers::canonicalize_str(std::str::from_utf8(&json).unwrap()).unwrap()).unwrap();
        let mut counter = tokenizer.counter();
        let opts = EncodeOptions { add_special_tokens: false, encode_special_tokens: false, padding: Override::Off, truncation: Override::Off };
        for pass in 0..2 {
            if mode.contains('l') {
                let mut out = vec![]; let mut n = 0;
                let (w, c) = (Instant::now(), cpu());
                for t in &texts { out.clear(); lib.encode_into(t, &opts, &mut out).unwrap(); n += out.len(); }
                let (w, c) = (w.elapsed().as_secs_f64(), cpu() - c);
                println!("{round} pass {pass} library {n} wall {:.1} MB/s cpu {:.1} MB/s", bytes as f64 / 1e6 / w, bytes as f64 / 1e6 / c);
            }
            if mode.contains('e') {
                let mut out = vec![]; let mut n = 0;
                let (w, c) = (Instant::now(), cpu());
                for t in &texts { tokenizer.encode(t, false, &mut out).unwrap(); n += out.len(); }
                let (w, c) = (w.elapsed().as_secs_f64(), cpu() - c);
                println!("{round} pass {pass} encode {n} wall {:.1} MB/s cpu {:.1} MB/s", bytes as f64 / 1e6 / w, bytes as f64 / 1e6 / c);
            }
            if mode.contains('c') {
                let mut n = 0;
                let (w, c) = (Instant::now(), cpu());
                for t in &texts { n += counter.count(t, false).unwrap(); }
                let (w, c) = (w.elapsed().as_secs_f64(), cpu() - c);
                println!("{round} pass {pass} count {n} wall {:.1} MB/s cpu {:.1} MB/s", bytes as f64 / 1e6 / w, bytes as f64 / 1e6 / c);
            }
        }
    }
}
