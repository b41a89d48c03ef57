//! What a model was asked so far, and what is under way now.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// What an endpoint was asked so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Answers received.
    pub calls: u64,
    /// Answers taken from the journal: nothing was sent for them.
    pub recalled: u64,
    /// Attempts made again.
    pub retries: u64,
    /// Calls that ended without an answer.
    pub failed: u64,
    /// Prompt tokens, by the server's count.
    pub prompt_tokens: u64,
    /// Generated tokens, by the server's count.
    pub completion_tokens: u64,
    /// Money; `null` where the model has no price.
    pub usd: Option<f64>,
    /// Upper bound of the money for attempts whose answer was lost.
    pub usd_unsettled: Option<f64>,
    /// Request fields that the endpoint refused.
    pub lost: BTreeSet<String>,
}

/// What is under way, for whoever watches.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Now {
    /// Requests sent and not answered.
    pub in_flight: usize,
    /// Requests that may be in flight at once.
    pub window: usize,
    /// Calls that wait before they are sent again.
    pub asleep: usize,
    /// Upper bounds, in seconds, below which half, 90 % and 99 % of answers came.
    pub latency_secs: [f64; 3],
    /// Failed attempts by kind: `load`, `status 500`, `timeout` …
    pub failures: std::collections::BTreeMap<String, u64>,
}

/// Latency buckets: powers of √2 from 1 ms; the last one holds all that is longer.
const BUCKETS: usize = 40;

#[derive(Default)]
pub(crate) struct Meter {
    pub(crate) retries: AtomicU64,
    sleeping: AtomicUsize,
    stats: Mutex<Stats>,
    latencies: Mutex<Vec<u64>>,
    failures: Mutex<std::collections::BTreeMap<String, u64>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one for as long as it lives.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(crate) fn one(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Meter {
    pub(crate) fn asleep(&self) -> Counted<'_> {
        Counted::one(&self.sleeping)
    }

    pub(crate) fn sleeping(&self) -> usize {
        self.sleeping.load(Ordering::Relaxed)
    }

    /// Changes the counts.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.stats));
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = lock(&self.stats).clone();
        stats.retries = self.retries.load(Ordering::Relaxed);
        stats
    }

    pub(crate) fn latency(&self, took: Duration) {
        let ms = (took.as_secs_f64() * 1000.0).max(1.0);
        let at = ((ms.log2() * 2.0) as usize).min(BUCKETS - 1);
        let mut counts = lock(&self.latencies);
        if counts.is_empty() {
            counts.resize(BUCKETS, 0);
        }
        counts[at] += 1;
    }

    pub(crate) fn failure(&self, kind: &str) {
        let mut failures = lock(&self.failures);
        match failures.get_mut(kind) {
            Some(n) => *n += 1,
            None => {
                failures.insert(kind.to_owned(), 1);
            }
        }
    }

    pub(crate) fn failures(&self) -> std::collections::BTreeMap<String, u64> {
        lock(&self.failures).clone()
    }

    /// Upper bounds of the median, the 90th and the 99th percentile, in seconds; zeros where
    /// nothing was answered.
    pub(crate) fn percentiles(&self) -> [f64; 3] {
        let counts = lock(&self.latencies);
        let total: u64 = counts.iter().sum();
        [0.5, 0.9, 0.99].map(|share| {
            let mut seen = 0;
            for (i, n) in counts.iter().enumerate() {
                seen += n;
                if total > 0 && seen as f64 >= share * total as f64 {
                    return 2f64.powf((i + 1) as f64 / 2.0) / 1000.0;
                }
            }
            0.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_upper_bounds_of_their_buckets() {
        let meter = Meter::default();
        assert_eq!(meter.percentiles(), [0.0; 3]);
        for ms in 1..=100 {
            meter.latency(Duration::from_millis(ms));
        }
        let [p50, p90, p99] = meter.percentiles();
        // The bucket bounds are powers of √2: 50 lies in (45.3, 64], 90 and 99 in (90.5, 128].
        assert!((p50 - 0.064).abs() < 1e-9, "{p50}");
        assert!((0.0905..=0.1281).contains(&p90) && (p99 - 0.128).abs() < 1e-3);
        let asleep = meter.asleep();
        assert_eq!(meter.sleeping(), 1);
        drop(asleep);
        assert_eq!(meter.sleeping(), 0);
    }
}
