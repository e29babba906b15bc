//! Keys and values of tokens that a model has read, so that a document goes on without reading its beginning again.
//!
//! Each document has a [`Cache`] of its own: for each layer its keys, turned by their positions, and its values, row after row.
//! Rows are appended in place and memory grows by doubling, so a token costs the same however long its document is. Memory is
//! [`Model::cache_bytes_per_token`] for each token, and up to twice that where it has just grown.
//!
//! The first reading of a document and every token after it go through the same kernels as a whole document does, and have the same
//! bits, with one exception: scalings of rotary embedding that depend on the length of the text (`dynamic`, `longrope`). There a
//! token is turned by the length that its document has when the token is read, and earlier keys stay as they are, as in transformers, so
//! that a document that grows beyond its trained length has other numbers than one that is read at once.
//!
//! A layer whose tokens see a window only forgets what is before every window, in multiples of what keeps the bits.
//!
//! Several texts can continue one beginning without a copy of it: a layer appends the rows of one, attends, and takes them back before
//! the next ([`Model::branch`]). Where continuations must stay, as when several are generated, the cache of the beginning is cloned.

use gristmill_kernels::attention::{self, Documents, KEY_BLOCK, Mask};

use super::batch::Batch;
use super::error::{ModelError, Result};
use super::layers::Compute;
use super::{Head, Model};

/// Keys and values of one document so far.
///
/// A clone is a copy of all of them.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<LayerCache>,
    tokens: usize,
}

/// Those of a layer: `[rows, key heads, width]`, of the last tokens.
#[derive(Clone, Debug)]
struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Elements of a row.
    width: usize,
    /// Tokens before the first row, which nothing sees any more.
    forgotten: usize,
}

/// Tokens that continue a document.
#[derive(Debug)]
pub struct Continuation<'a> {
    /// What was read of the document.
    pub cache: &'a mut Cache,
    /// The tokens behind.
    pub ids: &'a [u32],
}

impl Cache {
    /// Number of tokens read.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of memory taken, with what is set aside for growth.
    pub fn memory(&self) -> usize {
        self.layers.iter().map(|layer| (layer.keys.capacity() + layer.values.capacity()) * size_of::<f32>()).sum()
    }

    /// How many of the first tokens can be copied: all that were read, or none where a layer has forgotten some.
    pub(crate) fn beginning(&self) -> usize {
        if self.layers.iter().any(|layer| layer.forgotten > 0) { 0 } else { self.tokens }
    }

    /// A copy of the first tokens, of which there are no more than [`Cache::beginning`].
    pub(crate) fn copy_beginning(&self, tokens: usize) -> Self {
        let layer = |layer: &LayerCache| LayerCache {
            keys: layer.keys[..tokens * layer.width].to_vec(),
            values: layer.values[..tokens * layer.width].to_vec(),
            ..*layer
        };
        Self { layers: self.layers.iter().map(layer).collect(), tokens }
    }

    /// As a call leaves it that fails behind the first layer.
    #[cfg(test)]
    pub(crate) fn append_to_first_layer(&mut self, rows: usize) {
        let layer = &mut self.layers[0];
        for buffer in [&mut layer.keys, &mut layer.values] {
            buffer.extend(std::iter::repeat_n(7.0, rows * layer.width));
        }
    }

    /// Takes back what a call that failed has left.
    fn settle(&mut self) {
        for layer in &mut self.layers {
            layer.truncate(self.tokens - layer.forgotten);
        }
    }
}

impl LayerCache {
    fn rows(&self) -> usize {
        self.keys.len().checked_div(self.width).unwrap_or(0)
    }

    fn truncate(&mut self, rows: usize) {
        self.keys.truncate(rows * self.width);
        self.values.truncate(rows * self.width);
    }

    /// Forgets the rows before all that the next token and those behind it see, once they are half of all: each row is then moved
    /// once on average.
    fn forget(&mut self, mask: Mask) {
        let Some(left) = mask.left else { return };
        let rows = self.rows();
        let unseen = rows.saturating_sub(left) / KEY_BLOCK * KEY_BLOCK;
        if unseen > 0 && unseen >= rows / 2 {
            self.keys.drain(..unseen * self.width);
            self.values.drain(..unseen * self.width);
            self.forgotten += unseen;
        }
    }
}

/// The caches that the documents of a batch continue.
#[derive(Debug)]
pub(crate) enum Kept<'a> {
    /// Each document its own; what is read stays.
    Own(Vec<&'a mut Cache>),
    /// Document d continues cache `of[d]`; what is read does not stay.
    Branches { caches: &'a mut [Cache], of: &'a [usize] },
}

impl Kept<'_> {
    /// Attention of a layer: the rows of each document see those of its cache before them. Overwrites `context`.
    pub(crate) fn attend(
        &mut self,
        compute: Compute<'_>,
        layer: usize,
        kernel: attention::Attention,
        offsets: &[i64],
        [queries, keys, values]: [&[f32]; 3],
        context: &mut [f32],
    ) -> Result<()> {
        let (wide, narrow) = (kernel.query_heads * kernel.width, kernel.key_heads * kernel.width);
        for (document, ends) in offsets.windows(2).enumerate() {
            let (start, end) = (ends[0] as usize, ends[1] as usize);
            let (cache, stays) = match self {
                Self::Own(caches) => (&mut *caches[document], true),
                Self::Branches { caches, of } => (&mut caches[of[document]], false),
            };
            let cache = &mut cache.layers[layer];
            let before = cache.rows();
            cache.keys.extend_from_slice(&keys[start * narrow..end * narrow]);
            cache.values.extend_from_slice(&values[start * narrow..end * narrow]);
            let (query_offsets, key_offsets) = ([0, (end - start) as i64], [0, cache.rows() as i64]);
            let documents = Documents {
                query_rows: end - start,
                key_rows: cache.rows(),
                query_offsets: &query_offsets[..],
                key_offsets: &key_offsets[..],
            };
            let rows = start * wide..end * wide;
            let slices = attention::Forward {
                q: attention::Heads::dense(&queries[rows.clone()], kernel.query_heads, kernel.width),
                k: attention::Heads::dense(&cache.keys[..], kernel.key_heads, kernel.width),
                v: attention::Heads::dense(&cache.values[..], kernel.key_heads, kernel.width),
                o: attention::Heads::dense(&mut context[rows], kernel.query_heads, kernel.width),
                log_sums: None,
            };
            kernel.forward(compute.workers, documents, slices)?;
            if !stays {
                cache.truncate(before);
            }
        }
        Ok(())
    }
}

