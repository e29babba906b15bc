//! `adapter_config.json`: what an adapter is, and which modules of its model it changes.
//!
//! Names are matched as peft matches them: its patterns are regular expressions of Python, which are read here by an engine that knows
//! look-around, too.

use fancy_regex::Regex;
use serde_json::Value;

use crate::models::config::Config;
use crate::models::error::{ModelError, Result};

/// Keys that change what is computed, and that are not supported: each must be absent, null, false or empty.
const REFUSED: &[&str] = &[
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "target_parameters",
    "arrow_config",
    "velora_config",
    "monteclora_config",
    "kasa_config",
];

/// Switches of this form are known, and others that are on are refused: they name variants.
const SWITCHES: &[&str] = &["use_rslora", "use_dora"];

/// Initialisations that leave the model's own weights as they are.
const INITIALISATIONS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// What the configuration says, with its patterns compiled.
#[derive(Debug)]
pub(crate) struct Settings {
    config: Config,
    rank: usize,
    alpha: f64,
    root: bool,
    pub(crate) dora: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    targets: Names,
    excluded: Names,
    /// Only these layers, with the patterns that their numbers follow.
    layers: Option<(Vec<usize>, Vec<Regex>)>,
    saved: Vec<Regex>,
    /// Whether a tied head was trained together with the embeddings.
    pub(crate) tied: bool,
    /// Whether it was trained for a classifier.
    pub(crate) classifies: bool,
}

/// Names of modules.
#[derive(Debug)]
enum Names {
    /// All that have tensors.
    Any,
    /// These, as they are or behind a dot.
    Listed(Vec<String>),
    /// Those that a pattern matches whole.
    Matching(Regex),
}

impl Settings {
    pub(crate) fn new(config: Config) -> Result<Self> {
        if config.text("peft_type")? != Some("LORA") {
            return Err(config.unsupported("peft_type", "\"LORA\""));
        }
        if let Some(key) = REFUSED.iter().find(|key| is_on(config.get(key))) {
            return Err(config.unsupported(key, "null"));
        }
        if let Some(key) = config.keys().find(|key| {
            key.starts_with("use_") && !SWITCHES.contains(key) && config.get(key) == Some(&Value::Bool(true))
        }) {
            return Err(config.unsupported(key, "false"));
        }
        if let Some(Value::String(initialisation)) = config.get("init_lora_weights")
            && !INITIALISATIONS.contains(&initialisation.as_str())
        {
            let allowed = "true, false, \"gaussian\", \"eva\" or \"orthogonal\" (others change the model's own weights; peft saves such an \
                           adapter as a plain one with path_initial_model_for_weight_conversion)";
            return Err(config.unsupported("init_lora_weights", allowed));
        }
        let targets = match config.get("target_modules") {
            Some(Value::String(name)) if name == "all-linear" => Names::Any,
            None => Names::Any,
            _ => names(&config, "target_modules")?,
        };
        let excluded = match config.get("exclude_modules") {
            None => Names::Listed(Vec::new()),
            _ => names(&config, "exclude_modules")?,
        };
        Ok(Self {
            rank: config.count(&["r"])?,
            alpha: config.number(&["lora_alpha"])?.unwrap_or(8.0),
            root: config.flag("use_rslora", false)?,
            dora: config.flag("use_dora", false)?,
            ranks: by_pattern(&config, "rank_pattern", |value| {
                value.as_u64().and_then(|rank| usize::try_from(rank).ok()).filter(|&rank| rank > 0)
            })?,
            alphas: by_pattern(&config, "alpha_pattern", Value::as_f64)?,
            targets,
            excluded,
            layers: layers(&config)?,
            saved: texts(&config, "modules_to_save")?
                .iter()
                .map(|name| compile(&config, "modules_to_save", &format!(r"^(^|.*\.){name}($|\..*)")))
                .collect::<Result<_>>()?,
            tied: config.flag("ensure_weight_tying", false)?,
            classifies: config.text("task_type")? == Some("SEQ_CLS"),
            config,
        })
    }

    /// The rank of a module's matrices, by its path.
    pub(crate) fn rank(&self, path: &str) -> Result<usize> {
        let own = first(&self.config, "rank_pattern", &self.ranks, path)?;
        Ok(own.unwrap_or(self.rank))
    }

    /// What B·A is multiplied by: alpha / rank, or alpha / √rank.
    pub(crate) fn scaling(&self, path: &str) -> Result<f64> {
        let alpha = first(&self.config, "alpha_pattern", &self.alphas, path)?.unwrap_or(self.alpha);
        let rank = self.rank(path)? as f64;
        Ok(alpha / if self.root { rank.sqrt() } else { rank })
    }

