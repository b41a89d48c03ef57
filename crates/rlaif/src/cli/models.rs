//! Opening the models that arguments and recipes name, the ledger that they share, and counting
//! what they were asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif::figures::Totals;
use rlaif::progress::Progress;
use rlaif::recipe::{ModelSource, ModelUse};
use rlaif::rows::Width;
use rlaif::{Error, Model, Recipe};
use rlaif_client::{
    Account, Api, Budget, Embedder, Endpoint, EndpointConfig, Halt, Journal, JournalError, Ledger,
    Limits, Now, Prices, Replica, Stats,
};

use super::args::{EndpointArgs, RunLimits};

/// Rows in flight where no model is behind a socket.
const LOCAL_ROWS: usize = 16;

/// The journal's name in a run folder.
pub const JOURNAL: &str = "calls.sqlite";

/// Endpoints by name, and what they share.
#[derive(Default)]
pub struct Models {
    endpoints: Arc<std::sync::RwLock<Vec<Arc<Endpoint>>>>,
    #[cfg(feature = "local")]
    local: Vec<Arc<rlaif_engine::LocalModel>>,
    pub by_name: BTreeMap<String, Model>,
    ledger: Ledger,
    prices: Option<Prices>,
    rows: Option<usize>,
}

/// Whoever watches holds the list of endpoints, and each endpoint holds whom it tells: without a cut
/// the journal would never be closed, and its log never be folded into its file.
impl Drop for Models {
    fn drop(&mut self) {
        self.endpoints
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
    }
}

/// What all endpoints of a run did so far, for whoever watches.
#[derive(Clone)]
pub struct Watch {
    endpoints: Arc<std::sync::RwLock<Vec<Arc<Endpoint>>>>,
    budget: Option<Arc<Budget>>,
}

impl Watch {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Each endpoint's counts, by its name.
    pub fn each(&self) -> Vec<(String, Stats, Now)> {
        use rlaif::LanguageModel;
        self.endpoints()
            .iter()
            .map(|e| (e.id().to_string(), e.stats(), e.now()))
            .collect()
    }

    /// Rows that keep all endpoints busy.
    pub fn width(&self) -> usize {
        self.endpoints().iter().map(|e| e.width()).sum()
    }

    /// The budget, where there is one.
    pub fn budget(&self) -> Option<&Budget> {
        self.budget.as_deref()
    }
}

fn journal_fault(error: JournalError) -> Error {
    Error::Journal {
        problem: error.to_string(),
        advice: error.advice().to_owned(),
        environment: matches!(error, JournalError::Io { .. }),
    }
}

impl Models {
    /// Nothing opened yet; the journal is, and the budget knows what earlier runs spent.
    pub fn with_ledger(journal: &Path, limits: &RunLimits) -> Result<Self, Error> {
        if let Some(usd) = limits
            .max_usd
            .filter(|usd| !(*usd >= 0.0 && usd.is_finite()))
        {
            return Err(Error::input(
                format!("`--max-usd` must be at least 0, got `{usd}`"),
                "give US dollars, as in `--max-usd 2.50`",
            ));
        }
        let journal = Journal::open(journal).map_err(journal_fault)?;
        let wanted = Limits {
            max_usd: limits.max_usd,
            max_calls: limits.max_calls,
        };
        // Adding up a long journal takes time, which only a budget is worth.
        let budget = match wanted == Limits::default() {
            true => None,
            false => {
                let account = journal.account().map_err(journal_fault)?;
                let usd = account.settled_usd + account.unsettled_usd;
                let lost = account.unsettled.min(account.failed);
                let spent = account.answered + lost;
                Some(Arc::new(Budget::new(wanted, spent, usd)))
            }
        };
        let mut prices = Prices::shipped().map_err(|e| Error::input(e.to_string(), ""))?;
        if let Some(file) = &limits.prices {
            prices = prices
                .with_file(file)
                .map_err(|e| Error::input(e.to_string(), ""))?;
        }
        let mut models = Models::default();
        models.ledger.journal = Some(journal);
        models.ledger.budget = budget;
        models.prices = Some(prices);
        Ok(models)
    }

