//! judge: candidates and revisions → judgments of pairs.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::Path;

use rlaif_core::pairs::{Pairs, pairs};
use rlaif_core::{
    Candidate, Constitution, Judgment, Model, ModelId, Outcome, Probability, Prompt, Rater,
    Revision, seed,
};
use rlaif_feedback::{Exemplar, Judge, JudgeConfig, Method, Purpose, Scorer, judge};

use super::round::Round;
use super::{
    Context, NOT_REACHED, StageReport, StageSpec, fixed, line, read_records, run_stage, template,
};
use crate::error::Error;
use crate::recipe::Compare;
use crate::rows::row_key;

/// The stage's file.
pub const FILE: &str = "judgments.jsonl";

/// A pair waiting for judgment.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Its id.
    pub id: String,
    /// The conversation up to the responses.
    pub prompt: Prompt,
    /// The response given first.
    pub response_a: String,
    /// The response given second.
    pub response_b: String,
}

/// A judge as a recipe or a command line describes it; `folder` holds template files. The models of
/// `config.jury` are given to it afterwards, by [`Judge::with_jury`].
///
/// # Errors
/// A template that is wrong, or settings that it cannot serve; worked examples that cannot be read.
pub fn judge_of(
    config: &JudgeConfig,
    model: Model,
    constitution: &Constitution,
    folder: &Path,
    seed: u64,
) -> Result<Judge, Error> {
    let pair = template(&config.template, Purpose::Pair, folder)?;
    let mut by = Judge::new(
        model,
        constitution.clone(),
        config.clone(),
        Some(pair),
        seed,
    )?;
    if !config.exemplars.is_empty() {
        by = by.with_exemplars(exemplars(&folder.join(&config.exemplars))?);
    }
    if config.method == Method::Score {
        by = by.with_score_template(template(&config.score_template, Purpose::Score, folder)?)?;
    }
    Ok(by)
}

/// Checks all that a judge of a recipe needs beside its models.
///
/// # Errors
/// As [`judge_of`].
pub fn check(
    config: &JudgeConfig,
    constitution: &Constitution,
    folder: &Path,
) -> Result<(), Error> {
    let pair = template(&config.template, Purpose::Pair, folder)?;
    Judge::check(config, constitution, &pair)?;
    template(&config.score_template, Purpose::Score, folder)?;
    if !config.exemplars.is_empty() {
        exemplars(&folder.join(&config.exemplars))?;
    }
    Ok(())
}

/// A scorer as a recipe or a command line describes it; `folder` holds template files.
///
/// # Errors
/// A template that is wrong, or settings that it cannot serve.
pub fn scorer_of(
    config: &JudgeConfig,
    model: Model,
    constitution: &Constitution,
    folder: &Path,
    seed: u64,
) -> Result<Scorer, Error> {
    let by = template(&config.score_template, Purpose::Score, folder)?;
    let (constitution, config) = (constitution.clone(), config.clone());
    Ok(Scorer::new(model, constitution, config, Some(by), seed)?)
}

/// All that determines a score beside its response.
#[must_use]
pub fn scorer_settings(scorer: &Scorer) -> String {
    fixed(&(
        scorer.model.id(),
        scorer.template_hash(),
        scorer.constitution.hash(),
        unnamed(&scorer.config),
        scorer.seed,
    ))
}

/// Worked examples from a file of preference pairs.
fn exemplars(path: &Path) -> Result<Vec<Exemplar>, Error> {
    let data = rlaif_core::dataset::read(path)?;
    let pair = |row: rlaif_core::dataset::Row| match row.completions.as_slice() {
        // The better one stands first, as in every file with `chosen` and `rejected`.
        [chosen, rejected] if row.columns.contains_key("chosen") => Ok(Exemplar {
            prompt: row.prompt.0,
            chosen: chosen.clone(),
            rejected: rejected.clone(),
            principle: match row.columns.get("principle") {
                Some(serde_json::Value::String(text)) => Some(text.clone()),
                _ => None,
            },
        }),
        _ => Err(Error::input(
            format!("`{}:{}` is no worked example", path.display(), row.line),
            "give `prompt`, `chosen` and `rejected`",
        )),
    };
    if let Some(fault) = data.faults.first() {
        return Err(Error::input(
            format!("`{}:{}`: {}", path.display(), fault.line, fault.message),
            "give `prompt`, `chosen` and `rejected`",
        ));
    }
    data.rows.into_iter().map(pair).collect()
}