    /// Whether peft puts matrices beside a linear layer or an embedding of this path; `None` where the configuration leaves it to the tensors.
    pub(crate) fn targets(&self, path: &str) -> Result<Option<bool>> {
        if self.matches("exclude_modules", &self.excluded, path)? || self.is_saved(path)? {
            return Ok(Some(false));
        }
        if matches!(self.targets, Names::Any) {
            return Ok(None);
        }
        if !self.matches("target_modules", &self.targets, path)? {
            return Ok(Some(false));
        }
        let Names::Listed(names) = &self.targets else { return Ok(Some(true)) };
        let Some((layers, patterns)) = &self.layers else { return Ok(Some(true)) };
        if names.iter().any(|name| name == path) {
            return Ok(Some(true));
        }
        for pattern in patterns {
            let found = pattern.captures(path).map_err(|error| self.failed("layers_pattern", &error))?;
            if let Some(number) = found.and_then(|found| found.name("idx")?.as_str().parse().ok()) {
                return Ok(Some(layers.contains(&number)));
            }
        }
        Ok(Some(false))
    }

    /// Whether a module was saved whole: `modules_to_save`.
    pub(crate) fn is_saved(&self, path: &str) -> Result<bool> {
        for pattern in &self.saved {
            if pattern.is_match(path).map_err(|error| self.failed("modules_to_save", &error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ids of the tokens of an embedding of this path whose rows were trained.
    pub(crate) fn tokens(&self, path: &str) -> Result<Vec<usize>> {
        const KEY: &str = "trainable_token_indices";
        let wrong =
            || self.config.unsupported(KEY, "a list of token ids, or an object from names of modules to such lists");
        let value = self.config.get(KEY).ok_or_else(wrong)?;
        let list = match value {
            Value::Object(lists) => {
                let own = lists.iter().find(|(name, _)| is_named(path, name));
                own.map(|(_, list)| list).ok_or_else(wrong)?
            }
            list => list,
        };
        let ids = list.as_array().ok_or_else(wrong)?;
        ids.iter().map(|id| id.as_u64().and_then(|id| usize::try_from(id).ok()).ok_or_else(wrong)).collect()
    }

    /// An error about a key's value.
    pub(crate) fn unsupported(&self, key: &str, allowed: &str) -> ModelError {
        self.config.unsupported(key, allowed)
    }

    fn matches(&self, key: &str, names: &Names, path: &str) -> Result<bool> {
        match names {
            Names::Any => Ok(true),
            Names::Listed(names) => Ok(names.iter().any(|name| is_named(path, name))),
            Names::Matching(pattern) => pattern.is_match(path).map_err(|error| self.failed(key, &error)),
        }
    }

    fn failed(&self, key: &str, error: &fancy_regex::Error) -> ModelError {
        failed(&self.config, key, error)
    }
}

/// A name as it is, or behind a dot.
fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_on(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
        Some(_) => true,
    }
}

/// A list of texts, or one.
fn texts<'a>(config: &'a Config, key: &str) -> Result<Vec<&'a str>> {
    let wrong = || config.unsupported(key, "a text or a list of texts");
    match config.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(list)) => list.iter().map(|text| text.as_str().ok_or_else(wrong)).collect(),
        Some(_) => Err(wrong()),
    }
}

fn names(config: &Config, key: &str) -> Result<Names> {
    if let Some(Value::String(pattern)) = config.get(key) {
        return Ok(Names::Matching(compile(config, key, &format!("^(?:{pattern})$"))?));
    }
    Ok(Names::Listed(texts(config, key)?.into_iter().map(str::to_owned).collect()))
}

fn layers(config: &Config) -> Result<Option<(Vec<usize>, Vec<Regex>)>> {
    const KEY: &str = "layers_to_transform";
    let wrong = || config.unsupported(KEY, "a whole number or a list of whole numbers");
    let number = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok()).ok_or_else(wrong);
    let layers = match config.get(KEY) {
        None => return Ok(None),
        Some(Value::Array(list)) if list.is_empty() => return Ok(None),
        Some(Value::Array(list)) => list.iter().map(number).collect::<Result<_>>()?,
        Some(value) => vec![number(value)?],
    };
    let names = texts(config, "layers_pattern")?;
    let patterns = if names.is_empty() || names == [""] {
        vec![compile(config, "layers_pattern", r"^.*?\.[^.]*\.(?P<idx>\d+)\.")?]
    } else {
        let pattern = |name: &&str| compile(config, "layers_pattern", &format!(r"^(?:^|.*?\.){name}\.(?P<idx>\d+)\."));
        names.iter().map(pattern).collect::<Result<_>>()?
    };
    Ok(Some((layers, patterns)))
}

/// Numbers by patterns that match the end of a path.
fn by_pattern<T>(config: &Config, key: &str, number: impl Fn(&Value) -> Option<T>) -> Result<Vec<(Regex, T)>> {
    let Some(value) = config.get(key) else { return Ok(Vec::new()) };
    let wrong = || config.unsupported(key, "an object from names of modules to numbers above 0");
    let object = value.as_object().ok_or_else(wrong)?;
    object
        .iter()
        .map(|(pattern, value)| {
            Ok((compile(config, key, &format!(r"^(.*\.)?({pattern})$"))?, number(value).ok_or_else(wrong)?))
        })
        .collect()
}

fn first<T: Copy>(config: &Config, key: &str, patterns: &[(Regex, T)], path: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.is_match(path).map_err(|error| failed(config, key, &error))? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn compile(config: &Config, key: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| failed(config, key, &error))
}

fn failed(config: &Config, key: &str, error: &fancy_regex::Error) -> ModelError {
    config.unsupported(key, format!("a regular expression that can be evaluated ({error})"))
}
