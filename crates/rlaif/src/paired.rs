//! Two policies on the same held-out prompts, number by number: what another constitution, another
//! algorithm or another seed has made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_eval::Estimate;
use rlaif_eval::quantile::normal_quantile;
use serde::Serialize;

use crate::error::Error;
use crate::evaluation::{self, FILE, Measured};
use crate::stages::read_records;

/// A policy of an evaluated run.
#[derive(Clone, Debug)]
pub struct Side {
    /// As the user named it: `RUN` or `RUN:POLICY`.
    pub name: String,
    /// The policy's name in the run.
    pub policy: String,
    completions: Vec<Measured>,
}

/// One number of two policies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `tokens`, `words`, or `EVALUATOR.NUMBER`.
    pub number: String,
    /// Mean of the first policy over the prompts that both have it for.
    pub first: f64,
    /// Mean of the second.
    pub second: f64,
    /// First less second, prompt by prompt.
    pub difference: Estimate,
    /// 95 % interval of the mean difference (normal, paired by prompt); `None` for one prompt.
    pub interval: Option<[f64; 2]>,
}

impl Difference {
    /// Whether the interval leaves zero out.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.interval
            .is_some_and(|[low, high]| low > 0.0 || high < 0.0)
    }
}

/// Opens `RUN` or `RUN:POLICY`: a run folder, or one that holds it as `run` (a quickstart, or the
/// folder of a recipe). Without a policy it is the last one that the run made.
///
/// # Errors
/// A folder without an evaluation, or without that policy.
pub fn open(name: &str) -> Result<Side, Error> {
    let (folder, wanted) = match name.rsplit_once(':') {
        // What stands as it is is a path, colon and all.
        Some((folder, policy)) if !Path::new(name).exists() => (folder, Some(policy)),
        _ => (name, None),
    };
    let run = [PathBuf::from(folder), Path::new(folder).join("run")]
        .into_iter()
        .find(|f| f.join(FILE).is_file())
        .ok_or_else(|| {
            Error::input(
                format!("`{folder}` holds no evaluation"),
                "give the folder of a finished run whose recipe has [evaluate], as RUN or RUN:POLICY",
            )
        })?;
    let evaluated = evaluation::read(&run)?.unwrap_or_default();
    let known: Vec<&str> = evaluated
        .policies
        .iter()
        .map(|p| p.policy.as_str())
        .collect();
    let policy = wanted.or(known.last().copied()).unwrap_or_default();
    if !known.contains(&policy) {
        return Err(Error::input(
            format!("`{}` has no policy `{policy}`", run.display()),
            format!("it has {}", known.join(", ")),
        ));
    }
    let policy = policy.to_owned();
    let all: Vec<Measured> = read_records(&run.join(FILE))?;
    Ok(Side {
        name: name.to_owned(),
        completions: all.into_iter().filter(|m| m.policy == policy).collect(),
        policy,
    })
}

/// Numbers of a completion by name.
fn numbers(m: &Measured) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<String, f64> = m
        .numbers
        .iter()
        .flat_map(|(by, list)| list.iter().map(move |(n, x)| (format!("{by}.{n}"), *x)))
        .collect();
    all.insert("words".into(), m.words as f64);
    if let Some(tokens) = m.tokens {
        all.insert("tokens".into(), tokens as f64);
    }
    all
}

