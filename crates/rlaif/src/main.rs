//! The command line. It parses, calls the library and shows; whatever is computed is computed
//! there.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
