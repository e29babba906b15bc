//! What is kept of originals, bounded by bytes: gradients and sketches, which are expensive, and needed again by other rows.
//!
//! Something that is kept has the bits that it would have if it were computed again, so results do not depend on what is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The gradient of an original by all tensors.
#[derive(Debug, PartialEq)]
pub(super) struct Kept {
    /// Of the tensors, one behind the other.
    pub(super) gradient: Vec<f32>,
    /// ⟨g, g⟩ of each tensor.
    pub(super) self_products: Vec<f64>,
}

/// Gradients and sketches of originals, by the row of the original. Shared by all passes.
#[derive(Debug)]
pub(super) struct Cache {
    most_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gradients: HashMap<usize, (u64, Arc<Kept>)>,
    sketches: HashMap<usize, (u64, Arc<Vec<f32>>)>,
    /// Of what is kept and what is reserved.
    bytes: usize,
    /// Counts uses: what was used last has the highest number.
    uses: u64,
}

/// Room for a gradient that is being computed.
#[derive(Debug)]
pub(super) struct Room<'a> {
    cache: &'a Cache,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, state: Mutex::default() }
    }

    /// What is kept of an original.
    pub(super) fn get(&self, original: usize) -> (Option<Arc<Kept>>, Option<Arc<Vec<f32>>>) {
        let State { gradients, sketches, uses, .. } = &mut *self.state();
        *uses += 1;
        (used(gradients, original, *uses), used(sketches, original, *uses))
    }

    /// Makes room for a gradient of so many elements, if need be in place of others that are not in use and were not used for longer; `None` where
    /// there is none.
    pub(super) fn reserve(&self, elements: usize) -> Option<Room<'_>> {
        let bytes = elements * size_of::<f32>();
        let mut state = self.state();
        while state.bytes + bytes > self.most_bytes {
            state.drop_gradient().then_some(())?;
        }
        state.bytes += bytes;
        Some(Room { cache: self, bytes })
    }

    /// Keeps the sketch of an original. Gradients go first where there is no room, since a sketch is smaller and takes longer to compute.
    pub(super) fn keep_sketch(&self, original: usize, sketch: Vec<f32>) {
        let bytes = size_of_val(sketch.as_slice());
        let mut state = self.state();
        // Two passes may have computed the same.
        if bytes > self.most_bytes || state.sketches.contains_key(&original) {
            return;
        }
        while state.bytes + bytes > self.most_bytes {
            if !state.drop_gradient() && !state.drop_sketch() {
                return;
            }
        }
        state.bytes += bytes;
        state.uses += 1;
        let uses = state.uses;
        state.sketches.insert(original, (uses, Arc::new(sketch)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room<'_> {
    /// Keeps the gradient that there is room for.
    pub(super) fn keep(mut self, original: usize, kept: Kept) {
        let mut state = self.cache.state();
        state.uses += 1;
        let uses = state.uses;
        // Where another pass has computed the same, this room becomes free.
        if state.gradients.contains_key(&original) {
            return;
        }
        state.gradients.insert(original, (uses, Arc::new(kept)));
        self.bytes = 0;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.cache.state().bytes -= self.bytes;
        }
    }
}

impl State {
    fn drop_gradient(&mut self) -> bool {
        let gone = remove_oldest(&mut self.gradients);
        self.bytes -= gone.as_ref().map_or(0, |kept| size_of_val(kept.gradient.as_slice()));
        gone.is_some()
    }

    fn drop_sketch(&mut self) -> bool {
        let gone = remove_oldest(&mut self.sketches);
        self.bytes -= gone.as_ref().map_or(0, |sketch| size_of_val(sketch.as_slice()));
        gone.is_some()
    }
}

fn used<T>(kept: &mut HashMap<usize, (u64, Arc<T>)>, original: usize, uses: u64) -> Option<Arc<T>> {
    let (used, kept) = kept.get_mut(&original)?;
    *used = uses;
    Some(Arc::clone(kept))
}

/// Takes out what was not used for longest, of what nobody holds: what is held takes memory all the same.
fn remove_oldest<T>(kept: &mut HashMap<usize, (u64, Arc<T>)>) -> Option<Arc<T>> {
    let free = kept.iter().filter(|(_, (_, kept))| Arc::strong_count(kept) == 1);
    let (&original, _) = free.min_by_key(|(_, (used, _))| *used)?;
    kept.remove(&original).map(|(_, kept)| kept)
}

#[cfg(test)]
mod tests {
    use super::{Cache, Kept};

    fn keep(cache: &Cache, original: usize) -> bool {
        let room = cache.reserve(4);
        let kept = Kept { gradient: vec![0.0; 4], self_products: Vec::new() };
        room.map(|room| room.keep(original, kept)).is_some()
    }

    fn has(cache: &Cache, original: usize) -> (bool, bool) {
        let (gradient, sketch) = cache.get(original);
        (gradient.is_some(), sketch.is_some())
    }

    #[test]
    fn what_was_not_used_goes_first_and_gradients_before_sketches() {
        let cache = Cache::new(40);
        assert!(keep(&cache, 1) && keep(&cache, 2));
        assert_eq!((has(&cache, 2), has(&cache, 1), cache.state().bytes), ((true, false), (true, false), 32));
        assert!(keep(&cache, 3));
        assert_eq!([1, 2, 3].map(|original| has(&cache, original).0), [true, false, true]);
        cache.keep_sketch(1, vec![0.0; 6]);
        assert_eq!((has(&cache, 1), has(&cache, 3), cache.state().bytes), ((false, true), (true, false), 40));
        cache.keep_sketch(2, vec![0.0; 4]);
        assert_eq!((has(&cache, 3), cache.state().bytes), ((false, false), 40));
        // The oldest sketch makes room for another, and none for a gradient.
        cache.keep_sketch(3, vec![0.0; 4]);
        assert_eq!([1, 2, 3].map(|original| has(&cache, original).1), [false, true, true]);
        assert!(!keep(&cache, 4));
        // Too large to be kept.
        cache.keep_sketch(4, vec![0.0; 11]);
        assert_eq!((has(&cache, 4), cache.state().bytes), ((false, false), 32));
        assert!(!keep(&Cache::new(0), 1));
        // What two passes have computed at the same time is kept once.
        let cache = Cache::new(100);
        assert!(keep(&cache, 1) && keep(&cache, 1));
        cache.keep_sketch(1, vec![0.0; 6]);
        cache.keep_sketch(1, vec![0.0; 6]);
        assert_eq!((has(&cache, 1), cache.state().bytes), ((true, true), 40));
    }

    #[test]
    fn room_is_given_back_and_what_is_held_stays() {
        let cache = Cache::new(16);
        let room = cache.reserve(4);
        assert!(room.is_some() && cache.reserve(1).is_none());
        drop(room);
        assert_eq!(cache.state().bytes, 0);
        assert!(keep(&cache, 1));
        let held = cache.get(1).0;
        assert!(held.is_some() && !keep(&cache, 2));
        drop(held);
        assert!(keep(&cache, 2) && !has(&cache, 1).0);
    }
}
