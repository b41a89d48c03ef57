//! The losses against TRL's formulae in PyTorch (`tests/golden/train/make.py`), and the loop on a
//! network small enough to write down.

#![allow(clippy::needless_range_loop)] // several lists, one index

use serde_json::Value;

use crate::ppo::{Experience, PpoConfig, gae, leave_one_out, ppo_loss, whiten};
use crate::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

fn list(v: &Value) -> Vec<f32> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

fn lists(v: &Value) -> Vec<Vec<f32>> {
    v.as_array().unwrap().iter().map(list).collect()
}

fn near(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() < 2e-5 * (1.0 + y.abs()), "{what}: {x} {y}");
    }
}

fn row(n: usize) -> Row {
    Row::completion(vec![1; n], 1)
}

#[test]
fn reward_loss_is_trls_on_soft_labels() {
    let g = &golden()["reward"];
    let (rc, rr, p, m) = (
        list(&g["rc"]),
        list(&g["rr"]),
        list(&g["p"]),
        list(&g["margin"]),
    );
    let pairs: Vec<_> = p
        .iter()
        .zip(&m)
        .map(|(p, m)| reward::Pair {
            chosen: row(3),
            rejected: row(2),
            p: *p,
            margin: *m,
        })
        .collect();
    let examples: Vec<_> = pairs.iter().collect();
    let objective = reward::BradleyTerry {
        center_rewards_coefficient: 0.01,
    };
    let batch = TokenBatch::pack(pairs.iter().flat_map(|e| objective.rows(e)));
    let mut values = vec![9.0; batch.tokens.len()];
    let last = |r: usize| batch.row(r).end - 1;
    for i in 0..5 {
        values[last(2 * i)] = rc[i];
        values[last(2 * i + 1)] = rr[i];
    }
    let out = TokenOutputs {
        values,
        ..TokenOutputs::default()
    };
    let loss = objective.loss(&examples, &batch, &out, 5.0);
    near(&[loss.value], &[g["loss"].as_f64().unwrap() as f32], "loss");
    let grad = |side: usize| {
        (0..5)
            .map(|i| loss.grads.values[last(2 * i + side)])
            .collect::<Vec<_>>()
    };
    near(&grad(0), &list(&g["drc"]), "chosen");
    near(&grad(1), &list(&g["drr"]), "rejected");
    // Only last tokens have a gradient, and the label ½ is not counted.
    assert_eq!(loss.grads.values.iter().filter(|g| **g != 0.0).count(), 10);
    assert_eq!(loss.metrics.decided, 4.0);
}

#[test]
fn dpo_losses_are_trls() {
    for g in golden()["dpo"].as_array().unwrap() {
        let kind: dpo::LossType = serde_json::from_value(g["kind"].clone()).unwrap();
        let objective = dpo::Dpo {
            beta: g["beta"].as_f64().unwrap() as f32,
            loss_type: kind,
        };
        let [pc, pr, fc, fr] = ["pc", "pr", "fc", "fr"].map(|k| list(&g[k]));
        let p = g["p"].as_f64().unwrap() as f32;
        let pairs: Vec<_> = (0..4)
            .map(|i| dpo::Pair {
                chosen: row(4),
                rejected: row(3),
                p,
                reference: (fc[i], fr[i]),
            })
            .collect();
        let examples: Vec<_> = pairs.iter().collect();
        let batch = TokenBatch::pack(pairs.iter().flat_map(|e| objective.rows(e)));
        let mut logprobs = vec![0.0; batch.tokens.len()];
        for i in 0..4 {
            // A sum spread unevenly over the completion's tokens; the prompt's token is not in it.
            let (a, b) = (batch.row(2 * i).start, batch.row(2 * i + 1).start);
            logprobs[a] = 50.0;
            logprobs[a + 1] = pc[i] - 1.0;
            logprobs[a + 3] = 1.0;
            logprobs[b + 1] = pr[i] + 2.0;
            logprobs[b + 2] = -2.0;
        }
        let out = TokenOutputs {
            logprobs,
            ..TokenOutputs::default()
        };
        let loss = objective.loss(&examples, &batch, &out, 4.0);
        near(&[loss.value], &[g["loss"].as_f64().unwrap() as f32], "loss");
        for i in 0..4 {
            let (a, b) = (batch.row(2 * i), batch.row(2 * i + 1));
            near(
                &loss.grads.logprobs[a.start + 1..a.end],
                &[list(&g["dpc"])[i]; 3],
                "chosen",
            );
            near(
                &loss.grads.logprobs[b.start + 1..b.end],
                &[list(&g["dpr"])[i]; 2],
                "rejected",
            );
            assert_eq!(loss.grads.logprobs[a.start], 0.0);
        }
    }
}

