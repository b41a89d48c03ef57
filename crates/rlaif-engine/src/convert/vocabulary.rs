//! A tokenizer's files from a word list.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::EngineError;
use crate::weights::replace;

/// How text becomes pieces.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Byte-level BPE with its merges; the pre-tokenizer's name as GGUF gives it.
    ByteLevel { merges: Vec<String>, pre: String },
    /// SentencePiece BPE: merges follow from the scores.
    SentencePiece { scores: Vec<f32> },
}

/// A word list and what belongs to it.
pub(super) struct Vocabulary {
    pub kind: Kind,
    pub tokens: Vec<String>,
    /// Ids that are never made from text.
    pub control: Vec<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: bool,
    pub template: Option<String>,
}

impl Vocabulary {
    /// Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.
    pub(super) fn write(&self, out: &Path) -> Result<(), EngineError> {
        let file = out.join("tokenizer.json");
        let json = self.tokenizer_json(&file)?;
        replace(&file, json.to_string().as_bytes())?;
        let name = |id: Option<u32>| id.and_then(|i| self.tokens.get(i as usize)).cloned();
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name(self.bos),
            "eos_token": name(self.eos),
            "unk_token": name(self.unk),
            "pad_token": name(self.pad),
            "clean_up_tokenization_spaces": false,
            "model_max_length": 1_000_000_000_000_u64,
        });
        let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
        replace(&out.join("tokenizer_config.json"), text.as_bytes())?;
        if let Some(template) = &self.template {
            replace(&out.join("chat_template.jinja"), template.as_bytes())?;
        }
        Ok(())
    }

    fn tokenizer_json(&self, path: &Path) -> Result<Value, EngineError> {
        let vocab: serde_json::Map<String, Value> = self
            .tokens
            .iter()
            .enumerate()
            .map(|(i, t)| (t.clone(), json!(i)))
            .collect();
        if vocab.len() != self.tokens.len() {
            return Err(EngineError::format(
                path,
                "the word list names a token twice",
            ));
        }
        let added: Vec<Value> = self
            .control
            .iter()
            .filter_map(|id| self.tokens.get(*id as usize).map(|t| (id, t)))
            .map(|(id, t)| {
                json!({"id": id, "content": t, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let post = self
            .bos
            .filter(|_| self.add_bos)
            .and_then(|id| self.tokens.get(id as usize).map(|t| (id, t)))
            .map(|(id, t)| {
                json!({"type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": t, "type_id": 0}},
                               {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"SpecialToken": {"id": t, "type_id": 0}},
                             {"Sequence": {"id": "A", "type_id": 0}},
                             {"SpecialToken": {"id": t, "type_id": 1}},
                             {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {t: {"id": t, "ids": [id], "tokens": [t]}}})
            });
        let byte_level = |regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": regex})
        };
        let (normalizer, pre, decoder, merges, fallback) = match &self.kind {
            Kind::ByteLevel { merges, pre } => {
                let first = match pre.as_str() {
                    "smollm" => json!({"type": "Digits", "individual_digits": true}),
                    "llama-bpe" | "llama3" => json!({
                        "type": "Split", "behavior": "Isolated", "invert": false,
                        "pattern": {"Regex": LLAMA3_SPLIT}}),
                    "gpt-2" | "default" => Value::Null,
                    other => {
                        return Err(EngineError::format(
                            path,
                            format!(
                                "the pre-tokenizer `{other}` is not supported; supported: smollm, \
                                 llama-bpe, gpt-2"
                            ),
                        ));
                    }
                };
                let parts: Vec<Value> = [first, byte_level(!pre.starts_with("llama"))]
                    .into_iter()
                    .filter(|p| !p.is_null())
                    .collect();
                let merges: Vec<Value> = merges
                    .iter()
                    .filter_map(|m| m.split_once(' '))
                    .map(|(a, b)| json!([a, b]))
                    .collect();
                (
                    Value::Null,
                    json!({"type": "Sequence", "pretokenizers": parts}),
                    byte_level(true),
                    merges,
                    false,
                )
            }
            Kind::SentencePiece { scores } => (
                json!({"type": "Sequence", "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}),
                Value::Null,
                json!({"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"}, {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
                merges_by_score(&self.tokens, scores),
                true,
            ),
        };
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre,
            "post_processor": post,
            "decoder": decoder,
            "model": {"type": "BPE", "dropout": null,
                "unk_token": self.unk.and_then(|i| self.tokens.get(i as usize)),
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": fallback, "byte_fallback": fallback, "ignore_merges": false,
                "vocab": vocab, "merges": merges},
        }))
    }
}

/// Llama 3's split pattern.
const LLAMA3_SPLIT: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\
                            [^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// Every way to make a piece of two others, best score first, as `transformers` derives the merges
/// of a SentencePiece BPE.
fn merges_by_score(tokens: &[String], scores: &[f32]) -> Vec<Value> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(i, t)| (t.as_str(), i))
        .collect();
    let mut merges = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        for (at, _) in token.char_indices().skip(1) {
            let (a, b) = token.split_at(at);
            if let (Some(a), Some(b)) = (ids.get(a), ids.get(b)) {
                merges.push((i, *a, *b));
            }
        }
    }
    merges.sort_by(|x, y| {
        scores[y.0]
            .total_cmp(&scores[x.0])
            .then(x.1.cmp(&y.1))
            .then(x.2.cmp(&y.2))
    });
    merges
        .into_iter()
        .map(|(_, a, b)| json!([tokens[a], tokens[b]]))
        .collect()
}
