//! The slash commands: one table says what each is called, what it takes and what it does. The text being typed in,
//! commands and completions out.

use super::nearest::nearest;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    Help,
    Theme,
    Model,
    System,
    Set(Knob),
    New,
    Save,
    Sessions,
    Resume,
    Rename,
    Delete,
    Export,
    Trace,
    Copy,
    Find,
    Raw,
    Thinking,
    Retry,
    Continue,
    Edit,
    Branch,
    Quit,
}

/// A number that steers how tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Knob {
    Temperature,
    TopP,
    TopK,
    MinP,
    RepeatPenalty,
    FrequencyPenalty,
    PresencePenalty,
    Seed,
    MaxTokens,
}

/// One line of the table.
#[derive(Debug)]
pub struct SlashCommand {
    /// With its slash.
    pub name: &'static str,
    /// What may follow it, in the manner of a synopsis.
    pub arguments: &'static str,
    pub help: &'static str,
    pub deed: Deed,
    /// Words that its argument may begin with.
    words: &'static [&'static str],
}

const fn command(name: &'static str, arguments: &'static str, deed: Deed, help: &'static str) -> SlashCommand {
    SlashCommand { name, arguments, help, deed, words: &[] }
}

/// Every command, in the order of help. `tests/terminal/command_cases.rs` has a line for each, which is tried in the program
/// itself; a new one needs a line there.
#[rustfmt::skip]
pub static COMMANDS: &[SlashCommand] = &[
    command("/help", "", Deed::Help, "keys and commands"),
    command("/retry", "", Deed::Retry, "another reply, on a branch beside the last"),
    command("/continue", "", Deed::Continue, "go on with a reply that was stopped"),
    command("/edit", "[N]", Deed::Edit, "put your last message otherwise, or an earlier"),
    command("/branch", "[N]", Deed::Branch, "to the next branch, or to the Nth"),
    command("/new", "", Deed::New, "begin another conversation"),
    command("/sessions", "[TEXT]", Deed::Sessions, "all conversations, to search and to choose"),
    command("/resume", "[NAME]", Deed::Resume, "go on with an earlier conversation"),
    command("/rename", "TITLE", Deed::Rename, "call this conversation something"),
    command("/save", "", Deed::Save, "where this conversation is saved; it always is"),
    SlashCommand { words: &["md", "json"], ..command("/export", "[md|json] [FILE]", Deed::Export, "write this conversation to a file") },
    SlashCommand { words: &["start", "stop"], ..command("/trace", "[start [FILE]|stop]", Deed::Trace, "record which experts are used, for replay") },
    SlashCommand { words: &["code", "all"], ..command("/copy", "[code [N]|all]", Deed::Copy, "copy the last reply, its code or all") },
    command("/find", "[TEXT]", Deed::Find, "look for a text in this conversation"),
    command("/raw", "", Deed::Raw, "replies as they were said, and back"),
    command("/thinking", "", Deed::Thinking, "unfold what was thought, and back"),
    command("/delete", "", Deed::Delete, "delete this conversation, when you have said yes"),
    command("/theme", "[NAME]", Deed::Theme, "other colours: auto, dark, light, high-contrast or your own"),
    command("/model", "[NAME]", Deed::Model, "go on with another model"),
    SlashCommand { words: &["-"], ..command("/system", "[TEXT|-]", Deed::System, "the system message; - takes it away") },
    command("/temp", "[T]", Deed::Set(Knob::Temperature), "temperature; 0 is always the likeliest token"),
    command("/top-p", "[P]", Deed::Set(Knob::TopP), "draw from the fewest tokens that reach P; 1: off"),
    command("/top-k", "[K]", Deed::Set(Knob::TopK), "draw from the K best; 0: off"),
    command("/min-p", "[P]", Deed::Set(Knob::MinP), "least share of the best token's likelihood; 0: off"),
    command("/repeat-penalty", "[X]", Deed::Set(Knob::RepeatPenalty), "penalty on repeated tokens; 1: off"),
    command("/frequency-penalty", "[X]", Deed::Set(Knob::FrequencyPenalty), "penalty for each time a token was said"),
    command("/presence-penalty", "[X]", Deed::Set(Knob::PresencePenalty), "penalty on every token that was said"),
    SlashCommand { words: &["-"], ..command("/seed", "[S|-]", Deed::Set(Knob::Seed), "a seed gives the same reply; -: from the clock") },
    SlashCommand { words: &["-"], ..command("/max-tokens", "[N|-]", Deed::Set(Knob::MaxTokens), "the most tokens of a reply; -: what fits") },
    command("/quit", "", Deed::Quit, "leave; everything is saved"),
];

