//! The project's own checks: `cargo xtask check`.

mod edges;
mod licenses;
#[cfg(feature = "world")]
mod world;

use std::process::{Command, ExitCode};
use std::time::Instant;

const HELP: &str = "\
cargo xtask check [--keep-going] [--only STEP]   every check, cheapest first
cargo xtask edges                                 which crate may use which
cargo xtask browser OUTDIR                        the report page in a real Chromium
cargo xtask peers --python PYTHON EXPORT          one TRL step over an export (see tests/peers)
cargo xtask world [--help]                        makes the embedded world's two models";

#[cfg(feature = "world")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check", rest @ ..] => check(rest),
        ["edges"] => edges::check(),
        ["browser", rest @ ..] => browser(rest),
        ["peers", "--python", python, export] => {
            run(Command::new(python).args(["tests/peers/trl_step.py", export]))
        }
        ["world", rest @ ..] => make_world(rest),
        _ => Err(HELP.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}").replace('"', "");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("failed ({status}): {shown}")),
        Err(e) => Err(format!("cannot start: {shown}: {e}")),
    }
}

fn cargo(line: &str) -> Result<(), String> {
    run(
        Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
            .args(line.split_whitespace()),
    )
}

fn is_installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success())
}

/// True where a missing tool is a failure rather than a step to skip.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true")
}

/// Runs a tool that a machine may lack: said plainly, and a failure in CI.
fn optional(program: &str, line: &[&str], install: &str) -> Result<(), String> {
    if is_installed(program) {
        return run(Command::new(program).args(line));
    }
    if in_ci() {
        return Err(format!("{program} is not installed ({install})"));
    }
    println!("skipped: {program} is not installed ({install})");
    Ok(())
}

#[cfg(feature = "world")]
fn make_world(args: &[&str]) -> Result<(), String> {
    world::run(args)
}

/// The checks are built without the engine; the making runs optimized and with it.
#[cfg(not(feature = "world"))]
fn make_world(args: &[&str]) -> Result<(), String> {
    cargo(&format!(
        "run --release --quiet -p xtask --features world -- world {}",
        args.join(" ")
    ))
}

type Step = (&'static str, fn() -> Result<(), String>);

/// Cheapest first. All build steps share one target folder and the same flags, so that nothing is
/// built twice.
const STEPS: [Step; 9] = [
    ("format", || cargo("fmt --all --check")),
    ("edges", edges::check),
    ("typos", || optional("typos", &[], "pip install typos")),
    ("clippy", || {
        cargo("clippy --workspace --all-targets --features xtask/world -- -D warnings")
    }),
    ("labeler alone", || {
        cargo("check -p rlaif --no-default-features --features remote")
    }),
    ("tests", || {
        if is_installed("cargo-nextest") {
            cargo("nextest run --workspace --no-fail-fast")
        } else {
            cargo("test --workspace --lib --bins --tests")
        }
    }),
    ("doctests", || cargo("test --workspace --doc")),
    ("docs", || {
        run(
            Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
                .args(["doc", "--workspace", "--no-deps", "--quiet"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    }),
    ("licenses", licenses::check),
];

fn check(args: &[&str]) -> Result<(), String> {
    let keep_going = args.contains(&"--keep-going");
    let only = args
        .iter()
        .position(|a| *a == "--only")
        .and_then(|i| args.get(i + 1));
    if only.is_some_and(|name| !STEPS.iter().any(|(step, _)| step == name)) {
        let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no such step; the steps are: {}", names.join(", ")));
    }
    let mut table = Vec::new();
    let mut failed = false;
    for (name, step) in STEPS {
        if only.is_some_and(|wanted| *wanted != name) {
            continue;
        }
        println!("== {name}");
        let begun = Instant::now();
        let result = step();
        let secs = begun.elapsed().as_secs_f64();
        let verdict = match &result {
            Ok(()) => "ok".to_owned(),
            Err(message) => format!("FAILED: {message}"),
        };
        table.push(format!("{name:15} {secs:7.1} s  {verdict}"));
        failed |= result.is_err();
        if result.is_err() && !keep_going {
            break;
        }
    }
    println!("\n{}", table.join("\n"));
    if failed {
        Err("a check failed".to_owned())
    } else {
        Ok(())
    }
}

/// Renders a hostile page and looks at what a browser makes of it.
fn browser(args: &[&str]) -> Result<(), String> {
    let out = args.first().copied().unwrap_or("target/browser");
    std::fs::create_dir_all(out).map_err(|e| format!("cannot create `{out}`: {e}"))?;
    let page = format!("{out}/hostile.html");
    cargo(&format!(
        "run --quiet -p rlaif --example hostile_report -- {page}"
    ))?;
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .find(|c| is_installed(c));
    let Some(chromium) = found else {
        let message = "no Chromium is installed (apt-get install chromium)";
        if in_ci() {
            return Err(message.to_owned());
        }
        println!("skipped: {message}");
        return Ok(());
    };
    run(Command::new("python3").args(["tests/browser/run.py", chromium, &page, out]))
}
