//! The batch interfaces of the two providers: OpenAI's Batch (a file of requests, a batch, a file of
//! answers) and Anthropic's Message Batches (requests and answers in one place).

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use rlaif_core::ModelError;
use serde_json::{Value, json};

use crate::call::{Failure, Key};
use crate::config::Secret;
use crate::line::{may_pass, words};
use crate::wire::Api;

/// Most requests in one batch; OpenAI takes 50,000, Anthropic 100,000.
pub(super) const MOST_REQUESTS: usize = 50_000;
/// Most bytes in one batch; OpenAI takes 200 MB, Anthropic 256 MB.
pub(super) const MOST_BYTES: usize = 180_000_000;
/// Time for a file to go up or come down.
const TRANSFER: Duration = Duration::from_secs(900);

/// The answer to one request of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// The request's key in hexadecimal digits.
    pub(super) id: String,
    /// As the same request would have got it by itself; 408 for one that the batch did not reach.
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// How a batch stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Status {
    /// Not yet ended; requests done of all.
    Running { done: u64, all: u64 },
    /// Its answers can be had.
    Ended,
    /// The provider knows it no more, or could not read it, and says why.
    Gone(String),
}

pub(super) struct Service {
    pub(super) http: reqwest::Client,
    pub(super) url: String,
    pub(super) api: Api,
    pub(super) key: Option<Secret>,
}

impl Service {
    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<(u16, Bytes), Failure> {
        let broke = |e: reqwest::Error| {
            Failure::passing(format!(
                "the batch interface of `{}` does not answer ({})",
                self.url,
                e.without_url()
            ))
        };
        let response = request.timeout(TRANSFER).send().await.map_err(broke)?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(broke)?;
        Ok(match &self.key {
            Some(key) => (status, key.out_of(body)),
            None => (status, body),
        })
    }

