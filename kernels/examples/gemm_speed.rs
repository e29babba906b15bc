//! Times y = x·Wᵀ on request, so that another program can take turns with it.
//!
//! Reads a JSON object a line, `{"precision": "f32"|"bf16", "tokens": 8, "inputs": 768, "outputs": 3072, "seconds": 0.2}`, and answers with one
//! line, `{"engine": "Avx2", "seconds": 0.0004}`: the shortest of the calls that fitted in so many seconds, at least
//! one. Time is that of the processor where the system can tell, so that other programs on a shared core count little.
//! An `"engine"` may be named as `Engine` names them. With the argument `engines` it prints what the machine has and ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "shared/processor_time.rs"]
mod processor_time;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use gristmill_kernels::gemm::{Engine, MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};
use processor_time::now;
use serde_json::{Value, json};

struct Layer {
    shape: (usize, usize, Precision),
    weights: PackedWeights,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("engines") {
        println!("{:?}", Engine::available());
        return;
    }
    let mut layer: Option<Layer> = None;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let size = |name: &str| usize::try_from(request[name].as_u64().unwrap()).unwrap();
        let precision = if request["precision"] == "bf16" { Precision::Bf16 } else { Precision::F32 };
        let shape = (size("outputs"), size("inputs"), precision);
        if layer.as_ref().is_none_or(|layer| layer.shape != shape) {
            drop(layer.take());
            let weights = numbers(shape.0 * shape.1);
            let weights = Matrix::row_major(Values::F32(&weights), shape.0, shape.1).unwrap();
            layer = Some(Layer { shape, weights: PackedWeights::pack(weights, precision).unwrap() });
        }
        let engine = request["engine"].as_str().map(|name| {
            Engine::ALL.into_iter().find(|engine| format!("{engine:?}") == name).expect("an engine of this name")
        });
        let limit = Duration::from_secs_f64(request["seconds"].as_f64().unwrap());
        let seconds = time(&layer.as_ref().unwrap().weights, size("tokens"), engine, limit);
        let engine = engine.unwrap_or_else(|| Engine::best(precision));
        println!("{}", json!({"engine": format!("{engine:?}"), "seconds": seconds}));
        std::io::stdout().flush().unwrap();
    }
}

fn time(weights: &PackedWeights, tokens: usize, engine: Option<Engine>, limit: Duration) -> f64 {
    let x = numbers(tokens * weights.inputs());
    let x = Matrix::row_major(Values::F32(&x), tokens, weights.inputs()).unwrap();
    let mut y = vec![0.0; tokens * weights.outputs()];
    let options = MatmulOptions { engine, ..Default::default() };
    let begun = Instant::now();
    let mut shortest = f64::INFINITY;
    let mut turns = 0;
    while turns < 1 || begun.elapsed() < limit {
        let turn = now();
        weights.matmul(x, MatrixMut::row_major(&mut y, tokens, weights.outputs()).unwrap(), &options).unwrap();
        shortest = shortest.min(now().saturating_sub(turn).as_secs_f64());
        turns += 1;
    }
    shortest
}

/// Numbers between -1 and 1; none is subnormal.
fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32).map(|index| (index.wrapping_mul(0x9e37_79b1) >> 8) as f32 / (1 << 23) as f32 - 0.999).collect()
}
