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
pub fn contrast(first: &Side, second: &Side) -> Result<Vec<Difference>, Error> {
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
