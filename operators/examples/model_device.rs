//! Checks and times models on a GPU: a single program that can be built without one and carried to it.
//!
//! ```sh
//! cargo build --release -p gristmill-operators --example model_device --features cuda
//! model_device check FOLDER [f32|bf16]     # the GPU against the CPU, on token ids made up for the model in the folder
//! model_device time [--seconds S]          # BERT-base, ModernBERT-large and a Llama of 1.2 billion weights, at random
//! ```
//! `time` prints for each model and type tokens a second, TFLOP/s of its products and attention, and what share that is of the rate that the largest
//! product of the model has by itself. Models are made in a temporary folder, with the largest taking 5 GB of disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use gristmill_kernels::device::Device;
use gristmill_kernels::gemm::{LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::launch::Float;
use gristmill_kernels::pool::Pool;
use gristmill_kernels::workers::Serial;
use gristmill_operators::Resources;
use gristmill_operators::models::{Batch, Compute, LoadOptions, Model, Precision};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// Tokens of a batch on the GPU.
const TOKENS: usize = 16_384;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = match open() {
        Ok(device) => device,
        Err(error) => {
            println!("no GPU: {error}");
            return;
        }
    };
    println!("{}", device.name());
    match arguments.first().map(String::as_str) {
        Some("check") => check(&device, Path::new(&arguments[1]), arguments.get(2).is_some_and(|name| name == "bf16")),
        Some("time") => {
            let seconds = arguments.get(2).map_or(2.0, |seconds| seconds.parse().unwrap());
            time_all(&device, Duration::from_secs_f64(seconds));
        }
        _ => println!("model_device check FOLDER [f32|bf16], or model_device time [--seconds S]"),
    }
}

#[cfg(feature = "cuda")]
fn open() -> Result<Device, String> {
    gristmill_kernels::gpu::Gpu::open(0).map(Device::new).map_err(|error| error.to_string())
}

#[cfg(not(feature = "cuda"))]
fn open() -> Result<Device, String> {
    Err("built without the feature `cuda`".into())
}

fn load(folder: &Path, half: bool) -> Model {
    let precision = if half { Precision::Bf16 } else { Precision::F32 };
    let options = LoadOptions { precision, ..LoadOptions::default() };
    Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap().0
}

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
fn check(device: &Device, folder: &Path, half: bool) {
    let (cpu, mut gpu) = (load(folder, half), load(folder, half));
    let batch = texts(&cpu, 256);
    gpu.move_to(device, TOKENS).unwrap();
    let mut alone = load(folder, half);
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
}

/// A model to be made, and what is asked of it.
struct Shape {
    name: &'static str,
    config: Value,
    tensors: Vec<(String, Vec<usize>)>,
    /// Tokens of a text.
    length: usize,
    /// Multiplications and additions for a token, without attention and head.
    layer_products: f64,
    attention_width: f64,
    layers: f64,
    largest: [usize; 2],
    losses: bool,
}

fn time_all(device: &Device, least: Duration) {
    for shape in [bert_base(), modernbert_large(), llama_1b()] {
        let folder = make(&shape);
        for half in [false, true] {
            time(device, &shape, folder.path(), half, least);
        }
    }
}

