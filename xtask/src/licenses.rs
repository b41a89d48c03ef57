//! Every dependency comes from the registry, under a license that `deny.toml` allows.

use std::process::Command;

use serde_json::Value;

/// True where each term that must hold is met by an allowed license: `(MIT OR Apache-2.0) AND
/// Unicode-3.0` needs one of the first two, and the third.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    expression
        .replace('/', " OR ")
        .replace(['(', ')'], " ")
        .split(" AND ")
        .all(|term| {
            term.split(" OR ")
                .any(|license| allowed.contains(&license.trim()))
        })
}

/// Checks every package of the lock file, and reports what `deny.toml` bans.
pub fn check() -> Result<(), String> {
    let text = std::fs::read_to_string("deny.toml").map_err(|e| format!("deny.toml: {e}"))?;
    let deny: toml::Table = toml::from_str(&text).map_err(|e| format!("deny.toml: {e}"))?;
    let allowed: Vec<&str> = deny["licenses"]["allow"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .collect();
    let banned: Vec<&str> = deny["bans"]["deny"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("name")?.as_str())
        .collect();
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--all-features",
            "--locked",
        ])
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let mut faults = Vec::new();
    for package in &packages {
        let word = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let (name, license, source) = (word("name"), word("license"), word("source"));
        if banned.contains(&name.as_str()) {
            faults.push(format!("`{name}` is banned"));
        }
        if !is_allowed(&license, &allowed) {
            faults.push(format!(
                "`{name}` has the license `{license}`, which is not allowed"
            ));
        }
        if !source.is_empty() && !source.starts_with("registry+") {
            faults.push(format!(
                "`{name}` comes from `{source}`, which is no registry"
            ));
        }
    }
    println!("{} packages", packages.len());
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn expressions_are_read() {
        let allowed = ["MIT", "Unicode-3.0"];
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "Apache-2.0/MIT",
            "(MIT OR X) AND Unicode-3.0",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "", "MIT AND GPL-3.0", "(X OR Y) AND MIT"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
