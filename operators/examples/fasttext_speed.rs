//! Labels texts with a fastText model, so that another program can be compared.
//!
//! `fasttext_speed MODEL`. Reads one JSON object from its input, `{"texts": ["…"], "passes": 3}`, and answers with `{"seconds": 0.5, "labels": ["en", …],
//! "probabilities": [0.9, …]}`: the shortest time of the passes over all texts, of the processor where the system can tell, and the best label of each, or null.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "../../kernels/examples/shared/processor_time.rs"]
mod processor_time;

use gristmill_operators::Resources;
use gristmill_operators::fasttext::{FastText, Prediction, Scratch};
use processor_time::now;
use serde_json::{Value, json};

fn main() {
    let location = std::env::args().nth(1).expect("usage: fasttext_speed MODEL");
    let model = FastText::load(&location, &Resources::local()).unwrap().0;
    let request: Value = serde_json::from_reader(std::io::stdin().lock()).unwrap();
    let texts: Vec<String> = serde_json::from_value(request["texts"].clone()).unwrap();
    let mut scratch = Scratch::default();
    let (mut shortest, mut best) = (f64::INFINITY, Vec::new());
    for _ in 0..request["passes"].as_u64().unwrap() {
        let begun = now();
        best = texts
            .iter()
            .map(|text| model.predict(text, 1, None, &mut scratch).and_then(|(listed, _)| listed.first().copied()))
            .collect();
        shortest = shortest.min(now().saturating_sub(begun).as_secs_f64());
    }
    let label = |best: &Option<Prediction>| best.map(|best| model.labels()[best.label].clone());
    let labels: Vec<Option<String>> = best.iter().map(label).collect();
    let probabilities: Vec<Option<f32>> = best.iter().map(|best| best.map(|best| best.probability)).collect();
    println!("{}", json!({"seconds": shortest, "labels": labels, "probabilities": probabilities}));
}
