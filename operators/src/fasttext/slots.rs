//! A table from 32-bit keys to numbers, with the slots side by side: a lookup mostly touches one line of the cache.

/// Marks a slot that is free.
const FREE: u32 = u32::MAX;

/// Keys need not differ; who looks up says which of the values is meant.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    /// Keys and values, a power of two and at least twice as many as are used.
    slots: Vec<(u32, u32)>,
}

impl Slots {
    /// Of at most 2^31 entries, whose values are below 2^32 - 1.
    pub(super) fn new(entries: impl ExactSizeIterator<Item = (u32, u32)>) -> Self {
        let mut table = Self { slots: vec![(0, FREE); (2 * entries.len() + 1).next_power_of_two()] };
        for (key, value) in entries {
            let mut place = table.start(key);
            while table.slots[place].1 != FREE {
                place = (place + 1) & (table.slots.len() - 1);
            }
            table.slots[place] = (key, value);
        }
        table
    }

    /// The first value of this key that is meant.
    pub(super) fn find(&self, key: u32, meant: impl Fn(u32) -> bool) -> Option<u32> {
        let mut place = self.start(key);
        loop {
            let (found, value) = self.slots[place];
            if value == FREE {
                return None;
            }
            if found == key && meant(value) {
                return Some(value);
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().map(|&(_, value)| value).filter(|&value| value != FREE)
    }

    fn start(&self, key: u32) -> usize {
        // The upper bits of the product depend on all bits of the key.
        let mixed = u64::from(key.wrapping_mul(0x9e37_79b1)) * self.slots.len() as u64;
        (mixed >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn values_are_found_by_key_and_meaning() {
        let slots = Slots::new((0..1000_u32).map(|value| (value / 2, value)));
        for value in 0..1000 {
            assert_eq!(slots.find(value / 2, |found| found == value), Some(value));
        }
        assert_eq!(slots.find(7, |_| false), None);
        assert_eq!(slots.find(500, |_| true), None);
        assert_eq!(Slots::new(std::iter::empty()).find(0, |_| true), None);
    }
}
