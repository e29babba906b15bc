//! Writes a model with its adapter merged into the weights, as a folder that transformers and gristmill open.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::adapters::{Adapter, Apply};
use super::config::Config;
use super::error::{ModelError, Result};
use super::files::ModelFiles;
use super::weights::Weights;
use super::{LoadOptions, Model};
use crate::Resources;

/// Files of a tokenizer, which go together: all from beside the adapter, where it has a tokenizer.json, else from beside the model.
const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Other files that belong to a model.
const OTHERS: &[&str] =
    &["generation_config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"];

/// How a merged model is written.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// A file of weights has at most so many bytes of tensors, unless a single tensor has more. With more than one file there is an index.
    pub shard_bytes: u64,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { shard_bytes: 5_000_000_000 }
    }
}

/// What was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Merged {
    /// Files in the folder, in the order in which they were written.
    pub files: Vec<PathBuf>,
    /// How many tensors there are.
    pub tensors: usize,
    /// How many of them the adapter changed or brought.
    pub changed: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// Where the numbers of a tensor come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The model, byte for byte.
    Model,
    /// The model and the adapter.
    Adapter,
    /// A head that the adapter made differ from the embeddings that it was tied to.
    Head,
}

#[derive(Debug)]
struct Planned {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    source: Source,
}

/// Writes a model with an adapter of peft merged: W + s·B·A in f32, then rounded to the type that the tensor has in the model. Tensors that the
/// adapter leaves alone are copied. `to` is a new or an empty folder on the local disk; it gets `config.json`, the weights, and
/// what there is of a tokenizer. A tied head that the adapter makes differ from the embeddings is written, and `tie_word_embeddings` set to false.
///
/// It takes the memory of the model in f32 once, to check that everything has its place, and then of one tensor.
///
/// # Errors
/// As of [`Model::load_adapted`]; a folder with something in it, or one that cannot be written; a sum that the tensor's type cannot hold.
pub fn merge(location: &str, adapter: &str, to: &Path, resources: &Resources, options: MergeOptions) -> Result<Merged> {
    let files = ModelFiles::new(location, resources);
    files.expect_model()?;
    let mut config = Config::read(&files)?;
    let weights = Weights::open(&files)?;
    let adapter_files = ModelFiles::new(adapter, resources);
    let adapter = Adapter::open(&adapter_files, Apply::Merged)?;
    let class = config.class().map(str::to_owned);
    adapter.adjust(&mut config);
    let adjusted = config.class().map(str::to_owned) != class;
    drop(Model::assemble(&config, &weights, Some(&adapter), LoadOptions::default())?);

    let planned = plan(&weights, &adapter, adjusted);
    let unwritable =
        |path: &Path, error: &std::io::Error| ModelError::Write { path: path.into(), message: error.to_string() };
    if std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = "the folder is not empty".to_owned();
        return Err(ModelError::Write { path: to.into(), message });
    }
    std::fs::create_dir_all(to).map_err(|error| unwritable(to, &error))?;
    let shards = shards(&planned, options.shard_bytes);
    let (mut written, mut map) = (Vec::new(), Map::new());
    for (number, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let path = to.join(&name);
        write_shard(&path, shard, |tensor| bytes(&weights, &adapter, tensor))?;
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone().into())));
        written.push(path);
    }
    let total: u64 = planned.iter().map(size).sum();
    let mut put = |name: &str, content: &[u8]| {
        let path = to.join(name);
        let folder = path.parent().unwrap_or(to);
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
        std::fs::write(&path, content).map_err(|error| unwritable(&path, &error))?;
        written.push(path);
        Ok::<_, ModelError>(())
    };
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        put("model.safetensors.index.json", format!("{index:#}\n").as_bytes())?;
    }
    let from = if adapter_files.read_if_there("tokenizer.json")?.is_some() { &adapter_files } else { &files };
    for (from, names) in [(from, TOKENIZER), (&files, OTHERS)] {
        for name in names {
            if let Some(content) = from.read_if_there(name)? {
                put(name, &content)?;
            }
        }
    }
    // The last one: without it the folder is no model.
    if adapter.untied().is_some() {
        config.set("tie_word_embeddings", Value::Bool(false));
    }
    put("config.json", format!("{:#}\n", Value::Object(config.values().clone())).as_bytes())?;
    let changed = planned.iter().filter(|tensor| tensor.source != Source::Model).count();
    Ok(Merged { files: written, tensors: planned.len(), changed, bytes: total })
}

