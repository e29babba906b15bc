//! The operator kinds that a program knows. One explicit list; an embedder adds its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;

use crate::error::nearest;
use crate::operator::{Operator, OperatorKind, OperatorSpec};
use crate::resources::Resources;
use crate::{OperatorError, Result};

/// Known operator kinds by name.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Arc<dyn OperatorKind>>,
}

impl Registry {
    /// A registry without any kind.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// All kinds of this crate that are compiled in.
    #[must_use]
    pub fn standard() -> Self {
        #[allow(unused_mut, reason = "without features no kind is added")]
        let mut registry = Self::empty();
        #[cfg(feature = "blocklist")]
        registry.add(Arc::new(crate::blocklist::BlocklistKind));
        #[cfg(feature = "fasttext")]
        registry.add(Arc::new(crate::fasttext::FastTextKind));
        #[cfg(feature = "influence")]
        {
            registry.add(Arc::new(crate::influence::curvature::GradientStatisticsKind));
            registry.add(Arc::new(crate::influence::gradient::GradientKind));
            registry.add(Arc::new(crate::influence::InfluenceKind));
            registry.add(Arc::new(crate::influence::InfluenceCandidatesKind));
            registry.add(Arc::new(crate::influence::pairs::GradientPairsKind));
        }
        #[cfg(feature = "models")]
        {
            registry.add(Arc::new(crate::scoring::ClassifyKind));
            registry.add(Arc::new(crate::scoring::EmbedKind));
            registry.add(Arc::new(crate::scoring::GenerateKind));
            registry.add(Arc::new(crate::scoring::JudgeKind));
            registry.add(Arc::new(crate::scoring::NextTokenKind));
            registry.add(Arc::new(crate::scoring::PerplexityKind));
            registry.add(Arc::new(crate::scoring::RethresholdKind));
        }
        #[cfg(feature = "rank")]
        registry.add(Arc::new(crate::rank::RankKind));
        #[cfg(feature = "retrieval")]
        {
            registry.add(Arc::new(crate::retrieval::Bm25Kind));
            registry.add(Arc::new(crate::retrieval::TermCosineKind));
            registry.add(Arc::new(crate::retrieval::TermStatisticsKind));
        }
        #[cfg(feature = "sample")]
        registry.add(Arc::new(crate::sample::SampleKind));
        #[cfg(feature = "tokens")]
        {
            registry.add(Arc::new(crate::tokens::CountTokensKind));
            registry.add(Arc::new(crate::tokens::TokenizeKind));
        }
        registry
    }

    /// Adds a kind, or replaces the one of the same name.
    pub fn add(&mut self, kind: Arc<dyn OperatorKind>) {
        self.kinds.insert(kind.name(), kind);
    }

    /// The kinds, by name.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<dyn OperatorKind>> {
        self.kinds.values()
    }

    /// The kind of that name.
    pub fn kind(&self, name: &str) -> Result<&Arc<dyn OperatorKind>> {
        self.kinds.get(name).ok_or_else(|| OperatorError::UnknownKind {
            kind: name.to_owned(),
            nearest: nearest(name, self.kinds.keys().copied()),
            known: self.kinds.keys().map(|&kind| kind.to_owned()).collect(),
        })
    }

    /// The spec with its version and every default of its configuration filled in.
    pub fn complete(&self, spec: &OperatorSpec) -> Result<OperatorSpec> {
        let kind = self.kind(&spec.kind)?;
        if spec.version > kind.version() {
            return Err(OperatorError::InvalidValue {
                kind: spec.kind.clone(),
                key: "version".to_owned(),
                message: format!("{} is newer than this program's version {}", spec.version, kind.version()),
            });
        }
        let version = if spec.version == 0 { kind.version() } else { spec.version };
        Ok(OperatorSpec { version, config: kind.complete(&spec.config)?, ..spec.clone() })
    }

    /// Completes the spec and binds it to an input schema.
    pub fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let spec = self.complete(spec)?;
        self.kind(&spec.kind)?.bind(&spec, input, resources)
    }
}
