//! The keys: one table says what each does, where it holds and how help describes it; [`Keys`] is the table with what the
//! settings want otherwise. Keys in, actions out.

mod chord;
mod remap;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

pub use self::chord::Chord;
pub use self::remap::{Arrows, Keys, KeysError, Wish};

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Send,
    Queue,
    Newline,
    Stop,
    Interrupt,
    QuitIfEmpty,
    HistoryPrevious,
    HistoryNext,
    ScrollPageUp,
    ScrollPageDown,
    ScrollLineUp,
    ScrollLineDown,
    ScrollTop,
    ScrollBottom,
    PromptBefore,
    PromptAfter,
    Help,
    TogglePanel,
    ToggleSelecting,
    /// Take the chosen completion, and choose another.
    Complete,
    CompletionPrevious,
    CompletionNext,
    SearchHistory,
    /// Look for a text in the conversation.
    Find,
    ToggleRaw,
    ToggleThinking,
    CopyReply,
    CopyCode,
    OpenEditor,
    Sessions,
    Retry,
    EditTurn,
    BranchPrevious,
    BranchNext,
    Redraw,
    Suspend,
    Edit(Edit),
    // In a list or a dialog.
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Choose,
    Rescan,
    Close,
    DropOldest,
    /// Go from token to token of the replies.
    WalkTokens,
    // In the panel.
    FocusPanel,
    Previous,
    Next,
    Collapse,
    Expand,
    Freeze,
    /// Have experts stay in memory, or leave again.
    Pin,
    SavePicture,
    SaveScreen,
    // In a replay.
    Pause,
    Faster,
    Slower,
    StepForward,
    StepBack,
    SeekForward,
    SeekBack,
    Quit,
    /// In what is typed to look for something.
    DeleteLetter,
    RenameSession,
    DeleteSession,
    Confirm,
}

/// What a key does to the text being typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edit {
    Left,
    Right,
    Up,
    Down,
    WordLeft,
    WordRight,
    LineStart,
    LineEnd,
    DeleteBack,
    DeleteForward,
    DeleteWordBack,
    DeleteWordForward,
    DeleteToStart,
    DeleteToEnd,
    PutBack,
    Undo,
    Redo,
}

/// Where keys go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    Chat,
    Picker,
    Help,
    /// The question about a full context.
    Dialog,
    /// The list of conversations.
    Sessions,
    /// The question whether a conversation is to be deleted.
    Confirm,
    /// Looking for an earlier prompt.
    Search,
    /// Looking for a text in the conversation.
    Find,
    Panel,
    /// Going from token to token of the replies.
    Tokens,
    /// A trace on the panel; the panel's own keys hold too.
    Replay,
}

/// When a binding holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Nothing has been typed.
    InputEmpty,
    /// Nothing has been typed, or an earlier input is being looked at.
    InputUntouched,
    /// A command is being typed.
    InputCommand,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Binding {
    context: Context,
    when: When,
    /// The first two are shown.
    chords: &'static [Chord],
    action: Action,
    /// For help; empty: not shown there, since another line says it.
    help: &'static str,
}

const fn key(code: KeyCode) -> Chord {
    Chord { code, modifiers: KeyModifiers::NONE }
}

const fn ctrl(code: KeyCode) -> Chord {
    Chord { code, modifiers: KeyModifiers::CONTROL }
}

const fn alt(code: KeyCode) -> Chord {
    Chord { code, modifiers: KeyModifiers::ALT }
}

const fn shift(code: KeyCode) -> Chord {
    Chord { code, modifiers: KeyModifiers::SHIFT }
}

const fn char(c: char) -> KeyCode {
    KeyCode::Char(c)
}

const fn bind(context: Context, when: When, chords: &'static [Chord], action: Action, help: &'static str) -> Binding {
    Binding { context, when, chords, action, help }
}

use self::Action as A;
use self::Context::{Chat, Confirm, Dialog, Find, Help, Panel, Picker, Replay, Search, Sessions, Tokens};
use self::Edit as E;
use self::When::{Always, InputCommand, InputEmpty, InputUntouched};
use crossterm::event::KeyCode as K;

