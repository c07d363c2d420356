//! The list of conversations on screen: what was found, what is looked for, which one is chosen.

use crate::transcript::library::Listed;

/// What is being done in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Browse,
    /// The chosen one gets this name.
    Naming(String),
}

/// The list.
#[derive(Debug)]
pub struct SessionList {
    /// `None` while the folder is being read.
    pub found: Option<Result<Vec<Listed>, String>>,
    /// What conversations have to hold.
    pub query: String,
    pub chosen: usize,
    pub mode: Mode,
}

impl SessionList {
    pub fn new(query: &str) -> SessionList {
        SessionList { found: None, query: query.to_owned(), chosen: 0, mode: Mode::Browse }
    }

    /// Takes what was found for `query`; an answer to an earlier question is passed over.
    pub fn found(&mut self, query: &str, found: Result<Vec<Listed>, String>) {
        if query == self.query {
            let n = found.as_ref().map_or(0, Vec::len);
            self.chosen = self.chosen.min(n.saturating_sub(1));
            self.found = Some(found);
        }
    }

    pub fn rows(&self) -> &[Listed] {
        match &self.found {
            Some(Ok(rows)) => rows,
            _ => &[],
        }
    }

    pub fn chosen(&self) -> Option<&Listed> {
        self.rows().get(self.chosen)
    }

    pub fn move_by(&mut self, rows: isize) {
        self.chosen = self.chosen.saturating_add_signed(rows).min(self.rows().len().saturating_sub(1));
    }

    /// Where typed text goes.
    pub fn text(&mut self) -> &mut String {
        match &mut self.mode {
            Mode::Browse => &mut self.query,
            Mode::Naming(name) => name,
        }
    }
}
