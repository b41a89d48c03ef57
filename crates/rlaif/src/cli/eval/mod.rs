//! `rlaif eval`: judges, policies and constitutions, measured.

mod args;
mod best_of;
mod constitution;
mod judge;
mod policy;

use std::path::Path;

use rlaif::Error;
use rlaif_core::run::write_atomic;
use serde::Serialize;

pub use args::EvalVerb;

use super::args::Global;
use super::desk::write_page;

pub async fn eval(verb: &EvalVerb, global: &Global) -> Result<u8, Error> {
    match verb {
        EvalVerb::Judge(args) => judge::judge(args, global).await,
        EvalVerb::Policy(args) => policy::policy(args, global).await,
        EvalVerb::Constitution(args) => constitution::constitution(args, global).await,
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
    write_page(out, page, html)
}
