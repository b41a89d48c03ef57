//! `--metrics ADDR`: figures of a run in Prometheus' text form, for as long as it runs.

use std::fmt::Write;
use std::sync::Arc;

use rlaif::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::models::Watch;
use super::show::Bars;

/// A label's value, escaped as the text form wants it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The page.
fn page(watch: &Watch, bars: &Bars) -> String {
    let mut out = String::new();
    let each = watch.each();
    let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, f64)>| {
        let _ = writeln!(
            out,
            "# HELP rlaif_{name} {help}\n# TYPE rlaif_{name} {kind}"
        );
        for (labels, value) in lines {
            let _ = writeln!(out, "rlaif_{name}{labels} {value}");
        }
    };
    let by = |f: &dyn Fn(&rlaif_client::Stats, &rlaif_client::Now) -> f64| {
        each.iter()
            .map(|(model, stats, now)| (format!("{{model=\"{}\"}}", label(model)), f(stats, now)))
            .collect::<Vec<_>>()
    };
    family(
        "calls_total",
        "counter",
        "Calls answered.",
        by(&|s, _| s.calls as f64),
    );
    family(
        "recalled_total",
        "counter",
        "Answers taken from the journal.",
        by(&|s, _| s.recalled as f64),
    );
    family(
        "retries_total",
        "counter",
        "Attempts made again.",
        by(&|s, _| s.retries as f64),
    );
    family(
        "failed_calls_total",
        "counter",
        "Calls without an answer.",
        by(&|s, _| s.failed as f64),
    );
    family(
        "prompt_tokens_total",
        "counter",
        "Prompt tokens.",
        by(&|s, _| s.prompt_tokens as f64),
    );
    family(
        "completion_tokens_total",
        "counter",
        "Generated tokens.",
        by(&|s, _| s.completion_tokens as f64),
    );
    family(
        "usd_total",
        "counter",
        "US dollars settled.",
        by(&|s, _| s.usd.unwrap_or(0.0)),
    );
    family(
        "in_flight",
        "gauge",
        "Requests in flight.",
        by(&|_, n| n.in_flight as f64),
    );
    family(
        "window",
        "gauge",
        "Requests that may be in flight.",
        by(&|_, n| n.window as f64),
    );
    let mut quantiles = Vec::new();
    let mut failures = Vec::new();
    for (model, _, now) in &each {
        let model = label(model);
        for (q, secs) in ["0.5", "0.9", "0.99"].iter().zip(now.latency_secs) {
            quantiles.push((format!("{{model=\"{model}\",quantile=\"{q}\"}}"), secs));
        }
        for (kind, n) in &now.failures {
            let labels = format!("{{model=\"{model}\",kind=\"{}\"}}", label(kind));
            failures.push((labels, *n as f64));
        }
    }
    family(
        "latency_seconds",
        "gauge",
        "Latency, upper bounds of its quantiles.",
        quantiles,
    );
    family(
        "failed_attempts_total",
        "counter",
        "Failed attempts by kind.",
        failures,
    );
    let (stage, done, total, failed) = bars.counts();
    let stage = format!("{{stage=\"{}\"}}", label(&stage));
    for (name, help, n) in [
        ("rows_done", "Rows finished.", done),
        ("rows", "Rows in all.", total),
        ("rows_failed", "Rows without an answer.", failed),
    ] {
        family(name, "gauge", help, vec![(stage.clone(), n as f64)]);
    }
    if let Some(budget) = watch.budget() {
        let spent = budget.spent();
        family(
            "budget_spent_usd",
            "gauge",
            "Spent of the budget.",
            vec![(String::new(), spent.usd)],
        );
        if let Some(max) = budget.limits().max_usd {
            family(
                "budget_usd",
                "gauge",
                "The budget.",
                vec![(String::new(), max)],
            );
        }
    }
    out
}

/// Serves the page until the process ends.
pub async fn serve(
    address: std::net::SocketAddr,
    watch: Watch,
    bars: Arc<Bars>,
) -> Result<(), Error> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        Error::input(
            format!("`--metrics {address}` cannot be served: {e}"),
            "give an address of this machine and a free port, such as 127.0.0.1:9400",
        )
    })?;
    tokio::spawn(async move {
        // A watcher that breaks off, or sends nonsense, is its own affair.
        while let Ok((mut socket, _)) = listener.accept().await {
            let body = page(&watch, &bars);
            tokio::spawn(async move {
                let mut request = [0u8; 4096];
                let _ = socket.read(&mut request).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n\
                     content-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok(())
}
