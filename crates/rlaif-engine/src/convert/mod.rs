//! Other formats into a Hugging Face folder.

mod gguf;
mod llama2c;
mod vocabulary;

use std::path::Path;

use crate::config::LlamaConfig;
use crate::error::EngineError;

/// What a conversion found.
#[derive(Clone, Debug)]
pub struct Converted {
    /// `gguf` or `llama2.c`.
    pub format: &'static str,
    /// The model's shape.
    pub config: LlamaConfig,
    /// Storage types of the tensors and how many of each (GGUF), such as `Q4_1: 154`.
    pub types: Vec<(String, usize)>,
}

/// Reads a GGUF or llama2.c file and writes `config.json`, `model.safetensors` and the tokenizer's
/// files into `out`. Quantized tensors become f32: the numbers that the quantized model computes
/// with. `tokenizer` is llama2.c's `tokenizer.bin`, which its model files do not contain.
///
/// # Errors
/// A file that is neither, truncated, of another architecture or with an unsupported tensor type.
pub fn convert(
    input: &Path,
    tokenizer: Option<&Path>,
    out: &Path,
) -> Result<Converted, EngineError> {
    let bytes = std::fs::read(input).map_err(EngineError::io("read", input))?;
    let (format, config, weights, words, types) = if bytes.starts_with(b"GGUF") {
        let g = gguf::read(&bytes, input)?;
        ("gguf", g.config, g.weights, Some(g.vocabulary), g.types)
    } else {
        let (config, weights) = llama2c::read(&bytes, input)?;
        let words = match tokenizer {
            Some(path) => Some(llama2c::vocabulary(path, config.vocab)?),
            None => None,
        };
        ("llama2.c", config, weights, words, Vec::new())
    };
    weights.write(out, &config, false)?;
    if let Some(words) = words {
        words.write(out)?;
    }
    Ok(Converted {
        format,
        config,
        types,
    })
}

/// A reader over bytes that fails instead of running over the end.
struct Bytes<'a> {
    data: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Bytes<'a> {
    fn new(data: &'a [u8], path: &'a Path) -> Self {
        Bytes { data, at: 0, path }
    }

    fn fail(&self, what: impl Into<String>) -> EngineError {
        EngineError::format(self.path, what)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], EngineError> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.data.len());
        let Some(end) = end else {
            return Err(self.fail(format!(
                "ends after {} bytes, {n} more were expected at {}; download or copy it again",
                self.data.len(),
                self.at
            )));
        };
        let slice = &self.data[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EngineError> {
        let mut a = [0; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }

    fn u32(&mut self) -> Result<u32, EngineError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, EngineError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, EngineError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn floats(&mut self, n: usize) -> Result<Vec<f32>, EngineError> {
        let bytes = n
            .checked_mul(4)
            .ok_or_else(|| self.fail("names a size that overflows"))?;
        let data: Vec<f32> = self
            .take(bytes)?
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        if data.iter().all(|x| x.is_finite()) {
            Ok(data)
        } else {
            Err(self.fail("holds weights that are not finite"))
        }
    }
}

/// Rows of adjacent rotary pairs (j, 2 parts) → Hugging Face's halves (2 parts, j), head by head.
fn halves(data: &[f32], cols: usize, head_dim: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let mut out = vec![0.0; data.len()];
    for (head, out) in data
        .chunks_exact(head_dim * cols)
        .zip(out.chunks_exact_mut(head_dim * cols))
    {
        for part in 0..2 {
            for j in 0..half {
                let to = (part * half + j) * cols;
                let from = (2 * j + part) * cols;
                out[to..to + cols].copy_from_slice(&head[from..from + cols]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_models_are_refused_without_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend(u64::MAX.to_le_bytes());
        let cases: Vec<Vec<u8>> = vec![
            Vec::new(),
            b"GGUF".to_vec(),
            b"GGUF\x09\0\0\0".to_vec(),
            bytes,
            vec![0xff; 4096],
            vec![0; 28],
        ];
        for case in cases {
            std::fs::write(&path, &case).unwrap();
            let e = convert(&path, None, &dir.path().join("out")).unwrap_err();
            assert!(e.to_string().contains("m.gguf"), "{e}");
        }
    }
}