    /// An answer that must be JSON of status 200.
    async fn json(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let (status, body) = self.ask(request).await?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&body).map_err(|e| {
                Failure::passing(format!("the batch interface answers no JSON ({e})"))
            });
        }
        let said = words(&String::from_utf8_lossy(&body));
        let message = format!("the batch interface of `{}` says: {said}", self.url);
        Err(match status {
            status if may_pass(status) => Failure::passing(message),
            404 => Failure::last(ModelError::Rejected {
                status,
                message: format!("{message}; does this endpoint have batches? Leave out `--batch`"),
            }),
            _ => Failure::last(ModelError::Rejected { status, message }),
        })
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}{path}", self.url))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string())
    }

    /// Submits requests under a token of ours; the provider's name for the batch.
    pub(super) async fn submit(
        &self,
        token: &str,
        requests: &[(Key, Bytes)],
    ) -> Result<String, Failure> {
        let made = match self.api {
            Api::Openai | Api::Embeddings => {
                let file = self.upload(token, requests).await?;
                let path = format!("/v1{}", self.api.path());
                let batch = json!({
                    "input_file_id": file, "endpoint": path, "completion_window": "24h",
                    "metadata": {"rlaif": token},
                });
                self.json(self.post("/batches", &batch)).await?
            }
            Api::Anthropic => {
                let mut body = String::from("{\"requests\":[");
                for (i, (key, request)) in requests.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    let params = String::from_utf8_lossy(request);
                    body += &format!(
                        "{comma}{{\"custom_id\":\"{}\",\"params\":{params}}}",
                        key.hex()
                    );
                }
                body += "]}";
                let request = self
                    .http
                    .post(format!("{}/messages/batches", self.url))
                    .header(CONTENT_TYPE, "application/json")
                    .body(body);
                self.json(request).await?
            }
        };
        id_of(&made)
    }

    /// The file of requests; its name at the provider.
    async fn upload(&self, token: &str, requests: &[(Key, Bytes)]) -> Result<String, Failure> {
        // No text of ours holds this line: it is drawn from the token.
        let boundary = format!("rlaif-{token}");
        let mut body = Vec::new();
        body.extend_from_slice(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; \
                 filename=\"rlaif.jsonl\"\r\nContent-Type: application/jsonl\r\n\r\n"
            )
            .as_bytes(),
        );
        for (key, request) in requests {
            body.extend_from_slice(
                format!(
                    "{{\"custom_id\":\"{}\",\"method\":\"POST\",\"url\":\"/v1{}\",\"body\":",
                    key.hex(),
                    self.api.path()
                )
                .as_bytes(),
            );
            body.extend_from_slice(request);
            body.extend_from_slice(b"}\n");
        }
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let request = self
            .http
            .post(format!("{}/files", self.url))
            .header(
                CONTENT_TYPE,
                format!("multipart/form-data; boundary={boundary}"),
            )
            .body(body);
        id_of(&self.json(request).await?)
    }

    /// Looks for a batch that was submitted by a process which ended before it heard of it.
    pub(super) async fn find(
        &self,
        token: &str,
        requests: usize,
    ) -> Result<Option<String>, Failure> {
        let path = match self.api {
            Api::Openai | Api::Embeddings => "/batches?limit=100",
            Api::Anthropic => "/messages/batches?limit=100",
        };
        let listed = self.json(self.get(path)).await?;
        let batches = listed.get("data").and_then(Value::as_array);
        let is_ours = |b: &&Value| match self.api {
            Api::Openai | Api::Embeddings => {
                b.pointer("/metadata/rlaif").and_then(Value::as_str) == Some(token)
            }
            // It takes no names of ours, so one of this size is taken; if it is another one, its
            // answers are not to our calls, which are then asked again.
            Api::Anthropic => {
                let counts = b.get("request_counts").and_then(Value::as_object);
                let all: u64 = counts
                    .into_iter()
                    .flat_map(|c| c.values())
                    .filter_map(Value::as_u64)
                    .sum();
                all == requests as u64
            }
        };
        // Both list the newest first.
        let found = batches.into_iter().flatten().find(is_ours);
        Ok(found.and_then(|b| id_of(b).ok()))
    }

    /// How a batch stands.
    pub(super) async fn status(&self, name: &str) -> Result<Status, Failure> {
        let path = match self.api {
            Api::Openai | Api::Embeddings => format!("/batches/{name}"),
            Api::Anthropic => format!("/messages/batches/{name}"),
        };
        let (status, body) = self.ask(self.get(&path)).await?;
        if status == 404 {
            return Ok(Status::Gone("the provider knows it no more".into()));
        }
        if !(200..300).contains(&status) {
            let said = words(&String::from_utf8_lossy(&body));
            return Err(Failure::passing(format!("batch `{name}`: {said}")));
        }
        let batch: Value = serde_json::from_slice(&body)
            .map_err(|e| Failure::passing(format!("batch `{name}`: no JSON ({e})")))?;
        let count = |path: &str| batch.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let text = |path: &str| batch.pointer(path).and_then(Value::as_str).unwrap_or("");
        Ok(match self.api {
            Api::Openai | Api::Embeddings => match text("/status") {
                "completed" | "expired" | "cancelled" => Status::Ended,
                "failed" => {
                    let why = words(
                        &batch
                            .pointer("/errors/data/0/message")
                            .map(Value::to_string)
                            .unwrap_or_default(),
                    );
                    Status::Gone(format!("it failed: {why}"))
                }
                _ => Status::Running {
                    done: count("/request_counts/completed") + count("/request_counts/failed"),
                    all: count("/request_counts/total"),
                },
            },
            Api::Anthropic => match text("/processing_status") {
                "ended" => Status::Ended,
                _ => {
                    let ended = ["succeeded", "errored", "canceled", "expired"]
                        .map(|k| count(&format!("/request_counts/{k}")))
                        .iter()
                        .sum::<u64>();
                    Status::Running {
                        done: ended,
                        all: ended + count("/request_counts/processing"),
                    }
                }
            },
        })
    }

    /// The answers of a batch that has ended; requests that it did not reach are left out.
    pub(super) async fn results(&self, name: &str) -> Result<Vec<Line>, Failure> {
        let mut lines = Vec::new();
        match self.api {
            Api::Openai | Api::Embeddings => {
                let batch = self.json(self.get(&format!("/batches/{name}"))).await?;
                for file in ["output_file_id", "error_file_id"] {
                    let Some(file) = batch.get(file).and_then(Value::as_str) else {
                        continue;
                    };
                    let text = self.content(&format!("/files/{file}/content")).await?;
                    read_lines(&text, openai_line, &mut lines)?;
                }
            }
            Api::Anthropic => {
                let text = self
                    .content(&format!("/messages/batches/{name}/results"))
                    .await?;
                read_lines(&text, anthropic_line, &mut lines)?;
            }
        }
        Ok(lines)
    }

    async fn content(&self, path: &str) -> Result<Bytes, Failure> {
        let (status, body) = self.ask(self.get(path)).await?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let said = words(&String::from_utf8_lossy(&body));
        Err(Failure::passing(format!(
            "the answers of the batch: {said}"
        )))
    }
}

