//! The keys in force: the table, with what a person wants otherwise.

use std::fmt::Write;

use crossterm::event::KeyEvent;

use crate::tui::nearest::nearest;

use super::chord::Chord;
use super::{Action, BINDINGS, Binding, Context, InputState, When};

/// What a person wants of an action: other keys, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where; `None`: wherever the action is.
    pub context: Option<String>,
    pub action: String,
    pub keys: Vec<String>,
    /// The line of the file, for errors.
    pub line: usize,
}

/// Why the keys cannot be as somebody wants them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key `keys.{name}`: {what}")]
pub struct KeysError {
    pub line: usize,
    pub name: String,
    pub what: String,
}

/// A line of the table as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    binding: &'static Binding,
    chords: Vec<Chord>,
}

/// Every key in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    bound: Vec<Bound>,
    arrows: Arrows,
}

/// How help writes the arrow keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrows {
    Signs,
    /// Where the terminal has no such signs.
    Words,
}

impl Default for Keys {
    fn default() -> Keys {
        let bound = BINDINGS.iter().map(|binding| Bound { binding, chords: binding.chords.to_vec() });
        Keys { bound: bound.collect(), arrows: Arrows::Signs }
    }
}

impl Keys {
    /// The table with these wishes.
    ///
    /// # Errors
    /// The first one that cannot be met, and why.
    pub fn with(wishes: &[Wish]) -> Result<Keys, KeysError> {
        let mut keys = Keys::default();
        for wish in wishes {
            keys.grant(wish).map_err(|what| refusal(wish, what))?;
        }
        for wish in wishes {
            keys.check(wish).map_err(|what| refusal(wish, what))?;
        }
        Ok(keys)
    }

    #[must_use]
    pub fn with_arrows(self, arrows: Arrows) -> Keys {
        Keys { arrows, ..self }
    }

    fn name(&self, chord: &Chord) -> String {
        match self.arrows {
            Arrows::Signs => chord.name(),
            Arrows::Words => chord.spelled(),
        }
    }

    fn grant(&mut self, wish: &Wish) -> Result<(), String> {
        let chords = wish.keys.iter().map(|key| Chord::parse(key)).collect::<Result<Vec<Chord>, String>>()?;
        let contexts = contexts_of(wish)?;
        for context in contexts {
            let at: Vec<usize> = (0..self.bound.len()).filter(|&i| self.bound[i].is(context, &wish.action)).collect();
            // New keys hold wherever the action is not bound to a state of the input; its other lines go.
            let first =
                at.iter().copied().find(|&i| self.bound[i].binding.when == When::Always).or(at.first().copied());
            for i in at {
                self.bound[i].chords = if Some(i) == first { chords.clone() } else { Vec::new() };
            }
        }
        Ok(())
    }

    /// Whether each new key means one thing, and leaves letters to be typed.
    fn check(&self, wish: &Wish) -> Result<(), String> {
        let mine = |bound: &Bound| contexts_of(wish).is_ok_and(|all| all.iter().any(|c| bound.is(*c, &wish.action)));
        for (i, bound) in self.bound.iter().enumerate().filter(|(_, bound)| mine(bound)) {
            for chord in &bound.chords {
                let context = bound.binding.context;
                if chord.is_typed() && takes_text(context) && bound.binding.when != When::InputEmpty {
                    let key = chord.spelled();
                    return Err(format!("`{key}` alone could no longer be typed; add Ctrl+ or Alt+, or take an F key"));
                }
                let other = self.bound.iter().enumerate().find(|(j, other)| {
                    let (early, late) =
                        if *j < i { (other.binding, bound.binding) } else { (bound.binding, other.binding) };
                    *j != i
                        && other.binding.context == context
                        && other.binding.action != bound.binding.action
                        && other.chords.contains(chord)
                        && covers(early.when, late.when)
                });
                if let Some((_, other)) = other {
                    return Err(format!(
                        "{} is also the key of `{}` in `{}`; give that another one too, or []",
                        chord.spelled(),
                        name_of_action(other.binding.action),
                        name_of_context(context)
                    ));
                }
            }
        }
        Ok(())
    }

