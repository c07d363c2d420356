//! Conversations as wholes: listed, opened, named, deleted, begun anew.

use std::path::PathBuf;
use std::time::Instant;

use crate::transcript::{Header, Record, Transcript};

use super::super::conversation::{Conversation, Kind};
use super::super::keys::Action;
use super::super::sanitize::one_line;
use super::super::session_list::{Mode, SessionList};
use super::{Answer, App, Effect, Work};

/// The question whether a conversation is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirm {
    pub name: String,
    pub path: PathBuf,
}

impl App {
    pub(super) fn open_sessions(&mut self, query: &str) -> Vec<Effect> {
        self.sessions = Some(SessionList::new(query));
        vec![Effect::Work(Work::List { query: query.to_owned() })]
    }

    pub(super) fn act_in_sessions(&mut self, action: Action, now: Instant) -> Vec<Effect> {
        let page = self.page.max(1) as isize;
        let Some(list) = &mut self.sessions else { return Vec::new() };
        match action {
            Action::Up => list.move_by(-1),
            Action::Down => list.move_by(1),
            Action::PageUp => list.move_by(-page),
            Action::PageDown => list.move_by(page),
            Action::First => list.chosen = 0,
            Action::Last => list.move_by(isize::MAX),
            Action::DeleteLetter => {
                list.text().pop();
                return self.search_sessions();
            }
            Action::Close if list.mode == Mode::Browse => self.sessions = None,
            Action::Close => list.mode = Mode::Browse,
            Action::RenameSession => {
                list.mode = list.chosen().map_or(Mode::Browse, |listed| Mode::Naming(one_line(&listed.name())));
            }
            Action::DeleteSession => {
                self.confirm = list.chosen().map(|l| Confirm { name: l.name(), path: l.path.clone() });
            }
            Action::Choose => return self.choose_session(now),
            _ => {}
        }
        Vec::new()
    }

    /// Types into the list.
    pub(super) fn insert_in_sessions(&mut self, text: &str) -> Vec<Effect> {
        const LONGEST: usize = 200;
        let Some(list) = &mut self.sessions else { return Vec::new() };
        let room = LONGEST.saturating_sub(list.text().chars().count());
        let text: String = one_line(text).chars().take(room).collect();
        list.text().push_str(&text);
        self.search_sessions()
    }

    fn search_sessions(&mut self) -> Vec<Effect> {
        match &mut self.sessions {
            Some(list) if list.mode == Mode::Browse => {
                list.chosen = 0;
                vec![Effect::Work(Work::List { query: list.query.clone() })]
            }
            _ => Vec::new(),
        }
    }

    fn choose_session(&mut self, now: Instant) -> Vec<Effect> {
        let Some(list) = &mut self.sessions else { return Vec::new() };
        let Some((path, what)) = list.chosen().map(|l| (l.path.clone(), l.what.clone())) else { return Vec::new() };
        let is_this = self.transcript.as_ref() == Some(&path);
        match std::mem::replace(&mut list.mode, Mode::Browse) {
            Mode::Naming(text) if is_this => {
                let query = list.query.clone();
                vec![self.record(Record::Title { text }), Effect::Work(Work::List { query })]
            }
            Mode::Naming(title) => vec![Effect::Work(Work::Rename { path, title })],
            Mode::Browse if is_this => {
                self.sessions = None;
                self.notify("This is the conversation that is open", now);
                Vec::new()
            }
            Mode::Browse => match what {
                Err(why) => {
                    let why = one_line(&why);
                    self.notify(format!("It cannot be opened: {why}"), now);
                    Vec::new()
                }
                Ok(_) => vec![Effect::Open(path.to_string_lossy().into_owned())],
            },
        }
    }

    pub(super) fn act_in_confirm(&mut self, action: Action) -> Vec<Effect> {
        match action {
            Action::Confirm => {}
            Action::Close => {
                self.confirm = None;
                return Vec::new();
            }
            _ => return Vec::new(),
        }
        let Some(Confirm { path, .. }) = self.confirm.take() else { return Vec::new() };
        if self.transcript.as_ref() == Some(&path) {
            let query = self.sessions.as_ref().map(|list| list.query.clone());
            let mut effects = self.begin_anew(Some(path));
            effects.extend(query.map(|query| Effect::Work(Work::List { query })));
            return effects;
        }
        vec![Effect::Work(Work::Delete { path })]
    }

    pub(super) fn on_answer(&mut self, answer: Answer, now: Instant) -> Vec<Effect> {
        match answer {
            Answer::Listed { query, found } => {
                if let Some(list) = &mut self.sessions {
                    list.found(&query, found);
                }
            }
            Answer::Changed(result) => {
                match result {
                    Ok(text) => self.notify(one_line(&text), now),
                    Err(error) => self.add_notice(Kind::Error, &one_line(&error)),
                }
                return self.search_sessions();
            }
            Answer::Told(Ok(text)) => self.add_notice(Kind::Note, &one_line(&text)),
            Answer::Told(Err(error)) => {
                self.sessions = None;
                self.add_notice(Kind::Error, &one_line(&error));
            }
            Answer::Model(Ok(path)) if self.check_idle().is_ok() => return self.load(path, now),
            Answer::Model(Ok(_)) => self.notify("A reply is under way: the model is not changed", now),
            Answer::Model(Err(error)) => self.add_notice(Kind::Error, &one_line(&error)),
            Answer::Outlook(path, outlook) => {
                if let Some(picker) = &mut self.picker {
                    picker.outlooks.insert(path, outlook);
                }
            }
            Answer::Theme(Ok(palette)) => self.take_theme(*palette),
            Answer::Theme(Err(error)) => self.add_notice(Kind::Error, &one_line(&error)),
            Answer::Colored { item, colored } => {
                self.coloring = false;
                self.conversation.take_colors(item, colored);
            }
            Answer::Edited(Ok(Some(text))) => self.composer.set_text(&super::super::sanitize::pasted(&text)),
            Answer::Edited(Ok(None)) => {}
            Answer::Edited(Err(error)) => self.add_notice(Kind::Error, &one_line(&error)),
        }
        Vec::new()
    }

    /// Leaves this conversation for an empty one. `delete`: the file of this one goes.
    pub(super) fn begin_anew(&mut self, delete: Option<PathBuf>) -> Vec<Effect> {
        self.clear();
        let header = Header::new(self.system.clone(), self.settings_json());
        self.told.header.clone_from(&header);
        let mut effects = vec![Effect::Begin { header: Box::new(header), delete }];
        if let Some(model) = self.model.as_ref().map(crate::worker::model_record) {
            effects.push(self.record(model));
        }
        effects
    }

    /// Forgets the conversation; what is typed stays.
    fn clear(&mut self) {
        self.conversation = Conversation::default();
        self.told = Transcript::default();
        self.transcript = None;
        self.editing = None;
        self.sessions = None;
        self.dialog = None;
        self.drafted.0.clear();
        self.unqueue();
    }

    /// Goes on with another conversation while the chat runs.
    pub fn change_session(&mut self, path: PathBuf, transcript: &Transcript, now: Instant) -> Vec<Effect> {
        let typed = self.composer.text();
        self.clear();
        self.resume(path, transcript);
        if !typed.trim().is_empty() && self.composer.text() != typed {
            self.composer.put_before(&typed);
        }
        self.notify(format!("Going on with: {}", one_line(&self.told.name())), now);
        self.model.as_ref().map(crate::worker::model_record).map(|model| self.record(model)).into_iter().collect()
    }
}
