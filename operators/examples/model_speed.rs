//! Runs a model over token ids on request, so that another program can take turns with it.
//!
//! `model_speed FOLDER PRECISION [ADAPTER]` with f32, bf16, nf4 or nf4_bf16. Reads a JSON object a line,
//! `{"documents": [[101, 2023, 102], …], "budget": 4096, "seconds": 1.0, "pool": "mean"}`, sorts the documents by length, packs them in batches of so many tokens, runs
//! them, and answers with `{"seconds": 0.5, "rows": [[…], …]}`: the shortest time of the passes over all documents that fitted, at least one, and for each
//! document in the order given its pooled hidden state (`"mean"` or `"first"`), a classifier's logits (`"classify"`), or a language model's logits
//! of all tokens (`"logits"`). Time is the processor's
//! where the system can tell. One thread.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

#[path = "../../kernels/examples/shared/processor_time.rs"]
mod processor_time;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use gristmill_kernels::pool::Pool;
use gristmill_kernels::workers::Serial;
use gristmill_operators::Resources;
use gristmill_operators::models::{AdapterOptions, Apply, Batch, Compute, LoadOptions, Model, Precision};
use processor_time::now;
use serde_json::{Value, json};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (precision, four_bits) = match arguments[2].as_str() {
        "f32" => (Precision::F32, false),
        "bf16" => (Precision::Bf16, false),
        "nf4" => (Precision::F32, true),
        "nf4_bf16" => (Precision::Bf16, true),
        other => panic!("{other}: f32, bf16, nf4 and nf4_bf16 are allowed"),
    };
    let apply = if four_bits { Apply::Beside } else { Apply::Merged };
    let adapter = arguments.get(3).map(|location| AdapterOptions { location, apply });
    let options = LoadOptions { precision, four_bits, ..LoadOptions::default() };
    let model = Model::load_adapted(&arguments[1], adapter, &Resources::local(), options).unwrap().0;
    eprintln!("{} bytes of weights of layers", model.layers_memory());
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let documents: Vec<Vec<u32>> = serde_json::from_value(request["documents"].clone()).unwrap();
        let budget = usize::try_from(request["budget"].as_u64().unwrap()).unwrap();
        let limit = Duration::from_secs_f64(request["seconds"].as_f64().unwrap());
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_by_key(|&document| documents[document].len());
        let pool = request["pool"].as_str().unwrap();
        let (begun, mut shortest, mut rows) = (Instant::now(), f64::INFINITY, Vec::new());
        while shortest.is_infinite() || begun.elapsed() < limit {
            let turn = now();
            rows = pass(&model, &documents, &order, budget, pool);
            shortest = shortest.min(now().saturating_sub(turn).as_secs_f64());
        }
        println!("{}", json!({"seconds": shortest, "rows": rows}));
        std::io::stdout().flush().unwrap();
    }
}

fn pass(model: &Model, documents: &[Vec<u32>], order: &[usize], budget: usize, pool: &str) -> Vec<Vec<f32>> {
    let mut rows = vec![Vec::new(); documents.len()];
    let mut next = 0;
    while next < order.len() {
        let (first, mut batch) = (next, Batch::default());
        while next < order.len() && (next == first || batch.tokens() + documents[order[next]].len() <= budget) {
            batch.push(&documents[order[next]]);
            next += 1;
        }
        if pool == "logits" {
            let logits = model.logits(ALONE, &batch).unwrap().unwrap();
            for (range, &document) in batch.offsets().windows(2).zip(&order[first..next]) {
                let [start, end] = [range[0], range[1]].map(|row| usize::try_from(row).unwrap() * model.vocabulary());
                rows[document] = logits[start..end].to_vec();
            }
            continue;
        }
        let (values, width) = if pool == "classify" {
            (model.classify(ALONE, &batch).unwrap().unwrap(), model.labels().unwrap().len())
        } else {
            let states = model.hidden_states(ALONE, &batch).unwrap();
            let width = model.hidden_size();
            let mut pooled = vec![0.0; batch.documents() * width];
            let pool = if pool == "mean" { Pool::Mean } else { Pool::First };
            pool.forward(&Serial, width, &states, batch.offsets(), &mut pooled).unwrap();
            (pooled, width)
        };
        for (row, &document) in values.chunks_exact(width).zip(&order[first..next]) {
            rows[document] = row.to_vec();
        }
    }
    rows
}
