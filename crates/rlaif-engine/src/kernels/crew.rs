//! Threads that stay together through a pass.
//!
//! A pass is hundreds of short parallel steps. Handing each to the thread pool and sleeping in between
//! costs more than the shortest of them: a crew asks the pool once, and its helpers then wait for the
//! next step awake. A helper is never needed: what it does not take, the leader does.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

type Step<'a> = dyn Fn(usize) + Sync + 'a;

/// Looks at the board before a waiting helper lets others have its core: about 50 µs.
const PATIENCE: u32 = 1000;

struct Board {
    /// Odd while a step is open; changes with each.
    state: AtomicUsize,
    /// Helpers that may be looking at the step.
    inside: AtomicUsize,
    next: AtomicUsize,
    pieces: AtomicUsize,
    over: AtomicBool,
    step: UnsafeCell<Option<*const Step<'static>>>,
}
// SAFETY: `step` is written by the leader while nobody is inside, and read only from inside.
unsafe impl Sync for Board {}

/// Runs what is given when it goes, panics included.
struct Last<F: Fn()>(F);

impl<F: Fn()> Drop for Last<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Board {
    fn take(&self, work: &Step<'_>) {
        let pieces = self.pieces.load(Ordering::Relaxed);
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= pieces {
                return;
            }
            work(i);
        }
    }

    fn help(&self) {
        let mut seen = 0;
        let mut looks = 0;
        while !self.over.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::Relaxed);
            if state == seen || state.is_multiple_of(2) {
                looks += 1;
                if looks < PATIENCE {
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
                continue;
            }
            looks = 0;
            self.inside.fetch_add(1, Ordering::SeqCst);
            let _leave = Last(|| {
                self.inside.fetch_sub(1, Ordering::SeqCst);
            });
            // Either this sees that the step has closed, or the leader sees this helper inside.
            seen = self.state.load(Ordering::SeqCst);
            if seen % 2 == 1 {
                // SAFETY: the step is open, so the pointer was set; the leader keeps what it points to
                // until nobody is inside.
                if let Some(step) = unsafe { *self.step.get() } {
                    // SAFETY: as above.
                    self.take(unsafe { &*step });
                }
            }
        }
    }
}

/// The threads of a pass. Only the leader has it (it is not `Sync`): a step has no steps within.
pub(crate) struct Crew<'a>(Option<&'a Board>, PhantomData<*const ()>);

impl Crew<'_> {
    /// The calling thread by itself.
    pub(crate) const ALONE: Crew<'static> = Crew(None, PhantomData);

    /// Gathers the pool's threads for the time of `work`.
    pub(crate) fn gather<R: Send>(work: impl FnOnce(&Crew<'_>) -> R + Send) -> R {
        let threads = rayon::current_num_threads();
        if threads == 1 {
            return work(&Crew::ALONE);
        }
        let board = Board {
            state: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            pieces: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            step: UnsafeCell::new(None),
        };
        let board = &board;
        rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| board.help());
            }
            let _end = Last(|| board.over.store(true, Ordering::Release));
            work(&Crew(Some(board), PhantomData))
        })
    }

    /// Whether it is one thread only.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Runs `work` for 0, 1 … `pieces − 1`, each once, in no order.
    pub(crate) fn each(&self, pieces: usize, work: impl Fn(usize) + Sync) {
        let Some(board) = self.0.filter(|_| pieces > 1) else {
            return (0..pieces).for_each(work);
        };
        let step: *const Step<'_> = &work;
        // SAFETY: only the lifetime changes, and `close` below waits for all that use the step.
        let step = unsafe { std::mem::transmute::<*const Step<'_>, *const Step<'static>>(step) };
        // SAFETY: the step before was closed and left by all, so nobody reads this now.
        unsafe { *board.step.get() = Some(step) };
        board.pieces.store(pieces, Ordering::Relaxed);
        board.next.store(0, Ordering::Relaxed);
        board.state.fetch_add(1, Ordering::SeqCst);
        let _close = Last(|| {
            board.state.fetch_add(1, Ordering::SeqCst);
            let mut looks = 0;
            while board.inside.load(Ordering::SeqCst) > 0 {
                looks += 1;
                if looks < PATIENCE {
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
        });
        board.take(&work);
    }

    /// Runs `work` for ranges of rows of at most `most` that cover 0..`rows`.
    pub(crate) fn ranges(
        &self,
        rows: usize,
        most: usize,
        work: impl Fn(std::ops::Range<usize>) + Sync,
    ) {
        self.each(rows.div_ceil(most), |i| {
            work(i * most..((i + 1) * most).min(rows));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_run_once_by_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let counts: Vec<AtomicUsize> = (0..700).map(|_| AtomicUsize::new(0)).collect();
            pool.install(|| {
                Crew::gather(|crew| {
                    for step in 0..200 {
                        crew.each(step, |i| {
                            counts[i + step].fetch_add(1, Ordering::Relaxed);
                        });
                    }
                    crew.ranges(700, 16, |rows| {
                        assert!(rows.len() == 16 || rows == (688..700));
                        for i in rows {
                            counts[i].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
            });
            for (i, count) in counts.iter().enumerate() {
                // Steps s with s ≤ i < 2s, s < 200.
                let steps = (0..200).filter(|s| (*s..2 * s).contains(&i)).count();
                assert_eq!(count.load(Ordering::Relaxed), steps + 1, "{threads} {i}");
            }
        }
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller_and_the_pool_lives_on() {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        let run = |bad: usize| {
            pool.install(|| {
                std::panic::catch_unwind(|| {
                    Crew::gather(|crew| crew.each(64, |i| assert_ne!(i, bad)));
                })
            })
        };
        assert!(run(17).is_err());
        assert!(run(64).is_ok());
    }
}
