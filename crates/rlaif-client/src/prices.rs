//! What models cost: a dated table, and the user's own before it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::config::{ClientError, Price};

const SHIPPED: &str = include_str!("prices.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    as_of: String,
    #[serde(default)]
    prices: Vec<Host>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    host: String,
    /// Dollars a million prompt tokens, and a million generated ones.
    models: BTreeMap<String, [f64; 2]>,
}

/// A price with where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Quote {
    /// The price.
    pub price: Price,
    /// `the table of DATE`, or the user's file.
    pub source: String,
}

/// Prices by host and model.
#[derive(Clone, Debug)]
pub struct Prices {
    tables: Vec<(String, Table)>,
}

impl Prices {
    /// The shipped table.
    ///
    /// # Errors
    /// [`ClientError::Prices`], which no build that passes its tests gives.
    pub fn shipped() -> Result<Self, ClientError> {
        let table = read("the shipped table", SHIPPED)?;
        Ok(Prices {
            tables: vec![(format!("the table of {}", table.as_of), table)],
        })
    }

    /// Puts a user's file before all others.
    ///
    /// # Errors
    /// [`ClientError::Prices`] with the file and what is wrong.
    pub fn with_file(mut self, path: &Path) -> Result<Self, ClientError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ClientError::Prices {
            file: name.clone(),
            problem: e.to_string(),
        })?;
        self.tables.insert(0, (name.clone(), read(&name, &text)?));
        Ok(self)
    }

    /// The price of a model behind a URL. A dated snapshot (`gpt-4o-2024-08-06`) has its model's
    /// price.
    #[must_use]
    pub fn quote(&self, url: &str, model: &str) -> Option<Quote> {
        let host = reqwest::Url::parse(url).ok()?.host_str()?.to_owned();
        for (source, table) in &self.tables {
            for entry in table.prices.iter().filter(|p| p.host == host) {
                let found = entry.models.get(model).or_else(|| {
                    entry
                        .models
                        .iter()
                        .filter(|(name, _)| is_snapshot(model, name))
                        // `opus-5-5-20261001` is a snapshot of `opus-5-5`, not of `opus-5`.
                        .max_by_key(|(name, _)| name.len())
                        .map(|(_, price)| price)
                });
                if let Some([prompt, completion]) = found {
                    return Some(Quote {
                        price: Price {
                            prompt_usd_per_mtok: *prompt,
                            completion_usd_per_mtok: *completion,
                        },
                        source: source.clone(),
                    });
                }
            }
        }
        None
    }
}

/// True for `NAME-DATE`, the date in digits and dashes.
fn is_snapshot(model: &str, name: &str) -> bool {
    model
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|date| date.len() >= 8 && date.chars().all(|c| c.is_ascii_digit() || c == '-'))
}

fn read(name: &str, text: &str) -> Result<Table, ClientError> {
    let fault = |problem: String| ClientError::Prices {
        file: name.to_owned(),
        problem,
    };
    let table: Table = toml::from_str(text).map_err(|e| fault(e.to_string()))?;
    for host in &table.prices {
        for (model, price) in &host.models {
            if !price.iter().all(|p| p.is_finite() && *p >= 0.0) {
                return Err(fault(format!(
                    "the price of `{model}` must be two numbers of at least 0, got `{price:?}`"
                )));
            }
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_found_by_host_and_model_and_the_users_file_goes_first() {
        let prices = Prices::shipped().unwrap();
        let url = "https://api.openai.com/v1";
        let quote = prices.quote(url, "gpt-4o-mini-2024-07-18").unwrap();
        // 0.15 dollars a million, 0.6 generated: 2 M and 1 M tokens cost 0.9.
        assert!((quote.price.usd(2_000_000, 1_000_000) - 0.9).abs() < 1e-12);
        assert!(quote.source.contains("the table of 20"), "{quote:?}");
        assert!(prices.quote(url, "gpt-4o-minimal").is_none());
        assert!(prices.quote("http://localhost:8000/v1", "gpt-4o").is_none());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        let mine = "[[prices]]\nhost = \"localhost\"\nmodels = { \"gpt-4o\" = [1.0, 2.0] }\n";
        std::fs::write(&file, mine).unwrap();
        let prices = prices.with_file(&file).unwrap();
        let quote = prices.quote("http://localhost:8000/v1", "gpt-4o").unwrap();
        assert_eq!(quote.price.completion_usd_per_mtok, 2.0);
        let versions =
            "[[prices]]\nhost = \"localhost\"\nmodels = { \"m-5\" = [1, 1], \"m-5-5\" = [2, 2] }\n";
        std::fs::write(&file, versions).unwrap();
        let newer = Prices::shipped().unwrap().with_file(&file).unwrap();
        let quote = newer
            .quote("http://localhost/v1", "m-5-5-20261001")
            .unwrap();
        assert_eq!(quote.price.prompt_usd_per_mtok, 2.0);
        std::fs::write(&file, mine.replace("2.0", "-2.0")).unwrap();
        let error = Prices::shipped().unwrap().with_file(&file).unwrap_err();
        assert!(error.to_string().contains("`gpt-4o`"), "{error}");
    }
}
