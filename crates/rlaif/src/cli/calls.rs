//! `rlaif calls`: what a run asked, what came back, and what it was charged.

use std::io::Read as _;
use std::io::Write;

use rlaif::Error;
use rlaif_client::{Account, Entry, Filter, JournalError, JournalReader, State};
use serde_json::json;

use super::args::{CallState, CallsArgs, Global};
use super::models::journal_of;

fn fault(error: JournalError) -> Error {
    Error::Journal {
        problem: error.to_string(),
        advice: error.advice().to_owned(),
        environment: false,
    }
}

/// Calls by how they ended, and money where there is a price.
fn account_lines(account: &Account) -> [String; 2] {
    let usd = |usd: f64| {
        if account.unpriced > 0 {
            format!("${usd:.4}, {} calls without a price", account.unpriced)
        } else {
            format!("${usd:.4}")
        }
    };
    [
        format!(
            "settled:   {} answered, {} + {} tokens by the servers' count, {}",
            account.answered,
            account.prompt_tokens,
            account.completion_tokens,
            usd(account.settled_usd)
        ),
        format!(
            "unsettled: {} whose answer was lost or not counted, at most {} tokens and ${:.4}; {} \
             attempts failed in all",
            account.unsettled, account.unsettled_tokens, account.unsettled_usd, account.failed
        ),
    ]
}

fn line(e: &Entry) -> String {
    let state = match e.state {
        State::Answered => "answered",
        State::Failed => "failed",
        State::InFlight => "in flight",
    };
    let bound = if e.settled { ' ' } else { '<' };
    format!(
        "{:>8} {:10} {:24.24} {:>3} {:9} {:>6} ms {bound}{:>6} +{:>5} {}",
        e.id,
        e.stage,
        e.row,
        e.draw,
        state,
        e.took_ms,
        e.prompt_tokens,
        e.completion_tokens,
        e.error.as_deref().unwrap_or_default()
    )
}

pub fn calls(args: &CallsArgs, global: &Global) -> Result<u8, Error> {
    let path = journal_of(&args.run);
    let begins = std::fs::File::open(&path).ok().and_then(|mut file| {
        let mut head = [0u8; 15];
        file.read_exact(&mut head).ok().map(|()| head)
    });
    if path.is_file() && begins != Some(*b"SQLite format 3") {
        return Err(Error::input(
            format!("`{}` is no journal of calls", path.display()),
            "give a run's folder, or the folder that was given by `--run`; without one, a journal \
             lies beside the output as OUT.partial.calls until every row is answered",
        ));
    }
    let journal = JournalReader::open(&path).map_err(fault)?;
    if let Some(id) = args.show {
        let entry = journal.entry(id).map_err(fault)?.ok_or_else(|| {
            Error::input(
                format!("the journal has no call `{id}`"),
                "`rlaif calls RUN` lists their numbers",
            )
        })?;
        let shown = if global.json {
            serde_json::to_string(&entry)
        } else {
            serde_json::to_string_pretty(&entry)
        };
        println!("{}", shown.unwrap_or_default());
        return Ok(0);
    }
    let mut filter = Filter {
        stage: args.stage.clone(),
        row: args.row.clone(),
        model: args.model.clone(),
        state: args.state.map(|s| match s {
            CallState::Answered => State::Answered,
            CallState::Failed => State::Failed,
            CallState::InFlight => State::InFlight,
        }),
        unsettled: args.unsettled,
        limit: None,
    };
    let is_part = filter != Filter::default();
    let account = journal.account(&filter).map_err(fault)?;
    let mut exported = None;
    let mut listed = Vec::new();
    if let Some(out) = &args.export {
        let io = |e: std::io::Error| Error::Core(rlaif_core::Error::io("write", out)(e));
        let mut file = std::io::BufWriter::new(std::fs::File::create(out).map_err(io)?);
        let mut written: Result<u64, std::io::Error> = Ok(0);
        let take = |entry: Entry| {
            if let Ok(n) = written {
                let line = serde_json::to_string(&entry).unwrap_or_default();
                written = writeln!(file, "{line}").map(|()| n + 1);
            }
        };
        journal.each(&filter, true, take).map_err(fault)?;
        exported = Some(written.and_then(|n| file.flush().map(|()| n)).map_err(io)?);
    } else {
        filter.limit = Some(args.limit);
        journal
            .each(&filter, false, |entry| listed.push(entry))
            .map_err(fault)?;
    }
    if global.json {
        println!(
            "{}",
            json!({ "account": account, "calls": listed, "exported": exported })
        );
        return Ok(0);
    }
    for entry in &listed {
        println!("{}", line(entry));
    }
    if is_part {
        println!("of the calls that pass the filter:");
    }
    for line in account_lines(&account) {
        println!("{line}");
    }
    if let (Some(n), Some(out)) = (exported, &args.export) {
        println!("{n} calls -> {}", out.display());
    }
    Ok(0)
}
