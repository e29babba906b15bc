//! Architectures: each reads its own configuration and names, and assembles the shared parts.

mod bert;
mod deberta;
mod gpt2;
mod gpt_neox;
mod llama;
mod modernbert;

use gristmill_kernels::attention::Mask;
use gristmill_kernels::glu::Activation;

use super::config::Config;
use super::error::Result;
use super::heads::Head;
use super::loader::Loader;
use super::transformer::Transformer;

/// What an architecture makes.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub(crate) transformer: Transformer,
    pub(crate) head: Head,
}

/// Makes an architecture out of a configuration and weights.
type Assemble = fn(&Config, &Loader<'_>) -> Result<Assembled>;

/// Architectures by the configuration's `model_type`.
const ARCHITECTURES: &[(&str, Assemble)] = &[
    ("bert", bert::assemble),
    ("deberta-v2", deberta::assemble),
    ("distilbert", bert::assemble_distilbert),
    ("gpt2", gpt2::assemble),
    ("gpt_neox", gpt_neox::assemble),
    ("llama", llama::assemble),
    ("mistral", llama::assemble),
    ("modernbert", modernbert::assemble),
    ("olmo", llama::assemble_olmo),
    ("olmo2", llama::assemble_olmo2),
    ("qwen2", llama::assemble_qwen2),
    ("qwen3", llama::assemble_qwen3),
    ("roberta", bert::assemble_roberta),
    ("xlm-roberta", bert::assemble_roberta),
];

/// The function that makes the configuration's architecture.
pub(crate) fn find(config: &Config) -> Result<Assemble> {
    let kind = config.model_type()?;
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == kind);
    found.map(|(_, assemble)| *assemble).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        config.unsupported("model_type", format!("one of {}", known.join(", ")))
    })
}

/// The activation of a feed-forward layer.
fn activation(config: &Config, key: &str, default: Activation) -> Result<Activation> {
    Ok(match config.text(key)? {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu" | "gelu_python") => Activation::GeluErf,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh") => Activation::GeluTanh,
        Some(_) => return Err(config.unsupported(key, "\"silu\", \"gelu\", \"gelu_new\" or \"gelu_pytorch_tanh\"")),
    })
}

/// A causal mask that reaches so many tokens back, the token itself counted.
fn causal(window: Option<usize>) -> Mask {
    Mask { left: window.map(|window| window.saturating_sub(1)), right: Some(0) }
}
