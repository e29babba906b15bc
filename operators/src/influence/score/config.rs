//! What a configuration of `influence` says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::KIND;
use super::candidates::{CandidatesConfig, ChoosingConfig};
use crate::config::{self, invalid};
use crate::influence::curvature::{
    Damping, GradientStatisticsConfig, Inversion, Labels, Learned, Mixing, StatisticsReduction, next_fit,
};
use crate::influence::gradient::{GradientConfig, Reduction, Span};
use crate::influence::sketch::{SignSource, default_dimension};
use crate::influence::{Modules, QueriesConfig};
use crate::operator::Fit;
use crate::scoring::reader::default_column;
use crate::scoring::{Device, Precision};
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
    /// Where gradients are computed. Bits differ between a GPU and the CPU. Methods that project gradients are computed on a GPU; of the others a GPU makes what layers
    /// read and the gradients of what they give, and the CPU compares.
    #[serde(default)]
    pub device: Device,
    /// Of `trackstar` and `kfac`: whether both sides get length 1; true for `trackstar`, else false.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Of `dot`, `cosine` and `trackstar`: what gradients are divided by before they are projected.
    #[serde(default)]
    pub normalizer: Option<Normalizer>,
    /// Of a `normalizer`: the file with second moments. Made from the rows themselves if left out.
    #[serde(default)]
    pub second_moments: Option<String>,
    /// Of `less`: Adam's state, a safetensors file with `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` of each layer's weights, as PyTorch has them.
    #[serde(default)]
    pub optimizer: Option<String>,
    /// Of `less`: β₁ and β₂ of Adam; 0.9 and 0.999 if left out.
    #[serde(default)]
    pub betas: Option<[f64; 2]>,
    /// Of `less`: ε of Adam, under the root; 1e-8 if left out.
    #[serde(default)]
    pub epsilon: Option<f64>,
    /// Of `dot`, `cosine` and `less`: what scores are multiplied with where several checkpoints are added up, such as the learning rate.
    #[serde(default = "one")]
    pub weight: f64,
    /// Of `dot`, `cosine` and `less`: further checkpoints of the model, whose scores are added.
    #[serde(default)]
    pub checkpoints: Vec<CheckpointConfig>,
    /// Of methods with statistics: the file with what was learned from a corpus. Made from the rows themselves if left out.
    #[serde(default)]
    pub statistics: Option<String>,
    /// Of `ekfac`: the file with what was learned of K-FAC, beside that with eigenvalues, which is `statistics`. Of `datainf`: the file with Gram matrices. Made from the
    /// rows themselves if left out.
    #[serde(default)]
    pub factors: Option<String>,
    /// Of methods with statistics: the tokens of whose losses their gradients are, drawn from the model (`sampled`, if left out) or those that are there. Not of
    /// `trackstar` and `datainf`, which take those that are there.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// Of methods with statistics that are made from the rows themselves: from how many of the
    /// first rows of the source.
    #[serde(default)]
    pub fit_rows: Option<u64>,
    /// Of methods with statistics: how their eigenvalues are inverted.
    #[serde(default)]
    pub damping: Option<Damping>,
    /// Of `trackstar`: how much the queries' Gram matrix counts.
    #[serde(default)]
    pub mixing: Option<MixingRule>,
    /// Of `identity`, `diagonal`, `kfac_exact` and `ekfac`: whether the gradient of a layer's bias is a further column of that of its weights, as in kronfluence.
    #[serde(default)]
    pub bias: bool,
    /// Of `identity`, `diagonal`, `kfac_exact` and `ekfac`: queries are replaced by the nearest matrices of this rank, which is faster where there are few queries,
    /// and takes their memory: without it the gradients of all queries are held, 4 bytes for each query and weight, with it about 1 GiB of them at a time.
    #[serde(default)]
    pub rank: Option<usize>,
    /// Only rows that a cheaper method ranks high, and some by chance, are scored; the others have no scores.
    #[serde(default)]
    pub candidates: Option<CandidatesConfig>,
    /// With `candidates`: the statistics of the cheaper method. Made from the rows themselves if left out.
    #[serde(default)]
    pub candidate_statistics: Option<String>,
    /// With `candidates`: the file that says which rows are scored. Made from the rows themselves if left out.
    #[serde(default)]
    pub candidate_rows: Option<String>,
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
    /// ⟨H⁻¹q, g⟩ of projected gradients, where H⁻¹ is the mean of the inverses of λI + g·gᵀ of each layer.
    #[serde(rename = "datainf")]
    DataInf,
    /// The cosine of q and of what Adam makes of g, both projected.
    Less,
    /// The cosine of pooled hidden states, without any gradient.
    Representation,
}

