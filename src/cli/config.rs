//! Settings that stand for options: a file and the environment in, defaults of the command line out. What is said on the
//! command line wins over `WAYINFER_*` variables, those win over the file, and the file over what is built in.

mod wishes;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Parser};
use serde_json::json;
use toml::Spanned;

use self::wishes::wishes;
use super::look::{LOOK, LookArgs};
use super::options::{Common, SamplingArgs};
use super::output::{self, usage};
use crate::disk::{self, PartFile};
use crate::tui::{Keys, Wish, nearest, theme};

/// Names the file, in the place of the usual one.
const FILE_VARIABLE: &str = "WAYINFER_CONFIG";
const PREFIX: &str = "WAYINFER_";
/// The table of keys, which no option stands for.
const KEYS_TABLE: &str = "keys";
const MAX_FILE: u64 = 1 << 20;

/// A key of the file. It is its option's name with `_` for `-`, and its variable is `WAYINFER_` and the key in capitals.
struct Key {
    name: &'static str,
    /// What is taken where nobody says anything.
    built_in: &'static str,
    /// A value, as the file has it.
    example: &'static str,
    what: &'static str,
}

const fn key(name: &'static str, built_in: &'static str, example: &'static str, what: &'static str) -> Key {
    Key { name, built_in, example, what }
}

const KEYS: [Key; 17] = [
    key("threads", "all cores", "8", "Compute threads."),
    key("ctx", "the model's own", "8192", "Context length in tokens."),
    key("isa", "the best there is", "\"avx2\"", "Instruction set of the kernels: scalar, avx2, avx512 or amx."),
    key("paging", "auto", "\"auto\"", "How expert weights arrive: auto, mapped or direct."),
    key("ram", "what is available", "\"8G\"", "Memory to count with."),
    key("kv", "f16", "\"f16\"", "Format of the KV cache: f16, q8_0 or q4_0."),
    key("temp", "0.8 (demo: 0.2)", "0.8", "Temperature; 0 is greedy."),
    key("top_k", "40", "40", "Draw from the K best only; 0: off."),
    key("top_p", "0.95", "0.95", "Draw from the fewest that reach this probability; 1: off."),
    key("min_p", "0.05", "0.05", "Drop what is less than P times as likely as the best; 0: off."),
    key("repeat_penalty", "1", "1.0", "Penalty on repeated tokens; 1: off."),
    key("frequency_penalty", "0", "0.0", "Penalty a token for each time it was said."),
    key("presence_penalty", "0", "0.0", "Penalty on every token that was said."),
    key(
        "theme",
        "auto",
        "\"auto\"",
        "Colours: auto, dark, light, high-contrast, or NAME of themes/NAME.toml in this folder.",
    ),
    key("symbols", "auto", "\"auto\"", "Signs to draw with: auto, unicode or ascii."),
    key("motion", "true", "true", "Whether bars grow and figures run."),
    key("synchronized_updates", "true", "true", "Whether frames are marked to be shown whole (DEC mode 2026)."),
];

/// Budgets of a replay are a question, not a setting; how it looks is one.
const LOOKS_ONLY: &str = "replay";

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(super) struct ConfigArgs {
    /// Write a file with every key, commented out
    #[arg(long)]
    init: bool,
    /// A theme file with every role, commented out, on stdout
    #[arg(long, conflicts_with_all = ["init", "json"])]
    init_theme: bool,
    /// The keys in force as the settings' file has them, commented out, on stdout
    #[arg(long, conflicts_with_all = ["init", "json", "init_theme"])]
    keys: bool,
    /// As JSON
    #[arg(long, conflicts_with = "init")]
    json: bool,
    #[command(flatten)]
    options: SettableOptions,
}

