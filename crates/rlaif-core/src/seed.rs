//! Every random choice derives from (seed, stage, item): neither order nor thread count, nor the
//! rows beside it, changes a result.

use sha2::{Digest, Sha256};

/// A seed for one choice: the first eight bytes, little-endian, of SHA-256 over the run's seed
/// and the named parts, each preceded by its length so that no two lists of parts collide.
#[must_use]
pub fn derive(seed: u64, parts: &[&str]) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let digest = hasher.finalize();
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes)
}

/// A number in [0, 1) from a derived seed (its upper 53 bits).
#[must_use]
pub fn unit(seed: u64) -> f64 {
    (seed >> 11) as f64 / (1u64 << 53) as f64
}

/// An index in `0..n` from a derived seed, without modulo bias worth the name (n ≪ 2⁶⁴).
/// `None` for an empty range.
#[must_use]
pub fn index(seed: u64, n: usize) -> Option<usize> {
    (n > 0).then(|| ((u128::from(seed) * n as u128) >> 64) as usize)
}

/// A stream of numbers from a seed, SplitMix64 (Steele, Lea and Flood 2014): one for each item, so
/// that what is beside it changes nothing.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Stream(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(half)]));
        }
    }
    text
}

/// The part of the data that a prompt belongs to: fixed by the prompt's text alone, so that no
/// candidate, label or later draw of a test prompt can reach training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// 80 %: may be trained on.
    Train,
    /// 10 %: chooses checkpoints and calibrations.
    Validation,
    /// 10 %: measured once, at the end.
    Test,
}

impl Split {
    /// The split of a prompt.
    #[must_use]
    pub fn of(prompt: &crate::message::Prompt) -> Self {
        let mut parts = Vec::with_capacity(prompt.0.len() * 2 + 1);
        parts.push("split");
        for message in &prompt.0 {
            parts.push(message.role.as_str());
            parts.push(&message.content);
        }
        match unit(derive(0, &parts)) {
            x if x < 0.8 => Split::Train,
            x if x < 0.9 => Split::Validation,
            _ => Split::Test,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Prompt;

    #[test]
    fn derived_seeds_depend_on_every_part_and_on_where_parts_end() {
        assert_ne!(derive(1, &["ab", "c"]), derive(1, &["a", "bc"]));
        assert_ne!(derive(1, &["a"]), derive(2, &["a"]));
        assert_eq!(derive(7, &["judge", "row"]), derive(7, &["judge", "row"]));
        assert_eq!(index(0, 0), None);
        assert_eq!(index(u64::MAX, 5), Some(4));
    }

    #[test]
    fn splits_have_the_sizes_they_claim() {
        let mut counts = [0usize; 3];
        for i in 0..10_000 {
            match Split::of(&Prompt::from(format!("prompt {i}"))) {
                Split::Train => counts[0] += 1,
                Split::Validation => counts[1] += 1,
                Split::Test => counts[2] += 1,
            }
        }
        // Binomial with n = 10,000: three standard deviations are 120 at p = 0.8, 90 at p = 0.1.
        assert!(counts[0].abs_diff(8_000) < 120, "{counts:?}");
        assert!(counts[1].abs_diff(1_000) < 90, "{counts:?}");
    }
}
