//! How many requests may be in flight: what the server bears, found by trying.
//!
//! [`Controller`] is the rule, without clocks or sockets: it is told how each request ended, and
//! judges once a round trip. The window doubles until answers slow down or are refused, then
//! creeps. It shrinks on the *share* of refusals for load, or when latency has left its floor; one
//! refusal or one slow round alone changes nothing. What a smaller window does not lessen is not
//! for load: neither refusals (a provider that throws dice, a limit a minute) nor slowness (longer
//! answers, a machine that others use). The window is given back then. Requests that run into their
//! time-out halve the window, once for all that it had sent, where the answers beside them took
//! long as well or none came: the server has more to do than it gets done in that time.
//!
//! [`Window`] is the queue that keeps to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::meter::lock;

/// How a request ended, as far as the window cares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ended {
    /// Answered after so many seconds.
    Answered { secs: f64 },
    /// Refused for load; with the server's word on when to come back, in seconds.
    Refused { retry_after: Option<f64> },
    /// Not answered within the time-out, after so many seconds.
    TimedOut { secs: f64 },
    /// Failed otherwise.
    Failed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Round {
    begun: f64,
    answered: u32,
    refused: u32,
    with_word: u32,
    word: f64,
    secs: f64,
    was_full: bool,
}

/// A smaller window whose effect on the share of refusals is being watched.
#[derive(Clone, Copy, Debug)]
struct Trial {
    before: usize,
    share: f64,
}

/// The rule.
#[derive(Debug)]
pub(crate) struct Controller {
    limit: usize,
    max: usize,
    doubling: bool,
    /// Least mean latency of a round, in seconds; ages slowly.
    floor: Option<f64>,
    /// Largest window known to be borne.
    ceiling: usize,
    /// Share of refusals that no window lessens.
    base: f64,
    trial: Option<Trial>,
    /// Likewise for latency: the window before, and the mean latency in seconds.
    slow_trial: Option<(usize, f64)>,
    slow_rounds: u32,
    /// Refusals for load were seen.
    was_refused: bool,
    /// Rounds that show what an earlier window had sent.
    settling: u32,
    clean: u32,
    patience: u32,
    /// Refusals in rounds that were not judged for having too few of them.
    stray: u32,
    /// Longest wait for an answer, in seconds.
    timeout: f64,
    /// When the last answer came and how long answers take now, in seconds.
    newest: Option<(f64, f64)>,
    /// A request that was sent before and timed out belongs to a wave that was counted.
    counted_until: f64,
    round: Round,
    /// Nothing is sent before, in seconds; where most of a window was told so.
    pub(crate) paused_until: f64,
}

/// Latency this much above its floor says that requests queue up in the server.
const SLOW: f64 = 2.0;
/// Seconds by which latency may differ from its floor whatever its size: a timer's grain.
const GRAIN: f64 = 0.005;
/// Answers that take more than this share of the time-out are near it: they may not slow down by
/// [`SLOW`], but only by [`SLOW_NEAR`].
const NEAR: f64 = 1.0 / 3.0;
const SLOW_NEAR: f64 = 1.25;
const MIN_PATIENCE: u32 = 8;
const MAX_PATIENCE: u32 = 128;
/// Longest pause of a whole endpoint, in seconds.
const LONGEST_PAUSE: f64 = 120.0;

