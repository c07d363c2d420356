//! Looking at the conversation: as it was said, with what was thought, for a text, and into the clipboard.

use std::time::Instant;

use crate::transcript::library::{self, Format};

use super::super::clipboard;
use super::super::conversation::{Kind, Shown};
use super::super::keys::Action;
use super::super::markdown::code_blocks;
use super::super::sanitize::{one_line, pasted};
use super::super::units;
use super::branches::Done;
use super::{App, Effect};

impl App {
    pub(super) fn toggle_raw(&mut self, now: Instant) {
        let told = match self.conversation.toggle_raw() {
            Shown::Raw => "Replies are shown as they were said",
            Shown::Markdown => "Replies are shown as Markdown",
        };
        self.notify(told, now);
    }

    pub(super) fn toggle_thinking(&mut self, now: Instant) {
        let open = self.conversation.toggle_thinking();
        self.notify(if open { "Thinking is unfolded" } else { "Thinking is folded" }, now);
    }

    pub(super) fn open_find(&mut self, query: &str) {
        self.conversation.look_for(&one_line(query));
    }

    pub(super) fn insert_in_find(&mut self, text: &str) {
        const LONGEST: usize = 200;
        if let Some(find) = self.conversation.find() {
            let room = LONGEST.saturating_sub(find.query.chars().count());
            let query: String = find.query.chars().chain(one_line(text).chars().take(room)).collect();
            self.conversation.look_for(&query);
        }
    }

    pub(super) fn act_in_find(&mut self, action: Action) {
        match action {
            Action::Next => self.conversation.find_next(1),
            Action::Previous => self.conversation.find_next(-1),
            Action::DeleteLetter => {
                let mut query = self.conversation.find().map(|find| find.query.clone()).unwrap_or_default();
                query.pop();
                self.conversation.look_for(&query);
            }
            Action::Close => self.conversation.close_find(),
            action => self.scroll(action),
        }
    }

    /// `/copy`: the last reply, one of its blocks of code, or all.
    pub(super) fn copy(&mut self, arguments: &str, now: Instant) -> Done {
        match arguments.split_once(char::is_whitespace).map_or((arguments, ""), |(word, rest)| (word, rest.trim())) {
            ("", _) => self.copy_reply(now),
            ("code", "") => self.copy_code(None, now),
            ("code", n) => {
                let n = n.parse().map_err(|_| format!("`{n}` is no whole number"))?;
                self.copy_code(Some(n), now)
            }
            ("all", "") => {
                if self.told.entries.is_empty() {
                    return Err("Nothing was said yet".into());
                }
                let text = library::export(&self.told, Format::Markdown);
                self.copy_text("the conversation", &text, now)
            }
            _ => Err("/copy takes nothing, code, code N or all behind it".into()),
        }
    }

    pub(super) fn copy_reply(&mut self, now: Instant) -> Done {
        let last = self.conversation.items().iter().rfind(|item| item.kind == Kind::Reply);
        let text = last.map(|item| item.answer().to_owned()).filter(|text| !text.trim().is_empty());
        let text = text.ok_or("There is no reply to copy")?;
        self.copy_text("the last reply", &text, now)
    }

    /// Copies the `n`th block of code of the last reply that has any, from 1 on; without, its last.
    pub(super) fn copy_code(&mut self, n: Option<usize>, now: Instant) -> Done {
        let replies = self.conversation.items().iter().rev().filter(|item| item.kind == Kind::Reply);
        let blocks = replies.map(|item| code_blocks(item.answer())).find(|blocks| !blocks.is_empty());
        let blocks = blocks.ok_or("There is no code to copy")?;
        let of = blocks.len();
        let n = n.unwrap_or(of);
        let text = n.checked_sub(1).and_then(|i| blocks.get(i));
        let text = text.ok_or_else(|| format!("There is no code {n}: the reply has {}", units::plural(of, "block")))?;
        let what = if of == 1 { "the code".to_owned() } else { format!("code {n} of {of}") };
        self.copy_text(&what, text, now)
    }

    fn copy_text(&mut self, what: &str, text: &str, now: Instant) -> Done {
        // A clipboard ends up in a terminal, or in a shell: no control character comes along.
        let text = pasted(text.trim_end_matches('\n'));
        let size = units::bytes(text.len() as u64);
        if text.len() > clipboard::LIMIT {
            let limit = units::bytes(clipboard::LIMIT as u64);
            return Err(format!("{size} are too much for the terminal's clipboard ({limit}); /export writes a file"));
        }
        let lines = units::plural(text.lines().count(), "line");
        self.notify(format!("Copied {what}: {lines}, {size}"), now);
        Ok(vec![Effect::Copy(text)])
    }
}
