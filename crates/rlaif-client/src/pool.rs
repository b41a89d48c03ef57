//! Several servers of one model: each with its window, breaker and limits; a call goes to the one
//! that has most room for its weight.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rlaif_core::{BoxFuture, ModelError};
use tokio::time::Instant;

use crate::breaker::{Breaker, Gate};
use crate::call::{Answer, Call, Calls, Failure, FailureKind};
use crate::halt::Halt;
use crate::line::Line;
use crate::meter::{Meter, lock};
use crate::rate::Rate;
use crate::window::{Ended, Permit, Window};

/// One server of the pool.
pub(crate) struct Member {
    pub(crate) line: Line,
    pub(crate) weight: f64,
    pub(crate) window: Arc<Window>,
    pub(crate) requests: Option<Mutex<Rate>>,
    pub(crate) tokens: Option<Mutex<Rate>>,
    pub(crate) breaker: Mutex<Breaker>,
}

/// The layer that chooses a server and waits for room there.
pub(crate) struct Pool {
    pub(crate) members: Vec<Member>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) halt: Arc<Halt>,
    pub(crate) begun: Instant,
}

/// A probe that is given up leaves the way free for the next one.
struct Probe<'a>(Option<&'a Mutex<Breaker>>);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(breaker) = self.0 {
            lock(breaker).gave_up();
        }
    }
}

impl Pool {
    /// Requests that may be in flight now.
    pub(crate) fn width(&self) -> usize {
        self.members.iter().map(|m| m.window.limit()).sum()
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.members.iter().map(|m| m.window.in_flight()).sum()
    }

    fn choose(&self) -> Option<&Member> {
        let burden = |m: &Member| (m.window.load() + 1) as f64 / m.weight;
        let open = |m: &&Member| !lock(&m.breaker).is_closed();
        let least = |a: &&Member, b: &&Member| burden(a).total_cmp(&burden(b));
        self.members
            .iter()
            .filter(open)
            .min_by(least)
            // Where none answers, each is tried in its turn.
            .or_else(|| self.members.iter().min_by(least))
    }

    /// Waits until a request may leave for a server: it is not left alone, has room, and its limits
    /// a minute allow it.
    async fn room<'a>(
        &self,
        member: &'a Member,
        tokens: f64,
    ) -> Result<(Probe<'a>, Permit), Failure> {
        let mut probe = Probe(None);
        let waited = Instant::now();
        loop {
            let gate = lock(&member.breaker).gate(self.begun.elapsed());
            match gate {
                Gate::Open => break,
                Gate::Probe => {
                    probe.0 = Some(&member.breaker);
                    break;
                }
                // The one that tried has failed: so would this one have.
                Gate::Wait(_) if waited.elapsed() > Duration::from_millis(600) => {
                    let last = lock(&member.breaker).last().to_owned();
                    return Err(Failure::passing(last));
                }
                Gate::Wait(time) => {
                    tokio::time::sleep(time.min(Duration::from_millis(700))).await;
                }
            }
        }
        let permit = member.window.enter().await;
        let now = self.begun.elapsed().as_secs_f64();
        let book = |rate: &Option<Mutex<Rate>>, amount: f64| {
            rate.as_ref()
                .map_or(Duration::ZERO, |rate| lock(rate).book(now, amount))
        };
        let wait = book(&member.requests, 1.0).max(book(&member.tokens, tokens));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok((probe, permit))
    }

    async fn through(&self, call: &Call) -> Result<Answer, Failure> {
        let Some(member) = self.choose() else {
            return Err(Failure::passing("the endpoint has no server"));
        };
        let bound = call.bound();
        // Tokens are booked by the usual rule of thumb, and corrected by the count.
        let guess = bound.prompt_tokens as f64 / 4.0 + bound.completion_tokens as f64;
        let wait = call.waits.begin();
        let room = self.halt.unless(self.room(member, guess)).await;
        drop(wait);
        let Some(room) = room else {
            return Err(Failure::last(ModelError::Stopped));
        };
        let (mut probe, permit) = room?;
        let sent = self.begun.elapsed();
        let mut result = member.line.attempt(call).await;
        let now = self.begun.elapsed();
        let took = now.saturating_sub(sent);
        probe.0 = None;
        match &mut result {
            Ok(answer) => {
                lock(&member.breaker).answered();
                self.meter.latency(took);
                if let Some(rate) = &member.tokens {
                    let used = answer.reply.prompt_tokens + answer.reply.completion_tokens;
                    lock(rate).give_back(guess - used as f64);
                }
                permit.end(Ended::Answered {
                    secs: took.as_secs_f64(),
                });
            }
            Err(failure) => match &mut failure.kind {
                FailureKind::Passing {
                    retry_after,
                    load,
                    timed_out,
                    elsewhere,
                } => {
                    if *load {
                        lock(&member.breaker).answered();
                        permit.end(Ended::Refused {
                            retry_after: retry_after.map(|d| d.as_secs_f64()),
                        });
                    } else if *timed_out {
                        let mut breaker = lock(&member.breaker);
                        // Where another server can take the calls, the first ten are enough.
                        let is_down = match self.members.len() {
                            1 => breaker.timed_out(sent, now, &failure.message),
                            _ => breaker.failed(now, &failure.message),
                        };
                        drop(breaker);
                        if is_down {
                            member.line.tell_down(&failure.message);
                        }
                        permit.end(Ended::TimedOut {
                            secs: took.as_secs_f64(),
                        });
                    } else {
                        let is_down = lock(&member.breaker).failed(now, &failure.message);
                        if is_down {
                            member.line.tell_down(&failure.message);
                        }
                        permit.end(Ended::Failed);
                    }
                    *elsewhere = self.members.iter().any(|other| {
                        !std::ptr::eq(other, member) && !lock(&other.breaker).is_closed()
                    }) && lock(&member.breaker).is_closed();
                }
                FailureKind::Final(_) => {
                    lock(&member.breaker).answered();
                    permit.end(Ended::Failed);
                }
            },
        }
        result
    }
}

impl Calls for Pool {
    fn attempt<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.through(call))
    }
}
