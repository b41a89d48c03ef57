//! Buffers of one pass used again by the next: memory fresh from the system is cleared page by page,
//! which took a quarter of a training step where the allocator had given it back in between.

use std::sync::{Mutex, PoisonError};

/// Below this (values) the allocator keeps what it has.
const SMALL: usize = 1 << 14;

/// Buffers, those in use counted. What is held never exceeds the most that was in use at once.
#[derive(Default)]
pub(super) struct Pool(Mutex<State>);

#[derive(Default)]
struct State {
    free: Vec<Vec<f32>>,
    /// Values in `free`, in use now, and in use at most.
    held: usize,
    used: usize,
    most: usize,
}

impl State {
    fn remove(&mut self, i: usize) -> Vec<f32> {
        let buffer = self.free.swap_remove(i);
        self.held -= buffer.capacity();
        buffer
    }
}

impl Pool {
    /// A buffer of `n` values whatever they are: whoever takes it writes all of them.
    pub(super) fn take(&self, n: usize) -> Vec<f32> {
        if n < SMALL {
            return vec![0.0; n];
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is too large by half stays for a buffer of its own kind.
        let best = (0..state.free.len())
            .map(|i| (state.free[i].capacity(), i))
            .filter(|(size, _)| (n..=n + n / 2).contains(size))
            .min();
        let mut buffer = best.map_or_else(Vec::new, |(_, i)| state.remove(i));
        state.used += buffer.capacity().max(n);
        state.most = state.most.max(state.used);
        // Buffers of another length of batch make room for this one's.
        while state.held + state.used > state.most && !state.free.is_empty() {
            state.remove(0);
        }
        drop(state);
        if buffer.capacity() == 0 {
            return vec![0.0; n];
        }
        buffer.resize(n, 0.0);
        buffer
    }

    /// As [`Pool::take`], all zero.
    pub(super) fn zeros(&self, n: usize) -> Vec<f32> {
        let mut buffer = self.take(n);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of a slice.
    pub(super) fn copy(&self, of: &[f32]) -> Vec<f32> {
        let mut buffer = self.take(of.len());
        buffer.copy_from_slice(of);
        buffer
    }

    /// Takes buffers back.
    pub(super) fn give<const N: usize>(&self, buffers: [Vec<f32>; N]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for buffer in buffers {
            let size = buffer.capacity();
            if size >= SMALL {
                state.used = state.used.saturating_sub(size);
                state.held += size;
                state.free.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_never_hold_more_than_was_in_use_at_once() {
        let pool = Pool::default();
        let (a, b) = (pool.take(3 * SMALL), pool.take(3 * SMALL));
        let places = [a.as_ptr(), b.as_ptr()];
        pool.give([a, b]);
        let again = pool.take(2 * SMALL + 5);
        assert!(places.contains(&again.as_ptr()));
        assert_eq!(again.len(), 2 * SMALL + 5);
        pool.give([again, vec![0.0; 3]]);
        let held = || pool.0.lock().unwrap().held;
        assert_eq!(held(), 6 * SMALL);
        // Another length of batch: the old buffers go as its own come.
        let long = [5, 5, 5].map(|n| pool.take(n * SMALL));
        assert_eq!(held(), 0);
        pool.give(long);
        let short = [1, 1, 1, 1].map(|n| pool.take(n * SMALL));
        assert!(held() + 4 * SMALL <= 15 * SMALL);
        pool.give(short);
        assert!(held() <= 15 * SMALL);
    }
}
