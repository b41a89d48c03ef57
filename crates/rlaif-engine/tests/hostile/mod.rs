//! Loads bytes that a stranger made, as a checkpoint, a GGUF or llama2.c file, or a `config.json`, and
//! fails where a load panics or asks for more memory than a small multiple of the bytes. Shared by
//! the test beside it and by the fuzz targets in `fuzz/`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use rlaif_engine::{LlamaConfig, Weights, convert};

/// A 4-bit block of 18 bytes becomes 32 f32: 7.1 times its size. One buffer may be that large.
const LARGEST: usize = 8;
/// Weights, their bytes for the new file and that file: three times that, and the word list.
const IN_ALL: usize = 32;
/// `1,` in JSON is a value of 32 bytes, in a list that doubles as it grows.
const JSON: usize = 64;
/// What a load needs however small the file is.
const BASE: usize = 1 << 20;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static ONE: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with what this thread holds, its peak, and the largest single request.
pub struct Counting;

fn count(grown: isize, asked: usize) {
    // A thread that ends has no counters left; what it frees then belongs to no load.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + grown);
        PEAK.with(|p| p.set(p.get().max(now.get())));
        ONE.with(|o| o.set(o.get().max(asked)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, layout.size());
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, layout.size());
        // SAFETY: promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize, size);
        // SAFETY: promised by the caller.
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize), 0);
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

fn bounded<T>(bytes: usize, in_all: usize, load: impl FnOnce() -> T) -> T {
    let before = NOW.with(Cell::get);
    PEAK.with(|p| p.set(before));
    ONE.with(|o| o.set(0));
    let loaded = load();
    let (peak, one) = (PEAK.with(Cell::get) - before, ONE.with(Cell::get));
    assert!(
        one <= LARGEST.max(in_all / 2) * bytes + BASE && peak <= (in_all * bytes + BASE) as isize,
        "{bytes} bytes led to an allocation of {one} bytes, {peak} held at once"
    );
    loaded
}

/// `config.json`, a line of three dashes, `model.safetensors`.
pub fn checkpoint(folder: &Path, data: &[u8]) {
    const BETWEEN: &[u8] = b"\n---\n";
    let Some(at) = data.windows(BETWEEN.len()).position(|w| w == BETWEEN) else {
        return;
    };
    let Ok(text) = std::str::from_utf8(&data[..at]) else {
        return;
    };
    std::fs::write(
        folder.join("model.safetensors"),
        &data[at + BETWEEN.len()..],
    )
    .unwrap();
    bounded(data.len(), JSON, || {
        if let Ok(c) = LlamaConfig::parse(text, folder) {
            let _ = Weights::read(folder, &c);
        }
    });
}

/// A file for `rlaif convert`: GGUF where it begins so, else llama2.c.
pub fn converted(folder: &Path, data: &[u8]) {
    let input = folder.join("input");
    std::fs::write(&input, data).unwrap();
    bounded(data.len(), IN_ALL, || {
        let _ = convert(&input, None, &folder.join("out"));
    });
}

/// A `config.json`; what is read is written so that it reads back.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("config.json");
    bounded(data.len(), JSON, || {
        if let Ok(c) = LlamaConfig::parse(text, path) {
            let again = LlamaConfig::parse(&c.to_json("float32").to_string(), path).unwrap();
            assert_eq!(
                (c.vocab, c.layers, c.head_dim),
                (again.vocab, again.layers, again.head_dim)
            );
            assert_eq!(c.rope_scaling, again.rope_scaling);
        }
    });
}
