//! Settings that stand for options: a file and the environment in, defaults of the command line out. What is said on the
//! command line wins over `WAYINFER_*` variables, those win over the file, and the file over what is built in.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use toml::Spanned;

use super::output::{self, usage};

/// Names the file, in the place of the usual one.
const FILE_VARIABLE: &str = "WAYINFER_CONFIG";
const MAX_FILE: u64 = 1 << 20;

/// `(key, value in the commented file, what it is)`. A key is its option's name with `_` for `-`, and its variable is
/// `WAYINFER_` and the key in capitals.
const KEYS: [(&str, &str, &str); 13] = [
    ("threads", "8", "Compute threads; without it, all cores."),
    ("ctx", "8192", "Context length in tokens; without it, the model's own."),
    ("isa", "\"avx2\"", "Instruction set of the kernels: scalar, avx2, avx512 or amx; without it, the best there is."),
    ("paging", "\"auto\"", "How expert weights arrive."),
    ("ram", "\"8G\"", "Memory to count with; without it, what the machine and its limits leave."),
    ("kv", "\"f16\"", "Format of the KV cache: f16, q8_0 or q4_0."),
    ("temp", "0.8", "Temperature; 0 is greedy."),
    ("top_k", "40", "Draw from the K best only; 0: off."),
    ("top_p", "0.95", "Draw from the fewest that reach this probability; 1: off."),
    ("min_p", "0.05", "Drop what is less than P times as likely as the best; 0: off."),
    ("repeat_penalty", "1.0", "Penalty on repeated tokens; 1: off."),
    ("frequency_penalty", "0.0", "Penalty a token for each time it was said."),
    ("presence_penalty", "0.0", "Penalty on every token that was said."),
];

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Write a file with every key, commented out
    #[arg(long)]
    init: bool,
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
            Source::Variable(name) => f.write_str(name),
            Source::File { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

/// Settings by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<&'static str, (String, Source)>);

impl Settings {
    /// The settings of the file and of the environment, each checked as its option is.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is wrong: the place and the key are named.
    pub(super) fn read() -> anyhow::Result<Settings> {
        // Without a home there is no file, and the environment alone speaks.
        let file = file().unwrap_or_default();
        let text = if file.exists() { output::read_limited(&file, MAX_FILE)? } else { Vec::new() };
        let text = String::from_utf8(text).with_context(|| format!("{} is not UTF-8", file.display()))?;
        let settings = Settings::of(&file, &text, &|name| std::env::var(name).ok())?;
        settings.check()?;
        Ok(settings)
    }

    fn of(file: &Path, text: &str, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Settings> {
        let line_of = |at: usize| text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1;
        let table: BTreeMap<Spanned<String>, Spanned<toml::Value>> =
            toml::from_str(text).map_err(|e| usage(format!("{}: {e}", file.display())))?;
        let mut settings = Settings::default();
        for (name, value) in table {
            let line = line_of(name.span().start);
            let refuse = |what: String| usage(format!("{}, line {line}: {what}", file.display()));
            let Some(key) = KEYS.iter().map(|key| key.0).find(|key| key == name.get_ref()) else {
                let known: Vec<_> = KEYS.iter().map(|key| key.0).collect();
                return Err(refuse(format!("there is no key `{}`; there are {}", name.get_ref(), known.join(", "))));
            };
            let value = match value.into_inner() {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                other => {
                    return Err(refuse(format!("key `{key}` is {}, expected a text or a number", other.type_str())));
                }
            };
            settings.0.insert(key, (value, Source::File { path: file.to_owned(), line }));
        }
        for (key, ..) in KEYS {
            let name = variable_of(key);
            if let Some(value) = variable(&name).filter(|value| !value.is_empty()) {
                settings.0.insert(key, (value, Source::Variable(name)));
            }
        }
        Ok(settings)
    }

    /// Each value as its option would take it.
    fn check(&self) -> anyhow::Result<()> {
        for (key, (value, source)) in &self.0 {
            let option = format!("--{}={value}", key.replace('_', "-"));
            if let Err(error) = super::command().try_get_matches_from(["wayinfer", "run", &option]) {
                let text = error.render().to_string();
                let why = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
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
        command.mut_args(set).mut_subcommands(|subcommand| subcommand.mut_args(set))
    }
}

fn variable_of(key: &str) -> String {
    format!("WAYINFER_{}", key.to_ascii_uppercase())
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

pub(super) fn config(args: &ConfigArgs, settings: &Settings) -> anyhow::Result<()> {
    let path = file()?;
    if args.init {
        anyhow::ensure!(!path.exists(), "{} is there already; it is not written over", path.display());
        let failed = || format!("{} cannot be written", path.display());
        fs::create_dir_all(crate::disk::folder_of(&path)).with_context(failed)?;
        fs::write(&path, commented()).with_context(failed)?;
        return Ok(output::print(&format!("{}\n", path.display()))?);
    }
    let there = if path.exists() { "" } else { " (not there; `wayinfer config --init` writes one)" };
    let mut page = format!("{}{there}\noptions win over variables, variables over the file\n\n", path.display());
    page.extend(KEYS.iter().map(|(key, ..)| {
        let (value, source) = match settings.0.get(key) {
            Some((value, source)) => (value.as_str(), source.to_string()),
            None => ("-", "built in".to_owned()),
        };
        format!("{key:<18} {value:<12} {source}\n")
    }));
    Ok(output::print(&page)?)
}

/// A file with every key, commented out.
fn commented() -> String {
    let mut text = format!(
        "# Settings of WayInfer. An option on the command line wins over a variable of the environment (named above each\n\
         # key), and a variable over this file. {FILE_VARIABLE} names another file.\n"
    );
    let entry =
        |(key, value, what): &(&str, &str, &str)| format!("\n# {what} ({})\n# {key} = {value}\n", variable_of(key));
    text.extend(KEYS.iter().map(entry));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let settings = Settings::of(Path::new("c.toml"), text, &variable)?;
        settings.check()?;
        Ok(settings)
    }

    fn problem(text: &str, variables: &[(&str, &str)]) -> String {
        output::message(&of(text, variables).unwrap_err())
    }

    #[test]
    fn the_commented_file_is_valid_and_holds_every_key() {
        assert_eq!(of(&commented(), &[]).unwrap(), Settings::default());
        let uncommented =
            commented().replace("\n# ", "\n").lines().filter(|l| l.contains(" = ")).collect::<Vec<_>>().join("\n");
        assert_eq!(of(&uncommented, &[]).unwrap().0.len(), KEYS.len());
    }

    #[test]
    fn errors_name_the_line_and_the_key() {
        assert!(problem("kv = \"f16\"\nthread = 3\n", &[]).contains("c.toml, line 2: there is no key `thread`"));
        assert!(problem("\n\nthreads = \"many\"", &[]).contains("c.toml, line 3: key `threads`"));
        assert!(problem("threads = 0", &[]).contains("key `threads`"));
        assert!(problem("kv = [1]", &[]).contains("line 1: key `kv` is array"));
        assert!(problem("isa = \"mmx\"", &[]).contains("key `isa`"));
        assert!(problem("threads = = 2", &[]).contains("line 1"));
        assert!(problem("", &[("WAYINFER_RAM", "lots")]).contains("WAYINFER_RAM: key `ram`"));
    }

    #[test]
    fn options_win_over_variables_and_variables_over_the_file() {
        let settings = of("threads = 2\nctx = 64\ntemp = 0.5", &[("WAYINFER_CTX", "128")]).unwrap();
        let matches = |words: &[&str]| {
            let words = [&["wayinfer", "run", "m.gguf"], words].concat();
            settings.apply(super::super::command()).try_get_matches_from(words).unwrap()
        };
        let number = |words: &[&str], key: &str| *matches(words).subcommand().unwrap().1.get_one::<u32>(key).unwrap();
        assert_eq!((number(&[], "threads"), number(&[], "ctx")), (2, 128));
        assert_eq!(number(&["--threads", "4"], "threads"), 4);
        // A default is no contradiction.
        matches(&["--greedy"]);
    }
}
