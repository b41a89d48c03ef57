//! Opening the models that arguments and recipes name, and counting what they were asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use rlaif::figures::Totals;
use rlaif::progress::Progress;
use rlaif::recipe::{ModelSource, ModelUse};
use rlaif::{Error, Model, Recipe};
use rlaif_client::{Endpoint, EndpointConfig};

use super::args::EndpointArgs;

/// Endpoints by name; `stats` sums what they counted.
#[derive(Default)]
pub struct Models {
    endpoints: Vec<Arc<Endpoint>>,
    #[cfg(feature = "local")]
    local: Vec<Arc<rlaif_engine::LocalModel>>,
    pub by_name: BTreeMap<String, Model>,
}

impl Models {
    /// Opens every endpoint that a recipe's stages use; the stages open folders.
    pub fn of_recipe(recipe: &Recipe, progress: &Arc<dyn Progress>) -> Result<Self, Error> {
        let mut models = Models::default();
        for ModelUse { name, .. } in recipe.models_used() {
            if let (false, Some(ModelSource::Endpoint(config))) =
                (models.by_name.contains_key(name), recipe.models.get(name))
            {
                models.open(name, config.clone(), progress)?;
            }
        }
        Ok(models)
    }

    /// Opens the model that an argument names.
    pub fn of_argument(
        &mut self,
        name: &str,
        url: &str,
        args: &EndpointArgs,
        progress: &Arc<dyn Progress>,
    ) -> Result<Model, Error> {
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            #[cfg(feature = "local")]
            if std::path::Path::new(url).is_dir() {
                let options = rlaif_engine::Options::default();
                let model = rlaif_engine::LocalModel::open(std::path::Path::new(url), options)?;
                let model = Arc::new(model);
                self.local.push(Arc::clone(&model));
                return Ok(model);
            }
            // A folder, or a mistake: the library says which.
            return rlaif::open(url);
        }
        let mut config = EndpointConfig::from_url(url).map_err(|e| fault(url, &e))?;
        if let Some(model) = &args.model {
            config.model = Some(model.clone());
        }
        config.api_key_env.clone_from(&args.api_key_env);
        config.timeout_secs = args.timeout;
        config.draws = args.draws;
        config.concurrency = 2 * args.concurrency.max(1); // both orders of each row in flight
        self.open(name, config, progress)
    }

    fn open(
        &mut self,
        name: &str,
        config: EndpointConfig,
        progress: &Arc<dyn Progress>,
    ) -> Result<Model, Error> {
        let url = config.url.clone();
        let endpoint = Endpoint::open(config).map_err(|e| fault(&url, &e))?;
        let listener = Arc::clone(progress);
        endpoint.on_notice(Arc::new(move |text: &str| listener.note(text)));
        let endpoint = Arc::new(endpoint);
        self.endpoints.push(Arc::clone(&endpoint));
        let model: Model = endpoint;
        self.by_name.insert(name.to_owned(), Arc::clone(&model));
        Ok(model)
    }

    /// Adds what the endpoints counted to a run's totals.
    pub fn count(&self, totals: &mut Totals) {
        for endpoint in &self.endpoints {
            totals.add_stats(&endpoint.stats());
        }
        #[cfg(feature = "local")]
        for model in &self.local {
            let (calls, prompt_tokens, completion_tokens) = model.answered();
            totals.calls += calls;
            totals.prompt_tokens += prompt_tokens;
            totals.completion_tokens += completion_tokens;
        }
    }
}

fn fault(url: &str, error: &rlaif_client::ClientError) -> Error {
    Error::Open {
        model: url.rsplit('@').next().unwrap_or_default().to_owned(),
        problem: error.to_string(),
    }
}
