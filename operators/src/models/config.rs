//! `config.json` of a Hugging Face model, as transformers 4 and transformers 5 write it.
//!
//! The two generations name some things differently; what differs is read here, so that an architecture asks for one thing. A key
//! that is null counts as absent, as it does in transformers.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{ModelError, Result};
use super::files::ModelFiles;
use super::rope::{RopeSpec, Scaling};

/// A configuration with the path that messages name.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` of a model.
    pub(crate) fn read(files: &ModelFiles<'_>) -> Result<Self> {
        Self::read_named(files, "config.json")
    }

    /// Another file of its kind.
    pub(crate) fn read_named(files: &ModelFiles<'_>, name: &str) -> Result<Self> {
        Self::parse(&files.path(name), &files.read(name)?)
    }

    /// Keys at the top.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// All values.
    pub(crate) fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// Sets a value.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// The same of bytes; messages name the path.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        let malformed = |message: String| ModelError::Malformed { path: path.into(), message };
        match serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))? {
            Value::Object(values) => Ok(Self { path: path.into(), values }),
            other => Err(malformed(format!("an object is expected, found {}", kind(&other)))),
        }
    }

    /// The value of a key, a dotted path; `None` where there is none or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let mut value = self.values.get(parts.next()?)?;
        for part in parts {
            value = value.as_object()?.get(part)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// The first of several names of one thing that is there.
    fn first<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &Value)> {
        keys.iter().find_map(|&key| self.get(key).map(|value| (key, value)))
    }

    /// An error about a key's value.
    pub(crate) fn unsupported(&self, key: &str, allowed: impl Into<String>) -> ModelError {
        let value = self.get(key).map_or_else(|| "null".to_owned(), Value::to_string);
        ModelError::Unsupported { path: self.path.clone(), key: key.into(), value, allowed: allowed.into() }
    }

    fn missing(&self, key: &str, expected: &str) -> ModelError {
        ModelError::MissingKey { path: self.path.clone(), key: key.into(), expected: expected.into() }
    }

    /// A count, by the first of its names that is there.
    pub(crate) fn size(&self, keys: &[&str]) -> Result<usize> {
        self.optional_size(keys)?.ok_or_else(|| self.missing(keys[0], "a whole number"))
    }

    /// A count that may be absent.
    pub(crate) fn optional_size(&self, keys: &[&str]) -> Result<Option<usize>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        // Products of two sizes then fit into a usize.
        let size = value.as_u64().and_then(|size| i32::try_from(size).ok()).and_then(|size| usize::try_from(size).ok());
        size.map(Some).ok_or_else(|| self.unsupported(key, "a whole number from 0 to 2,147,483,647"))
    }

    /// A count of at least one.
    pub(crate) fn count(&self, keys: &[&str]) -> Result<usize> {
        let size = self.size(keys)?;
        if size == 0 {
            return Err(self.unsupported(self.first(keys).map_or(keys[0], |(key, _)| key), "a whole number above 0"));
        }
        Ok(size)
    }

    /// A number that may be absent.
    pub(crate) fn number(&self, keys: &[&str]) -> Result<Option<f64>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.unsupported(key, "a number"))
    }

    /// A switch.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| self.unsupported(key, "true or false")))
    }

    /// A text that may be absent.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key).map_or(Ok(None), |value| value.as_str().map(Some).ok_or_else(|| self.unsupported(key, "a text")))
    }

    /// Refuses a switch that is on.
    pub(crate) fn refuse_flag(&self, key: &str) -> Result<()> {
        if self.flag(key, false)? { Err(self.unsupported(key, "false")) } else { Ok(()) }
    }

    /// What kind of model it is.
    pub(crate) fn model_type(&self) -> Result<&str> {
        self.text("model_type")?.ok_or_else(|| self.missing("model_type", "the name of an architecture"))
    }

    /// The class that the weights were saved from, such as `LlamaForCausalLM`.
    pub(crate) fn class(&self) -> Option<&str> {
        self.get("architectures")?.as_array()?.first()?.as_str()
    }

    /// How many labels there are, without their names.
    pub(crate) fn label_count(&self) -> Result<usize> {
        if self.get("id2label").is_some() {
            return Ok(self.labels()?.len());
        }
        match self.optional_size(&["num_labels"])?.unwrap_or(2) {
            0 => Err(self.unsupported("num_labels", "a whole number above 0")),
            count => Ok(count),
        }
    }

    /// Names of labels in their order; as many as `num_labels` says, or two, where there are no names.
    pub(crate) fn labels(&self) -> Result<Vec<String>> {
        let Some(value) = self.get("id2label") else {
            return Ok((0..self.label_count()?).map(|label| format!("LABEL_{label}")).collect());
        };
        let wrong = || self.unsupported("id2label", "an object from \"0\", \"1\", … to names");
        let labels = value.as_object().filter(|labels| !labels.is_empty()).ok_or_else(wrong)?;
        (0..labels.len())
            .map(|label| labels.get(&label.to_string()).and_then(Value::as_str).map(str::to_owned).ok_or_else(wrong))
            .collect()
    }

    /// For each layer, whether its attention is local: `layer_types`, where it is there.
    pub(crate) fn local_layers(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.get("layer_types") else { return Ok(None) };
        let wrong = || {
            let allowed = format!("a list of {layers} of \"full_attention\" and \"sliding_attention\"");
            self.unsupported("layer_types", allowed)
        };
        let list = value.as_array().filter(|list| list.len() == layers).ok_or_else(wrong)?;
        let local = |value: &Value| match value.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(wrong()),
        };
        list.iter().map(local).collect::<Result<_>>().map(Some)
    }

    /// Rotary embedding of heads of `head_width`. `section` chooses among the kinds of layers that `rope_parameters` of transformers 5 can
    /// tell apart; `theta` are the names that transformers 4 has for the base.
    pub(crate) fn rope(
        &self,
        section: Option<&str>,
        head_width: usize,
        theta: &[&str],
        default_theta: f64,
    ) -> Result<RopeSpec> {
        let new = section.map(|section| format!("rope_parameters.{section}"));
        let new = new.filter(|section| self.get(section).is_some_and(Value::is_object));
        let at = match new {
            Some(section) => section,
            None if self.get("rope_parameters").is_some() => "rope_parameters".to_owned(),
            None => "rope_scaling".to_owned(),
        };
        if let Some(value) = self.get(&at)
            && !value.is_object()
        {
            return Err(self.unsupported(&at, "an object"));
        }
        let inside = |name: &str| format!("{at}.{name}");
        let mut bases = vec![inside("rope_theta")];
        bases.extend(theta.iter().map(|&name| name.to_owned()));
        let base = self.number(&bases.iter().map(String::as_str).collect::<Vec<_>>())?.unwrap_or(default_theta);
        let partial = inside("partial_rotary_factor");
        let share = self.number(&[partial.as_str(), "partial_rotary_factor", "rotary_pct"])?.unwrap_or(1.0);
        let rotated = (head_width as f64 * share) as usize;
        if !(0.0..=1.0).contains(&share) || !rotated.is_multiple_of(2) {
            let key = self
                .first(&[partial.as_str(), "partial_rotary_factor", "rotary_pct"])
                .map_or("head_dim", |(key, _)| key);
            return Err(
                self.unsupported(key, format!("a share of the {head_width} values of a head that is an even number"))
            );
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(self.unsupported(&bases[0], "a number above 0"));
        }
        Ok(RopeSpec { base, rotated, scaling: self.scaling(&at, rotated)? })
    }

    fn scaling(&self, at: &str, rotated: usize) -> Result<Scaling> {
        let inside = |name: &str| format!("{at}.{name}");
        let (new, old) = (inside("rope_type"), inside("type"));
        let kind = match self.text(&new)? {
            Some(kind) => kind,
            None => self.text(&old)?.unwrap_or("default"),
        };
        let number = |name: &str| self.number(&[inside(name).as_str()]);
        let needed = |name: &str| {
            let number = number(name)?.filter(|&number| number > 0.0);
            number.ok_or_else(|| self.missing(&inside(name), "a number above 0"))
        };
        let original = inside("original_max_position_embeddings");
        let trained =
            || self.count(&[original.as_str(), "original_max_position_embeddings", "max_position_embeddings"]);
        let share = |trained: usize| -> Result<f64> {
            match number("factor")? {
                Some(factor) => Ok(factor),
                None => Ok(self.count(&["max_position_embeddings"])? as f64 / trained as f64),
            }
        };
        Ok(match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: needed("factor")? },
            "dynamic" => {
                Scaling::Dynamic { factor: needed("factor")?, trained: self.count(&["max_position_embeddings"])? }
            }
            "llama3" => Scaling::Llama3 {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                trained: self.count(&[original.as_str()])?,
            },
            "yarn" => {
                let trained = trained()?;
                Scaling::Yarn {
                    factor: share(trained)?,
                    trained,
                    fast: number("beta_fast")?.unwrap_or(32.0),
                    slow: number("beta_slow")?.unwrap_or(1.0),
                    whole: self.flag(&inside("truncate"), true)?,
                    attention: number("attention_factor")?,
                    mscale: number("mscale")?.zip(number("mscale_all_dim")?),
                }
            }
            "longrope" | "su" => {
                let trained = trained()?;
                let factors = |name: &str| -> Result<Vec<f64>> {
                    let key = inside(name);
                    let list = self.get(&key).and_then(Value::as_array);
                    let list = list.and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
                    list.filter(|list| list.len() == rotated / 2)
                        .ok_or_else(|| self.unsupported(&key, format!("a list of {} numbers", rotated / 2)))
                };
                Scaling::LongRope {
                    factor: share(trained)?,
                    trained,
                    short: factors("short_factor")?,
                    long: factors("long_factor")?,
                    attention: number("attention_factor")?,
                }
            }
            _ => {
                let key = if self.get(&new).is_some() { new } else { old };
                return Err(self
                    .unsupported(&key, "\"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" or \"longrope\""));
            }
        })
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a switch",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
