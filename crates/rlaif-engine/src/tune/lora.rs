//! LoRA adapters (Hu et al. 2021) in PEFT's layout.

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::json;

use super::optim::Tensor;
use crate::config::LlamaConfig;
use crate::error::EngineError;
use crate::weights::{
    Matrix, PROJECTIONS, Weights, module, projection_shape, replace, write_tensors,
};

/// What to adapt, under PEFT's names.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The update is scaled by `lora_alpha / r`.
    pub lora_alpha: f32,
    /// Projections that get an adapter.
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    /// Rank 16, alpha 32, all seven projections.
    fn default() -> Self {
        LoraConfig {
            r: 16,
            lora_alpha: 32.0,
            target_modules: PROJECTIONS.map(str::to_string).to_vec(),
        }
    }
}

/// ΔW = scale · B A.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// r × in.
    pub a: Matrix,
    /// out × r.
    pub b: Matrix,
}

impl Pair {
    pub(super) fn rank(&self) -> usize {
        self.a.rows
    }
}

/// An adapter beside frozen weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rank, alpha and targets.
    pub config: LoraConfig,
    /// Pairs by block and projection.
    pub blocks: Vec<[Option<Pair>; 7]>,
    /// The scalar head, which trains in full (`modules_to_save`).
    pub score: Option<Matrix>,
}

impl Adapter {
    /// A new adapter: A uniform as PyTorch's linear layers, B zero, so that it changes nothing yet.
    ///
    /// # Errors
    /// A target that is no projection of this family, or rank 0.
    pub fn new(
        c: &LlamaConfig,
        weights: &Weights,
        config: LoraConfig,
        seed: u64,
    ) -> Result<Self, EngineError> {
        check(&config)?;
        let blocks = (0..c.layers)
            .map(|layer| {
                std::array::from_fn(|i| {
                    config
                        .target_modules
                        .iter()
                        .any(|t| t == PROJECTIONS[i])
                        .then(|| {
                            let (out, inputs) = projection_shape(c, i);
                            let parts = ["lora", &layer.to_string(), PROJECTIONS[i]];
                            let mut rng =
                                crate::sampler::Stream::new(rlaif_core::seed::derive(seed, &parts));
                            // kaiming_uniform(a = √5): uniform within ±1/√in.
                            let bound = 1.0 / (inputs as f64).sqrt();
                            let data = (0..config.r * inputs)
                                .map(|_| ((rng.unit() * 2.0 - 1.0) * bound) as f32)
                                .collect();
                            Pair {
                                a: Matrix {
                                    rows: config.r,
                                    cols: inputs,
                                    data,
                                },
                                b: Matrix::zeros(out, config.r),
                            }
                        })
                })
            })
            .collect();
        Ok(Adapter {
            config,
            blocks,
            score: weights.score.clone(),
        })
    }

