//! Rows and conversations as token ids, for models in memory.

use rlaif_core::Message;
use rlaif_engine::{LlamaConfig, Tokenizer};

use crate::error::Error;

/// A conversation with its answer as ids, and how many of them are the prompt. With a chat template
/// the prompt is the longest beginning that both renderings share, as TRL's `apply_chat_template`
/// takes it; without one the answer follows the plain prompt and an end token.
///
/// # Errors
/// What the template refuses; a prompt without tokens.
pub fn conversation(
    tokenizer: &Tokenizer,
    config: &LlamaConfig,
    messages: &[Message],
    completion: &str,
) -> Result<(usize, Vec<u32>), Error> {
    let prompt = tokenizer.chat(messages, true, None)?;
    let mut all = messages.to_vec();
    all.push(Message::assistant(completion));
    let whole = if tokenizer.has_template() {
        let mut whole = tokenizer.chat(&all, false, None)?;
        // What a template writes after the end of the turn is no part of the answer.
        if let Some(end) = whole.iter().rposition(|id| config.eos.contains(id)) {
            whole.truncate(end + 1);
        }
        whole
    } else {
        let mut whole = prompt.clone();
        whole.extend(tokenizer.encode(completion, false)?);
        whole.extend(config.eos.first());
        whole
    };
    let shared = prompt
        .iter()
        .zip(&whole)
        .take_while(|(a, b)| a == b)
        .count();
    if shared == 0 || shared == whole.len() {
        return Err(Error::input(
            "a row has no prompt or no answer once it is tokenized",
            "check the chat template of the model's folder",
        ));
    }
    Ok((shared, whole))
}