#[test]
fn ppo_rewards_advantages_and_losses_are_trls() {
    let g = &golden()["ppo"];
    let f = |k: &str| g[k].as_f64().unwrap() as f32;
    let (old, reference, values) = (
        lists(&g["old"]),
        lists(&g["reference"]),
        lists(&g["values"]),
    );
    let scores = list(&g["scores"]);
    let mut rewards: Vec<Vec<f32>> = old
        .iter()
        .zip(&reference)
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| -f("beta") * (a - b)).collect())
        .collect();
    for (r, s) in rewards.iter_mut().zip(&scores) {
        *r.last_mut().unwrap() += s;
    }
    whiten(&mut rewards, false);
    let (mut advantages, mut returns) = (Vec::new(), Vec::new());
    for (r, v) in rewards.iter().zip(&values) {
        let (a, ret) = gae(r, v, f("gamma"), f("lam"));
        advantages.push(a);
        returns.push(ret);
    }
    whiten(&mut advantages, true);
    for b in 0..2 {
        near(&rewards[b], &lists(&g["white"])[b], "rewards");
        near(&returns[b], &lists(&g["returns"])[b], "returns");
        near(&advantages[b], &lists(&g["advantages"])[b], "advantages");
    }
    let experience: Vec<Experience> = (0..2)
        .map(|b| Experience {
            row: Row::completion(vec![1; 2 + old[b].len()], 2),
            prompt: 2,
            logprobs: old[b].clone(),
            values: values[b].clone(),
            advantages: advantages[b].clone(),
            returns: returns[b].clone(),
        })
        .collect();
    let views: Vec<_> = experience.iter().collect();
    let batch = TokenBatch::pack(experience.iter().map(|e| &e.row));
    let n = batch.tokens.len();
    let mut out = TokenOutputs {
        logprobs: vec![0.0; n],
        entropy: vec![1.0; n],
        values: vec![0.0; n],
    };
    let start = |b: usize| batch.row(b).start + 2;
    for b in 0..2 {
        for (t, (lp, v)) in lists(&g["new"])[b]
            .iter()
            .zip(&lists(&g["new_values"])[b])
            .enumerate()
        {
            out.logprobs[start(b) + t] = *lp;
            out.values[start(b) + t - 1] = *v;
        }
    }
    let config = PpoConfig {
        vf_coef: 0.1,
        ..PpoConfig::default()
    };
    let loss = ppo_loss(&views, &batch, &out, &config, 10.0);
    near(&[loss.value], &[f("loss")], "loss");
    for b in 0..2 {
        let len = old[b].len();
        near(
            &loss.grads.logprobs[start(b)..start(b) + len],
            &lists(&g["dnew"])[b],
            "policy",
        );
        near(
            &loss.grads.values[start(b) - 1..start(b) - 1 + len],
            &lists(&g["dvalues"])[b],
            "value",
        );
    }
    assert!(loss.metrics.clipped > 0.0 && loss.metrics.value_clipped > 0.0);
}

#[test]
fn advantages_against_the_other_completions_are_trls() {
    let g = &golden()["leave_one_out"];
    let rewards = lists(&g["rewards"]);
    let groups: Vec<usize> = list(&g["groups"]).iter().map(|x| *x as usize).collect();
    let advantages = leave_one_out(&rewards, &groups);
    let first: Vec<f32> = advantages.iter().map(|a| a[0]).collect();
    near(&first, &list(&g["whole"]), "whole completions");
    for (a, r) in advantages.iter().zip(&rewards) {
        for t in 1..a.len() {
            near(
                &[a[t]],
                &[a[t - 1] - r[t - 1]],
                "what is rewarded from here on",
            );
        }
    }
    // Prompts may come in any order, and one completion alone says nothing.
    let mixed = leave_one_out(
        &[vec![1.0], vec![5.0, 2.0], vec![0.0], vec![0.0], vec![1.0]],
        &[7, 2, 7, 7, 7],
    );
    near(
        &mixed.concat(),
        &[2.0 / 3.0, 0.0, 0.0, -2.0 / 3.0, -2.0 / 3.0, 2.0 / 3.0],
        "mixed",
    );
}

/// p(token) = softmax of a table, whatever came before: small enough to differentiate by hand.
#[derive(Clone)]
struct Table {
    logits: Vec<f32>,
    base: Vec<f32>,
    kept: Vec<f32>,
    grad: Vec<f32>,
}

impl Table {
    fn new() -> Self {
        let logits = vec![0.0, 0.5, -0.5, 0.2];
        Table {
            base: logits.clone(),
            kept: logits.clone(),
            grad: vec![0.0; 4],
            logits,
        }
    }

    fn probabilities(logits: &[f32]) -> Vec<f32> {
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        logits.iter().map(|l| l.exp() / sum).collect()
    }

