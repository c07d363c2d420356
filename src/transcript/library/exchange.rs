//! Conversations in the forms of other programs: Markdown and JSON out, JSON in.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::reader::Entry;
use super::super::writer::create;
use super::super::{Header, Line, Record, Role, Transcript};

/// The mark by which an export is known again.
const FORMAT: &str = "wayinfer-conversation";
const VERSION: u32 = 1;
/// More messages are refused: no person said them.
const MOST_MESSAGES: usize = 1_000_000;

/// What a conversation is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The branch that the conversation is on, to be read.
    Markdown,
    /// All of it, to be imported again.
    Json,
}

/// A conversation as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Exported {
    format: String,
    version: u32,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    system: Option<String>,
    #[serde(default)]
    sampling: Value,
    /// The message that it goes on after.
    #[serde(default)]
    head: Option<u64>,
    messages: Vec<Said>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Said {
    id: u64,
    #[serde(default)]
    parent: Option<u64>,
    role: Role,
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default)]
    time: String,
    /// Of a whole reply: why it ended, its tokens and its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dropped: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    withdrawn: bool,
}

/// Why a text is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("it is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it holds {found}, expected an exported conversation or a list of messages with `role` and `content`")]
    Shape { found: String },
    #[error("the export has version {found}; this program reads version {VERSION}: use a newer one")]
    Version { found: u32 },
    #[error("message {at} has the role `{role}`; `system`, `user` and `assistant` can be kept")]
    Role { at: usize, role: String },
    #[error("message {at} has no text in `content`")]
    Content { at: usize },
    #[error("message {at} has the number {id}, which another one has, or follows one that is not before it")]
    Order { at: usize, id: u64 },
    #[error("it holds {found} messages, expected 1 to {MOST_MESSAGES}")]
    Count { found: usize },
    #[error("the conversation cannot be written to `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// The conversation in a form for others.
pub fn export(transcript: &Transcript, format: Format) -> String {
    match format {
        Format::Markdown => markdown(transcript),
        Format::Json => json(transcript),
    }
}

fn markdown(transcript: &Transcript) -> String {
    let name = transcript.name();
    let mut out = format!("# {}\n", if name.is_empty() { "A conversation" } else { &name });
    let path = transcript.path();
    if let Some(first) = path.first() {
        let _ = write!(out, "\n{}", first.time);
    }
    let others = transcript.entries.iter().filter(|e| !e.withdrawn).count().saturating_sub(path.len());
    if others > 0 {
        let _ = write!(out, " · {others} messages on other branches are in the JSON export");
    }
    out.push('\n');
    if let Some(system) = &transcript.header.system {
        let _ = write!(out, "\n## System\n\n{}\n", system.trim_end());
    }
    for entry in path {
        let who = match entry.message.role {
            Role::User => "You",
            Role::System => "System",
            Role::Assistant => entry.model.as_deref().unwrap_or("Model"),
        };
        let _ = write!(out, "\n## {}\n\n{}\n", who.replace('\n', " "), entry.message.content.trim_end());
    }
    out
}

fn json(transcript: &Transcript) -> String {
    let said = |e: &Entry| Said {
        id: e.id,
        parent: e.parent,
        role: e.message.role,
        content: e.message.content.clone(),
        model: e.model.clone(),
        time: e.time.clone(),
        stop: e.figures.as_ref().map(|f| f.stop.clone()),
        tokens: e.figures.as_ref().map(|f| f.tokens),
        seconds: e.figures.as_ref().map(|f| f.seconds),
        dropped: e.dropped,
        withdrawn: e.withdrawn,
    };
    let exported = Exported {
        format: FORMAT.into(),
        version: VERSION,
        title: transcript.title.clone(),
        system: transcript.header.system.clone(),
        sampling: transcript.header.sampling.clone(),
        head: transcript.head(),
        messages: transcript.entries.iter().map(said).collect(),
    };
    serde_json::to_string_pretty(&exported).expect("an export has string keys") + "\n"
}

