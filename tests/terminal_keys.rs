//! Every key and every slash command, pressed in the program itself with a real worker on a tiny model, in terminals of
//! two sizes.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[path = "terminal/command_cases.rs"]
mod command_cases;
#[path = "terminal/driver.rs"]
mod driver;
#[path = "terminal/key_cases.rs"]
mod key_cases;
#[path = "terminal/program.rs"]
mod program;
#[path = "terminal/pty.rs"]
mod pty;

use driver::{Driver, Kind, Step, named};
use wayinfer::tui::commands::COMMANDS;
use wayinfer::tui::keys::{self, Context};

fn script_of(context: Context, action: keys::Action) -> Option<&'static [Step]> {
    key_cases::KEYS.iter().find(|(c, a, _)| (*c, *a) == (context, action)).map(|(.., script)| *script)
}

#[test]
fn every_key_and_every_command_has_a_case_and_every_case_has_its_key() {
    let missing: Vec<String> = keys::all()
        .filter(|&(context, action, _)| script_of(context, action).is_none())
        .map(|(context, action, key)| format!("{context:?} {action:?} ({key:?})"))
        .collect();
    assert!(missing.is_empty(), "tests/terminal/key_cases.rs lacks {missing:#?}");
    for (i, (context, action, script)) in key_cases::KEYS.iter().enumerate() {
        assert!(keys::all().any(|(c, a, _)| (c, a) == (*context, *action)), "{context:?} {action:?} has no key");
        let twice = key_cases::KEYS[..i].iter().any(|(c, a, _)| (c, a) == (context, action));
        assert!(!twice, "{context:?} {action:?} has two cases");
        let pressed = script.iter().position(|step| matches!(step, Step::Key)).expect("a key");
        assert!(pressed + 1 < script.len(), "{context:?} {action:?} expects nothing");
    }
    let named = |name| command_cases::COMMANDS.iter().filter(|(n, _)| *n == name).count();
    for command in COMMANDS {
        assert_eq!(named(command.name), 1, "cases of {} in tests/terminal/command_cases.rs", command.name);
    }
    assert_eq!(COMMANDS.len(), command_cases::COMMANDS.len(), "a case is about no command");
}

/// Presses every key in a terminal of this size.
fn press_all(size: (u16, u16)) {
    let mut driver = Driver::new(size);
    let mut wrong = Vec::new();
    for (context, action, _) in key_cases::KEYS {
        let script = script_of(*context, *action).unwrap();
        for (_, _, key) in keys::all().filter(|(c, a, _)| (c, a) == (context, action)) {
            if let Err(why) =
                driver.run(key_cases::kind(*context, *action), key, key_cases::opening(*context, *action), script)
            {
                let (code, modifiers) = (key.code, key.modifiers);
                wrong.push(format!("{context:?} {action:?}, {code:?} {modifiers:?}, {size:?}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} keys failed:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn every_key_does_what_it_says_at_80_by_24() {
    press_all((80, 24));
}

#[test]
fn every_key_does_what_it_says_at_200_by_60() {
    press_all((200, 60));
}

#[test]
fn every_slash_command_does_what_it_says_at_80_by_24_and_at_200_by_60() {
    for size in [(80, 24), (200, 60)] {
        let mut driver = Driver::new(size);
        let mut wrong = Vec::new();
        for (name, script) in command_cases::COMMANDS {
            if let Err(why) = driver.run(Kind::Chat, named("Enter"), &[], script) {
                wrong.push(format!("{name}, {size:?}: {why}"));
            }
        }
        assert!(wrong.is_empty(), "{} commands failed:\n{}", wrong.len(), wrong.join("\n\n"));
    }
}
