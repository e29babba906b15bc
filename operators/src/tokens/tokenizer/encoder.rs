//! Encoding: the stages, then each word's ids from the cache or from the model.

use tokenizers::pipeline::{Model, PipelineModel};

use super::added::Piece;
use super::ids::IdCache;
use super::stages::Splitter;
use super::{EncodeError, Shared, failed};

/// What one thread needs for encoding. Takes 16 MiB, whatever it is fed with.
pub(super) struct Encoder {
    cache: IdCache,
    model: <PipelineModel as Model>::Scratch,
    splitter: Splitter,
}

impl Encoder {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { cache: IdCache::new(), model: shared.pipeline.get_model().init_scratch(), splitter: Splitter::new() }
    }

    /// Appends the ids of `text`, without special tokens around it.
    pub(super) fn encode(&mut self, shared: &Shared, text: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        let Self { cache, model, splitter } = self;
        shared.pieces(text, |piece| match piece {
            Piece::Added(id) => {
                ids.push(id);
                Ok(())
            }
            Piece::Text(text) => cache.append(text, splitter.split(shared, text)?, ids, |word, tokens| {
                shared.pipeline.get_model().tokenize_pipeline(word, model, tokens).map_err(failed)
            }),
        })
    }
}
