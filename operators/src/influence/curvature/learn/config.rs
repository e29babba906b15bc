//! What is learned, and what has to be learned before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::KIND;
use crate::config::invalid;
use crate::influence::Modules;
use crate::influence::gradient::{Encoding, GradientConfig, Norms, Reduction, Span};
use crate::influence::sketch::{SignSource, SketchSpec, default_dimension};
use crate::models::gradients;
use crate::operator::{Fit, OperatorSpec};
use crate::scoring::{Device, Precision};
use crate::{OperatorError, Result};

/// Configuration of `gradient_statistics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GradientStatisticsConfig {
    /// A causal language model: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
    pub model: String,
    /// An adapter of peft for the model (LoRA, rsLoRA, DoRA), which is merged into the weights.
    #[serde(default)]
    pub adapter: Option<String>,
    /// The tokenizer, if it is not the one beside the model.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The text column.
    #[serde(default = "default_column")]
    pub column: String,
    /// A column of answers to the texts: the loss is that of their tokens.
    #[serde(default)]
    pub answer: Option<String>,
    /// The loss is that of these tokens of a text. Not together with `answer`.
    #[serde(default)]
    pub span: Option<Span>,
    /// The most tokens of a text, after which it is cut off; as many as the model takes if left out.
    #[serde(default)]
    pub context_length: Option<usize>,
    /// How the losses of a text's tokens are put together.
    #[serde(default)]
    pub reduction: StatisticsReduction,
    /// The linear layers.
    #[serde(default)]
    pub modules: Modules,
    /// What the model's weights are rounded to: `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Where gradients are computed.
    #[serde(default)]
    pub device: Device,
    /// What is learned.
    pub statistics: Learned,
    /// Whether the gradient of a layer's bias is a further column of the gradient of its weights, as in kronfluence. Not of `gram` and `adafactor`.
    #[serde(default)]
    pub bias: bool,
    /// Of `ekfac_lambda`: the file that was learned with `kfac`; of `data_inf` that with `gram`: made from the rows themselves if left out. Of `gram`: a file that was
    /// learned with `adafactor`, by which gradients are scaled before they are projected.
    #[serde(default)]
    pub factors: Option<String>,
}

fn default_column() -> String {
    "text".to_owned()
}

/// What is learned of gradients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Learned {
    /// Covariances of what layers read and of the gradients of what they give.
    Kfac {
        /// The tokens of whose losses gradients are.
        #[serde(default)]
        labels: Labels,
        /// For labels that are drawn: other numbers draw others.
        #[serde(default)]
        seed: u64,
    },
    /// Eigenvalues in the basis of `kfac`, for EK-FAC.
    EkfacLambda {
        /// The tokens of whose losses gradients are.
        #[serde(default)]
        labels: Labels,
        /// For labels that are drawn: other numbers draw others.
        #[serde(default)]
        seed: u64,
    },
    /// The mean of each squared element: for diagonal preconditioners, and as Adam keeps it.
    Diagonal {
        /// The tokens of whose losses gradients are.
        #[serde(default)]
        labels: Labels,
        /// For labels that are drawn: other numbers draw others.
        #[serde(default)]
        seed: u64,
    },
    /// Means of squares of each row and column, as Adafactor keeps them.
    Adafactor {},
    /// The Gram matrix of projected gradients of each layer.
    Gram {
        /// Rows p of both projections of a layer.
        #[serde(default = "default_dimension")]
        dimension: usize,
        /// Other numbers give other projections.
        #[serde(default)]
        seed: u64,
        /// Where the signs of projections come from.
        #[serde(default)]
        signs: SignSource,
    },
    /// The Gram matrix of projected gradients of each layer, each divided by λ + ‖g‖², with λ from `gram`: what DataInf needs.
    DataInf {
        /// Rows p of both projections of a layer.
        #[serde(default = "default_dimension")]
        dimension: usize,
        /// Other numbers give other projections.
        #[serde(default)]
        seed: u64,
        /// Where the signs of projections come from.
        #[serde(default)]
        signs: SignSource,
        /// λ as a share of the mean eigenvalue of the Gram matrix.
        #[serde(default = "default_damping")]
        damping: f64,
    },
}

/// As of the program of the authors of DataInf.
const fn default_damping() -> f64 {
    0.1
}

/// The tokens of whose losses gradients are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// Tokens drawn from what the model predicts: the Fisher information. A text that is there twice has the same ones drawn.
    #[default]
    Sampled,
    /// The tokens that are there: the empirical Fisher information.
    True,
}

/// How the losses of a text's tokens are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatisticsReduction {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

impl From<StatisticsReduction> for gradients::Reduction {
    fn from(reduction: StatisticsReduction) -> Self {
        match reduction {
            StatisticsReduction::Mean => Self::Mean,
            StatisticsReduction::Sum => Self::Sum,
        }
    }
}

impl Learned {
    /// Its name in a configuration.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Kfac { .. } => "kfac",
            Self::EkfacLambda { .. } => "ekfac_lambda",
            Self::Diagonal { .. } => "diagonal",
            Self::Adafactor {} => "adafactor",
            Self::Gram { .. } => "gram",
            Self::DataInf { .. } => "data_inf",
        }
    }

    /// The seed of labels that are drawn; `None` for those that are there.
    pub(super) const fn drawn(&self) -> Option<u64> {
        match *self {
            Self::Kfac { labels: Labels::Sampled, seed }
            | Self::EkfacLambda { labels: Labels::Sampled, seed }
            | Self::Diagonal { labels: Labels::Sampled, seed } => Some(seed),
            _ => None,
        }
    }
}

