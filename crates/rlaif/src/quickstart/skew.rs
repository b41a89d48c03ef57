//! A judge made worse on purpose: a declared position bias, a declared error rate.

use rlaif_core::model::BoxFuture;
use rlaif_core::{
    CallContext, Capabilities, ChoiceLogprobs, ChoiceRequest, Completion, LanguageModel, Model,
    ModelError, ModelId, SampleRequest, seed,
};

/// Another model whose choices are skewed; what it writes is not.
pub struct Skewed {
    id: ModelId,
    inner: Model,
    position_logit: f64,
    noise: f64,
}

impl Skewed {
    /// Adds `position_logit` to the log-odds of the choice named first, and turns a share `noise`
    /// of the verdicts round.
    #[must_use]
    pub fn new(inner: Model, position_logit: f64, noise: f64) -> Self {
        // What was skewed is a rater of its own: its answers must not be taken for the other's.
        let id = ModelId::new(format!(
            "{}+position_logit={position_logit}+noise={noise}",
            inner.id()
        ));
        Skewed {
            id,
            inner,
            position_logit,
            noise,
        }
    }
}

impl LanguageModel for Skewed {
    fn id(&self) -> &ModelId {
        &self.id
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn sample<'a>(
        &'a self,
        request: &'a SampleRequest,
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<Completion, ModelError>> {
        self.inner.sample(request, cx)
    }

    fn choice_logprobs<'a>(
        &'a self,
        request: &'a ChoiceRequest,
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<ChoiceLogprobs, ModelError>> {
        Box::pin(async move {
            let mut found = self.inner.choice_logprobs(request, cx).await?;
            if let [first, second] = found.logprobs.as_mut_slice() {
                let mut odds = f64::from(*first) - f64::from(*second);
                if seed::unit(seed::derive(cx.seed, &["skew"])) < self.noise {
                    odds = -odds;
                }
                odds += self.position_logit;
                // log σ(±odds), stable on both sides.
                let log_sigmoid = |x: f64| x.min(0.0) - (-x.abs()).exp().ln_1p();
                *first = log_sigmoid(odds) as f32;
                *second = log_sigmoid(-odds) as f32;
            }
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rlaif_core::{Evidence, ItemId, Message, Usage};

    use super::*;

    struct Fixed;

    impl LanguageModel for Fixed {
        fn id(&self) -> &ModelId {
            static ID: std::sync::OnceLock<ModelId> = std::sync::OnceLock::new();
            ID.get_or_init(|| ModelId::new("fixed"))
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities {
                logprobs: Some(true),
                prefill: true,
            }
        }

        fn sample<'a>(
            &'a self,
            _: &'a SampleRequest,
            _: &'a CallContext,
        ) -> BoxFuture<'a, Result<Completion, ModelError>> {
            Box::pin(async { Err(ModelError::Deadline) })
        }

        fn choice_logprobs<'a>(
            &'a self,
            _: &'a ChoiceRequest,
            _: &'a CallContext,
        ) -> BoxFuture<'a, Result<ChoiceLogprobs, ModelError>> {
            Box::pin(async {
                Ok(ChoiceLogprobs {
                    logprobs: vec![0.8f32.ln(), 0.2f32.ln()],
                    off_choice_mass: 0.0,
                    evidence: Evidence::Exact,
                    text: String::new(),
                    reasoning: None,
                    usage: Usage::default(),
                })
            })
        }
    }

    fn ask(model: &Skewed, seed: u64) -> f64 {
        let request = ChoiceRequest {
            messages: Arc::from([Message::user("which?")]),
            prefill: None,
            choices: vec![vec!["(A)".into()], vec!["(B)".into()]],
        };
        let item = ItemId {
            stage: "judge".into(),
            row: "r".into(),
            draw: 0,
        };
        let cx = CallContext::new(item, seed);
        let found = futures::executor::block_on(model.choice_logprobs(&request, &cx)).unwrap();
        let p: f64 = found.logprobs.iter().map(|l| f64::from(*l).exp()).sum();
        assert!((p - 1.0).abs() < 1e-6);
        f64::from(found.logprobs[0]).exp()
    }

    #[test]
    fn a_bias_is_added_in_log_odds_and_noise_turns_its_share_round() {
        // ln(0.8/0.2) = 1.386; with 1 more, σ(2.386) = 0.9158.
        let biased = Skewed::new(Arc::new(Fixed), 1.0, 0.0);
        assert!((ask(&biased, 1) - 0.9158).abs() < 1e-3);
        let noisy = Skewed::new(Arc::new(Fixed), 0.0, 0.3);
        let turned = (0..2_000).filter(|s| ask(&noisy, *s) < 0.5).count();
        // p = 0.3, n = 2,000: one standard deviation is 20.
        assert!(turned.abs_diff(600) < 80, "{turned}");
    }
}
