//! What goes in and out of the state of the screen.

use std::path::PathBuf;

use crossterm::event::Event as TerminalEvent;

use crate::transcript::library::Listed;
use crate::transcript::{Header, Record, Status};
use crate::worker::{Command, Event, PinOrder};

use super::super::ExitReason;
use super::super::markdown::highlight::{Colored, Job};
use super::super::outlook::Outlook;
use super::super::picker::Scan;
use super::super::picture::Shows;
use super::super::theme::{Ground, Palette};

/// What happens to the screen.
#[derive(Debug, Clone)]
pub enum Msg {
    Terminal(TerminalEvent),
    /// The terminal has told its background.
    Ground(Ground),
    Worker(Event),
    /// The engine's thread has ended.
    WorkerGone,
    /// Another thread panicked, and said this.
    Panicked(String),
    Transcript(Status),
    Scanned(Scan),
    /// Work that was asked for is done.
    Answer(Answer),
    /// The process is asked to end by this signal.
    Terminate(i32),
    TerminalClosed,
    /// Time has passed.
    Tick,
}

/// Work on files that the screen does not wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Look for conversations.
    List {
        query: String,
    },
    Rename {
        path: PathBuf,
        title: String,
    },
    Delete {
        path: PathBuf,
    },
    /// Write a new file, by the name that a person gave.
    Write {
        file: String,
        text: String,
    },
    /// Look for a model by its name.
    FindModel(String),
    /// Read a theme's file.
    ReadTheme(String),
}

/// What came of it; errors are for the person.
#[derive(Debug, Clone)]
pub enum Answer {
    Listed {
        query: String,
        found: Result<Vec<Listed>, String>,
    },
    /// A conversation has another name, or is gone.
    Changed(Result<String, String>),
    Told(Result<String, String>),
    Model(Result<PathBuf, String>),
    Theme(Result<Box<Palette>, String>),
    /// What a model that can be picked would be here.
    Outlook(PathBuf, Result<Outlook, String>),
    /// The colours of code in this item of the conversation.
    Colored {
        item: usize,
        colored: Colored,
    },
    /// What an editor made of the input; `None`: nothing else than was there.
    Edited(Result<Option<String>, String>),
}

/// What the screen wants done.
#[derive(Debug, Clone)]
pub enum Effect {
    Send(Command),
    /// Have experts stay in memory, or leave again.
    Pin(PinOrder),
    /// Stop the reply or the load.
    Cancel,
    Record(Record),
    Scan(PathBuf),
    Work(Work),
    /// Find the colours of code in this item of the conversation.
    Color {
        item: usize,
        job: Job,
    },
    /// Go on with the conversation of this name.
    Open(String),
    /// Begin another conversation, and delete the file of the one before.
    Begin {
        header: Box<Header>,
        delete: Option<PathBuf>,
    },
    /// Keep a prompt for being looked up.
    Remember(String),
    /// Put this into the terminal's clipboard.
    Copy(String),
    /// Let the person's own editor have this text.
    EditText(String),
    /// Report the mouse to us, or leave it to the terminal.
    SetMouse(bool),
    /// Draw everything anew.
    Redraw,
    /// Write this to a file, as an SVG.
    SavePicture(Shows),
    /// Go to the shell until called back.
    Suspend,
    Quit(ExitReason),
}
