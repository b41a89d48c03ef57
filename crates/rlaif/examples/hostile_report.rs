//! Writes pages on texts that try to break out of them: `hostile_report OUT.html` writes a report there
//! and the page of new prompts beside it, as `OUT.synth.html`.

use std::collections::BTreeMap;
use std::path::Path;

use rlaif::blocking::RlaifAgent;
use rlaif::evaluation::{Evaluation, Measured, PolicyFigures};
use rlaif::report::synth::{Prompt, page as page_of_prompts};
use rlaif::report::training::Training;
use rlaif::report::{Page, render};
use rlaif::{Constitution, Error, Message, Outcome, ScriptedModel, open};

const HOSTILE: [&str; 6] = [
    "<script>document.title='PWNED'</script>",
    "</div></article></main><img src=x onerror=\"document.title='PWNED'\">",
    "\"><svg onload=document.title='PWNED'>",
    "</style></script><iframe srcdoc=\"<script>parent.document.title='PWNED'</script>\"></iframe>",
    "plain at first \u{202e}then backwards\u{202c} with an invisible\u{200b} space",
    "<a href=\"javascript:document.title='PWNED'\">a link</a> {{ 1 + 1 }} &amp; done",
];

fn figures_of(policy: &str) -> PolicyFigures {
    PolicyFigures {
        policy: policy.to_owned(),
        completions: HOSTILE.len(),
        failed: 0,
        tokens: None,
        words: None,
        reward: None,
        kl: None,
        kl_to: None,
        numbers: BTreeMap::new(),
    }
}

/// What a policy that tries to break out of the page answers.
fn answers(text: &str) -> Vec<Measured> {
    let answer = |policy: &str| Measured {
        id: text.to_owned(),
        policy: policy.to_owned(),
        prompt: text.into(),
        completion: format!("{policy}: {text}"),
        outcome: Outcome::Decided,
        tokens: Some(9),
        words: 9,
        reward: Some(0.5),
        kl: None,
        numbers: BTreeMap::from([(text.to_owned(), BTreeMap::from([(text.to_owned(), 1.0)]))]),
    };
    vec![answer("base"), answer("ppo")]
}

fn main() -> Result<(), Error> {
    let out = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "hostile.html".into());
    let mut judgments = Vec::new();
    let mut revisions = Vec::new();
    for (i, text) in HOSTILE.iter().enumerate() {
        let judge = ScriptedModel::new(text, move |_| Ok((*text).to_owned())).with_probabilities(
            move |_| {
                let p = 0.15 + 0.12 * i as f64;
                Ok(vec![p, 1.0 - p])
            },
        );
        let writer = move |_: &[Message]| format!("A kinder answer, with {text} in it.");
        let constitution = Constitution::read("default.toml")?;
        let agent = RlaifAgent::new(open(writer)?, open(judge)?, constitution);
        let critique = agent.generate_critique(*text, text)?;
        revisions.push(agent.improve_response(*text, text, &critique)?);
        judgments.push(agent.generate_preference_data(*text, text, "a plain answer")?);
    }
    let summary = rlaif::figures::summary(&judgments, &Default::default())?;
    let training = Training {
        evaluation: Some(Evaluation {
            prompts: HOSTILE.len(),
            policies: ["base", "ppo"].map(figures_of).to_vec(),
            ..Evaluation::default()
        }),
        samples: HOSTILE.iter().flat_map(|t| answers(t)).collect(),
        labels: judgments.len(),
        ..Training::default()
    };
    let page = Page {
        title: "Texts that try to break out",
        judgments: &judgments,
        sample_of: judgments.len(),
        revisions: &revisions,
        summary: &summary,
        training: &training,
    };
    let out = Path::new(&out);
    rlaif_core::run::write_atomic(out, render(&page).as_bytes())?;
    let prompts: Vec<Prompt<'_>> = HOSTILE
        .iter()
        .enumerate()
        .map(|(i, text)| Prompt {
            text,
            topic: Some(HOSTILE[i / 2]),
            difficulty: Some(1 + i as u8 % 5),
            words: 4 + 9 * i,
            nearest: Some(0.2 + 0.1 * i as f32),
        })
        .collect();
    let counts = [
        ("written".to_owned(), 9),
        (HOSTILE[0].to_owned(), 6),
        (HOSTILE[1].to_owned(), 3),
    ];
    let html = page_of_prompts(HOSTILE[0], &prompts, &counts, &[3, 8, 12]);
    rlaif_core::run::write_atomic(&out.with_extension("synth.html"), html.as_bytes())?;
    Ok(())
}
