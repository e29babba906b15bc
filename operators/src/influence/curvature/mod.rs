//! Curvature: what of the gradients of a corpus is learned, what gradients of queries are multiplied with, and exact scores.
//!
//! For a linear layer with weights `[O, I]`, x what it reads and δ the gradient of what it gives at each token, the gradient of a document is
//! g = Σ δ·xᵀ. The influence of a document on a query is ⟨H⁻¹ g_query, g_document⟩, where H is the curvature of the loss, or something that stands for
//! it ([`Curvature`]): the identity, the mean of g² element by element, the Kronecker product of S = E\[δδᵀ\] and A = E\[xxᵀ\] (K-FAC),
//! or the same with eigenvalues Λ = E\[(Q_Sᵀ g Q_A)²\] learned in its basis (EK-FAC). For projected gradients H is their Gram matrix ([`Grams`]).
//!
//! | step | what does it |
//! |---|---|
//! | learn | [`Covariances`], [`Lambdas`], [`SecondMoments`], [`Grams`]: taps of a backward pass, whose sums are [`Factors`] |
//! | precondition | [`Curvature::precondition`] of [`QueryGradients`], [`gram_power`], [`KfacSides`], [`AdafactorScales`] |
//! | score | [`ExactScorer`] |
//!
//! In a pipeline the operator `gradient_statistics` ([`GradientStatisticsKind`]) learns, and [`read_factors`] reads what it learned.
//!
//! Labels are the tokens that are there (the empirical Fisher information) or drawn from the model ([`drawn_targets`](crate::models::gradients::drawn_targets):
//! the Fisher information itself). Rules of damping are those of kronfluence and bergson: see [`Inversion`].
//!
//! # What results depend on
//!
//! Sums over tokens of a document are in single precision, sums over documents in double precision and in the order of documents. So they do not depend on
//! batches. Sums of several streams are added up in the order of the streams; another division into streams changes how double precision is rounded, and no more.
//! Eigenvectors are in double precision; that of an eigenvalue that is there several times is one of many, and with EK-FAC results depend on which.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use gristmill_kernels::workers::Serial;
//! use gristmill_operators::Resources;
//! use gristmill_operators::influence::Modules;
//! use gristmill_operators::influence::curvature::{
//!     Covariances, Curvature, Damping, ExactScorer, Lambdas, Layers, QueryGradients,
//! };
//! use gristmill_operators::models::gradients::{Backward, Loss, Reduction, Tap, TokenLoss, token_weights};
//! use gristmill_operators::models::{Batch, Compute, LoadOptions, Model};
//!
//! let options = LoadOptions { gradients: true, ..LoadOptions::default() };
//! let (model, _) = Model::load("EleutherAI/pythia-14m", &Resources::local(), options)?;
//! let layers = Layers::of(&model, &Modules::default(), true)?;
//! let (corpus, query) = (Batch::of(&[12092, 13, 1533]), Batch::of(&[50, 60, 70]));
//! let run = |batch: &Batch, tap: &mut dyn Tap| {
//!     let weights = token_weights(batch, Reduction::Mean, |_, _| true);
//!     let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
//!     Backward::new(&model)?.run(Compute { workers: &Serial, threads: 1 }, batch, loss, tap)
//! };
//!
//! let mut covariances = Covariances::new(layers.clone());
//! run(&corpus, &mut covariances)?;
//! let kfac = Arc::new(covariances.into_factors().with_eigenvectors()?);
//! let mut lambdas = Lambdas::new(layers.clone(), Arc::clone(&kfac));
//! run(&corpus, &mut lambdas)?;
//! let lambda = lambdas.into_factors();
//!
//! let mut queries = QueryGradients::new(layers);
//! run(&query, &mut queries)?;
//! let curvature = Curvature::Ekfac { kfac: &kfac, lambda: &lambda };
//! curvature.precondition(Compute { workers: &Serial, threads: 1 }, Damping::default(), &mut queries)?;
//! let mut scorer = ExactScorer::whole(queries)?;
//! run(&corpus, &mut scorer)?;
//! println!("{:?}", scorer.take_scores(corpus.documents()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod covariance;
mod damping;
mod error;
mod exact;
mod factors;
mod fold;
mod gram;
mod lambda;
mod layer;
mod learn;
mod moments;
mod precondition;
mod queries;
mod rotation;
mod symmetric;

#[cfg(test)]
mod tests;

pub use covariance::Covariances;
pub use damping::{Damping, Inversion};
pub use error::{CurvatureError, Result};
pub use exact::{ExactScorer, LowRankQueries};
pub use factors::{Factor, Factors, Statistic};
pub use fold::KfacSides;
pub use gram::{Grams, Mixing, Power, data_inf, gram_power, mean_eigenvalue, mix_grams};
pub use lambda::Lambdas;
pub(crate) use lambda::Rotations;
pub use layer::{Layer, Layers};
pub(crate) use layer::{options as gemm_options, product_of_rows};
pub(crate) use learn::before;
pub use learn::{
    GradientStatisticsConfig, GradientStatisticsKind, Labels, Learned, Origin, StatisticsReduction, next_fit,
    read_factors,
};
pub(crate) use moments::scale_by_second_moments;
pub use moments::{AdafactorScales, MomentsOf, SecondMoments, adam_scales};
pub use precondition::Curvature;
pub use queries::{ModuleGradients, QueryGradients};
pub use symmetric::Eigen;