/// What a text that is to be sent is.
#[derive(Debug, PartialEq)]
pub enum Parsed<'t> {
    Message,
    /// A message that begins with a slash, which was written twice.
    Escaped(&'t str),
    Command(&'static SlashCommand, &'t str),
    /// A word with a slash that is no command.
    Unknown(&'t str),
}

impl PartialEq for SlashCommand {
    fn eq(&self, other: &SlashCommand) -> bool {
        self.name == other.name
    }
}

/// Tells commands from messages.
pub fn parse(text: &str) -> Parsed<'_> {
    if !text.starts_with('/') {
        return Parsed::Message;
    }
    if text.starts_with("//") {
        return Parsed::Escaped(&text[1..]);
    }
    let (name, arguments) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match named(name) {
        Some(command) => Parsed::Command(command, arguments.trim()),
        None => Parsed::Unknown(name),
    }
}

/// `text` as it has to be typed to be a message.
pub fn escaped(text: &str) -> String {
    if text.starts_with('/') { format!("/{text}") } else { text.to_owned() }
}

pub fn named(name: &str) -> Option<&'static SlashCommand> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Whether completions are shown for a line that is all there is.
pub fn is_begun(line: &str) -> bool {
    line.starts_with('/')
}

/// A line of the list above the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// What the input becomes when this is taken; `None`: it only tells something.
    pub fill: Option<String>,
    pub name: String,
    pub help: &'static str,
}

/// What may become of a text that begins with a slash. Never nothing.
pub fn suggestions(text: &str) -> Vec<Suggestion> {
    let tell = |name: &str, help| vec![Suggestion { fill: None, name: name.to_owned(), help }];
    if text.starts_with("//") {
        return tell("//", "sent as a message that begins with one /");
    }
    if let Some((name, rest)) = text.split_once(' ') {
        let Some(command) = named(name) else { return tell(name, NO_COMMAND) };
        let words = command.words.iter().filter(|word| word.starts_with(rest) && **word != rest);
        let mut lines: Vec<Suggestion> = words
            .map(|word| Suggestion { fill: Some(format!("{name} {word} ")), name: format!("{name} {word}"), help: "" })
            .collect();
        lines.extend(tell(&synopsis(command), command.help));
        return lines;
    }
    let fitting = COMMANDS.iter().filter(|command| command.name.starts_with(text));
    let lines: Vec<Suggestion> = fitting
        .map(|command| {
            let space = if command.arguments.is_empty() { "" } else { " " };
            let fill = Some(format!("{}{space}", command.name));
            Suggestion { fill, name: synopsis(command), help: command.help }
        })
        .collect();
    if lines.is_empty() { tell(text, NO_COMMAND) } else { lines }
}

const NO_COMMAND: &str = "is no command; with // in front it is sent as a message";

/// The name and what may follow it.
pub fn synopsis(command: &SlashCommand) -> String {
    format!("{} {}", command.name, command.arguments).trim_end().to_owned()
}

/// The command whose name is nearest to `name`, if one is near.
pub fn closest(name: &str) -> Option<&'static str> {
    nearest(name, COMMANDS.iter().map(|command| command.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_in_small_letters() {
        for (i, command) in COMMANDS.iter().enumerate() {
            assert!(COMMANDS[..i].iter().all(|other| other.name != command.name && other.deed != command.deed));
            let rest = command.name.strip_prefix('/').unwrap();
            assert!(rest.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{rest}");
            assert!(!command.help.is_empty());
        }
    }

    #[test]
    fn a_text_is_a_message_a_command_or_neither() {
        assert_eq!(parse("hello /temp"), Parsed::Message);
        assert_eq!(parse("//usr/bin is full"), Parsed::Escaped("/usr/bin is full"));
        assert_eq!(parse("/temp  0.5 "), Parsed::Command(named("/temp").unwrap(), "0.5"));
        assert_eq!(parse("/system two\nlines"), Parsed::Command(named("/system").unwrap(), "two\nlines"));
        assert_eq!(parse("/usr/bin is full"), Parsed::Unknown("/usr/bin"));
        assert_eq!((escaped("/usr"), escaped("usr")), ("//usr".into(), "usr".into()));
        assert_eq!((closest("/tepm"), closest("/usr/bin")), (Some("/temp"), None));
    }

    #[test]
    fn suggestions_narrow_down_and_say_what_follows() {
        let fills = |text: &str| suggestions(text).into_iter().filter_map(|s| s.fill).collect::<Vec<_>>();
        assert_eq!(fills("/").len(), COMMANDS.len());
        assert_eq!(fills("/top"), ["/top-p ", "/top-k "]);
        assert_eq!(fills("/retry"), ["/retry"]);
        assert_eq!(fills("/export "), ["/export md ", "/export json "]);
        assert_eq!(fills("/export j"), ["/export json "]);
        for text in ["/nonsense", "/nonsense x", "//x", "/temp 1"] {
            assert_eq!((fills(text).len(), suggestions(text).len()), (0, 1), "{text}");
        }
    }

    #[test]
    fn the_readme_names_every_command() {
        let readme = include_str!("../../README.md");
        for command in COMMANDS {
            assert!(readme.contains(&format!("`{}", command.name)), "{} is not in README.md", command.name);
        }
    }
}
