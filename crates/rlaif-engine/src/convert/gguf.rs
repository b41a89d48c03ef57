//! GGUF, versions 2 and 3: metadata, and tensors dequantized to f32 (block layouts as in ggml's
//! `ggml-common.h`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};

use crate::config::{LlamaConfig, RopeScaling};
use crate::error::EngineError;
use crate::weights::{Block, Matrix, Weights, projection_shape};

use super::vocabulary::{Kind, Vocabulary};
use super::{Bytes, halves};

pub(super) struct Gguf {
    pub config: LlamaConfig,
    pub weights: Weights,
    pub vocabulary: Vocabulary,
    pub types: Vec<(String, usize)>,
}

#[derive(Debug)]
enum Meta {
    Number(f64),
    Bool(bool),
    Text(String),
    List(Vec<Meta>),
}

struct Info {
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Gguf, EngineError> {
    let mut b = Bytes::new(bytes, path);
    b.take(4)?;
    let version = b.u32()?;
    if !(2..=3).contains(&version) {
        return Err(b.fail(format!("is GGUF version {version}; supported are 2 and 3")));
    }
    let (tensors, pairs) = (b.u64()?, b.u64()?);
    // Each takes 12 bytes at the least: a larger count cannot be true.
    if tensors.max(pairs) > bytes.len() as u64 / 12 {
        return Err(b.fail(format!(
            "names {tensors} tensors and {pairs} keys, more than its {} bytes can hold",
            bytes.len()
        )));
    }
    let mut meta = HashMap::new();
    for _ in 0..pairs {
        let key = text(&mut b)?;
        let kind = b.u32()?;
        let value = value(&mut b, kind, 0)?;
        meta.insert(key, value);
    }
    let mut infos = HashMap::new();
    for _ in 0..tensors {
        let name = text(&mut b)?;
        let n = b.u32()?;
        if n > 4 {
            return Err(b.fail(format!("tensor `{name}` has {n} dimensions")));
        }
        let shape = (0..n).map(|_| b.u64()).collect::<Result<Vec<_>, _>>()?;
        let (kind, offset) = (b.u32()?, b.u64()?);
        infos.insert(
            name,
            Info {
                shape,
                kind,
                offset,
            },
        );
    }
    let alignment = match meta.get("general.alignment") {
        Some(Meta::Number(n)) if *n >= 1.0 && *n <= 65_536.0 => *n as usize,
        _ => 32,
    };
    let data = b.at.div_ceil(alignment) * alignment;
    let mut config = config(&meta, &infos, path)?;
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    let mut tensor = |name: &str, rows: usize, cols: usize| -> Result<Vec<f32>, EngineError> {
        let info = infos
            .get(name)
            .ok_or_else(|| EngineError::format(path, format!("has no tensor `{name}`")))?;
        let n = rows * cols;
        let expected = if rows == 1 {
            vec![cols as u64]
        } else {
            vec![cols as u64, rows as u64]
        };
        if info.shape != expected {
            return Err(EngineError::format(
                path,
                format!(
                    "tensor `{name}` has shape {:?}, expected {expected:?}",
                    info.shape
                ),
            ));
        }
        let (label, block, size) = layout(info.kind).ok_or_else(|| {
            EngineError::format(
                path,
                format!(
                    "tensor `{name}` has type {}; supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, \
                     Q5_1, Q8_0, Q4_K, Q5_K, Q6_K",
                    info.kind
                ),
            )
        })?;
        *types.entry(label.to_string()).or_default() += 1;
        if !cols.is_multiple_of(block) {
            return Err(EngineError::format(
                path,
                format!("tensor `{name}` has rows of {cols}, not a multiple of {block}"),
            ));
        }
        let mut at = Bytes::new(bytes, path);
        at.at = usize::try_from(info.offset)
            .ok()
            .and_then(|o| data.checked_add(o))
            .ok_or_else(|| EngineError::format(path, format!("tensor `{name}` lies outside")))?;
        let raw = at.take(n / block * size)?;
        let values = dequantize(label, raw);
        if !values.iter().all(|x| x.is_finite()) {
            return Err(EngineError::format(
                path,
                format!("tensor `{name}` holds values that are not finite"),
            ));
        }
        Ok(values)
    };
    if let RopeScaling::Llama3 { factor, .. } = &mut config.rope_scaling {
        // Each frequency's divisor: 1 for the fast ones, the whole factor for the slow ones.
        let divisors = tensor("rope_freqs.weight", 1, config.head_dim / 2)?;
        *factor = f64::from(divisors.into_iter().fold(1.0, f32::max));
    }
    let (d, v) = (config.hidden, config.vocab);
    let embed = Matrix {
        rows: v,
        cols: d,
        data: tensor("token_embd.weight", v, d)?,
    };
    let names = [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    let mut blocks = Vec::new();
    for layer in 0..config.layers {
        let mut linear: [Matrix; 7] = Default::default();
        for (i, slot) in linear.iter_mut().enumerate() {
            let (rows, cols) = projection_shape(&config, i);
            let mut data = tensor(&format!("blk.{layer}.{}.weight", names[i]), rows, cols)?;
            if i < 2 {
                data = halves(&data, cols, config.head_dim);
            }
            *slot = Matrix { rows, cols, data };
        }
        blocks.push(Block {
            input_norm: tensor(&format!("blk.{layer}.attn_norm.weight"), 1, d)?,
            linear,
            post_norm: tensor(&format!("blk.{layer}.ffn_norm.weight"), 1, d)?,
        });
    }
    let norm = tensor("output_norm.weight", 1, d)?;
    let lm_head = if config.tied {
        None
    } else {
        Some(Matrix {
            rows: v,
            cols: d,
            data: tensor("output.weight", v, d)?,
        })
    };
    let vocabulary = vocabulary(&meta, path)?;
    Ok(Gguf {
        weights: Weights {
            embed,
            blocks,
            norm,
            lm_head,
            score: None,
        },
        config,
        vocabulary,
        types: types.into_iter().collect(),
    })
}

fn text(b: &mut Bytes<'_>) -> Result<String, EngineError> {
    let length = usize::try_from(b.u64()?).map_err(|_| b.fail("names a length that overflows"))?;
    let bytes = b.take(length)?;
    std::str::from_utf8(bytes)
        .map(str::to_string)
        .map_err(|_| b.fail("holds a text that is not UTF-8"))
}

fn value(b: &mut Bytes<'_>, kind: u32, depth: u32) -> Result<Meta, EngineError> {
    Ok(match kind {
        0 => Meta::Number(f64::from(b.take(1)?[0])),
        1 => Meta::Number(f64::from(b.take(1)?[0] as i8)),
        2 => Meta::Number(f64::from(u16::from_le_bytes(b.array()?))),
        3 => Meta::Number(f64::from(i16::from_le_bytes(b.array()?))),
        4 => Meta::Number(f64::from(b.u32()?)),
        5 => Meta::Number(f64::from(b.i32()?)),
        6 => Meta::Number(f64::from(f32::from_le_bytes(b.array()?))),
        7 => Meta::Bool(b.take(1)?[0] != 0),
        8 => Meta::Text(text(b)?),
        9 if depth < 4 => {
            let inner = b.u32()?;
            let n = b.u64()?;
            if n > b.data.len() as u64 {
                return Err(b.fail(format!("names a list of {n}, longer than the file")));
            }
            let mut list = Vec::new();
            for _ in 0..n {
                list.push(value(b, inner, depth + 1)?);
            }
            Meta::List(list)
        }
        10 => Meta::Number(b.u64()? as f64),
        11 => Meta::Number(i64::from_le_bytes(b.array()?) as f64),
        12 => Meta::Number(f64::from_le_bytes(b.array()?)),
        other => return Err(b.fail(format!("holds metadata of unknown type {other}"))),
    })
}

fn config(
    meta: &HashMap<String, Meta>,
    infos: &HashMap<String, Info>,
    path: &Path,
) -> Result<LlamaConfig, EngineError> {
    let architecture = match meta.get("general.architecture") {
        Some(Meta::Text(t)) => t.as_str(),
        _ => "none named",
    };
    if architecture != "llama" {
        return Err(EngineError::Unsupported {
            path: path.into(),
            architecture: architecture.chars().take(80).collect(),
        });
    }
    let number = |key: &str| match meta.get(&format!("llama.{key}")) {
        Some(Meta::Number(n)) => Some(*n),
        _ => None,
    };
    let whole = |key: &str| -> Result<usize, EngineError> {
        number(key)
            .filter(|n| (1.0..=16_777_216.0).contains(n) && n.fract() == 0.0)
            .map(|n| n as usize)
            .ok_or_else(|| {
                EngineError::format(path, format!("`llama.{key}` is missing or out of range"))
            })
    };
    let (hidden, heads) = (whole("embedding_length")?, whole("attention.head_count")?);
    let kv_heads = whole("attention.head_count_kv").unwrap_or(heads);
    let vocab = infos
        .get("token_embd.weight")
        .and_then(|i| i.shape.get(1))
        .and_then(|n| usize::try_from(*n).ok())
        .ok_or_else(|| EngineError::format(path, "has no tensor `token_embd.weight`"))?;
    let mut c = LlamaConfig::new(
        vocab,
        hidden,
        whole("feed_forward_length")?,
        whole("block_count")?,
        heads,
        kv_heads,
    );
    c.head_dim = whole("attention.key_length").unwrap_or(hidden / heads);
    if !heads.is_multiple_of(kv_heads) || !c.head_dim.is_multiple_of(2) || c.head_dim == 0 {
        return Err(EngineError::format(
            path,
            format!(
                "has {heads} heads over {kv_heads} key-value heads of width {}",
                c.head_dim
            ),
        ));
    }
    // Every weight takes four bits at the least.
    let size = std::fs::metadata(path).map_or(u64::MAX, |m| m.len());
    if c.parameters() / 2 > size {
        return Err(EngineError::format(
            path,
            format!(
                "names {} parameters, more than its {size} bytes can hold",
                c.parameters()
            ),
        ));
    }
    c.max_positions = whole("context_length").unwrap_or(2048);
    c.norm_eps = number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5) as f32;
    c.rope_theta = number("rope.freq_base").unwrap_or(10_000.0);
    if infos.contains_key("rope_freqs.weight") {
        // llama.cpp stores Llama 3.1's scaling as a table, from which the factor is read later; the
        // other constants are those of all published models.
        c.rope_scaling = RopeScaling::Llama3 {
            factor: 1.0,
            low: 1.0,
            high: 4.0,
            original: 8192.0,
        };
    } else if let Some(factor) = number("rope.scaling.factor")
        && matches!(meta.get("llama.rope.scaling.type"), Some(Meta::Text(t)) if t == "linear")
    {
        c.rope_scaling = RopeScaling::Linear { factor };
    }
    c.tied = !infos.contains_key("output.weight");
    c.bos = id(meta, "bos");
    c.eos = id(meta, "eos").into_iter().collect();
    c.pad = id(meta, "padding");
    Ok(c)
}

fn id(meta: &HashMap<String, Meta>, name: &str) -> Option<u32> {
    match meta.get(&format!("tokenizer.ggml.{name}_token_id")) {
        Some(Meta::Number(n)) if *n >= 0.0 && *n < 4e9 => Some(*n as u32),
        _ => None,
    }
}

fn vocabulary(meta: &HashMap<String, Meta>, path: &Path) -> Result<Vocabulary, EngineError> {
    let get = |key: &str| meta.get(&format!("tokenizer.{key}"));
    let texts = |key: &str| -> Option<Vec<String>> {
        match get(key) {
            Some(Meta::List(list)) => list
                .iter()
                .map(|m| match m {
                    Meta::Text(t) => Some(t.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    };
    let numbers = |key: &str| -> Option<Vec<f64>> {
        match get(key) {
            Some(Meta::List(list)) => list
                .iter()
                .map(|m| match m {
                    Meta::Number(n) => Some(*n),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    };
    let tokens = texts("ggml.tokens")
        .ok_or_else(|| EngineError::format(path, "has no list `tokenizer.ggml.tokens`"))?;
    let model = match get("ggml.model") {
        Some(Meta::Text(t)) => t.clone(),
        _ => String::new(),
    };
    let flag = |key: &str| matches!(get(key), Some(Meta::Bool(true)));
    let (kind, add_bos) = match model.as_str() {
        "gpt2" => (
            Kind::ByteLevel {
                merges: texts("ggml.merges").unwrap_or_default(),
                pre: match get("ggml.pre") {
                    Some(Meta::Text(t)) => t.clone(),
                    _ => "default".into(),
                },
            },
            flag("ggml.add_bos_token"),
        ),
        "llama" => {
            let scores = numbers("ggml.scores").unwrap_or_default();
            if scores.len() != tokens.len() {
                return Err(EngineError::format(
                    path,
                    "has not one score for each token",
                ));
            }
            let scores = scores.into_iter().map(|s| s as f32).collect();
            (
                Kind::SentencePiece { scores },
                get("ggml.add_bos_token").is_none() || flag("ggml.add_bos_token"),
            )
        }
        other => {
            return Err(EngineError::format(
                path,
                format!("has the tokenizer `{other}`; supported: gpt2 and llama"),
            ));
        }
    };
    // Types 2, 3 and 4: unknown, control and user-defined.
    let control = numbers("ggml.token_type")
        .unwrap_or_default()
        .iter()
        .enumerate()
        .filter(|(_, t)| (2.0..=4.0).contains(*t))
        .map(|(i, _)| i as u32)
        .collect();
    Ok(Vocabulary {
        kind,
        tokens,
        control,
        bos: id(meta, "bos"),
        eos: id(meta, "eos"),
        unk: id(meta, "unknown"),
        pad: id(meta, "padding"),
        add_bos,
        template: match get("chat_template") {
            Some(Meta::Text(t)) => Some(t.clone()),
            _ => None,
        },
    })
}

/// Name, values a block and bytes a block of a tensor type.
fn layout(kind: u32) -> Option<(&'static str, usize, usize)> {
    Some(match kind {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        30 => ("BF16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        _ => return None,
    })
}

fn h(b: &[u8]) -> f32 {
    f16::from_le_bytes([b[0], b[1]]).to_f32()
}

fn dequantize(label: &str, raw: &[u8]) -> Vec<f32> {
    let mut out = Vec::new();
    match label {
        "F32" => out.extend(
            raw.as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b)),
        ),
        "F16" => out.extend(
            raw.as_chunks::<2>()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b).to_f32()),
        ),
        "BF16" => out.extend(
            raw.as_chunks::<2>()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b).to_f32()),
        ),
        "Q4_0" => raw.chunks_exact(18).for_each(|b| {
            let d = h(b);
            nibbles(&b[2..18], |q| (f32::from(q) - 8.0) * d, &mut out);
        }),
        "Q4_1" => raw.chunks_exact(20).for_each(|b| {
            let (d, m) = (h(b), h(&b[2..]));
            nibbles(&b[4..20], |q| f32::from(q) * d + m, &mut out);
        }),
        "Q5_0" => raw.chunks_exact(22).for_each(|b| {
            let d = h(b);
            fives(&b[2..6], &b[6..22], |q| (f32::from(q) - 16.0) * d, &mut out);
        }),
        "Q5_1" => raw.chunks_exact(24).for_each(|b| {
            let (d, m) = (h(b), h(&b[2..]));
            fives(&b[4..8], &b[8..24], |q| f32::from(q) * d + m, &mut out);
        }),
        "Q8_0" => raw.chunks_exact(34).for_each(|b| {
            let d = h(b);
            out.extend(b[2..].iter().map(|q| f32::from(*q as i8) * d));
        }),
        "Q4_K" => raw.chunks_exact(144).for_each(|b| {
            k_block(
                b,
                |i, low| {
                    let q = b[16 + i / 64 * 32 + i % 32];
                    if low { q & 15 } else { q >> 4 }
                },
                &mut out,
            );
        }),
        "Q5_K" => raw.chunks_exact(176).for_each(|b| {
            k_block(
                b,
                |i, low| {
                    let q = b[48 + i / 64 * 32 + i % 32];
                    let high = (b[16 + i % 32] >> (i / 32)) & 1;
                    (if low { q & 15 } else { q >> 4 }) | (high << 4)
                },
                &mut out,
            );
        }),
        "Q6_K" => raw.chunks_exact(210).for_each(|b| {
            let d = h(&b[208..]);
            for i in 0..256 {
                let (half, r) = (i / 128, i % 128);
                let (quarter, l) = (r / 32, r % 32);
                let low = b[half * 64 + l + (quarter % 2) * 32];
                let low = if quarter < 2 { low & 15 } else { low >> 4 };
                let high = (b[128 + half * 32 + l] >> (2 * quarter)) & 3;
                let scale = b[192 + i / 16] as i8;
                out.push(d * f32::from(scale) * (f32::from(low | (high << 4)) - 32.0));
            }
        }),
        _ => {}
    }
    out
}

/// 32 values: first the low halves of 16 bytes, then the high ones.
fn nibbles(b: &[u8], f: impl Fn(u8) -> f32, out: &mut Vec<f32>) {
    out.extend(b.iter().map(|q| f(q & 15)));
    out.extend(b.iter().map(|q| f(q >> 4)));
}

/// As [`nibbles`], with a fifth bit of each value in `high`.
fn fives(high: &[u8], b: &[u8], f: impl Fn(u8) -> f32, out: &mut Vec<f32>) {
    let bits = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let bit = |i: usize| ((bits >> i) as u8 & 1) << 4;
    out.extend(b.iter().enumerate().map(|(i, q)| f((q & 15) | bit(i))));
    out.extend(b.iter().enumerate().map(|(i, q)| f((q >> 4) | bit(i + 16))));
}

/// 256 values in 8 groups with 6-bit scales and minima.
fn k_block(b: &[u8], q: impl Fn(usize, bool) -> u8, out: &mut Vec<f32>) {
    let (d, dmin) = (h(b), h(&b[2..]));
    let s = &b[4..16];
    for group in 0..8 {
        let (scale, min) = if group < 4 {
            (s[group] & 63, s[group + 4] & 63)
        } else {
            (
                (s[group + 4] & 15) | ((s[group - 4] >> 6) << 4),
                (s[group + 4] >> 4) | ((s[group] >> 6) << 4),
            )
        };
        let (a, m) = (d * f32::from(scale), dmin * f32::from(min));
        for i in group * 32..group * 32 + 32 {
            out.push(a * f32::from(q(i, group % 2 == 0)) - m);
        }
    }
}
