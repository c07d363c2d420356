//! Looking for an earlier prompt, of this conversation or another: letters in, the prompts that hold them out.

use super::super::keys::Action;
use super::super::sanitize::one_line;
use super::App;

/// The search, while it is open.
#[derive(Debug, Clone, Default)]
pub struct Search {
    pub query: String,
    /// The prompts that hold it, the latest first.
    pub found: Vec<String>,
    pub chosen: usize,
}

impl App {
    /// Makes the prompts of earlier conversations known, the oldest first.
    pub fn know_prompts(&mut self, prompts: &[String]) {
        self.composer.remember_before(prompts);
    }

    pub(super) fn open_search(&mut self) {
        self.search = Some(Search::default());
        self.look_for_prompts();
    }

    pub(super) fn insert_in_search(&mut self, text: &str) {
        const LONGEST: usize = 200;
        if let Some(search) = &mut self.search {
            let room = LONGEST.saturating_sub(search.query.chars().count());
            search.query.extend(one_line(text).chars().take(room));
            self.look_for_prompts();
        }
    }

    fn look_for_prompts(&mut self) {
        if let Some(search) = &mut self.search {
            search.found = self.composer.earlier_with(&search.query);
            search.chosen = 0;
        }
    }

    pub(super) fn act_in_search(&mut self, action: Action) {
        let Some(search) = &mut self.search else { return };
        match action {
            Action::Up => search.chosen = (search.chosen + 1).min(search.found.len().saturating_sub(1)),
            Action::Down => search.chosen = search.chosen.saturating_sub(1),
            Action::DeleteLetter => {
                search.query.pop();
                self.look_for_prompts();
            }
            Action::Choose => {
                let chosen = search.found.get(search.chosen).cloned();
                self.search = None;
                if let Some(text) = chosen {
                    // What was being typed is not lost: it becomes an earlier input.
                    if !self.composer.is_blank() {
                        self.composer.take();
                    }
                    self.composer.set_text(&text);
                }
            }
            Action::Close => self.search = None,
            _ => {}
        }
    }
}
