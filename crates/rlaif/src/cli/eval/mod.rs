//! `rlaif eval`: judges, policies and constitutions, measured.

mod args;
mod constitution;
mod judge;
mod policy;

use std::path::Path;

use rlaif::Error;
use rlaif::rows::Tally;
use rlaif_core::run::write_atomic;
use serde::Serialize;

pub use args::EvalVerb;

use super::args::Global;

pub async fn eval(verb: &EvalVerb, global: &Global) -> Result<u8, Error> {
    match verb {
        EvalVerb::Judge(args) => judge::judge(args, global).await,
        EvalVerb::Policy(args) => policy::policy(args, global).await,
        EvalVerb::Constitution(args) => constitution::constitution(args, global).await,
    }
}

/// Rows counted in several passes.
pub fn add(total: &mut Tally, pass: &Tally) {
    total.rows += pass.rows;
    total.reused += pass.reused;
    total.cached_calls += pass.cached_calls;
    for (name, n) in &pass.outcomes {
        *total.outcomes.entry(name).or_default() += n;
    }
}

/// Writes the report as JSON, and its page beside it.
fn write(
    out: &Path,
    page: Option<&Path>,
    report: &impl Serialize,
    html: &str,
) -> Result<(), Error> {
    let mut json = serde_json::to_vec_pretty(report)
        .map_err(|e| Error::input(format!("the report cannot be written as JSON: {e}"), ""))?;
    json.push(b'\n');
    write_atomic(out, &json)?;
    let beside = out.with_extension("html");
    write_atomic(page.unwrap_or(&beside), html.as_bytes())?;
    Ok(())
}
