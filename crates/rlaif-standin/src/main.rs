//! The stand-in endpoint as a program, for benchmarks.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program speaks

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rlaif_standin::{Faults, Plan, Standin};

/// An endpoint with planted latency, faults and truth. `GET /account` tells what it did.
#[derive(Parser)]
struct Args {
    /// Port on 127.0.0.1; 0 takes a free one, which is printed.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Milliseconds from a request to its answer.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// Shares of faults, as in `busy=0.1,half=0.02` or `all=0.02`.
    #[arg(long, default_value = "")]
    faults: Faults,
    /// Requests taken at once; those above get a 429.
    #[arg(long)]
    admits: Option<usize>,
    /// Requests worked on at once; those above wait in line.
    #[arg(long)]
    serves: Option<usize>,
    /// Log-odds by which the judge leans towards what it sees first.
    #[arg(long, default_value_t = 1.0)]
    bias: f64,
    /// Refuse log-probabilities.
    #[arg(long)]
    no_logprobs: bool,
    /// Seed of the faults.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Have a batch interface, whose batches end after so many milliseconds.
    #[arg(long)]
    batch_ms: Option<u64>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

async fn run(args: Args) -> std::io::Result<()> {
    let plan = Plan {
        latency: Duration::from_millis(args.latency_ms),
        faults: args.faults,
        admits: args.admits,
        serves: args.serves,
        bias: args.bias,
        logprobs: !args.no_logprobs,
        seed: args.seed,
        batch: args.batch_ms.map(Duration::from_millis),
        ..Plan::default()
    };
    let standin = Standin::start(plan, args.port).await?;
    println!("{}", standin.url());
    std::future::pending().await
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads.max(1))
        .enable_all()
        .build();
    match runtime.and_then(|r| r.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(3)
        }
    }
}
