//! A conversation as the chat endpoints and `datasets` write it: a list of `{role, content}`.

use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that stand above the conversation.
    System,
    /// The human side.
    User,
    /// The model's side.
    Assistant,
}

impl Role {
    /// The name on the wire: `system`, `user` or `assistant`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }

    /// Reads the names that public datasets use: `human` and `gpt` (ShareGPT) beside the standard
    /// ones. `None` for any other name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "system" | "developer" => Some(Role::System),
            "user" | "human" | "prompter" => Some(Role::User),
            "assistant" | "gpt" | "model" | "bot" | "chatbot" => Some(Role::Assistant),
            _ => None,
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, as plain text.
    pub content: String,
}

impl Message {
    /// A system turn.
    pub fn system(content: impl Into<String>) -> Self {
        Message {
            role: Role::System,
            content: content.into(),
        }
    }

    /// A user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Message {
            role: Role::User,
            content: content.into(),
        }
    }

    /// An assistant turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Message {
            role: Role::Assistant,
            content: content.into(),
        }
    }
}

/// A prompt: the conversation up to the point where an answer is wanted.
///
/// A plain string becomes one user turn, so `"Why is the sky blue?"` and a list of messages are
/// accepted by the same functions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prompt(pub Vec<Message>);

impl Prompt {
    /// The conversation as plain text, for a judge's prompt: a single user turn is given as it
    /// is, a longer conversation as [`Prompt::to_transcript`] gives it.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self.0.as_slice() {
            [only] => only.content.clone(),
            _ => self.to_transcript(),
        }
    }

    /// The conversation with `Human:` and `Assistant:` labels (Bai et al. 2022, §4.1).
    #[must_use]
    pub fn to_transcript(&self) -> String {
        let label = |role: Role| match role {
            Role::System => "System",
            Role::User => "Human",
            Role::Assistant => "Assistant",
        };
        self.0
            .iter()
            .map(|m| format!("{}: {}", label(m.role), m.content))
            .collect::<Vec<_>>()
            .join("\n\n")
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt(vec![Message::user(text)])
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Prompt(vec![Message::user(text)])
    }
}

impl From<&String> for Prompt {
    fn from(text: &String) -> Self {
        Prompt::from(text.as_str())
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Prompt(messages)
    }
}

impl From<&[Message]> for Prompt {
    fn from(messages: &[Message]) -> Self {
        Prompt(messages.to_vec())
    }
}

impl From<&Prompt> for Prompt {
    fn from(prompt: &Prompt) -> Self {
        prompt.clone()
    }
}
