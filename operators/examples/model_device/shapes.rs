//! Models of known shapes with weights at random.

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::Path;

/// A model to be made, and what is asked of it.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    config: Value,
    tensors: Vec<(String, Vec<usize>)>,
    /// Tokens of a text.
    pub(crate) length: usize,
    /// Multiplications and additions for a token, without attention and head.
    pub(crate) layer_products: f64,
    pub(crate) attention_width: f64,
    pub(crate) layers: f64,
    pub(crate) largest: [usize; 2],
    pub(crate) losses: bool,
}

impl Shape {
    /// Multiplications and additions of attention for a token that sees half of such a text, or all of it.
    pub(crate) fn attention_products(&self, length: usize) -> f64 {
        let seen = if self.losses { length as f64 / 2.0 } else { length as f64 };
        self.layers * 2.0 * self.attention_width * seen
    }
}

/// Writes a model of this shape.
pub(crate) fn write(shape: &Shape, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), shape.config.to_string()).unwrap();
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
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// The same in a temporary folder.
pub(crate) fn make(shape: &Shape) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(shape, folder.path());
    folder
}

pub(crate) fn bert_base() -> Shape {
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

pub(crate) fn modernbert_large() -> Shape {
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

pub(crate) fn llama_1b() -> Shape {
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

/// The shape of Pythia-160M.
pub(crate) fn neox_160m() -> Shape {
    let (hidden, inner, layers, vocabulary) = (768, 3072, 12, 50_304);
    let mut tensors = vec![
        ("gpt_neox.embed_in.weight".to_owned(), vec![vocabulary, hidden]),
        ("embed_out.weight".to_owned(), vec![vocabulary, hidden]),
        ("gpt_neox.final_layer_norm.weight".to_owned(), vec![hidden]),
        ("gpt_neox.final_layer_norm.bias".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let mut linear = |name: &str, outputs: usize, inputs: usize| {
            tensors.push((format!("gpt_neox.layers.{layer}.{name}.weight"), vec![outputs, inputs]));
            tensors.push((format!("gpt_neox.layers.{layer}.{name}.bias"), vec![outputs]));
        };
        linear("attention.query_key_value", 3 * hidden, hidden);
        linear("attention.dense", hidden, hidden);
        linear("mlp.dense_h_to_4h", inner, hidden);
        linear("mlp.dense_4h_to_h", hidden, inner);
        for name in ["input_layernorm", "post_attention_layernorm"] {
            for part in ["weight", "bias"] {
                tensors.push((format!("gpt_neox.layers.{layer}.{name}.{part}"), vec![hidden]));
            }
        }
    }
    Shape {
        name: "GPT-NeoX, 160 million",
        config: json!({
            "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": hidden,
            "num_hidden_layers": layers, "num_attention_heads": 12, "intermediate_size": inner,
            "vocab_size": vocabulary, "max_position_embeddings": 2048, "rotary_pct": 0.25, "rotary_emb_base": 10_000,
            "use_parallel_residual": true, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "tie_word_embeddings": false,
        }),
        tensors,
        length: 1024,
        layer_products: (layers * (4 * hidden * hidden + 2 * hidden * inner)) as f64,
        attention_width: hidden as f64,
        layers: layers as f64,
        largest: [inner, hidden],
        losses: true,
    }
}
