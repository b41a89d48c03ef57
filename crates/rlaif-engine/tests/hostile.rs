//! Hostile files: the seeds of the fuzz targets, what these found, and a few thousand mutations of
//! both. `fuzz/README.md` says how to search for longer.
#![allow(clippy::unwrap_used)]

#[path = "hostile/mod.rs"]
mod load;

use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: load::Counting = load::Counting;

fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// The `n`th mutation: bytes replaced by telling ones, a length cut, a part repeated.
fn mutated(seed: &[u8], n: u64) -> Vec<u8> {
    let draw = |what: &str, below: usize| {
        (rlaif_core::seed::derive(n, &["hostile", what]) % below.max(1) as u64) as usize
    };
    let mut out = seed.to_vec();
    for i in 0..=draw("count", 4) {
        let at = draw(&format!("at{i}"), out.len());
        let value = [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            b'9',
            b'-',
            b'"',
            draw(&format!("any{i}"), 256) as u8,
        ];
        if let Some(b) = out.get_mut(at) {
            *b = value[draw(&format!("value{i}"), value.len())];
        }
        match draw(&format!("how{i}"), 8) {
            0 => out.truncate(at),
            1 => out.extend_from_within(at..),
            // A length of eight bytes, as large as it gets.
            2 if at + 8 <= out.len() => out[at..at + 8].fill(0xff),
            _ => {}
        }
        out.truncate(1 << 16);
    }
    out
}

fn all(target: &str, load: impl Fn(&[u8])) {
    for file in seeds(target) {
        let bytes = std::fs::read(&file).unwrap();
        load(&bytes);
        for n in 0..400 {
            load(&mutated(&bytes, n));
        }
    }
}

#[test]
fn no_checkpoint_makes_a_load_panic_or_ask_for_more_than_its_size() {
    let dir = tempfile::tempdir().unwrap();
    all("checkpoint", |b| load::checkpoint(dir.path(), b));
}

#[test]
fn no_file_makes_a_conversion_panic_or_ask_for_more_than_its_size() {
    let dir = tempfile::tempdir().unwrap();
    all("converted", |b| load::converted(dir.path(), b));
}

#[test]
fn no_config_makes_a_load_panic_or_ask_for_more_than_its_size() {
    all("config", load::config);
}