const fn one() -> f64 {
    1.0
}

/// A further checkpoint of a model, with the same tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// As of `influence`.
    pub model: String,
    /// As of `influence`.
    #[serde(default)]
    pub adapter: Option<String>,
    /// As of `influence`.
    #[serde(default)]
    pub optimizer: Option<String>,
    /// As of `influence`.
    #[serde(default = "one")]
    pub weight: f64,
}

/// What gradients are divided by before they are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// √V, where V is the outer product of the mean squares of rows and columns, as Adafactor keeps them.
    Adafactor,
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
            Self::DataInf => "datainf",
            Self::Less => "less",
            Self::Representation => "representation",
        }
    }

    /// Whether gradients are projected.
    pub(super) const fn projects(self) -> bool {
        matches!(self, Self::Dot | Self::Cosine | Self::Trackstar | Self::Kfac | Self::DataInf | Self::Less)
    }

    /// Whether something is learned from a corpus.
    pub(super) const fn has_statistics(self) -> bool {
        matches!(self, Self::Trackstar | Self::Kfac | Self::KfacExact | Self::Ekfac | Self::Diagonal | Self::DataInf)
    }
}

impl InfluenceConfig {
    /// Reads a configuration, and fills in the defaults that depend on the method.
    ///
    /// # Errors
    /// Unknown keys, wrong values, and keys that the method has no use for.
    pub(super) fn read(config: &Value) -> Result<Self> {
        let config: Self = config::parse(KIND, config)?;
        config.complete()
    }

