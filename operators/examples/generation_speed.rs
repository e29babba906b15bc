//! How fast a model reads prompts and writes behind them.
//!
//! `generation_speed FOLDER PRECISION BATCH PROMPT NEW [SECONDS]` with f32 or bf16: BATCH prompts of PROMPT tokens each, which differ, and NEW
//! tokens behind each, the likeliest. Prints a JSON object: tokens a second of reading (all prompts, one token behind each), and of writing (all tokens
//! after the first), the best of the passes that fit into SECONDS (10), and the tokens written behind the first prompt. Time is the processor's where the system
//! can tell. One thread.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "../../kernels/examples/shared/processor_time.rs"]
mod processor_time;

use std::time::{Duration, Instant};

use gristmill_kernels::workers::Serial;
use gristmill_operators::Resources;
use gristmill_operators::models::generate::{Generator, Limits, Prompt};
use gristmill_operators::models::{Compute, LoadOptions, Model, Precision};
use gristmill_operators::tokens::Tokenizer;
use processor_time::now;
use serde_json::json;

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// Any tokenizer: its time is little beside the model's.
const TOKENIZER: &[u8] =
    br#"{"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
    "pre_tokenizer": null, "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let precision = if arguments[2] == "bf16" { Precision::Bf16 } else { Precision::F32 };
    let [batch, prompt, new] = [3, 4, 5].map(|place| arguments[place].parse::<usize>().unwrap());
    let limit = Duration::from_secs_f64(arguments.get(6).map_or(10.0, |seconds| seconds.parse().unwrap()));
    let model =
        Model::load(&arguments[1], &Resources::local(), LoadOptions { precision, ..LoadOptions::default() }).unwrap().0;
    let tokenizer = Tokenizer::from_bytes("of this program", TOKENIZER).unwrap();
    let generator = Generator::new(&model, &tokenizer, &[], Limits::default()).unwrap();
    let ids = |number: usize| -> Vec<u32> {
        let first = 100 + number as u64;
        (0..prompt as u64)
            .map(|i| ((first + 31 * i * i + 7 * i) % (model.vocabulary() as u64 - 10) + 5) as u32)
            .collect()
    };
    let prompts = |most: usize| -> Vec<Prompt> { (0..batch).map(|number| Prompt::greedy(ids(number), most)).collect() };
    let (short, long) = (prompts(1), prompts(new));
    let time = |prompts: &[Prompt]| {
        let begun = now();
        let written = generator.write(ALONE, prompts, |_, _| {}).unwrap();
        let ids = written.into_iter().next().unwrap().unwrap().ids;
        (now().saturating_sub(begun).as_secs_f64(), ids)
    };
    let (begun, mut reading, mut writing) = (Instant::now(), f64::INFINITY, f64::INFINITY);
    let mut first = Vec::new();
    while writing.is_infinite() || begun.elapsed() < limit {
        let read = time(&short).0;
        reading = reading.min(read);
        let (whole, ids) = time(&long);
        writing = writing.min(whole - read);
        first = ids;
    }
    let read = (batch * prompt) as f64 / reading;
    let written = (batch * (new - 1)) as f64 / writing;
    println!("{}", json!({"read_per_second": read, "written_per_second": written, "first": first}));
}
