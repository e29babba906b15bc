//! Encoding: the stages, then the ids of all words of a piece of text by the model.

use tokenizers::pipeline::{Model, PipelineModel, PipelineToken};

use super::added::Piece;
use super::stages::{Splitter, Stages};
use super::{EncodeError, failed};

/// What one thread needs for encoding. The model's own cache of words is part of it.
pub(super) struct Encoder {
    model: <PipelineModel as Model>::Scratch,
    splitter: Splitter,
    tokens: Vec<PipelineToken>,
}

impl Encoder {
    pub(super) fn new(stages: &Stages) -> Self {
        let model = stages.pipeline.get_model().init_scratch();
        Self { model, splitter: Splitter::new(), tokens: Vec::new() }
    }

    /// Appends the ids of `text`, without special tokens around it.
    pub(super) fn encode(&mut self, stages: &Stages, text: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        let Self { model, splitter, tokens } = self;
        tokens.clear();
        stages.pieces(text, |piece| match piece {
            Piece::Added(id) => {
                tokens.push(PipelineToken::from(id));
                Ok(())
            }
            Piece::Text(text) => {
                let words = splitter.split(stages, text)?;
                stages.pipeline.get_model().tokenize_spans(text, words, model, tokens).map_err(failed)
            }
        })?;
        ids.extend_from_slice(PipelineToken::cast_slice(tokens));
        Ok(())
    }
}
