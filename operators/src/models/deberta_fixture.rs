//! Small random models of DeBERTa-v2, one for each setting of its attention, whose weights follow from the names of their tensors, and what
//! transformers gave for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

const CLASSIFIER: &str = "DebertaV2ForSequenceClassification";

/// Models of the fixture, and how many outputs their classifiers have.
pub(super) const MODELS: [(&str, Option<usize>); 6] = [
    ("v3", Some(1)),
    ("v2-xlarge", Some(3)),
    ("own-projections", Some(3)),
    ("queries-alone", None),
    ("keys-alone", None),
    ("contents-alone", None),
];

pub(super) struct Fixture {
    bytes: Vec<u8>,
    pub(super) metadata: HashMap<String, String>,
}

impl Fixture {
    pub(super) fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/models/testdata/deberta.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        Self { bytes, metadata }
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let bytes = tensors.tensor(name).unwrap().data();
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    fn ids(&self, text: usize) -> Vec<u32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let bytes = tensors.tensor(&format!("ids.{text}")).unwrap().data();
        bytes.chunks_exact(8).map(|eight| i64::from_le_bytes(eight.try_into().unwrap()) as u32).collect()
    }

    /// The texts that are not long.
    pub(super) fn texts(&self) -> Vec<Vec<u32>> {
        (0..3).map(|text| self.ids(text)).collect()
    }

    pub(super) fn config(&self, model: &str) -> Value {
        serde_json::from_str(&self.metadata[model]).unwrap()
    }

    /// Names and shapes of a model's tensors.
    pub(super) fn shapes(&self, model: &str) -> BTreeMap<String, Vec<usize>> {
        let shapes: BTreeMap<String, Vec<usize>> =
            serde_json::from_str(&self.metadata[&format!("{model}/shapes")]).unwrap();
        let each = |(name, shape): (String, Vec<usize>)| {
            let count = if name.contains('*') { 2 } else { 1 };
            (0..count).map(move |layer| (name.replace('*', &layer.to_string()), shape.clone()))
        };
        shapes.into_iter().flat_map(each).collect()
    }

    /// A folder with the model.
    pub(super) fn folder(&self, model: &str, config: &Value, dtype: Dtype) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        write_weights(folder.path(), self.shapes(model), dtype);
        folder
    }

    /// A folder with the model as a classifier, with two labels where it is none otherwise, and its texts with one more as `reference.safetensors`: the long
    /// one, where the model can take it.
    pub(super) fn classifier(&self, model: &str) -> tempfile::TempDir {
        let (mut config, mut shapes) = (self.config(model), self.shapes(model));
        let class = &mut config["architectures"][0];
        if class.as_str() != Some(CLASSIFIER) {
            *class = CLASSIFIER.into();
            config["num_labels"] = 2.into();
            shapes = shapes.into_iter().map(|(name, shape)| (format!("deberta.{name}"), shape)).collect();
            let hidden = config["hidden_size"].as_u64().unwrap() as usize;
            for (name, rows) in [("pooler.dense", hidden), ("classifier", 2)] {
                shapes.insert(format!("{name}.weight"), vec![rows, hidden]);
                shapes.insert(format!("{name}.bias"), vec![rows]);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        write_weights(folder.path(), shapes, Dtype::F32);
        let texts = [self.texts(), vec![self.ids(if self.takes_long(model) { 3 } else { 0 })]].concat();
        write_texts(folder.path(), &texts);
        folder
    }

    /// Whether a model can take texts of any length.
    pub(super) fn takes_long(&self, model: &str) -> bool {
        self.config(model)["position_biased_input"] == false
    }
}

pub(super) fn write_weights(folder: &Path, shapes: BTreeMap<String, Vec<usize>>, dtype: Dtype) {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = values(&name, shape.iter().product());
            let bytes = match dtype {
                Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            };
            (name, shape, bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

/// The elements of a tensor, as `make_deberta.py` makes them.
fn values(name: &str, count: usize) -> Vec<f32> {
    let hashed = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mean = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
    let scale = if name.contains("embeddings.weight") { 2.0 } else { 0.75 };
    let value = |i: usize| {
        let mut x = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(hashed);
        for _ in 0..2 {
            x = (x ^ (x >> 16)).wrapping_mul(0x045d_9f3b);
        }
        x ^= x >> 16;
        ((x >> 8) as f32 / 16_777_216.0 - 0.5) * scale + mean
    };
    (0..count).map(value).collect()
}

/// Texts as the references of other models have them: as long as the longest one, with a mask.
fn write_texts(folder: &Path, texts: &[Vec<u32>]) {
    let longest = texts.iter().map(Vec::len).max().unwrap();
    let padded = |value: &dyn Fn(u32) -> i64| -> Vec<u8> {
        let row = |text: &Vec<u32>| {
            let mut row: Vec<i64> = text.iter().map(|&id| value(id)).collect();
            row.resize(longest, 0);
            row
        };
        texts.iter().flat_map(row).flat_map(i64::to_le_bytes).collect()
    };
    let (ids, mask) = (padded(&|id| id.into()), padded(&|_| 1));
    let views = [("input_ids", &ids), ("attention_mask", &mask)]
        .map(|(name, bytes)| (name, TensorView::new(Dtype::I64, vec![texts.len(), longest], bytes).unwrap()));
    std::fs::write(folder.join("reference.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}
