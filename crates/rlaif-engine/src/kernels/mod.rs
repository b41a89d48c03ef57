//! Numeric kernels on plain slices.
//!
//! **Same bits.** The order of every reduction depends on its own length alone: neither on the
//! number of rows beside it nor on the number of threads. Work is split over rows and output
//! columns only. A sum of products runs over its length in order, one fused multiply-add each, so
//! that 16, 8 or 1 columns at a time give the same bits too.

mod buffer;
mod crew;
pub(crate) mod direct;
mod elementwise;
mod packed;

pub(crate) use buffer::Buffer;
pub(crate) use crew::Crew;
pub(crate) use elementwise::{add_assign, exp, exp_sum, max_of, rms, rms_norm, scale, silu_mul};
pub(crate) use packed::{Packed, Source};

use std::sync::OnceLock;

/// Runs `work` on the thread pool. From outside, each parallel step within would put the caller to
/// sleep and wake it: this does so once.
pub(crate) fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Instruction set chosen once for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 (F and VL).
    V4,
    /// AVX2 with fused multiply-add.
    V3,
    /// Whatever the compiler assumes.
    Portable,
}

/// The instruction set in use.
pub(crate) fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Isa::V4;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Isa::V3;
            }
        }
        Isa::Portable
    })
}

/// Compiles one body for each instruction set and calls the best that the machine has.
macro_rules! multiversion {
    ($(#[$doc:meta])* pub(crate) fn $name:ident $(<const $n:ident: usize>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
            fn v4 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? { body $(::<$n>)? ($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn v3 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? { body $(::<$n>)? ($($arg),*) }
            match $crate::kernels::isa() {
                // SAFETY: `isa` found the instructions on this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Isa::V4 => unsafe { v4 $(::<$n>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Isa::V3 => unsafe { v3 $(::<$n>)? ($($arg),*) },
                _ => body $(::<$n>)? ($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

/// Brings the line that a slice begins in into the second-level cache.
#[inline(always)]
pub(crate) fn prefetch(at: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A pointer that several tasks write through, each to cells of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut f32);
// SAFETY: users write disjoint cells and the buffer outlives the parallel region.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The cells `at..at + len`.
    ///
    /// # Safety
    /// In bounds, and no other task touches them while the slice lives.
    #[allow(clippy::mut_from_ref)] // the disjointness is the callers' promise
    pub(crate) unsafe fn slice(&self, at: usize, len: usize) -> &mut [f32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }

    /// Where cell `at` is.
    ///
    /// # Safety
    /// In bounds.
    pub(crate) unsafe fn at(&self, at: usize) -> *mut f32 {
        // SAFETY: promised by the caller.
        unsafe { self.0.add(at) }
    }

    /// The cells `at..at + len`, to read.
    ///
    /// # Safety
    /// In bounds, and nobody writes them while the slice lives.
    pub(crate) unsafe fn read(&self, at: usize, len: usize) -> &[f32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.0.add(at), len) }
    }
}
