//! What is drawn from a stream of random numbers.

use rlaif_core::seed::{self, Stream};

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng(Stream);

impl Rng {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Rng(Stream::new(seed))
    }

    /// The stream of (seed, parts), as every other random choice of the project derives.
    #[must_use]
    pub fn of(seed: u64, parts: &[&str]) -> Self {
        Rng::new(seed::derive(seed, parts))
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0.unit()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// An index below `n`; 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        seed::index(self.0.bits(), n).unwrap_or(0)
    }

    /// One of the list, `None` where it is empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }

    /// An index in proportion to its weight.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut rest = self.unit() * weights.iter().sum::<f64>();
        for (i, w) in weights.iter().enumerate() {
            rest -= w;
            if rest < 0.0 {
                return i;
            }
        }
        weights.len().saturating_sub(1)
    }

    /// Puts a list into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }

    /// A standard normal number (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}