fn id_of(value: &Value) -> Result<String, Failure> {
    value
        .get("id")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| Failure::passing("the batch interface answers without an id"))
}

fn read_lines(
    text: &Bytes,
    read: fn(&Value) -> Option<Line>,
    into: &mut Vec<Line>,
) -> Result<(), Failure> {
    for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let value: Value = serde_json::from_slice(line)
            .map_err(|e| Failure::passing(format!("the answers of the batch are no JSON ({e})")))?;
        into.extend(read(&value));
    }
    Ok(())
}

fn openai_line(value: &Value) -> Option<Line> {
    let id = value.get("custom_id")?.as_str()?.to_owned();
    if let Some(response) = value.get("response").filter(|r| !r.is_null()) {
        return Some(Line {
            id,
            status: response
                .get("status_code")
                .and_then(Value::as_u64)
                .unwrap_or(200) as u16,
            body: response.get("body")?.to_string().into(),
        });
    }
    // Expired or not reached: nothing was made, so that it may be asked again.
    Some(Line {
        id,
        status: 408,
        body: value
            .get("error")
            .map(Value::to_string)
            .unwrap_or_default()
            .into(),
    })
}

fn anthropic_line(value: &Value) -> Option<Line> {
    let id = value.get("custom_id")?.as_str()?.to_owned();
    let result = value.get("result")?;
    let (status, body) = match result.get("type")?.as_str()? {
        "succeeded" => (200, result.get("message")?.to_string()),
        "errored" => {
            let error = result.get("error").cloned().unwrap_or_default();
            let kind = error
                .pointer("/error/type")
                .or_else(|| error.get("type"))
                .and_then(Value::as_str);
            let status = match kind {
                Some("invalid_request_error") => 400,
                Some("authentication_error") => 401,
                Some("permission_error") => 403,
                Some("not_found_error") => 404,
                _ => 500,
            };
            (status, error.to_string())
        }
        _ => (408, result.to_string()),
    };
    Some(Line {
        id,
        status,
        body: body.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_providers_write_them() {
        let read = |f: fn(&Value) -> Option<Line>, text: &str| {
            f(&serde_json::from_str(text).unwrap()).unwrap()
        };
        let good = read(
            openai_line,
            r#"{"id":"b","custom_id":"ab","response":{"status_code":200,"request_id":"r","body":{"choices":[]}},"error":null}"#,
        );
        assert_eq!((good.id.as_str(), good.status), ("ab", 200));
        assert_eq!(&good.body[..], br#"{"choices":[]}"#);
        let expired = read(
            openai_line,
            r#"{"id":"b","custom_id":"ab","response":null,"error":{"code":"batch_expired","message":"late"}}"#,
        );
        assert_eq!(expired.status, 408);
        let good = read(
            anthropic_line,
            r#"{"custom_id":"ab","result":{"type":"succeeded","message":{"content":[]}}}"#,
        );
        assert_eq!(
            (good.status, &good.body[..]),
            (200, &br#"{"content":[]}"#[..])
        );
        let bad = read(
            anthropic_line,
            r#"{"custom_id":"ab","result":{"type":"errored","error":{"type":"error","error":{"type":"invalid_request_error","message":"no"}}}}"#,
        );
        assert_eq!(bad.status, 400);
        let expired = read(
            anthropic_line,
            r#"{"custom_id":"ab","result":{"type":"expired"}}"#,
        );
        assert_eq!(expired.status, 408);
    }
}
