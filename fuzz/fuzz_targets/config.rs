#![no_main]
#![allow(dead_code)] // each target uses one load of those shared

#[path = "../../crates/rlaif-engine/tests/hostile/mod.rs"]
mod load;

#[global_allocator]
static ALLOCATOR: load::Counting = load::Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| load::config(data));
