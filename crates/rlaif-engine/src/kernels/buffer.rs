//! Large buffers in large pages.

use std::ops::{Deref, DerefMut};

use memmap2::{MmapMut, MmapOptions};

/// From here on (bytes) large pages are asked for.
const LARGE: usize = 4 << 20;

/// Values that start at zero, aligned to a cache line. Memory is taken from the system as it is first
/// written. Where there is much of it, it comes in pages of 2 MiB if the system has them: walking
/// through hundreds of sequences' keys, the search for each page's address took longer than reading it.
pub(crate) struct Buffer {
    memory: Memory,
    /// Values before the first aligned one.
    skip: usize,
    len: usize,
}

enum Memory {
    Mapped(MmapMut),
    Owned(Vec<f32>),
}

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

impl Buffer {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        // A map that the system refuses is asked of the allocator instead, which has its own way to fail.
        let mapped = (bytes >= LARGE)
            .then(|| MmapOptions::new().len(bytes).map_anon().ok())
            .flatten();
        let memory = match mapped {
            Some(map) => {
                // Advice that is not taken changes nothing but the speed.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Memory::Mapped(map)
            }
            None => Memory::Owned(vec![0.0; len + LINE / size_of::<f32>()]),
        };
        let skip = match &memory {
            Memory::Mapped(_) => 0,
            Memory::Owned(v) => (LINE - v.as_ptr() as usize % LINE) % LINE / size_of::<f32>(),
        };
        Buffer { memory, skip, len }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.memory {
            // SAFETY: the map holds `len` values, is aligned to a page, and any bits are an f32.
            Memory::Mapped(m) => unsafe { std::slice::from_raw_parts(m.as_ptr().cast(), self.len) },
            Memory::Owned(v) => &v[self.skip..self.skip + self.len],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.memory {
            // SAFETY: as above, and borrowed mutably.
            Memory::Mapped(m) => unsafe {
                std::slice::from_raw_parts_mut(m.as_mut_ptr().cast(), self.len)
            },
            Memory::Owned(v) => &mut v[self.skip..self.skip + self.len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_buffers_are_zero_aligned_and_as_long_as_asked() {
        for len in [0, 1, 1000, LARGE / 4 - 1, LARGE / 4 + 3] {
            let mut b = Buffer::zeros(len);
            assert_eq!(b.len(), len);
            assert_eq!(b.as_ptr() as usize % LINE, 0);
            assert!(b.iter().all(|v| *v == 0.0));
            b.fill(2.0);
            assert_eq!(b.iter().sum::<f32>(), 2.0 * len as f32);
        }
    }
}
