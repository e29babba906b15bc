//! Adapters as peft writes them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter has, for modules of a model, two matrices A and B of a small rank (Hu and others, 2021, "LoRA"): the module computes with
//! W + s·B·A, where s is alpha / rank, or alpha / √rank (Kalajdzievski, 2023, rsLoRA). With DoRA (Liu and others, 2024) the weights of each output
//! are then scaled to a length that was trained, too. Beside matrices there can be whole tensors that take the place of the model's:
//! `modules_to_save`, biases, resaved embeddings; and rows of embeddings (`trainable_token_indices`).
//!
//! | in the file, below `base_model.model.` | shape | of |
//! |---|---|---|
//! | `….lora_A.weight`, `….lora_B.weight` | `[rank, in]`, `[out, rank]` | a linear layer |
//! | `….lora_embedding_A`, `….lora_embedding_B` | `[rank, tokens]`, `[hidden, rank]` | an embedding |
//! | `….lora_magnitude_vector` | `[out]` | DoRA |
//! | `….token_adapter.trainable_tokens_delta` | `[ids, hidden]` | rows that take the place of those of the ids |
//! | `….base_layer.weight`, `….weight`, `….bias` | as the model's | what takes the place of the model's |
//!
//! # Two ways to apply one
//!
//! *Merged*, the sum is formed in f32 when the model is loaded, before weights are rounded and packed; the model is then as fast as without. *Beside* the
//! weights, a linear layer computes x·Wᵀ + (x·Aᵀ)·Bᵀ, with A and B in f32: for weights that are in four bits, and so were trained with what four bits
//! left of them. Embeddings and the head of a language model, which stay in the precision of the model, are merged in both.
//!
//! Every tensor of an adapter must have a place, and every module that the configuration names must have its tensors.

mod delta;
mod low_rank;
mod settings;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use delta::{Delta, Stored};
pub(crate) use low_rank::LowRank;
use serde_json::{Map, json};
use settings::Settings;

use super::config::Config;
use super::error::{ModelError, Result};
use super::files::ModelFiles;
use super::weights::Weights;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// What models with and without a head put before the names of one tensor.
const TRUNKS: &[&str] = &["model.", "transformer.", "bert.", "roberta.", "distilbert.", "deberta.", "gpt_neox."];

/// How an adapter is applied to linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Apply {
    /// Added to the weights before they are rounded and packed.
    Merged,
    /// Kept beside the weights, and added to what they compute.
    Beside,
}

/// What of an adapter a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Down,
    Up,
    EmbeddingDown,
    EmbeddingUp,
    Magnitudes,
    Tokens,
}

const PARTS: &[(&str, Part)] = &[
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_embedding_A", Part::EmbeddingDown),
    (".lora_embedding_B", Part::EmbeddingUp),
    (".lora_magnitude_vector", Part::Magnitudes),
    (".lora_magnitude_vector.weight", Part::Magnitudes),
    (".token_adapter.trainable_tokens_delta", Part::Tokens),
];

/// Tensors of one module.
#[derive(Debug)]
struct Module {
    /// As the adapter names the module.
    path: String,
    /// Names of tensors.
    parts: BTreeMap<Part, String>,
}

/// A tensor that takes the place of one of the model's.
#[derive(Debug)]
struct Whole {
    name: String,
    /// As the adapter names the model's tensor.
    path: String,
    /// Whether it is a copy of a module with its own name, so that what is tied to the module keeps the model's tensor.
    copied: bool,
}

/// A matrix of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The module, as the model's files name it.
    pub(crate) module: &'a str,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) stored: Stored,
    /// Whether it is an embedding.
    pub(crate) embedding: bool,
}

/// An adapter with its tensors, which are read when a model asks for them.
#[derive(Debug)]
pub(crate) struct Adapter {
    settings: Settings,
    weights: Weights,
    /// By names without [`TRUNKS`].
    modules: BTreeMap<String, Module>,
    wholes: BTreeMap<String, Whole>,
    apply: Apply,
    /// Modules that the model stores as `[in, out]`.
    turned: RefCell<BTreeSet<String>>,
    /// Names of the tensors of a head that was tied, and of its embeddings, where the adapter makes them differ.
    untied: RefCell<Option<[String; 2]>>,
}

