//! The state of the screen, and how it changes: a message in, effects out. Nothing here draws, waits or touches the system.

mod actions;
mod branches;
mod commands;
mod history;
mod looks;
mod messages;
mod reading;
mod replies;
mod sessions;
mod tokens;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossterm::event::{Event as TerminalEvent, KeyEventKind, MouseEventKind};

use crate::sampler::SamplingParams;
use crate::telemetry::Snapshot;
use crate::transcript::{Header, Record, Role, Status, Transcript};
use crate::worker::{Command, ModelSummary};

use super::composer::Composer;
use super::conversation::{Conversation, Kind};
use super::gauges::Gauges;
use super::keys::{Context, Keys};
use super::panel::{Panel, Preset};
use super::picker::Picker;
use super::sanitize::pasted;
use super::session_list::SessionList;
use super::theme::{self, Ground, Theme};
use super::{ChatOptions, ExitReason, Motion};

pub use branches::Way;
pub use history::Search;
pub use messages::{Answer, Effect, Msg, Work};
pub use sessions::Confirm;

/// How long a notice in the status line stays.
const NOTICE_TIME: Duration = Duration::from_secs(4);
/// Within this a second Ctrl+C quits.
const QUIT_TIME: Duration = Duration::from_secs(2);
/// Text of a reply under way goes to the transcript this often.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// What is typed and not sent goes to the transcript this often.
const DRAFT_TIME: Duration = Duration::from_secs(2);
const DRAFT_BYTES_A_SECOND: u64 = 4096;
/// More messages than this are not queued.
const MAX_QUEUE: usize = 32;
const WHEEL_LINES: isize = 3;

/// What the engine is doing, as far as its events tell.
#[derive(Debug)]
pub enum Engine {
    /// No model is loaded.
    Absent,
    Loading {
        path: PathBuf,
        since: Instant,
        stopping: bool,
    },
    Ready,
    Replying(Reply),
    /// Its thread has ended.
    Gone,
}

/// A reply under way.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// Its place in the conversation, and that of the message it answers.
    pub item: usize,
    pub question: usize,
    pub way: Way,
    pub since: Instant,
    /// Since when the first text is here.
    pub text_since: Option<Instant>,
    /// Tokens of the prompt, and how many of them were in the KV cache.
    pub prompt: Option<(usize, usize)>,
    /// It has been asked to stop.
    pub stopping: bool,
    /// Bytes of its text that the transcript has, and since when.
    recorded: usize,
    recorded_at: Instant,
}

/// What the mouse is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mouse {
    /// The wheel scrolls; the terminal selects text only with Shift held.
    Scrolls,
    /// The terminal selects text, and the panel is out of its way.
    Selects,
    /// It was left to the terminal from the start.
    Unused,
}

/// The question what to do about a full context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContextFull {
    pub needed: usize,
    pub capacity: usize,
    pub droppable_turns: Option<usize>,
    /// The message that waits for the answer, and what kind of answer.
    pub question: usize,
    pub way: Way,
}

/// All that the screen shows.
#[derive(Debug)]
pub struct App {
    pub keys: Keys,
    pub theme: Theme,
    /// Nobody chose a theme: it is as the terminal's background is.
    theme_is_auto: bool,
    ground: Ground,
    /// The names of the themes there are.
    theme_names: Vec<String>,
    pub motion: Motion,
    pub engine: Engine,
    pub model: Option<ModelSummary>,
    pub models_dir: PathBuf,
    embedded: Option<PathBuf>,
    pub conversation: Conversation,
    pub composer: Composer,
    /// Messages that wait for the reply under way.
    pub queue: VecDeque<String>,
    pub picker: Option<Picker>,
    pub dialog: Option<ContextFull>,
    pub sessions: Option<SessionList>,
    pub confirm: Option<Confirm>,
    pub search: Option<Search>,
    /// The message that the input is to stand in for.
    pub editing: Option<u64>,
    /// The first line of help that is seen, while it is open.
    pub help: Option<usize>,
    /// Whether the panel is wanted; whether there is room is the layout's to say.
    pub panel: Panel,
    pub panel_fits: bool,
    pub mouse: Mouse,
    pub gauges: Gauges,
    pub transcript: Option<PathBuf>,
    /// Rows of the list or help that were visible last.
    pub page: usize,
    notice: Option<(String, Instant)>,
    quit_armed: Option<Instant>,
    system: Option<String>,
    sampling: SamplingParams,
    /// The sampling that was asked for at the start: it wins over a session's own.
    asked_sampling: Option<SamplingParams>,
    max_tokens: Option<usize>,
    /// What the transcript says: all that was said, on every branch.
    told: Transcript,
    /// The text whose completions were looked through, and which of them is chosen.
    suggested: (String, usize),
    /// Code is being coloured.
    coloring: bool,
    /// The draft that the transcript has, and since when. A message that is recorded takes its place.
    drafted: (String, Instant),
}

