//! An endpoint that stands in for a model's: its latency, faults, truth and bias are planted, and
//! it counts what it did, so that a client's account can be held against its own.
//!
//! It speaks OpenAI's chat completions and Anthropic's Messages over HTTP/1.1 on one machine, and
//! both providers' batch interfaces. A
//! judge is asked with log-probabilities: it prefers the text with the greater `worth:N`, half a
//! logit for each point, and leans by [`Plan::bias`] logits towards what it sees first. Asked for
//! anything else it writes a sentence that depends on the request alone.

mod batches;
mod faults;
mod http;
mod judge;
mod recorded;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use faults::{Fault, Faults};
use http::Request;
pub use recorded::{Recorded, Said};

/// What is planted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Time from a request to its answer.
    pub latency: Duration,
    /// Share of requests that go wrong, by kind.
    pub faults: Faults,
    /// Requests taken at once; those above are answered with 429 at once.
    pub admits: Option<usize>,
    /// Requests worked on at once; those above wait in line, also when nobody waits for them any
    /// more: a server of one machine.
    pub serves: Option<usize>,
    /// Log-odds by which the judge leans towards what it sees first.
    pub bias: f64,
    /// Log-probabilities are given; else the field is refused, as by `transformers serve`.
    pub logprobs: bool,
    /// Seed of the faults.
    pub seed: u64,
    /// Added to the tokens of every count: an endpoint that lies.
    pub lies_by: u64,
    /// Time from a batch's submission to its end; absent: there is no batch interface.
    pub batch: Option<Duration>,
    /// What was said before of pairs; these go before `worth`.
    pub recorded: Arc<Recorded>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            latency: Duration::ZERO,
            faults: Faults::default(),
            admits: None,
            serves: None,
            bias: 1.0,
            logprobs: true,
            seed: 0,
            lies_by: 0,
            batch: None,
            recorded: Arc::default(),
        }
    }
}

impl Plan {
    /// Probability that what a request shows first is better, where it shows a pair.
    fn p_first(&self, body: &[u8]) -> Option<f64> {
        let recorded = self.recorded.p_shown_first(body);
        recorded.or_else(|| judge::p_first(body, self.bias))
    }
}

/// What it did, by its own count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Answers sent whole, with their count of tokens.
    pub answered: u64,
    /// Prompt tokens of those.
    pub prompt_tokens: u64,
    /// Generated tokens of those.
    pub completion_tokens: u64,
    /// Answers that were made and did not arrive whole: the client cannot know their tokens.
    pub lost: u64,
    /// Tokens of those, prompt and answer together.
    pub lost_tokens: u64,
    /// Requests refused or failed, for which nothing is charged.
    pub refused: u64,
    /// Requests taken in.
    pub requests: u64,
    /// Answers sent whole to a request that had been answered whole before.
    pub repeated: u64,
    /// Most requests at work at once.
    pub most_in_flight: usize,
}

struct State {
    plan: Plan,
    in_flight: AtomicUsize,
    drawn: AtomicU64,
    line: Option<Semaphore>,
    account: Mutex<(Account, HashMap<u64, u32>)>,
    desk: Mutex<batches::Desk>,
}

/// A running endpoint; it stops when dropped.
pub struct Standin {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

impl Standin {
    /// Starts one on a free port of this machine, or on `port`.
    ///
    /// # Errors
    /// The system's, where it cannot listen.
    pub async fn start(plan: Plan, port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            line: plan.serves.map(|n| Semaphore::new(n.max(1))),
            plan,
            in_flight: AtomicUsize::new(0),
            drawn: AtomicU64::new(0),
            account: Mutex::default(),
            desk: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => {
                        tokio::spawn(serve(socket, Arc::clone(&shared)));
                    }
                    // Out of file handles: those in use come back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Standin {
            address,
            state,
            server,
        })
    }

    /// Its base URL, ending in `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it did so far.
    #[must_use]
    pub fn account(&self) -> Account {
        self.state.account()
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Counts a request as under way for as long as it lives.
struct AtWork<'a>(&'a AtomicUsize);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl State {
    fn account(&self) -> Account {
        self.with(|account, _| account.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Account, &mut HashMap<u64, u32>) -> T) -> T {
        let mut guard = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let (account, seen) = &mut *guard;
        change(account, seen)
    }
}

