//! Gradients against differences of losses, parameter by parameter.
//!
//! With u a direction of length 1 and L the sum of the documents' losses, (8 (L(h) - L(-h)) - (L(2h) - L(-2h))) / 12h is the derivative
//! along u but for h⁴/30 times the fifth one. Losses of tokens are f32, each off by some 1e-7 of its size, and summed in f64: L is off by
//! about 1e-6, which a step of h turns into 1e-6/h. h is chosen such that L changes by about 0.005 along the gradient, and by no more than a
//! sixtieth of those elements of the parameter that have a gradient: both errors are then below a thousandth of the gradient's length, unless it
//! is small. Where values are clipped L has kinks, and a step that crosses some is off by the share of values that cross them.

use std::path::Path;

use safetensors::SafeTensors;

use super::{
    ALONE, Backward, Fixture, Loss, ParameterGradients, Target, load, models, norm, packed, reference, summed, texts,
};
use crate::models::tests::Expected;
use crate::models::{Batch, Model, Parameter};

/// The share of the gradient's length that a derivative may be off by.
const SHARE: f64 = 5e-4;
/// The same where values are clipped.
const CLIPPED_SHARE: f64 = 1e-2;
/// How far off a sum of losses may be, as part of itself and of 1.
const NOISE: f64 = 3e-7;

/// A model of which parameters are changed.
struct Changed {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    /// Where tensors begin.
    start: usize,
}

impl Changed {
    fn of(folder: &Path) -> Self {
        let to = tempfile::tempdir().unwrap();
        std::fs::copy(folder.join("config.json"), to.path().join("config.json")).unwrap();
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        Self { folder: to, bytes, start }
    }

    /// Sets one key of the configuration.
    fn set(&self, key: &str, value: serde_json::Value) {
        let path = self.folder.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Where a tensor lies.
    fn place(&self, name: &str) -> std::ops::Range<usize> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let (begin, end) = metadata.info(name).unwrap().data_offsets;
        self.start + begin..self.start + end
    }

    /// The values of a tensor.
    fn values(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes[self.place(name)].chunks_exact(4);
        bytes.map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    /// The model with other values of a tensor.
    fn model(&self, name: &str, values: &[f32]) -> Model {
        let mut bytes = self.bytes.clone();
        let place = self.place(name);
        bytes[place].chunks_exact_mut(4).zip(values).for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes()));
        std::fs::write(self.folder.path().join("model.safetensors"), bytes).unwrap();
        load(self.folder.path())
    }

    fn original(&self) -> Model {
        std::fs::write(self.folder.path().join("model.safetensors"), &self.bytes).unwrap();
        load(self.folder.path())
    }
}

fn loss(model: &Model, batch: &Batch, loss: Loss<'_>) -> f64 {
    let mut nothing = ParameterGradients::new(|_| false);
    Backward::new(model).unwrap().run(ALONE, batch, loss, &mut nothing).unwrap().documents.iter().sum()
}

