//! A model's shape, read from `config.json` as `transformers` writes it.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::EngineError;

/// How rotary positions are stretched beyond the length of pre-training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Positions as they are.
    Default,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, smooth between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wave lengths above `original / low` are divided.
        low: f64,
        /// Wave lengths below `original / high` are kept.
        high: f64,
        /// Context length of pre-training.
        original: f64,
    },
}

/// The shape of a Llama-family model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Vocabulary size V.
    pub vocab: usize,
    /// Width D of the residual stream.
    pub hidden: usize,
    /// Width F of the gated feed-forward.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of positions.
    pub rope_scaling: RopeScaling,
    /// Longest sequence that the model was made for.
    pub max_positions: usize,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Whether the model ends in a scalar head (`score.weight`) instead of a language-model head.
    pub scalar_head: bool,
    /// Ids that end a turn.
    pub eos: Vec<u32>,
    /// Id that begins a text.
    pub bos: Option<u32>,
    /// Id that fills a batch.
    pub pad: Option<u32>,
    /// The file's own object: keys that the engine does not use are written back as they came.
    pub raw: Map<String, Value>,
}

/// Largest value of any dimension: far above real models, far below what overflows an allocation.
const LARGEST: u64 = 1 << 24;

impl LlamaConfig {
    /// Reads `config.json`, and `generation_config.json` beside it for further end ids.
    ///
    /// # Errors
    /// A file that cannot be read, an architecture that is not Llama's, a key that is missing or
    /// out of range: named.
    pub fn read(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(EngineError::io("read", &path))?;
        let mut config = Self::parse(&text, &path)?;
        let generation = folder.join("generation_config.json");
        if let Ok(text) = std::fs::read_to_string(&generation) {
            let value: Value = serde_json::from_str(&text)
                .map_err(|e| EngineError::format(&generation, format!("is not JSON: {e}")))?;
            for id in ids(value.get("eos_token_id")) {
                if !config.eos.contains(&id) {
                    config.eos.push(id);
                }
            }
        }
        Ok(config)
    }