/// Every key, in the order of help. The first line that fits a key counts.
#[rustfmt::skip]
static BINDINGS: &[Binding] = &[
    bind(Chat, Always, &[key(K::Enter)], A::Send, "send; while a reply runs, queue"),
    bind(Chat, Always, &[ctrl(char('j')), alt(K::Enter), shift(K::Enter), ctrl(K::Enter)], A::Newline, "new line"),
    bind(Chat, InputCommand, &[key(K::Tab)], A::Complete, "complete a command; / lists them"),
    bind(Chat, InputCommand, &[key(K::Up)], A::CompletionPrevious, ""),
    bind(Chat, InputCommand, &[key(K::Down)], A::CompletionNext, ""),
    bind(Chat, Always, &[key(K::Tab)], A::Queue, "queue the message while a reply runs"),
    bind(Chat, Always, &[key(K::Esc)], A::Stop, "stop the reply, nothing else"),
    bind(Chat, Always, &[ctrl(char('c'))], A::Interrupt, "stop the reply; twice: quit"),
    bind(Chat, InputEmpty, &[ctrl(char('d'))], A::QuitIfEmpty, "quit, when nothing is typed"),
    bind(Chat, InputUntouched, &[key(K::Up)], A::HistoryPrevious, "earlier inputs, when nothing is typed"),
    bind(Chat, InputUntouched, &[key(K::Down)], A::HistoryNext, ""),
    bind(Chat, Always, &[ctrl(char('r'))], A::SearchHistory, "look for an earlier prompt"),
    bind(Chat, Always, &[ctrl(char('f'))], A::Find, "look for a text in the conversation"),
    bind(Chat, Always, &[alt(char('m'))], A::ToggleRaw, "replies as they were said, and as Markdown again"),
    bind(Chat, Always, &[alt(char('t'))], A::ToggleThinking, "unfold what was thought, and back"),
    bind(Chat, Always, &[alt(char('c'))], A::CopyReply, "copy the last reply"),
    bind(Chat, Always, &[alt(char('k'))], A::CopyCode, "copy the last code"),
    bind(Chat, Always, &[ctrl(char('g'))], A::OpenEditor, "write in your own editor ($VISUAL or $EDITOR)"),
    bind(Chat, Always, &[alt(char('r'))], A::Retry, "another reply, on a branch beside the last"),
    bind(Chat, Always, &[alt(char('e'))], A::EditTurn, "put your last message otherwise; again: earlier"),
    bind(Chat, Always, &[alt(char('p'))], A::BranchPrevious, "to the branch before, where there are several"),
    bind(Chat, Always, &[alt(char('n'))], A::BranchNext, "to the branch after"),
    bind(Chat, Always, &[key(K::F(4)), ctrl(char('o'))], A::Sessions, "all conversations"),
    bind(Chat, Always, &[key(K::PageUp)], A::ScrollPageUp, "scroll up; also the mouse wheel"),
    bind(Chat, Always, &[key(K::PageDown)], A::ScrollPageDown, "scroll down"),
    bind(Chat, Always, &[ctrl(K::Up), shift(K::Up)], A::ScrollLineUp, "scroll up a line"),
    bind(Chat, Always, &[ctrl(K::Down), shift(K::Down)], A::ScrollLineDown, "scroll down a line"),
    bind(Chat, Always, &[alt(K::Up)], A::PromptBefore, "to the message you sent before"),
    bind(Chat, Always, &[alt(K::Down)], A::PromptAfter, "to the next one, and to the end"),
    bind(Chat, InputEmpty, &[key(K::Home)], A::ScrollTop, "to the beginning, when nothing is typed"),
    bind(Chat, InputEmpty, &[key(K::End)], A::ScrollBottom, "to the end, when nothing is typed"),
    bind(Chat, Always, &[ctrl(K::Home)], A::ScrollTop, "to the beginning"),
    bind(Chat, Always, &[ctrl(K::End)], A::ScrollBottom, "to the end, and follow the reply"),
    bind(Chat, Always, &[key(K::F(2)), ctrl(char('p'))], A::TogglePanel, "panel: full, compact, off"),
    bind(Chat, Always, &[key(K::F(5))], A::FocusPanel, "walk through the panel, and back"),
    bind(Chat, Always, &[key(K::F(6))], A::SavePicture, "the panel as an SVG file"),
    bind(Chat, Always, &[shift(K::F(6)), alt(char('s'))], A::SaveScreen, "the whole screen as an SVG file"),
    bind(Chat, Always, &[key(K::F(7)), alt(char('x'))], A::WalkTokens, "walk through a reply's tokens, and back"),
    bind(Chat, Always, &[key(K::F(3)), ctrl(char('t'))], A::ToggleSelecting, "select text with the mouse, and back"),
    bind(Chat, Always, &[ctrl(char('l'))], A::Redraw, "draw the screen anew"),
    bind(Chat, Always, &[ctrl(char('z'))], A::Suspend, "to the shell; `fg` comes back"),
    bind(Chat, Always, &[key(K::F(1))], A::Help, "this help; also ? when nothing is typed"),
    bind(Chat, InputEmpty, &[key(char('?'))], A::Help, ""),

    bind(Chat, Always, &[key(K::Left), ctrl(char('b'))], A::Edit(E::Left), ""),
    bind(Chat, Always, &[key(K::Right)], A::Edit(E::Right), ""),
    bind(Chat, Always, &[key(K::Up)], A::Edit(E::Up), ""),
    bind(Chat, Always, &[key(K::Down), ctrl(char('n'))], A::Edit(E::Down), ""),
    bind(Chat, Always, &[ctrl(K::Left), alt(char('b')), alt(K::Left)], A::Edit(E::WordLeft), "a word left"),
    bind(Chat, Always, &[ctrl(K::Right), alt(char('f')), alt(K::Right)], A::Edit(E::WordRight), "a word right"),
    bind(Chat, Always, &[ctrl(char('a')), key(K::Home)], A::Edit(E::LineStart), "to the start of the line"),
    bind(Chat, Always, &[ctrl(char('e')), key(K::End)], A::Edit(E::LineEnd), "to the end of the line"),
    bind(Chat, Always, &[key(K::Backspace), ctrl(char('h')), shift(K::Backspace)], A::Edit(E::DeleteBack), ""),
    bind(Chat, Always, &[key(K::Delete), ctrl(char('d'))], A::Edit(E::DeleteForward), ""),
    bind(Chat, Always, &[ctrl(char('w')), alt(K::Backspace), ctrl(K::Backspace)], A::Edit(E::DeleteWordBack), "delete a word back"),
    bind(Chat, Always, &[alt(char('d')), ctrl(K::Delete)], A::Edit(E::DeleteWordForward), "delete a word forward"),
    bind(Chat, Always, &[ctrl(char('u'))], A::Edit(E::DeleteToStart), "delete to the start of the line"),
    bind(Chat, Always, &[ctrl(char('k'))], A::Edit(E::DeleteToEnd), "delete to the end of the line"),
    bind(Chat, Always, &[ctrl(char('y'))], A::Edit(E::PutBack), "put back what was deleted last"),
    // A terminal sends the same byte for Ctrl+_, Ctrl+/ and Ctrl+7.
    bind(Chat, Always, &[ctrl(char('_')), ctrl(char('/')), ctrl(char('7'))], A::Edit(E::Undo), "undo"),
    bind(Chat, Always, &[alt(char('_')), alt(char('/'))], A::Edit(E::Redo), "redo"),

    bind(Picker, Always, &[key(K::Enter)], A::Choose, "open the model"),
    bind(Picker, Always, &[key(K::Up), key(char('k')), ctrl(char('p'))], A::Up, "up"),
    bind(Picker, Always, &[key(K::Down), key(char('j')), ctrl(char('n'))], A::Down, "down"),
    bind(Picker, Always, &[key(K::PageUp)], A::PageUp, ""),
    bind(Picker, Always, &[key(K::PageDown)], A::PageDown, ""),
    bind(Picker, Always, &[key(K::Home), key(char('g'))], A::First, ""),
    bind(Picker, Always, &[key(K::End), key(char('G'))], A::Last, ""),
    bind(Picker, Always, &[key(char('r')), key(K::F(5))], A::Rescan, "look again"),
    bind(Picker, Always, &[key(K::F(1)), key(char('?'))], A::Help, "help"),
    bind(Picker, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Picker, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Picker, Always, &[key(K::Esc)], A::Close, "back to the conversation"),
    bind(Picker, Always, &[key(char('q')), ctrl(char('d'))], A::Quit, "quit"),
    bind(Picker, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Help, Always, &[key(K::Esc), key(K::F(1)), key(char('?')), key(char('q')), key(K::Enter)], A::Close, "close"),
    bind(Help, Always, &[key(K::Up), key(char('k'))], A::Up, "up"),
    bind(Help, Always, &[key(K::Down), key(char('j'))], A::Down, "down"),
    bind(Help, Always, &[key(K::PageUp)], A::PageUp, ""),
    bind(Help, Always, &[key(K::PageDown), key(char(' '))], A::PageDown, ""),
    bind(Help, Always, &[key(K::Home)], A::First, ""),
    bind(Help, Always, &[key(K::End)], A::Last, ""),
    bind(Help, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Help, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Help, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Panel, Always, &[key(K::Left), key(char('h'))], A::Previous, "the token before; in experts, the layer before"),
    bind(Panel, Always, &[key(K::Right), key(char('l'))], A::Next, "the next token or layer"),
    bind(Panel, Always, &[key(K::Up), key(char('k'))], A::Up, "section before; where zoomed in, scroll"),
    bind(Panel, Always, &[key(K::Down), key(char('j')), key(K::Tab)], A::Down, "next section; where zoomed in, scroll"),
    bind(Panel, Always, &[key(K::Home)], A::First, "the first token or layer"),
    bind(Panel, Always, &[key(K::End)], A::Last, "the last one, and follow"),
    bind(Panel, Always, &[key(K::PageUp)], A::PageUp, ""),
    bind(Panel, Always, &[key(K::PageDown)], A::PageDown, ""),
    bind(Panel, Always, &[key(K::Enter)], A::Choose, "a token's experts; a layer's experts"),
    bind(Panel, Always, &[key(char('c')), key(char(' '))], A::Collapse, "collapse the section, and back"),
    bind(Panel, Always, &[key(char('x'))], A::Expand, "the section alone, and back"),
    bind(Panel, Always, &[key(char('f'))], A::Freeze, "freeze the panel, and back"),
    bind(Panel, Always, &[key(char('m'))], A::Pin, "keep in memory: the layer's expert, the token's experts; again: not"),
    bind(Panel, Always, &[key(K::F(2)), key(char('p'))], A::TogglePanel, "panel: full, compact, off"),
    bind(Panel, Always, &[key(char('s')), key(K::F(6))], A::SavePicture, "the panel as an SVG file"),
    bind(Panel, Always, &[shift(K::F(6)), alt(char('s'))], A::SaveScreen, "the whole screen as an SVG file"),
    bind(Panel, Always, &[key(K::Esc)], A::Close, "a step back"),
    bind(Panel, Always, &[key(K::F(5))], A::FocusPanel, "back to the conversation"),
    bind(Panel, Always, &[key(K::F(7)), alt(char('x'))], A::WalkTokens, "go on from token to token in the text"),
    bind(Panel, Always, &[key(K::F(1)), key(char('?'))], A::Help, "help"),
    bind(Panel, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Panel, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Panel, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Tokens, Always, &[key(K::Left), key(char('h'))], A::Previous, "the token before"),
    bind(Tokens, Always, &[key(K::Right), key(char('l'))], A::Next, "the next token"),
    bind(Tokens, Always, &[key(K::Up), key(char('k'))], A::Up, "the token above"),
    bind(Tokens, Always, &[key(K::Down), key(char('j'))], A::Down, "the token below"),
    bind(Tokens, Always, &[key(K::Home)], A::First, "the reply's first token"),
    bind(Tokens, Always, &[key(K::End)], A::Last, "the reply's last token"),
    bind(Tokens, Always, &[key(K::PageUp)], A::PageUp, "the reply before; where zoomed in, scroll the panel"),
    bind(Tokens, Always, &[key(K::PageDown)], A::PageDown, "the next reply; where zoomed in, scroll the panel"),
    bind(Tokens, Always, &[key(K::Enter)], A::Choose, "its layers and experts in the panel, and back"),
    bind(Tokens, Always, &[key(char('f'))], A::Freeze, "freeze the panel, and back"),
    bind(Tokens, Always, &[key(char('m'))], A::Pin, "keep its experts in memory; again: not"),
    bind(Tokens, Always, &[key(K::F(2)), key(char('p'))], A::TogglePanel, "panel: full, compact, off"),
    bind(Tokens, Always, &[key(K::F(5))], A::FocusPanel, "to the panel, with this token"),
    bind(Tokens, Always, &[key(char('s')), key(K::F(6))], A::SavePicture, "the panel as an SVG file"),
    bind(Tokens, Always, &[shift(K::F(6)), alt(char('s'))], A::SaveScreen, "the whole screen as an SVG file"),
    bind(Tokens, Always, &[key(K::Esc), key(char('q'))], A::Close, "a step back"),
    bind(Tokens, Always, &[key(K::F(7)), alt(char('x'))], A::WalkTokens, "back to the conversation"),
    bind(Tokens, Always, &[key(K::F(1)), key(char('?'))], A::Help, "help"),
    bind(Tokens, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Tokens, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Tokens, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Replay, Always, &[key(char(' '))], A::Pause, "pause, and on; at the end, from the beginning"),
    bind(Replay, Always, &[key(char('+')), key(char('='))], A::Faster, "twice as fast"),
    bind(Replay, Always, &[key(char('-'))], A::Slower, "half as fast"),
    bind(Replay, Always, &[key(char('.'))], A::StepForward, "a pass on"),
    bind(Replay, Always, &[key(char(','))], A::StepBack, "a pass back"),
    bind(Replay, Always, &[key(char(']'))], A::SeekForward, "5 s on"),
    bind(Replay, Always, &[key(char('['))], A::SeekBack, "5 s back"),
    bind(Replay, Always, &[key(char('q')), ctrl(char('d'))], A::Quit, "quit"),
    bind(Replay, Always, &[ctrl(char('c'))], A::Interrupt, ""),
    bind(Replay, Always, &[key(K::F(1)), key(char('?'))], A::Help, "these keys"),

    bind(Dialog, Always, &[key(char('d')), key(K::Enter)], A::DropOldest, "drop the oldest turns"),
    bind(Dialog, Always, &[key(char('s')), key(K::Esc)], A::Stop, "stop"),
    bind(Dialog, Always, &[key(K::PageUp)], A::ScrollPageUp, ""),
    bind(Dialog, Always, &[key(K::PageDown)], A::ScrollPageDown, ""),
    bind(Dialog, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Dialog, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Dialog, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Sessions, Always, &[key(K::Enter)], A::Choose, "go on with the conversation"),
    bind(Sessions, Always, &[key(K::Up), ctrl(char('p'))], A::Up, "up"),
    bind(Sessions, Always, &[key(K::Down), ctrl(char('n'))], A::Down, "down"),
    bind(Sessions, Always, &[key(K::PageUp)], A::PageUp, ""),
    bind(Sessions, Always, &[key(K::PageDown)], A::PageDown, ""),
    bind(Sessions, Always, &[key(K::Home)], A::First, ""),
    bind(Sessions, Always, &[key(K::End)], A::Last, ""),
    bind(Sessions, Always, &[key(K::Backspace), ctrl(char('h'))], A::DeleteLetter, "letters look through all that was said"),
    bind(Sessions, Always, &[key(K::F(2)), ctrl(char('e'))], A::RenameSession, "rename"),
    bind(Sessions, Always, &[key(K::Delete), ctrl(char('d'))], A::DeleteSession, "delete, when you have said yes"),
    bind(Sessions, Always, &[key(K::Esc), key(K::F(4))], A::Close, "back to the conversation"),
    bind(Sessions, Always, &[key(K::F(1))], A::Help, "help"),
    bind(Sessions, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Sessions, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Sessions, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Confirm, Always, &[key(char('y'))], A::Confirm, "yes"),
    bind(Confirm, Always, &[key(char('n')), key(K::Esc)], A::Close, "no"),
    bind(Confirm, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Confirm, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Confirm, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Search, Always, &[key(K::Enter), key(K::Tab)], A::Choose, "take it into the input"),
    bind(Search, Always, &[ctrl(char('r')), key(K::Up)], A::Up, "an earlier one"),
    bind(Search, Always, &[key(K::Down), ctrl(char('s'))], A::Down, "a later one"),
    bind(Search, Always, &[key(K::Backspace), ctrl(char('h'))], A::DeleteLetter, ""),
    bind(Search, Always, &[key(K::Esc), ctrl(char('g'))], A::Close, "back to what was typed"),
    bind(Search, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Search, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Search, Always, &[ctrl(char('c'))], A::Interrupt, ""),

    bind(Find, Always, &[key(K::Enter), key(K::Down), ctrl(char('f')), key(K::Tab)], A::Next, "the next place"),
    bind(Find, Always, &[shift(K::Enter), key(K::Up), key(K::BackTab)], A::Previous, "the place before"),
    bind(Find, Always, &[key(K::Backspace), ctrl(char('h'))], A::DeleteLetter, ""),
    bind(Find, Always, &[key(K::PageUp)], A::ScrollPageUp, "scroll up"),
    bind(Find, Always, &[key(K::PageDown)], A::ScrollPageDown, "scroll down"),
    bind(Find, Always, &[key(K::Esc), ctrl(char('g'))], A::Close, "close; the place stays"),
    bind(Find, Always, &[key(K::F(1))], A::Help, "help"),
    bind(Find, Always, &[ctrl(char('l'))], A::Redraw, ""),
    bind(Find, Always, &[ctrl(char('z'))], A::Suspend, ""),
    bind(Find, Always, &[ctrl(char('c'))], A::Interrupt, ""),
];

