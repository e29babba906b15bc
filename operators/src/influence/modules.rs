//! Which linear layers of a model are looked at.

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::{Model, Parameter, ParameterKind};

/// Linear layers by their names in the checkpoint (`model.layers.0.mlp.up_proj`): patterns in which `*` stands for any characters and `?` for one.
///
/// Heads of language models and embeddings are no linear layers here: as in published programs they are left out.
///
/// ```
/// use gristmill_operators::influence::Modules;
///
/// let modules = Modules { include: vec!["*.mlp.*".to_owned()], exclude: vec!["*.0.*".to_owned()] };
/// assert!(modules.takes("model.layers.1.mlp.up_proj"));
/// assert!(!modules.takes("model.layers.0.mlp.up_proj") && !modules.takes("model.layers.1.self_attn.q_proj"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// A layer must match one of these.
    #[serde(default = "all")]
    pub include: Vec<String>,
    /// A layer that matches one of these is left out.
    #[serde(default)]
    pub exclude: Vec<String>,
}

impl Default for Modules {
    fn default() -> Self {
        Self { include: all(), exclude: Vec::new() }
    }
}

impl Modules {
    /// Whether a layer of this name is taken.
    pub fn takes(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        any(&self.include) && !any(&self.exclude)
    }

    /// The weights of the layers of a model that are taken, in the order of its parameters, by the name of the layer. The error says what there is.
    pub fn of<'m>(&self, model: &'m Model) -> Result<Vec<(String, &'m Parameter)>, String> {
        let linear = || {
            let parameters = model.parameters().filter(|parameter| parameter.kind() == ParameterKind::Linear);
            parameters.map(|parameter| (layer_name(parameter.name()), parameter))
        };
        let taken: Vec<_> = linear()
            .filter(|(name, _)| self.takes(name))
            .map(|(name, parameter)| (name.to_owned(), parameter))
            .collect();
        if !taken.is_empty() {
            return Ok(taken);
        }
        let names: Vec<&str> = linear().map(|(name, _)| name).collect();
        let shown = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
        Err(format!(
            "no linear layer matches {:?} without {:?}; the model has {shown}{more}",
            self.include, self.exclude
        ))
    }
}

/// The name of the layer whose weights have this name.
pub(crate) fn layer_name(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

fn matches(pattern: &str, name: &str) -> bool {
    let body = regex::escape(pattern).replace("\\*", ".*").replace("\\?", ".");
    // A pattern of escaped characters and wildcards is always a regular expression; one that is too large matches nothing.
    Regex::new(&format!("^(?s:{body})$")).is_ok_and(|pattern| pattern.is_match(name))
}
