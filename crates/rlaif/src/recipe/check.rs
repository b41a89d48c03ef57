//! What the types of a recipe do not check: ranges, names that must exist, stages that need others.

#[cfg(feature = "local")]
use rlaif_train::ppo::Keep;

#[cfg(feature = "local")]
use super::Algorithm;
use super::reader::nearest;
use super::{Compare, ModelSource, ModelUse, Recipe, TABLES, WRITERS};
#[cfg(feature = "local")]
use crate::stages::round::OnlineConfig;

impl Recipe {
    /// Checks what the types do not: ranges, and names that must exist.
    pub(super) fn check(&self) -> Vec<Found> {
        let mut reader = Faults(Vec::new());
        self.check_models(&mut reader);
        self.check_training(&mut reader);
        if let Some(usd) = self.max_usd.filter(|usd| !(*usd >= 0.0 && usd.is_finite())) {
            let message = format!("`max_usd` must be at least 0, got `{usd}`");
            reader.fault(&["max_usd"], message, None);
        }
        if !(0.0..=1.0).contains(&self.max_failed) {
            let got = self.max_failed;
            reader.fault(
                &["max_failed"],
                format!("`max_failed` must be in [0, 1], got `{got}`"),
                None,
            );
        }
        let mut samplings = Vec::new();
        if let Some(c) = &self.candidates {
            samplings.push(("candidates", &c.sampling));
            if c.n == 0 {
                reader.fault(
                    &["candidates", "n"],
                    "`candidates.n` must be at least 1".into(),
                    None,
                );
            }
        }
        let compared = match self.pairs.compare {
            Compare::Revision => None,
            Compare::Candidates => Some(("candidates", &self.candidates)),
            Compare::SftCandidates => Some(("sft_candidates", &self.sft_candidates)),
        };
        match compared.filter(|_| self.labels_by().is_some()) {
            Some((table, Some(c))) if c.n < 2 => reader.fault(
                &[table, "n"],
                format!("comparing candidates needs `{table}.n` of at least 2"),
                None,
            ),
            Some((table, None)) => reader.fault(
                &["pairs", "compare"],
                format!("`pairs.compare` is `{table}`, but there is no `[{table}]` table"),
                Some(format!("add `[{table}]`, or compare something else")),
            ),
            _ => {}
        }
        if let Some(c) = &self.sft_candidates {
            samplings.push(("sft_candidates", &c.sampling));
            if self.pairs.compare != Compare::SftCandidates {
                reader.fault(
                    &["sft_candidates"],
                    "`[sft_candidates]` are sampled but not compared".into(),
                    Some("write `[pairs]` with `compare = \"sft_candidates\"`".into()),
                );
            }
        }
        if let Some(c) = &self.critique {
            samplings.push(("critique", &c.sampling));
        }
        if let Some(c) = &self.revise {
            samplings.push(("revise", &c.sampling));
            if !(1..=16).contains(&c.steps) {
                let message = format!("`revise.steps` must be from 1 to 16, got `{}`", c.steps);
                reader.fault(&["revise", "steps"], message, None);
            }
            if self.critique.is_none() {
                reader.fault(
                    &["revise"],
                    "`[revise]` needs critiques to revise by".into(),
                    Some("add a `[critique]` table".into()),
                );
            }
        }
        if let Some(c) = &self.contrast {
            samplings.push(("contrast", &c.sampling));
            for (key, problem) in c.faults() {
                let message = format!("`contrast.{key}` {problem}");
                reader.fault(&["contrast", key], message, None);
            }
            if self.judge.is_some() && !self.evaluates() {
                reader.fault(
                    &["judge"],
                    "`[contrast]` labels the pairs, so that `[judge]` has nothing to judge".into(),
                    Some(
                        "take one of the two out, or add `[evaluate]`, which the judge serves"
                            .into(),
                    ),
                );
            }
        }
        for (table, s) in samplings {
            if !(s.temperature >= 0.0 && s.temperature.is_finite()) {
                reader.fault(
                    &[table, "sampling", "temperature"],
                    format!(
                        "`{table}.sampling.temperature` must be at least 0, got `{}`",
                        s.temperature
                    ),
                    None,
                );
            }
            if s.max_new_tokens == 0 {
                reader.fault(
                    &[table, "sampling", "max_new_tokens"],
                    format!("`{table}.sampling.max_new_tokens` must be at least 1"),
                    None,
                );
            }
        }
        if let Some(j) = &self.judge {
            for (key, problem) in j.faults() {
                reader.fault(&["judge", key], format!("`judge.{key}` {problem}"), None);
            }
            if self.labels_by().is_some()
                && self.pairs.compare == Compare::Revision
                && self.revise.is_none()
            {
                reader.fault(
                    &["judge"],
                    "`[judge]` is to compare revisions, but there is no `[revise]` table".into(),
                    Some(
                        "add `[revise]`, or write `[pairs]` with `compare = \"candidates\"`".into(),
                    ),
                );
            }
        }
        if let Err(e) = self.pairs.select.parse::<rlaif_core::pairs::Pairs>() {
            reader.fault(&["pairs", "select"], format!("`pairs.select`: {e}"), None);
        }
        for target in self.export.iter().flat_map(|e| &e.to) {
            if let Err(e) = target.parse::<rlaif_core::export::Target>() {
                reader.fault(&["export", "to"], format!("`export.to`: {e}"), None);
            }
        }
        reader.0
    }