/// The options that keys stand for, among others.
#[derive(Debug, Args)]
struct SettableOptions {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// A command line of nothing but those options, to check a value as its option is checked.
#[derive(Debug, Parser)]
#[command(name = "wayinfer")]
struct Judge {
    #[command(flatten)]
    options: SettableOptions,
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Variable(String),
    File { path: PathBuf, line: usize },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Variable(name) => write!(f, "environment, {name}"),
            Source::File { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

/// Settings by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<&'static str, (String, Source)>, Keys);

impl Settings {
    /// The settings of the file and of the environment, each checked as its option is.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is wrong: the place and the key are named.
    pub(super) fn read() -> anyhow::Result<Settings> {
        // Without a home there is no file, and the environment alone speaks.
        let file = file().unwrap_or_default();
        let text = match file.try_exists() {
            Ok(true) => output::read_limited(&file, MAX_FILE)?,
            Ok(false) if std::env::var_os(FILE_VARIABLE).is_some_and(|name| !name.is_empty()) => {
                let name = file.display();
                return Err(usage(format!(
                    "{FILE_VARIABLE} names {name}, which is not there; `wayinfer config --init` writes it"
                )));
            }
            Ok(false) => Vec::new(),
            Err(error) => anyhow::bail!("cannot look for {}: {error}", file.display()),
        };
        let text = String::from_utf8(text).with_context(|| format!("{} is not UTF-8", file.display()))?;
        let settings = Settings::of(&file, &text, &|name| std::env::var_os(name))?;
        settings.check()?;
        Ok(settings)
    }

    fn of(file: &Path, text: &str, variable: &dyn Fn(&str) -> Option<OsString>) -> anyhow::Result<Settings> {
        let line_of = |at: usize| text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1;
        let table: BTreeMap<Spanned<String>, Spanned<toml::Value>> = toml::from_str(text).map_err(|e| {
            let line = line_of(e.span().map_or(0, |span| span.start));
            usage(format!("{}, line {line}: {}", file.display(), e.message()))
        })?;
        let mut settings = Settings::default();
        for (name, value) in table {
            let line = line_of(name.span().start);
            if name.get_ref() == KEYS_TABLE {
                continue;
            }
            let refuse = |what: String| usage(format!("{}, line {line}: {what}", file.display()));
            let Some(key) = KEYS.iter().map(|key| key.name).find(|key| key == name.get_ref()) else {
                return Err(refuse(format!("there is no key `{}`; {}", name.get_ref(), instead_of(name.get_ref()))));
            };
            let value = match value.into_inner() {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(is_on) => is_on.to_string(),
                other => {
                    let found = other.type_str();
                    return Err(refuse(format!(
                        "key `{key}` is of the type {found}, expected a text, a number, true or false"
                    )));
                }
            };
            settings.0.insert(key, (value, Source::File { path: file.to_owned(), line }));
        }
        let wishes =
            wishes(text).map_err(|(at, what)| usage(format!("{}, line {}: {what}", file.display(), line_of(at))))?;
        let wishes: Vec<Wish> = wishes.into_iter().map(|wish| Wish { line: line_of(wish.line), ..wish }).collect();
        settings.1 =
            Keys::with(&wishes).map_err(|error| usage(format!("{}, line {}: {error}", file.display(), error.line)))?;
        for key in &KEYS {
            let name = variable_of(key.name);
            let Some(value) = variable(&name).filter(|value| !value.is_empty()) else { continue };
            let value = value.into_string().map_err(|_| usage(format!("{name} is not UTF-8")))?;
            settings.0.insert(key.name, (value, Source::Variable(name)));
        }
        Ok(settings)
    }

    /// The keys in force.
    pub(super) fn keys(&self) -> Keys {
        self.1.clone()
    }

    /// Each value as its option would take it.
    fn check(&self) -> anyhow::Result<()> {
        for (key, (value, source)) in &self.0 {
            let option = format!("--{}={value}", key.replace('_', "-"));
            let judged = match Judge::try_parse_from(["wayinfer", &option]) {
                Ok(judge) => {
                    let sampling = judge.options.sampling.params().map(drop);
                    sampling.and_then(|()| judge.options.look.appearance().map(drop)).map_err(|e| e.to_string())
                }
                Err(error) => Err(error.render().to_string()),
            };
            if let Err(why) = judged {
                let why = why.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                return Err(usage(format!("{source}: key `{key}`: {why}")));
            }
        }
        Ok(())
    }

    /// `command` with these settings as the defaults of the options they stand for, in all subcommands.
    pub(super) fn apply(&self, command: clap::Command) -> clap::Command {
        let set = |arg: clap::Arg| match self.0.get(arg.get_id().as_str()) {
            Some((value, _)) => arg.default_value(value.clone()),
            None => arg,
        };
        command.mut_args(set).mut_subcommands(|subcommand| match subcommand.get_name() {
            LOOKS_ONLY => subcommand.mut_args(|arg| if is_look(&arg) { set(arg) } else { arg }),
            _ => subcommand.mut_args(set),
        })
    }
}

/// Whether a command has an option that a key stands for. For others nobody needs to have the settings right.
pub(super) fn takes_settings(command: &clap::Command) -> bool {
    let is_key = |arg: &clap::Arg| KEYS.iter().any(|key| key.name == arg.get_id().as_str());
    command.get_arguments().any(is_key)
}

fn is_look(arg: &clap::Arg) -> bool {
    LOOK.contains(&arg.get_id().as_str())
}

/// The folder of theme files, beside the settings' file.
pub(super) fn themes_folder() -> Option<PathBuf> {
    Some(disk::folder_of(&file().ok()?).join("themes"))
}

/// What somebody may have meant by `name`.
fn instead_of(name: &str) -> String {
    match closest(name) {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("there are {}", KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
    }
}

fn closest(name: &str) -> Option<&'static str> {
    nearest(name, KEYS.iter().map(|key| key.name))
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

/// Variables that look like settings and are none, with what may be meant.
fn misspelled(variables: impl Iterator<Item = OsString>) -> Vec<String> {
    let known = |name: &str| name == FILE_VARIABLE || KEYS.iter().any(|key| variable_of(key.name) == name);
    let warning = |name: OsString| {
        let name = name.into_string().ok().filter(|name| !known(name))?;
        let meant = closest(name.strip_prefix(PREFIX)?)?;
        Some(format!("{name} is no setting; did you mean {}?", variable_of(meant)))
    };
    variables.filter_map(warning).collect()
}

/// The settings' file, whether it is there or not.
fn file() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let folders = directories::ProjectDirs::from("", "", "wayinfer");
    let folders = folders.ok_or_else(|| anyhow::anyhow!("no home folder; set HOME or {FILE_VARIABLE}"))?;
    Ok(folders.config_dir().join("config.toml"))
}

/// `matches` are those of the whole command line, with `settings` as its defaults.
pub(super) fn config(args: &ConfigArgs, settings: &Settings, matches: &ArgMatches) -> anyhow::Result<()> {
    let path = file()?;
    if args.init {
        write_commented(&path)?;
        return Ok(output::print(&format!("{}\n", path.display()))?);
    }
    misspelled(std::env::vars_os().map(|(name, _)| name)).iter().for_each(|warning| output::warn(warning));
    if args.init_theme {
        return Ok(output::print(&theme::commented())?);
    }
    if args.keys {
        return Ok(output::print(&settings.keys().table())?);
    }
    // The subcommand's own options are what this call was told.
    let matches = matches.subcommand().map_or(matches, |(_, own)| own);
    args.options.sampling.params()?;
    let rows = KEYS.iter().map(|key| Row::of(key, settings, matches));
    if args.json {
        let report = json!({ "file": path, "exists": path.exists(), "settings": rows.map(|row| row.json()).collect::<Vec<_>>() });
        return Ok(output::print_json(&report)?);
    }
    let there = if path.exists() { "" } else { " (not there; `wayinfer config --init` writes one)" };
    let mut page = format!("{}{there}\nan option wins over a variable, a variable over the file\n\n", path.display());
    page.extend(rows.map(|row| format!("{:<20} {:<18} {}\n", row.key, row.value, row.origin())));
    Ok(output::print(&page)?)
}

/// A setting, its value in force and where that comes from.
struct Row<'s> {
    key: &'static str,
    value: String,
    origin: Origin<'s>,
}

enum Origin<'s> {
    BuiltIn,
    Option,
    Setting(&'s Source),
}

impl<'s> Row<'s> {
    fn of(key: &'static Key, settings: &'s Settings, matches: &ArgMatches) -> Row<'s> {
        let said = matches.value_source(key.name) == Some(ValueSource::CommandLine);
        let said = if said { matches.get_raw(key.name).and_then(|mut values| values.next_back()) } else { None };
        let (value, origin) = match (said, settings.0.get(key.name)) {
            (Some(value), _) => (value.to_string_lossy().into_owned(), Origin::Option),
            (None, Some((value, source))) => (value.clone(), Origin::Setting(source)),
            (None, None) => (key.built_in.to_owned(), Origin::BuiltIn),
        };
        Row { key: key.name, value, origin }
    }