impl GradientStatisticsConfig {
    /// Refuses keys that what is learned has no use for.
    pub(super) fn check(&self) -> Result<()> {
        let name = self.statistics.name();
        let of_weights =
            matches!(self.statistics, Learned::Gram { .. } | Learned::DataInf { .. } | Learned::Adafactor {});
        if self.bias && of_weights {
            return Err(invalid(KIND, "bias", format!("'{name}' is learned of weights alone; leave it out")));
        }
        let of_others =
            matches!(self.statistics, Learned::EkfacLambda { .. } | Learned::Gram { .. } | Learned::DataInf { .. });
        if self.factors.is_some() && !of_others {
            let message = format!("'{name}' has no use for it; 'ekfac_lambda', 'gram' and 'data_inf' have");
            return Err(invalid(KIND, "factors", message));
        }
        if let Learned::DataInf { damping, .. } = self.statistics
            && !(damping > 0.0 && damping.is_finite())
        {
            let message = format!("{damping}; numbers above 0 are allowed");
            return Err(invalid(KIND, "statistics.data_inf.damping", message));
        }
        Ok(())
    }

    /// What `gradient` would be given for the same losses.
    pub(in crate::influence) fn gradient(&self) -> GradientConfig {
        let config = self.clone();
        GradientConfig {
            model: config.model,
            adapter: config.adapter,
            tokenizer: config.tokenizer,
            column: config.column,
            answer: config.answer,
            span: config.span,
            reduction: match config.reduction {
                StatisticsReduction::Mean => Reduction::Mean,
                StatisticsReduction::Sum => Reduction::Sum,
            },
            context_length: config.context_length,
            dimension: default_dimension(),
            seed: 0,
            signs: SignSource::default(),
            modules: config.modules,
            per_token: false,
            norms: Norms::None,
            output: Encoding::F32,
            precision: config.precision,
            device: config.device,
        }
    }

    /// How gradients are projected, for Gram matrices.
    pub(super) fn sketch(&self) -> Option<SketchSpec> {
        let (Learned::Gram { dimension, seed, signs } | Learned::DataInf { dimension, seed, signs, .. }) =
            self.statistics
        else {
            return None;
        };
        Some(SketchSpec { dimension, seed, signs, modules: self.modules.clone() })
    }

    fn spec(&self) -> Result<OperatorSpec> {
        let config = serde_json::to_value(self).map_err(|error| invalid(KIND, "", error.to_string()))?;
        Ok(OperatorSpec::new(KIND, config))
    }
}

/// What an operator that needs statistics has to have learned next: with `goal`, what it needs in the end, and the files that it has already. `None` where it has all.
///
/// Most statistics are one fit, whose file is `statistics`. [`Learned::EkfacLambda`] and [`Learned::DataInf`] are two, one after another: first that of K-FAC, or
/// of Gram matrices, whose file is `factors`, then their own. The operator must have both as keys of its configuration, and gives what is read from both files to
/// [`Curvature::Ekfac`](super::super::Curvature::Ekfac).
///
/// # Errors
/// A goal with keys that it has no use for.
pub fn next_fit(
    goal: &GradientStatisticsConfig,
    factors: Option<&str>,
    statistics: Option<&str>,
    rows: Option<u64>,
) -> Result<Option<Fit>> {
    let factors = factors.map(str::to_owned).or_else(|| goal.factors.clone());
    let goal = GradientStatisticsConfig { factors, ..goal.clone() };
    if statistics.is_some() && first(&goal).is_none() {
        return Ok(None);
    }
    goal.check()?;
    let fit = match first(&goal) {
        Some(first) => Fit { spec: first.spec()?, key: "factors", rows },
        None => Fit { spec: goal.spec()?, key: "statistics", rows },
    };
    Ok(Some(fit))
}

/// What has to be learned before, if anything is left.
pub(super) fn first(config: &GradientStatisticsConfig) -> Option<GradientStatisticsConfig> {
    before(config).filter(|_| config.factors.is_none())
}

/// What must be learned before something is, whose file is `factors`.
pub(crate) fn before(config: &GradientStatisticsConfig) -> Option<GradientStatisticsConfig> {
    let statistics = match config.statistics {
        Learned::EkfacLambda { labels, seed } => Learned::Kfac { labels, seed },
        Learned::DataInf { dimension, seed, signs, .. } => Learned::Gram { dimension, seed, signs },
        _ => return None,
    };
    Some(GradientStatisticsConfig { statistics, factors: None, ..config.clone() })
}

/// What the file is that a configuration names as `factors`.
pub(super) fn of_factors(config: &GradientStatisticsConfig) -> Option<GradientStatisticsConfig> {
    before(config).or_else(|| match config.statistics {
        Learned::Gram { .. } => {
            Some(GradientStatisticsConfig { statistics: Learned::Adafactor {}, factors: None, ..config.clone() })
        }
        _ => None,
    })
}

/// The fit that `gradient_statistics` itself needs.
pub(super) fn own_fit(config: &GradientStatisticsConfig) -> Result<Option<Fit>> {
    first(config).map(|first| Ok(Fit { spec: first.spec()?, key: "factors", rows: None })).transpose()
}

/// Reads a configuration and checks it.
pub(super) fn read(config: &Value) -> Result<GradientStatisticsConfig, OperatorError> {
    let config: GradientStatisticsConfig = crate::config::parse(KIND, config)?;
    config.check()?;
    Ok(config)
}
