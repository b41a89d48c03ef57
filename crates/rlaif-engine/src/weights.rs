//! Weights on disk: safetensors in `transformers`' layout, single or sharded.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::config::LlamaConfig;
use crate::error::EngineError;

/// A matrix of the model's, row-major, out × in as PyTorch's `nn.Linear` stores it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs).
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of zeros.
    #[must_use]
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Matrix {
            rows,
            cols,
            data: vec![0.0; rows * cols],
        }
    }
}

/// Weights of one block. Names are those of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// `input_layernorm`, length D.
    pub input_norm: Vec<f32>,
    /// `self_attn.{q,k,v,o}_proj`, `mlp.{gate,up,down}_proj`, in the order of [`PROJECTIONS`].
    pub linear: [Matrix; 7],
    /// `post_attention_layernorm`, length D.
    pub post_norm: Vec<f32>,
}

/// The seven projections of a block, as PEFT's `target_modules` names them.
pub const PROJECTIONS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// The module of a projection: `self_attn` or `mlp`.
pub(crate) fn module(projection: usize) -> &'static str {
    if projection < 4 { "self_attn" } else { "mlp" }
}

/// All weights of a model, in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// `model.embed_tokens`, V × D.
    pub embed: Matrix,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// `model.norm`, length D.
    pub norm: Vec<f32>,
    /// `lm_head`, V × D; `None` where tied or where there is a scalar head only.
    pub lm_head: Option<Matrix>,
    /// `score`, 1 × D: the reward or value head.
    pub score: Option<Matrix>,
}

/// Shape (rows, columns) of projection `i`.
pub(crate) fn projection_shape(c: &LlamaConfig, i: usize) -> (usize, usize) {
    let (d, f) = (c.hidden, c.intermediate);
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    [(q, d), (kv, d), (kv, d), (d, q), (f, d), (f, d), (d, f)][i]
}

impl Weights {
    /// Random weights as `transformers` initializes them: normal with standard deviation `std`,
    /// norms one, a scalar head of standard deviation 1/√(D+1) where the shape has one.
    #[must_use]
    pub fn random(c: &LlamaConfig, std: f32, seed: u64) -> Self {
        let mut n = 0;
        let mut matrix = |rows: usize, cols: usize, std: f32| {
            n += 1;
            Matrix {
                rows,
                cols,
                data: normal(
                    rows * cols,
                    std,
                    rlaif_core::seed::derive(seed, &["weights", &n.to_string()]),
                ),
            }
        };
        let embed = matrix(c.vocab, c.hidden, std);
        let blocks = (0..c.layers)
            .map(|_| Block {
                input_norm: vec![1.0; c.hidden],
                linear: std::array::from_fn(|i| {
                    let (rows, cols) = projection_shape(c, i);
                    matrix(rows, cols, std)
                }),
                post_norm: vec![1.0; c.hidden],
            })
            .collect();
        let lm_head = (!c.tied && !c.scalar_head).then(|| matrix(c.vocab, c.hidden, std));
        let score = c
            .scalar_head
            .then(|| matrix(1, c.hidden, 1.0 / ((c.hidden + 1) as f32).sqrt()));
        Weights {
            embed,
            blocks,
            norm: vec![1.0; c.hidden],
            lm_head,
            score,
        }
    }