/// Every key: where it holds, what it does, and what a terminal says when it is pressed. `tests/terminal/key_cases.rs` has
/// a line for each context and action, which is tried in the program itself; a new one needs a line there.
pub fn all() -> impl Iterator<Item = (Context, Action, KeyEvent)> {
    BINDINGS.iter().flat_map(|b| b.chords.iter().map(|chord| (b.context, b.action, chord.event())))
}

/// What the input holds, for bindings that depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputState {
    Empty,
    /// An earlier input, unchanged.
    Recalled,
    /// The beginning of a command.
    Command,
    Typed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(context: Context, input: InputState, code: KeyCode, modifiers: KeyModifiers) -> Option<Action> {
        Keys::default().action(context, input, KeyEvent::new(code, modifiers))
    }

    #[test]
    fn every_action_that_help_shows_is_reached_by_the_key_it_names() {
        for b in BINDINGS {
            for chord in b.chords {
                let input = match b.when {
                    Always => InputState::Typed,
                    InputEmpty => InputState::Empty,
                    InputUntouched => InputState::Recalled,
                    InputCommand => InputState::Command,
                };
                assert_eq!(press(b.context, input, chord.code, chord.modifiers), Some(b.action), "{}", chord.name());
            }
        }
    }

    #[test]
    fn keys_that_depend_on_the_input_change_with_it() {
        let chat = |input, code| press(Chat, input, code, KeyModifiers::NONE);
        assert_eq!(chat(InputState::Empty, KeyCode::Char('?')), Some(Action::Help));
        assert_eq!(chat(InputState::Typed, KeyCode::Char('?')), None);
        assert_eq!(chat(InputState::Empty, KeyCode::Up), Some(Action::HistoryPrevious));
        assert_eq!(chat(InputState::Recalled, KeyCode::Up), Some(Action::HistoryPrevious));
        assert_eq!(chat(InputState::Typed, KeyCode::Up), Some(Action::Edit(Edit::Up)));
        assert_eq!(chat(InputState::Typed, KeyCode::Home), Some(Action::Edit(Edit::LineStart)));
    }

    #[test]
    fn shift_and_capitals_do_not_hide_a_key() {
        let ctrl_shift = KeyModifiers::CONTROL | KeyModifiers::SHIFT;
        assert_eq!(press(Chat, InputState::Typed, KeyCode::Char('C'), ctrl_shift), Some(Action::Interrupt));
        assert_eq!(press(Picker, InputState::Empty, KeyCode::Char('G'), KeyModifiers::SHIFT), Some(Action::Last));
        assert_eq!(press(Chat, InputState::Empty, KeyCode::Char('?'), KeyModifiers::SHIFT), Some(Action::Help));
    }

    #[test]
    fn keys_that_a_terminal_cannot_tell_apart_are_not_bound() {
        for b in BINDINGS {
            for c in b.chords {
                let taken = c.modifiers == KeyModifiers::CONTROL && matches!(c.code, KeyCode::Char('m' | 'i' | '['));
                assert!(!taken, "{}", c.name());
            }
        }
    }

    #[test]
    fn the_readme_names_keys_that_are_in_the_table() {
        let readme = include_str!("../../README.md");
        let table = readme.split("| key | what it does |").nth(1).unwrap().split("\n\n").next().unwrap();
        let mut n = 0;
        for row in table.lines().filter(|line| line.starts_with("| ") && !line.contains("---")) {
            let keys = row.split('|').nth(1).unwrap().replace(", or ", ", ").replace(", mouse wheel", "");
            for name in keys.split(", ") {
                let chord = Chord::parse(name).unwrap_or_else(|why| panic!("{row}: {why}"));
                let bound = BINDINGS.iter().any(|b| b.context == Chat && b.chords.contains(&chord));
                assert!(bound, "{name} is in README.md and not in the table");
                n += 1;
            }
        }
        assert!(n > 10);
    }
}
