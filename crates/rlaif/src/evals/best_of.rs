//! A judge on prompts with several answers, some of them correct (RewardBench 2).

use rlaif_core::Cost;
use rlaif_eval::RewardBench2;
use rlaif_eval::rewardbench2::SUBSETS;
use serde::Serialize;

/// What scores cost. `null` where it is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ScoreCost {
    /// Answers scored.
    pub scores: u64,
    /// Calls.
    pub calls: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
    /// US dollars.
    pub usd: Option<f64>,
    /// Seconds of the run a prompt, for those that were asked now.
    pub secs: Option<f64>,
}

impl ScoreCost {
    /// Adds what one prompt's answers cost.
    pub fn add(&mut self, cost: Cost, answers: usize) {
        // Dollars are known where they are known of every prompt.
        self.usd = match self.scores {
            0 => cost.usd,
            _ => self.usd.zip(cost.usd).map(|(a, b)| a + b),
        };
        self.scores += answers as u64;
        self.calls += u64::from(cost.calls);
        self.prompt_tokens += cost.prompt_tokens;
        self.completion_tokens += cost.completion_tokens;
    }
}

/// One judge, measured.
#[derive(Clone, Debug, Serialize)]
pub struct BestOfReport {
    /// The judge's name.
    pub judge: String,
    /// Where the prompts come from: a file.
    pub source: String,
    /// Prompts.
    pub rows: u64,
    /// Prompts without an answer of the judge; with one of these there is no score.
    pub open: u64,
    /// The benchmark's scores.
    pub rewardbench2: Option<RewardBench2>,
    /// What that cost.
    pub cost: ScoreCost,
}

impl BestOfReport {
    /// The figures in words.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut text = format!("{} on {}", self.judge, self.source);
        let Some(bench) = &self.rewardbench2 else {
            return format!(
                "{text}\n  no score: {} of {} prompts have no answer of the judge",
                self.open, self.rows
            );
        };
        for (subset, score) in &bench.subsets {
            let n = bench.rows.get(subset).copied().unwrap_or_default();
            text.push_str(&format!(
                "\n  RewardBench 2 {subset}: {:.1} of {n}",
                100.0 * score
            ));
            if let Some(unread) = bench.unread.get(subset) {
                text.push_str(&format!(", {unread} with a score that cannot be read"));
            }
        }
        match bench.score {
            Some(score) => text.push_str(&format!("\n  mean of the six: {:.1}", 100.0 * score)),
            None => {
                let there = SUBSETS.iter().filter(|s| bench.subsets.contains_key(**s));
                let there = there.count();
                text.push_str(&format!("\n  {there} of the six subsets: no mean"));
            }
        }
        text
    }
}
