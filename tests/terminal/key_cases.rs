//! What each key must do on the screen: a line for every context and action of the table of keys. All keys of an action are
//! tried with the same script. Its first expectation after `Key` must not hold before the key was pressed.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use wayinfer::tui::keys::Action as A;
use wayinfer::tui::keys::Context::{
    self, Chat, Confirm, Dialog, Find, Help, Panel, Picker, Replay, Search, Sessions, Tokens,
};
use wayinfer::tui::keys::Edit as E;

use super::driver::*;

/// The program that an action is tried in.
pub fn kind(context: Context, action: A) -> Kind {
    match (context, action) {
        // Layers of the tiny model have too few experts for pages.
        (Replay, _) | (Panel, A::PageUp | A::PageDown) => Kind::Replay,
        (Dialog, _) => Kind::Narrow,
        _ => Kind::Chat,
    }
}

/// How to get to where a key holds.
pub fn opening(context: Context, action: A) -> &'static [Step] {
    match context {
        _ if kind(context, action) == Kind::Replay => &[],
        Chat | Replay => &[],
        Picker => &[Type("/model\r"), See("Choose a model"), See("model-11")],
        Help => &[Press("F1"), See("╭ Keys ─")],
        Dialog => &[Say("first"), Paste(LONG), Press("Enter"), See("The context is full")],
        Sessions => &[Do(write_sessions), Press("F4"), See("Conversations"), See(" turn")],
        Confirm => &[
            Do(write_sessions),
            Press("F4"),
            See(" turn"),
            Type("number-15-"),
            See("“number-15-"),
            Press("Delete"),
            See("Delete it?"),
        ],
        Search => &[Say("plum pear"), Say("plum fig"), Press("Ctrl+R"), See("look for")],
        Find => &[Say("plum one"), Say("plum two"), Press("Ctrl+F"), See("Enter next"), Type("plum"), See("find plum")],
        // The timeline has its tokens.
        Tokens => &[Say("plum"), Press("F7"), See("→ token")],
        Panel => &[Press("F5"), See("← token"), Becomes(|_, now| now.contains("time    "))],
    }
}

/// More than the context holds beside what was said.
const LONG: &str = "these words are many: one two three four five six seven eight nine ten eleven twelve thirteen fourteen \
    fifteen sixteen seventeen eighteen nineteen twenty and one and two and three and four and five and six and seven and \
    eight and nine and thirty and one and two and three and four and five and six and seven and eight and nine and forty \
    and one and two and three and four and five and six and seven and eight and nine and fifty and one and two and three \
    and four and five and six and seven and eight and nine and sixty and one and two and three and four and five";

