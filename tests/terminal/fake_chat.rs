//! The chat with a scripted engine in place of a model: `fake_chat [--session FILE | --sessions DIR] [--models DIR]
//! [MODEL]`.

#![allow(clippy::print_stdout, clippy::exit, reason = "a program of the tests")]

mod fake_worker;

use std::path::PathBuf;

use wayinfer::transcript::SessionFile;
use wayinfer::tui::{self, ChatOptions, ExitReason, Synchronized, terminal};

fn main() {
    let mut options = ChatOptions::new(PathBuf::from("models"));
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().map(PathBuf::from).expect("a folder follows");
        match arg.as_str() {
            "--session" => options.session = Some(SessionFile::open(&value()).expect("a session")),
            "--sessions" => options.sessions_dir = Some(value()),
            "--models" => options.models_dir = value(),
            "--no-sync" => options.appearance.synchronized = Synchronized::Off,
            "--no-mouse" => options.mouse = false,
            // A panic of the thread that owns the screen.
            "--panic" => {
                let _guard = terminal::Guard::enter().expect("a terminal");
                panic!("the screen's thread fell over");
            }
            model => options.model = Some(PathBuf::from(model)),
        }
    }
    match tui::run(fake_worker::start(), options) {
        Ok(exit) => {
            // Printing could wait for a terminal that takes nothing.
            if let ExitReason::Signal(signal) = exit.reason {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            println!("exit: {:?}", exit.reason);
            if let Some(path) = exit.transcript {
                println!("transcript: {}", path.display());
            }
            if let Some(unsaved) = exit.unsaved {
                println!("unsaved: {unsaved}");
            }
        }
        Err(error) => {
            println!("error: {error}");
            std::process::exit(1);
        }
    }
}
