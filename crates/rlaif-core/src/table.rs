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
pub(crate) fn hash_of(text: &str) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A sorted list with the newest entries beside it, sorted in whenever they are an eighth of it. A
/// hash may have several values; whoever asks tells which of them is meant.
#[derive(Default)]
pub(crate) struct Table {
    sorted: Vec<(u64, u64)>,
    recent: HashMap<u64, u64, BuildHasherDefault<AsItIs>>,
}

impl Table {
    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }

    /// Adds a value; it must be greater than those that its hash has already.
    pub(crate) fn insert(&mut self, hash: u64, value: u64) {
        let many = self.recent.len() >= LEAST_RECENT.max(self.sorted.len() / 8);
        if many || self.recent.contains_key(&hash) {
            self.sorted.reserve_exact(self.recent.len());
            self.sorted.extend(self.recent.drain());
            self.sorted.sort();
        }
        self.recent.insert(hash, value);
    }

    /// The values of a hash, the newest first.
    pub(crate) fn get(&self, hash: u64) -> impl Iterator<Item = u64> + '_ {
        let from = self.sorted.partition_point(|(h, _)| *h < hash);
        let until = from + self.sorted[from..].partition_point(|(h, _)| *h == hash);
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
    }
}
