//! What a configuration of `influence` says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::KIND;
use crate::config::{self, invalid};
use crate::influence::curvature::{
    Damping, GradientStatisticsConfig, Inversion, Labels, Learned, Mixing, StatisticsReduction,
};
use crate::influence::gradient::{Encoding, GradientConfig, Norms, Reduction, Span};
use crate::influence::sketch::{SignSource, default_dimension};
use crate::influence::{Modules, QueriesConfig};
use crate::scoring::Precision;
use crate::scoring::reader::default_column;
use crate::{OperatorError, Result};

/// Configuration of `influence`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InfluenceConfig {
    /// A causal language model: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
    pub model: String,
    /// An adapter of peft for the model (LoRA, rsLoRA, DoRA), which is merged into the weights: gradients are those by the merged weights.
    #[serde(default)]
    pub adapter: Option<String>,
    /// The tokenizer, if it is not the one beside the model.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The text column.
    #[serde(default = "default_column")]
    pub column: String,
    /// A column of answers to the texts: the loss of a row is that of their tokens.
    #[serde(default)]
    pub answer: Option<String>,
    /// The loss of a row is that of these tokens of its text. Not together with `answer`.
    #[serde(default)]
    pub span: Option<Span>,
    /// How the losses of tokens are put together, of rows and of queries.
    #[serde(default)]
    pub reduction: Reduction,
    /// The most tokens of a text; as many as the model takes if left out. Queries may not have more.
    #[serde(default)]
    pub context_length: Option<usize>,
    /// A column that `gradient` made with the same model, projection and loss. The model then does not run over the texts.
    #[serde(default)]
    pub gradients: Option<String>,
    /// What rows are compared with.
    pub queries: QueriesConfig,
    /// How they are compared.
    #[serde(default)]
    pub method: Method,
    /// Of methods that project gradients: rows p of both projections of a layer, 4 to 128 and at most as many as the layer has inputs and outputs. With 0 gradients are
    /// not projected.
    #[serde(default = "default_dimension")]
    pub dimension: usize,
    /// Other numbers give other projections.
    #[serde(default)]
    pub seed: u64,
    /// Where the signs of projections come from.
    #[serde(default)]
    pub signs: SignSource,
    /// The linear layers whose gradients are compared.
    #[serde(default)]
    pub modules: Modules,
    /// What the model's weights are rounded to: `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Of `trackstar` and `kfac`: whether both sides get length 1; true for `trackstar`, else false.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Of methods with statistics: the file with what was learned from a corpus. Made from the rows themselves if left out.
    #[serde(default)]
    pub statistics: Option<String>,
    /// Of `ekfac`: the file with what was learned of K-FAC, beside that with eigenvalues, which is `statistics`. Made from the rows themselves if left out.
    #[serde(default)]
    pub factors: Option<String>,
    /// Of methods with statistics: the tokens of whose losses their gradients are, drawn from the model (`sampled`, if left out) or those that are there. Not of `trackstar`.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// Of methods with statistics that are made from the rows themselves: from how many of the first rows.
    #[serde(default)]
    pub fit_rows: Option<u64>,
    /// Of methods with statistics: how their eigenvalues are inverted.
    #[serde(default)]
    pub damping: Option<Damping>,
    /// Of `trackstar`: how much the queries' Gram matrix counts.
    #[serde(default)]
    pub mixing: Option<MixingRule>,
    /// Of `diagonal`, `kfac_exact` and `ekfac`: queries are replaced by the nearest matrices of this rank, which is faster where there are few queries.
    #[serde(default)]
    pub rank: Option<usize>,
    /// Of `representation`: which hidden states. 0 is the embeddings, n what layer n leaves; those after the last norm if left out.
    #[serde(default)]
    pub layer: Option<usize>,
    /// Of `representation`: how the states of a text's tokens become one vector.
    #[serde(default)]
    pub pooling: Option<Pooling>,
}

