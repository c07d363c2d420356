//! Colours for code: whole lines in, their tones out. It takes its time and belongs on a thread of its own; the syntaxes are
//! read when the first code comes.

use std::sync::LazyLock;

use ratatui::style::Modifier;
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxSet};

use super::{Ink, Tone, Tones};

/// A line longer than this stays without colours: the parser looks for dozens of patterns at each of its characters.
const LONGEST_LINE: usize = 2000;
/// So much code goes into one job, so that the first colours come soon.
const JOB_LINES: usize = 100;
const JOB_BYTES: usize = 16 << 10;

/// Code to be coloured.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which code it is, in its document.
    pub key: u64,
    pub language: String,
    /// Whole lines.
    pub text: String,
    /// What the lines before came to; `None`: these are the first.
    progress: Option<Box<Progress>>,
}

/// The colours of a job's lines.
#[derive(Debug, Clone)]
pub struct Colored {
    pub key: u64,
    lines: Vec<Tones>,
    /// `None`: the language is not known.
    progress: Option<Box<Progress>>,
}

/// The state of the parser between two lines.
#[derive(Debug, Clone)]
struct Progress {
    state: ParseState,
    scopes: ScopeStack,
}

/// The colours that some code has so far.
#[derive(Debug, Default)]
pub struct Colors {
    pub lines: Vec<Tones>,
    progress: Option<Box<Progress>>,
    under_way: bool,
    /// The language is not known, or has no name.
    given_up: bool,
}

impl Colors {
    /// Whether there is something to do for code of `lines` whole lines.
    pub fn wanted(&self, lines: usize) -> bool {
        !self.under_way && !self.given_up && self.lines.len() < lines
    }

    /// A job for the lines of `text`, all of them whole, that have no colours yet; `text` begins with the first of these.
    pub fn job(&mut self, key: u64, language: &str, text: &str) -> Option<Job> {
        if language.is_empty() {
            self.given_up = true;
        }
        let mut end = 0;
        for line in text.split_inclusive('\n').take(JOB_LINES) {
            end += line.len();
            if end > JOB_BYTES {
                break;
            }
        }
        if self.under_way || self.given_up || end == 0 {
            return None;
        }
        self.under_way = true;
        let progress = self.progress.take();
        Some(Job { key, language: language.to_owned(), text: text[..end].to_owned(), progress })
    }

    pub fn take(&mut self, colored: Colored) {
        self.under_way = false;
        self.given_up = colored.progress.is_none();
        self.progress = colored.progress;
        self.lines.extend(colored.lines);
    }
}

static SYNTAXES: LazyLock<SyntaxSet> = LazyLock::new(two_face::syntax::extra_newlines);

/// Names that models write, and those that the syntaxes have.
const ALIASES: &[(&str, &str)] = &[
    ("shell", "bash"),
    ("console", "bash"),
    ("terminal", "bash"),
    ("zsh", "bash"),
    ("golang", "go"),
    ("python3", "python"),
    ("jsonc", "json"),
    ("c#", "cs"),
    ("csharp", "cs"),
    ("jsx", "js"),
    ("asm", "nasm"),
    ("proto", "protobuf"),
    ("viml", "vim"),
];

/// Does a job.
pub fn color(job: Job) -> Colored {
    let Job { key, language, text, progress } = job;
    let language = language.to_lowercase();
    let name = ALIASES.iter().find(|alias| alias.0 == language).map_or(language.as_str(), |alias| alias.1);
    let begin = || {
        let syntax = SYNTAXES.find_syntax_by_token(name)?;
        Some(Box::new(Progress { state: ParseState::new(syntax), scopes: ScopeStack::new() }))
    };
    let Some(mut progress) = progress.or_else(begin) else { return Colored { key, lines: Vec::new(), progress: None } };
    let lines = text.split_inclusive('\n').map(|line| color_line(line, &mut progress)).collect();
    Colored { key, lines, progress: Some(progress) }
}

fn color_line(line: &str, progress: &mut Progress) -> Tones {
    if line.len() > LONGEST_LINE {
        return Tones::new();
    }
    let Ok(changes) = progress.state.parse_line(line, &SYNTAXES) else { return Tones::new() };
    let mut tones = Tones::new();
    let mut ink = ink(&progress.scopes);
    for (at, change) in changes {
        push(&mut tones, at as u32, ink);
        if progress.scopes.apply(&change).is_err() {
            progress.scopes = ScopeStack::new();
        }
        ink = self::ink(&progress.scopes);
    }
    push(&mut tones, line.len() as u32, ink);
    tones
}

fn push(tones: &mut Tones, end: u32, ink: Ink) {
    let modifier = if ink == Ink::Comment { Modifier::ITALIC } else { Modifier::empty() };
    let tone = Tone { ink, modifier };
    match tones.last_mut() {
        Some(last) if last.0 >= end => {}
        Some(last) if last.1 == tone => last.0 = end,
        None if end == 0 => {}
        _ => tones.push((end, tone)),
    }
}

