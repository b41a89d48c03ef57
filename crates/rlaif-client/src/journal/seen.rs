//! Which calls may have an answer in the journal: most calls of a run are new, and a look into the
//! database for each would cost as much as its request.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::call::Key;

/// Words of the filter: 2 MiB, in which a million keys leave one look in four hundred for nothing.
const WORDS: usize = 1 << 18;

/// A Bloom filter. It says of some calls that they may have an answer although they have none, never
/// the other way round; a journal too long for it is looked into for each call.
pub(super) struct Seen(Box<[AtomicU64]>);

impl Default for Seen {
    fn default() -> Self {
        Seen((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Seen {
    /// Four places of a key, which is a hash already.
    fn places(key: Key) -> impl Iterator<Item = (usize, u64)> {
        let parts: [[u8; 4]; 4] =
            std::array::from_fn(|i| std::array::from_fn(|j| key.0[4 * i + j]));
        parts.into_iter().map(|part| {
            let n = u32::from_le_bytes(part) as usize;
            (n / 64 % WORDS, 1 << (n % 64))
        })
    }

    pub(super) fn add(&self, key: Key) {
        for (word, bit) in Self::places(key) {
            self.0[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn may_have(&self, key: Key) -> bool {
        Self::places(key).all(|(word, bit)| self.0[word].load(Ordering::Relaxed) & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_missed_and_few_are_taken_for_others() {
        let key = |i: u64| {
            let mut bytes = [0u8; 16];
            bytes[..8].copy_from_slice(&rlaif_core::seed::derive(i, &["a"]).to_le_bytes());
            bytes[8..].copy_from_slice(&rlaif_core::seed::derive(i, &["b"]).to_le_bytes());
            Key(bytes)
        };
        let seen = Seen::default();
        for i in 0..20_000 {
            seen.add(key(i));
        }
        assert!((0..20_000).all(|i| seen.may_have(key(i))));
        assert!((20_000..40_000).filter(|i| seen.may_have(key(*i))).count() < 20);
    }
}