/// How rows are compared with queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// ⟨q, g⟩ of projected gradients.
    Dot,
    /// The same of gradients of length 1 over all layers together.
    #[default]
    Cosine,
    /// ⟨H^-½q, H^-½g⟩ of length 1, where H is the Gram matrix of the projected gradients of each layer, mixed from that of the queries and that of the corpus.
    Trackstar,
    /// ⟨S^-½ q A^-½, S^-½ g A^-½⟩ of gradients that are projected afterwards: K-FAC folded into the projection.
    Kfac,
    /// ⟨H⁻¹q, g⟩ of whole gradients, where H is the Kronecker product of S and A.
    KfacExact,
    /// The same with eigenvalues that were learned in the basis of K-FAC.
    Ekfac,
    /// The same where H is the mean of g², element by element.
    Diagonal,
    /// ⟨q, g⟩ of whole gradients.
    Identity,
    /// The cosine of pooled hidden states, without any gradient.
    Representation,
}

/// How much the queries' Gram matrix counts where it is mixed with the corpus's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MixingRule {
    /// This share, 0 to 1.
    Share(f64),
    /// As much as makes the k-th largest eigenvalues of both alike, of all layers together.
    Components(usize),
}

impl From<MixingRule> for Mixing {
    fn from(rule: MixingRule) -> Self {
        match rule {
            MixingRule::Share(share) => Self::Share(share),
            MixingRule::Components(components) => Self::Components(components),
        }
    }
}

/// How the states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    First,
    /// The last one.
    Last,
    /// The largest value of each element.
    Max,
}

impl From<Pooling> for gristmill_kernels::pool::Pool {
    fn from(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Mean => Self::Mean,
            Pooling::First => Self::First,
            Pooling::Last => Self::Last,
            Pooling::Max => Self::Max,
        }
    }
}

/// The rows that statistics are made from, if nothing else is said.
const FIT_ROWS: u64 = 10_000;

/// Directions that are common to queries and are weighed down, if nothing else is said: as in TrackStar as bergson has it.
const COMPONENTS: usize = 1000;

impl Method {
    /// Its name in a configuration.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dot => "dot",
            Self::Cosine => "cosine",
            Self::Trackstar => "trackstar",
            Self::Kfac => "kfac",
            Self::KfacExact => "kfac_exact",
            Self::Ekfac => "ekfac",
            Self::Diagonal => "diagonal",
            Self::Identity => "identity",
            Self::Representation => "representation",
        }
    }

    /// Whether gradients are projected.
    pub(super) const fn projects(self) -> bool {
        matches!(self, Self::Dot | Self::Cosine | Self::Trackstar | Self::Kfac)
    }

    /// Whether something is learned from a corpus.
    pub(super) const fn has_statistics(self) -> bool {
        matches!(self, Self::Trackstar | Self::Kfac | Self::KfacExact | Self::Ekfac | Self::Diagonal)
    }
}

