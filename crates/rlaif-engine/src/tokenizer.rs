//! Text to ids and back, with the model's own tokenizer and chat template.

use std::path::Path;

use rlaif_core::{Message, Role};
use tokenizers::Tokenizer as Inner;

use crate::error::EngineError;
use crate::template::ChatTemplate;

/// A tokenizer with its chat template.
pub struct Tokenizer {
    inner: Inner,
    template: Option<ChatTemplate>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and the chat template beside it.
    ///
    /// # Errors
    /// A file that is missing or does not parse.
    pub fn read(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("tokenizer.json");
        let inner = Inner::from_file(&path)
            .map_err(|e| EngineError::format(&path, format!("is not a tokenizer: {e}")))?;
        Ok(Tokenizer {
            inner,
            template: ChatTemplate::read(folder)?,
        })
    }

    /// Number of ids, added tokens included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there are no ids.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the model has a chat template.
    #[must_use]
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The id of a token.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of a text; `special` adds what the tokenizer's own post-processing adds (BOS).
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, EngineError> {
        let encoding = self
            .inner
            .encode_fast(text, special)
            .map_err(|e| EngineError::Template(format!("the tokenizer refuses: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids; special tokens are left out.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EngineError> {
        self.inner
            .decode(ids, true)
            .map_err(|e| EngineError::Template(format!("the tokenizer refuses: {e}")))
    }

    /// The text of ids, special tokens included.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String, EngineError> {
        self.inner
            .decode(ids, false)
            .map_err(|e| EngineError::Template(format!("the tokenizer refuses: {e}")))
    }

    /// The conversation as the model reads it: by its template, tokenized without further special
    /// tokens, so that there is one BOS where the template writes one; with `generate`, up to where
    /// the answer begins, and then `prefill`. A model without a template continues the plain text of
    /// a single message.
    ///
    /// # Errors
    /// What the template raises; more than one message without a template.
    pub fn chat(
        &self,
        messages: &[Message],
        generate: bool,
        prefill: Option<&str>,
    ) -> Result<Vec<u32>, EngineError> {
        let prefill = prefill.unwrap_or("");
        match (&self.template, messages) {
            (Some(t), _) => self.encode(&(t.render(messages, generate)? + prefill), false),
            (None, [one]) if one.role == Role::User => {
                self.encode(&(one.content.clone() + prefill), true)
            }
            (None, _) => Err(EngineError::Template(
                "the model has no chat template, so it can only continue a plain prompt; put a \
                 chat_template.jinja into its folder"
                    .into(),
            )),
        }
    }

    /// The whole conversation as the model reads it, and which tokens the assistant wrote by the
    /// template's `{% generation %}` blocks: what `transformers` returns as `assistant_masks`.
    ///
    /// # Errors
    /// What the template raises; a model whose template marks nothing, or that has none.
    pub fn chat_masked(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<bool>), EngineError> {
        let template = self.template.as_ref().ok_or_else(|| {
            EngineError::Template("the model has no chat template, so no turn is marked".into())
        })?;
        let (text, spans) = template.render_spans(messages, false)?;
        if spans.is_empty() {
            return Err(EngineError::Template(
                "the chat template marks nothing with {% generation %}".into(),
            ));
        }
        let encoding = self
            .inner
            .encode_char_offsets(text, false)
            .map_err(|e| EngineError::Template(format!("the tokenizer refuses: {e}")))?;
        // A token counts where it overlaps a span. Spans and offsets are both in order.
        let mut spans = spans.into_iter().peekable();
        let mask = encoding
            .get_offsets()
            .iter()
            .map(|(start, end)| {
                while spans.next_if(|s| *start >= s.end).is_some() {}
                spans.peek().is_some_and(|s| *end > s.start)
            })
            .collect();
        Ok((encoding.get_ids().to_vec(), mask))
    }
}