/// What scopes mean for the eye; those further in win, and of a scope the first line that fits.
static INKS: LazyLock<Vec<(Scope, Option<Ink>)>> = LazyLock::new(|| {
    let table: [(&str, Option<Ink>); 22] = [
        ("comment", Some(Ink::Comment)),
        ("string.unquoted", Some(Ink::Code)),
        ("string", Some(Ink::Literal)),
        ("constant.numeric", Some(Ink::Number)),
        ("constant.language", Some(Ink::Number)),
        ("constant.character", Some(Ink::Literal)),
        ("keyword.operator.word", Some(Ink::Keyword)),
        ("keyword.operator.logical", Some(Ink::Keyword)),
        ("keyword.operator", Some(Ink::Code)),
        ("keyword", Some(Ink::Keyword)),
        ("storage", Some(Ink::Keyword)),
        ("entity.name.tag", Some(Ink::Keyword)),
        ("entity.name", Some(Ink::Name)),
        ("entity.other.attribute-name", Some(Ink::Name)),
        ("support.function", Some(Ink::Name)),
        ("support.type", Some(Ink::Name)),
        ("support.class", Some(Ink::Name)),
        ("support.macro", Some(Ink::Name)),
        ("variable.function", Some(Ink::Name)),
        ("markup.heading", Some(Ink::Heading)),
        ("markup.inserted", Some(Ink::Literal)),
        ("markup.deleted", Some(Ink::Keyword)),
    ];
    table.into_iter().filter_map(|(name, ink)| Some((Scope::new(name).ok()?, ink))).collect()
});

fn ink(scopes: &ScopeStack) -> Ink {
    let of = |scope: &Scope| INKS.iter().find(|(prefix, _)| prefix.is_prefix_of(*scope)).and_then(|found| found.1);
    scopes.as_slice().iter().rev().find_map(of).unwrap_or(Ink::Code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn colored(language: &str, text: &str) -> Vec<(String, Ink)> {
        let mut colors = Colors::default();
        let job = colors.job(0, language, text).unwrap();
        colors.take(color(job));
        let mut pieces = Vec::new();
        for (line, tones) in text.split_inclusive('\n').zip(&colors.lines) {
            let mut at = 0;
            for &(end, tone) in tones {
                pieces.push((line[at..end as usize].trim().to_owned(), tone.ink));
                at = end as usize;
            }
        }
        pieces
    }

    #[test]
    fn words_of_a_language_are_told_apart() {
        let rust = colored("rust", "fn main() { // now\n    let x = \"hi\" ; f(42);\n}\n");
        for (text, ink) in [
            ("fn", Ink::Keyword),
            ("main", Ink::Name),
            ("// now", Ink::Comment),
            ("\"hi\"", Ink::Literal),
            ("42", Ink::Number),
        ] {
            assert!(rust.contains(&(text.to_owned(), ink)), "{text} in {rust:?}");
        }
        assert!(colored("Python", "def f():\n").contains(&("def".into(), Ink::Keyword)));
        assert!(colored("shell", "if true; then\n").contains(&("if".into(), Ink::Keyword)));
    }

    #[test]
    fn every_alias_names_a_syntax_and_models_usual_languages_are_known() {
        let usual = "rust python js ts tsx html css json toml yaml bash c cpp java go sql rb php swift kotlin diff lua hs r dockerfile makefile xml md";
        let names = ALIASES.iter().map(|alias| alias.1).chain(usual.split(' '));
        for name in names {
            assert!(SYNTAXES.find_syntax_by_token(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_language_that_is_not_known_is_given_up() {
        let mut colors = Colors::default();
        let job = colors.job(0, "klingon", "nuqneH\n").unwrap();
        assert!(!colors.wanted(1));
        colors.take(color(job));
        assert!(!colors.wanted(1));
        assert!(Colors::default().job(0, "", "x\n").is_none());
    }

    #[test]
    fn code_in_several_jobs_gets_the_colours_that_it_gets_in_one() {
        let text = "/* a\nb */ let x = 1;\n".repeat(3);
        let mut whole = Colors::default();
        let job = whole.job(0, "rust", &text).unwrap();
        whole.take(color(job));
        let mut pieces = Colors::default();
        for line in text.split_inclusive('\n') {
            let job = pieces.job(0, "rust", line).unwrap();
            pieces.take(color(job));
        }
        assert_eq!(pieces.lines, whole.lines);
    }

    #[test]
    fn a_long_line_stays_plain_and_costs_nothing() {
        let begin = std::time::Instant::now();
        let line = format!("{}\n", "let x = 1; ".repeat(100_000));
        let mut colors = Colors::default();
        let job = colors.job(0, "rust", &line).unwrap();
        colors.take(color(job));
        assert_eq!(colors.lines, [Tones::new()]);
        assert!(begin.elapsed() < std::time::Duration::from_secs(2));
    }
}
