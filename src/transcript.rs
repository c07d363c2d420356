//! A conversation as data: who said what, and the file that keeps it.
//!
//! A transcript is a file of JSON lines that only grows: a header with a version, then one record a line (see [`Record`]).
//! [`TranscriptWriter`] appends to it on a thread of its own; [`read`] gives the conversation back, also from a file whose
//! last line was cut off; [`SessionFile`] opens one to be gone on with, for one process at a time.
//!
//! Messages form a tree: each names the one that it follows, so that a message can be answered or put otherwise a second
//! time and nothing is lost. The conversation is the way from the root to the last message, or to the one that the person
//! went back to. [`library`] is the folder of all of them, [`PromptHistory`] what was asked in them.

mod file;
pub mod library;
mod prompts;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};

pub use file::SessionFile;
pub use prompts::PromptHistory;
pub use reader::{Entry, Figures, Transcript, read};
pub use writer::{Finished, Status, TranscriptWriter};

/// The version that the header carries. A reader refuses a newer one. In version 1 messages named no parents.
pub const VERSION: u32 = 2;

/// Who speaks. The names are those that chat templates use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// The first line: what the conversation was started with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    /// The program and its version.
    pub program: String,
    /// The system prompt.
    pub system: Option<String>,
    /// The sampling parameters by name.
    pub sampling: serde_json::Value,
}

impl Header {
    /// The header of a conversation that begins now.
    pub fn new(system: Option<String>, sampling: serde_json::Value) -> Header {
        Header { version: VERSION, program: format!("wayinfer {}", env!("CARGO_PKG_VERSION")), system, sampling }
    }
}

/// One line. Messages are numbered by `id`, in the order in which they were said; `parent` is the message that one follows,
/// `None` for the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    Header(Header),
    /// A model was loaded: those that follow are its replies.
    Model {
        name: String,
        path: String,
        quantization: String,
    },
    /// The person's message. It clears the draft.
    User {
        id: u64,
        #[serde(default)]
        parent: Option<u64>,
        text: String,
    },
    /// The next piece of a reply that is not finished.
    Partial {
        id: u64,
        #[serde(default)]
        parent: Option<u64>,
        text: String,
    },
    /// The whole reply, in place of its pieces. `stop` names why it ended; `tokens` and `seconds` are of the generation.
    Reply {
        id: u64,
        #[serde(default)]
        parent: Option<u64>,
        text: String,
        stop: String,
        tokens: usize,
        seconds: f64,
    },
    /// These messages are shown but no longer sent: the context was full.
    Dropped {
        ids: Vec<u64>,
    },
    /// This message was not answered and is not sent.
    Withdrawn {
        id: u64,
    },
    /// What was typed but not sent. The last one counts.
    Draft {
        text: String,
    },
    /// From here on the conversation goes on after this message, on another branch; `None`: from the beginning.
    Branch {
        id: Option<u64>,
    },
    /// From here on these hold in place of the header's.
    Settings {
        system: Option<String>,
        sampling: serde_json::Value,
    },
    /// What the person calls the conversation; an empty text takes the name away.
    Title {
        text: String,
    },
}

/// A record with its time, as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// RFC 3339.
    time: String,
    #[serde(flatten)]
    record: Record,
}

impl Line {
    /// The record as a line of the file, said now.
    fn text(record: Record) -> String {
        Line { time: jiff::Timestamp::now().to_string(), record }.into_text()
    }

    fn into_text(self) -> String {
        let mut text = serde_json::to_string(&self).expect("records have string keys");
        text.push('\n');
        text
    }
}

/// What can be wrong with a transcript.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    #[error("the transcript `{path}` cannot be read: {source}")]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("the transcript `{path}` has {bytes} bytes; the limit is {limit}")]
    TooLarge { path: std::path::PathBuf, bytes: u64, limit: u64 },
    #[error("`{path}` is not a transcript: its first line is not a header")]
    NoHeader { path: std::path::PathBuf },
    #[error("the transcript `{path}` has version {found}; this program reads up to {supported}: use a newer one")]
    Version { path: std::path::PathBuf, found: u32, supported: u32 },
    #[error(
        "the session `{path}` is in use by another process; end that one, or keep this conversation in another file"
    )]
    InUse { path: std::path::PathBuf },
    #[error("the session `{path}` cannot be written: {source}")]
    Write { path: std::path::PathBuf, source: std::io::Error },
    #[error("the session `{path}` is not a file")]
    NotAFile { path: std::path::PathBuf },
}
