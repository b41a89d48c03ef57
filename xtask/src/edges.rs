//! Which crate may use which: the walls of the house, enforced.

use std::process::Command;

use serde_json::Value;

/// What a crate must not use, beside the crates of this workspace that it is not given.
struct Wall {
    name: &'static str,
    /// Crates of this workspace that it may use.
    may: &'static [&'static str],
    /// Crates from elsewhere that it must not use.
    must_not: &'static [&'static str],
    because: &'static str,
}

const WALLS: [Wall; 10] = [
    Wall {
        name: "rlaif-core",
        may: &[],
        must_not: &[
            "tokio",
            "reqwest",
            "hyper",
            "candle-core",
            "rand",
            "chrono",
            "indicatif",
        ],
        because: "core is vocabulary: no sockets, no tensors, no clocks, no global random state",
    },
    Wall {
        name: "rlaif-client",
        may: &["rlaif-core"],
        must_not: &["candle-core", "clap", "indicatif"],
        because: "the client is models behind a socket: no tensors, and it shows nothing",
    },
    Wall {
        name: "rlaif-feedback",
        may: &["rlaif-core"],
        must_not: &["tokio", "reqwest", "candle-core", "rand"],
        because: "feedback is text in, records out: it knows no endpoint and no tensor",
    },
    Wall {
        name: "rlaif-eval",
        may: &["rlaif-core"],
        must_not: &["tokio", "reqwest", "candle-core", "rand", "futures"],
        because: "statistics are pure: they ask no model",
    },
    Wall {
        name: "rlaif-engine",
        may: &["rlaif-core"],
        must_not: &["tokio", "reqwest", "hyper", "clap", "indicatif"],
        because: "the engine is models in memory: no sockets, and it shows nothing",
    },
    Wall {
        name: "rlaif-train",
        may: &["rlaif-core"],
        must_not: &["tokio", "reqwest", "candle-core", "minijinja", "rand"],
        because: "training is numbers in, gradients out: no tensors, no wording, no sockets",
    },
    Wall {
        name: "rlaif-world",
        may: &["rlaif-core"],
        must_not: &["tokio", "reqwest", "candle-core", "rand"],
        because: "the world knows the truth: whoever learns must not be able to ask it",
    },
    Wall {
        name: "rlaif-standin",
        may: &[],
        must_not: &["reqwest", "candle-core"],
        because: "the stand-in is a server for tests and benchmarks: it shares no code with the \
                  client that it tests",
    },
    Wall {
        name: "rlaif",
        may: &[
            "rlaif-core",
            "rlaif-client",
            "rlaif-feedback",
            "rlaif-eval",
            "rlaif-engine",
            "rlaif-train",
            "rlaif-world",
        ],
        must_not: &[],
        because: "the façade wires the rooms together",
    },
    Wall {
        name: "xtask",
        may: &[
            "rlaif-core",
            "rlaif-engine",
            "rlaif-feedback",
            "rlaif-world",
        ],
        must_not: &[],
        because: "checks, and the making of the world, stand outside the house",
    },
];

/// Faults of one crate's dependencies; tests may use more, since they ship nothing.
fn faults(name: &str, dependencies: &[&str]) -> Vec<String> {
    let Some(wall) = WALLS.iter().find(|w| w.name == name) else {
        return vec![format!(
            "`{name}` has no entry in the table of walls (xtask/src/edges.rs)"
        )];
    };
    let is_ours = |d: &str| d == "rlaif" || d.starts_with("rlaif-");
    dependencies
        .iter()
        .filter(|d| (is_ours(d) && !wall.may.contains(d)) || wall.must_not.contains(d))
        .map(|d| format!("`{name}` uses `{d}`, but {}", wall.because))
        .collect()
}

/// Checks every crate of the workspace.
pub fn check() -> Result<(), String> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("cargo metadata cannot be read: {e}"))?;
    let list = |v: &Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    let packages = list(&metadata, "packages");
    for package in &packages {
        let dependencies = list(package, "dependencies");
        let names: Vec<&str> = dependencies
            .iter()
            .filter(|d| d["kind"].is_null())
            .filter_map(|d| d["name"].as_str())
            .collect();
        all.extend(faults(package["name"].as_str().unwrap_or_default(), &names));
    }
    if packages.is_empty() {
        all.push("cargo metadata names no package".to_owned());
    }
    if all.is_empty() {
        Ok(())
    } else {
        Err(all.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_edge_is_found() {
        assert!(faults("rlaif-eval", &["rlaif-core", "serde"]).is_empty());
        let found = faults("rlaif-eval", &["rlaif-client"]);
        assert!(
            found[0].contains("`rlaif-eval` uses `rlaif-client`"),
            "{found:?}"
        );
        assert!(!faults("rlaif-core", &["tokio"]).is_empty());
        assert!(!faults("rlaif-feedback", &["rlaif"]).is_empty());
        assert!(!faults("rlaif-new", &[]).is_empty());
    }
}
