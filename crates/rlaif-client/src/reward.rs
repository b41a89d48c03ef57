//! A reward service over HTTP, in the form of OpenRLHF's remote reward model (`openrlhf/utils/
//! agent.py`, `openrlhf/cli/serve_rm.py`): `POST /get_reward` with `query`, `prompts` and `labels`
//! answers `rewards`, one a query. OpenRLHF waits 180 s and tries five times, a second apart; so
//! does this.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::ClientError;

const TIMEOUT: Duration = Duration::from_secs(180);
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// What is to be scored.
#[derive(Clone, Debug, Serialize)]
pub struct RewardRequest {
    /// Prompt and completion as one text, special tokens included.
    pub query: Vec<String>,
    /// The prompts, likewise.
    pub prompts: Vec<String>,
    /// Labels that a rule-based reward compares with; empty texts here.
    pub labels: Vec<String>,
}

#[derive(Deserialize)]
struct RewardResponse {
    rewards: Vec<Option<f64>>,
}

/// Asks a service for the rewards of a batch: one result a query, and what is no finite number is
/// never one. A URL without a path gets `/get_reward`.
///
/// # Errors
/// [`ClientError::Url`] where the URL cannot be used; [`ClientError::Reward`] where the service does
/// not answer, or answers something else.
pub async fn rewards(
    url: &str,
    request: &RewardRequest,
) -> Result<Vec<Result<f32, String>>, ClientError> {
    let mut address = reqwest::Url::parse(url).map_err(|e| ClientError::Url {
        problem: format!("`{url}` is no URL: {e}; write it as in http://localhost:5000/get_reward"),
    })?;
    if address.path() == "/" {
        address.set_path("/get_reward");
    }
    let failed = |problem: String| ClientError::Reward {
        url: url.to_owned(),
        problem,
    };
    // Another provider may be installed already; any serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().timeout(TIMEOUT);
    if matches!(
        address.host_str(),
        Some("localhost" | "127.0.0.1" | "[::1]")
    ) {
        builder = builder.no_proxy();
    }
    let http = builder.build().map_err(|e| failed(e.to_string()))?;
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let answer = match http.post(address.clone()).json(request).send().await {
            Ok(answer) => answer,
            Err(e) => {
                last = format!("cannot be reached: {e}");
                continue;
            }
        };
        let status = answer.status().as_u16();
        if status == 429 || status >= 500 {
            last = format!("answers with status {status}");
            continue;
        }
        if !answer.status().is_success() {
            return Err(failed(format!("answers with status {status}")));
        }
        let body: RewardResponse = answer
            .json()
            .await
            .map_err(|e| failed(format!("answers something without `rewards`: {e}")))?;
        if body.rewards.len() != request.query.len() {
            return Err(failed(format!(
                "answers {} rewards to {} queries",
                body.rewards.len(),
                request.query.len()
            )));
        }
        return Ok(body
            .rewards
            .into_iter()
            .map(|r| match r {
                Some(r) if r.is_finite() => Ok(r as f32),
                other => Err(format!("the service answers `{other:?}`, no finite number")),
            })
            .collect());
    }
    Err(failed(format!("{last} ({ATTEMPTS} attempts)")))
}
