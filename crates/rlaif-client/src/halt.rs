//! A person's wish to stop: what has left ends, and nothing else leaves.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Asked to stop, once and for all. Requests that were sent are waited for and kept; calls that wait
/// (for room, for another attempt, for a batch) are given up with
/// [`rlaif_core::ModelError::Stopped`].
#[derive(Debug, Default)]
pub struct Halt {
    is_requested: AtomicBool,
    changed: Notify,
}

impl Halt {
    /// Asks.
    pub fn request(&self) {
        self.is_requested.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// True once asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::SeqCst)
    }

    /// Ends once asked.
    pub(crate) async fn requested(&self) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        // Registered before the look, so that no request between the two is missed.
        changed.as_mut().enable();
        if !self.is_requested() {
            changed.await;
        }
    }

    /// `work`, or `None` where it is asked to stop before that ends.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        if self.is_requested() {
            return None;
        }
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.requested() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_let_go_and_who_comes_later_does_not_begin() {
        let halt = Arc::new(Halt::default());
        assert_eq!(halt.unless(async { 1 }).await, Some(1));
        let waiting = {
            let halt = Arc::clone(&halt);
            tokio::spawn(async move { halt.unless(std::future::pending::<()>()).await })
        };
        tokio::time::sleep(Duration::from_millis(5)).await;
        halt.request();
        let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert_eq!(ended.unwrap().unwrap(), None);
        assert_eq!(halt.unless(async { 1 }).await, None);
    }
}
