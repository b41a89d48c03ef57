//! Verbs, their arguments, and how results and errors are shown.
#![allow(clippy::print_stdout, clippy::print_stderr)] // showing is what this module is for

mod args;
mod calls;
mod dashboard;
mod desk;
mod eval;
mod input;
mod judging;
#[cfg(feature = "local")]
mod local;
mod loose;
mod metrics;
mod models;
#[cfg(feature = "local")]
mod quickstart;
mod ranking;
mod run;
mod show;
mod synth;
#[cfg(feature = "local")]
mod train;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Verb};

/// Parses the arguments and runs the verb.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    #[cfg(feature = "local")]
    if let Some(n) = cli.global.threads {
        local::threads(n.max(1));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cli.global.threads.unwrap_or(1).max(1))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start threads: {e}");
            return ExitCode::from(3);
        }
    };
    let json = cli.global.json;
    match runtime.block_on(dispatch(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            show::error(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn dispatch(cli: Cli) -> Result<u8, rlaif::Error> {
    let global = cli.global;
    match cli.verb {
        #[cfg(feature = "local")]
        Verb::Quickstart(args) => quickstart::quickstart(&args, &global).await,
        #[cfg(feature = "local")]
        Verb::Chat(args) => quickstart::chat(&args, &global).await,
        Verb::Init(args) => run::init(&args),
        Verb::Plan(args) => run::plan(&args, &global).await,
        Verb::Run(args) => run::run(&args, &global).await,
        Verb::Synth(args) => synth::synth(&args, &global).await,
        Verb::Critique(args) => loose::critique(&args, &global).await,
        Verb::Revise(args) => loose::revise(&args, &global).await,
        Verb::Judge(args) => loose::judge(&args, &global).await,
        Verb::Contrast(args) => judging::contrast(&args, &global).await,
        Verb::Rate(args) => judging::rate(&args, &global).await,
        Verb::Eval(verb) => eval::eval(&verb, &global).await,
        Verb::Calls(args) => calls::calls(&args, &global),
        Verb::Export(args) => run::export(&args, &global),
        Verb::Report(args) => run::report(&args, &global),
        #[cfg(feature = "local")]
        Verb::Compare(args) => quickstart::compare(&args, &global),
        #[cfg(feature = "local")]
        Verb::Sample(args) => local::sample(&args, &global).await,
        #[cfg(feature = "local")]
        Verb::Score(args) => local::score(&args, &global),
        #[cfg(feature = "local")]
        Verb::Sft(args) => train::sft(&args, &global),
        #[cfg(feature = "local")]
        Verb::Reward(args) => train::reward(&args, &global),
        #[cfg(feature = "local")]
        Verb::Dpo(args) => train::dpo(&args, &global),
        #[cfg(feature = "local")]
        Verb::Ppo(args) => train::ppo(&args, &global),
        #[cfg(feature = "local")]
        Verb::Convert(args) => local::convert(&args, &global),
    }
}
