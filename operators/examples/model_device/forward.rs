//! How fast batches go forward.

use std::path::Path;
use std::time::{Duration, Instant};

use gristmill_kernels::device::Device;
use gristmill_kernels::gemm::{LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::launch::Float;
use gristmill_kernels::pool::Pool;
use gristmill_operators::models::Batch;
use half::bf16;

use crate::shapes::{Shape, bert_base, llama_1b, make, modernbert_large};
use crate::{ALONE, TOKENS, load, timed};

pub(crate) fn time_all(device: &Device, least: Duration) {
    for shape in [bert_base(), modernbert_large(), llama_1b()] {
        let folder = make(&shape);
        for half in [false, true] {
            time(device, &shape, folder.path(), half, least);
        }
    }
}

fn time(device: &Device, shape: &Shape, folder: &Path, half: bool, least: Duration) {
    let mut model = load(folder, half, false);
    let mut batch = Batch::default();
    for text in 0..TOKENS / shape.length {
        batch.push(&(0..shape.length as u32).map(|id| (id * 31 + text as u32 * 7) % 30_000).collect::<Vec<u32>>());
    }
    model.move_to(device, TOKENS).unwrap();
    let ask = || {
        if shape.losses {
            drop(model.token_losses(ALONE, &batch).unwrap());
        } else {
            drop(model.pooled(ALONE, &batch, None, Pool::Mean).unwrap());
        }
    };
    let seconds = timed(least, ask);
    let tokens = batch.tokens() as f64;
    let head = if shape.losses { (model.hidden_size() * model.vocabulary()) as f64 } else { 0.0 };
    let work = 2.0 * tokens * (shape.layer_products + head + shape.attention_products(shape.length));
    let product = if half { product::<bf16>(device, shape, least) } else { product::<f32>(device, shape, least) };
    println!(
        "{:<18} {:<4} {:>5} tokens a text: {:>10.0} tokens/s, {:>7.1} TFLOP/s, {:>4.0} % of the {:.1} TFLOP/s of its largest product",
        shape.name,
        if half { "bf16" } else { "f32" },
        shape.length,
        tokens / seconds,
        work / seconds / 1e12,
        100.0 * work / seconds / product,
        product / 1e12
    );
}

/// Operations a second of the largest product.
pub(crate) fn product<T: Float>(device: &Device, shape: &Shape, least: Duration) -> f64 {
    let [outputs, inputs] = shape.largest;
    let values = |len: usize| vec![T::from_single(0.01); len];
    let (x, weights) =
        (device.upload(&values(TOKENS * inputs)).unwrap(), device.upload(&values(outputs * inputs)).unwrap());
    let mut y = device.upload(&values(TOKENS * outputs)).unwrap();
    let mut runs = 1;
    loop {
        let begun = Instant::now();
        for _ in 0..runs {
            let buffers =
                LinearBuffers { x: x.read(), weights: weights.read(), bias: None, y: LinearOutput::Same(y.write()) };
            device.run(&LinearLayer::new(inputs, outputs).launches(TOKENS, buffers).unwrap()).unwrap();
        }
        // One element is enough to wait for.
        y.resize(1).unwrap();
        y.download().unwrap();
        let taken = begun.elapsed();
        y.resize(TOKENS * outputs).unwrap();
        if taken >= least {
            return 2.0 * (TOKENS * inputs) as f64 * outputs as f64 * f64::from(runs) / taken.as_secs_f64();
        }
        runs *= 2;
    }
}