impl App {
    /// The first state, and what to begin with.
    pub fn new(options: ChatOptions, theme: Theme, now: Instant) -> (App, Vec<Effect>) {
        let appearance = options.appearance;
        let mut app = App {
            keys: options.keys.with_arrows(theme.symbols.arrows()),
            ground: theme.ground(),
            theme,
            theme_is_auto: appearance.theme.is_none(),
            theme_names: theme::names(appearance.themes.as_deref()),
            motion: appearance.motion,
            engine: Engine::Absent,
            model: None,
            models_dir: options.models_dir,
            embedded: options.embedded,
            conversation: Conversation::default(),
            composer: Composer::default(),
            queue: VecDeque::new(),
            picker: None,
            dialog: None,
            sessions: None,
            confirm: None,
            search: None,
            editing: None,
            help: None,
            panel: Panel::default(),
            panel_fits: true,
            mouse: if options.mouse { Mouse::Scrolls } else { Mouse::Unused },
            gauges: Gauges::default(),
            transcript: None,
            page: 1,
            notice: None,
            quit_armed: None,
            system: options.system.clone(),
            sampling: options.sampling.clone(),
            asked_sampling: options.sampling_asked.then(|| options.sampling.clone()),
            max_tokens: None,
            told: Transcript::new(Header::new(options.system, options.sampling.json())),
            suggested: Default::default(),
            coloring: false,
            drafted: (String::new(), now),
        };
        let mut effects = vec![Effect::SetMouse(options.mouse)];
        match options.model {
            Some(path) => effects.extend(app.load(path, now)),
            None => effects.extend(app.open_picker(None)),
        }
        (app, effects)
    }

    /// Shows what was said before in a session that is gone on with, and takes over its settings and its draft.
    pub fn resume(&mut self, path: PathBuf, transcript: &Transcript) {
        self.transcript = Some(path);
        self.told = transcript.clone();
        self.take_settings(&transcript.header);
        let unanswered = transcript.unanswered();
        self.conversation.number_from(transcript.next_id());
        for entry in transcript.path() {
            if entry.message.role != Role::Assistant {
                self.composer.remember(&super::commands::escaped(&pasted(&entry.message.content)));
            }
            let item = self.show_entry(entry);
            if Some(entry.id) == unanswered {
                self.withdraw(item, "the program ended before it was answered");
                // The writer says so in the file.
                self.told.note(Record::Withdrawn { id: entry.id });
            }
        }
        if let Some(draft) = &transcript.draft {
            self.composer.set_text(&pasted(draft));
            self.drafted.0.clone_from(draft);
        }
    }

    /// The settings of a conversation hold for it.
    fn take_settings(&mut self, header: &Header) {
        self.system.clone_from(&header.system);
        if self.asked_sampling.is_none() {
            self.sampling = self.sampling.with_json(&header.sampling);
        }
        let most = header.sampling["max_tokens"].as_u64().and_then(|n| usize::try_from(n).ok());
        self.max_tokens = most.filter(|&n| n > 0);
    }

    /// Takes one message.
    pub fn update(&mut self, msg: Msg, now: Instant) -> Vec<Effect> {
        let mut effects = self.take(msg, now);
        self.check_token();
        if !self.coloring
            && let Some((item, job)) = self.conversation.next_job()
        {
            self.coloring = true;
            effects.push(Effect::Color { item, job });
        }
        effects
    }

    fn take(&mut self, msg: Msg, now: Instant) -> Vec<Effect> {
        match msg {
            Msg::Terminal(event) => self.on_terminal(event, now),
            Msg::Ground(ground) => {
                self.on_ground(ground);
                Vec::new()
            }
            Msg::Worker(event) => self.on_worker(event, now),
            Msg::WorkerGone => self.on_worker_gone(now),
            Msg::Panicked(what) => {
                self.add_notice(Kind::Error, &format!("A part of the program failed: {what}."));
                Vec::new()
            }
            Msg::Transcript(status) => {
                self.on_transcript(status);
                Vec::new()
            }
            Msg::Scanned(scan) => {
                if let Some(picker) = &mut self.picker {
                    picker.found(scan);
                }
                Vec::new()
            }
            Msg::Answer(answer) => self.on_answer(answer, now),
            Msg::Terminate(signal) => self.quit(ExitReason::Signal(signal)),
            Msg::TerminalClosed => self.quit(ExitReason::TerminalClosed),
            Msg::Tick => self.on_tick(now),
        }
    }

    /// Takes a reading of the engine.
    pub fn observe(&mut self, snapshot: Snapshot, now: Instant) {
        self.gauges.observe(now, snapshot);
    }

    /// Where keys go.
    pub fn context(&self) -> Context {
        if self.help.is_some() { Context::Help } else { self.behind_help() }
    }