    fn origin(&self) -> String {
        match self.origin {
            Origin::BuiltIn => "default".to_owned(),
            Origin::Option => format!("option, --{}", self.key.replace('_', "-")),
            Origin::Setting(source) => source.to_string(),
        }
    }

    /// The value of what nobody has set is null.
    fn json(&self) -> serde_json::Value {
        let (source, value) = match self.origin {
            Origin::BuiltIn => ("default", None),
            Origin::Option => ("option", Some(&self.value)),
            Origin::Setting(Source::Variable(_)) => ("environment", Some(&self.value)),
            Origin::Setting(Source::File { .. }) => ("file", Some(&self.value)),
        };
        let line = if let Origin::Setting(Source::File { line, .. }) = self.origin { Some(line) } else { None };
        json!({ "key": self.key, "value": value, "source": source, "line": line, "variable": variable_of(self.key) })
    }
}

fn write_commented(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Err(usage(format!("{} is there already; it is not written over", path.display())));
    }
    let folder = disk::folder_of(path);
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    let part = PartFile::create(path)?;
    part.file().write_all(commented().as_bytes()).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(part.finish()?)
}

/// A file with every key, commented out.
fn commented() -> String {
    let mut text = format!(
        "# Settings of WayInfer. An option on the command line wins over a variable of the environment (named with each\n\
         # key), and a variable over this file. {FILE_VARIABLE} names another file; `wayinfer config` shows what is in force.\n"
    );
    let entry = |key: &Key| {
        let Key { name, built_in, example, what } = key;
        format!("\n# {what} Default: {built_in}. ({})\n# {name} = {example}\n", variable_of(name))
    };
    text.extend(KEYS.iter().map(entry));
    text.push_str(
        "\n# Other keys, by what they do; `wayinfer config --keys` lists all.\n# [keys]\n# # retry = \"Alt+R\"\n",
    );
    text
}

#[cfg(test)]
mod tests;
