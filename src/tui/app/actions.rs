//! Keys: what each action does to the state.

use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::transcript::Record;

use super::super::ExitReason;
use super::super::commands::{self, Parsed};
use super::super::conversation::{Kind, Standing};
use super::super::keys::{Action, Context, InputState};
use super::super::panel::Preset;
use super::super::picture::Shows;
use super::super::view;
use super::branches::{Done, Way};
use super::{App, Effect, Engine, MAX_QUEUE, Mouse, QUIT_TIME};

impl App {
    pub(super) fn on_key(&mut self, key: KeyEvent, now: Instant) -> Vec<Effect> {
        let context = self.context();
        let effects = match self.keys.action(context, self.input_state(), key) {
            Some(action) => self.act(context, action, now),
            None => self.insert(context, key),
        };
        self.forget_old_choice();
        effects
    }

    /// A key that means nothing else is typed.
    fn insert(&mut self, context: Context, key: KeyEvent) -> Vec<Effect> {
        let plain = !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        if let (KeyCode::Char(c), true) = (key.code, plain)
            && !c.is_control()
        {
            match context {
                Context::Chat => self.composer.insert(c),
                _ => return self.insert_text(c.encode_utf8(&mut [0; 4])),
            }
        }
        Vec::new()
    }

    /// Text for what looks for something.
    pub(super) fn insert_text(&mut self, text: &str) -> Vec<Effect> {
        match self.context() {
            Context::Sessions => self.insert_in_sessions(text),
            Context::Search => {
                self.insert_in_search(text);
                Vec::new()
            }
            Context::Find => {
                self.insert_in_find(text);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn act(&mut self, context: Context, action: Action, now: Instant) -> Vec<Effect> {
        match action {
            Action::Interrupt => return self.interrupt(now),
            Action::Redraw => return vec![Effect::Redraw],
            Action::Suspend => return vec![Effect::Suspend],
            Action::Quit | Action::QuitIfEmpty => return self.quit(ExitReason::Quit),
            Action::Help => {
                self.help = Some(0);
                return Vec::new();
            }
            _ => {}
        }
        match context {
            Context::Chat => self.act_in_chat(action, now),
            Context::Picker => self.act_in_picker(action, now),
            Context::Dialog => self.act_in_dialog(action, now),
            Context::Sessions => self.act_in_sessions(action, now),
            Context::Confirm => self.act_in_confirm(action),
            Context::Search => {
                self.act_in_search(action);
                Vec::new()
            }
            Context::Find => {
                self.act_in_find(action);
                Vec::new()
            }
            Context::Panel => self.act_in_panel(action, now),
            Context::Tokens => self.act_in_tokens(action, now),
            // A replay has a screen of its own.
            Context::Replay => Vec::new(),
            Context::Help => {
                self.act_in_help(action);
                Vec::new()
            }
        }
    }

    fn act_in_chat(&mut self, action: Action, now: Instant) -> Vec<Effect> {
        match action {
            Action::Send => return self.submit(now),
            Action::Queue if self.is_busy() => return self.submit(now),
            Action::Stop => return self.stop(now),
            Action::Newline => self.composer.newline(),
            Action::HistoryPrevious => return self.history_previous(),
            Action::HistoryNext => self.composer.recall_next(),
            Action::TogglePanel => self.toggle_panel(now),
            Action::FocusPanel => self.focus_panel(now),
            Action::WalkTokens => self.walk_tokens(now),
            Action::SavePicture => return vec![Effect::SavePicture(Shows::Panel)],
            Action::SaveScreen => return vec![Effect::SavePicture(Shows::Screen)],
            Action::ToggleSelecting => return self.toggle_selecting(now),
            Action::Edit(edit) => self.composer.edit(edit),
            Action::Complete => self.complete(),
            Action::CompletionPrevious => self.choose_suggestion(-1),
            Action::CompletionNext => self.choose_suggestion(1),
            Action::SearchHistory => self.open_search(),
            Action::Find => self.open_find(""),
            Action::ToggleRaw => self.toggle_raw(now),
            Action::ToggleThinking => self.toggle_thinking(now),
            Action::CopyReply => return self.done(now, |app| app.copy_reply(now)),
            Action::CopyCode => return self.done(now, |app| app.copy_code(None, now)),
            Action::OpenEditor => return vec![Effect::EditText(self.composer.text())],
            Action::Sessions => return self.if_idle(now, |app| Ok(app.open_sessions(""))),
            Action::Retry => return self.if_idle(now, |app| app.retry(now)),
            Action::EditTurn => return self.if_idle(now, |app| app.edit_earlier_turn(now)),
            Action::BranchPrevious => {
                return self.if_idle(now, |app| app.change_branch(|at, n| Some((at + n - 1) % n), now));
            }
            Action::BranchNext => return self.if_idle(now, |app| app.change_branch(|at, n| Some((at + 1) % n), now)),
            action => self.scroll(action),
        }
        Vec::new()
    }

    /// Does what cannot be done while the engine is at work, or tells why not.
    fn if_idle(&mut self, now: Instant, deed: impl FnOnce(&mut App) -> Done) -> Vec<Effect> {
        self.done(now, |app| app.check_idle().and_then(|()| deed(app)))
    }

    /// Does something, or tells why not.
    fn done(&mut self, now: Instant, deed: impl FnOnce(&mut App) -> Done) -> Vec<Effect> {
        deed(self).unwrap_or_else(|why| {
            self.notify(why, now);
            Vec::new()
        })
    }

    pub(super) fn scroll(&mut self, action: Action) {
        match action {
            Action::ScrollPageUp => self.conversation.scroll_pages(-1),
            Action::ScrollPageDown => self.conversation.scroll_pages(1),
            Action::ScrollLineUp => self.conversation.scroll_by(-1),
            Action::ScrollLineDown => self.conversation.scroll_by(1),
            Action::ScrollTop => self.conversation.scroll_to_top(),
            Action::ScrollBottom => self.conversation.follow(),
            Action::PromptBefore => self.conversation.scroll_to_prompt_before(),
            Action::PromptAfter => self.conversation.scroll_to_prompt_after(),
            _ => {}
        }
    }

    fn act_in_picker(&mut self, action: Action, now: Instant) -> Vec<Effect> {
        let page = self.page.max(1) as isize;
        let Some(picker) = &mut self.picker else { return Vec::new() };
        match action {
            Action::Up => picker.move_by(-1),
            Action::Down => picker.move_by(1),
            Action::PageUp => picker.move_by(-page),
            Action::PageDown => picker.move_by(page),
            Action::First => picker.chosen = 0,
            Action::Last => picker.move_by(isize::MAX),
            Action::Rescan => return self.open_picker(None),
            // Back to the conversation, with the model that is loaded.
            Action::Close if self.model.is_some() || !self.conversation.is_empty() => self.picker = None,
            Action::Choose => {
                if let Some(path) = picker.chosen().map(|model| model.path.clone()) {
                    return self.load(path, now);
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn act_in_help(&mut self, action: Action) {
        let page = self.page.max(1);
        let Some(top) = &mut self.help else { return };
        match action {
            Action::Up => *top = top.saturating_sub(1),
            Action::Down => *top = top.saturating_add(1),
            Action::PageUp => *top = top.saturating_sub(page),
            Action::PageDown => *top = top.saturating_add(page),
            Action::First => *top = 0,
            Action::Last => *top = usize::MAX,
            Action::Close => self.help = None,
            _ => {}
        }
    }

    fn act_in_dialog(&mut self, action: Action, now: Instant) -> Vec<Effect> {
        let Some(dialog) = self.dialog else { return Vec::new() };
        match (action, dialog.droppable_turns) {
            (Action::DropOldest, Some(turns)) => {
                self.dialog = None;
                let ids = self.conversation.drop_oldest(turns);
                let mut effects = vec![self.record(Record::Dropped { ids })];
                effects.extend(self.generate(dialog.question, dialog.way, now));
                effects
            }
            (Action::Stop, _) | (Action::DropOldest, None) => {
                self.dialog = None;
                let effects = self.give_up(dialog.question, dialog.way, "the context is full", now);
                self.unqueue();
                effects
            }
            (action, _) => {
                self.scroll(action);
                Vec::new()
            }
        }
    }

    /// Marks a message as not sent, says why, and returns its number.
    pub(super) fn withdraw(&mut self, question: usize, why: &str) -> u64 {
        self.conversation.set_standing(question, Standing::Withdrawn);
        self.conversation.set_foot(question, format!("not sent: {why}; ↑ brings it back"));
        self.conversation.items()[question].id
    }

    /// Sends what was typed, or queues it while the engine is at work.
    fn submit(&mut self, now: Instant) -> Vec<Effect> {
        if self.composer.is_blank() {
            if self.editing.take().is_some() {
                self.notify("The message stays as it was", now);
            }
            return Vec::new();
        }
        if let Some(effects) = self.command_in(now) {
            return effects;
        }
        match self.engine {
            Engine::Ready => {
                let text = self.take_message();
                self.conversation.follow();
                let remembered = Effect::Remember(commands::escaped(&text));
                let mut effects = match self.editing {
                    Some(id) => self.send_edited(id, text, now),
                    None => self.start(text, now),
                };
                effects.push(remembered);
                effects
            }
            Engine::Loading { .. } | Engine::Replying(_) if self.queue.len() >= MAX_QUEUE => {
                self.notify("The queue is full", now);
                Vec::new()
            }
            Engine::Loading { .. } | Engine::Replying(_) => {
                let text = self.take_message();
                let remembered = Effect::Remember(commands::escaped(&text));
                self.queue.push_back(text);
                self.draft().into_iter().chain([remembered]).collect()
            }
            Engine::Absent | Engine::Gone => {
                self.notify("No engine is running; what you typed is kept as a draft", now);
                Vec::new()
            }
        }
    }

    /// Takes the message out of the input, without the slash that tells it from a command.
    fn take_message(&mut self) -> String {
        let text = self.composer.take();
        match commands::parse(&text) {
            Parsed::Escaped(message) => message.to_owned(),
            _ => text,
        }
    }

    /// What waits and what is typed, as a draft that outlives the program, where the transcript has another one.
    pub(super) fn draft(&mut self) -> Option<Effect> {
        let typed = (!self.composer.is_blank()).then(|| self.composer.text());
        let text = self.queue.iter().cloned().chain(typed).collect::<Vec<_>>().join("\n");
        if text == self.drafted.0 {
            return None;
        }
        self.drafted.0.clone_from(&text);
        Some(Effect::Record(Record::Draft { text }))
    }

    /// Puts queued messages back into the input: whoever stopped a reply will want to look at them again.
    pub(super) fn unqueue(&mut self) {
        if !self.queue.is_empty() {
            let text = self.queue.drain(..).collect::<Vec<_>>().join("\n");
            self.composer.put_before(&commands::escaped(&text));
        }
    }

    fn stop(&mut self, now: Instant) -> Vec<Effect> {
        match &mut self.engine {
            Engine::Replying(reply) => reply.stopping = true,
            Engine::Loading { stopping, .. } => *stopping = true,
            Engine::Absent | Engine::Ready | Engine::Gone => {
                self.notify("Nothing to stop", now);
                return Vec::new();
            }
        }
        vec![Effect::Cancel]
    }

    fn interrupt(&mut self, now: Instant) -> Vec<Effect> {
        if self.quit_armed.is_some_and(|since| now.saturating_duration_since(since) < QUIT_TIME) {
            return self.quit(ExitReason::Quit);
        }
        self.quit_armed = Some(now);
        let effects = if self.is_busy() { self.stop(now) } else { Vec::new() };
        self.notify("Ctrl+C again quits", now);
        effects
    }

    fn history_previous(&mut self) -> Vec<Effect> {
        if self.composer.state() == InputState::Empty
            && let Some(text) = self.queue.pop_back()
        {
            self.composer.set_text(&commands::escaped(&text));
            return Vec::new();
        }
        self.composer.recall_previous();
        Vec::new()
    }

    pub(super) fn toggle_panel(&mut self, now: Instant) {
        self.panel.preset = self.panel.preset.next();
        self.note_room(now);
    }

    pub(super) fn focus_panel(&mut self, now: Instant) {
        self.panel.toggle_focus();
        if self.panel.focus.is_none() {
            self.look_at_no_token();
        }
        self.note_room(now);
    }

    /// Says why a panel that is wanted is not seen.
    pub(super) fn note_room(&mut self, now: Instant) {
        if self.panel.preset != Preset::Off && !self.panel_fits {
            let (columns, rows) = view::PANEL_NEEDS;
            self.notify(format!("The panel needs {columns} columns and {rows} rows"), now);
        }
    }

    fn act_in_panel(&mut self, action: Action, now: Instant) -> Vec<Effect> {
        match action {
            Action::TogglePanel => self.toggle_panel(now),
            Action::FocusPanel => self.focus_panel(now),
            Action::WalkTokens => self.walk_tokens(now),
            Action::Pin => return self.pin(now),
            Action::SavePicture => return vec![Effect::SavePicture(Shows::Panel)],
            Action::SaveScreen => return vec![Effect::SavePicture(Shows::Screen)],
            action => {
                self.panel.act(action, &self.gauges);
                self.conversation.choose_token(self.panel.token);
            }
        }
        Vec::new()
    }

    fn toggle_selecting(&mut self, now: Instant) -> Vec<Effect> {
        let key = self.keys.name_of(Context::Chat, Action::ToggleSelecting).unwrap_or_default();
        if self.mouse == Mouse::Scrolls {
            self.mouse = Mouse::Selects;
            self.notify(format!("The mouse selects text; {key} lets the wheel scroll again"), now);
        } else {
            self.mouse = Mouse::Scrolls;
            self.notify(format!("The wheel scrolls; {key} lets the mouse select text"), now);
        }
        vec![Effect::SetMouse(self.mouse == Mouse::Scrolls)]
    }

    /// Begins a turn with `text`.
    pub(super) fn start(&mut self, text: String, now: Instant) -> Vec<Effect> {
        let parent = self.conversation.last_message();
        let question = self.conversation.add(Kind::User, "you", &text);
        let id = self.conversation.items()[question].id;
        let mut effects = vec![self.record(Record::User { id, parent, text })];
        effects.extend(self.draft());
        effects.extend(self.generate(question, Way::First, now));
        effects
    }
}
