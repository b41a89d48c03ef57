//! Chat templates, rendered as `transformers` renders them.

use std::ops::Range;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, context};
use rlaif_core::Message;

use crate::error::EngineError;

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    /// `bos_token`, `eos_token` and the other named tokens of `tokenizer_config.json`.
    named: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` (its entry
    /// `default` where it is a list). `None` where the model has no template.
    ///
    /// # Errors
    /// A file that cannot be read or a template that does not parse, with the line.
    pub fn read(folder: &Path) -> Result<Option<Self>, EngineError> {
        let path = folder.join("tokenizer_config.json");
        let config: serde_json::Value = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|e| EngineError::format(&path, format!("is not JSON: {e}")))?,
            Err(_) => serde_json::Value::Null,
        };
        let mut named = Vec::new();
        for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            let value = &config[key];
            if let Some(text) = value.as_str().or_else(|| value["content"].as_str()) {
                named.push((key.to_string(), text.to_string()));
            }
        }
        let file = folder.join("chat_template.jinja");
        let source = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(_) => match &config["chat_template"] {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Array(list) => list
                    .iter()
                    .find(|t| t["name"] == "default")
                    .and_then(|t| t["template"].as_str())
                    .map(str::to_string),
                _ => None,
            },
        };
        match source {
            None => Ok(None),
            Some(text) => Self::new(&text, named)
                .map(Some)
                .map_err(|e| EngineError::format(folder, e.to_string())),
        }
    }

    /// A template from its source. `named` are the tokens it may use.
    ///
    /// # Errors
    /// A template that does not parse, with the line.
    pub fn new(source: &str, named: Vec<(String, String)>) -> Result<Self, EngineError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|e| EngineError::Template(e.to_string()))?;
        env.set_syntax(syntax);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", to_json);
        // In Python none is not iterable; here it is an empty sequence.
        env.add_test("iterable", |value: &Value| {
            !value.is_none() && value.try_iter().is_ok()
        });
        env.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        env.add_function("strftime_now", |format: String| strftime(&format, now()));
        env.add_template_owned("chat", generation_as_scope(source))
            .map_err(|e| EngineError::Template(format!("the chat template does not parse: {e}")))?;
        let source = source.to_string();
        Ok(ChatTemplate { env, source, named })
    }

    /// The conversation as text; with `generate`, ending where the assistant's answer begins.
    ///
    /// # Errors
    /// What the template itself raises, such as on roles that do not alternate.
    pub fn render(&self, messages: &[Message], generate: bool) -> Result<String, EngineError> {
        self.marked(messages, generate, "")
    }

    /// The conversation as text, and what `{% generation %}` blocks wrote of it: ranges of
    /// characters, in order, as `transformers` finds them. None where the template marks nothing.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_spans(
        &self,
        messages: &[Message],
        generate: bool,
    ) -> Result<(String, Vec<Range<usize>>), EngineError> {
        // A mark that no input holds, so that whoever wrote a message cannot set one.
        let mark = (0u32..)
            .map(|n| format!("\u{1}{n}\u{2}"))
            .find(|mark| {
                let free = |text: &str| !text.contains(mark.as_str());
                free(&self.source)
                    && messages.iter().all(|m| free(&m.content))
                    && self.named.iter().all(|(_, t)| free(t))
            })
            .unwrap_or_default();
        let marked = self.marked(messages, generate, &mark)?;
        let (mut text, mut spans) = (String::with_capacity(marked.len()), Vec::new());
        let (mut at, mut from) = (0, None);
        for (i, part) in marked.split(mark.as_str()).enumerate() {
            if i > 0 {
                match from.take() {
                    None => from = Some(at),
                    Some(from) => spans.push(from..at),
                }
            }
            at += part.chars().count();
            text.push_str(part);
        }
        Ok((text, spans))
    }

    fn marked(
        &self,
        messages: &[Message],
        generate: bool,
        mark: &str,
    ) -> Result<String, EngineError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| {
                Value::from_pairs([
                    ("role", Value::from(m.role.as_str())),
                    ("content", Value::from(m.content.as_str())),
                ])
            })
            .collect();
        let named = Value::from_pairs(
            self.named
                .iter()
                .map(|(k, v)| (k.clone(), Value::from(v.as_str()))),
        );
        self.env
            .get_template("chat")
            .and_then(|t| {
                t.render(context! {
                    messages,
                    add_generation_prompt => generate,
                    // As `transformers` gives them: defined, and none.
                    tools => (),
                    documents => (),
                    rlaif_mark => mark,
                    ..named
                })
            })
            .map_err(|e| EngineError::Template(format!("the chat template refuses: {e:#}")))
    }
}

/// `{% generation %}` has a scope of its own in `transformers`, as `with` has here, and its ends are
/// marked for [`ChatTemplate::render_spans`]. The empty `if` takes over what the tag says about the
/// blanks inside.
fn generation_as_scope(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        out.push_str(&rest[..start]);
        let Some(length) = rest[start..].find("%}") else {
            rest = &rest[start..];
            break;
        };
        let tag = &rest[start..start + length + 2];
        let inner = &tag[2..tag.len() - 2];
        let (left, right) = (
            blank(inner.chars().next()),
            blank(inner.chars().next_back()),
        );
        match inner.trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&format!(
                "{{%{left} with rlaif_in = true %}}{{{{ rlaif_mark }}}}{{% if true {right}%}}"
            )),
            "endgeneration" => out.push_str(&format!(
                "{{%{left} endif %}}{{{{ rlaif_mark }}}}{{% endwith {right}%}}"
            )),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

/// What a tag says about the blanks beside it.
fn blank(c: Option<char>) -> &'static str {
    match c {
        Some('-') => "-",
        Some('+') => "+",
        _ => "",
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Another keyword of Python's is read so that it is not an error.
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    dump(&value, indent, 0, &mut out)?;
    Ok(out)
}

fn dump(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), Error> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let newline = |out: &mut String, depth: usize| {
        if let Some(n) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(n * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::None | ValueKind::Undefined => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        kind @ (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) => {
            let map = kind == ValueKind::Map;
            out.push(if map { '{' } else { '[' });
            let mut any = false;
            for item in value.try_iter()? {
                if any {
                    out.push_str(comma);
                }
                any = true;
                newline(out, depth + 1);
                if map {
                    out.push_str(&quoted(&item.to_string()));
                    out.push_str(": ");
                    dump(&value.get_item(&item)?, indent, depth + 1, out)?;
                } else {
                    dump(&item, indent, depth + 1, out)?;
                }
            }
            if any {
                newline(out, depth);
            }
            out.push(if map { '}' } else { ']' });
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// The date formats that chat templates use, in UTC.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    // Days to civil date (Hinnant, "chrono-compatible low-level date algorithms").
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days / 146_097;
    let doe = days - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let name = MONTHS[(month - 1) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('Y') => out.push_str(&year.to_string()),
            Some('B') => out.push_str(name),
            Some('b') => out.push_str(&name[..3]),
            Some('H') => out.push_str(&format!("{:02}", seconds / 3600 % 24)),
            Some('M') => out.push_str(&format!("{:02}", seconds / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", seconds % 60)),
            Some('%') => out.push('%'),
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: `%{}` is not supported", other.unwrap_or(' ')),
                ));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlaif_core::Role;

    fn messages() -> Vec<Message> {
        vec![
            Message {
                role: Role::User,
                content: "Hi <b> & \"you\"".into(),
            },
            Message {
                role: Role::Assistant,
                content: " Hello ".into(),
            },
        ]
    }

    #[test]
    fn a_generation_block_has_a_scope_and_prints_its_content() {
        let t = ChatTemplate::new(
            "{%- for m in messages -%}{%- if m.role == 'assistant' -%}\n{%- generation -%}{% set x = 1 %}\
             {{ m.content.strip() }}{{ eos_token }}{%- endgeneration -%}{{ x is defined }}{% endif %}{% endfor %}",
            vec![("eos_token".into(), "</s>".into())],
        )
        .unwrap();
        assert_eq!(t.render(&messages(), false).unwrap(), "Hello</s>False");
    }

    #[test]
    fn json_is_pythons_and_html_is_not_escaped() {
        let t = ChatTemplate::new("{{ messages[0] | tojson }}", vec![]).unwrap();
        assert_eq!(
            t.render(&messages(), false).unwrap(),
            "{\"role\": \"user\", \"content\": \"Hi <b> & \\\"you\\\"\"}"
        );
    }

    #[test]
    fn a_template_that_raises_says_why() {
        let t = ChatTemplate::new("{{ raise_exception('roles must alternate') }}", vec![]).unwrap();
        let e = t.render(&messages(), true).unwrap_err().to_string();
        assert!(e.contains("roles must alternate"), "{e}");
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(
            strftime("%d %b %Y %H:%M:%S", 951_782_399).unwrap(),
            "28 Feb 2000 23:59:59"
        );
        assert_eq!(
            strftime("%d %B %Y", 951_868_799).unwrap(),
            "29 February 2000"
        );
    }
}
