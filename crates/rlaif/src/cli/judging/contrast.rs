//! `rlaif contrast`: pairs that are labeled by how they were made.

use std::sync::Arc;

use clap::Args;
use rlaif::error::Error;
use rlaif::stages::contrast as contrasts;
use rlaif::{Judgment, Outcome};
use rlaif_core::Sampling;
use rlaif_core::dataset::Row;
use rlaif_core::export::line_of;
use rlaif_feedback::{Contrast, ContrastConfig};
use serde_json::{Map, json};

use crate::cli::args::{EndpointArgs, FilesArgs, Global};
use crate::cli::desk::{Desk, Work};
use crate::cli::loose::{judged_line, not_run};

#[derive(Args)]
pub struct ContrastArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    /// The policy that answers: `http://host:port/v1#NAME`, or a model's folder.
    #[arg(long, value_name = "MODEL")]
    pub policy: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Added to the prompt for the better answer; `{principle}` is the row's principle.
    #[arg(long, value_name = "TEXT", default_value = ContrastConfig::POSITIVE)]
    pub positive: String,
    /// Added to the prompt for the worse answer.
    #[arg(long, value_name = "TEXT", default_value = ContrastConfig::NEGATIVE)]
    pub negative: String,
    /// Temperature of the policy.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f32,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_new_tokens: u32,
}

/// `rlaif contrast`: pairs that are labeled by how they were made.
pub async fn contrast(args: &ContrastArgs, global: &Global) -> Result<u8, Error> {
    let config = ContrastConfig {
        positive: args.positive.clone(),
        negative: args.negative.clone(),
        sampling: Sampling {
            temperature: args.temperature,
            max_new_tokens: args.max_new_tokens,
            ..Sampling::default()
        },
        ..ContrastConfig::default()
    };
    if let Some((key, problem)) = config.faults().first() {
        return Err(Error::input(format!("`--{key}` {problem}"), "see `--help`"));
    }
    let mut desk = Desk::open(&args.files, "contrast", &args.endpoint.run, global)?;
    let by = Contrast {
        model: desk.model("policy", &args.policy, &args.endpoint)?,
        constitution: desk.constitution.clone(),
        config,
        seed: desk.seed,
    };
    let settings = contrasts::settings(&by);
    let by = &by;
    let (tally, gate) = desk
        .work(
            Work {
                verb: "contrast",
                files: &args.files,
                endpoint: &args.endpoint,
                wanted: "a prompt",
            },
            || desk.input.rows(),
            |row: &Arc<Row>| contrasts::key(&settings, row),
            |row: Arc<Row>| async move { rlaif_feedback::contrast(by, &row.id, &row.prompt).await },
            |row, pair: Option<Judgment>| match pair {
                Some(pair) => judged_line(row, &pair),
                None => line_of(&not_run(row, json!({"rlaif_id": row.id}))),
            },
            [],
        )
        .await?;
    let words = format!(
        "{} of {} prompts answered twice, labeled by construction",
        tally.count(Outcome::Decided),
        tally.rows
    );
    desk.end(global, &args.files.out, &tally, gate, Map::new(), &words)
}
