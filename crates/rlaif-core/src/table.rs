//! A table from 64-bit hashes to 64-bit values, 16 bytes an entry: what a file of a million rows
//! is remembered by.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Entries that come before they are sorted in, at least.
const LEAST_RECENT: usize = 4096;

/// A hash is taken as it is.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The hash by which a text is kept here; the same in every process of one version.
#[must_use]
pub fn hash_of(text: &str) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A sorted list with the newest entries beside it, sorted in whenever they are an eighth of it. A
/// hash may have several values; whoever asks tells which of them is meant.
#[derive(Default)]
pub struct Table {
    sorted: Vec<(u64, u64)>,
    recent: HashMap<u64, u64, BuildHasherDefault<AsItIs>>,
}

impl Table {
    /// Of many entries at once, in any order.
    #[must_use]
    pub fn of(mut entries: Vec<(u64, u64)>) -> Self {
        entries.sort_unstable();
        Table {
            sorted: entries,
            recent: HashMap::default(),
        }
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a value; it must be greater than those that its hash has already.
    pub fn insert(&mut self, hash: u64, value: u64) {
        let many = self.recent.len() >= LEAST_RECENT.max(self.sorted.len() / 8);
        if many || self.recent.contains_key(&hash) {
            self.sorted.reserve_exact(self.recent.len());
            self.sorted.extend(self.recent.drain());
            self.sorted.sort();
        }
        self.recent.insert(hash, value);
    }

    /// Where the first entry stands that is not below a hash. Hashes lie evenly, so that its own size
    /// tells about where: a million entries are searched by a few looks beside each other, where
    /// halving them takes twenty all over the memory.
    fn first_of(&self, hash: u64) -> usize {
        let n = self.sorted.len();
        let Some(last) = n.checked_sub(1) else {
            return 0;
        };
        let share = |hash: u64| (u128::from(hash) * n as u128) >> 64;
        let mut at = share(hash) as usize;
        for _ in 0..2 {
            let here = self.sorted[at].0;
            at = match here < hash {
                true => (at + share(hash - here) as usize).min(last),
                false => at.saturating_sub(share(here - hash) as usize),
            };
        }
        let (mut low, mut high, mut step) = (at, at, 4);
        while low > 0 && self.sorted[low - 1].0 >= hash {
            low = low.saturating_sub(step);
            step *= 2;
        }
        while high < n && self.sorted[high].0 < hash {
            high = (high + step).min(n);
            step *= 2;
        }
        low + self.sorted[low..high].partition_point(|(h, _)| *h < hash)
    }

    /// The values of a hash, the newest first.
    pub fn get(&self, hash: u64) -> impl Iterator<Item = u64> + '_ {
        let from = self.first_of(hash);
        let alike = self.sorted[from..].iter();
        let until = from + alike.take_while(|(h, _)| *h == hash).count();
        let sorted = self.sorted[from..until].iter().rev().map(|(_, v)| *v);
        self.recent.get(&hash).copied().into_iter().chain(sorted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_hash_is_found_the_newest_first() {
        let mut table = Table::default();
        // More than are kept unsorted, with a hash of several values among them.
        for i in 0..40_000u64 {
            table.insert(hash_of(&i.to_string()), i);
            if i % 10_000 == 0 {
                table.insert(7, i);
            }
        }
        table.insert(7, 50_000);
        assert_eq!(table.len(), 40_005);
        for i in (0..40_000u64).step_by(997) {
            let found: Vec<u64> = table.get(hash_of(&i.to_string())).collect();
            assert_eq!(found, [i]);
        }
        let found: Vec<u64> = table.get(7).collect();
        assert_eq!(found, [50_000, 30_000, 20_000, 10_000, 0]);
        assert_eq!(table.get(8).count(), 0);
        // Hashes that do not lie evenly, the ends, and what is not there.
        let mut uneven = Table::default();
        let hash = |i: u64| match i % 3 {
            0 => i,
            1 => u64::MAX - i,
            _ => (1 << 63) + i * i,
        };
        for i in 0..20_000u64 {
            uneven.insert(hash(i), i);
        }
        for i in (0..20_000u64).step_by(7) {
            let found: Vec<u64> = uneven.get(hash(i)).collect();
            assert_eq!(found, [i]);
        }
        assert_eq!(uneven.get(1).count() + uneven.get(u64::MAX).count(), 0);
        assert_eq!(Table::default().get(3).count(), 0);
        assert!(Table::default().is_empty());
        // The same, had at once, and added to.
        let mut whole = Table::of((0..20_000).rev().map(|i| (hash(i), i)).collect());
        whole.insert(hash(5), 20_000);
        assert_eq!(whole.get(hash(5)).collect::<Vec<_>>(), [20_000, 5]);
        assert_eq!(whole.get(hash(19_999)).collect::<Vec<_>>(), [19_999]);
        assert_eq!(whole.len(), 20_001);
    }
}
