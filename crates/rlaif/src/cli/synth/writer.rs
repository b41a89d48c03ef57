//! Asking the writer and, where one is named, the model that embeds; every answer is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use rlaif::rows::{Ended, Tally, row_key};
use rlaif::stages::fixed;
use rlaif::{Error, LanguageModel, Prompt};
use rlaif_client::Embedder;
use rlaif_core::rowlog::RowLog;
use rlaif_core::{CallContext, Candidate, Cost, ItemId, ModelError, Outcome, seed};
use rlaif_feedback::{FeedbackError, Sampler, candidate};
use serde::{Deserialize, Serialize};

use super::SynthArgs;
use crate::cli::desk::Desk;

/// A text's vector, as it is kept.
#[derive(Serialize, Deserialize)]
struct Embedded {
    vector: Vec<f32>,
    outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    cost: Cost,
}

impl Ended for Embedded {
    fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn error(&self) -> Option<String> {
        self.error.clone()
    }

    fn cost(&self) -> Cost {
        self.cost
    }
}

pub(super) struct Writer<'a> {
    pub desk: &'a Desk,
    pub args: &'a SynthArgs,
    pub sampler: Sampler,
    pub embedder: Option<Arc<Embedder>>,
    pub log: RowLog,
    pub total: Tally,
    pub stopped: Option<Error>,
    /// Rows of answers, and rows of vectors.
    pub keys: Vec<String>,
    pub vector_keys: Vec<String>,
}

impl Writer<'_> {
    /// One answer a request; `None` where the budget ended first.
    pub async fn ask(
        &mut self,
        stage: &str,
        requests: Vec<(String, Prompt)>,
    ) -> Result<Vec<Option<Candidate>>, Error> {
        let settings = fixed(&(
            self.sampler.model.id(),
            &self.sampler.config.sampling,
            self.sampler.seed,
        ));
        let items: Vec<(String, (String, Prompt))> = requests
            .into_iter()
            .map(|(id, prompt)| {
                let key = row_key(&["synth", &settings, &id, &fixed(&prompt)]);
                (key, (id, prompt))
            })
            .collect();
        let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
        if self.stopped.is_none() {
            let sampler = &self.sampler;
            let row = |(id, prompt): (String, Prompt)| async move {
                candidate(sampler, &id, 0, &prompt).await
            };
            let (tally, stopped) = self
                .desk
                .ask(stage, &self.args.endpoint, &mut self.log, items, row)
                .await?;
            self.total.add(&tally);
            self.stopped = stopped;
        }
        let found = self.kept(&keys)?;
        self.keys.extend(keys);
        Ok(found)
    }

    /// One vector a text; `None` where none came. Without a model that embeds, none does.
    pub async fn embed(&mut self, texts: &[String]) -> Result<Vec<Option<Vec<f32>>>, Error> {
        let Some(embedder) = self.embedder.clone() else {
            return Ok(vec![None; texts.len()]);
        };
        let id = embedder.endpoint().id().to_string();
        let key = |text: &String| row_key(&["embed", &id, text]);
        let keys: Vec<String> = texts.iter().map(key).collect();
        if self.stopped.is_none() {
            // A text that stands twice is asked for once.
            let each: BTreeMap<String, String> =
                keys.iter().cloned().zip(texts.iter().cloned()).collect();
            let items = each.into_iter().collect();
            let row = |text: String| embedded(&embedder, text);
            let (tally, stopped) = self
                .desk
                .ask("embed", &self.args.endpoint, &mut self.log, items, row)
                .await?;
            self.total.add(&tally);
            self.stopped = stopped;
        }
        let found = self.kept::<Embedded>(&keys)?;
        self.vector_keys.extend(keys);
        let decided = |e: Embedded| (e.outcome == Outcome::Decided).then_some(e.vector);
        Ok(found.into_iter().map(|e| e.and_then(decided)).collect())
    }

    fn kept<R: Ended>(&self, keys: &[String]) -> Result<Vec<Option<R>>, Error> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.log.get(key)?);
        }
        Ok(found)
    }

    /// What the exit code says: what stopped the calls, or that too many failed.
    pub fn gate(&mut self) -> Result<(), Error> {
        let endpoint = &self.args.endpoint;
        let (log, total) = (&self.log, &self.total);
        self.desk.gate::<Candidate>(
            "synth",
            endpoint,
            (log, self.keys.iter().map(Ok)),
            total,
            self.stopped.take(),
        )?;
        let vectors = (log, self.vector_keys.iter().map(Ok));
        self.desk
            .gate::<Embedded>("embed", endpoint, vectors, total, None)
    }
}

async fn embedded(embedder: &Embedder, text: String) -> Result<Embedded, FeedbackError> {
    let row = row_key(&[&text]);
    let item = ItemId {
        stage: "embed".into(),
        row: row.as_str().into(),
        draw: 0,
    };
    let cx = CallContext::new(item, seed::derive(0, &["embed", &row]));
    match embedder.embed(&text, &cx).await {
        Ok((vector, usage)) => Ok(Embedded {
            vector,
            outcome: Outcome::Decided,
            error: None,
            cost: (&usage).into(),
        }),
        Err(error) if error.is_fatal() || matches!(error, ModelError::BudgetReached) => {
            Err(FeedbackError::Stop(error))
        }
        Err(error) => Ok(Embedded {
            vector: Vec::new(),
            outcome: Outcome::Failed,
            error: Some(error.to_string()),
            cost: Cost::default(),
        }),
    }
}