    /// The same of one that was read already.
    pub(super) fn complete(mut self) -> Result<Self> {
        let config = &mut self;
        let method = config.method;
        config.queries = config.queries.clone().complete(KIND)?;
        let differentiates = method != Method::Representation;
        let has_length = matches!(method, Method::Trackstar | Method::Kfac);
        // Where K-FAC is in the projection, or Adam behind the gradient, it is not that of a column.
        let from_model = matches!(method, Method::Kfac | Method::Less);
        let adds = matches!(method, Method::Dot | Method::Cosine | Method::Less);
        let scales = matches!(method, Method::Dot | Method::Cosine | Method::Trackstar);
        let has_labels = !matches!(method, Method::Trackstar | Method::DataInf);
        let exact = matches!(method, Method::Diagonal | Method::KfacExact | Method::Ekfac | Method::Identity);
        let given = [
            ("dimension", method.projects() || config.dimension == default_dimension()),
            ("seed", method.projects() || config.seed == 0),
            ("signs", method.projects() || config.signs == SignSource::default()),
            ("gradients", method.projects() && !from_model || config.gradients.is_none()),
            ("optimizer", method == Method::Less || config.optimizer.is_none()),
            ("betas", method == Method::Less || config.betas.is_none()),
            ("epsilon", method == Method::Less || config.epsilon.is_none()),
            ("weight", adds || config.weight == one()),
            ("checkpoints", adds || config.checkpoints.is_empty()),
            ("normalizer", scales || config.normalizer.is_none()),
            ("modules", differentiates || config.modules == Modules::default()),
            ("reduction", differentiates || config.reduction == Reduction::default()),
            ("answer", differentiates || config.answer.is_none()),
            ("span", differentiates || config.span.is_none()),
            ("normalize", has_length || config.normalize.is_none()),
            ("statistics", method.has_statistics() || config.statistics.is_none()),
            ("factors", matches!(method, Method::Ekfac | Method::DataInf) || config.factors.is_none()),
            ("labels", method.has_statistics() && has_labels || config.labels.is_none()),
            ("fit_rows", method.has_statistics() || config.normalizer.is_some() || config.fit_rows.is_none()),
            ("damping", method.has_statistics() || config.damping.is_none()),
            ("mixing", method == Method::Trackstar || config.mixing.is_none()),
            ("rank", exact || config.rank.is_none()),
            ("bias", exact || !config.bias),
            ("candidates", exact || config.candidates.is_none()),
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
            if method == Method::DataInf && damping.inversion != Inversion::default() {
                return Err(wrong("damping.inversion", "the method 'datainf' has 'damped_inverse' alone".to_owned()));
            }
            if has_labels {
                config.labels.get_or_insert_default();
            }
        }
        let learns = method.has_statistics() && config.statistics.is_none()
            || config.normalizer.is_some() && config.second_moments.is_none();
        if learns {
            config.fit_rows.get_or_insert(FIT_ROWS);
        }
        if config.normalizer.is_none() && config.second_moments.is_some() {
            return Err(wrong("second_moments", "it has no use without 'normalizer'".to_owned()));
        }
        if config.normalizer.is_some() && config.gradients.is_some() {
            let message = "gradients of a column are as they are; leave out 'normalizer' or 'gradients'".to_owned();
            return Err(wrong("normalizer", message));
        }
        config.complete_checkpoints()?;
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
        let beside =
            [("candidate_statistics", &config.candidate_statistics), ("candidate_rows", &config.candidate_rows)];
        match &config.candidates {
            Some(candidates) => {
                let first = candidates.first(config)?;
                if !first.method.has_statistics() && config.candidate_statistics.is_some() {
                    let message = format!("the method '{}' has no use for it", first.method.name());
                    return Err(wrong("candidate_statistics", message));
                }
            }
            None => {
                if let Some((key, _)) = beside.iter().find(|(_, value)| value.is_some()) {
                    return Err(wrong(key, "it has no use without 'candidates'".to_owned()));
                }
            }
        }
        Ok(self)
    }