/// The further judges of a recipe, opened.
///
/// # Errors
/// As [`Context::model`].
pub(super) fn jury(cx: &mut Context<'_>, config: &JudgeConfig) -> Result<Vec<Model>, Error> {
    config.jury.iter().map(|j| cx.model(&j.model)).collect()
}

/// All that determines a judgment beside its pair.
#[must_use]
pub fn settings(judge: &Judge) -> String {
    let judges: Vec<_> = judge.jurors().map(|(model, _)| model.id()).collect();
    fixed(&(
        judges,
        judge.template_hash(),
        judge.constitution.hash(),
        unnamed(&judge.config),
        judge.seed,
    ))
}

/// A configuration without what other things stand for: the models' ids, the templates' hashes.
fn unnamed(config: &JudgeConfig) -> JudgeConfig {
    let mut config = JudgeConfig {
        model: String::new(),
        template: String::new(),
        score_template: String::new(),
        exemplars: String::new(),
        ..config.clone()
    };
    for juror in &mut config.jury {
        juror.model.clear();
    }
    config
}

/// Key of one judgment in the row log.
#[must_use]
pub fn key(settings: &str, pair: &Pair) -> String {
    let prompt = fixed(&pair.prompt);
    row_key(&[
        "judge",
        settings,
        &pair.id,
        &prompt,
        &pair.response_a,
        &pair.response_b,
    ])
}

/// Judges one pair.
///
/// # Errors
/// As [`judge()`].
pub async fn judge_pair(
    by: &Judge,
    pair: impl Borrow<Pair>,
) -> Result<Judgment, rlaif_feedback::FeedbackError> {
    let pair = pair.borrow();
    judge(
        by,
        &pair.id,
        &pair.prompt,
        &pair.response_a,
        &pair.response_b,
    )
    .await
}

/// The last revision of each chain with the response that the chain began with. The response
/// that stands first is drawn, so that "first" carries no information about which is revised.
fn revision_pairs(revisions: Vec<Revision>, run_seed: u64) -> Vec<Pair> {
    let mut chains: Vec<(String, Revision, String)> = Vec::new();
    for revision in revisions
        .into_iter()
        .filter(|r| r.outcome == Outcome::Decided)
    {
        match chains.last_mut() {
            Some((id, last, _)) if *id == revision.id => *last = revision,
            _ => chains.push((revision.id.clone(), revision.clone(), revision.original)),
        }
    }
    chains
        .into_iter()
        .map(|(id, last, original)| {
            let flip = seed::unit(seed::derive(run_seed, &["pairs", &id])) < 0.5;
            let (response_a, response_b) = if flip {
                (last.text, original)
            } else {
                (original, last.text)
            };
            Pair {
                id,
                prompt: last.prompt,
                response_a,
                response_b,
            }
        })
        .collect()
}