/// Conversations to choose from; they are there again for each script.
fn write_sessions(home: &Path) {
    let folder = home.join("data/wayinfer/sessions");
    fs::create_dir_all(&folder).unwrap();
    for n in 11..90_u64 {
        let lines = [
            r#"{"time":"2020-01-01T00:00:00Z","type":"header","version":2,"program":"wayinfer","system":null,"sampling":{}}"#.to_owned(),
            format!(r#"{{"time":"2020-01-01T00:00:01Z","type":"user","id":1,"parent":null,"text":"number-{n}- was said"}}"#),
            format!(r#"{{"time":"2020-01-01T00:00:02Z","type":"title","text":"title {n}"}}"#),
        ];
        let path = folder.join(format!("20200101-0000{n}.jsonl"));
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        // The list begins with what was gone on with last.
        let then = UNIX_EPOCH + Duration::from_secs(1_577_836_800 + n);
        fs::File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
    }
}

fn new_model(home: &Path) {
    let path = home.join("data/wayinfer/models/a-new-model.gguf");
    fs::hard_link(home.join("tiny.gguf"), path).unwrap();
}

fn no_new_model(home: &Path) {
    let _ = fs::remove_file(home.join("data/wayinfer/models/a-new-model.gguf"));
}

/// The number behind `word` on the screen.
fn number(screen: &str, word: &str) -> Option<f64> {
    let mut after = screen.match_indices(word).map(|(at, _)| &screen[at + word.len()..]);
    after.find_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
}

/// The first expert in the list of a layer.
fn first_expert(screen: &str) -> Option<u64> {
    let row = screen.lines().skip_while(|line| !line.contains("no.")).nth(1)?;
    row.split_whitespace().find_map(|word| word.parse().ok())
}

/// Which of the places that hold what is looked for is in view.
fn find_place(screen: &str) -> Option<u64> {
    let line = screen.lines().find(|line| line.starts_with("find "))?;
    line.split('/').next()?.rsplit(' ').next()?.parse().ok()
}

fn fell(before: &str, now: &str, word: &str) -> bool {
    number(before, word).zip(number(now, word)).is_some_and(|(before, now)| now < before)
}

fn grew(before: &str, now: &str, word: &str) -> bool {
    fell(now, before, word)
}

const ENDLESS_REPLY: Step = Type("/max-tokens -\rgo on\r");
const SHORT_REPLIES: Step = Type("/max-tokens 8\r");
/// The last line is about a token, and no notice stands in its place.
const ON_TOKEN: Step = Becomes(|_, now| now.lines().last().is_some_and(|line| line.starts_with("token ")));
/// A reply of several rows.
const MANY_TOKENS: Step = Type("\x1b[27u/max-tokens 200\rplum\r/max-tokens 8\r");
const MANY_THERE: Step =
    Becomes(|_, now| now.rsplit_once("\nyou").is_some_and(|(_, last)| last.contains("200 tokens")));
const CLEAR: &str = "\x1b[2J";

/// Context, action and script. A new key is a new line.
#[rustfmt::skip]
pub static KEYS: &[(Context, A, &[Step])] = &[
    (Chat, A::Send, &[Type("sent by key"), See("› sent by key"), Key, Gone("› sent by key"), See("sent by key"), Idle]),
    (Chat, A::Newline, &[Type("one"), Key, Type("two"), See("  two"), See("› one")]),
    (Chat, A::Complete, &[Type("/bra"), See("/branch [N]"), Key, See("› /branch ")]),
    (Chat, A::CompletionPrevious, &[Type("/top-"), See("/top-k [K]"), Key, Press("Tab"), See("› /top-k")]),
    (Chat, A::CompletionNext, &[Type("/top-"), See("/top-k [K]"), Key, Press("Tab"), See("› /top-k")]),
    (Chat, A::Queue, &[ENDLESS_REPLY, See("Esc stop"), Type("later"), Key, See("queued later"), Press("Esc"), See("› later"), Idle, Press("Ctrl+U"), SHORT_REPLIES]),
    (Chat, A::Stop, &[ENDLESS_REPLY, See("Esc stop"), Type("kept"), See("› kept"), Key, Gone("Esc stop"), Idle, See("› kept"), Press("Ctrl+U"), SHORT_REPLIES]),
    (Chat, A::Interrupt, &[ENDLESS_REPLY, See("Esc stop"), Key, See("Ctrl+C again quits"), Gone("Esc stop"), Key, Ends]),
    (Chat, A::QuitIfEmpty, &[Key, Ends]),
    (Chat, A::HistoryPrevious, &[Say("remembered"), Key, See("› remembered")]),
    (Chat, A::HistoryNext, &[Say("older"), Say("newer"), Press("Up"), See("› newer"), Press("Up"), See("› older"), Key, See("› newer")]),
    (Chat, A::SearchHistory, &[Key, See("look for"), See("earlier prompt")]),
    (Chat, A::OpenEditor, &[Key, See("› from the editor")]),
    (Chat, A::Sessions, &[Key, See("Conversations")]),
    (Chat, A::ScrollPageUp, &[Key, See("below ·")]),
    (Chat, A::ScrollPageDown, &[Press("PgUp"), See("below ·"), Key, Gone("below ·")]),
    (Chat, A::ScrollLineUp, &[Key, See(" 1 line below")]),
    (Chat, A::ScrollLineDown, &[Press("Ctrl+Up"), See(" 1 line below"), Key, Gone("below ·")]),
    (Chat, A::PromptBefore, &[Key, See("below ·")]),
    (Chat, A::PromptAfter, &[Press("Ctrl+Home"), See("tall-0-line"), Key, Gone("tall-0-line")]),
    (Chat, A::ScrollTop, &[Key, See("tall-0-line")]),
    (Chat, A::ScrollBottom, &[Press("Ctrl+Home"), See("tall-0-line"), Key, Gone("below ·")]),
    (Chat, A::TogglePanel, &[Key, Gone("· mostly Q4_K"), See("│ tiny random"), Key, Gone("│"), Key, See("· mostly Q4_K")]),
    (Chat, A::FocusPanel, &[Key, See("← token")]),
    (Chat, A::WalkTokens, &[Say("plum"), Key, See("→ token")]),
    (Chat, A::SaveScreen, &[Key, See("The screen is in "), File(".svg")]),
    (Chat, A::SavePicture, &[Key, See("The panel is in "), File(".svg")]),
    (Chat, A::ToggleSelecting, &[Key, See("The mouse selects text"), Writes("\x1b[?1000l"), Gone("│"), Key, See("The wheel scrolls"), See("│")]),
    (Chat, A::Redraw, &[Key, Writes(CLEAR)]),
    (Chat, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Chat, A::Help, &[Key, See("╭ Keys ─")]),
    (Chat, A::Edit(E::Left), &[Type("ab"), Key, Type("X"), See("› aXb")]),
    (Chat, A::Edit(E::Right), &[Type("ab"), Press("Ctrl+A"), Key, Type("X"), See("› aXb")]),
    (Chat, A::Edit(E::Up), &[Type("ab"), Press("Ctrl+J"), Type("cd"), Key, Type("X"), See("› abX")]),
    (Chat, A::Edit(E::Down), &[Type("ab"), Press("Ctrl+J"), Type("cd"), Press("Up"), Key, Type("X"), See("  cdX")]),
    (Chat, A::Edit(E::WordLeft), &[Type("one two"), Key, Type("X"), See("› one Xtwo")]),
    (Chat, A::Edit(E::WordRight), &[Type("one two"), Press("Ctrl+A"), Key, Type("X"), See("› one Xtwo")]),
    (Chat, A::Edit(E::LineStart), &[Type("ab"), Key, Type("X"), See("› Xab")]),
    (Chat, A::Edit(E::LineEnd), &[Type("ab"), Press("Ctrl+A"), Key, Type("X"), See("› abX")]),
    (Chat, A::Edit(E::DeleteBack), &[Type("abc"), See("› abc"), Key, Type("X"), See("› abX")]),
    (Chat, A::Edit(E::DeleteForward), &[Type("abc"), Press("Ctrl+A"), Key, See("› bc")]),
    (Chat, A::Edit(E::DeleteWordBack), &[Type("one two"), Key, Type("X"), See("› one X")]),
    (Chat, A::Edit(E::DeleteWordForward), &[Type("one two"), Press("Ctrl+A"), Key, Type("X"), See("› X two")]),
    (Chat, A::Edit(E::DeleteToStart), &[Type("one"), Press("Left"), Key, Type("X"), See("› Xe")]),
    (Chat, A::Edit(E::DeleteToEnd), &[Type("one"), Press("Ctrl+A"), Press("Right"), Key, Type("X"), See("› oX")]),
    (Chat, A::Edit(E::PutBack), &[Type("one"), Press("Ctrl+U"), Key, Type("X"), See("› oneX")]),
    (Chat, A::Edit(E::Undo), &[Type("one"), Press("Ctrl+U"), Gone("› one"), Key, See("› one")]),
    (Chat, A::Edit(E::Redo), &[Type("one"), Press("Ctrl+U"), Gone("› one"), Press("Ctrl+7"), See("› one"), Key, Gone("› one")]),
    (Chat, A::Find, &[Key, See("Enter next")]),
    (Chat, A::ToggleRaw, &[Key, See("Replies are shown as they were said"), Key, See("Replies are shown as Markdown")]),
    (Chat, A::ToggleThinking, &[Key, See("Thinking is unfolded"), Key, See("Thinking is folded")]),
    (Chat, A::CopyReply, &[Say("to be copied"), Key, See("Copied the last reply"), Writes("\x1b]52;c;")]),
    (Chat, A::CopyCode, &[Key, See("There is no code to copy")]),
    // Where there is but one branch, its mark is this reply's.
    (Chat, A::Retry, &[Key, See("the reply will be the same"), Idle, See("‹2/2›")]),
    (Chat, A::EditTurn, &[Say("put it so"), Key, See(" put otherwise "), See("› put it so")]),
    (Chat, A::BranchPrevious, &[Type("/new\r"), See("Ask something."), Say("more"), Type("/retry\r"), See("‹2/2›"), Idle, Key, See("Branch 1 of 2"), See("‹1/2›")]),
    (Chat, A::BranchNext, &[Type("/new\r"), See("Ask something."), Say("and more"), Type("/retry\r"), See("‹2/2›"), Idle, Press("Alt+P"), See("‹1/2›"), Key, See("Branch 2 of 2"), See("‹2/2›")]),

    (Picker, A::Choose, &[Key, Gone("Choose a model"), See("ready")]),
    (Picker, A::Up, &[Press("Down"), Chosen("model-11"), Key, Chosen("model-10")]),
    (Picker, A::Down, &[Key, Chosen("model-11")]),
    (Picker, A::PageUp, &[Press("PgDn"), Unchosen("model-10"), Key, Chosen("model-10")]),
    (Picker, A::PageDown, &[Key, Unchosen("model-10"), Press("Up"), Chosen("model-"), Unchosen("model-10")]),
    (Picker, A::First, &[Press("End"), Chosen("demo"), Key, Chosen("model-10")]),
    (Picker, A::Last, &[Key, Chosen("demo")]),
    (Picker, A::Rescan, &[Do(new_model), Key, See("a-new-model"), Do(no_new_model)]),
    (Picker, A::Help, &[Key, See("╭ Keys ─")]),
    (Picker, A::Redraw, &[Key, Writes(CLEAR)]),
    (Picker, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Picker, A::Close, &[Key, Gone("Choose a model")]),
    (Picker, A::Quit, &[Key, Ends]),
    (Picker, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Help, A::Close, &[Key, Gone("╭ Keys ─")]),
    (Help, A::Up, &[Press("Down"), Gone("send; while a reply runs"), Key, See("send; while a reply runs")]),
    (Help, A::Down, &[See("send; while a reply runs"), Key, Gone("send; while a reply runs")]),
    (Help, A::PageUp, &[Press("PgDn"), Gone("send; while a reply runs"), Key, See("send; while a reply runs")]),
    (Help, A::PageDown, &[See("send; while a reply runs"), Key, Gone("send; while a reply runs")]),
    (Help, A::First, &[Press("End"), See("leave; everything is saved"), Key, See("send; while a reply runs")]),
    (Help, A::Last, &[Key, See("leave; everything is saved")]),
    (Help, A::Redraw, &[Key, Writes(CLEAR)]),
    (Help, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Help, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Panel, A::Previous, &[Press("Enter"), See("! missing"), Key, Becomes(|before, now| fell(before, now, "token "))]),
    (Panel, A::Next, &[Press("Home"), Press("Enter"), See("! missing"), See("token 0"), Key, See("token 1 ")]),
    (Panel, A::Up, &[See("tokens ─"), Key, Press("x"), Gone("tokens ─"), See("paging ─")]),
    (Panel, A::Down, &[See("tokens ─"), Key, Press("x"), Gone("tokens ─"), See("disk ─")]),
    (Panel, A::First, &[Press("Left"), Key, Press("Enter"), See("token 0")]),
    (Panel, A::Last, &[Press("Home"), Press("Enter"), See("! missing"), See("token 0 "), Press("Esc"), Gone("! missing"), Key, Press("Enter"), Becomes(|_, now| now.contains("! missing") && !now.contains("token 0 "))]),
    (Panel, A::PageUp, &[Press("Up"), Press("Up"), Press("Enter"), See("layer 0 of"), Press("PgDn"), Becomes(|_, now| first_expert(now) > Some(0)), Key, Becomes(|_, now| first_expert(now) == Some(0))]),
    (Panel, A::PageDown, &[Press("Up"), Press("Up"), Press("Enter"), See("layer 0 of"), Key, Becomes(|_, now| first_expert(now) > Some(0))]),
    (Panel, A::Choose, &[Key, See("! missing")]),
    (Panel, A::Collapse, &[Key, See("+ tokens"), Key, Gone("+ tokens")]),
    (Panel, A::Expand, &[Key, Gone("memory ─"), Key, See("memory ─")]),
    (Panel, A::Freeze, &[Key, See("frozen: the engine goes on"), Key, Gone("frozen: the engine goes on")]),
    (Panel, A::Pin, &[Press("Up"), Press("Up"), Press("Enter"), See("layer 0 of"), Key, See("every expert fits in memory")]),
    (Panel, A::TogglePanel, &[Key, Gone("· mostly Q4_K"), Press("Esc"), Press("F2"), Press("F2"), See("· mostly Q4_K")]),
    (Panel, A::SaveScreen, &[Key, See("The screen is in "), File(".svg")]),
    (Panel, A::SavePicture, &[Key, See("The panel is in "), File(".svg")]),
    (Panel, A::Close, &[Key, Gone("← token")]),
    (Panel, A::FocusPanel, &[Key, Gone("← token")]),
    (Panel, A::WalkTokens, &[Press("F5"), Gone("← token"), Say("plum"), Press("F5"), See("← token"), Key, See("→ token")]),
    (Panel, A::Help, &[Key, See("╭ Keys ─")]),
    (Panel, A::Redraw, &[Key, Writes(CLEAR)]),
    (Panel, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Panel, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Tokens, A::Previous, &[Press("Enter"), See("no.      ms"), Key, Becomes(|before, now| fell(before, now, "token "))]),
    (Tokens, A::Next, &[Press("Home"), Press("Enter"), See("no.      ms"), Key, Becomes(|before, now| grew(before, now, "token "))]),
    (Tokens, A::Up, &[MANY_TOKENS, MANY_THERE, Press("F7"), See("→ token"), Press("Enter"), See("no.      ms"), Key, Becomes(|before, now| fell(before, now, "token "))]),
    (Tokens, A::Down, &[MANY_TOKENS, MANY_THERE, Press("F7"), See("→ token"), Press("Home"), Press("Enter"), See("no.      ms"), Key, Becomes(|before, now| grew(before, now, "token "))]),
    (Tokens, A::First, &[Press("Enter"), See("no.      ms"), Key, Becomes(|before, now| fell(before, now, "token "))]),
    (Tokens, A::Last, &[Press("Home"), Press("Enter"), See("no.      ms"), Key, Becomes(|before, now| grew(before, now, "token "))]),
    (Tokens, A::PageUp, &[Press("Esc"), Gone("→ token"), Say("pear"), Press("F7"), ON_TOKEN, Press("Home"), Press("Enter"), See("no.      ms"), Press("Enter"), Gone("no.      ms"), Key, Becomes(|before, now| fell(before, now, "token "))]),
    (Tokens, A::PageDown, &[Press("Esc"), Gone("→ token"), Say("pear"), Press("F7"), ON_TOKEN, Press("PgUp"), Press("Enter"), See("no.      ms"), Press("Enter"), Gone("no.      ms"), Key, Becomes(|before, now| grew(before, now, "token "))]),
    (Tokens, A::Choose, &[Key, See("no.      ms"), Key, Gone("no.      ms")]),
    (Tokens, A::Freeze, &[Key, See("frozen: the engine goes on"), Key, Gone("frozen: the engine goes on")]),
    (Tokens, A::Pin, &[Key, See("every expert fits in memory")]),
    (Tokens, A::TogglePanel, &[Key, Gone("· mostly Q4_K"), Key, Gone("│"), Key, See("· mostly Q4_K")]),
    (Tokens, A::FocusPanel, &[Key, See("← token")]),
    (Tokens, A::SaveScreen, &[Key, See("The screen is in "), File(".svg")]),
    (Tokens, A::SavePicture, &[Key, See("The panel is in "), File(".svg")]),
    (Tokens, A::Close, &[Key, Gone("→ token")]),
    (Tokens, A::WalkTokens, &[Key, Gone("→ token")]),
    (Tokens, A::Help, &[Key, See("╭ Keys ─")]),
    (Tokens, A::Redraw, &[Key, Writes(CLEAR)]),
    (Tokens, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Tokens, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Replay, A::Pause, &[Key, See("paused"), Key, See("replay 1x")]),
    (Replay, A::Faster, &[Key, See(" 2x ·")]),
    (Replay, A::Slower, &[Key, See(" 1/2x ·")]),
    (Replay, A::StepForward, &[Press("Space"), See("paused"), Key, Becomes(|before, now| grew(before, now, "pass "))]),
    (Replay, A::StepBack, &[Press("."), See("pass 1 of"), Press("."), See("pass 2 of"), Key, See("pass 1 of")]),
    (Replay, A::SeekForward, &[Press("Space"), See("paused"), Key, See("· 5 s of")]),
    (Replay, A::SeekBack, &[Press("Space"), Press("]"), See("· 5 s of"), Key, See("· 0 s of")]),
    (Replay, A::Quit, &[Key, Ends]),
    (Replay, A::Interrupt, &[Key, Ends]),
    (Replay, A::Help, &[Key, See("twice as fast")]),

    (Dialog, A::DropOldest, &[Key, Gone("The context is full"), Idle, Press("Ctrl+Home"), See("no longer sent")]),
    (Dialog, A::Stop, &[Key, Gone("The context is full"), See("not sent: the context is")]),
    (Dialog, A::ScrollPageUp, &[Key, Press("s"), Gone("The context is full")]),
    (Dialog, A::ScrollPageDown, &[Key, Press("s"), Gone("The context is full")]),
    (Dialog, A::Redraw, &[Key, Writes(CLEAR)]),
    (Dialog, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Dialog, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Sessions, A::Choose, &[Type("number-20-"), See("“number-20-"), Gone("title 11"), Key, Gone("Conversations"), See("number-20- was said"), Type("/new\r"), Idle]),
    (Sessions, A::Up, &[Press("End"), Chosen("title 11"), Key, Chosen("title 12")]),
    (Sessions, A::Down, &[Press("End"), Press("Up"), Chosen("title 12"), Key, Chosen("title 11")]),
    (Sessions, A::PageUp, &[Press("End"), Chosen("title 11"), Key, Unchosen("title 11"), Unchosen("title 12")]),
    (Sessions, A::PageDown, &[Press("End"), Chosen("title 11"), Press("PgUp"), Press("Up"), Key, Press("Down"), Chosen("title 11")]),
    (Sessions, A::First, &[Press("End"), Chosen("title 11"), Key, Gone("title 11 ")]),
    (Sessions, A::Last, &[Press("Home"), Key, Chosen("title 11")]),
    (Sessions, A::DeleteLetter, &[Type("xyzzy"), See("look for xyzzy"), See("None holds this."), Key, See("look for xyzz ")]),
    (Sessions, A::RenameSession, &[Type("number-21-"), See("“number-21-"), Key, See("call it title 21"), Type(" more\r"), See("It is called: title 21 more")]),
    (Sessions, A::DeleteSession, &[Type("number-22-"), See("“number-22-"), Key, See("Delete it?"), Type("y"), See("is deleted")]),
    (Sessions, A::Close, &[Key, Gone("Conversations")]),
    (Sessions, A::Help, &[Key, See("╭ Keys ─")]),
    (Sessions, A::Redraw, &[Key, Writes(CLEAR)]),
    (Sessions, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Sessions, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Confirm, A::Confirm, &[Key, Gone("Delete it?"), See("is deleted")]),
    (Confirm, A::Close, &[Key, Gone("Delete it?"), See("“number-15-")]),
    (Confirm, A::Redraw, &[Key, Writes(CLEAR)]),
    (Confirm, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Confirm, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Search, A::Choose, &[Type("plum f"), See("plum fig"), Key, See("› plum fig")]),
    (Search, A::Up, &[Type("plum "), Chosen("plum fig"), Key, Chosen("plum pear")]),
    (Search, A::Down, &[Type("plum "), Press("Up"), Chosen("plum pear"), Key, Chosen("plum fig")]),
    (Search, A::DeleteLetter, &[Type("plum fx"), See("no prompt holds it"), Key, Gone("no prompt holds it")]),
    (Search, A::Close, &[Key, Gone("look for")]),
    (Search, A::Redraw, &[Key, Writes(CLEAR)]),
    (Search, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Search, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),

    (Find, A::Next, &[Key, Becomes(|before, now| find_place(before).is_some() && find_place(before) != find_place(now))]),
    (Find, A::Previous, &[Key, Becomes(|before, now| find_place(before).is_some() && find_place(before) != find_place(now))]),
    (Find, A::DeleteLetter, &[Type("x"), See("find plumx"), Key, Gone("find plumx"), See("find plum")]),
    (Find, A::ScrollPageUp, &[Key, Becomes(|before, now| before != now)]),
    (Find, A::ScrollPageDown, &[Press("PgUp"), Key, Press("Esc"), Gone("Enter next")]),
    (Find, A::Close, &[Key, Gone("Enter next")]),
    (Find, A::Help, &[Key, See("╭ Keys ─")]),
    (Find, A::Redraw, &[Key, Writes(CLEAR)]),
    (Find, A::Suspend, &[Key, See("There is no shell to go back to")]),
    (Find, A::Interrupt, &[Key, See("Ctrl+C again quits"), Key, Ends]),
];
