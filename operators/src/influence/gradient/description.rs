//! What a column of projected gradients is: enough to read it, and to know what it may be compared with.

use arrow_schema::Field;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{GradientConfig, Reduction};
use super::encode::Encoding;
use crate::config::invalid;
use crate::influence::sketch::{SignSource, Sketch};
use crate::scoring::Precision;
use crate::scoring::reader::Reader;
use crate::{OperatorError, Result};

/// Key of the field's metadata under which a [`SketchDescription`] is, as JSON.
pub const METADATA_KEY: &str = "gristmill.sketch";

/// The version of the format.
const FORMAT: u32 = 1;

/// What a column of projected gradients is. See the [module](super).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SketchDescription {
    /// Version of this format; 1.
    pub format: u32,
    /// The model.
    pub model: ModelDescription,
    /// How gradients were projected.
    pub projection: ProjectionDescription,
    /// What they are gradients of.
    pub loss: LossDescription,
    /// Whether each token has a row.
    pub per_token: bool,
    /// How numbers are stored.
    pub encoding: Encoding,
}

/// A model whose gradients were computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// BLAKE3 over the BLAKE3s of the files of the model and its adapter, in hexadecimal. Where the files are does not count.
    pub hash: String,
    /// BLAKE3 of the tokenizer's file.
    pub tokenizer: String,
    /// What weights were rounded to.
    pub precision: Precision,
}

/// A projection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionDescription {
    /// Rows of both sides; 0 without projection.
    pub dimension: usize,
    /// The seed of its signs.
    pub seed: u64,
    /// Where they come from.
    pub signs: SignSource,
    /// Layers in the order of their numbers in a row.
    pub modules: Vec<ModuleDescription>,
}

/// One layer of a projection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleDescription {
    /// The layer's name in the checkpoint.
    pub name: String,
    /// Where its numbers begin in a row.
    pub offset: usize,
    /// Rows of its part, `[p, q]`.
    pub p: usize,
    /// Columns of its part.
    pub q: usize,
    /// Outputs of the layer.
    pub outputs: usize,
    /// Inputs of the layer.
    pub inputs: usize,
}

/// A loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossDescription {
    /// How the losses of tokens are put together.
    pub reduction: Reduction,
    /// Which tokens are predicted: those of the `text`, of an answer or of a span, with columns and places.
    pub targets: String,
    /// The most tokens of a text.
    pub context_length: usize,
}

impl SketchDescription {
    pub(in crate::influence) fn new(config: &GradientConfig, reader: &Reader, sketch: &Sketch) -> Self {
        let (tokenizer, files) =
            reader.identities.split_last().map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
        let mut hasher = blake3::Hasher::new();
        files.iter().for_each(|file| {
            hasher.update(file.hash.as_bytes());
        });
        let modules = sketch.modules().iter().map(|module| ModuleDescription {
            name: module.name.clone(),
            offset: module.offset,
            p: module.p,
            q: module.q,
            outputs: module.outputs,
            inputs: module.inputs,
        });
        Self {
            format: FORMAT,
            model: ModelDescription {
                hash: hasher.finalize().to_hex().to_string(),
                tokenizer: tokenizer.map(|identity| identity.hash.clone()).unwrap_or_default(),
                precision: config.precision,
            },
            projection: ProjectionDescription {
                dimension: config.dimension,
                seed: config.seed,
                signs: config.signs,
                modules: modules.collect(),
            },
            loss: LossDescription {
                reduction: config.reduction,
                targets: config.targets(),
                context_length: reader.context_length,
            },
            per_token: config.per_token,
            encoding: config.output,
        }
    }

    /// The description in a field's metadata.
    ///
    /// # Errors
    /// None there, one that cannot be read, one of a newer format, one whose modules leave gaps, and a field of another type than it says.
    pub fn of(field: &Field) -> Result<Self> {
        let wrong = |message: String| invalid(field.name(), METADATA_KEY, message);
        let Some(text) = field.metadata().get(METADATA_KEY) else {
            return Err(wrong("the column is none that `gradient` made: its metadata has no such key".to_owned()));
        };
        let description: Self =
            serde_json::from_str(text).map_err(|error| wrong(format!("the description cannot be read: {error}")))?;
        if description.format != FORMAT {
            return Err(wrong(format!("format {}; this program reads format {FORMAT}", description.format)));
        }
        let mut end = Some(0_usize);
        for module in &description.projection.modules {
            if end != Some(module.offset) {
                return Err(wrong(format!(
                    "module {} begins at {}, not behind the one before",
                    module.name, module.offset
                )));
            }
            end = module.p.checked_mul(module.q).and_then(|size| size.checked_add(module.offset));
        }
        let expected = end.and_then(|_| description.data_type().ok());
        if expected.as_ref() != Some(field.data_type()) {
            let expected =
                expected.map_or_else(|| "a list that can be counted".to_owned(), |data_type| data_type.to_string());
            return Err(OperatorError::ColumnType {
                kind: METADATA_KEY.to_owned(),
                column: field.name().clone(),
                found: field.data_type().to_string(),
                expected,
            });
        }
        Ok(description)
    }

    /// The column's field, with the description in its metadata.
    ///
    /// # Errors
    /// More numbers than a list may have.
    pub fn field(&self, name: &str) -> Result<Field> {
        let text = serde_json::to_string(self).map_err(|error| invalid(name, METADATA_KEY, error.to_string()))?;
        Ok(Field::new(name, self.data_type()?, true).with_metadata([(METADATA_KEY.to_owned(), text)].into()))
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.projection.modules.last().map_or(0, |module| module.offset + module.p * module.q)
    }

    /// Whether rows of both can be multiplied with one another, and are gradients of the same loss.
    ///
    /// # Errors
    /// What differs: model, projection, or loss, with both values.
    pub fn expect_same(&self, other: &Self) -> Result<(), String> {
        self.expect_same_space(other)?;
        expect("loss", &self.loss, &other.loss)
    }

    /// Whether rows of both can be multiplied with one another: they have the same model and projection. Losses may differ, as those of queries with answers do
    /// from those of training texts.
    ///
    /// # Errors
    /// What differs: model or projection, with both values.
    pub fn expect_same_space(&self, other: &Self) -> Result<(), String> {
        expect("model", &self.model, &other.model)?;
        let [plain, other_plain] = [self, other].map(|description| {
            let ProjectionDescription { dimension, seed, signs, .. } = description.projection;
            ProjectionDescription { dimension, seed, signs, modules: Vec::new() }
        });
        expect("projection", &plain, &other_plain)?;
        let (modules, others) = (&self.projection.modules, &other.projection.modules);
        if let Some((module, other)) = modules.iter().zip(others).find(|(module, other)| module != other) {
            return expect("projection", module, other);
        }
        if modules.len() != others.len() {
            return Err(format!(
                "the projection differs: {} modules, and {} are expected",
                modules.len(),
                others.len()
            ));
        }
        Ok(())
    }
}

/// Says what differs first.
fn expect<T: Serialize + PartialEq>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let json = |value: &T| serde_json::to_value(value).unwrap_or(Value::Null);
    let (found, expected) = (json(found), json(expected));
    let keys = found.as_object().into_iter().flatten();
    let differing = keys.filter(|(key, value)| expected.get(key.as_str()) != Some(*value));
    let differing: Vec<String> = differing
        .map(|(key, value)| {
            format!("{key} is {value}, and {} is expected", expected.get(key.as_str()).unwrap_or(&Value::Null))
        })
        .collect();
    Err(format!("the {what} differs: {}", differing.join("; ")))
}