fn time(device: &Device, shape: &Shape, folder: &Path, half: bool, least: Duration) {
    let mut model = load(folder, half);
    let mut batch = Batch::default();
    for text in 0..TOKENS / shape.length {
        batch.push(&(0..shape.length as u32).map(|id| (id * 31 + text as u32 * 7) % 30_000).collect::<Vec<u32>>());
    }
    model.move_to(device, TOKENS).unwrap();
    let ask = || {
        if shape.losses {
            model.token_losses(ALONE, &batch).unwrap().unwrap().len()
        } else {
            model.pooled(ALONE, &batch, None, Pool::Mean).unwrap().len()
        }
    };
    ask();
    let (begun, mut runs) = (Instant::now(), 0);
    while runs == 0 || begun.elapsed() < least {
        ask();
        runs += 1;
    }
    let seconds = begun.elapsed().as_secs_f64() / f64::from(runs);
    let tokens = batch.tokens() as f64;
    let seen = if shape.losses { shape.length as f64 / 2.0 } else { shape.length as f64 };
    let head = if shape.losses { (model.hidden_size() * model.vocabulary()) as f64 } else { 0.0 };
    let work = 2.0 * tokens * (shape.layer_products + head + shape.layers * 2.0 * shape.attention_width * seen);
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
fn product<T: Float>(device: &Device, shape: &Shape, least: Duration) -> f64 {
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

fn make(shape: &Shape) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), shape.config.to_string()).unwrap();
    // Small numbers around zero, and norms of about 1.
    let mut state = 1_u64;
    let mut value = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 40) as f32 / 16_777_216.0 - 0.5) * 0.06
    };
    let data: Vec<Vec<u8>> = shape
        .tensors
        .iter()
        .map(|(name, shape)| {
            let one = if name.to_lowercase().contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
            (0..shape.iter().product::<usize>()).flat_map(|_| bf16::from_f32(one + value()).to_le_bytes()).collect()
        })
        .collect();
    let views = shape
        .tensors
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| (name.clone(), TensorView::new(Dtype::BF16, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

fn bert_base() -> Shape {
    let (hidden, inner, layers, vocabulary) = (768, 3072, 12, 30_522);
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![vocabulary, hidden]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![512, hidden]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, hidden]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![hidden]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let mut linear = |name: &str, outputs: usize, inputs: usize| {
            tensors.push((format!("encoder.layer.{layer}.{name}.weight"), vec![outputs, inputs]));
            tensors.push((format!("encoder.layer.{layer}.{name}.bias"), vec![outputs]));
        };
        for name in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            linear(name, hidden, hidden);
        }
        linear("intermediate.dense", inner, hidden);
        linear("output.dense", hidden, inner);
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            for part in ["weight", "bias"] {
                tensors.push((format!("encoder.layer.{layer}.{name}.{part}"), vec![hidden]));
            }
        }
    }
    Shape {
        name: "BERT-base",
        config: json!({
            "model_type": "bert", "architectures": ["BertModel"], "hidden_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": 12, "intermediate_size": inner, "vocab_size": vocabulary,
            "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        }),
        tensors,
        length: 512,
        layer_products: (layers * (4 * hidden * hidden + 2 * hidden * inner)) as f64,
        attention_width: hidden as f64,
        layers: layers as f64,
        largest: [inner, hidden],
        losses: false,
    }
}

fn modernbert_large() -> Shape {
    let (hidden, inner, layers, vocabulary) = (1024, 2624, 28, 50_368);
    let mut tensors = vec![
        ("model.embeddings.tok_embeddings.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.embeddings.norm.weight".to_owned(), vec![hidden]),
        ("model.final_norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let mut add =
            |name: &str, shape: Vec<usize>| tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        add("attn.Wqkv", vec![3 * hidden, hidden]);
        add("attn.Wo", vec![hidden, hidden]);
        add("mlp.Wi", vec![2 * inner, hidden]);
        add("mlp.Wo", vec![hidden, inner]);
        add("mlp_norm", vec![hidden]);
        if layer > 0 {
            add("attn_norm", vec![hidden]);
        }
    }
    Shape {
        name: "ModernBERT-large",
        config: json!({
            "model_type": "modernbert", "architectures": ["ModernBertModel"], "hidden_size": hidden,
            "num_hidden_layers": layers, "num_attention_heads": 16, "intermediate_size": inner,
            "vocab_size": vocabulary, "max_position_embeddings": 8192, "hidden_activation": "gelu", "norm_eps": 1e-5,
            "global_attn_every_n_layers": 3, "local_attention": 128, "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
        }),
        tensors,
        length: 1024,
        layer_products: (layers * (4 * hidden * hidden + 3 * hidden * inner)) as f64,
        // Two layers of three see at most 129 tokens.
        attention_width: hidden as f64 * (1.0 + 2.0 * 129.0 / 1024.0) / 3.0,
        layers: layers as f64,
        largest: [inner, hidden],
        losses: false,
    }
}

fn llama_1b() -> Shape {
    let (hidden, inner, layers, vocabulary, keys) = (2048, 8192, 16, 128_256, 512);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let mut add =
            |name: &str, shape: Vec<usize>| tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        add("self_attn.q_proj", vec![hidden, hidden]);
        add("self_attn.k_proj", vec![keys, hidden]);
        add("self_attn.v_proj", vec![keys, hidden]);
        add("self_attn.o_proj", vec![hidden, hidden]);
        add("mlp.gate_proj", vec![inner, hidden]);
        add("mlp.up_proj", vec![inner, hidden]);
        add("mlp.down_proj", vec![hidden, inner]);
        add("input_layernorm", vec![hidden]);
        add("post_attention_layernorm", vec![hidden]);
    }
    Shape {
        name: "Llama, 1.2 billion",
        config: json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
            "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "intermediate_size": inner, "vocab_size": vocabulary, "max_position_embeddings": 8192,
            "tie_word_embeddings": true, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "hidden_act": "silu",
        }),
        tensors,
        length: 2048,
        layer_products: (layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner)) as f64,
        attention_width: hidden as f64,
        layers: layers as f64,
        largest: [inner, hidden],
        losses: true,
    }
}
