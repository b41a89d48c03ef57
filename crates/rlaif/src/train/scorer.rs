//! Where scores of completions come from.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rlaif_core::{CallContext, ItemId, Message, Model, Reward as _, Score, ScoreItem};
use rlaif_engine::{
    Cache, EngineError, Inference, LlamaConfig, Options, Sequence, Tokenizer, Weights, Work,
};
use rlaif_feedback::JudgeReward;
use rlaif_train::ppo::Scores;
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::local::{conversation, fingerprint};

/// Who scores completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewardSource {
    /// A reward model's folder.
    Model(PathBuf),
    /// A shell command that reads lines `{"prompt", "completion"}` and answers each with a line
    /// `{"score": X}` or `{"error": "why"}`, in order.
    Command(String),
    /// A service in OpenRLHF's form, by its URL.
    #[cfg(feature = "remote")]
    Url(String),
    /// A judge that scores by a constitution (direct RLAIF).
    Judge(JudgeSource),
}

/// A judge as a reward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeSource {
    /// `http://host:port/v1#NAME`, or a folder.
    pub model: String,
    /// The environment variable that holds its key.
    pub api_key_env: Option<String>,
    /// The constitution's file, or a supplied name.
    pub constitution: PathBuf,
    /// A supplied template for scores, or a file.
    pub template: String,
    /// Seed of the judge's draws.
    pub seed: u64,
}

impl JudgeSource {
    /// Opens the judge; calls to an endpoint are kept in a journal in the run's folder, so that a
    /// run that goes on pays for none of them again.
    fn open(&self, out: &Path) -> Result<JudgeReward, Error> {
        let constitution = rlaif_core::Constitution::read(&self.constitution)?;
        let config = rlaif_feedback::JudgeConfig {
            score_template: self.template.clone(),
            principles: rlaif_feedback::Principles::Whole,
            ..rlaif_feedback::JudgeConfig::default()
        };
        let model = self.model(out)?;
        let here = Path::new("");
        let scorer =
            crate::stages::judge::scorer_of(&config, model, &constitution, here, self.seed)?;
        Ok(JudgeReward::new(scorer))
    }

    #[cfg(feature = "remote")]
    fn model(&self, out: &Path) -> Result<Model, Error> {
        if !(self.model.starts_with("http://") || self.model.starts_with("https://")) {
            return crate::open(self.model.as_str());
        }
        let fault = |problem: String| Error::Open {
            model: self.model.rsplit('@').next().unwrap_or_default().to_owned(),
            problem,
        };
        let mut config = rlaif_client::EndpointConfig::from_url(&self.model)
            .map_err(|e| fault(e.to_string()))?;
        config.api_key_env.clone_from(&self.api_key_env);
        std::fs::create_dir_all(out).map_err(rlaif_core::Error::io("create", out))?;
        let journal = rlaif_client::Journal::open(&out.join("calls.sqlite"));
        let ledger = rlaif_client::Ledger {
            journal: Some(journal.map_err(|e| fault(e.to_string()))?),
            ..rlaif_client::Ledger::default()
        };
        let endpoint =
            rlaif_client::Endpoint::open_with(config, &ledger).map_err(|e| fault(e.to_string()))?;
        Ok(std::sync::Arc::new(endpoint))
    }

    #[cfg(not(feature = "remote"))]
    fn model(&self, _: &Path) -> Result<Model, Error> {
        crate::open(self.model.as_str())
    }
}

impl RewardSource {
    pub(super) fn identity(&self) -> Result<String, Error> {
        match self {
            RewardSource::Model(folder) => fingerprint(folder),
            RewardSource::Command(command) => Ok(command.clone()),
            #[cfg(feature = "remote")]
            RewardSource::Url(url) => Ok(url.clone()),
            RewardSource::Judge(judge) => Ok(format!(
                "{}\n{}\n{}\n{}",
                judge.model,
                rlaif_core::Constitution::read(&judge.constitution)?.hash(),
                judge.template,
                judge.seed
            )),
        }
    }
}

pub(super) enum Scorer {
    Model(Box<RewardModel>),
    Command(String),
    #[cfg(feature = "remote")]
    Url(String),
    Judge(Box<JudgeReward>, Background),
}

/// The runtime on which a judge is asked. Training may itself stand on a runtime, within which
/// another one must not be waited for when it ends.
pub(super) struct Background(Option<tokio::runtime::Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A completion waiting for its score.
// Only a service is sent tokens as text, and a build without sockets has none.
#[cfg_attr(not(feature = "remote"), allow(dead_code))]
pub(super) struct Item<'a> {
    /// The conversation up to it.
    pub messages: &'a [Message],
    /// Its text.
    pub completion: &'a str,
    /// The prompt's tokens.
    pub prompt_ids: &'a [u32],
    /// Its tokens.
    pub completion_ids: &'a [u32],
}

