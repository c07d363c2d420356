//! A conversation to token ids, in the form that the loaded model was trained on.
//!
//! The form is the file's own chat template, or a named stand-in where the file has none that works. What a person typed,
//! and what a model answered, can hold the text of control tokens but never become those tokens: a guard character is put
//! into such text before the template runs and taken out when the rest has been parsed.

use std::fmt::Write as _;

use jiff::civil::DateTime;

use crate::gguf::{Array, GgufError, Metadata, Value};
use crate::transcript::{Message, Role};

use super::template::{ChatTemplate, GenerationPrompt, RenderOptions, TemplateError};
use super::tokenizer::{Tokenizer, TokenizerError};

/// How a model wants its conversations.
#[derive(Debug)]
pub struct ChatFormat {
    name: &'static str,
    template: ChatTemplate,
    bos_token: String,
    eos_token: String,
    system: SystemRole,
    stop_texts: &'static [&'static str],
}

/// Where the system's text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SystemRole {
    /// Into a message of its own.
    OwnMessage,
    /// In front of the first user message, because the template takes no system message.
    FirstUserMessage,
}

/// What stops a conversation from being encoded.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("the conversation uses every private and unassigned character, so none is left to guard its text")]
    NoGuard,
}

/// A form for models whose file has no template.
struct Fallback {
    name: &'static str,
    /// The control tokens that a model of this form has.
    tokens: &'static [&'static str],
    source: &'static str,
    stop_texts: &'static [&'static str],
}