    /// `lora_alpha / r`.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.config.lora_alpha / self.config.r as f32
    }

    pub(super) fn zeros_like(&self) -> Self {
        let m = |m: &Matrix| Matrix::zeros(m.rows, m.cols);
        Adapter {
            config: self.config.clone(),
            blocks: self
                .blocks
                .iter()
                .map(|b| {
                    std::array::from_fn(|i| {
                        b[i].as_ref().map(|p| Pair {
                            a: m(&p.a),
                            b: m(&p.b),
                        })
                    })
                })
                .collect(),
            score: self.score.as_ref().map(m),
        }
    }

    /// Tensors under PEFT's names.
    pub(super) fn tensors(&mut self) -> Vec<Tensor<'_>> {
        let mut all = Vec::new();
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            for (i, pair) in block.iter_mut().enumerate() {
                let Some(pair) = pair else { continue };
                for (part, m) in [("lora_A", &mut pair.a), ("lora_B", &mut pair.b)] {
                    all.push(Tensor {
                        name: name(layer, i, part),
                        decays: true,
                        data: &mut m.data,
                    });
                }
            }
        }
        if let Some(score) = &mut self.score {
            all.push(Tensor {
                name: "base_model.model.score.weight".into(),
                decays: true,
                data: &mut score.data,
            });
        }
        all
    }

    /// Tensors under PEFT's names, with their shapes.
    pub(super) fn named(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let mut named = Vec::new();
        for (layer, block) in self.blocks.iter().enumerate() {
            for (i, pair) in block.iter().enumerate() {
                let Some(p) = pair else { continue };
                for (part, m) in [("lora_A", &p.a), ("lora_B", &p.b)] {
                    named.push((
                        name(layer, i, part),
                        vec![m.rows, m.cols],
                        m.data.as_slice(),
                    ));
                }
            }
        }
        if let Some(s) = &self.score {
            let name = "base_model.model.score.weight".to_string();
            named.push((name, vec![s.rows, s.cols], s.data.as_slice()));
        }
        named
    }

    /// Weights with `scale · B A` added.
    #[must_use]
    pub fn merge(&self, weights: &Weights) -> Weights {
        self.add(weights, self.scale())
    }

    /// The reverse of [`Adapter::merge`], up to rounding.
    #[must_use]
    pub fn unmerge(&self, weights: &Weights) -> Weights {
        self.add(weights, -self.scale())
    }

    fn add(&self, weights: &Weights, scale: f32) -> Weights {
        let mut w = weights.clone();
        for (block, pairs) in w.blocks.iter_mut().zip(&self.blocks) {
            for (m, pair) in block.linear.iter_mut().zip(pairs) {
                if let Some(p) = pair {
                    let dims = (m.rows, m.cols, p.rank());
                    let (b, a) = (
                        super::ops::Mat(&p.b.data, p.rank(), 1),
                        super::ops::Mat(&p.a.data, m.cols, 1),
                    );
                    super::ops::gemm(dims, &mut m.data, m.cols, true, b, a, scale, true);
                }
            }
        }
        if self.score.is_some() {
            w.score.clone_from(&self.score);
        }
        w
    }

    /// Writes `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them. `base` is
    /// the folder or name of the base model.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path, base: &str) -> Result<(), EngineError> {
        std::fs::create_dir_all(folder).map_err(EngineError::io("create", folder))?;
        let named = self.named();
        write_tensors(&folder.join("adapter_model.safetensors"), &named, false)?;
        let (task, saved) = if self.score.is_some() {
            ("SEQ_CLS", json!(["score"]))
        } else {
            ("CAUSAL_LM", serde_json::Value::Null)
        };
        let config = json!({
            "peft_type": "LORA", "task_type": task, "base_model_name_or_path": base,
            "r": self.config.r, "lora_alpha": self.config.lora_alpha,
            "target_modules": self.config.target_modules, "lora_dropout": 0.0, "bias": "none",
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
            "modules_to_save": saved, "use_rslora": false, "use_dora": false,
        });
        let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
        replace(&folder.join("adapter_config.json"), text.as_bytes())
    }

    /// Reads PEFT's layout.
    ///
    /// # Errors
    /// Missing or corrupt files; a kind of adapter, target or shape that does not fit this model.
    pub fn read(folder: &Path, c: &LlamaConfig) -> Result<Self, EngineError> {
        let path = folder.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).map_err(EngineError::io("read", &path))?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| EngineError::format(&path, format!("is not JSON: {e}")))?;
        if json["peft_type"] != "LORA" {
            return Err(EngineError::format(
                &path,
                format!(
                    "`peft_type` is {}, supported is \"LORA\"",
                    json["peft_type"]
                ),
            ));
        }
        for key in ["use_rslora", "use_dora", "fan_in_fan_out"] {
            if json[key] == true {
                return Err(EngineError::format(
                    &path,
                    format!("`{key}` is not supported"),
                ));
            }
        }
        for key in ["rank_pattern", "alpha_pattern"] {
            if json[key].as_object().is_some_and(|o| !o.is_empty()) {
                return Err(EngineError::format(
                    &path,
                    format!("`{key}` is not supported"),
                ));
            }
        }
        let config = LoraConfig {
            r: json["r"].as_u64().unwrap_or(0) as usize,
            lora_alpha: json["lora_alpha"].as_f64().unwrap_or(0.0) as f32,
            target_modules: json["target_modules"]
                .as_array()
                .map(|l| {
                    l.iter()
                        .filter_map(|t| t.as_str().map(str::to_string))
                        .collect()
                })
                .unwrap_or_default(),
        };
        check(&config).map_err(|e| EngineError::format(&path, e.to_string()))?;
        let path = folder.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).map_err(EngineError::io("read", &path))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| {
            EngineError::format(&path, format!("is not a complete safetensors file ({e})"))
        })?;
        let take = |name: &str, rows: usize, cols: usize| -> Result<Matrix, EngineError> {
            let view = file
                .tensor(name)
                .map_err(|_| EngineError::format(&path, format!("has no tensor `{name}`")))?;
            if view.shape() != [rows, cols] {
                return Err(EngineError::format(
                    &path,
                    format!(
                        "tensor `{name}` has shape {:?}, expected [{rows}, {cols}]; the adapter \
                         belongs to another model",
                        view.shape()
                    ),
                ));
            }
            let data = crate::weights::to_f32(&view).ok_or_else(|| {
                EngineError::format(&path, format!("tensor `{name}` has an unsupported dtype"))
            })?;
            Ok(Matrix { rows, cols, data })
        };
        let mut blocks = Vec::new();
        for layer in 0..c.layers {
            let mut block: [Option<Pair>; 7] = Default::default();
            for (i, slot) in block.iter_mut().enumerate() {
                if config.target_modules.iter().any(|t| t == PROJECTIONS[i]) {
                    let (out, inputs) = projection_shape(c, i);
                    *slot = Some(Pair {
                        a: take(&name(layer, i, "lora_A"), config.r, inputs)?,
                        b: take(&name(layer, i, "lora_B"), out, config.r)?,
                    });
                }
            }
            blocks.push(block);
        }
        let score = if c.scalar_head {
            take("base_model.model.score.weight", 1, c.hidden).ok()
        } else {
            None
        };
        Ok(Adapter {
            config,
            blocks,
            score,
        })
    }
}

