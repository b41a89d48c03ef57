//! The batch interfaces of both providers: files, batches and their answers, kept in memory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::judge;
use crate::{Plan, State};

/// What was uploaded and submitted.
#[derive(Default)]
pub(crate) struct Desk {
    files: BTreeMap<String, Vec<u8>>,
    batches: BTreeMap<String, Batch>,
}

struct Batch {
    requests: Vec<Value>,
    metadata: Value,
    ends: Instant,
    messages: bool,
    answers: String,
}

/// The answer to a request on a path of a batch interface; `None` for any other path.
pub(crate) fn answer(
    state: &State,
    method: &str,
    path: &str,
    body: &[u8],
) -> Option<(u16, String)> {
    let plan = &state.plan;
    let mut desk = state
        .desk
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = path.split('?').next().unwrap_or_default();
    let found = match (method, path) {
        ("POST", "/v1/files") => {
            let id = format!("file-{}", desk.files.len() + 1);
            desk.files.insert(id.clone(), uploaded(body));
            json!({"id": id, "object": "file", "purpose": "batch"})
        }
        ("POST", "/v1/batches") => {
            let wanted: Value = serde_json::from_slice(body).unwrap_or_default();
            let file = wanted["input_file_id"].as_str().unwrap_or_default();
            let lines = desk.files.get(file).cloned().unwrap_or_default();
            let requests: Vec<Value> = lines
                .split(|b| *b == b'\n')
                .filter_map(|l| serde_json::from_slice(l).ok())
                .collect();
            let id = desk.submit(plan, requests, wanted["metadata"].clone(), false);
            desk.describe(&id)?
        }
        ("POST", "/v1/messages/batches") => {
            let wanted: Value = serde_json::from_slice(body).unwrap_or_default();
            let requests = wanted["requests"].as_array().cloned().unwrap_or_default();
            let id = desk.submit(plan, requests, Value::Null, true);
            desk.describe(&id)?
        }
        ("GET", "/v1/batches" | "/v1/messages/batches") => {
            let messages = path.contains("messages");
            let ids: Vec<String> = desk
                .batches
                .iter()
                .rev()
                .filter(|(_, b)| b.messages == messages)
                .map(|(id, _)| id.clone())
                .collect();
            let list: Vec<Value> = ids.iter().filter_map(|id| desk.describe(id)).collect();
            json!({"object": "list", "data": list})
        }
        ("GET", _) => {
            let rest = path
                .strip_prefix("/v1/batches/")
                .or_else(|| path.strip_prefix("/v1/messages/batches/"))
                .or_else(|| path.strip_prefix("/v1/files/"))?;
            let id = rest.split('/').next().unwrap_or_default();
            if rest.ends_with("/content") || rest.ends_with("/results") {
                let batch = id.strip_prefix("out-").unwrap_or(id);
                return Some(match desk.collect(state, batch) {
                    Some(text) => (200, text),
                    None => (404, r#"{"error":{"message":"no such answers"}}"#.into()),
                });
            }
            return Some(match desk.describe(id) {
                Some(batch) => (200, batch.to_string()),
                None => (404, r#"{"error":{"message":"no such batch"}}"#.into()),
            });
        }
        _ => return None,
    };
    Some((200, found.to_string()))
}

/// The JSONL in a form of several parts.
fn uploaded(body: &[u8]) -> Vec<u8> {
    body.split(|b| *b == b'\n')
        .filter(|line| line.starts_with(b"{"))
        .flat_map(|line| line.iter().copied().chain([b'\n']))
        .collect()
}

impl Desk {
    fn submit(
        &mut self,
        plan: &Plan,
        requests: Vec<Value>,
        metadata: Value,
        messages: bool,
    ) -> String {
        let id = format!("batch-{:04}", self.batches.len() + 1);
        let batch = Batch {
            requests,
            metadata,
            ends: Instant::now() + plan.batch.unwrap_or(Duration::ZERO),
            messages,
            answers: String::new(),
        };
        self.batches.insert(id.clone(), batch);
        id
    }

    fn describe(&self, id: &str) -> Option<Value> {
        let b = self.batches.get(id)?;
        let (all, ended) = (b.requests.len(), Instant::now() >= b.ends);
        let done = if ended { all } else { 0 };
        Some(if b.messages {
            json!({
                "id": id, "type": "message_batch",
                "processing_status": if ended { "ended" } else { "in_progress" },
                "request_counts": {"processing": all - done, "succeeded": done, "errored": 0,
                    "canceled": 0, "expired": 0},
            })
        } else {
            json!({
                "id": id, "object": "batch", "metadata": b.metadata,
                "status": if ended { "completed" } else { "in_progress" },
                "request_counts": {"total": all, "completed": done, "failed": 0},
                "output_file_id": if ended { json!(format!("out-{id}")) } else { Value::Null },
            })
        })
    }

    /// Answers made once, however often they are fetched: what is charged is charged once.
    fn collect(&mut self, state: &State, id: &str) -> Option<String> {
        let b = self.batches.get_mut(id)?;
        if Instant::now() < b.ends {
            return None;
        }
        if b.answers.is_empty() {
            for request in &b.requests {
                let (id, body) = (&request["custom_id"], request.get("body"));
                let body = body.unwrap_or(&request["params"]).to_string();
                let answer = state.make(body.as_bytes(), b.messages);
                let _ = if b.messages {
                    writeln!(
                        b.answers,
                        r#"{{"custom_id":{id},"result":{{"type":"succeeded","message":{answer}}}}}"#
                    )
                } else {
                    writeln!(
                        b.answers,
                        r#"{{"id":"r","custom_id":{id},"response":{{"status_code":200,"body":{answer}}},"error":null}}"#
                    )
                };
            }
        }
        Some(b.answers.clone())
    }
}

impl State {
    /// An answer without faults, with its count.
    fn make(&self, body: &[u8], messages: bool) -> String {
        let (prompt, generated) = (body.len() as u64 / 4, 1);
        self.with(|a, seen| {
            a.requests += 1;
            a.answered += 1;
            a.prompt_tokens += prompt;
            a.completion_tokens += generated;
            let times = seen.entry(judge::hash(body)).or_default();
            *times += 1;
            a.repeated += u64::from(*times > 1);
        });
        let p_first = self.plan.p_first(body);
        if messages {
            judge::message(body, p_first, prompt, generated)
        } else {
            let logprobs = judge::wants_logprobs(body) && self.plan.logprobs;
            judge::completion(body, p_first, logprobs, false, prompt, generated)
        }
    }
}