    fn run(logits: &[f32], batch: &TokenBatch) -> TokenOutputs {
        let p = Self::probabilities(logits);
        TokenOutputs {
            logprobs: batch.tokens.iter().map(|t| p[*t as usize].ln()).collect(),
            entropy: Vec::new(),
            values: vec![0.0; batch.tokens.len()],
        }
    }
}

impl Trainable for Table {
    type Tape = TokenBatch;
    type Error = std::fmt::Error;

    fn forward(&mut self, b: &TokenBatch) -> Result<(TokenOutputs, TokenBatch), Self::Error> {
        Ok((Self::run(&self.logits, b), b.clone()))
    }

    fn evaluate(&self, b: &TokenBatch) -> Result<TokenOutputs, Self::Error> {
        Ok(Self::run(&self.logits, b))
    }

    fn reference(&self, b: &TokenBatch) -> Result<TokenOutputs, Self::Error> {
        Ok(Self::run(&self.base, b))
    }

    fn backward(&mut self, b: TokenBatch, g: &TokenGrads) -> Result<(), Self::Error> {
        let p = Self::probabilities(&self.logits);
        for (t, g) in b.tokens.iter().zip(&g.logprobs) {
            for (i, p) in p.iter().enumerate() {
                self.grad[i] += g * (f32::from(u8::from(i == *t as usize)) - p);
            }
        }
        Ok(())
    }

    fn step(&mut self, lr: f32) -> Result<f32, Self::Error> {
        let norm = self.grad.iter().map(|g| g * g).sum::<f32>().sqrt();
        for (l, g) in self.logits.iter_mut().zip(&mut self.grad) {
            *l -= lr * *g;
            *g = 0.0;
        }
        Ok(norm)
    }
}

impl ppo::Rollouts for Table {
    fn keep(&mut self) {
        self.kept.clone_from(&self.logits);
    }

    fn go_back(&mut self) {
        self.logits.clone_from(&self.kept);
    }

    fn generate(
        &mut self,
        prompts: &[&[u32]],
        _: f32,
        max: usize,
        seed: u64,
    ) -> Result<Vec<ppo::Rollout>, Self::Error> {
        let p = Self::probabilities(&self.logits);
        Ok((0..prompts.len())
            .map(|i| {
                let mut tokens = Vec::new();
                while tokens.len() < max && tokens.last() != Some(&0) {
                    let parts = [i.to_string(), tokens.len().to_string()];
                    let mut u = rlaif_core::seed::unit(rlaif_core::seed::derive(
                        seed,
                        &[&parts[0], &parts[1]],
                    )) as f32;
                    let id = p
                        .iter()
                        .position(|p| {
                            u -= p;
                            u < 0.0
                        })
                        .unwrap_or(3);
                    tokens.push(id as u32);
                }
                ppo::Rollout {
                    finished: tokens.last() == Some(&0),
                    tokens,
                }
            })
            .collect())
    }
}