/// Answers one connection's requests until either side closes it.
async fn serve(mut socket: TcpStream, state: Arc<State>) {
    let _ = socket.set_nodelay(true);
    let mut buffer = Vec::with_capacity(8192);
    while let Some(request) = http::read(&mut socket, &mut buffer).await {
        let sent = match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/v1/chat/completions") => {
                complete(&mut socket, &state, &request, false).await
            }
            ("POST", "/v1/messages") => complete(&mut socket, &state, &request, true).await,
            ("GET", "/v1/models") => {
                let list = r#"{"object":"list","data":[{"id":"standin","owned_by":"rlaif"}]}"#;
                http::send(&mut socket, 200, "", list).await
            }
            ("GET", "/account") => {
                let account = serde_json::to_string(&state.account()).unwrap_or_default();
                http::send(&mut socket, 200, "", &account).await
            }
            (method, path) => {
                let batch = state
                    .plan
                    .batch
                    .is_some()
                    .then(|| batches::answer(&state, method, path, &request.body));
                match batch.flatten() {
                    Some((status, body)) => http::send(&mut socket, status, "", &body).await,
                    None => {
                        let body = r#"{"error":{"message":"there is no such path here"}}"#;
                        http::send(&mut socket, 404, "", body).await
                    }
                }
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

const BUSY: &str = r#"{"error":{"message":"too many requests","type":"rate_limit"}}"#;

async fn complete(
    socket: &mut TcpStream,
    state: &State,
    request: &Request,
    messages: bool,
) -> std::io::Result<()> {
    let arrived = Instant::now();
    let plan = &state.plan;
    let at_work = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    let _working = AtWork(&state.in_flight);
    let over = plan.admits.is_some_and(|most| at_work > most);
    state.with(|a, _| {
        a.requests += 1;
        if !over {
            a.most_in_flight = a.most_in_flight.max(at_work);
        }
    });
    if over {
        state.with(|a, _| a.refused += 1);
        return http::send(socket, 429, "", BUSY).await;
    }
    let wants_logprobs = judge::wants_logprobs(&request.body);
    if wants_logprobs && !plan.logprobs {
        state.with(|a, _| a.refused += 1);
        let body = r#"{"detail":"Unexpected fields in the request: {'logprobs', 'top_logprobs'}"}"#;
        return http::send(socket, 422, "", body).await;
    }
    let draw = state.drawn.fetch_add(1, Ordering::Relaxed);
    let fault = plan.faults.draw(plan.seed, draw);
    if let Some(Fault::Busy | Fault::BusyWithWord | Fault::Error500 | Fault::ErrorBody) = fault {
        state.with(|a, _| a.refused += 1);
    }
    match fault {
        Some(Fault::Busy) => return http::send(socket, 429, "", BUSY).await,
        Some(Fault::BusyWithWord) => {
            return http::send(socket, 429, "retry-after: 1\r\n", BUSY).await;
        }
        Some(Fault::Error500) => return http::send(socket, 500, "", "internal error").await,
        _ => {
            let (turn, begun) = match &state.line {
                // It is closed nowhere.
                Some(line) => (line.acquire().await.ok(), Instant::now()),
                None => (None, arrived),
            };
            tokio::time::sleep_until(begun + plan.latency).await;
            drop(turn);
        }
    }
    if fault == Some(Fault::ErrorBody) {
        let body = r#"{"error":{"message":"the model is overloaded"}}"#;
        return http::send(socket, 200, "", body).await;
    }
    let prompt = request.body.len() as u64 / 4 + plan.lies_by;
    let generated = 1 + plan.lies_by;
    let longer = fault == Some(Fault::WrongLength);
    let p_first = plan.p_first(&request.body);
    let answer = if messages {
        judge::message(&request.body, p_first, prompt, generated)
    } else {
        judge::completion(
            &request.body,
            p_first,
            wants_logprobs,
            longer,
            prompt,
            generated,
        )
    };
    let whole = !matches!(
        fault,
        Some(Fault::Garbage | Fault::Half | Fault::Silence | Fault::Closed)
    );
    state.with(|a, seen| {
        if whole {
            a.answered += 1;
            a.prompt_tokens += prompt;
            a.completion_tokens += generated;
            let times = seen.entry(judge::hash(&request.body)).or_default();
            *times += 1;
            a.repeated += u64::from(*times > 1);
        } else {
            a.lost += 1;
            a.lost_tokens += prompt + generated;
        }
    });
    match fault {
        Some(Fault::Garbage) => http::send(socket, 200, "", "<<<%% not a completion %%>>>").await,
        Some(Fault::Half) => {
            let half = answer.len() / 2;
            http::send(socket, 200, "", answer.get(..half).unwrap_or_default()).await
        }
        Some(Fault::Silence) => {
            // Nothing more is said; the connection stays open until the client closes it.
            http::until_closed(socket).await;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
        Some(Fault::Closed) => Err(std::io::ErrorKind::ConnectionAborted.into()),
        _ => http::send(socket, 200, "", &answer).await,
    }
}