/// Pairs of the candidates of one prompt; `stage` tells apart those that several policies wrote.
fn candidate_pairs(
    candidates: Vec<Candidate>,
    select: &Pairs,
    run_seed: u64,
    stage: &str,
) -> Result<Vec<Pair>, Error> {
    let mut of_prompt: Vec<(String, Vec<Candidate>)> = Vec::new();
    for c in candidates
        .into_iter()
        .filter(|c| c.outcome == Outcome::Decided)
    {
        match of_prompt.last_mut() {
            Some((id, list)) if *id == c.id => list.push(c),
            _ => of_prompt.push((c.id.clone(), vec![c])),
        }
    }
    let mut all = Vec::new();
    for (id, list) in of_prompt {
        let pair_seed = seed::derive(run_seed, &["pairs", &id]);
        for (i, j) in pairs(list.len(), select, None, pair_seed)? {
            all.push(Pair {
                id: format!("{id}/{stage}{}-{}", list[i].draw, list[j].draw),
                prompt: list[i].prompt.clone(),
                response_a: list[i].completion.clone(),
                response_b: list[j].completion.clone(),
            });
        }
    }
    Ok(all)
}

/// Judges the pairs that the recipe asks for: the first round's, and those of the policies that the
/// rounds before this one came to.
///
/// # Errors
/// As [`run_stage`].
pub async fn run(
    cx: &mut Context<'_>,
    config: &JudgeConfig,
    round: Round,
) -> Result<StageReport, Error> {
    let folder = cx.templates();
    let seed = cx.recipe.seed;
    let model = cx.model(&config.model)?;
    let by = judge_of(config, model, cx.constitution, folder, seed)?.with_jury(jury(cx, config)?);
    let wanted = &cx.recipe.pairs;
    let select: Pairs = wanted.select.parse()?;
    let (left, mut pairs) = match wanted.compare {
        Compare::Revision => {
            let file = super::revise::FILE;
            let revisions = read_records(&cx.file(file))?;
            (file.to_owned(), revision_pairs(revisions, seed))
        }
        Compare::Candidates | Compare::SftCandidates => {
            let file = match wanted.compare {
                Compare::SftCandidates => super::candidates::SFT_FILE,
                _ => super::candidates::FILE,
            };
            let candidates = read_records(&cx.file(file))?;
            let pairs = candidate_pairs(candidates, &select, seed, "")?;
            (file.to_owned(), pairs)
        }
    };
    let mut files = vec![left];
    for earlier in round.earlier() {
        let file = earlier.name(super::candidates::FILE);
        let candidates = read_records(&cx.file(&file))?;
        let stage = earlier.name("");
        pairs.extend(candidate_pairs(candidates, &select, seed, &stage)?);
        files.push(file);
    }
    let mut inputs = BTreeMap::new();
    for file in files {
        let hash = rlaif_core::run::sha256_file(&cx.file(&file))?;
        inputs.insert(file, hash);
    }
    let settings = settings(&by);
    let items: Vec<_> = pairs.into_iter().map(|p| (key(&settings, &p), p)).collect();
    let (name, output) = (round.name("judge"), round.name(FILE));
    let spec = StageSpec {
        name: &name,
        log: "judge",
        output: &output,
        inputs,
        config: format!("{settings}\n{}", fixed(wanted)),
        max_failed: cx.recipe.max_failed,
        concurrency: cx.in_flight(&config.model),
        seed,
        progress: cx.progress,
        stop: cx.stop,
    };
    let by = &by;
    run_stage(
        cx.folder,
        spec,
        items,
        |pair| async move { judge_pair(by, pair).await },
        |record: &Judgment| line(record),
        |pair| not_run(by, pair),
    )
    .await
}

/// The judgment of a pair that was never asked for.
pub(super) fn not_run(by: &Judge, pair: &Pair) -> Judgment {
    let responses = [pair.response_a.clone(), pair.response_b.clone()];
    unasked(&pair.id, &pair.prompt, responses, by.model.id().clone())
}

/// The same, where the pair need not have been written yet.
pub(super) fn unasked(
    id: &str,
    prompt: &Prompt,
    responses: [String; 2],
    model: ModelId,
) -> Judgment {
    Judgment {
        reason: NOT_REACHED.into(),
        ..Judgment::new(
            id,
            prompt.clone(),
            responses,
            Outcome::NotRun,
            Probability::NONE,
            Rater::Model(model),
        )
    }
}
