//! Numeric kernels on plain slices.
//!
//! **Same bits.** The order of every reduction depends on its own length alone: neither on the
//! number of rows beside it nor on the number of threads. Work is split over rows and output
//! columns only. A sum of products runs over its length in order, one fused multiply-add each, so
//! that 16, 8 or 1 columns at a time give the same bits too.

mod elementwise;
mod packed;

pub(crate) use elementwise::{add_assign, exp, exp_sum, max_of, rms, rms_norm, silu_mul};
pub(crate) use packed::Packed;

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
    ($(#[$doc:meta])* pub(crate) fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
            fn v4($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn v3($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match $crate::kernels::isa() {
                // SAFETY: `isa` found the instructions on this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Isa::V4 => unsafe { v4($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Isa::V3 => unsafe { v3($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

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
}