impl Adapter {
    /// Reads the configuration, and the names of the tensors.
    pub(crate) fn open(files: &ModelFiles<'_>, apply: Apply) -> Result<Self> {
        let settings = Settings::new(Config::read_named(files, CONFIG)?)?;
        let weights = Weights::open_one(files, TENSORS, &["adapter_model.bin"])?;
        let (mut modules, mut wholes) = (BTreeMap::<String, Module>::new(), BTreeMap::new());
        for name in weights.names() {
            // What has another prefix is left over, and named at the end.
            let Some(path) = name.strip_prefix(PREFIX) else { continue };
            if let Some((module, part)) =
                PARTS.iter().find_map(|(suffix, part)| path.strip_suffix(suffix).map(|module| (module, *part)))
            {
                let module = module.replace(".base_layer", "");
                let new = || Module { path: module.clone(), parts: BTreeMap::new() };
                let before =
                    modules.entry(short(&module).to_owned()).or_insert_with(new).parts.insert(part, name.into());
                if let Some(before) = before {
                    weights.ignore(|name| name == before);
                }
            } else {
                let inner = path.contains(".base_layer.");
                let path = path.replace(".base_layer.", ".").replace(".token_adapter.", ".");
                let module = path.rsplit_once('.').map_or(path.as_str(), |(module, _)| module);
                let copied = !inner && settings.is_saved(module)?;
                wholes.insert(short(&path).to_owned(), Whole { name: name.into(), path, copied });
            }
        }
        let (turned, untied) = Default::default();
        Ok(Self { settings, weights, modules, wholes, apply, turned, untied })
    }

    /// Makes the configuration that of a classifier, where the adapter brings one to a model without.
    pub(crate) fn adjust(&self, config: &mut Config) {
        let heads = ["score.weight", "classifier.weight", "classifier.out_proj.weight"];
        let head = heads.iter().find_map(|name| self.wholes.get(*name)).filter(|_| self.settings.classifies);
        let shape = head.and_then(|head| self.weights.shape(&head.name));
        let class = config.class().unwrap_or("").to_owned();
        let Some(&labels) = shape.and_then(<[usize]>::first) else { return };
        if class.ends_with("ForSequenceClassification") {
            return;
        }
        let stem = ["For", "LMHead", "Model"].iter().filter_map(|end| class.find(end)).min().unwrap_or(class.len());
        config.set("architectures", json!([format!("{}ForSequenceClassification", &class[..stem])]));
        if config.labels().map_or(0, |names| names.len()) != labels {
            let names = (0..labels).map(|label| (label.to_string(), json!(format!("LABEL_{label}"))));
            config.set("id2label", names.collect::<Map<_, _>>().into());
            let numbers = (0..labels).map(|label| (format!("LABEL_{label}"), json!(label)));
            config.set("label2id", numbers.collect::<Map<_, _>>().into());
        }
    }