    /// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// A missing, truncated or corrupt file; a tensor that is missing or of another shape or dtype
    /// than `config.json` says; a value that is not finite.
    pub fn read(folder: &Path, c: &LlamaConfig) -> Result<Self, EngineError> {
        let files = shards(folder)?;
        let mut maps = Vec::new();
        for path in files {
            let file = File::open(&path).map_err(EngineError::io("read", &path))?;
            // SAFETY: the map is read-only and lives as long as this function; a file that another
            // process changes meanwhile gives wrong numbers, which the checks below may catch, and
            // a truncated one a signal, as for every user of memory maps.
            let map = unsafe { Mmap::map(&file) }.map_err(EngineError::io("read", &path))?;
            maps.push((path, map));
        }
        let mut tensors: HashMap<String, (&Path, TensorView<'_>)> = HashMap::new();
        for (path, map) in &maps {
            let parsed = SafeTensors::deserialize(map).map_err(|e| {
                EngineError::format(
                    path,
                    format!("is not a complete safetensors file ({e}); download or copy it again"),
                )
            })?;
            for (name, view) in parsed.tensors() {
                tensors.insert(name, (path, view));
            }
        }
        let take = |name: String, shape: &[usize]| -> Result<Vec<f32>, EngineError> {
            // A bare base model carries no `model.` prefix.
            let (path, view) = tensors
                .get(&name)
                .or_else(|| tensors.get(name.strip_prefix("model.")?))
                .ok_or_else(|| {
                    EngineError::format(folder, format!("the checkpoint has no tensor `{name}`"))
                })?;
            if view.shape() != shape {
                return Err(EngineError::format(
                    *path,
                    format!(
                        "tensor `{name}` has shape {:?} and config.json says {shape:?}",
                        view.shape()
                    ),
                ));
            }
            let data = to_f32(view).ok_or_else(|| {
                EngineError::format(
                    *path,
                    format!(
                        "tensor `{name}` has dtype {:?}; supported are F32, BF16 and F16",
                        view.dtype()
                    ),
                )
            })?;
            if !data.iter().all(|x| x.is_finite()) {
                return Err(EngineError::format(
                    *path,
                    format!("tensor `{name}` holds values that are not finite"),
                ));
            }
            Ok(data)
        };
        let matrix = |name: String, rows: usize, cols: usize| -> Result<Matrix, EngineError> {
            Ok(Matrix {
                rows,
                cols,
                data: take(name, &[rows, cols])?,
            })
        };
        let embed = matrix("model.embed_tokens.weight".into(), c.vocab, c.hidden)?;
        let mut blocks = Vec::with_capacity(c.layers.min(1024));
        for layer in 0..c.layers {
            let prefix = format!("model.layers.{layer}");
            let mut linear: [Matrix; 7] = Default::default();
            for (i, slot) in linear.iter_mut().enumerate() {
                let (rows, cols) = projection_shape(c, i);
                let name = format!("{prefix}.{}.{}.weight", module(i), PROJECTIONS[i]);
                *slot = matrix(name, rows, cols)?;
            }
            blocks.push(Block {
                input_norm: take(format!("{prefix}.input_layernorm.weight"), &[c.hidden])?,
                linear,
                post_norm: take(
                    format!("{prefix}.post_attention_layernorm.weight"),
                    &[c.hidden],
                )?,
            });
        }
        let lm_head = if c.tied || c.scalar_head {
            None
        } else {
            Some(matrix("lm_head.weight".into(), c.vocab, c.hidden)?)
        };
        let score = if c.scalar_head {
            Some(matrix("score.weight".into(), 1, c.hidden)?)
        } else {
            None
        };
        Ok(Weights {
            embed,
            blocks,
            norm: take("model.norm.weight".into(), &[c.hidden])?,
            lm_head,
            score,
        })
    }

    /// Every tensor with its name in the checkpoint and its shape, in a fixed order.
    #[must_use]
    pub fn named(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        fn m(name: String, m: &Matrix) -> (String, Vec<usize>, &[f32]) {
            (name, vec![m.rows, m.cols], &m.data)
        }
        let mut all = vec![m("model.embed_tokens.weight".into(), &self.embed)];
        for (layer, block) in self.blocks.iter().enumerate() {
            let prefix = format!("model.layers.{layer}");
            let d = block.input_norm.len();
            all.push((
                format!("{prefix}.input_layernorm.weight"),
                vec![d],
                &block.input_norm,
            ));
            for (i, matrix) in block.linear.iter().enumerate() {
                let name = format!("{prefix}.{}.{}.weight", module(i), PROJECTIONS[i]);
                all.push(m(name, matrix));
            }
            all.push((
                format!("{prefix}.post_attention_layernorm.weight"),
                vec![d],
                &block.post_norm,
            ));
        }
        all.push((
            "model.norm.weight".into(),
            vec![self.norm.len()],
            &self.norm,
        ));
        if let Some(head) = &self.lm_head {
            all.push(m("lm_head.weight".into(), head));
        }
        if let Some(score) = &self.score {
            all.push(m("score.weight".into(), score));
        }
        all
    }

    /// Writes `model.safetensors` and `config.json` (dtype f32, or bf16 rounded to nearest even).
    /// Each file is replaced at once or not at all.
    ///
    /// # Errors
    /// A file that cannot be written, such as on a full disk: the old file is kept.
    pub fn write(&self, folder: &Path, c: &LlamaConfig, bf16: bool) -> Result<(), EngineError> {
        std::fs::create_dir_all(folder).map_err(EngineError::io("create", folder))?;
        // The scalar head's model has no language-model head in its checkpoint, nor the reverse.
        let keep = |name: &str| match name {
            "score.weight" => c.scalar_head,
            "lm_head.weight" => !c.scalar_head,
            _ => true,
        };
        let named: Vec<_> = self
            .named()
            .into_iter()
            .filter(|(name, _, _)| keep(name))
            .collect();
        write_tensors(&folder.join("model.safetensors"), &named, bf16)?;
        let json = c.to_json(if bf16 { "bfloat16" } else { "float32" });
        let text = serde_json::to_string_pretty(&json).unwrap_or_default() + "\n";
        replace(&folder.join("config.json"), text.as_bytes())
    }
}

/// Writes named tensors as one safetensors file.
pub(crate) fn write_tensors(
    path: &Path,
    named: &[(String, Vec<usize>, &[f32])],
    bf16: bool,
) -> Result<(), EngineError> {
    let buffers: Vec<Vec<u8>> = named
        .iter()
        .map(|(_, _, data)| {
            if bf16 {
                data.iter()
                    .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
                    .collect()
            } else {
                data.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
        })
        .collect();
    let dtype = if bf16 { Dtype::BF16 } else { Dtype::F32 };
    let mut views = Vec::with_capacity(named.len());
    for ((name, shape, _), bytes) in named.iter().zip(&buffers) {
        let view = TensorView::new(dtype, shape.clone(), bytes)
            .map_err(|e| EngineError::format(path, format!("tensor `{name}`: {e}")))?;
        views.push((name.as_str(), view));
    }
    // `format: pt` is what transformers asks for.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|e| EngineError::format(path, e.to_string()))?;
    replace(path, &bytes)
}

/// Writes beside, syncs, renames: a reader sees the old file or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    rlaif_core::run::write_atomic(path, bytes).map_err(|e| EngineError::format(path, e.to_string()))
}

fn shards(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).map_err(|_| {
        EngineError::format(
            folder,
            "holds neither model.safetensors nor model.safetensors.index.json; for a GGUF or \
             llama2.c file, run `rlaif convert FILE --out DIR` first",
        )
    })?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| EngineError::format(&index, format!("is not JSON: {e}")))?;
    let mut names: Vec<&str> = value
        .get("weight_map")
        .and_then(|m| m.as_object())
        .map(|m| m.values().filter_map(|v| v.as_str()).collect())
        .unwrap_or_default();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(EngineError::format(&index, "has no `weight_map`"));
    }
    // An index must not make the loader read outside its folder.
    if let Some(bad) = names
        .iter()
        .find(|n| n.contains(['/', '\\']) || n.contains(".."))
    {
        return Err(EngineError::format(
            &index,
            format!("names the shard `{bad}`, which is not a plain file name"),
        ));
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}

pub(crate) fn to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Some(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::BF16 => Some(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| half::bf16::from_le_bytes(*b).to_f32())
                .collect(),
        ),
        Dtype::F16 => Some(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| half::f16::from_le_bytes(*b).to_f32())
                .collect(),
        ),
        _ => None,
    }
}

/// `n` normal numbers by Box and Muller's method.
pub(crate) fn normal(n: usize, std: f32, seed: u64) -> Vec<f32> {
    let mut rng = crate::sampler::Stream::new(seed);
    (0..n)
        .map(|_| {
            let (u, v) = (rng.unit().max(1e-300), rng.unit());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32 * std
        })
        .collect()
}
