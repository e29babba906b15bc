//! How fast gradients are projected, and what a pipeline needs to rank texts by them.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use gristmill_kernels::device::Device;
use gristmill_operators::influence::sketch::{Projector, Sketch, SketchSpec};
use gristmill_operators::models::Batch;
use gristmill_operators::models::gradients::{Backward, Loss, Reduction, TokenLoss, token_weights};
use half::bf16;
use parquet::arrow::ArrowWriter;
use serde_json::{Map, json};

use crate::forward::product;
use crate::shapes::{Shape, llama_1b, make, neox_160m, write};
use crate::{ALONE, TOKENS, load};

/// Tokens of a text.
const LENGTH: usize = 1024;

/// Words that a tokenizer knows.
const WORDS: u64 = 30_000;

/// Files of texts.
const FILES: usize = 8;

/// Prints for each model and type how many tokens a second go forward, back, and into projections to 16 x 16 numbers of each layer.
pub(crate) fn time_all(device: &Device, least: Duration) {
    for shape in [neox_160m(), llama_1b()] {
        let folder = make(&shape);
        for half in [false, true] {
            time(device, &shape, folder.path(), half, least);
        }
    }
}

fn time(device: &Device, shape: &Shape, folder: &Path, half: bool, least: Duration) {
    let mut model = load(folder, half, true);
    let sketch = Sketch::new(&model, &SketchSpec::default()).unwrap();
    model.move_to(device, TOKENS).unwrap();
    let mut batch = Batch::default();
    for text in 0..8 {
        batch.push(&(0..LENGTH as u32).map(|id| (id * 31 + text * 7) % WORDS as u32).collect::<Vec<u32>>());
    }
    let weights = token_weights(&batch, Reduction::Mean, |_, _| true);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    let mut backward = Backward::new(&model).unwrap();
    let mut projector = Projector::new(&sketch);
    let mut ask = || {
        projector.prepare(&batch);
        backward.run(ALONE, &batch, loss, &mut projector).unwrap();
    };
    ask();
    let (begun, mut runs) = (Instant::now(), 0);
    while runs == 0 || begun.elapsed() < least {
        ask();
        runs += 1;
    }
    let seconds = begun.elapsed().as_secs_f64() / f64::from(runs);
    let tokens = batch.tokens() as f64;
    let peak = if half { product::<bf16>(device, shape, least) } else { product::<f32>(device, shape, least) };
    let work = tokens * floor(shape, (model.hidden_size() * model.vocabulary()) as f64);
    println!(
        "{:<22} {:<4} gradients at p = 16, {LENGTH} tokens a text: {:>10.0} tokens/s, {:>7.1} TFLOP/s, {:.2} of the {:.1} TFLOP/s of its largest product",
        shape.name,
        if half { "bf16" } else { "f32" },
        tokens / seconds,
        work / seconds / 1e12,
        work / seconds / peak,
        peak / 1e12
    );
}

/// Operations that a token takes at least: products with weights forward and with their transposes back, and attention, whose way back has two and a half
/// times the products of its way forward.
fn floor(shape: &Shape, head: f64) -> f64 {
    4.0 * (shape.layer_products + head) + 2.0 * 3.5 * shape.attention_products(LENGTH)
}

/// Writes what `influence` needs to rank texts: a model, a tokenizer of words, texts of 1,024 tokens in Parquet, and queries.
pub(crate) fn write_corpus(folder: &Path, shape: &str, texts: usize) {
    let shape = match shape {
        "160m" => neox_160m(),
        "1b" => llama_1b(),
        other => panic!("{other}: 160m and 1b are allowed"),
    };
    write(&shape, &folder.join("model"));
    let words: Map<String, serde_json::Value> = (0..WORDS).map(|word| (format!("w{word}"), json!(word))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    std::fs::write(folder.join("model/tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut state = 1_u64;
    let mut text = |length: usize| {
        let mut text = String::new();
        for _ in 0..length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let _written = write!(text, "w{} ", (state >> 33) % WORDS);
        }
        text
    };
    // Several files, so that several are read at once.
    let each = texts.div_ceil(FILES).max(1);
    for (number, first) in (0..texts).step_by(each).enumerate() {
        let ids = first..texts.min(first + each);
        let rows: Vec<String> = ids.clone().map(|_| text(LENGTH)).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(ids.map(|id| id as i64)))),
            ("text", Arc::new(StringArray::from_iter_values(rows))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = std::fs::File::create(folder.join(format!("texts-{number:02}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    let queries: Vec<String> = (0..100)
        .map(|id| json!({"id": id, "prompt": text(30), "completion": text(10)}).to_string())
        .collect();
    std::fs::write(folder.join("queries.jsonl"), queries.join("\n")).unwrap();
}
