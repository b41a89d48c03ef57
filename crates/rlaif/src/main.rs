//! The command line. It parses, calls the library and shows; whatever is computed is computed
//! there.

mod cli;

use std::process::ExitCode;

// Large blocks are kept and used again: a training step allocates hundreds of MiB. A label takes some
// hundred small ones, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
