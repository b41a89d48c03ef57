#![no_main]
#![allow(dead_code)] // each target uses one load of those shared

#[path = "../../crates/rlaif-engine/tests/hostile/mod.rs"]
mod load;

use std::sync::LazyLock;

#[global_allocator]
static ALLOCATOR: load::Counting = load::Counting;

/// In memory: what is loaded goes through a file, as users' files do.
static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").expect("a folder in /dev/shm"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| load::converted(FOLDER.path(), data));