    /// Where keys go without help, whose keys it lists.
    pub fn behind_help(&self) -> Context {
        if self.confirm.is_some() {
            Context::Confirm
        } else if self.sessions.is_some() {
            Context::Sessions
        } else if self.picker.is_some() {
            Context::Picker
        } else if self.dialog.is_some() {
            Context::Dialog
        } else if self.search.is_some() {
            Context::Search
        } else if self.conversation.find().is_some() {
            Context::Find
        } else if self.panel.in_text {
            Context::Tokens
        } else if self.panel.focus.is_some() && self.shows_panel() {
            Context::Panel
        } else {
            Context::Chat
        }
    }

    /// The panel is wanted, and there is room for it.
    pub fn shows_panel(&self) -> bool {
        self.panel.preset != Preset::Off && self.panel_fits && self.mouse != Mouse::Selects
    }

    /// Something is under way: the screen changes by itself.
    pub fn is_busy(&self) -> bool {
        matches!(self.engine, Engine::Loading { .. } | Engine::Replying(_))
    }

    /// Someone asked for the reply or the load to stop, and it has not yet.
    pub fn is_stopping(&self) -> bool {
        match &self.engine {
            Engine::Loading { stopping, .. } => *stopping,
            Engine::Replying(reply) => reply.stopping,
            Engine::Absent | Engine::Ready | Engine::Gone => false,
        }
    }

    pub fn reply(&self) -> Option<&Reply> {
        if let Engine::Replying(reply) = &self.engine { Some(reply) } else { None }
    }

    /// What to tell in the status line for a moment.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_ref().map(|(text, _)| text.as_str())
    }

    /// When the notice goes away.
    pub fn notice_ends(&self) -> Option<Instant> {
        self.notice.as_ref().map(|&(_, since)| since + NOTICE_TIME)
    }

    pub(super) fn notify(&mut self, text: impl Into<String>, now: Instant) {
        self.notice = Some((text.into(), now));
    }

    fn on_tick(&mut self, now: Instant) -> Vec<Effect> {
        if self.notice_ends().is_some_and(|end| now >= end) {
            self.notice = None;
        }
        let mut effects: Vec<Effect> = self.record_piece(Some(now)).into_iter().collect();
        // A long one is not written again for every letter.
        let patience = DRAFT_TIME + Duration::from_secs(self.drafted.0.len() as u64 / DRAFT_BYTES_A_SECOND);
        if now.saturating_duration_since(self.drafted.1) >= patience {
            self.drafted.1 = now;
            effects.extend(self.draft());
        }
        if self.is_stopping() {
            // The worker forgets an earlier wish when it takes up a command, so it is said until it is heard.
            effects.push(Effect::Cancel);
        }
        effects
    }

    fn on_terminal(&mut self, event: TerminalEvent, now: Instant) -> Vec<Effect> {
        match event {
            TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => self.on_key(key, now),
            TerminalEvent::Paste(text)
                if matches!(self.context(), Context::Search | Context::Find | Context::Sessions) =>
            {
                self.insert_text(&text)
            }
            TerminalEvent::Paste(text) if self.picker.is_none() => {
                if let Err(bytes) = self.composer.paste(&text) {
                    let size = super::units::bytes(bytes as u64);
                    self.notify(format!("{size} are too much to paste: the limit is 1 MiB"), now);
                }
                Vec::new()
            }
            TerminalEvent::Mouse(mouse) => {
                let lines = match mouse.kind {
                    MouseEventKind::ScrollUp => -1,
                    MouseEventKind::ScrollDown => 1,
                    _ => return Vec::new(),
                };
                match (&mut self.help, &mut self.sessions, &mut self.picker) {
                    (Some(top), ..) => *top = top.saturating_add_signed(lines),
                    (None, Some(list), _) => list.move_by(lines),
                    (None, None, Some(picker)) => picker.move_by(lines),
                    (None, None, None) => self.conversation.scroll_by(lines * WHEEL_LINES),
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn on_transcript(&mut self, status: Status) {
        match status {
            Status::Created(path) => self.transcript = Some(path),
            Status::Failing(error) => {
                let text = format!(
                    "The conversation cannot be saved: {error}. It is kept in memory and saving is tried again."
                );
                self.add_notice(Kind::Warning, &text);
            }
            Status::Recovered => self.add_notice(Kind::Note, "The conversation is saved again."),
        }
    }

    fn load(&mut self, path: PathBuf, now: Instant) -> Vec<Effect> {
        self.picker = None;
        self.engine = Engine::Loading { path: path.clone(), since: now, stopping: false };
        vec![Effect::Send(Command::Load(path))]
    }

    fn open_picker(&mut self, error: Option<String>) -> Vec<Effect> {
        self.picker = Some(Picker { error, embedded: self.embedded.clone(), ..Picker::default() });
        vec![Effect::Scan(self.models_dir.clone())]
    }

    /// Saves what is not yet saved and ends.
    fn quit(&mut self, reason: ExitReason) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self.save_unfinished().into_iter().collect();
        effects.extend(self.draft());
        effects.extend([Effect::Cancel, Effect::Send(Command::Quit), Effect::Quit(reason)]);
        effects
    }
}