    fn check_models(&self, reader: &mut Faults) {
        for name in self.models.keys() {
            if WRITERS.contains(&name.as_str()) {
                reader.fault(
                    &["models", name],
                    format!("`models.{name}` has the name of a stage that writes a model"),
                    Some("give it another name".into()),
                );
            }
        }
        let place = |table: &str| TABLES.iter().position(|t| *t == table);
        for ModelUse { table, key, name } in self.models_used() {
            match self.models.get(name) {
                Some(ModelSource::Folder(_)) => continue,
                #[cfg(feature = "remote")]
                Some(ModelSource::Endpoint(_)) if key == "model" => continue,
                #[cfg(feature = "remote")]
                Some(ModelSource::Endpoint(_)) => {
                    reader.fault(
                        &[table, key],
                        format!(
                            "`{table}.{key}` is the model `{name}`, which is an endpoint: only a \
                             folder can be trained"
                        ),
                        Some(format!("write `[models.{name}]` with `folder = \"…\"`")),
                    );
                    continue;
                }
                None => {}
            }
            if self.has(name) && place(name) < place(table) {
                continue;
            }
            let mut known: Vec<String> = self.models.keys().cloned().collect();
            let written = WRITERS.iter().filter(|w| self.has(w));
            known.extend(
                written
                    .filter(|w| place(w) < place(table))
                    .map(|w| (*w).to_owned()),
            );
            let help = if known.is_empty() {
                format!(
                    "add a table `[models.{name}]` with `url = \"http://…/v1#name\"` or \
                     `folder = \"…\"`"
                )
            } else {
                nearest(name, &known)
            };
            reader.fault(
                &[table, key],
                format!("`{table}` uses the model `{name}`, which no `[models.…]` defines"),
                Some(help),
            );
        }
    }

    #[cfg(not(feature = "local"))]
    fn evaluates(&self) -> bool {
        false
    }

    #[cfg(feature = "local")]
    fn evaluates(&self) -> bool {
        self.evaluate.is_some()
    }

    #[cfg(not(feature = "local"))]
    fn check_training(&self, _: &mut Faults) {}

