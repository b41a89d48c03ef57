//! Faults by kind and share, drawn from a seed and the number of the request.

use std::str::FromStr;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429 at once.
    Busy,
    /// 429 at once, with `Retry-After: 1`.
    BusyWithWord,
    /// 500 at once.
    Error500,
    /// 200 with something that is no JSON.
    Garbage,
    /// 200 with the first half of the answer.
    Half,
    /// Silence for ever.
    Silence,
    /// The connection is closed instead of an answer.
    Closed,
    /// Log-probabilities of another text.
    WrongLength,
    /// 200 with an error in the answer's place.
    ErrorBody,
}

impl Fault {
    /// All kinds, with their names on the command line.
    pub const ALL: [(Fault, &'static str); 9] = [
        (Fault::Busy, "busy"),
        (Fault::BusyWithWord, "busy-with-word"),
        (Fault::Error500, "error-500"),
        (Fault::Garbage, "garbage"),
        (Fault::Half, "half"),
        (Fault::Silence, "silence"),
        (Fault::Closed, "closed"),
        (Fault::WrongLength, "wrong-length"),
        (Fault::ErrorBody, "error-body"),
    ];
}

/// Shares of requests, by kind; they add up to at most 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults(Vec<(Fault, f64)>);

impl Faults {
    /// One kind alone.
    #[must_use]
    pub fn one(fault: Fault, share: f64) -> Self {
        Faults(vec![(fault, share)])
    }

    /// All kinds, each with this share.
    #[must_use]
    pub fn all(share: f64) -> Self {
        Faults(
            Fault::ALL
                .iter()
                .map(|(fault, _)| (*fault, share))
                .collect(),
        )
    }

    /// What happens to the request of this number.
    #[must_use]
    pub fn draw(&self, seed: u64, number: u64) -> Option<Fault> {
        let mut at = (mix(seed ^ mix(number)) >> 11) as f64 / (1u64 << 53) as f64;
        for (fault, share) in &self.0 {
            if at < *share {
                return Some(*fault);
            }
            at -= share;
        }
        None
    }
}

impl FromStr for Faults {
    type Err = String;

    /// Reads `busy=0.1,half=0.02` or `all=0.02`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Faults::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (name, share) = part
                .split_once('=')
                .ok_or_else(|| format!("expected KIND=SHARE, got `{part}`"))?;
            let share: f64 = share
                .parse()
                .map_err(|_| format!("expected a share in [0, 1], got `{share}`"))?;
            if name == "all" {
                faults.0.extend(Faults::all(share).0);
                continue;
            }
            let known = Fault::ALL.iter().find(|(_, n)| *n == name);
            let (fault, _) = known.ok_or_else(|| format!("`{name}` is no kind of fault"))?;
            faults.0.push((*fault, share));
        }
        let sum: f64 = faults.0.iter().map(|(_, s)| s).sum();
        if (0.0..=1.0).contains(&sum) {
            Ok(faults)
        } else {
            Err(format!("shares must add up to at most 1, got `{sum}`"))
        }
    }
}

/// SplitMix64's finalizer.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept() {
        let faults: Faults = "busy=0.1,half=0.02".parse().unwrap();
        let drawn: Vec<_> = (0..20_000).filter_map(|n| faults.draw(3, n)).collect();
        let busy = drawn.iter().filter(|f| **f == Fault::Busy).count();
        // Binomial: 2,000 ± 42 and 400 ± 20; five deviations.
        assert!((1788..=2212).contains(&busy), "{busy}");
        assert!(
            (300..=500).contains(&(drawn.len() - busy)),
            "{}",
            drawn.len()
        );
        assert!("all=0.2".parse::<Faults>().is_err());
        assert!("bsy=0.2".parse::<Faults>().unwrap_err().contains("`bsy`"));
    }
}
