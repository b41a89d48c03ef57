//! A circuit breaker: a server that answers nothing is left alone for a while, and then tried by
//! one request before all.

use std::time::Duration;

/// Failures in a row, with no answer between them, after which a server is left alone.
const FAILURES: u32 = 10;
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The rule, without a clock: times are told in durations since some beginning.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    in_row: u32,
    rest: Option<Duration>,
    until: Duration,
    probing: bool,
    last: String,
    /// When a time-out was last counted.
    timed_out: Duration,
}

/// Whether a request may be sent.
#[derive(Debug, PartialEq)]
pub(crate) enum Gate {
    Open,
    /// It may, as the one that tries.
    Probe,
    /// Not for so long.
    Wait(Duration),
}

/// How long others wait for the one that tries, before they look again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Breaker {
    /// Asks; a `Probe` must be followed by `answered` or `failed`, or be given up.
    pub(crate) fn gate(&mut self, now: Duration) -> Gate {
        if self.rest.is_none() {
            return Gate::Open;
        }
        if now < self.until {
            return Gate::Wait(self.until - now);
        }
        if self.probing {
            return Gate::Wait(LOOK_AGAIN);
        }
        self.probing = true;
        Gate::Probe
    }

    /// True while the server is left alone.
    pub(crate) fn is_closed(&self) -> bool {
        self.rest.is_some()
    }

    /// What the last failure said.
    pub(crate) fn last(&self) -> &str {
        &self.last
    }

    /// The server answered, whatever it said.
    pub(crate) fn answered(&mut self) {
        *self = Breaker::default();
    }

    /// The probe was given up before it ended.
    pub(crate) fn gave_up(&mut self) {
        self.probing = false;
    }

    /// No answer came to a request that was `sent` then. All that had been sent before the last such
    /// failure was counted with it: many requests that wait in one queue end together, and tell one
    /// thing. True where the server is left alone from now on.
    pub(crate) fn timed_out(&mut self, sent: Duration, now: Duration, message: &str) -> bool {
        if self.probing || sent >= self.timed_out {
            self.timed_out = now;
            return self.failed(now, message);
        }
        false
    }

    /// No answer came. True where the server is left alone from now on.
    pub(crate) fn failed(&mut self, now: Duration, message: &str) -> bool {
        let was_closed = self.is_closed();
        self.in_row += 1;
        message.clone_into(&mut self.last);
        if self.probing {
            self.probing = false;
            self.rest = self.rest.map(|rest| (rest * 2).min(LONGEST_REST));
        } else if self.in_row >= FAILURES && self.rest.is_none() {
            self.rest = Some(FIRST_REST);
        } else {
            return false;
        }
        self.until = now + self.rest.unwrap_or_default();
        !was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_server_is_left_alone_and_tried_by_one() {
        let at = Duration::from_millis;
        let mut breaker = Breaker::default();
        for _ in 0..9 {
            breaker.failed(at(0), "refused");
        }
        assert_eq!(breaker.gate(at(0)), Gate::Open);
        breaker.failed(at(0), "refused");
        assert!(breaker.is_closed());
        assert_eq!(breaker.gate(at(100)), Gate::Wait(at(150)));
        assert_eq!(breaker.gate(at(250)), Gate::Probe);
        assert_eq!(breaker.gate(at(250)), Gate::Wait(LOOK_AGAIN));
        breaker.failed(at(260), "refused");
        // Twice as long now.
        assert_eq!(breaker.gate(at(260)), Gate::Wait(at(500)));
        assert_eq!(breaker.gate(at(760)), Gate::Probe);
        breaker.answered();
        assert_eq!(breaker.gate(at(761)), Gate::Open);
        // Forty time-outs of one wave are one failure, and it takes ten in a row.
        for wave in 0..10u64 {
            assert!(!breaker.is_closed());
            for _ in 0..40 {
                breaker.timed_out(at(800 + wave * 100), at(899 + wave * 100), "silent");
            }
        }
        assert!(breaker.is_closed());
        breaker.answered();
        // An answer in between: failures here and there close nothing.
        for _ in 0..50 {
            breaker.failed(at(9800), "500");
            breaker.answered();
        }
        assert!(!breaker.is_closed());
    }
}
