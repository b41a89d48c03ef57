//! A budget that holds: before a call leaves, the most that it can cost is held back.

use std::sync::{Arc, Mutex};

use rlaif_core::{BoxFuture, ModelError};
use tokio::sync::Notify;

use crate::call::{Answer, Call, Calls, Failure};
use crate::config::Price;
use crate::meter::lock;

/// Limits of what a run may spend. One budget serves all models of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// US dollars.
    pub max_usd: Option<f64>,
    /// Calls that are answered, or whose answer was lost.
    pub max_calls: Option<u64>,
}

/// What was spent and what is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Calls answered or lost.
    pub calls: u64,
    /// US dollars, upper bounds of what was lost included.
    pub usd: f64,
    /// US dollars held back for calls under way.
    pub held_usd: f64,
    held_calls: u64,
}

/// A budget and its state.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    spent: Mutex<Spent>,
    changed: Notify,
}

impl Budget {
    /// A budget of which `calls` and `usd` are spent already, by earlier runs of the same journal.
    #[must_use]
    pub fn new(limits: Limits, calls: u64, usd: f64) -> Self {
        Budget {
            limits,
            spent: Mutex::new(Spent {
                calls,
                usd,
                ..Spent::default()
            }),
            changed: Notify::new(),
        }
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What was spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        *lock(&self.spent)
    }

    /// What is left of each limit.
    #[must_use]
    pub fn left(&self) -> Limits {
        let spent = self.spent();
        Limits {
            max_usd: self.limits.max_usd.map(|max| (max - spent.usd).max(0.0)),
            max_calls: self
                .limits
                .max_calls
                .map(|max| max.saturating_sub(spent.calls)),
        }
    }

    /// Holds back `usd` and one call. Where calls under way hold too much back, it waits for them:
    /// they cost less than their bounds.
    async fn hold(&self, usd: f64) -> Result<Hold<'_>, ModelError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            {
                let mut s = lock(&self.spent);
                let over_usd = |held: f64| {
                    let limit = self.limits.max_usd.unwrap_or(f64::INFINITY);
                    // A sum of many small numbers is off by rounding; a budget is not.
                    s.usd + held + usd > limit * (1.0 + 1e-12)
                };
                let over_calls =
                    |held: u64| s.calls + held + 1 > self.limits.max_calls.unwrap_or(u64::MAX);
                if over_usd(0.0) || over_calls(0) {
                    return Err(ModelError::BudgetReached);
                }
                if !over_usd(s.held_usd) && !over_calls(s.held_calls) {
                    s.held_usd += usd;
                    s.held_calls += 1;
                    return Ok(Hold { budget: self, usd });
                }
            }
            changed.await;
        }
    }

    fn change(&self, bound: f64, calls: u64, usd: f64) {
        let mut s = lock(&self.spent);
        s.held_calls -= 1;
        s.held_usd = if s.held_calls == 0 {
            0.0
        } else {
            (s.held_usd - bound).max(0.0)
        };
        s.calls += calls;
        s.usd += usd;
        drop(s);
        self.changed.notify_waiters();
    }
}

/// Money held back for one attempt. Dropped without a word (a call given up), it counts as spent:
/// the answer may have been made.
struct Hold<'a> {
    budget: &'a Budget,
    usd: f64,
}

impl Hold<'_> {
    fn settle(self, usd: f64) {
        self.budget.change(self.usd, 1, usd);
        std::mem::forget(self);
    }

    fn release(self) {
        self.budget.change(self.usd, 0, 0.0);
        std::mem::forget(self);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.budget.change(self.usd, 1, self.usd);
    }
}

/// The layer that asks the budget before each attempt.
pub(crate) struct Budgeted {
    pub(crate) inner: Box<dyn Calls>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) price: Option<Price>,
}

impl Calls for Budgeted {
    fn recall(&self, call: &Call) -> Result<Option<Answer>, Failure> {
        self.inner.recall(call)
    }

    fn attempt<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            let bound = call.bound();
            let usd = self.price.map_or(0.0, |price| {
                price.usd(bound.prompt_tokens, bound.completion_tokens)
            });
            let hold = self.budget.hold(usd).await.map_err(Failure::last)?;
            let result = self.inner.attempt(call).await;
            match &result {
                // A count that was not told is not taken for zero.
                Ok(answer) if answer.reply.counted => hold.settle(answer.usd.unwrap_or(0.0)),
                Ok(_) => drop(hold),
                Err(failure) if failure.may_be_charged => drop(hold),
                Err(_) => hold.release(),
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_usd: f64, max_calls: u64) -> Budget {
        let limits = Limits {
            max_usd: Some(max_usd),
            max_calls: Some(max_calls),
        };
        Budget::new(limits, 0, 0.0)
    }

    #[tokio::test]
    async fn bounds_are_held_back_and_a_call_waits_for_what_they_leave() {
        let budget = budget(1.0, 100);
        let first = budget.hold(0.6).await.unwrap();
        // 0.6 + 0.6 is too much, but the first may cost less: the second waits, and then goes.
        let second = async { budget.hold(0.6).await.map(|h| h.settle(0.1)) };
        let settle = async {
            tokio::task::yield_now().await;
            first.settle(0.2);
        };
        let (second, ()) = tokio::join!(second, settle);
        second.unwrap();
        let s = budget.spent();
        assert!((s.usd - 0.3).abs() < 1e-12 && s.calls == 2 && s.held_usd == 0.0);
        // 0.3 spent: a call that may cost 0.8 can never fit.
        assert!(matches!(
            budget.hold(0.8).await.err(),
            Some(ModelError::BudgetReached)
        ));
        // Given up on the way: its bound counts as spent.
        drop(budget.hold(0.5).await.unwrap());
        assert!((budget.spent().usd - 0.8).abs() < 1e-12);
        budget.hold(0.2).await.unwrap().release();
        assert_eq!(budget.spent().calls, 3);
    }

    #[tokio::test]
    async fn calls_are_limited_alike() {
        let budget = budget(1.0, 2);
        budget.hold(0.0).await.unwrap().settle(0.0);
        budget.hold(0.0).await.unwrap().settle(0.0);
        assert!(budget.hold(0.0).await.is_err());
    }
}