    /// What `key` does in `context`; `None` where it has no meaning there.
    pub fn action(&self, context: Context, input: InputState, key: KeyEvent) -> Option<Action> {
        let chord = Chord::of(key);
        let holds = |when| match when {
            When::Always => true,
            When::InputEmpty => input == InputState::Empty,
            When::InputUntouched => matches!(input, InputState::Empty | InputState::Recalled),
            When::InputCommand => input == InputState::Command,
        };
        let fits = |bound: &&Bound| {
            bound.binding.context == context && bound.chords.contains(&chord) && holds(bound.binding.when)
        };
        self.bound.iter().find(fits).map(|bound| bound.binding.action)
    }

    /// The lines of help for `context`: keys and what they do. At most two keys each; what has none is left out.
    pub fn help(&self, context: Context) -> impl Iterator<Item = (String, &'static str)> {
        let shown = move |bound: &&Bound| {
            bound.binding.context == context && !bound.binding.help.is_empty() && !bound.chords.is_empty()
        };
        self.bound.iter().filter(shown).map(|bound| {
            let keys: Vec<String> = bound.chords.iter().take(2).map(|chord| self.name(chord)).collect();
            (keys.join("  "), bound.binding.help)
        })
    }

    /// The first key of `action` in `context`, for hints.
    pub fn name_of(&self, context: Context, action: Action) -> Option<String> {
        let fits = |bound: &&Bound| bound.binding.context == context && bound.binding.action == action;
        self.bound.iter().filter(fits).find_map(|bound| Some(self.name(bound.chords.first()?)))
    }

    /// The table as a settings' file has it, commented out where `commented` says so: what is in force, and what it does.
    pub fn table(&self) -> String {
        let mut out = String::from(
            "# Keys, by what they do: one or a list, or [] for none. What several tables have can also stand in the table\n\
             # `keys` itself, and holds in all of them then. Ctrl+M, Ctrl+I and Ctrl+[ are Enter, Tab and Esc to a terminal.\n",
        );
        let mut contexts: Vec<Context> = Vec::new();
        for bound in &self.bound {
            if !contexts.contains(&bound.binding.context) {
                contexts.push(bound.binding.context);
            }
        }
        for context in contexts {
            let _ = write!(out, "\n# [keys.{}]\n", name_of_context(context));
            let mut told: Vec<Action> = Vec::new();
            for bound in self.bound.iter().filter(|bound| bound.binding.context == context) {
                let action = bound.binding.action;
                if told.contains(&action) {
                    continue;
                }
                told.push(action);
                let of_action =
                    self.bound.iter().filter(|b| b.binding.context == context && b.binding.action == action);
                let keys: Vec<String> = of_action
                    .flat_map(|b| &b.chords)
                    .map(|chord| format!("\"{}\"", escaped(&chord.spelled())))
                    .collect();
                let line = format!("# {} = [{}]", name_of_action(action), keys.join(", "));
                let help = bound.binding.help;
                let _ = if help.is_empty() { writeln!(out, "{line}") } else { writeln!(out, "{line:<50} # {help}") };
            }
        }
        out
    }
}

