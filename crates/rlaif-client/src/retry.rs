//! Which failures are worth another attempt, and how long to wait for it.

use std::time::Duration;

use rlaif_core::seed;

/// How one attempt failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Another attempt may succeed.
    Passing {
        /// What happened.
        message: String,
        /// The server's own word on when to come back.
        retry_after: Option<Duration>,
    },
    /// The endpoint says that the request is wrong.
    Refused {
        /// HTTP status.
        status: u16,
        /// The body, whole.
        body: String,
    },
    /// The endpoint is no API.
    NoApi {
        /// What it answered.
        message: String,
    },
}

/// True for a status after which another attempt may succeed.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..=599)
}

/// Full jitter: anything from 0 to half a second doubled for each attempt, at most 30 s, drawn
/// from the call's own seed. The server's `Retry-After` counts where it is longer.
pub(crate) fn pause(call_seed: u64, attempt: u32, retry_after: Option<Duration>) -> Duration {
    let ceiling = (0.5 * f64::from(2u32.saturating_pow(attempt.min(16)))).min(30.0);
    let drawn = seed::unit(seed::derive(call_seed, &["pause", &attempt.to_string()])) * ceiling;
    retry_after
        .unwrap_or_default()
        .max(Duration::from_secs_f64(drawn))
}

/// `Retry-After` in seconds; a date is not read, the pause of our own serves then.
pub(crate) fn retry_after(header: Option<&str>) -> Option<Duration> {
    let secs: f64 = header?.trim().parse().ok()?;
    (secs.is_finite() && secs >= 0.0).then(|| Duration::from_secs_f64(secs.min(3600.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        for attempt in 0..40 {
            let longest = (0..50)
                .map(|s| pause(s, attempt, None))
                .max()
                .unwrap_or_default();
            assert!(longest <= Duration::from_secs(30));
        }
        assert_eq!(
            pause(1, 0, Some(Duration::from_secs(7))),
            Duration::from_secs(7)
        );
        assert_eq!(retry_after(Some("1.5")), Some(Duration::from_millis(1500)));
        assert_eq!(retry_after(Some("-1")), None);
        assert_eq!(retry_after(Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
    }
}