    /// Defaults of Adam, and what checkpoints need.
    fn complete_checkpoints(&mut self) -> Result<()> {
        let weights = [self.weight].into_iter().chain(self.checkpoints.iter().map(|checkpoint| checkpoint.weight));
        if let Some(weight) = weights.into_iter().find(|weight| !weight.is_finite()) {
            return Err(wrong("weight", format!("{weight}; a number is needed")));
        }
        if !self.checkpoints.is_empty() {
            for (key, given) in [("gradients", self.gradients.is_some()), ("normalizer", self.normalizer.is_some())] {
                if given {
                    return Err(wrong(key, "it is of one checkpoint; leave it out, or 'checkpoints'".to_owned()));
                }
            }
        }
        if self.method != Method::Less {
            let given = self.checkpoints.iter().position(|checkpoint| checkpoint.optimizer.is_some());
            return given.map_or(Ok(()), |place| {
                let message = format!("the method '{}' has no use for it", self.method.name());
                Err(wrong(&format!("checkpoints[{place}].optimizer"), message))
            });
        }
        let betas = *self.betas.get_or_insert([0.9, 0.999]);
        if let Some(beta) = betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return Err(wrong("betas", format!("{beta}; 0 to below 1 is allowed")));
        }
        let epsilon = *self.epsilon.get_or_insert(1e-8);
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(wrong("epsilon", format!("{epsilon}; numbers above 0 are allowed")));
        }
        if self.optimizer.is_none() {
            return Err(wrong("optimizer", "the method 'less' needs Adam's state".to_owned()));
        }
        match self.checkpoints.iter().position(|checkpoint| checkpoint.optimizer.is_none()) {
            Some(place) => Err(wrong(
                &format!("checkpoints[{place}].optimizer"),
                "the method 'less' needs Adam's state".to_owned(),
            )),
            None => Ok(()),
        }
    }

    /// The configuration of a single checkpoint: this one's, then those of the others.
    pub(super) fn at_checkpoints(&self) -> impl Iterator<Item = Self> + '_ {
        let alone = Self { checkpoints: Vec::new(), ..self.clone() };
        let others = self.checkpoints.iter().map(|checkpoint| {
            let CheckpointConfig { model, adapter, optimizer, weight } = checkpoint.clone();
            // Without one of its own a checkpoint has the tokenizer of the first.
            let tokenizer = self.tokenizer.clone().or_else(|| Some(self.model.clone()));
            Self { model, adapter, optimizer, weight, tokenizer, checkpoints: Vec::new(), ..self.clone() }
        });
        std::iter::once(alone).chain(others)
    }

    /// What has to be learned from the rows next, if something is missing.
    pub(super) fn next_fit(&self) -> Result<Option<Fit>> {
        if let Some(candidates) = &self.candidates {
            let first = candidates.first(self)?;
            if let Some(fit) = first.next_fit()? {
                return Ok(Some(Fit { key: "candidate_statistics", ..fit }));
            }
            if self.candidate_rows.is_none() {
                let spec = ChoosingConfig::of(self, candidates)?.spec()?;
                return Ok(Some(Fit { spec, key: "candidate_rows", rows: None }));
            }
        }
        if let (Some(goal), None) = (self.moments(), &self.second_moments) {
            let fit = next_fit(&goal, None, None, self.fit_rows)?;
            return Ok(fit.map(|fit| Fit { key: "second_moments", ..fit }));
        }
        let Some(goal) = self.learned() else { return Ok(None) };
        next_fit(&goal, self.factors.as_deref(), self.statistics.as_deref(), self.fit_rows)
    }

    /// What `gradient_statistics` would be given for what the method needs, if it needs something.
    pub(super) fn learned(&self) -> Option<GradientStatisticsConfig> {
        let (labels, seed) = (self.labels.unwrap_or_default(), 0);
        let statistics = match self.method {
            Method::Trackstar => Learned::Gram { dimension: self.dimension, seed: self.seed, signs: self.signs },
            Method::Kfac | Method::KfacExact => Learned::Kfac { labels, seed },
            Method::Ekfac => Learned::EkfacLambda { labels, seed },
            Method::Diagonal => Learned::Diagonal { labels, seed },
            Method::DataInf => Learned::DataInf {
                dimension: self.dimension,
                seed: self.seed,
                signs: self.signs,
                damping: self.damping.unwrap_or_default().factor,
            },
            Method::Dot | Method::Cosine | Method::Less | Method::Identity | Method::Representation => return None,
        };
        let factors = self.second_moments.clone().filter(|_| self.method == Method::Trackstar);
        Some(GradientStatisticsConfig { factors, ..self.learning(statistics) })
    }

    /// What `gradient_statistics` would be given for what gradients are divided by.
    pub(super) fn moments(&self) -> Option<GradientStatisticsConfig> {
        self.normalizer.map(|Normalizer::Adafactor| self.learning(Learned::Adafactor {}))
    }

    fn learning(&self, statistics: Learned) -> GradientStatisticsConfig {
        let config = self.clone();
        GradientStatisticsConfig {
            model: config.model,
            adapter: config.adapter,
            tokenizer: config.tokenizer,
            column: config.column,
            answer: config.answer,
            span: config.span,
            context_length: config.context_length,
            reduction: match config.reduction {
                Reduction::Mean => StatisticsReduction::Mean,
                Reduction::Sum => StatisticsReduction::Sum,
            },
            modules: config.modules,
            precision: config.precision,
            device: config.device,
            statistics,
            bias: self.bias,
            factors: None,
        }
    }

    /// What `gradient` would be given for the same projections of gradients of the same losses.
    pub(super) fn gradient(&self) -> GradientConfig {
        let losses = self.learning(Learned::Adafactor {}).gradient();
        GradientConfig { dimension: self.dimension, seed: self.seed, signs: self.signs, ..losses }
    }
}

fn wrong(key: &str, message: String) -> OperatorError {
    invalid(KIND, key, message)
}