/// All tensors of the merged model. The widest types come first, so that each tensor is aligned to its type.
fn plan(weights: &Weights, adapter: &Adapter, adjusted: bool) -> Vec<Planned> {
    let untied = adapter.untied().map(|[head, embeddings]| [head, embeddings].map(|module| format!("{module}.weight")));
    let head = untied.as_ref().map(|[head, _]| head.as_str());
    let mut planned = Vec::new();
    for name in weights.names() {
        let (Some(dtype), Some(shape)) = (weights.dtype(name), weights.shape(name)) else { continue };
        // The head of the language model that a classifier was made of.
        if adjusted && (name.starts_with("lm_head.") || name.starts_with("embed_out.")) {
            continue;
        }
        let source = if head == Some(name) {
            Source::Head
        } else if adapter.has(name) || adapter.place(name, shape).is_some() {
            Source::Adapter
        } else {
            Source::Model
        };
        planned.push(Planned { name: name.to_owned(), dtype, shape: shape.to_vec(), source });
    }
    let float = planned.iter().map(|tensor| tensor.dtype).find(|dtype| matches!(dtype, Dtype::BF16 | Dtype::F16));
    let dtype = float.unwrap_or(Dtype::F32);
    if let Some([head, embeddings]) = &untied
        && !weights.has(head)
        && let Some(shape) = weights.shape(embeddings)
    {
        planned.push(Planned { name: head.clone(), dtype, shape: shape.to_vec(), source: Source::Head });
    }
    for (path, shape) in adapter.wholes() {
        if let Some(shape) = shape.filter(|_| !planned.iter().any(|tensor| adapter.is_same(&tensor.name, path))) {
            planned.push(Planned { name: path.to_owned(), dtype, shape, source: Source::Adapter });
        }
    }
    planned.sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));
    planned
}

fn size(tensor: &Planned) -> u64 {
    (tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8) as u64
}

/// Consecutive tensors of at most so many bytes together.
fn shards(planned: &[Planned], most: u64) -> Vec<&[Planned]> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, tensor) in planned.iter().enumerate() {
        if index > start && bytes + size(tensor) > most {
            shards.push(&planned[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size(tensor);
    }
    shards.push(&planned[start..]);
    shards
}

fn bytes(weights: &Weights, adapter: &Adapter, tensor: &Planned) -> Result<Vec<u8>> {
    let Planned { name, dtype, shape, source } = tensor;
    let values = match (source, adapter.untied()) {
        (Source::Model, _) => return weights.bytes(name),
        (Source::Head, Some([head, embeddings])) => {
            let &[vocabulary, hidden] = shape.as_slice() else { return weights.bytes(name) };
            let own = adapter.untied_head(weights, &embeddings, &head, [vocabulary, hidden])?;
            own.map_or_else(|| weights.read(name, shape), Ok)?
        }
        _ => match adapter.place(name, shape) {
            Some(place) => adapter.merged(weights, place)?,
            None => adapter.tensor(weights, name, shape)?,
        },
    };
    let rounded = |to: fn(f32) -> f32| values.iter().position(|&value| value.is_finite() && !to(value).is_finite());
    let lost = match dtype {
        Dtype::F16 => rounded(|value| f16::from_f32(value).to_f32()),
        Dtype::BF16 => rounded(|value| bf16::from_f32(value).to_f32()),
        _ => None,
    };
    if let Some(index) = lost {
        let message =
            format!("element {index} of '{name}' is {} when merged, which {dtype:?} cannot hold", values[index]);
        return Err(ModelError::Write { path: name.into(), message });
    }
    Ok(match dtype {
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    })
}

/// A file of safetensors: the length of the header, the header, the tensors one behind the other.
fn write_shard(path: &Path, shard: &[Planned], bytes: impl Fn(&Planned) -> Result<Vec<u8>>) -> Result<()> {
    let unwritable = |error: std::io::Error| ModelError::Write { path: path.into(), message: error.to_string() };
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut start = 0;
    for tensor in shard {
        let end = start + size(tensor);
        let about =
            json!({"dtype": format!("{:?}", tensor.dtype), "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), about);
        start = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path).map_err(unwritable)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(unwritable)?;
    for tensor in shard {
        file.write_all(&bytes(tensor)?).map_err(unwritable)?;
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(unwritable)
}