impl Controller {
    /// A window that starts at `start` and never exceeds `max`, for requests that are waited for
    /// `timeout` seconds.
    pub(crate) fn new(start: usize, max: usize, timeout: f64) -> Self {
        Controller {
            limit: start.clamp(1, max.max(1)),
            max: max.max(1),
            doubling: true,
            floor: None,
            ceiling: max.max(1),
            base: 0.0,
            trial: None,
            slow_trial: None,
            slow_rounds: 0,
            was_refused: false,
            settling: 0,
            clean: 0,
            patience: MIN_PATIENCE,
            stray: 0,
            timeout,
            newest: None,
            counted_until: 0.0,
            round: Round::default(),
            paused_until: 0.0,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Tells that all of the window is used.
    pub(crate) fn full(&mut self) {
        self.round.was_full = true;
    }

    /// Takes in one end at time `now`, in seconds. Returns true where a round ended with it.
    pub(crate) fn ended(&mut self, now: f64, how: Ended) -> bool {
        let round = &mut self.round;
        match how {
            Ended::Answered { secs } => {
                round.answered += 1;
                round.secs += secs;
                let usual = self.newest.map_or(secs, |(_, usual)| usual);
                self.newest = Some((now, usual + (secs - usual) / 8.0));
            }
            Ended::Refused { retry_after } => {
                round.refused += 1;
                if let Some(word) = retry_after {
                    round.with_word += 1;
                    round.word = round.word.max(word);
                }
            }
            Ended::TimedOut { secs } => {
                self.timed_out(now, secs);
                return false;
            }
            Ended::Failed => {}
        }
        let n = round.answered + round.refused;
        let trip = if round.answered > 0 {
            round.secs / f64::from(round.answered)
        } else {
            self.floor.unwrap_or(0.05)
        };
        if n < 2 || now - round.begun < trip {
            return false;
        }
        let round = std::mem::take(&mut self.round);
        self.round.begun = now;
        self.judge(now, round);
        true
    }

    fn timed_out(&mut self, now: f64, secs: f64) {
        let sent = now - secs;
        if sent < self.counted_until {
            return;
        }
        let usual = self
            .newest
            .and_then(|(at, usual)| (at >= sent).then_some(usual));
        // Where others were answered soon, this one was lost on the way.
        if usual.is_some_and(|usual| usual < NEAR * secs) {
            return;
        }
        self.counted_until = now;
        self.limit = (self.limit / 2).max(1);
        if usual.is_some() {
            self.doubling = false;
            self.was_refused = true;
            self.ceiling = self.limit;
        }
        (self.trial, self.slow_trial) = (None, None);
        (self.slow_rounds, self.clean, self.settling) = (0, 0, 1);
    }

    /// By how much answers of this length may exceed their floor.
    fn bearable(&self, mean: f64) -> f64 {
        match mean > NEAR * self.timeout {
            true => SLOW_NEAR,
            false => SLOW,
        }
    }

    fn judge(&mut self, now: f64, round: Round) {
        let n = round.answered + round.refused;
        let share = f64::from(round.refused) / f64::from(n);
        if round.with_word >= 2 && 2 * round.with_word > n {
            self.paused_until = now + round.word.min(LONGEST_PAUSE);
        }
        let mean = (round.answered > 0).then(|| round.secs / f64::from(round.answered));
        let slow = match (mean, self.floor) {
            (Some(mean), Some(floor)) => {
                let slow = mean > self.bearable(mean) * floor + GRAIN && round.answered >= 4;
                // The floor follows a lasting change, a two-thousandth of the way a round.
                self.floor = Some(mean.min(floor + (mean - floor) * 0.0005));
                slow
            }
            (Some(mean), None) => {
                self.floor = Some(mean);
                false
            }
            _ => false,
        };
        if self.settling > 0 {
            self.settling -= 1;
            return;
        }
        self.stray = if round.refused == 1 {
            self.stray + 1
        } else {
            0
        };
        let many = round.refused >= 2 || self.stray >= 3;
        if many && share > 2.0 * self.base + 0.01 {
            self.stray = 0;
            self.shrink(round.refused as usize, share);
            return;
        }
        if let Some(trial) = self.trial.take() {
            if share < 0.6 * trial.share {
                // It helped: what is borne lies between the two.
                self.ceiling = self.limit;
                self.doubling = false;
            } else {
                self.base = self.base.max(share);
                self.limit = trial.before;
            }
        }
        if round.refused == 0 {
            self.base *= 0.95;
        }
        if let (Some((before, secs)), Some(mean)) = (self.slow_trial.take(), mean) {
            if mean > 0.9 * secs {
                // As slow with less: this is how long answers take now.
                self.limit = before;
                let least = mean / self.bearable(mean);
                self.floor = self.floor.map(|floor| floor.max(least));
                self.slow_rounds = 0;
                return;
            }
            // Halfway back: a slow moment that passed by itself looks the same as a cure.
            self.ceiling = self.limit.midpoint(before);
            self.doubling = false;
        }
        self.slow_rounds = if slow { self.slow_rounds + 1 } else { 0 };
        if self.slow_rounds >= 2 && self.limit > 1 {
            self.slow_rounds = 0;
            self.slow_trial = mean.map(|mean| (self.limit, mean));
            let less = if self.doubling {
                self.limit / 2
            } else {
                self.limit * 3 / 4
            };
            self.limit = less.max(1);
            self.settling = 1;
            self.clean = 0;
            return;
        }
        if slow {
            return;
        }
        if round.was_full && share <= 2.0 * self.base + 0.01 {
            let before = self.limit;
            self.grow();
            let longer = self.limit as f64 / before as f64;
            if let (Some(mean), Some(floor)) = (mean, self.floor)
                && mean > SLOW_NEAR * floor
                && mean * longer > 0.9 * self.timeout
            {
                // Answers queue already, and some would not come in time.
                self.limit = before;
            }
        }
    }

    fn shrink(&mut self, refused: usize, share: f64) {
        if let Some(trial) = self.trial
            && share > 0.6 * trial.share
        {
            // A smaller window is refused as much: not for load.
            self.base = self.base.max(share);
            self.limit = trial.before;
            self.trial = None;
            self.settling = 1;
            return;
        }
        let before = self.limit;
        self.limit = before.saturating_sub(refused).max(before / 2).max(1);
        self.trial = Some(Trial { before, share });
        self.was_refused = true;
        self.patience = (self.patience * 2).min(MAX_PATIENCE);
        self.clean = 0;
        self.settling = 1;
    }

    fn grow(&mut self) {
        if self.doubling {
            self.limit = (self.limit * 2).min(self.max);
            return;
        }
        if self.limit < self.ceiling.min(self.max) {
            let step = (self.ceiling - self.limit).div_ceil(2);
            self.limit = (self.limit + step).min(self.max);
            return;
        }
        self.clean += 1;
        if self.clean >= self.patience {
            self.clean = 0;
            self.patience = (self.patience / 2).max(MIN_PATIENCE);
            // Where nothing was ever refused, trying more costs nothing but a little time.
            let step = self.limit / if self.was_refused { 20 } else { 8 };
            self.limit = (self.limit + step.max(1)).min(self.max);
            self.ceiling = self.limit;
        }
    }
}

struct State {
    rule: Controller,
    in_flight: usize,
    /// Room that stays empty until the round ends: whoever fills it at once is refused again.
    frozen: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// A queue in front of one server.
pub(crate) struct Window {
    state: Mutex<State>,
    begun: Instant,
}

/// Room for one request; given back on drop.
pub(crate) struct Permit {
    window: Arc<Window>,
    ended: Option<Ended>,
}

impl Permit {
    pub(crate) fn end(mut self, how: Ended) {
        self.ended = Some(how);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let how = self.ended.unwrap_or(Ended::Failed);
        self.window.give_back(how);
    }
}

impl Window {
    pub(crate) fn new(rule: Controller) -> Arc<Self> {
        Arc::new(Window {
            state: Mutex::new(State {
                rule,
                in_flight: 0,
                frozen: 0,
                waiting: VecDeque::new(),
            }),
            begun: Instant::now(),
        })
    }

    /// Waits for room.
    pub(crate) async fn enter(self: &Arc<Self>) -> Permit {
        loop {
            let pause = {
                let state = lock(&self.state);
                state.rule.paused_until - self.begun.elapsed().as_secs_f64()
            };
            if pause > 0.0 {
                tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            }
            let turn = {
                let mut state = lock(&self.state);
                if state.in_flight + state.frozen < state.rule.limit() {
                    state.in_flight += 1;
                    if state.in_flight + state.frozen >= state.rule.limit() {
                        state.rule.full();
                    }
                    return Permit {
                        window: Arc::clone(self),
                        ended: None,
                    };
                }
                state.rule.full();
                let (sender, receiver) = oneshot::channel();
                state.waiting.push_back(sender);
                receiver
            };
            // The sender is dropped only with the window itself, which this call keeps alive.
            if let Ok(permit) = turn.await {
                return permit;
            }
        }
    }

    fn give_back(self: &Arc<Self>, how: Ended) {
        let mut turns = Vec::new();
        {
            let mut state = lock(&self.state);
            let now = self.begun.elapsed().as_secs_f64();
            state.in_flight -= 1;
            if matches!(how, Ended::Refused { .. }) {
                state.frozen += 1;
            }
            if state.rule.ended(now, how) || state.in_flight == 0 {
                // With nothing in flight no end would come to thaw it.
                state.frozen = 0;
            }
            while state.in_flight + state.frozen < state.rule.limit() {
                let Some(turn) = state.waiting.pop_front() else {
                    break;
                };
                if !turn.is_closed() {
                    state.in_flight += 1;
                    turns.push(turn);
                }
            }
        }
        // Outside the lock: a permit that nobody takes any more gives itself back.
        for turn in turns {
            let _ = turn.send(Permit {
                window: Arc::clone(self),
                ended: None,
            });
        }
    }

    pub(crate) fn limit(&self) -> usize {
        lock(&self.state).rule.limit()
    }

    pub(crate) fn in_flight(&self) -> usize {
        lock(&self.state).in_flight
    }

    /// Requests in flight and waiting.
    pub(crate) fn load(&self) -> usize {
        let state = lock(&self.state);
        state.in_flight + state.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers after `secs`, bears `bears` at once, and refuses at once what is
    /// above, or a `share` of everything. Returns the window and the share refused, after each
    /// simulated second.
    fn simulate(bears: usize, secs: f64, share: f64, queue: bool, max: usize) -> Vec<(usize, f64)> {
        let mut rule = Controller::new(8.min(max), max, 120.0);
        let mut now = 0.0f64;
        let mut flying: Vec<(f64, Ended)> = Vec::new();
        let mut frozen = 0;
        let mut dice = 0.0f64;
        let mut told = Vec::new();
        let (mut sent, mut refused) = (0u32, 0u32);
        for step in 1..=20_000u32 {
            now += 0.001;
            let (over, rest): (Vec<_>, Vec<_>) = flying.into_iter().partition(|f| f.0 <= now);
            flying = rest;
            for (_, how) in over {
                if matches!(how, Ended::Refused { .. }) {
                    frozen += 1;
                }
                if rule.ended(now, how) {
                    frozen = 0;
                }
            }
            while flying.len() + frozen < rule.limit() {
                sent += 1;
                dice = (dice + 0.618_034) % 1.0;
                let served = flying
                    .iter()
                    .filter(|f| matches!(f.1, Ended::Answered { .. }))
                    .count();
                if dice < share || (!queue && served >= bears) {
                    refused += 1;
                    flying.push((now + 0.002, Ended::Refused { retry_after: None }));
                } else {
                    let takes = if queue {
                        secs * (1.0f64).max(served as f64 / bears as f64)
                    } else {
                        secs
                    };
                    flying.push((now + takes, Ended::Answered { secs: takes }));
                }
            }
            rule.full();
            if step % 1000 == 0 {
                told.push((rule.limit(), f64::from(refused) / f64::from(sent)));
                (sent, refused) = (0, 0);
            }
        }
        told
    }

    #[test]
    fn forty_at_once_are_found_with_few_refusals() {
        let told = simulate(40, 0.05, 0.0, false, 1024);
        let late = &told[5..];
        let mean = late.iter().map(|(w, _)| (*w).min(40) as f64).sum::<f64>() / late.len() as f64;
        let share = late.iter().map(|(_, s)| s).sum::<f64>() / late.len() as f64;
        assert!(mean >= 0.85 * 40.0, "{mean}: {told:?}");
        assert!(share < 0.02, "{share}: {told:?}");
    }

    #[test]
    fn refusals_by_chance_do_not_close_the_window() {
        let told = simulate(10_000, 0.05, 0.1, false, 512);
        let least = told[3..].iter().map(|(w, _)| *w).min().unwrap();
        assert!(least >= 256, "{told:?}");
    }

    #[test]
    fn a_queue_behind_the_endpoint_is_seen_by_its_latency() {
        // Sixteen at full speed; more only wait longer.
        let told = simulate(16, 0.05, 0.0, true, 1024);
        let (last, _) = told[told.len() - 1];
        assert!((16..=48).contains(&last), "{told:?}");
    }

    #[test]
    fn slowness_that_is_not_the_windows_does_not_close_it() {
        let mut rule = Controller::new(8, 256, 120.0);
        let mut now = 0.0;
        let mut round = |rule: &mut Controller, secs: f64| {
            for _ in 0..rule.limit().max(4) {
                rule.full();
                now += secs * 1.05 / rule.limit().max(4) as f64;
                rule.ended(now, Ended::Answered { secs });
            }
        };
        for _ in 0..20 {
            round(&mut rule, 0.05);
        }
        assert_eq!(rule.limit(), 256);
        // Answers take four times as long, whatever the window; and every now and then ten times.
        let mut least = 256;
        for i in 0..200 {
            round(&mut rule, if i % 17 == 0 { 0.5 } else { 0.2 });
            least = least.min(rule.limit());
        }
        assert!(least >= 96 && rule.limit() >= 128, "{least} {rule:?}");
    }

    /// A server that does one request after the other, `secs` each, also those that nobody waits for
    /// any more. Returns for each simulated minute the window and the share that timed out.
    fn one_by_one(secs: f64, timeout: f64) -> Vec<(usize, f64)> {
        let mut rule = Controller::new(8, 768, timeout);
        let mut now = 0.0f64;
        let mut free_at = 0.0f64;
        let mut flying: Vec<(f64, Ended)> = Vec::new();
        let mut told = Vec::new();
        for _ in 0..20 {
            let (mut answered, mut late) = (0u32, 0u32);
            let until = now + 60.0 * secs;
            while now < until {
                while flying.len() < rule.limit() {
                    free_at = free_at.max(now) + secs;
                    let takes = free_at - now;
                    flying.push(match takes < timeout {
                        true => (free_at, Ended::Answered { secs: takes }),
                        false => (now + timeout, Ended::TimedOut { secs: timeout }),
                    });
                }
                rule.full();
                flying.sort_by(|a, b| b.0.total_cmp(&a.0));
                let (at, how) = flying.pop().unwrap();
                now = now.max(at);
                match how {
                    Ended::TimedOut { .. } => late += 1,
                    _ => answered += 1,
                }
                rule.ended(now, how);
            }
            told.push((rule.limit(), f64::from(late) / f64::from(answered + late)));
        }
        told
    }

    #[test]
    fn time_outs_of_a_slow_server_shrink_the_window_and_those_of_a_lossy_one_do_not() {
        // Ten and then two can be answered in time; the second cannot even bear the first eight.
        for (secs, timeout) in [(0.1, 1.0), (5.0, 10.1), (30.0, 120.0)] {
            let told = one_by_one(secs, timeout);
            let late = told[5..].iter().map(|(_, share)| share).sum::<f64>() / 15.0;
            assert!(late < 0.05, "{secs} {timeout}: {told:?}");
            let bears = (timeout / secs) as usize;
            assert!(told.iter().all(|(w, _)| *w <= bears), "{told:?}");
        }
        // Every tenth request is never answered, the others in 50 ms: the window is what it would be.
        let mut rule = Controller::new(8, 512, 2.0);
        let mut now = 0.0;
        for i in 0..200_000u32 {
            rule.full();
            now += 0.05 / rule.limit() as f64;
            let lost = i % 10 == 0 && now > 2.0;
            rule.ended(
                now,
                match lost {
                    true => Ended::TimedOut { secs: 2.0 },
                    false => Ended::Answered { secs: 0.05 },
                },
            );
        }
        assert_eq!(rule.limit(), 512, "{rule:?}");
    }

    #[test]
    fn the_window_never_exceeds_its_maximum_and_one_refusal_changes_nothing() {
        let told = simulate(10_000, 0.05, 0.0, false, 100);
        assert!(
            told.iter().all(|(w, _)| *w <= 100) && told[2].0 == 100,
            "{told:?}"
        );
        let mut rule = Controller::new(64, 64, 120.0);
        rule.ended(
            0.1,
            Ended::Refused {
                retry_after: Some(9.0),
            },
        );
        for i in 0..200 {
            rule.ended(0.1 + f64::from(i) * 0.01, Ended::Answered { secs: 0.05 });
        }
        assert_eq!((rule.limit(), rule.paused_until), (64, 0.0));
    }

    #[test]
    fn an_endpoint_pauses_where_most_of_a_window_is_told_to_wait() {
        let mut rule = Controller::new(16, 16, 120.0);
        for _ in 0..16 {
            rule.ended(
                1.0,
                Ended::Refused {
                    retry_after: Some(3.0),
                },
            );
        }
        rule.ended(
            1.1,
            Ended::Refused {
                retry_after: Some(3.0),
            },
        );
        assert!(rule.paused_until >= 4.0, "{rule:?}");
    }

    #[tokio::test]
    async fn permits_are_bounded_and_come_back() {
        let window = Window::new(Controller::new(2, 2, 120.0));
        let (a, _b) = (window.enter().await, window.enter().await);
        let third = window.enter();
        tokio::pin!(third);
        let waited = tokio::time::timeout(Duration::from_millis(20), third.as_mut()).await;
        assert!(waited.is_err());
        a.end(Ended::Answered { secs: 0.01 });
        let third = third.await;
        assert_eq!(window.in_flight(), 2);
        // One that waits and gives up does not take its place with it.
        let mut gone = Box::pin(window.enter());
        let polled = tokio::time::timeout(Duration::from_millis(5), gone.as_mut()).await;
        assert!(polled.is_err());
        drop(gone);
        drop(third);
        assert_eq!((window.in_flight(), window.load()), (1, 1));
    }
}