#[test]
fn fit_lowers_the_loss_and_a_stop_changes_nothing() {
    let rows: Vec<Row> = (0..10)
        .map(|i| Row::completion((0..3 + i % 4).map(|t| ((i + t) % 3) as u32).collect(), 1))
        .collect();
    let config = FitConfig {
        learning_rate: 0.5,
        batch_size: 3,
        num_train_epochs: 4.0,
        max_tokens: 7,
        ..FitConfig::default()
    };
    let mut losses = Vec::new();
    let mut whole = Table::new();
    fit(
        &mut whole,
        &sft::Sft,
        &rows,
        &rows[..2],
        &config,
        &mut State::default(),
        |_, _, m| {
            losses.push(m.loss);
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(losses.len(), 16);
    assert!(losses[15] < losses[0]);
    let (mut parts, mut state) = (Table::new(), State::default());
    let e = fit(
        &mut parts,
        &sft::Sft,
        &rows,
        &rows[..2],
        &config,
        &mut state,
        |_, s, _| {
            if s.step == 6 {
                Err("stop".into())
            } else {
                Ok(())
            }
        },
    );
    assert!(matches!(e, Err(TrainError::Stopped(_))));
    fit(
        &mut parts,
        &sft::Sft,
        &rows,
        &rows[..2],
        &config,
        &mut state,
        |_, _, _| Ok(()),
    )
    .unwrap();
    assert_eq!(parts.logits, whole.logits);
    // Micro-batches do not change the mean over unequal rows.
    let mut one = Table::new();
    let big = FitConfig {
        max_tokens: 10_000,
        ..config
    };
    fit(
        &mut one,
        &sft::Sft,
        &rows,
        &[],
        &big,
        &mut State::default(),
        |_, _, _| Ok(()),
    )
    .unwrap();
    near(&one.logits, &whole.logits, "accumulation");
}

#[test]
fn ppo_learns_what_is_rewarded_and_stops_at_its_budget() {
    let prompts = vec![vec![1u32, 2]; 4];
    let config = PpoConfig {
        learning_rate: 0.3,
        total_episodes: 640,
        batch_size: 32,
        response_length: 8,
        kl_coef: 0.01,
        temperature: 1.0,
        ..PpoConfig::default()
    };
    // Rewarded: token 3.
    let score = |_: &[usize], r: &[ppo::Rollout]| -> Result<ppo::Scores, String> {
        Ok(r.iter()
            .map(|r| Ok(r.tokens.iter().filter(|t| **t == 3).count() as f32))
            .collect())
    };
    let run = |config: &PpoConfig| {
        let mut model = Table::new();
        let (mut log, mut seen) = (Vec::new(), Vec::new());
        ppo::ppo(
            &mut model,
            &prompts,
            config,
            &mut ppo::PpoState::default(),
            score,
            |model, _, m| {
                log.push(m.clone());
                seen.push(model.logits.clone());
                Ok(())
            },
        )
        .unwrap();
        (model, log, seen)
    };
    let (model, log, _) = run(&config);
    assert_eq!(log.len(), 20);
    assert!(
        log[19].score > log[0].score + 1.0,
        "{} {}",
        log[0].score,
        log[19].score
    );
    assert!(Table::probabilities(&model.logits)[3] > 0.5);
    assert!(log[0].kl.abs() < 1e-6 && log[19].kl > 0.5);
    let (model, short, seen) = run(&PpoConfig {
        kl_budget: Some(0.5),
        ..config.clone()
    });
    let over = short.last().unwrap();
    assert!(short.len() < 20 && over.stopped_by_kl && over.kl > 0.5 && !over.updated);
    let before = &short[short.len() - 2];
    assert!(before.kl <= 0.5 && before.updated);
    // An iteration measures the policy that the one before it left: the last within the budget
    // was measured by the last but one.
    assert_eq!(model.logits, seen[short.len() - 3]);
    // Of all iterations, the best; the last update is measured by one more. Here the reward
    // worsens from the eighth iteration on, whatever the policy does.
    let (mut model, mut calls) = (Table::new(), 0u32);
    let (mut best, mut seen) = (Vec::new(), Vec::new());
    let falling = |_: &[usize], r: &[ppo::Rollout]| -> Result<ppo::Scores, String> {
        calls += 1;
        Ok(r.iter()
            .map(|_| Ok(-(f64::from(calls) - 8.0).abs() as f32))
            .collect())
    };
    let config_best = PpoConfig {
        keep: ppo::Keep::Best,
        ..config.clone()
    };
    let mut state = ppo::PpoState::default();
    ppo::ppo(
        &mut model,
        &prompts,
        &config_best,
        &mut state,
        falling,
        |model, _, m| {
            best.push(m.clone());
            seen.push(model.logits.clone());
            Ok(())
        },
    )
    .unwrap();
    assert!(best.len() == 21 && !best[20].updated && best[19].updated);
    assert_eq!(state.kept.unwrap().iteration, 8);
    assert_eq!(model.logits, seen[6]);
    assert_ne!(model.logits, seen[20]);
    // Four completions a prompt, each against the other three.
    let (grouped, last, _) = run(&PpoConfig {
        num_generations: 4,
        ..config.clone()
    });
    assert!(Table::probabilities(&grouped.logits)[3] > 0.5, "{last:?}");
    let uneven = PpoConfig {
        num_generations: 5,
        ..config.clone()
    };
    let e = ppo::ppo(
        &mut Table::new(),
        &prompts,
        &uneven,
        &mut ppo::PpoState::default(),
        score,
        |_, _, _| Ok(()),
    );
    assert!(e.unwrap_err().to_string().contains("no multiple of"));
    let (_, strong, _) = run(&PpoConfig {
        kl_coef: 5.0,
        ..config.clone()
    });
    assert!(strong[19].kl < log[19].kl / 4.0);
    // Failed scores are left out, and too many stop the run.
    let failing = |_: &[usize], r: &[ppo::Rollout]| -> Result<ppo::Scores, String> {
        Ok((0..r.len())
            .map(|i| {
                if i < 2 {
                    Err("timeout".to_string())
                } else {
                    Ok(1.0)
                }
            })
            .collect())
    };
    let e = ppo::ppo(
        &mut Table::new(),
        &prompts,
        &config,
        &mut ppo::PpoState::default(),
        failing,
        |_, _, _| Ok(()),
    );
    assert!(
        e.unwrap_err()
            .to_string()
            .contains("2 of 32 completions got no score")
    );
}