/// In the order in which they are tried; the last asks for nothing.
const FALLBACKS: &[Fallback] = &[
    Fallback {
        name: "ChatML",
        tokens: &["<|im_start|>", "<|im_end|>"],
        source: "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                 {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        stop_texts: &[],
    },
    Fallback {
        name: "Llama 3",
        tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        source: "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n\
                 {{ m.content | trim }}<|eot_id|>{% endfor %}\
                 {% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        stop_texts: &[],
    },
    Fallback {
        name: "Gemma",
        tokens: &["<start_of_turn>", "<end_of_turn>"],
        source: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}\
                 {% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n\
                 {{ m.content | trim }}<end_of_turn>\n{% endfor %}\
                 {% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        stop_texts: &[],
    },
    Fallback {
        name: "Phi 3",
        tokens: &["<|user|>", "<|assistant|>", "<|end|>"],
        source: "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
                 {% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        stop_texts: &[],
    },
    Fallback {
        name: "Zephyr",
        tokens: &["<|user|>", "<|assistant|>"],
        source: "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}\
                 {% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        stop_texts: &[],
    },
    Fallback {
        name: "Llama 2",
        tokens: &["[INST]", "[/INST]"],
        source: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}\
                 {% elif m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]\
                 {% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
        stop_texts: &[],
    },
    Fallback {
        name: "User and Assistant",
        tokens: &[],
        source: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n\
                 {% else %}{{ m.role | capitalize }}: {{ m.content }}\n{% endif %}{% endfor %}\
                 {% if add_generation_prompt %}Assistant:{% endif %}",
        stop_texts: &["\nUser:"],
    },
];

impl ChatFormat {
    /// The form that a file asks for, or a stand-in. The strings are warnings for the person at the screen.
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<(ChatFormat, Vec<String>), ChatError> {
        let mut warnings = Vec::new();
        let own = match source(metadata)? {
            None => Err("the file has no chat template".to_owned()),
            Some(source) => ChatFormat::new("the model's own", source, tokenizer, &[])
                .and_then(|format| format.probed(&mut warnings))
                .map_err(|e| e.to_string()),
        };
        let format = match own {
            Ok(format) => format,
            Err(why) => {
                let fallback = Fallback::for_tokens(tokenizer);
                warnings.push(format!(
                    "{why}; the {} form is used instead, and answers may be worse for it",
                    fallback.name
                ));
                ChatFormat::new(fallback.name, fallback.source, tokenizer, fallback.stop_texts)?
                    .probed(&mut warnings)?
            }
        };
        Ok((format, warnings))
    }

    /// The form's name, for the screen.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Texts that end a reply although no token does, for models that know no end of a turn.
    pub fn stop_texts(&self) -> &[&str] {
        self.stop_texts
    }

    /// The template as the file has it, or that of the stand-in.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The conversation as text.
    pub fn render(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
        now: DateTime,
    ) -> Result<String, TemplateError> {
        self.render_with(messages, generation_prompt, now, str::to_owned)
    }

    /// The conversation as token ids, up to where the assistant's reply begins, with BOS where the model wants it.
    /// Where the last message is the assistant's, its text follows, for the reply to go on with.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], now: DateTime) -> Result<Vec<u32>, ChatError> {
        let guard = self.guard_for(messages).ok_or(ChatError::NoGuard)?;
        let (messages, begun) = match messages.split_last() {
            Some((last, before)) if last.role == Role::Assistant => (before, last.content.as_str()),
            _ => (messages, ""),
        };
        let mut text = self.render_with(messages, GenerationPrompt::Add, now, |text| tokenizer.guard(text, guard))?;
        text.push_str(&tokenizer.guard(begun, guard));
        let mut ids = tokenizer.encode_guarded(&text, guard)?;
        if let Some(bos) = tokenizer.bos().filter(|&bos| tokenizer.add_bos() && ids.first() != Some(&bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn new(
        name: &'static str,
        source: &str,
        tokenizer: &Tokenizer,
        stop_texts: &'static [&'static str],
    ) -> Result<ChatFormat, TemplateError> {
        let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default().to_owned();
        Ok(ChatFormat {
            name,
            template: ChatTemplate::new(source)?,
            bos_token: text_of(tokenizer.bos()),
            eos_token: text_of(tokenizer.eos()),
            system: SystemRole::OwnMessage,
            stop_texts,
        })
    }

    /// Tries the template on a short conversation: it must render one, and it must show the system's text.
    fn probed(mut self, warnings: &mut Vec<String>) -> Result<ChatFormat, TemplateError> {
        const SYSTEM: &str = "probe of the system role";
        let now = DateTime::constant(2026, 1, 1, 12, 0, 0, 0);
        let message = |role, content: &str| Message { role, content: content.to_owned() };
        let plain = [message(Role::User, "Hello")];
        self.render(&plain, GenerationPrompt::Add, now)?;
        let with_system = [message(Role::System, SYSTEM), message(Role::User, "Hello")];
        let shown = self.render(&with_system, GenerationPrompt::Add, now).is_ok_and(|text| text.contains(SYSTEM));
        if !shown {
            self.system = SystemRole::FirstUserMessage;
            warnings.push(
                "the chat template takes no system message; a system prompt goes in front of the first user message"
                    .to_owned(),
            );
        }
        Ok(self)
    }

    fn render_with(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
        now: DateTime,
        guard: impl Fn(&str) -> String,
    ) -> Result<String, TemplateError> {
        let folded;
        let messages = match self.system {
            SystemRole::OwnMessage => messages,
            SystemRole::FirstUserMessage => {
                folded = fold_system(messages);
                &folded
            }
        };
        let messages = messages
            .iter()
            .map(|message| serde_json::json!({ "role": message.role, "content": guard(&message.content) }))
            .collect();
        self.template.render(&RenderOptions {
            messages: &messages,
            generation_prompt,
            bos_token: &self.bos_token,
            eos_token: &self.eos_token,
            now,
            tools: None,
            extra: serde_json::Map::new(),
        })
    }

    /// A character that neither the conversation nor the template holds. The first tried are no characters by Unicode's own
    /// word.
    fn guard_for(&self, messages: &[Message]) -> Option<char> {
        let used =
            |c: char| self.template.source().contains(c) || messages.iter().any(|message| message.content.contains(c));
        ('\u{fdd0}'..='\u{fdef}').chain('\u{e000}'..='\u{f8ff}').find(|&c| !used(c))
    }
}

impl Fallback {
    fn for_tokens(tokenizer: &Tokenizer) -> &'static Fallback {
        let has_all = |fallback: &&Fallback| fallback.tokens.iter().all(|text| tokenizer.special_token(text).is_some());
        FALLBACKS.iter().find(has_all).unwrap_or(&FALLBACKS[FALLBACKS.len() - 1])
    }
}

/// The source of the default template. A file may have several, each under a name of its own.
pub fn source(metadata: &Metadata) -> Result<Option<&str>, GgufError> {
    const KEY: &str = "tokenizer.chat_template";
    match metadata.get(KEY) {
        Some(Value::Array(Array::String(sources))) => return Ok(sources.first().map(String::as_str)),
        Some(_) => return metadata.str(KEY),
        None => {}
    }
    if let Some(source) = metadata.str("tokenizer.chat_template.default")? {
        return Ok(Some(source));
    }
    let named = metadata.iter().find(|(key, _)| key.strip_prefix(KEY).is_some_and(|rest| rest.starts_with('.')));
    named.map_or(Ok(None), |(key, _)| metadata.str(key))
}

/// The conversation with its system messages in front of the first user message.
fn fold_system(messages: &[Message]) -> Vec<Message> {
    let mut system = String::new();
    for message in messages.iter().filter(|message| message.role == Role::System) {
        let _ = write!(system, "{}\n\n", message.content);
    }
    let mut rest: Vec<Message> = messages.iter().filter(|message| message.role != Role::System).cloned().collect();
    match rest.iter_mut().find(|message| message.role == Role::User) {
        Some(first) => first.content.insert_str(0, &system),
        None if !system.is_empty() => {
            rest.insert(0, Message { role: Role::User, content: system.trim_end().to_owned() });
        }
        None => {}
    }
    rest
}

#[cfg(test)]
mod tests;