/// Numbers from -1 to 1.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Compares all parameters, and returns how large errors are relative to what is allowed, at most.
fn compare(name: &str, share: f64, changed: &Changed, batch: &Batch, target: impl Fn(&Model) -> Target) -> f64 {
    let model = changed.original();
    let target = target(&model);
    let (losses, gradients) = summed(&model, batch, &target);
    let total: f64 = losses.documents.iter().sum();
    let parameters: Vec<Parameter> = model.parameters().cloned().collect();
    let (mut worst, mut state) = (0_f64, 7);
    for parameter in &parameters {
        let gradient = gradients.get(parameter.name()).unwrap();
        let values = changed.values(parameter.name());
        let used: Vec<f32> = values.iter().zip(gradient).filter(|(_, g)| **g != 0.0).map(|(value, _)| *value).collect();
        let (length, size) = (norm(gradient), norm(&used).max(0.05 * (used.len() as f64).sqrt()));
        // A single number has one direction, and large models take long.
        let directions = match values.len() {
            1 => 1,
            ..2048 => 3,
            _ => 2,
        };
        for number in 0..directions {
            // Along the gradient, and halfway between it and chance.
            let mut direction: Vec<f64> = gradient.iter().map(|&value| f64::from(value) / length.max(1e-30)).collect();
            if number > 0 || length < 1e-6 {
                let chance: Vec<f64> = direction.iter().map(|_| random(&mut state)).collect();
                let scale = chance.iter().map(|value| value * value).sum::<f64>().sqrt();
                direction.iter_mut().zip(&chance).for_each(|(direction, chance)| *direction += chance / scale);
            }
            let scale = direction.iter().map(|value| value * value).sum::<f64>().sqrt();
            direction.iter_mut().for_each(|value| *value /= scale);
            let step = (0.005 / length.max(1e-9)).min(size.max(0.05) / 60.0);
            let at = |steps: f64| {
                let moved: Vec<f32> = values
                    .iter()
                    .zip(&direction)
                    .map(|(&value, direction)| (f64::from(value) + steps * step * direction) as f32)
                    .collect();
                loss(&changed.model(parameter.name(), &moved), batch, target.loss())
            };
            let difference = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * step);
            let derivative: f64 = gradient.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
            let allowed = share * length + NOISE * (1.0 + total.abs()) / step;
            let off = (difference - derivative).abs();
            worst = worst.max(off / allowed);
            assert!(
                off <= allowed,
                "{name} {} ({length:e} long): {difference:e} by differences of step {step:e}, {derivative:e} by gradient",
                parameter.name()
            );
        }
    }
    worst
}

#[test]
fn gradients_are_derivatives_of_the_loss() {
    for (name, folder) in models() {
        let changed = Changed::of(&folder);
        // Two documents are enough for what depends on lengths, one of them longer than the trained positions of scaled embeddings.
        let texts = texts(&folder);
        let batch = packed(&[texts[0].clone(), texts[2][..texts[2].len().min(20)].to_vec()]);
        let share = if name == "olmo" { CLIPPED_SHARE } else { SHARE };
        let worst = compare(name, share, &changed, &batch, |model| Target::of(model, &batch));
        println!("{name}: errors up to {worst:.3} of what is allowed");
    }
}

#[test]
fn gradients_are_derivatives_of_every_loss_of_classifiers() {
    let folder = reference("small/roberta-classifier").unwrap();
    let batch = packed(&texts(&folder));
    let values: Vec<f32> = (0..batch.documents() * 3).map(|index| (index % 4) as f32 / 3.0).collect();
    for target in [Target::MultiLabel(values.clone()), Target::Regression(values)] {
        let worst = compare("small/roberta-classifier", SHARE, &Changed::of(&folder), &batch, |_| target.clone());
        println!("{target:?}: errors up to {worst:.3} of what is allowed");
    }
}

#[test]
fn gradients_are_derivatives_where_a_convolution_has_another_activation() {
    let folder = Fixture::read().classifier("v2-xlarge");
    let changed = Changed::of(folder.path());
    let batch = packed(&texts(folder.path())[..1]);
    changed.set("conv_act", "tanh".into());
    let worst = compare("tanh", SHARE, &changed, &batch, |model| Target::of(model, &batch));
    println!("tanh: errors up to {worst:.3} of what is allowed");
}

#[test]
fn gradients_are_derivatives_where_queries_keys_and_values_are_clipped() {
    let Some(folder) = reference("olmo") else { return };
    let changed = Changed::of(&folder);
    changed.set("clip_qkv", serde_json::json!(0.9));
    let batch = packed(&Expected::of(&folder).texts()[..1]);
    let worst = compare("olmo", CLIPPED_SHARE, &changed, &batch, |model| Target::of(model, &batch));
    println!("clipped: errors up to {worst:.3} of what is allowed");
}