    /// Opens every model that a recipe's stages use.
    pub fn of_recipe(
        mut self,
        recipe: &Recipe,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self, Error> {
        self.rows = recipe.concurrency;
        for ModelUse { name, .. } in recipe.models_used() {
            if let (false, Some(ModelSource::Endpoint(config))) =
                (self.by_name.contains_key(name), recipe.models.get(name))
            {
                self.open(name, config.clone(), progress)?;
            }
        }
        Ok(self)
    }

    /// Opens the model that an argument names.
    pub fn of_argument(
        &mut self,
        name: &str,
        url: &str,
        args: &EndpointArgs,
        progress: &Arc<dyn Progress>,
    ) -> Result<Model, Error> {
        if let rlaif_client::Concurrency::Most(n) = args.concurrency {
            self.rows = Some(n);
        }
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            if args.batch {
                return Err(Error::input(
                    format!("`--batch` needs an endpoint, and `{url}` is none"),
                    "leave it out for a model in memory",
                ));
            }
            #[cfg(feature = "local")]
            if Path::new(url).is_dir() {
                let options = rlaif_engine::Options::default();
                let model = rlaif_engine::LocalModel::open(Path::new(url), options)?;
                let model = Arc::new(model);
                self.local.push(Arc::clone(&model));
                return Ok(model);
            }
            // A folder, or a mistake: the library says which.
            return rlaif::open(url);
        }
        let mut config = self.config(url, args)?;
        if let Some(model) = &args.model {
            config.model = Some(model.clone());
        }
        config.draws = args.draws;
        config.batch = args.batch;
        if !(args.batch_poll > 0.0 && args.batch_poll.is_finite()) {
            return Err(Error::input(
                format!("`--batch-poll` must be above 0, got `{}`", args.batch_poll),
                "give seconds, as in `--batch-poll 60`",
            ));
        }
        config.batch_poll_secs = args.batch_poll;
        config.api = match args.api.as_deref() {
            None => None,
            Some("openai") => Some(Api::Openai),
            Some("anthropic") => Some(Api::Anthropic),
            Some(other) => {
                return Err(Error::input(
                    format!("`--api` must be `openai` or `anthropic`, got `{other}`"),
                    "leave it out where the URL is the provider's own",
                ));
            }
        };
        for text in &args.replica {
            config.replicas.push(replica(text)?);
        }
        self.open(name, config, progress)
    }