/// Every number that both policies have, paired by prompt.
///
/// # Errors
/// Policies without a common prompt: runs of other prompts or seeds cannot be paired.
pub fn differences(first: &Side, second: &Side) -> Result<Vec<Difference>, Error> {
    let others: BTreeMap<String, &Measured> = second
        .completions
        .iter()
        .map(|m| (m.prompt.to_text(), m))
        .collect();
    let mut pairs: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for m in &first.completions {
        let Some(other) = others.get(&m.prompt.to_text()) else {
            continue;
        };
        let theirs = numbers(other);
        for (name, mine) in numbers(m) {
            if let Some(x) = theirs.get(&name) {
                pairs.entry(name).or_default().push((mine, *x));
            }
        }
    }
    if pairs.is_empty() {
        return Err(Error::input(
            format!(
                "`{}` and `{}` have no held-out prompt in common",
                first.name, second.name
            ),
            "compare runs with the same prompts and seed",
        ));
    }
    let z = normal_quantile(0.975).unwrap_or(f64::NAN);
    Ok(pairs
        .into_iter()
        .filter_map(|(number, list)| {
            let mean = |f: &dyn Fn(&(f64, f64)) -> f64| {
                list.iter().map(f).sum::<f64>() / list.len() as f64
            };
            let apart: Vec<f64> = list.iter().map(|(a, b)| a - b).collect();
            let difference = Estimate::of(&apart)?;
            let interval = difference
                .std_error
                .map(|se| [difference.mean - z * se, difference.mean + z * se]);
            Some(Difference {
                number,
                first: mean(&|p| p.0),
                second: mean(&|p| p.1),
                difference,
                interval,
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use rlaif_core::run::{write_atomic, write_lines};
    use rlaif_core::{Outcome, Prompt};
    use serde_json::json;

    use super::*;
    use crate::evaluation::{Evaluation, PolicyFigures, SUMMARY};

    fn run(folder: &Path, policy: &str, tokens: &[usize]) {
        let lines: Vec<Measured> = tokens
            .iter()
            .enumerate()
            .map(|(i, n)| Measured {
                id: format!("p{i}"),
                policy: policy.into(),
                prompt: Prompt::from(format!("Question {i}?").as_str()),
                completion: "x".into(),
                outcome: Outcome::Decided,
                tokens: Some(*n),
                words: 1,
                reward: None,
                kl: None,
                numbers: BTreeMap::new(),
            })
            .collect();
        write_lines(&folder.join(FILE), &lines).unwrap();
        let figures: PolicyFigures = serde_json::from_value(json!({
            "policy": policy, "completions": tokens.len(), "failed": 0, "tokens": null,
            "words": null, "reward": null, "kl": null, "kl_to": null, "numbers": {},
        }))
        .unwrap();
        let evaluation = Evaluation {
            policies: vec![figures],
            ..Evaluation::default()
        };
        let text = serde_json::to_string(&evaluation).unwrap();
        write_atomic(&folder.join(SUMMARY), text.as_bytes()).unwrap();
    }

    #[test]
    fn numbers_are_paired_by_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for at in [&a, &b.join("run")] {
            std::fs::create_dir_all(at).unwrap();
        }
        run(&a, "ppo", &[10, 12, 14, 99]);
        // A folder that holds the run, and one prompt less.
        run(&b.join("run"), "sft", &[11, 15, 19]);
        let (a, b) = (a.display().to_string(), b.display().to_string());
        let found = differences(&open(&a).unwrap(), &open(&format!("{b}:sft")).unwrap()).unwrap();
        let tokens = found.iter().find(|d| d.number == "tokens").unwrap();
        // Differences -1, -3, -5: mean -3, standard deviation 2, standard error 2/√3.
        assert_eq!(
            (tokens.first, tokens.second, tokens.difference.n),
            (12.0, 15.0, 3)
        );
        let [low, high] = tokens.interval.unwrap();
        assert!(
            (low + 3.0 + 1.959_964 * 2.0 / 3f64.sqrt()).abs() < 1e-5,
            "{low}"
        );
        assert!(
            (high + 3.0 - 1.959_964 * 2.0 / 3f64.sqrt()).abs() < 1e-5,
            "{high}"
        );
        assert!(tokens.is_clear());
        let words = found.iter().find(|d| d.number == "words").unwrap();
        assert!(!words.is_clear());
        let error = open(&format!("{b}:ppo")).unwrap_err();
        assert!(error.to_string().contains("`ppo`"), "{error}");
        assert!(open("/nowhere").is_err());
    }
}
