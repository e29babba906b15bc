//! How fast gradients are projected.

use std::path::Path;
use std::time::Duration;

use gristmill_kernels::device::Device;
use gristmill_operators::influence::sketch::{Projector, Sketch, SketchSpec};
use gristmill_operators::models::Batch;
use gristmill_operators::models::gradients::{Backward, Loss, Reduction, TokenLoss, token_weights};
use half::bf16;

use crate::forward::product;
use crate::shapes::{Shape, llama_1b, make, neox_160m};
use crate::{ALONE, TOKENS, load, timed};

/// Tokens of a text.
const LENGTH: usize = 1024;

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
        batch.push(&(0..LENGTH as u32).map(|id| (id * 31 + text * 7) % 30_000).collect::<Vec<u32>>());
    }
    let weights = token_weights(&batch, Reduction::Mean, |_, _| true);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    let mut backward = Backward::new(&model).unwrap();
    let mut projector = Projector::new(&sketch);
    let ask = || {
        projector.prepare(&batch);
        backward.run(ALONE, &batch, loss, &mut projector).unwrap();
    };
    let seconds = timed(least, ask);
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