impl Model {
    /// A cache of a document of which nothing was read, for a model on the CPU.
    pub fn new_cache(&self) -> Cache {
        let layer = |width| LayerCache { keys: Vec::new(), values: Vec::new(), width, forgotten: 0 };
        let layers = self.transformer.layers.iter();
        let layers = layers.map(|layer_of| layer(layer_of.attention.heads.keys * layer_of.attention.heads.width));
        Cache { layers: layers.collect(), tokens: 0 }
    }

    /// Bytes of a cache for each token: keys and values of all layers, 4 bytes for each element. 0 where weights are on a device, which keeps none.
    pub fn cache_bytes_per_token(&self) -> usize {
        let layers = self.transformer.layers.iter();
        layers.map(|layer| 2 * layer.attention.heads.keys * layer.attention.heads.width * size_of::<f32>()).sum()
    }

    /// Whether a document must be read at once to have the numbers that it has alone, since its first tokens depend on its length.
    pub(crate) fn depends_on_length(&self) -> bool {
        self.transformer.ropes.iter().any(super::rope::Rope::depends_on_length)
    }

    /// Reads tokens that continue documents: hidden states after the last norm, `[tokens, hidden size]`. `None` where the model is not a
    /// language model, since what its first tokens become would depend on those that are not read yet.
    ///
    /// ```no_run
    /// use gristmill_kernels::workers::Serial;
    /// use gristmill_operators::Resources;
    /// use gristmill_operators::models::{Compute, Continuation, LoadOptions, Model};
    ///
    /// let (model, _) = Model::load("EleutherAI/pythia-160m", &Resources::local(), LoadOptions::default())?;
    /// let compute = Compute { workers: &Serial, threads: 1 };
    /// let mut cache = model.new_cache();
    /// model.read_on(compute, vec![Continuation { cache: &mut cache, ids: &[12092, 13] }])?;
    /// let states = model.read_on(compute, vec![Continuation { cache: &mut cache, ids: &[309] }])?;
    /// assert_eq!(cache.tokens(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A token id or a length that the model does not have. Caches are then as they were.
    pub fn read_on(&self, compute: Compute<'_>, documents: Vec<Continuation<'_>>) -> Result<Option<Vec<f32>>> {
        if !matches!(self.head, Head::LanguageModel(_)) {
            return Ok(None);
        }
        self.expect_cpu("documents that go on")?;
        let mut batch = Batch::default();
        let mut lengths = Vec::with_capacity(documents.len());
        let mut caches = Vec::with_capacity(documents.len());
        for Continuation { cache, ids } in documents {
            self.expect_own(cache)?;
            cache.settle();
            batch.push_at(ids, cache.tokens);
            lengths.push(cache.tokens + ids.len());
            caches.push(cache);
        }
        let kept = Kept::Own(caches.iter_mut().map(|cache| &mut **cache).collect());
        let states = self.transformer.forward_kept(compute, &batch, kept)?;
        for (cache, length) in caches.into_iter().zip(lengths) {
            cache.tokens = length;
            let layers = cache.layers.iter_mut().zip(&self.transformer.layers);
            layers.for_each(|(cache, layer)| cache.forget(layer.attention.mask));
        }
        Ok(Some(states))
    }

    /// Reads tokens that each continue one of some documents, which stay as they are: `branches` are a document's number and
    /// the tokens behind it. Hidden states after the last norm, `[tokens, hidden size]`.
    ///
    /// # Errors
    /// As of [`Model::read_on`].
    pub(crate) fn branch(
        &self,
        compute: Compute<'_>,
        documents: &mut [Cache],
        branches: &[(usize, &[u32])],
    ) -> Result<Vec<f32>> {
        let mut batch = Batch::default();
        documents.iter_mut().for_each(Cache::settle);
        for &(document, ids) in branches {
            self.expect_own(&documents[document])?;
            batch.push_at(ids, documents[document].tokens);
        }
        let of: Vec<usize> = branches.iter().map(|&(document, _)| document).collect();
        self.transformer.forward_kept(compute, &batch, Kept::Branches { caches: documents, of: &of })
    }

    /// Refuses the cache of another model.
    fn expect_own(&self, cache: &Cache) -> Result<()> {
        let layers =
            self.transformer.layers.iter().map(|layer| layer.attention.heads.keys * layer.attention.heads.width);
        if layers.eq(cache.layers.iter().map(|layer| layer.width)) {
            return Ok(());
        }
        let (index, value) = (0, cache.layers.len() as i64);
        let allowed = format!("a cache of this model, with {} layers,", self.transformer.layers.len());
        Err(ModelError::Input { what: "number of layers of a cache", index, value, allowed })
    }
}