    /// Reads the text of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`LlamaConfig::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, EngineError> {
        let raw: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| EngineError::format(path, format!("is not a JSON object: {e}")))?;
        let architecture = raw
            .get("architectures")
            .and_then(|v| v.get(0))
            .or_else(|| raw.get("model_type"))
            .and_then(Value::as_str)
            .unwrap_or("none named");
        let scalar_head = match architecture {
            "LlamaForCausalLM" | "llama" => false,
            "LlamaForSequenceClassification" => true,
            other => {
                return Err(EngineError::Unsupported {
                    path: path.into(),
                    architecture: other.chars().take(80).collect(),
                });
            }
        };
        let whole = |key: &str| -> Result<usize, EngineError> {
            match raw.get(key).and_then(Value::as_u64) {
                Some(n) if (1..=LARGEST).contains(&n) => Ok(n as usize),
                Some(n) => Err(EngineError::format(
                    path,
                    format!("`{key}` is {n}, expected 1 to {LARGEST}"),
                )),
                None => Err(EngineError::format(
                    path,
                    format!("`{key}` is missing or not a whole number"),
                )),
            }
        };
        let or = |key: &str, default: usize| -> Result<usize, EngineError> {
            match raw.get(key) {
                None | Some(Value::Null) => Ok(default),
                Some(_) => whole(key),
            }
        };
        for (key, why) in [
            ("attention_bias", "attention with a bias"),
            ("mlp_bias", "a feed-forward with a bias"),
        ] {
            if raw.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(EngineError::format(
                    path,
                    format!("`{key}` is true: {why} is not supported"),
                ));
            }
        }
        if let Some(act) = raw.get("hidden_act").and_then(Value::as_str)
            && act != "silu"
        {
            return Err(EngineError::format(
                path,
                format!("`hidden_act` is `{act}`, supported is `silu`"),
            ));
        }
        if scalar_head {
            let labels = raw
                .get("num_labels")
                .and_then(Value::as_u64)
                .or_else(|| {
                    raw.get("id2label")
                        .and_then(Value::as_object)
                        .map(|o| o.len() as u64)
                })
                .unwrap_or(2);
            if labels != 1 {
                return Err(EngineError::format(
                    path,
                    format!("has {labels} labels; a reward model has one (`num_labels`: 1)"),
                ));
            }
        }
        let (hidden, heads) = (whole("hidden_size")?, whole("num_attention_heads")?);
        let kv_heads = or("num_key_value_heads", heads)?;
        let head_dim = or("head_dim", (hidden / heads).max(1))?;
        if !heads.is_multiple_of(kv_heads) || !head_dim.is_multiple_of(2) {
            return Err(EngineError::format(
                path,
                format!(
                    "{heads} heads over {kv_heads} key-value heads of width {head_dim}: heads must \
                     be a multiple of key-value heads and the width even"
                ),
            ));
        }
        // transformers 5 writes `rope_parameters`; before, `rope_theta` and `rope_scaling`.
        let rope = raw
            .get("rope_parameters")
            .or_else(|| raw.get("rope_scaling"))
            .and_then(Value::as_object);
        let rope_theta = rope
            .and_then(|r| r.get("rope_theta"))
            .or_else(|| raw.get("rope_theta"))
            .and_then(Value::as_f64)
            .unwrap_or(10_000.0);
        let rope_scaling = match rope {
            None => RopeScaling::Default,
            Some(r) => scaling(r, path)?,
        };
        Ok(LlamaConfig {
            vocab: whole("vocab_size")?,
            hidden,
            intermediate: whole("intermediate_size")?,
            layers: whole("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            norm_eps: raw
                .get("rms_norm_eps")
                .and_then(Value::as_f64)
                .unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            max_positions: or("max_position_embeddings", 2048)?,
            tied: raw
                .get("tie_word_embeddings")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            scalar_head,
            eos: ids(raw.get("eos_token_id")),
            bos: ids(raw.get("bos_token_id")).first().copied(),
            pad: ids(raw.get("pad_token_id")).first().copied(),
            raw,
        })
    }

    /// A shape without a file, for models made here. Rotary base 10,000, no scaling.
    #[must_use]
    pub fn new(
        vocab: usize,
        hidden: usize,
        intermediate: usize,
        layers: usize,
        heads: usize,
        kv_heads: usize,
    ) -> Self {
        LlamaConfig {
            vocab,
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim: hidden / heads,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            max_positions: 2048,
            tied: true,
            scalar_head: false,
            eos: Vec::new(),
            bos: None,
            pad: None,
            raw: Map::new(),
        }
    }

    /// The object to write as `config.json`: what was read, with what the engine knows set.
    #[must_use]
    pub fn to_json(&self, dtype: &str) -> Value {
        let mut map = self.raw.clone();
        let architecture = if self.scalar_head {
            "LlamaForSequenceClassification"
        } else {
            "LlamaForCausalLM"
        };
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        for (key, value) in [
            ("architectures", json!([architecture])),
            ("model_type", json!("llama")),
            ("hidden_act", json!("silu")),
            ("vocab_size", json!(self.vocab)),
            ("hidden_size", json!(self.hidden)),
            ("intermediate_size", json!(self.intermediate)),
            ("num_hidden_layers", json!(self.layers)),
            ("num_attention_heads", json!(self.heads)),
            ("num_key_value_heads", json!(self.kv_heads)),
            ("head_dim", json!(self.head_dim)),
            ("rms_norm_eps", json!(shortest(self.norm_eps))),
            ("max_position_embeddings", json!(self.max_positions)),
            ("tie_word_embeddings", json!(self.tied)),
            ("attention_bias", json!(false)),
            ("mlp_bias", json!(false)),
            ("eos_token_id", eos),
            ("bos_token_id", json!(self.bos)),
            ("pad_token_id", json!(self.pad)),
            ("torch_dtype", json!(dtype)),
            ("dtype", json!(dtype)),
        ] {
            map.insert(key.to_string(), value);
        }
        if !map.contains_key("rope_parameters") {
            map.insert("rope_theta".into(), json!(self.rope_theta));
            // The older key, which transformers 4 and 5 both read.
            let scaling = match self.rope_scaling {
                RopeScaling::Default => Value::Null,
                RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
                RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": original as u64
                }),
            };
            map.insert("rope_scaling".into(), scaling);
        }
        if self.scalar_head {
            map.insert("num_labels".into(), json!(1));
            map.insert("id2label".into(), json!({"0": "LABEL_0"}));
            map.insert("label2id".into(), json!({"LABEL_0": 0}));
        }
        Value::Object(map)
    }

    /// Number of weights, scalar head included; the largest number where a shape that no file can
    /// hold would overflow.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (d, f) = (self.hidden as u64, self.intermediate as u64);
        let q = (self.heads as u64).saturating_mul(self.head_dim as u64);
        let kv = (self.kv_heads as u64).saturating_mul(self.head_dim as u64);
        let sum = |parts: &[u64]| parts.iter().fold(0u64, |a, b| a.saturating_add(*b));
        // Per unit of width: q and o, k and v, the feed-forward's three, two norms.
        let unit = sum(&[q, q, kv, kv, f, f, f, 2]);
        let block = unit.saturating_mul(d);
        let embedding = (self.vocab as u64).saturating_mul(d);
        let head = match (self.scalar_head, self.tied) {
            (true, _) => d,
            (false, true) => 0,
            (false, false) => embedding,
        };
        let blocks = block.saturating_mul(self.layers as u64);
        sum(&[embedding, head, blocks, d])
    }
}

/// `f32` → the `f64` that prints as the same short decimal.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(v) => one(v).into_iter().collect(),
        None => Vec::new(),
    }
}

fn scaling(rope: &Map<String, Value>, path: &Path) -> Result<RopeScaling, EngineError> {
    let kind = rope
        .get("rope_type")
        .or_else(|| rope.get("type"))
        .and_then(Value::as_str)
        .unwrap_or("default");
    let number = |key: &str| {
        rope.get(key)
            .and_then(Value::as_f64)
            .filter(|x| x.is_finite() && *x > 0.0)
            .ok_or_else(|| {
                EngineError::format(
                    path,
                    format!("rotary scaling `{kind}` needs a positive number `{key}`"),
                )
            })
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: number("factor")?,
        }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original: number("original_max_position_embeddings")?,
        }),
        other => Err(EngineError::format(
            path,
            format!(
                "rotary scaling `{other}` is not supported; supported: default, linear, llama3"
            ),
        )),
    }
}
