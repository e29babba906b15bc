//! Results of a GPU against those of the CPU.

use std::path::Path;

use gristmill_kernels::device::Device;
use gristmill_kernels::pool::Pool;
use gristmill_operators::influence::sketch::{Projector, Sketch, SketchSpec};
use gristmill_operators::models::gradients::{Backward, Loss, ParameterGradients, Reduction, TokenLoss, token_weights};
use gristmill_operators::models::{Batch, Model, ParameterKind};

use crate::{ALONE, TOKENS, load};

/// Texts of several lengths, of ids that any model has.
fn texts(model: &Model, most: usize) -> Batch {
    let mut batch = Batch::default();
    let most = model.most_positions().unwrap_or(most).min(most);
    let mut state = 1_u64;
    for length in [1, 2, 17, most / 2, most, most - most / 3] {
        let ids: Vec<u32> = (0..length.max(1))
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u32 % model.vocabulary() as u32
            })
            .collect();
        batch.push(&ids);
    }
    batch
}

/// Prints how far results of the GPU are from those of the CPU, and whether a text alone has the bits that it has among others.
pub(crate) fn check(device: &Device, folder: &Path, half: bool) {
    let (cpu, mut gpu) = (load(folder, half, true), load(folder, half, true));
    let batch = texts(&cpu, 256);
    gpu.move_to(device, TOKENS).unwrap();
    let mut alone = load(folder, half, true);
    alone.move_to(device, 1).unwrap();
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0_f32, |most, (a, b)| most.max((a - b).abs()));
    let compare = |what: &str, of: &dyn Fn(&Model) -> Option<Vec<f32>>| {
        let (Some(wanted), Some(got), Some(single)) = (of(&cpu), of(&gpu), of(&alone)) else { return };
        let largest = wanted.iter().fold(0_f32, |most, value| most.max(value.abs()));
        let same = got.iter().zip(&single).all(|(a, b)| a.to_bits() == b.to_bits());
        println!(
            "{what}: differ by {:e} of values up to {largest}; alone and in a batch {}",
            far(&got, &wanted),
            if same { "the same bits" } else { "OTHER BITS" }
        );
    };
    compare("hidden states", &|model| Some(model.hidden_states(ALONE, &batch).unwrap()));
    compare("pooled states", &|model| Some(model.pooled(ALONE, &batch, None, Pool::Mean).unwrap()));
    compare("logits of labels", &|model| model.classify(ALONE, &batch).unwrap());
    compare("losses", &|model| model.token_losses(ALONE, &batch).unwrap());
    compare("logits of next tokens", &|model| model.next_logits(ALONE, &batch).unwrap());
    if cpu.is_language_model() {
        gradients(&cpu, &gpu, &batch);
    }
}

/// The same of gradients of weights of linear layers, and of their projections.
fn gradients(cpu: &Model, gpu: &Model, batch: &Batch) {
    let weights = token_weights(batch, Reduction::Mean, |_, _| true);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    let of = |model: &Model| {
        let mut sums = ParameterGradients::new(|parameter| parameter.kind() == ParameterKind::Linear);
        Backward::new(model).unwrap().run(ALONE, batch, loss, &mut sums).unwrap();
        sums.iter().flat_map(|(_, gradient)| gradient.to_vec()).collect::<Vec<f32>>()
    };
    println!("gradients of weights: {}", apart(&of(gpu), &of(cpu)));
    let sketch = Sketch::new(cpu, &SketchSpec { dimension: 8, ..SketchSpec::default() }).unwrap();
    let rows = |model: &Model, batch: &Batch, weights: &[f32]| {
        let mut projector = Projector::new(&sketch);
        projector.prepare(batch);
        let loss = Loss::Tokens(TokenLoss { weights, targets: None });
        Backward::new(model).unwrap().run(ALONE, batch, loss, &mut projector).unwrap();
        projector.rows().to_vec()
    };
    let together = rows(gpu, batch, &weights);
    println!("projections: {}", apart(&together, &rows(cpu, batch, &weights)));
    let alone: Vec<f32> = batch
        .offsets()
        .windows(2)
        .flat_map(|place| {
            let text = Batch::of(&batch.ids()[place[0] as usize..place[1] as usize]);
            rows(gpu, &text, &weights[place[0] as usize..place[1] as usize])
        })
        .collect();
    let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
    println!("projections alone and in a batch: {}", if same { "the same bits" } else { "OTHER BITS" });
}

/// How far vectors are apart, and the cosine of the angle between them.
fn apart(got: &[f32], expected: &[f32]) -> String {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let difference: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
    let (got_norm, norm) = (product(got, got).sqrt(), product(expected, expected).sqrt());
    let (off, cosine) = (product(&difference, &difference).sqrt() / norm, product(got, expected) / got_norm / norm);
    format!("differ by {off:e} of their norm, cosine {cosine:.6}")
}