    /// Opens a model of embeddings that an argument names; it is no model that answers.
    pub fn embedder(
        &mut self,
        option: &str,
        url: &str,
        args: &EndpointArgs,
        progress: &Arc<dyn Progress>,
    ) -> Result<Arc<Embedder>, Error> {
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(Error::input(
                format!("`--{option}` must be an endpoint, got `{url}`"),
                format!("write `--{option} http://host:port/v1#NAME`"),
            ));
        }
        let config = self.priced(self.config(url, args)?);
        let opened = Embedder::open_with(config, &self.ledger).map_err(|e| fault(url, &e))?;
        self.watched(opened.endpoint(), progress);
        Ok(Arc::new(opened))
    }

    /// What the arguments say of any server.
    fn config(&self, url: &str, args: &EndpointArgs) -> Result<EndpointConfig, Error> {
        let mut config = EndpointConfig::from_url(url).map_err(|e| fault(url, &e))?;
        config.api_key_env.clone_from(&args.api_key_env);
        config.timeout_secs = args.timeout;
        config.concurrency = args.concurrency;
        config.requests_per_min = args.requests_per_min;
        config.tokens_per_min = args.tokens_per_min;
        Ok(config)
    }

    /// The configuration, with the price of the table where it names none.
    fn priced(&self, mut config: EndpointConfig) -> EndpointConfig {
        if let (None, Some(prices)) = (&config.price, &self.prices) {
            let (base, named) = config.url.split_once('#').unwrap_or((&config.url, ""));
            let model = config.model.as_deref().unwrap_or(named);
            config.price = prices.quote(base, model).map(|q| q.price);
        }
        config
    }

    /// Counts an endpoint's calls, and passes on what it has to say.
    fn watched(&self, endpoint: &Arc<Endpoint>, progress: &Arc<dyn Progress>) {
        let listener = Arc::clone(progress);
        endpoint.on_notice(Arc::new(move |text: &str| listener.note(text)));
        self.endpoints
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(Arc::clone(endpoint));
    }

    fn open(
        &mut self,
        name: &str,
        config: EndpointConfig,
        progress: &Arc<dyn Progress>,
    ) -> Result<Model, Error> {
        let url = config.url.clone();
        let config = self.priced(config);
        let endpoint = Endpoint::open_with(config, &self.ledger).map_err(|e| fault(&url, &e))?;
        let endpoint = Arc::new(endpoint);
        self.watched(&endpoint, progress);
        let model: Model = endpoint;
        self.by_name.insert(name.to_owned(), Arc::clone(&model));
        Ok(model)
    }

    /// By what its endpoints are asked to send nothing more.
    pub fn halt(&self) -> Arc<Halt> {
        Arc::clone(&self.ledger.halt)
    }

    /// What may be watched while it runs.
    pub fn watch(&self) -> Watch {
        Watch {
            endpoints: Arc::clone(&self.endpoints),
            budget: self.ledger.budget.clone(),
        }
    }

    /// Rows that may be in flight; where no model is behind a socket, a fixed number.
    pub fn width(&self) -> Box<dyn Fn() -> usize + Send + Sync> {
        let watch = self.watch();
        if watch.endpoints().is_empty() {
            let rows = self.rows.unwrap_or(LOCAL_ROWS);
            return Box::new(move || rows);
        }
        Box::new(move || watch.width())
    }

    /// Adds what the endpoints counted to a run's totals.
    pub fn count(&self, totals: &mut Totals) {
        for (_, stats, _) in self.watch().each() {
            totals.add_stats(&stats);
        }
        #[cfg(feature = "local")]
        for model in &self.local {
            let (calls, prompt_tokens, completion_tokens) = model.answered();
            totals.calls += calls;
            totals.prompt_tokens += prompt_tokens;
            totals.completion_tokens += completion_tokens;
        }
    }

    /// What all runs of the journal were charged, where a model has a price.
    pub fn account(&self) -> Result<Option<Account>, Error> {
        self.ledger
            .journal
            .as_ref()
            .filter(|_| self.watch().endpoints().iter().any(|e| e.has_price()))
            .map(|j| j.account().map_err(journal_fault))
            .transpose()
    }

    /// Closes the journal and removes it: all rows of a loose file have their answers.
    pub fn remove_journal(self) -> Result<(), Error> {
        let Some(path) = self.ledger.journal.as_ref().map(|j| j.path().to_path_buf()) else {
            return Ok(());
        };
        drop(self);
        Journal::remove(&path).map_err(journal_fault)
    }
}

/// `width` as what runs rows takes it.
pub fn width_of(width: &(dyn Fn() -> usize + Send + Sync)) -> Width<'_> {
    Width::Now(width)
}

/// The journal of a run folder, or the file itself.
pub fn journal_of(run: &Path) -> PathBuf {
    if run.is_dir() {
        run.join(JOURNAL)
    } else {
        run.to_path_buf()
    }
}

/// `NAME` or `NAME=WEIGHT`, as an option gives it. A URL may hold `=` in its query, before `#`.
///
/// # Errors
/// What stands behind the last `=` is no weight.
pub fn weighted<'a>(option: &str, text: &'a str) -> Result<(&'a str, f64), Error> {
    let Some((name, weight)) = text.rsplit_once('=') else {
        return Ok((text, 1.0));
    };
    match weight.parse::<f64>() {
        Ok(weight) if weight.is_finite() && weight > 0.0 => Ok((name, weight)),
        Err(_) if weight.contains(['#', '/', '&']) || Path::new(text).exists() => Ok((text, 1.0)),
        _ => Err(Error::input(
            format!("`{option} {text}`: the weight `{weight}` is not a number above 0"),
            format!("write `{option} {name}=0.5`, or leave `=` and the weight out"),
        )),
    }
}

fn replica(text: &str) -> Result<Replica, Error> {
    let (url, weight) = weighted("--replica", text)?;
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(Error::input(
            format!("`--replica` must be a URL, got `{text}`"),
            "write `--replica http://host:8001/v1` or `--replica http://host:8001/v1=2`",
        ));
    }
    Ok(Replica {
        url: url.to_owned(),
        weight,
        api_key_env: None,
    })
}

fn fault(url: &str, error: &rlaif_client::ClientError) -> Error {
    Error::Open {
        model: url.rsplit('@').next().unwrap_or_default().to_owned(),
        problem: error.to_string(),
    }
}
