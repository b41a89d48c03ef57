//! Where the answers to calls stand in the journal: most calls of a run are new, and a look into the
//! database for each would cost as much as its request.

use std::sync::Mutex;

use rlaif_core::table::Table;

use crate::call::Key;
use crate::meter::lock;

/// Rows of `calls` by their key, 16 bytes each. In the file keys stand one behind the other: an index
/// there, with its keys that lie anywhere, would be half of all that is written.
#[derive(Default)]
pub(super) struct Seen(Mutex<Table>);

/// Half of a key, which is a hash already.
fn half(key: Key) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// A row of `calls` as it is known by its key.
pub(super) fn entry(key: Key, id: i64) -> (u64, u64) {
    (half(key), id.unsigned_abs())
}

impl Seen {
    pub(super) fn of(entries: Vec<(u64, u64)>) -> Self {
        Seen(Mutex::new(Table::of(entries)))
    }

    /// An answer was kept in a row; later ones stand in rows of greater numbers.
    pub(super) fn add(&self, key: Key, id: i64) {
        let (half, id) = entry(key, id);
        lock(&self.0).insert(half, id);
    }

    /// Rows that may hold the answer to a call, the oldest first.
    pub(super) fn rows(&self, key: Key) -> Vec<i64> {
        let mut rows: Vec<i64> = lock(&self.0)
            .get(half(key))
            .filter_map(|id| id.try_into().ok())
            .collect();
        rows.reverse();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_a_key_is_found_the_oldest_first() {
        let key = |i: u64| {
            let mut bytes = [0u8; 16];
            bytes[..8].copy_from_slice(&rlaif_core::seed::derive(i, &["a"]).to_le_bytes());
            Key(bytes)
        };
        let seen = Seen::of((0..20_000).map(|i| entry(key(i), i as i64 + 1)).collect());
        for i in 10_000..30_000 {
            seen.add(key(i), i as i64 + 20_001);
        }
        assert_eq!(seen.rows(key(5)), [6]);
        assert_eq!(seen.rows(key(15_000)), [15_001, 35_001]);
        assert_eq!(seen.rows(key(25_000)), [45_001]);
        assert!(seen.rows(key(40_000)).is_empty());
    }
}