    /// Whether it has a tensor in the place of one of the model's.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.wholes.contains_key(short(name))
    }

    /// A tensor of the model, or what takes its place.
    pub(crate) fn tensor(&self, base: &Weights, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(whole) = self.wholes.get(short(name)) else { return base.read(name, shape) };
        base.ignore(|other| other == name);
        self.weights.read(&whole.name, shape)
    }

    /// Whether what it adds to linear layers is kept beside their weights.
    pub(crate) fn stays_beside(&self) -> bool {
        self.apply == Apply::Beside
    }

    /// The weights of a place in the order of memory, and what is to be kept beside them.
    pub(crate) fn weights(&self, base: &Weights, place: Place<'_>) -> Result<(Vec<f32>, Option<Delta>)> {
        let Place { module, outputs, inputs, stored, embedding } = place;
        let shape = if stored == Stored::Outputs { [outputs, inputs] } else { [inputs, outputs] };
        let mut weights = self.tensor(base, &format!("{module}.weight"), &shape)?;
        if embedding {
            self.replace_tokens(module, &mut weights, [inputs, outputs])?;
        } else if stored == Stored::Inputs {
            self.turned.borrow_mut().insert(short(module).to_owned());
        }
        let Some(delta) = self.delta(place)? else { return Ok((weights, None)) };
        if self.apply == Apply::Beside && !embedding {
            return Ok((weights, Some(delta)));
        }
        delta.merge(&mut weights, stored)?;
        Ok((weights, None))
    }

    /// The same, merged whatever the way.
    pub(crate) fn merged(&self, base: &Weights, place: Place<'_>) -> Result<Vec<f32>> {
        let (mut weights, delta) = self.weights(base, place)?;
        if let Some(delta) = delta {
            delta.merge(&mut weights, place.stored)?;
        }
        Ok(weights)
    }

    /// Weights of a head that are the embeddings' in the model, where the adapter makes them differ: `[vocabulary, hidden]`.
    ///
    /// peft keeps the tie where it changes a tensor in place, or single tokens. Matrices beside the embeddings, and a copy of them that was
    /// trained, are not seen by the head, and the head can have its own.
    pub(crate) fn untied_head(
        &self,
        base: &Weights,
        embeddings: &str,
        head: &str,
        [vocabulary, hidden]: [usize; 2],
    ) -> Result<Option<Vec<f32>>> {
        let [table, own] = [embeddings, head].map(|module| self.modules.get(short(module)));
        let has = |module: Option<&Module>, part| module.is_some_and(|module| module.parts.contains_key(&part));
        let [whole_table, whole_head] =
            [embeddings, head].map(|module| self.wholes.get(short(&format!("{module}.weight"))));
        let copied = |whole: Option<&Whole>| whole.is_some_and(|whole| whole.copied);
        if !(has(table, Part::EmbeddingDown) || has(own, Part::Down) || copied(whole_table) || copied(whole_head)) {
            // A head that was resaved is the embeddings again.
            if let Some(whole) = whole_head {
                self.weights.ignore(|name| name == whole.name);
            }
            return Ok(None);
        }
        if self.settings.tied {
            return Err(self.settings.unsupported("ensure_weight_tying", "false, where the embeddings are tied,"));
        }
        let shape = [vocabulary, hidden];
        let source = whole_head.or_else(|| whole_table.filter(|whole| !whole.copied));
        let mut weights = match source {
            Some(whole) => self.weights.read(&whole.name, &shape)?,
            None => base.read(&format!("{embeddings}.weight"), &shape)?,
        };
        if !copied(whole_head) {
            self.replace_tokens(embeddings, &mut weights, shape)?;
        }
        let place =
            Place { module: head, outputs: vocabulary, inputs: hidden, stored: Stored::Outputs, embedding: false };
        if let Some(delta) = self.delta(place)? {
            delta.merge(&mut weights, Stored::Outputs)?;
        }
        *self.untied.borrow_mut() = Some([head, embeddings].map(str::to_owned));
        Ok(Some(weights))
    }

    /// Modules of a head that was tied and of its embeddings, where a model that asked for it got a head of its own.
    pub(crate) fn untied(&self) -> Option<[String; 2]> {
        self.untied.borrow().clone()
    }

    /// The place that a tensor of the model has, where the adapter has matrices for it or rows of it.
    pub(crate) fn place<'a>(&self, name: &'a str, shape: &[usize]) -> Option<Place<'a>> {
        let module = name.strip_suffix(".weight")?;
        let own = self.modules.get(short(module))?;
        let &[first, second] = shape else { return None };
        let embedding = own.parts.contains_key(&Part::EmbeddingDown) || own.parts.contains_key(&Part::Tokens);
        let turned = embedding || self.turned.borrow().contains(short(module));
        let [outputs, inputs] = if turned { [second, first] } else { [first, second] };
        let stored = if turned { Stored::Inputs } else { Stored::Outputs };
        Some(Place { module, outputs, inputs, stored, embedding })
    }

    /// Tensors in the place of those of the model, by the names that the adapter has for these.
    pub(crate) fn wholes(&self) -> impl Iterator<Item = (&str, Option<Vec<usize>>)> {
        self.wholes.values().map(|whole| (whole.path.as_str(), self.weights.shape(&whole.name).map(<[usize]>::to_vec)))
    }

    /// Whether two names are of one tensor, of a model with or without a head.
    pub(crate) fn is_same(&self, name: &str, other: &str) -> bool {
        short(name) == short(other)
    }

    /// Counts tensors as used that belong to tensors of the model whose numbers are not needed.
    pub(crate) fn ignore(&self, unneeded: impl Fn(&str) -> bool) {
        for module in self.modules.values().filter(|module| unneeded(&format!("{}.weight", module.path))) {
            self.weights.ignore(|name| module.parts.values().any(|own| own == name));
        }
        for whole in self.wholes.values().filter(|whole| unneeded(&whole.path)) {
            self.weights.ignore(|name| name == whole.name);
        }
    }

    /// Refuses tensors that found no place.
    pub(crate) fn expect_all_used(&self, architecture: &str) -> Result<()> {
        self.weights.expect_all_used(architecture)
    }

    /// B·A for a place; an error where there should be one and is not.
    fn delta(&self, place: Place<'_>) -> Result<Option<Delta>> {
        let Place { module, outputs, inputs, embedding, .. } = place;
        let [down, up] = if embedding { [Part::EmbeddingDown, Part::EmbeddingUp] } else { [Part::Down, Part::Up] };
        let own = self.modules.get(short(module));
        let path = own.map_or(module, |own| own.path.as_str());
        let has = |part| own.is_some_and(|own| own.parts.contains_key(&part));
        match self.settings.targets(path)? {
            // Tensors that peft would not look at are left over.
            Some(false) => return Ok(None),
            None if !has(down) && !has(up) => return Ok(None),
            // Whole rows were trained instead.
            Some(true) if embedding && has(Part::Tokens) && !has(down) => return Ok(None),
            _ => {}
        }
        let rank = self.settings.rank(path)?;
        let read = |part: Part, shape: &[usize]| {
            let name = own.and_then(|own| own.parts.get(&part)).cloned().unwrap_or_else(|| {
                let suffix = PARTS.iter().find(|(_, other)| *other == part).map_or("", |(suffix, _)| suffix);
                format!("{PREFIX}{path}{suffix}")
            });
            self.weights.read(&name, shape)
        };
        let scaling = self.settings.scaling(path)?;
        let down = read(down, &[rank, inputs])?;
        let mut up = read(up, &[outputs, rank])?;
        up.iter_mut().for_each(|value| *value = (f64::from(*value) * scaling) as f32);
        let magnitudes = self.settings.dora.then(|| read(Part::Magnitudes, &[outputs])).transpose()?;
        Ok(Some(Delta { rank, inputs, down, up, magnitudes }))
    }

    /// Puts trained rows in the place of those of their tokens.
    fn replace_tokens(&self, module: &str, table: &mut [f32], [tokens, hidden]: [usize; 2]) -> Result<()> {
        let Some(own) = self.modules.get(short(module)) else { return Ok(()) };
        let Some(name) = own.parts.get(&Part::Tokens) else { return Ok(()) };
        let ids = self.settings.tokens(&own.path)?;
        let rows = self.weights.read(name, &[ids.len(), hidden])?;
        for (index, (&id, row)) in ids.iter().zip(rows.chunks_exact(hidden.max(1))).enumerate() {
            if id >= tokens {
                let allowed = format!("an id below {tokens}, the size of the vocabulary,");
                let value = i64::try_from(id).unwrap_or(i64::MAX);
                return Err(ModelError::Input { what: "trainable_token_indices", index, value, allowed });
            }
            table[id * hidden..(id + 1) * hidden].copy_from_slice(row);
        }
        Ok(())
    }
}

/// A name without what models with and without a head put before it.
fn short(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = TRUNKS.iter().find_map(|trunk| name.strip_prefix(trunk)) {
        name = rest;
    }
    name
}
