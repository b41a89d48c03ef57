//! Asking again: which pause before which attempt, and an end to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rlaif_core::{ModelError, seed};
use tokio::time::Instant;

use crate::call::{Answer, Call, Calls, FailureKind};
use crate::halt::Halt;
use crate::meter::Meter;

/// Full jitter: anything from 0 to half a second doubled for each attempt, at most 30 s, drawn
/// from the call's own seed. The server's `Retry-After` counts where it is longer.
fn pause(call_seed: u64, attempt: u32, retry_after: Option<Duration>) -> Duration {
    let ceiling = (0.5 * f64::from(2u32.saturating_pow(attempt.min(16)))).min(30.0);
    let drawn = seed::unit(seed::derive(call_seed, &["pause", &attempt.to_string()])) * ceiling;
    retry_after
        .unwrap_or_default()
        .max(Duration::from_secs_f64(drawn))
}

/// What all attempts said, the last one first, equal ones counted.
fn reasons(said: &[String]) -> String {
    let Some((last, before)) = said.split_last() else {
        return String::new();
    };
    if before.is_empty() {
        return last.clone();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for text in before {
        *counts.entry(text).or_default() += 1;
    }
    let list: Vec<String> = counts
        .into_iter()
        .map(|(text, n)| match n {
            1 => text.to_owned(),
            n => format!("{text} ({n} times)"),
        })
        .collect();
    format!("{last}; before it: {}", list.join("; "))
}

/// The outermost layer: attempts until one succeeds, a failure stays, or an end is reached.
pub(crate) struct Retry {
    pub(crate) inner: Box<dyn Calls>,
    pub(crate) max_attempts: u32,
    pub(crate) meter: Arc<Meter>,
    pub(crate) halt: Arc<Halt>,
}

impl Retry {
    /// One call with its attempts, within its deadline. Returns the answer and the number of
    /// attempts that failed before it.
    pub(crate) async fn call(&self, call: &Call) -> Result<(Answer, u32), ModelError> {
        match self.inner.recall(call) {
            Ok(Some(answer)) => return Ok((answer, 0)),
            Ok(None) => {}
            Err(failure) => return Err(error_of(failure.kind, &[failure.message])),
        }
        tokio::select! {
            result = self.attempts(call) => result,
            () = deadline(call) => Err(ModelError::Deadline),
        }
    }

    async fn attempts(&self, call: &Call) -> Result<(Answer, u32), ModelError> {
        let mut said = Vec::new();
        loop {
            if self.halt.is_requested() {
                return Err(ModelError::Stopped);
            }
            let failure = match self.inner.attempt(call).await {
                Ok(answer) => return Ok((answer, said.len() as u32)),
                Err(failure) => failure,
            };
            said.push(failure.message);
            let n = said.len() as u32;
            let FailureKind::Passing {
                retry_after,
                elsewhere,
                ..
            } = failure.kind
            else {
                return Err(error_of(failure.kind, &said));
            };
            if n >= self.max_attempts {
                return Err(error_of(failure.kind, &said));
            }
            self.meter.retries.fetch_add(1, Ordering::Relaxed);
            if !elsewhere {
                let _asleep = self.meter.asleep();
                let pause = tokio::time::sleep(pause(call.seed, n, retry_after));
                if self.halt.unless(pause).await.is_none() {
                    return Err(ModelError::Stopped);
                }
            }
        }
    }
}

/// Ends when a call has had its time.
async fn deadline(call: &Call) {
    let begun = Instant::now();
    loop {
        let used = begun.elapsed().saturating_sub(call.waits.so_far());
        let left = call.deadline.saturating_sub(used);
        if left.is_zero() {
            return;
        }
        // It may wait for room meanwhile: then there is as much left as before.
        tokio::time::sleep(left).await;
    }
}

fn error_of(kind: FailureKind, said: &[String]) -> ModelError {
    match kind {
        FailureKind::Final(error) => error,
        FailureKind::Passing { .. } => ModelError::Exhausted {
            attempts: said.len() as u32,
            last: reasons(said),
        },
    }
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

    #[test]
    fn every_attempt_has_its_reason() {
        let said = ["a", "b", "a", "c"].map(str::to_owned);
        assert_eq!(reasons(&said), "c; before it: a (2 times); b");
        assert_eq!(reasons(&said[..1]), "a");
    }
}