impl InfluenceConfig {
    /// Reads a configuration, and fills in the defaults that depend on the method.
    ///
    /// # Errors
    /// Unknown keys, wrong values, and keys that the method has no use for.
    pub(super) fn read(config: &Value) -> Result<Self> {
        let mut config: Self = config::parse(KIND, config)?;
        let method = config.method;
        config.queries = config.queries.complete(KIND)?;
        let differentiates = method != Method::Representation;
        let has_length = matches!(method, Method::Trackstar | Method::Kfac);
        let exact = matches!(method, Method::Diagonal | Method::KfacExact | Method::Ekfac | Method::Identity);
        let given = [
            ("dimension", method.projects() || config.dimension == default_dimension()),
            ("seed", method.projects() || config.seed == 0),
            ("signs", method.projects() || config.signs == SignSource::default()),
            // Where K-FAC is in the projection, it is not that of a column.
            ("gradients", method.projects() && method != Method::Kfac || config.gradients.is_none()),
            ("modules", differentiates || config.modules == Modules::default()),
            ("reduction", differentiates || config.reduction == Reduction::default()),
            ("answer", differentiates || config.answer.is_none()),
            ("span", differentiates || config.span.is_none()),
            ("normalize", has_length || config.normalize.is_none()),
            ("statistics", method.has_statistics() || config.statistics.is_none()),
            ("factors", method == Method::Ekfac || config.factors.is_none()),
            ("labels", method.has_statistics() && method != Method::Trackstar || config.labels.is_none()),
            ("fit_rows", method.has_statistics() || config.fit_rows.is_none()),
            ("damping", method.has_statistics() || config.damping.is_none()),
            ("mixing", method == Method::Trackstar || config.mixing.is_none()),
            ("rank", exact || config.rank.is_none()),
            ("layer", method == Method::Representation || config.layer.is_none()),
            ("pooling", method == Method::Representation || config.pooling.is_none()),
        ];
        if let Some((key, _)) = given.iter().find(|(_, allowed)| !allowed) {
            return Err(wrong(key, format!("the method '{}' has no use for it", method.name())));
        }
        if has_length {
            config.normalize.get_or_insert(method == Method::Trackstar);
        }
        if method.has_statistics() {
            // What is multiplied into both sides of a projection is damped on each side.
            let folded = Damping { inversion: Inversion::FactoredTikhonov, ..Damping::default() };
            let usual = if method == Method::Kfac { folded } else { Damping::default() };
            let damping = *config.damping.get_or_insert(usual);
            if method == Method::Kfac && damping.inversion != Inversion::FactoredTikhonov {
                return Err(wrong("damping.inversion", "the method 'kfac' has 'factored_tikhonov' alone".to_owned()));
            }
            if method != Method::Trackstar {
                config.labels.get_or_insert_default();
            }
            if config.statistics.is_none() {
                config.fit_rows.get_or_insert(FIT_ROWS);
            }
        }
        match method {
            Method::Trackstar => {
                let mixing = *config.mixing.get_or_insert(MixingRule::Components(COMPONENTS));
                if let MixingRule::Share(share) = mixing
                    && !(0.0..=1.0).contains(&share)
                {
                    return Err(wrong("mixing.share", format!("{share}; 0 to 1 is allowed")));
                }
            }
            Method::Representation => {
                config.pooling.get_or_insert(Pooling::Mean);
            }
            _ => {}
        }
        if config.rank == Some(0) {
            return Err(wrong("rank", "0; at least 1 is allowed".to_owned()));
        }
        if config.fit_rows == Some(0) {
            return Err(wrong("fit_rows", "0; at least 1 is allowed".to_owned()));
        }
        Ok(config)
    }

    /// What `gradient_statistics` would be given for what the method needs, if it needs something.
    pub(super) fn learned(&self) -> Option<GradientStatisticsConfig> {
        let (labels, seed) = (self.labels.unwrap_or_default(), 0);
        let statistics = match self.method {
            Method::Trackstar => Learned::Gram { dimension: self.dimension, seed: self.seed, signs: self.signs },
            Method::Kfac | Method::KfacExact => Learned::Kfac { labels, seed },
            Method::Ekfac => Learned::EkfacLambda { labels, seed },
            Method::Diagonal => Learned::Diagonal { labels, seed },
            Method::Dot | Method::Cosine | Method::Identity | Method::Representation => return None,
        };
        let config = self.clone();
        Some(GradientStatisticsConfig {
            model: config.model,
            adapter: config.adapter,
            tokenizer: config.tokenizer,
            column: config.column,
            context_length: config.context_length,
            reduction: match config.reduction {
                Reduction::Mean => StatisticsReduction::Mean,
                Reduction::Sum => StatisticsReduction::Sum,
            },
            modules: config.modules,
            precision: config.precision,
            statistics,
            bias: false,
            factors: None,
        })
    }

    /// What `gradient` would be given for the same projections of gradients of the same losses.
    pub(super) fn gradient(&self) -> GradientConfig {
        let config = self.clone();
        GradientConfig {
            model: config.model,
            adapter: config.adapter,
            tokenizer: config.tokenizer,
            column: config.column,
            answer: config.answer,
            span: config.span,
            reduction: config.reduction,
            context_length: config.context_length,
            dimension: config.dimension,
            seed: config.seed,
            signs: config.signs,
            modules: config.modules,
            per_token: false,
            norms: Norms::None,
            output: Encoding::F32,
            precision: config.precision,
        }
    }
}

fn wrong(key: &str, message: String) -> OperatorError {
    invalid(KIND, key, message)
}