fn name(layer: usize, i: usize, part: &str) -> String {
    format!(
        "base_model.model.model.layers.{layer}.{}.{}.{part}.weight",
        module(i),
        PROJECTIONS[i]
    )
}

fn check(config: &LoraConfig) -> Result<(), EngineError> {
    if config.r == 0 || config.target_modules.is_empty() {
        return Err(EngineError::Request(
            "an adapter needs a rank `r` of at least 1 and one of `target_modules`".into(),
        ));
    }
    match config
        .target_modules
        .iter()
        .find(|t| !PROJECTIONS.contains(&t.as_str()))
    {
        Some(bad) => Err(EngineError::Request(format!(
            "`{bad}` is no projection; `target_modules` can name {}",
            PROJECTIONS.join(", ")
        ))),
        None => Ok(()),
    }
}

/// For tests elsewhere in the crate: an adapter whose B is not zero.
#[cfg(test)]
pub(crate) fn disturbed(c: &LlamaConfig, w: &Weights) -> Adapter {
    let mut a = Adapter::new(
        c,
        w,
        LoraConfig {
            r: 4,
            lora_alpha: 6.0,
            ..LoraConfig::default()
        },
        3,
    )
    .unwrap();
    for (n, pair) in a.blocks.iter_mut().flatten().flatten().enumerate() {
        pair.b.data = crate::weights::normal(pair.b.data.len(), 0.2, n as u64);
    }
    a
}
