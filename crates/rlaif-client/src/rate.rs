//! Limits a minute, of requests and of tokens: each call is given the time at which it may leave.

use std::time::Duration;

/// Seconds' worth that may leave at once.
const BURST_SECS: f64 = 1.0;

/// A limit a minute, as a schedule of departures.
#[derive(Debug)]
pub(crate) struct Rate {
    per_sec: f64,
    /// Time, in seconds, at which all that left so far is paid off.
    free_at: f64,
}

impl Rate {
    pub(crate) fn per_min(limit: u64) -> Self {
        Rate {
            per_sec: limit as f64 / 60.0,
            free_at: 0.0,
        }
    }

    /// Books `amount` at time `now`, in seconds; returns how long to wait before leaving.
    pub(crate) fn book(&mut self, now: f64, amount: f64) -> Duration {
        let start = self.free_at.max(now - BURST_SECS);
        self.free_at = start + amount / self.per_sec;
        Duration::from_secs_f64((start - now).max(0.0))
    }

    /// Gives back what was booked and not used.
    pub(crate) fn give_back(&mut self, amount: f64) {
        self.free_at -= amount / self.per_sec;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn departures_keep_to_the_limit() {
        // 600 a minute: ten at once, then one every tenth of a second.
        let mut rate = Rate::per_min(600);
        let waits: Vec<f64> = (0..30)
            .map(|_| rate.book(100.0, 1.0).as_secs_f64())
            .collect();
        assert!(waits[..11].iter().all(|w| *w < 1e-9), "{waits:?}");
        assert!((waits[29] - 1.9).abs() < 1e-9, "{waits:?}");
        // Tokens booked by their bound and given back are no longer waited for.
        let mut rate = Rate::per_min(60);
        assert_eq!(rate.book(0.0, 31.0), Duration::ZERO);
        rate.give_back(30.0);
        assert!(rate.book(0.0, 1.0) <= Duration::from_secs(1));
    }
}
