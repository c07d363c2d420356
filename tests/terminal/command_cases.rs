//! What each slash command must do on the screen: a line for every command. Its first expectation after `Key`, which is Enter
//! here, must not hold before.

use super::driver::*;

/// The first words of a reply are there: the line below it counts the seconds.
fn speaks(_: &str, now: &str) -> bool {
    now.split("tok/s · ").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Name and script. The order is that of the table of commands; a new command is a new line.
#[rustfmt::skip]
pub static COMMANDS: &[(&str, &[Step])] = &[
    ("/help", &[Type("/help"), Key, See("╭ Keys ─")]),
    ("/retry", &[Type("/new\r"), See("Ask something."), Say("tell"), Type("/retry"), Key, See("‹2/2›"), Idle]),
    ("/continue", &[Type("/max-tokens -\rgo on\r"), Becomes(speaks), Press("Esc"), See("· stopped"), Idle, Type("/continue"), Key, See("Esc stop"), Press("Esc"), Gone("Esc stop"), Idle, Type("/max-tokens 8\r")]),
    ("/edit", &[Say("put this otherwise"), Type("/edit"), Key, See(" put otherwise "), See("› put this otherwise"), Type(" now\r"), Gone("› put"), See("otherwise now"), Idle]),
    ("/branch", &[Type("/new\r"), See("Ask something."), Say("to and fro"), Type("/retry\r"), See("‹2/2›"), Idle, Type("/branch 1"), Key, See("Branch 1 of 2"), See("‹1/2›")]),
    ("/save", &[Type("/save"), Key, See("Saved as it is said, in ")]),
    ("/rename", &[Type("/rename A walk in the woods"), Key, See("is called: A walk in the woods")]),
    ("/sessions", &[Type("/sessions woods"), Key, See("Conversations"), See("A walk in the woods")]),
    ("/export", &[Type("/export json out.json"), Key, See("Written to "), File("out.json")]),
    ("/trace", &[Type("/trace start walk.trace"), Key, See("Recording to walk.trace"), File("walk.trace"), Say("recorded"), Type("/trace start walk.trace\r"), See("name another file"), Type("/trace\r"), See("/trace stop ends it"), Type("/trace stop\r"), See("is whole"), Type("/trace stop\r"), See("Nothing was being recorded")]),
    ("/system", &[Type("/system Be brief."), Key, See("The system message is set."), Type("/system -\r"), See("The system message is gone.")]),
    ("/temp", &[Type("/temp 0.25"), Key, See("The temperature is 0.25 from"), Type("/temp 0\r")]),
    ("/top-p", &[Type("/top-p 0.5"), Key, See("Top-p is 0.5 from")]),
    ("/top-k", &[Type("/top-k 7"), Key, See("Top-k is 7 from")]),
    ("/min-p", &[Type("/min-p 0.1"), Key, See("Min-p is 0.1 from")]),
    ("/repeat-penalty", &[Type("/repeat-penalty 1.5"), Key, See("The repeat penalty is 1.5 from"), Type("/repeat-penalty 1\r")]),
    ("/frequency-penalty", &[Type("/frequency-penalty 0.5"), Key, See("The frequency penalty is 0.5 from"), Type("/frequency-penalty -10\r")]),
    ("/presence-penalty", &[Type("/presence-penalty 0.5"), Key, See("The presence penalty is 0.5 from"), Type("/presence-penalty 0\r")]),
    ("/seed", &[Type("/seed 11"), Key, See("The seed is 11 from")]),
    ("/max-tokens", &[Type("/max-tokens 9"), Key, See("The most tokens of a reply is 9 from"), Say("nine"), See("9 tokens"), Type("/max-tokens 8\r")]),
    ("/model", &[Say("one more"), Type("/model model-12"), Key, See("none computed one at a time"), Idle, Type("/model\r"), See("Choose a model")]),
    ("/new", &[Say("before the new"), See("before the new"), Type("/new"), Key, See("Ask something."), Gone("before the new")]),
    ("/resume", &[Type("/resume walk in the woods"), Key, See("Going on with: A walk in the woods")]),
    ("/delete", &[Type("/new\r"), See("Ask something."), Say("short lived"), Type("/delete"), Key, See("Delete it?"), Type("y"), See("Ask something.")]),
    ("/copy", &[Say("copy this"), Type("/copy all"), Key, See("Copied the conversation"), Writes("\x1b]52;c;")]),
    ("/find", &[Say("plum here"), Type("/find plum"), Key, See("Enter next")]),
    ("/raw", &[Type("/raw"), Key, See("Replies are shown as they were said"), Type("/raw\r"), See("Replies are shown as Markdown")]),
    ("/thinking", &[Type("/thinking"), Key, See("Thinking is unfolded"), Type("/thinking\r"), See("Thinking is folded")]),
    ("/theme", &[Type("/theme light\r/theme"), Key, See("The theme is light"), Type("/theme dark\r")]),
    ("/quit", &[Type("/quit"), Key, Ends]),
];
