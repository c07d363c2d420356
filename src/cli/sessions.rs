//! `wayinfer sessions`: the conversations that the chat has kept.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::options::data_folder;
use super::output::{self, usage};
use crate::transcript::library::{self, Format, Listed};
use crate::transcript::{self, SessionFile};
use crate::tui;

/// A larger text is no conversation.
const MAX_IMPORT: u64 = 256 << 20;

#[derive(Debug, Args)]
pub(super) struct SessionsArgs {
    /// The conversation: its number in the list, its file, its name or a part of it that no other has
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// List those that hold this text, in any case
    #[arg(long, value_name = "TEXT", conflicts_with = "name")]
    search: Option<String>,
    /// Call the conversation something else
    #[arg(long, value_name = "TITLE", requires = "name")]
    rename: Option<String>,
    /// Delete the conversation and its KV cache, after asking
    #[arg(long, requires = "name", conflicts_with = "rename")]
    delete: bool,
    /// Do not ask before deleting
    #[arg(long, requires = "delete")]
    yes: bool,
    /// Write the conversation to stdout
    #[arg(long, value_name = "FORM", requires = "name", value_parser = PossibleValuesParser::new(["md", "json"]), conflicts_with_all = ["rename", "delete"])]
    export: Option<String>,
    /// Keep the conversation in this file, an export or a list of messages with `role` and `content`; `-`: stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "search"])]
    import: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SessionsArgs) -> anyhow::Result<()> {
    let dir = data_folder()?.join("sessions");
    if let Some(file) = &args.import {
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::Read::take(std::io::stdin(), MAX_IMPORT))?
        } else {
            String::from_utf8(output::read_limited(file, MAX_IMPORT)?)
                .map_err(|_| anyhow::anyhow!("{} is not UTF-8", file.display()))?
        };
        let path = library::import(&dir, &text).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?;
        return Ok(output::print(&format!("{}\n", path.display()))?);
    }
    let Some(name) = &args.name else {
        return list(&library::list(&dir, args.search.as_deref().unwrap_or_default())?, args.json);
    };
    let found = library::find(&dir, name)?;
    if let Some(title) = &args.rename {
        return Ok(library::rename(&found.path, title)?);
    }
    if args.delete {
        return delete(&found, args.yes);
    }
    let Some(form) = &args.export else { return list(&[found], args.json) };
    let format = if form == "json" { Format::Json } else { Format::Markdown };
    let text = library::export(&transcript::read(&found.path)?, format);
    // A file gets every byte; a terminal does nothing that a model tells it.
    let text = if std::io::stdout().is_terminal() { tui::sanitize(&text) } else { text };
    Ok(output::print(&text)?)
}

fn list(all: &[Listed], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let rows: Vec<_> = all.iter().map(row_json).collect();
        return Ok(output::print_json(&json!(rows))?);
    }
    let mut page = String::new();
    for (n, listed) in (1..).zip(all) {
        page += &match &listed.what {
            Ok(summary) => {
                let turns = format!("{} turn{}", summary.turns, if summary.turns == 1 { "" } else { "s" });
                let models = if summary.models.is_empty() { "no model" } else { &summary.models.join(", ") };
                let name = if summary.name.is_empty() { "(nothing said)" } else { &summary.name };
                let head = format!("{n:>3}  {:<16}  {name}", summary.local_time());
                tui::one_line(&head)
                    + "\n"
                    + &tui::one_line(&format!("     {} · {turns} · {models}", listed.id()))
                    + "\n"
            }
            Err(why) => tui::one_line(&format!("{n:>3}  {:<16}  {}: {why}", "cannot be read", listed.id())) + "\n",
        };
        if !listed.excerpt.is_empty() {
            page += &(tui::one_line(&format!("     “{}”", listed.excerpt)) + "\n");
        }
    }
    Ok(output::print(&page)?)
}

fn row_json(listed: &Listed) -> serde_json::Value {
    let (summary, error) = (listed.what.as_ref().ok(), listed.what.as_ref().err());
    json!({
        "id": listed.id(),
        "path": listed.path,
        "name": summary.map(|s| &s.name),
        "time": summary.map(|s| &s.time),
        "models": summary.map(|s| &s.models),
        "turns": summary.map(|s| s.turns),
        "excerpt": (!listed.excerpt.is_empty()).then_some(&listed.excerpt),
        "error": error,
    })
}

fn delete(found: &Listed, is_sure: bool) -> anyhow::Result<()> {
    if !is_sure {
        if !std::io::stdin().is_terminal() {
            return Err(usage("there is nobody to ask whether it is to be deleted; --yes says so"));
        }
        output::ask(&format!("Delete “{}” ({})? [y/N] ", tui::one_line(&found.name()), found.path.display()));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            output::warn("it is kept");
            return Ok(());
        }
    }
    Ok(library::delete(&found.path)?)
}

/// Opens the conversation of this name, or the latest that can be opened where there is none.
pub(super) fn open(dir: &Path, name: &str) -> anyhow::Result<SessionFile> {
    if !name.is_empty() {
        return Ok(SessionFile::open(&library::find(dir, name)?.path)?);
    }
    let latest = library::list(dir, "")?.into_iter().find(|listed| listed.what.is_ok());
    let latest = latest.ok_or_else(|| usage("there is no conversation yet to go on with"))?;
    Ok(SessionFile::open(&latest.path)?)
}
