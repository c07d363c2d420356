//! The panel or the screen of a chat as an SVG file in the current folder: the state in, a note for the status line out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::{Rect, Size};

use super::app::App;
use super::{export, view};
use crate::disk;

/// A picture's size in cells.
const SIZE: (u16, u16) = (64, 48);
/// Pictures of one minute that do not overwrite each other.
const MOST: u32 = 1000;

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    Panel,
    /// The conversation and what stands beside it, as the terminal has it.
    Screen,
}

/// Draws what is wanted and has another thread write it: the screen waits for no disk. `done` gets the note.
pub fn save(app: &mut App, shows: Shows, size: Size, now: Instant, done: impl FnOnce(String) + Send + 'static) {
    let (what, svg) = match shows {
        Shows::Panel => ("panel", draw(app)),
        Shows::Screen => ("screen", draw_screen(app, size, now)),
    };
    let write = move || done(write_new(Path::new("."), what, &svg));
    // Without a thread there is no picture, which is seen.
    let _ = std::thread::Builder::new().name("picture".into()).spawn(write);
}

/// The panel as it stands, at a picture's size.
pub fn draw(app: &mut App) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, SIZE.0, SIZE.1));
    let area = buffer.area;
    view::panel_alone(app, area, &mut buffer);
    export::svg(&buffer, "WayInfer: the tiers of memory at work")
}

/// The screen as it stands.
fn draw_screen(app: &mut App, size: Size, now: Instant) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(size.width, size.height));
    let Ok(frame) = terminal.draw(|frame| view::draw(frame, app, now));
    export::svg(frame.buffer, "WayInfer: a conversation and the tiers of memory")
}

/// Writes a file whose name is new in `folder`.
pub fn write_new(folder: &Path, what: &str, svg: &str) -> String {
    let stamp = jiff::Zoned::now().strftime("%Y%m%d-%H%M").to_string();
    let name = |n: u32| if n == 0 { String::new() } else { format!("-{n}") };
    for n in 0..MOST {
        let path: PathBuf = folder.join(format!("wayinfer-{stamp}{}.svg", name(n)));
        match disk::write_new(&path, svg.as_bytes()) {
            Ok(()) => return format!("The {what} is in {}", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return format!("The picture could not be written: {error}"),
        }
    }
    "The picture could not be written: this folder has too many".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_never_overwrites_another_and_says_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            assert!(write_new(folder.path(), "panel", "<svg/>").starts_with("The panel is in "));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        let note = write_new(&folder.path().join("nowhere"), "panel", "<svg/>");
        assert!(note.starts_with("The picture could not be written: "), "{note}");
    }
}