    #[cfg(feature = "local")]
    fn check_training(&self, reader: &mut Faults) {
        match (self.algorithm, self.ppo.is_some(), self.dpo.is_some()) {
            (None, true, true) => reader.fault(
                &["dpo"],
                "there are tables `[ppo]` and `[dpo]`".into(),
                Some("say which by `algorithm = \"ppo\"` or `\"dpo\"` at the top".into()),
            ),
            (Some(a), ppo, dpo)
                if (a == Algorithm::Ppo && !ppo) || (a == Algorithm::Dpo && !dpo) =>
            {
                let name = a.as_str();
                reader.fault(
                    &["algorithm"],
                    format!("`algorithm` is `{name}`, but there is no `[{name}]` table"),
                    Some(format!("add `[{name}]`")),
                );
            }
            _ => {}
        }
        let labels = self.has_labels();
        for (table, there, needed, has) in [
            ("sft", self.sft.is_some(), "[revise]", self.revise.is_some()),
            (
                "reward",
                self.reward.is_some(),
                "[judge]` or `[contrast]",
                labels,
            ),
            ("dpo", self.dpo.is_some(), "[judge]` or `[contrast]", labels),
            (
                "evaluate",
                self.evaluate.is_some(),
                "[sft]`, `[ppo]` or `[dpo]",
                self.sft.is_some() || self.optimizes_by().is_some(),
            ),
        ] {
            if there && !has {
                reader.fault(
                    &[table],
                    format!("`[{table}]` needs what `{needed}` makes"),
                    Some(format!("add a `{needed}` table")),
                );
            }
        }
        if let Some(c) = &self.sft
            && !(0.0..1.0).contains(&c.helpful_share)
        {
            let message = format!(
                "`sft.helpful_share` must be in [0, 1), got `{}`",
                c.helpful_share
            );
            reader.fault(&["sft", "helpful_share"], message, None);
        }
        let tunes = [
            ("sft", self.sft.as_ref().map(|c| &c.tune)),
            ("reward", self.reward.as_ref().map(|c| &c.tune)),
            ("dpo", self.dpo.as_ref().map(|c| &c.tune)),
        ];
        for (table, tune) in tunes {
            let Some(t) = tune else { continue };
            let rate = t.learning_rate.is_none_or(|r| r > 0.0 && r.is_finite());
            for (key, holds, wanted) in [
                ("learning_rate", rate, "above 0"),
                ("batch_size", t.batch_size > 0, "at least 1"),
                ("num_train_epochs", t.num_train_epochs > 0.0, "above 0"),
                ("max_length", t.max_length > 1, "at least 2"),
                ("lora", t.lora != Some(0), "at least 1"),
                (
                    "warmup_ratio",
                    (0.0..=1.0).contains(&t.warmup_ratio),
                    "in [0, 1]",
                ),
            ] {
                if !holds {
                    let message = format!("`{table}.{key}` must be {wanted}");
                    reader.fault(&[table, key], message, None);
                }
            }
        }
        if let Some(c) = &self.online {
            self.check_online(c, reader);
        }
        if self
            .evaluate
            .as_ref()
            .is_some_and(|c| c.judge_limit == Some(0))
        {
            let message = "`evaluate.judge_limit` must be at least 1";
            let help = "leave `[judge]` out where the policies are not to be compared";
            reader.fault(
                &["evaluate", "judge_limit"],
                message.into(),
                Some(help.into()),
            );
        }
        if let Some(p) = self.ppo.as_ref().map(|c| &c.algorithm) {
            for (key, holds, wanted) in [
                ("learning_rate", p.learning_rate > 0.0, "above 0"),
                ("batch_size", p.batch_size > 0, "at least 1"),
                (
                    "num_generations",
                    p.num_generations > 0 && p.batch_size.is_multiple_of(p.num_generations),
                    "a divisor of `ppo.batch_size`",
                ),
                (
                    "total_episodes",
                    p.total_episodes >= p.batch_size,
                    "at least `ppo.batch_size`",
                ),
                ("temperature", p.temperature > 0.0, "above 0"),
                ("response_length", p.response_length > 0, "at least 1"),
                ("kl_coef", p.kl_coef >= 0.0, "at least 0"),
                ("kl_budget", p.kl_budget.is_none_or(|b| b > 0.0), "above 0"),
                ("target_kl", p.target_kl.is_none_or(|t| t > 0.0), "above 0"),
            ] {
                if !holds {
                    reader.fault(&["ppo", key], format!("`ppo.{key}` must be {wanted}"), None);
                }
            }
        }
    }
}

#[cfg(feature = "local")]
impl Recipe {
    /// What labels on PPO's way need.
    fn check_online(&self, c: &OnlineConfig, reader: &mut Faults) {
        for (key, holds, wanted) in [
            ("pauses", c.pauses > 0, "at least 1"),
            (
                "n",
                c.n > 1,
                "at least 2: they are compared with each other",
            ),
            ("limit", c.limit != Some(0), "at least 1"),
            ("num_train_epochs", c.num_train_epochs > 0.0, "above 0"),
        ] {
            if !holds {
                let message = format!("`online.{key}` must be {wanted}");
                reader.fault(&["online", key], message, None);
            }
        }
        let Some(ppo) = &self.ppo else {
            return reader.fault(
                &["online"],
                "`[online]` labels what PPO writes, but there is no `[ppo]` table".into(),
                Some("add `[ppo]`, or take `[online]` out".into()),
            );
        };
        if self.labels_by().is_none() {
            let message = "`[online]` needs a judge of the policy's answers";
            let help = "add `[judge]`, without `[contrast]`, which labels no such pair";
            reader.fault(&["online"], message.into(), Some(help.into()));
        }
        if self.reward.is_none() || ppo.reward != "reward" {
            let message = "`[online]` trains the reward model further, and `ppo.reward` is none that \
                           this recipe trains";
            let help = "add `[reward]` and leave `ppo.reward` out";
            reader.fault(&["online"], message.into(), Some(help.into()));
        }
        let (_, updates) = rlaif_train::ppo::iterations(&ppo.algorithm);
        if u64::from(c.pauses) >= updates {
            let message = format!(
                "`online.pauses` is {}, but PPO has {updates} iterations in all",
                c.pauses
            );
            let help = "pause less often, or give PPO smaller batches or more episodes";
            reader.fault(&["online", "pauses"], message, Some(help.into()));
        }
        if ppo.algorithm.keep == Keep::Best {
            let message = "`ppo.keep` is `best`, but the scores before and after a pause are those of \
                           different reward models";
            let help = "write `keep = \"last\"`";
            reader.fault(&["ppo", "keep"], message.into(), Some(help.into()));
        }
    }
}

/// A fault by the key that it is about.
pub(super) struct Found {
    pub path: Vec<String>,
    pub message: String,
    pub help: Option<String>,
}

/// Faults found after reading.
struct Faults(Vec<Found>);

impl Faults {
    fn fault(&mut self, path: &[&str], message: String, help: Option<String>) {
        self.0.push(Found {
            path: path.iter().map(|p| (*p).to_owned()).collect(),
            message,
            help,
        });
    }
}
