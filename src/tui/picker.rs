//! The list of models to choose from: the GGUF files of a folder and of the folders in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::outlook::Outlook;
use super::sanitize::one_line;
pub use crate::catalog::{Candidate, Scan};
use crate::embedded;

/// Looks for models in `root`; their names are safe to draw.
pub fn scan(root: &Path) -> Scan {
    let mut scan = crate::catalog::scan(root);
    for model in &mut scan.models {
        model.name = one_line(&model.name);
        model.folder = one_line(&model.folder);
    }
    scan
}

/// The list on screen.
#[derive(Debug, Default)]
pub struct Picker {
    /// `None` while the folder is being read.
    pub scan: Option<Scan>,
    pub chosen: usize,
    /// Why the model before could not be opened.
    pub error: Option<String>,
    /// The file of the model in the binary.
    pub embedded: Option<PathBuf>,
    /// What each would be on this machine, as far as headers have been read.
    pub outlooks: HashMap<PathBuf, Result<Outlook, String>>,
}

impl Picker {
    pub fn found(&mut self, mut scan: Scan) {
        scan.models.extend(self.embedded.clone().map(|path| Candidate {
            path,
            name: embedded::NAME.to_owned(),
            folder: "a toy that comes with WayInfer".to_owned(),
            bytes: embedded::bytes(),
            splits: None,
        }));
        self.chosen = self.chosen.min(scan.models.len().saturating_sub(1));
        self.scan = Some(scan);
    }

    pub fn outlook(&self, model: &Candidate) -> Option<&Result<Outlook, String>> {
        self.outlooks.get(&model.path)
    }

    pub fn models(&self) -> &[Candidate] {
        self.scan.as_ref().map_or(&[], |scan| &scan.models)
    }

    pub fn move_by(&mut self, rows: isize) {
        self.chosen = self.chosen.saturating_add_signed(rows).min(self.models().len().saturating_sub(1));
    }

    pub fn chosen(&self) -> Option<&Candidate> {
        self.models().get(self.chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_send_escapes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("evil\u{1b}[2J.gguf"), [0]).unwrap();
        assert_eq!(scan(dir.path()).models[0].name, "evil\u{241b}[2J");
    }
}
