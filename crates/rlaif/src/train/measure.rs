//! How far a policy has moved: KL to a reference on completions that the policy wrote.

use std::path::Path;
use std::sync::Arc;

use rlaif_core::Message;
use rlaif_train::{Row, TokenBatch, Trainable};

use super::{Desk, Head};
use crate::error::Error;

/// A completion, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Its tokens, an end token left out.
    pub tokens: usize,
    /// log π − log π_ref, summed over its tokens: over many completions of the policy, the mean is
    /// KL(π ‖ π_ref) a completion, in nats. `None` without a reference.
    pub kl: Option<f32>,
}

/// Most tokens of a forward pass.
const TOKENS_AT_ONCE: usize = 2048;

/// Measures completions of a policy, in their order; `None` for one that the model's positions do
/// not hold. `temperature` is that of their sampling (0, greedy, is measured at 1); one of
/// `max_new_tokens` was cut off there, and has no end.
///
/// # Errors
/// Files that cannot be read; a reference of another shape; what the chat template refuses.
pub fn measure(
    policy: &Path,
    reference: Option<&Path>,
    completions: &[(&[Message], &str)],
    temperature: f32,
    max_new_tokens: usize,
) -> Result<Vec<Option<Measured>>, Error> {
    let desk = Desk::open(policy, Head::Language, 0)?;
    let mut rows: Vec<Option<Row>> = Vec::with_capacity(completions.len());
    let mut measured = Vec::with_capacity(completions.len());
    for (prompt, completion) in completions {
        let mut row = desk.row(prompt, completion, desk.config.max_positions)?;
        measured.push(row.as_mut().map(|row| {
            let ends = row
                .tokens
                .last()
                .is_some_and(|t| desk.config.eos.contains(t));
            let tokens = row.wanted.iter().filter(|w| **w).count() - usize::from(ends);
            if ends && tokens >= max_new_tokens {
                row.tokens.pop();
                row.wanted.pop();
            }
            Measured { tokens, kl: None }
        }));
        rows.push(row);
    }
    let Some(reference) = reference else {
        return Ok(measured);
    };
    let other = Desk::open(reference, Head::Language, 0)?;
    let shape = |d: &Desk| {
        let c = &d.config;
        (
            c.vocab,
            c.hidden,
            c.intermediate,
            c.layers,
            c.heads,
            c.kv_heads,
        )
    };
    if shape(&desk) != shape(&other) {
        return Err(Error::input(
            format!(
                "`{}` and `{}` have different shapes",
                policy.display(),
                reference.display()
            ),
            "a policy is measured against the model that it started from",
        ));
    }
    let longest = rows
        .iter()
        .flatten()
        .map(|r| r.tokens.len())
        .max()
        .unwrap_or(1);
    let network = desk
        .network(None, 0.0, longest, 0)?
        .with_reference(Arc::clone(other.weights()));
    let there: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].is_some()).collect();
    let mut at = 0;
    while at < there.len() {
        let (mut end, mut tokens) = (at, 0);
        while end < there.len() {
            let n = rows[there[end]].as_ref().map_or(0, |r| r.tokens.len());
            if end > at && tokens + n > TOKENS_AT_ONCE {
                break;
            }
            tokens += n;
            end += 1;
        }
        let mut batch = TokenBatch::pack(there[at..end].iter().filter_map(|i| rows[*i].as_ref()));
        batch.temperature = if temperature > 0.0 { temperature } else { 1.0 };
        let now = network.evaluate(&batch)?;
        let then = network.reference(&batch)?;
        for (r, i) in there[at..end].iter().enumerate() {
            if let Some(m) = &mut measured[*i] {
                m.kl = Some(batch.sum(r, &now.logprobs) - batch.sum(r, &then.logprobs));
            }
        }
        at = end;
    }
    Ok(measured)
}
