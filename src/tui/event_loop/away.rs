//! The terminal in other hands: the person's editor, or the shell behind Ctrl+Z. The engine goes on with what it does.

use std::time::Instant;

use super::super::app::{Answer, Msg};
use super::super::editor;
use super::super::reader::Questions;
use super::super::signals;
use super::super::work::Outcome;
use super::{STOP_ECHO, Screen};

impl Screen<'_> {
    /// Gives the terminal to the person's editor, with `text`. The engine goes on meanwhile.
    pub(super) fn edit(&mut self, text: String) {
        let command = editor::command(|name| std::env::var(name).ok());
        self.reader.pause();
        self.guard.leave();
        self.in_editor = true;
        self.signals.set_keys_elsewhere(true);
        self.on_a_thread(move || Some(Outcome::Answer(Answer::Edited(editor::edit(&command, &text)))));
    }

    pub(super) fn leave_editor(&mut self) {
        self.in_editor = false;
        self.signals.set_keys_elsewhere(false);
        self.come_back();
        if self.reader.resume(Questions::NONE).is_err() {
            self.tell(Msg::TerminalClosed);
        }
    }

    /// Ctrl+Z: stops the whole job, as the terminal would have done outside raw mode.
    pub(super) fn suspend_by_key(&mut self) {
        if signals::is_alone() {
            let text = "There is no shell to go back to";
            self.app.notify(text, Instant::now());
            return;
        }
        self.guard.leave();
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
        self.suspend();
    }

    /// Puts the terminal back, stops, and goes on when continued.
    pub(super) fn suspend(&mut self) {
        self.guard.leave();
        signals::stop();
        self.come_back();
        self.echoes_until = Instant::now() + STOP_ECHO;
    }

    pub(super) fn come_back(&mut self) {
        self.guard.leave();
        let result = self.guard.resume();
        self.check(&result);
        self.redraw();
    }
}