impl Scorer {
    /// `out` is the run's folder.
    pub(super) fn open(source: &RewardSource, out: &Path) -> Result<Self, Error> {
        Ok(match source {
            RewardSource::Model(folder) => {
                let cache_bytes = Options::default().cache_bytes;
                Scorer::Model(Box::new(RewardModel::open(folder, cache_bytes)?))
            }
            RewardSource::Command(command) => Scorer::Command(command.clone()),
            #[cfg(feature = "remote")]
            RewardSource::Url(url) => Scorer::Url(url.clone()),
            RewardSource::Judge(source) => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .map_err(|e| Error::input(format!("cannot start a runtime: {e}"), ""))?;
                let entered = runtime.enter();
                let reward = source.open(out)?;
                drop(entered);
                Scorer::Judge(Box::new(reward), Background(Some(runtime)))
            }
        })
    }

    /// One result a completion, in their order; a failed one is never a number. `policy` is the
    /// tokenizer of whoever wrote them.
    #[cfg_attr(not(feature = "remote"), allow(unused_variables))] // as at `Item`
    pub(super) fn score(&self, policy: &Tokenizer, items: &[Item<'_>]) -> Result<Scores, Error> {
        let asked: Vec<(&[Message], &str)> =
            items.iter().map(|i| (i.messages, i.completion)).collect();
        match self {
            Scorer::Model(model) => Ok(model.score(&asked)),
            Scorer::Command(command) => ask_command(command, &asked),
            #[cfg(feature = "remote")]
            Scorer::Url(url) => ask_service(url, policy, items),
            Scorer::Judge(reward, runtime) => Ok(ask_judge(reward, runtime, &asked)),
        }
    }
}

/// Most tokens of a reward model's forward pass.
const TOKENS_AT_ONCE: usize = 2048;

/// A reward model in memory: a checkpoint with a scalar head, read at the last token.
pub struct RewardModel {
    config: LlamaConfig,
    tokenizer: Tokenizer,
    model: Inference,
    cache_bytes: u64,
}

impl RewardModel {
    /// Opens a folder; a pass takes at most `cache_bytes` for keys and values.
    ///
    /// # Errors
    /// Files that are missing or corrupt; a model without a scalar head.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, Error> {
        let config = LlamaConfig::read(folder)?;
        if !config.scalar_head {
            return Err(Error::input(
                format!("`{}` is not a reward model", folder.display()),
                "give a folder whose config.json names LlamaForSequenceClassification, such as \
                 `rlaif reward` writes",
            ));
        }
        let tokenizer = Tokenizer::read(folder)?;
        let weights = std::sync::Arc::new(Weights::read(folder, &config)?);
        let model = Inference::new(&config, &weights, config.max_positions);
        Ok(RewardModel {
            config,
            tokenizer,
            model,
            cache_bytes,
        })
    }

    /// Scores completions of conversations, many in a pass. A row's score does not depend on the
    /// rows beside it.
    #[must_use]
    pub fn score(&self, asked: &[(&[Message], &str)]) -> Scores {
        let rows: Vec<Result<Vec<u32>, String>> = asked
            .iter()
            .map(|(prompt, completion)| {
                let (_, ids) = conversation(&self.tokenizer, &self.config, prompt, completion)
                    .map_err(|e| e.to_string())?;
                if ids.len() > self.model.positions() {
                    return Err("longer than the reward model's positions".into());
                }
                Ok(ids)
            })
            .collect();
        let mut cache = Cache::new(&self.config, self.cache_bytes);
        let mut scores: Scores = rows
            .iter()
            .map(|r| Err(r.as_ref().err().cloned().unwrap_or_default()))
            .collect();
        let mut at = 0;
        while at < rows.len() {
            let (mut end, mut tokens) = (at, 0);
            while end < rows.len() {
                let n = rows[end].as_ref().map_or(0, Vec::len);
                if end > at && tokens + n > TOKENS_AT_ONCE {
                    break;
                }
                tokens += n;
                end += 1;
            }
            let part: Vec<(usize, &[u32])> = (at..end)
                .filter_map(|i| Some((i, rows[i].as_ref().ok()?.as_slice())))
                .collect();
            match self.pass(&mut cache, &part) {
                Ok(values) => {
                    for ((i, _), value) in part.iter().zip(values) {
                        scores[*i] = Ok(value);
                    }
                }
                Err(e) => {
                    for (i, _) in &part {
                        scores[*i] = Err(e.to_string());
                    }
                }
            }
            at = end;
        }
        scores
    }

    fn pass(&self, cache: &mut Cache, part: &[(usize, &[u32])]) -> Result<Vec<f32>, EngineError> {
        let mut sequences = Vec::with_capacity(part.len());
        for (_, ids) in part {
            let mut sequence = Sequence::default();
            let fits = cache.reserve(&mut sequence, ids.len());
            sequences.push(sequence);
            if !fits {
                for s in sequences {
                    cache.release(s);
                }
                return Err(EngineError::Request(format!(
                    "{} tokens do not fit the {} MiB for keys and values",
                    ids.len(),
                    self.cache_bytes >> 20
                )));
            }
        }
        let mut work: Vec<Work<'_>> = sequences
            .iter_mut()
            .zip(part)
            .map(|(sequence, (_, tokens))| Work {
                sequence,
                tokens,
                want: 1,
            })
            .collect();
        let out = self.model.forward(cache, &mut work);
        for s in sequences {
            cache.release(s);
        }
        out
    }
}

