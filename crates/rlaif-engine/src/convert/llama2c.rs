//! llama2.c's model files (legacy and version 1) and its `tokenizer.bin`.

use std::path::Path;

use crate::config::LlamaConfig;
use crate::error::EngineError;
use crate::weights::{Block, Matrix, Weights, projection_shape};

use super::vocabulary::{Kind, Vocabulary};
use super::{Bytes, halves};

/// The order of projections on disk: q, k, v, o, w1 (gate), w2 (down), w3 (up).
const ON_DISK: [usize; 7] = [0, 1, 2, 3, 4, 6, 5];

const MAGIC: u32 = 0x616b_3432; // "ak42"

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<(LlamaConfig, Weights), EngineError> {
    let mut b = Bytes::new(bytes, path);
    let versioned = bytes.starts_with(&MAGIC.to_le_bytes());
    if versioned {
        b.u32()?;
        let version = b.i32()?;
        if version != 1 {
            return Err(b.fail(format!(
                "is llama2.c version {version}; supported are the legacy format and version 1"
            )));
        }
    }
    let mut header = [0i64; 7];
    for h in &mut header {
        *h = i64::from(b.i32()?);
    }
    let [dim, hidden, layers, heads, kv_heads, vocab, positions] = header;
    // Legacy: a negative vocabulary size says that the output matrix is separate.
    let tied = if versioned {
        b.take(1)?[0] != 0
    } else {
        vocab > 0
    };
    let sane = |x: i64| (1..=1 << 20).contains(&x);
    let sizes = [dim, hidden, layers, heads, kv_heads, vocab.abs(), positions];
    if !sizes.iter().all(|x| sane(*x)) || dim % heads != 0 || heads % kv_heads != 0 {
        return Err(b.fail(format!(
            "is neither GGUF nor llama2.c: the header would say dimension {dim}, hidden {hidden}, \
             {layers} layers, {heads} heads, {kv_heads} key-value heads, vocabulary {vocab}, \
             {positions} positions"
        )));
    }
    let [dim, hidden, layers, heads, kv_heads, vocab, positions] = sizes.map(|x| x as usize);
    let mut c = LlamaConfig::new(vocab, dim, hidden, layers, heads, kv_heads);
    c.max_positions = positions;
    c.tied = tied;
    c.bos = Some(1);
    c.eos = vec![2];
    if !c.head_dim.is_multiple_of(2) {
        return Err(b.fail(format!("has heads of odd width {}", c.head_dim)));
    }
    let expected = c.parameters().saturating_mul(4);
    if expected > bytes.len() as u64 {
        return Err(b.fail(format!(
            "has {} bytes; its header asks for at least {expected}; download or copy it again",
            bytes.len()
        )));
    }
    if versioned {
        b.at = 256;
    }
    let norms = |b: &mut Bytes<'_>| -> Result<Vec<Vec<f32>>, EngineError> {
        (0..layers).map(|_| b.floats(dim)).collect()
    };
    let (mut embed, mut input, mut post, mut norm) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    if versioned {
        input = norms(&mut b)?;
        post = norms(&mut b)?;
        norm = b.floats(dim)?;
        embed = b.floats(vocab * dim)?;
    } else {
        embed.extend(b.floats(vocab * dim)?);
        input.extend(norms(&mut b)?);
    }
    let mut linear: Vec<Vec<Matrix>> = (0..layers).map(|_| Vec::new()).collect();
    let mut kind = |b: &mut Bytes<'_>, i: usize| -> Result<(), EngineError> {
        let (rows, cols) = projection_shape(&c, i);
        for layer in &mut linear {
            let mut data = b.floats(rows * cols)?;
            if i < 2 {
                data = halves(&data, cols, c.head_dim);
            }
            layer.push(Matrix { rows, cols, data });
        }
        Ok(())
    };
    for i in &ON_DISK[..4] {
        kind(&mut b, *i)?;
    }
    if !versioned {
        post = norms(&mut b)?;
    }
    for i in &ON_DISK[4..] {
        kind(&mut b, *i)?;
    }
    if !versioned {
        norm = b.floats(dim)?;
        // Tables of the rotary embedding, which follow from the shape.
        b.take(positions * c.head_dim * 4)?;
    }
    let lm_head = if tied {
        None
    } else {
        Some(Matrix {
            rows: vocab,
            cols: dim,
            data: b.floats(vocab * dim)?,
        })
    };
    let mut blocks = Vec::with_capacity(layers);
    for ((parts, input_norm), post_norm) in linear.into_iter().zip(input).zip(post) {
        let mut linear: [Matrix; 7] = Default::default();
        for (i, part) in ON_DISK.into_iter().zip(parts) {
            linear[i] = part;
        }
        blocks.push(Block {
            input_norm,
            linear,
            post_norm,
        });
    }
    let weights = Weights {
        embed: Matrix {
            rows: vocab,
            cols: dim,
            data: embed,
        },
        blocks,
        norm,
        lm_head,
        score: None,
    };
    Ok((c, weights))
}

/// llama2.c's `tokenizer.bin`: i32 longest token, then for each token an f32 score, an i32 length
/// and its bytes. The first three are `<unk>`, BOS and EOS.
pub(super) fn vocabulary(path: &Path, size: usize) -> Result<Vocabulary, EngineError> {
    let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
    let mut b = Bytes::new(&bytes, path);
    b.i32()?;
    let (mut tokens, mut scores) = (Vec::new(), Vec::new());
    for id in 0..size {
        scores.push(f32::from_le_bytes(b.array()?));
        let length = usize::try_from(b.i32()?)
            .map_err(|_| b.fail(format!("token {id} has a negative length")))?;
        let text = std::str::from_utf8(b.take(length)?)
            .map_err(|_| b.fail(format!("token {id} is not UTF-8")))?;
        tokens.push(match id {
            0 => "<unk>".to_string(),
            1 => "<s>".to_string(),
            2 => "</s>".to_string(),
            _ => text.replace(' ', "▁"),
        });
    }
    Ok(Vocabulary {
        kind: Kind::SentencePiece { scores },
        tokens,
        control: vec![0, 1, 2],
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        pad: None,
        add_bos: true,
        template: None,
    })
}