impl Bound {
    fn is(&self, context: Context, action: &str) -> bool {
        self.binding.context == context && name_of_action(self.binding.action) == action
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn refusal(wish: &Wish, what: String) -> KeysError {
    let context = wish.context.as_ref().map_or_else(String::new, |context| format!("{context}."));
    KeysError { line: wish.line, name: format!("{context}{}", wish.action), what }
}

/// Whether what holds early leaves nothing to what comes late.
fn covers(early: When, late: When) -> bool {
    early == late || early == When::Always || (early == When::InputUntouched && late == When::InputEmpty)
}

fn takes_text(context: Context) -> bool {
    matches!(context, Context::Chat | Context::Sessions | Context::Search | Context::Find)
}

/// Where the action of a wish is bound, within the context that it names.
fn contexts_of(wish: &Wish) -> Result<Vec<Context>, String> {
    let mut all: Vec<Context> = Vec::new();
    for binding in BINDINGS {
        let fits = wish.context.as_ref().is_none_or(|name| name_of_context(binding.context) == *name);
        if fits && name_of_action(binding.action) == wish.action && !all.contains(&binding.context) {
            all.push(binding.context);
        }
    }
    if !all.is_empty() {
        return Ok(all);
    }
    if let Some(name) = &wish.context {
        let names: Vec<String> = names_of(|b| name_of_context(b.context));
        if !names.contains(name) {
            return Err(format!("there is no `{name}`; {}", instead_of(name, &names)));
        }
    }
    let here = |b: &&Binding| wish.context.as_ref().is_none_or(|name| name_of_context(b.context) == *name);
    let mut names: Vec<String> = Vec::new();
    for binding in BINDINGS.iter().filter(here) {
        let name = name_of_action(binding.action);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Err(format!("there is no such action; {}", instead_of(&wish.action, &names)))
}

fn names_of(name: impl Fn(&Binding) -> String) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in BINDINGS.iter().map(name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What somebody may have meant by `wrong`.
fn instead_of(wrong: &str, names: &[String]) -> String {
    match nearest(wrong, names.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}; `wayinfer config --keys` lists them", names.join(", ")),
    }
}

/// What an action is called in the settings' file: its own name in small letters, `scroll-page-up`, `edit-word-left`.
fn name_of_action(action: Action) -> String {
    kebab(&format!("{action:?}"))
}

fn name_of_context(context: Context) -> String {
    kebab(&format!("{context:?}"))
}

fn kebab(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|&c| c != ')') {
        match c {
            '(' => {}
            c if c.is_ascii_uppercase() => {
                if !out.is_empty() {
                    out.push('-');
                }
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crossterm::event::{KeyCode, KeyModifiers};

    use super::*;

    fn wish(name: &str, keys: &[&str]) -> Wish {
        let (context, action) = name.split_once('.').map_or((None, name), |(c, a)| (Some(c.to_owned()), a));
        Wish { context, action: action.to_owned(), keys: keys.iter().map(|&k| k.to_owned()).collect(), line: 7 }
    }

    fn problem(wishes: &[(&str, &[&str])]) -> String {
        let wishes: Vec<Wish> = wishes.iter().map(|(name, keys)| wish(name, keys)).collect();
        Keys::with(&wishes).unwrap_err().to_string()
    }

    fn press(keys: &Keys, context: Context, code: KeyCode, modifiers: KeyModifiers) -> Option<Action> {
        keys.action(context, InputState::Typed, KeyEvent::new(code, modifiers))
    }

    #[test]
    fn a_key_given_to_an_action_is_its_only_one_and_help_and_hints_say_so() {
        let keys = Keys::with(&[wish("retry", &["F9", "Ctrl+X"]), wish("panel.freeze", &[])]).unwrap();
        assert_eq!(press(&keys, Context::Chat, KeyCode::F(9), KeyModifiers::NONE), Some(Action::Retry));
        assert_eq!(press(&keys, Context::Chat, KeyCode::Char('x'), KeyModifiers::CONTROL), Some(Action::Retry));
        assert_eq!(press(&keys, Context::Chat, KeyCode::Char('r'), KeyModifiers::ALT), None);
        assert_eq!(keys.name_of(Context::Chat, Action::Retry).as_deref(), Some("F9"));
        assert!(keys.help(Context::Chat).any(|(names, help)| names == "F9  Ctrl+X" && help.contains("another reply")));
        assert_eq!(press(&keys, Context::Panel, KeyCode::Char('f'), KeyModifiers::NONE), None);
        assert_eq!(keys.name_of(Context::Panel, Action::Freeze), None);
        let words = keys.clone().with_arrows(Arrows::Words);
        assert_eq!(words.name_of(Context::Chat, Action::PromptBefore).as_deref(), Some("Alt+Up"));
        assert_eq!(keys.name_of(Context::Chat, Action::PromptBefore).as_deref(), Some("Alt+↑"));
        assert!(!keys.help(Context::Panel).any(|(_, help)| help.contains("freeze")));
    }

    #[test]
    fn an_action_of_several_tables_changes_in_all_of_them_or_in_one() {
        let all = Keys::with(&[wish("help", &["F12"])]).unwrap();
        let one = Keys::with(&[wish("panel.help", &["F12"])]).unwrap();
        for context in [Context::Chat, Context::Picker, Context::Panel, Context::Replay] {
            let is_panel = context == Context::Panel;
            assert_eq!(press(&all, context, KeyCode::F(12), KeyModifiers::NONE), Some(Action::Help));
            assert_eq!(press(&all, context, KeyCode::F(1), KeyModifiers::NONE), None);
            let found = press(&one, context, KeyCode::F(12), KeyModifiers::NONE);
            assert_eq!(found, is_panel.then_some(Action::Help));
        }
    }

    #[test]
    fn keys_can_be_swapped_but_none_can_mean_two_things() {
        let both: [(&str, &[&str]); 2] = [("retry", &["Alt+E"]), ("edit-turn", &["Alt+R"])];
        let wishes: Vec<Wish> = both.iter().map(|(name, keys)| wish(name, keys)).collect();
        let keys = Keys::with(&wishes).unwrap();
        assert_eq!(press(&keys, Context::Chat, KeyCode::Char('e'), KeyModifiers::ALT), Some(Action::Retry));
        let one = problem(&both[..1]);
        assert!(one.contains("key `keys.retry`: Alt+E is also the key of `edit-turn` in `chat`"), "{one}");
        // Depending on what is typed a key may mean two things: the table has such keys itself.
        assert!(Keys::with(&[wish("quit-if-empty", &["Ctrl+K"])]).is_ok());
        assert!(problem(&[("edit-undo", &["Enter"])]).contains("also the key of `send`"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason_and_what_is_possible() {
        assert!(problem(&[("stop", &["Ctrl+M"])]).contains("the same for it as for Enter"));
        assert!(
            problem(&[("stopp", &["F9"])]).contains("key `keys.stopp`: there is no such action; did you mean `stop`?")
        );
        assert!(problem(&[("scroll_top", &["F9"])]).contains("did you mean `scroll-top`?"));
        assert!(problem(&[("chats.stop", &["F9"])]).contains("there is no `chats`; did you mean `chat`?"));
        assert!(problem(&[("chat.freeze", &["F9"])]).contains("there is no such action; there are send"));
        assert!(problem(&[("retry", &["r"])]).contains("`r` alone could no longer be typed"));
        assert_eq!(Keys::with(&[wish("stop", &["nokey"])]).unwrap_err().line, 7);
    }

    #[test]
    fn the_table_of_every_key_is_what_is_in_force_when_it_is_read_back() {
        let table = Keys::default().table().replace("\n# ", "\n");
        let table: Vec<&str> = table.lines().filter(|line| line.contains(" = ") || line.starts_with('[')).collect();
        let table: toml::Table = toml::from_str(&table.join("\n")).unwrap();
        let mut wishes = Vec::new();
        for (context, actions) in table["keys"].as_table().unwrap() {
            for (action, keys) in actions.as_table().unwrap() {
                let keys: Vec<&str> = keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
                // Keys that depend on what is typed stand in lines of their own.
                if !keys.iter().any(|key| ["?", "Home", "End"].contains(key)) {
                    wishes.push(wish(&format!("{context}.{action}"), &keys));
                }
            }
        }
        assert!(wishes.len() > 100);
        assert_eq!(Keys::with(&wishes), Ok(Keys::default()));
    }
}