/// On a thread of its own, as in [`ask_service`].
fn ask_judge(reward: &JudgeReward, runtime: &Background, asked: &[(&[Message], &str)]) -> Scores {
    let gone = |_: &(&[Message], &str)| Err("the thread that asks the judge has ended".to_owned());
    let Background(Some(runtime)) = runtime else {
        return asked.iter().map(gone).collect();
    };
    let items: Vec<ScoreItem<'_>> = asked
        .iter()
        .map(|(prompt, completion)| ScoreItem { prompt, completion })
        .collect();
    let item = ItemId {
        stage: "score".into(),
        row: "".into(),
        draw: 0,
    };
    let cx = CallContext::new(item, 0);
    let ask = || runtime.block_on(reward.score(&items, &cx));
    let scores = std::thread::scope(|scope| scope.spawn(ask).join());
    match scores {
        Ok(scores) => scores
            .into_iter()
            .map(|s| s.map(|Score(s)| s).map_err(|e| e.to_string()))
            .collect(),
        Err(_) => asked.iter().map(gone).collect(),
    }
}

/// On a thread of its own: training runs where a runtime may be at work already.
#[cfg(feature = "remote")]
fn ask_service(url: &str, policy: &Tokenizer, items: &[Item<'_>]) -> Result<Scores, Error> {
    let mut request = rlaif_client::RewardRequest {
        query: Vec::with_capacity(items.len()),
        prompts: Vec::with_capacity(items.len()),
        labels: vec![String::new(); items.len()],
    };
    for item in items {
        let prompt = policy.decode_all(item.prompt_ids)?;
        let whole = [item.prompt_ids, item.completion_ids].concat();
        request.query.push(policy.decode_all(&whole)?);
        request.prompts.push(prompt);
    }
    let fault = |problem: String| {
        Error::input(
            problem,
            "is the service running? It must answer `POST /get_reward` as OpenRLHF's does; give \
             the same command again to go on",
        )
    };
    let ask = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| fault(format!("cannot start a runtime: {e}")))?
            .block_on(rlaif_client::rewards(url, &request))
            .map_err(|e| fault(e.to_string()))
    };
    std::thread::scope(|scope| {
        let asked = scope.spawn(ask).join();
        asked.unwrap_or_else(|_| Err(fault("the thread that asks the service has ended".into())))
    })
}

#[derive(Serialize)]
struct Asked<'a> {
    prompt: &'a [Message],
    completion: &'a str,
}

fn ask_command(command: &str, asked: &[(&[Message], &str)]) -> Result<Scores, Error> {
    let broken = |what: String| {
        Error::input(
            format!("the reward command `{command}` {what}"),
            "it must read one JSON line a completion and answer each with {\"score\": X}",
        )
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| broken(format!("cannot be started: {e}")))?;
    let mut input = String::new();
    for (prompt, completion) in asked {
        let line = Asked { prompt, completion };
        input += &serde_json::to_string(&line).unwrap_or_default();
        input.push('\n');
    }
    let stdin = child.stdin.take();
    // Written beside, so that a command that answers line by line cannot block on a full pipe.
    let writer = std::thread::spawn(move || {
        use std::io::Write as _;
        stdin.map(|mut pipe| pipe.write_all(input.as_bytes()))
    });
    let output = child
        .wait_with_output()
        .map_err(|e| broken(format!("failed: {e}")))?;
    drop(writer.join());
    if !output.status.success() {
        return Err(broken(format!("ended with {}", output.status)));
    }
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| !l.trim().is_empty())
        .map(|l| serde_json::from_str(l).unwrap_or(Value::Null))
        .collect();
    if answers.len() != asked.len() {
        return Err(broken(format!(
            "answered {} lines to {}",
            answers.len(),
            asked.len()
        )));
    }
    Ok(answers
        .iter()
        .map(|a| match (a["score"].as_f64(), a["error"].as_str()) {
            (Some(s), _) if s.is_finite() => Ok(s as f32),
            (_, Some(why)) => Err(why.to_string()),
            _ => Err(format!("answered `{a}`, which holds no finite `score`")),
        })
        .collect())
}
