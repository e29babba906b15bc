//! Runs a language model or a classifier over token ids forward and back on request, so that another program can take turns with it.
//!
//! `gradient_speed FOLDER PRECISION` with f32 or bf16. Reads a JSON object a line,
//! `{"documents": [[101, 2023, 102], …], "mode": "inputs", "kept": 0, "seconds": 1.0}`, packs all documents into one batch, and answers with
//! `{"seconds": 0.5, "losses": [5.25, …], "norm": 0.125}`: the shortest time of the passes that fitted, at least one, the mean loss of each
//! document's tokens, or of a classifier the cross-entropy of its first label, and the norm of what was asked for over all documents. Modes are `forward` (losses alone, no norm), `inputs` (gradients of activations
//! down to the embeddings), `taps` (the same, and x and δ of each linear layer are handed out), `weights` (gradients of all linear layers, summed), `first` (gradients of activations
//! down to the first layer, which are what a sketch needs, and x and δ handed out), and `sketch` (the same, and projected on both sides to `"p": 16` rows; the norm is that of the
//! projections). With `"signs": "bergson-2"` projections are those of that program, `"sum": true` takes the sum of tokens' losses, and `"write": PATH` has the rows
//! written there as numbers of 4 bytes, in the time that counts. `kept` is the number of bytes in which results of layers are kept instead of being computed
//! again. Time is the processor's where the system can tell. One thread.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "../../kernels/examples/shared/processor_time.rs"]
mod processor_time;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use gristmill_kernels::workers::Serial;
use gristmill_operators::Resources;
use gristmill_operators::influence::sketch::{Projector, SignSource, Sketch, SketchSpec};
use gristmill_operators::models::gradients::{
    Backward, Gradient, Loss, ParameterGradients, Reduction, Tap, TokenLoss, token_weights,
};
use gristmill_operators::models::{Batch, Compute, LoadOptions, Model, Parameter, ParameterKind, Precision, Result};
use processor_time::now;
use serde_json::{Value, json};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// Takes gradients, and looks at those of inputs alone.
struct Inputs {
    layers: bool,
    inputs: bool,
    squares: f64,
}

impl Tap for Inputs {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.layers && parameter.kind() == ParameterKind::Linear
    }

    fn take(&mut self, _: Compute<'_>, _: &Gradient<'_>) -> Result<()> {
        Ok(())
    }

    fn wants_inputs(&self) -> bool {
        self.inputs
    }

    fn take_inputs(&mut self, _: Compute<'_>, delta: &[f32], _: &[i64]) -> Result<()> {
        self.squares = squares(delta);
        Ok(())
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let precision = if arguments[2] == "bf16" { Precision::Bf16 } else { Precision::F32 };
    let options = LoadOptions { precision, gradients: true, ..LoadOptions::default() };
    let model = Model::load(&arguments[1], &Resources::local(), options).unwrap().0;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let documents: Vec<Vec<u32>> = serde_json::from_value(request["documents"].clone()).unwrap();
        let kept = usize::try_from(request["kept"].as_u64().unwrap()).unwrap();
        let limit = Duration::from_secs_f64(request["seconds"].as_f64().unwrap());
        let mut batch = Batch::default();
        documents.iter().for_each(|document| batch.push(document));
        let reduction = if request["sum"].as_bool() == Some(true) { Reduction::Sum } else { Reduction::Mean };
        let weights = token_weights(&batch, reduction, |_, _| true);
        let labels = vec![0; documents.len()];
        let mut backward = Backward::new(&model).unwrap().with_kept_bytes(kept);
        let mut gradients = ParameterGradients::new(|parameter| parameter.kind() == ParameterKind::Linear);
        let dimension = request["p"].as_u64().map(|p| usize::try_from(p).unwrap());
        let signs = request.get("signs").map(|signs| serde_json::from_value(signs.clone()).unwrap());
        let signs: SignSource = signs.unwrap_or_default();
        let sketch = dimension
            .map(|dimension| Sketch::new(&model, &SketchSpec { dimension, signs, ..SketchSpec::default() }).unwrap());
        let mut projector = sketch.as_ref().map(Projector::new);
        let (begun, mut shortest, mut losses, mut norm) = (Instant::now(), f64::INFINITY, Vec::new(), 0.0);
        while shortest.is_infinite() || begun.elapsed() < limit {
            let turn = now();
            let loss = match model.is_language_model() {
                true => Loss::Tokens(TokenLoss { weights: &weights, targets: None }),
                false => Loss::Labels(&labels),
            };
            match request["mode"].as_str().unwrap() {
                "forward" if !model.is_language_model() => {
                    let mut tap = Inputs { layers: false, inputs: false, squares: 0.0 };
                    losses = backward.run(ALONE, &batch, loss, &mut tap).unwrap().documents;
                }
                "forward" => {
                    let tokens = model.token_losses(ALONE, &batch).unwrap().unwrap();
                    let document = |rows: &[i64]| -> f64 {
                        let rows = rows[0] as usize..rows[1] as usize;
                        tokens[rows.clone()].iter().zip(&weights[rows]).map(|(a, b)| f64::from(a * b)).sum()
                    };
                    losses = batch.offsets().windows(2).map(document).collect();
                }
                "weights" => {
                    gradients.clear();
                    losses = backward.run(ALONE, &batch, loss, &mut gradients).unwrap().documents;
                    norm = gradients.iter().map(|(_, gradient)| squares(gradient)).sum::<f64>().sqrt();
                }
                "sketch" => {
                    let projector = projector.as_mut().expect("the mode `sketch` needs `p`");
                    projector.prepare(&batch);
                    losses = backward.run(ALONE, &batch, loss, projector).unwrap().documents;
                    norm = squares(projector.rows()).sqrt();
                    if let Some(path) = request["write"].as_str() {
                        let bytes: Vec<u8> = projector.rows().iter().flat_map(|value| value.to_le_bytes()).collect();
                        std::fs::write(path, bytes).unwrap();
                    }
                }
                mode => {
                    let mut tap = Inputs { layers: mode != "inputs", inputs: mode != "first", squares: 0.0 };
                    losses = backward.run(ALONE, &batch, loss, &mut tap).unwrap().documents;
                    norm = tap.squares.sqrt();
                }
            }
            shortest = shortest.min(now().saturating_sub(turn).as_secs_f64());
        }
        println!("{}", json!({"seconds": shortest, "losses": losses, "norm": norm}));
        std::io::stdout().flush().unwrap();
    }
}