/// Writes the conversation in `text` to a new file of `dir`: an export of this program, or messages as most programs keep
/// them, in a list or under `messages`. Returns the file. Nothing is written of a text that is wrong.
pub fn import(dir: &Path, text: &str) -> Result<PathBuf, ImportError> {
    let value: Value = serde_json::from_str(text)?;
    let lines = match &value {
        Value::Object(object) if object.get("format").is_some_and(|f| f == FORMAT) => {
            let version = object.get("version").and_then(Value::as_u64).unwrap_or(0) as u32;
            if version != VERSION {
                return Err(ImportError::Version { found: version });
            }
            own(serde_json::from_value(value)?)?
        }
        Value::Object(object) => match object.get("messages") {
            Some(Value::Array(messages)) => {
                foreign(messages, object.get("title").or_else(|| object.get("name")).and_then(Value::as_str))?
            }
            _ => return Err(ImportError::Shape { found: "an object without `messages`".into() }),
        },
        Value::Array(messages) => foreign(messages, None)?,
        _ => return Err(ImportError::Shape { found: "a single value".into() }),
    };
    let failed = |source| ImportError::Write { path: dir.to_owned(), source };
    let mut session = create(dir).map_err(failed)?;
    let text: String = lines.into_iter().map(|line| line.into_text()).collect();
    let written = session.file.write_all(text.as_bytes()).and_then(|()| session.file.sync_data());
    if let Err(source) = written {
        let _ = std::fs::remove_file(&session.path);
        return Err(failed(source));
    }
    Ok(session.path)
}

fn check_count(found: usize) -> Result<(), ImportError> {
    if (1..=MOST_MESSAGES).contains(&found) { Ok(()) } else { Err(ImportError::Count { found }) }
}

fn own(exported: Exported) -> Result<Vec<Line>, ImportError> {
    check_count(exported.messages.len())?;
    let line = |time: &str, record| Line { time: time.to_owned(), record };
    let mut lines = vec![line("", Record::Header(Header::new(exported.system, exported.sampling)))];
    let mut seen = HashSet::new();
    let mut model = None;
    for (at, said) in (1..).zip(exported.messages) {
        let Said { id, parent, content: text, time, .. } = said;
        if parent.is_some_and(|parent| !seen.contains(&parent)) || !seen.insert(id) {
            return Err(ImportError::Order { at, id });
        }
        match said.role {
            Role::System => return Err(ImportError::Role { at, role: "system".into() }),
            Role::User => lines.push(line(&time, Record::User { id, parent, text })),
            Role::Assistant => {
                if said.model.is_some() && said.model != model {
                    model.clone_from(&said.model);
                    let (name, path, quantization) = (said.model.unwrap_or_default(), String::new(), String::new());
                    lines.push(line(&time, Record::Model { name, path, quantization }));
                }
                lines.push(line(
                    &time,
                    match said.stop {
                        None => Record::Partial { id, parent, text },
                        Some(stop) => {
                            let (tokens, seconds) = (said.tokens.unwrap_or(0), said.seconds.unwrap_or(0.0));
                            Record::Reply { id, parent, text, stop, tokens, seconds }
                        }
                    },
                ));
            }
        }
        if said.dropped {
            lines.push(line(&time, Record::Dropped { ids: vec![id] }));
        }
        if said.withdrawn {
            lines.push(line(&time, Record::Withdrawn { id }));
        }
    }
    if exported.head.is_none_or(|head| seen.contains(&head)) {
        lines.push(line("", Record::Branch { id: exported.head }));
    }
    lines.extend(exported.title.map(|text| line("", Record::Title { text })));
    Ok(lines)
}

fn foreign(messages: &[Value], title: Option<&str>) -> Result<Vec<Line>, ImportError> {
    check_count(messages.len())?;
    let time = jiff::Timestamp::now().to_string();
    let line = |record| Line { time: time.clone(), record };
    let mut system: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    let mut parent = None;
    let mut id = 0;
    for (at, message) in (1..).zip(messages) {
        let text = content(message).ok_or(ImportError::Content { at })?;
        let role = message["role"].as_str().unwrap_or_default();
        match role {
            "system" | "developer" => {
                system.push(text);
                continue;
            }
            "user" => {
                id += 1;
                lines.push(line(Record::User { id, parent, text }));
            }
            "assistant" => {
                id += 1;
                let stop = "end_of_turn".to_owned();
                lines.push(line(Record::Reply { id, parent, text, stop, tokens: 0, seconds: 0.0 }));
            }
            role => return Err(ImportError::Role { at, role: role.chars().take(40).collect() }),
        }
        parent = Some(id);
    }
    let system = (!system.is_empty()).then(|| system.join("\n\n"));
    lines.insert(0, line(Record::Header(Header::new(system, Value::Null))));
    lines.extend(title.map(|text| line(Record::Title { text: text.to_owned() })));
    Ok(lines)
}

/// The text of a message: a string, or the texts of a list of parts.
fn content(message: &Value) -> Option<String> {
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let texts: Option<Vec<&str>> = parts.iter().map(|part| part["text"].as_str()).collect();
            texts.filter(|texts| !texts.is_empty()).map(|texts| texts.concat())
        }
        _ => None,
    }
}
