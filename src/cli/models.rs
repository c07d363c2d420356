//! `wayinfer models`: the models on this machine, those worth fetching, and removing one.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::options::{cache_folder, model_folders};
use super::output::{self, usage};
use crate::catalog::{self, Model, Owner, suggestions};
use crate::embedded;
use crate::store::System;
use crate::tui::one_line;

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Good Mixture-of-Experts models, and what of them suits this machine
    #[arg(long, conflicts_with_all = ["remove"])]
    suggest: bool,
    /// Remove a model that WayInfer has pulled
    #[arg(long, value_name = "NAME")]
    remove: Option<String>,
    /// Remove without asking
    #[arg(long, requires = "remove")]
    yes: bool,
    /// As JSON
    #[arg(long, conflicts_with_all = ["remove"])]
    json: bool,
}

pub(super) fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    if let Some(name) = &args.remove {
        return remove(name, args.yes);
    }
    if args.suggest {
        return suggest(args.json);
    }
    let models = catalog::list(&model_folders()?, &embedded::path(&cache_folder()));
    if args.json {
        return Ok(output::print_json(&models.iter().map(model_json).collect())?);
    }
    output::print(&table(&models))?;
    if models.iter().all(|model| model.owner == Owner::BuiltIn) {
        output::warn("`wayinfer models --suggest` names models worth having, `wayinfer pull NAME` fetches one");
    }
    Ok(())
}

fn remove(name: &str, sure: bool) -> anyhow::Result<()> {
    let model = catalog::removable(name, &model_folders()?)?;
    let gb = model.bytes() as f64 / 1e9;
    if !sure {
        if !io::stdin().is_terminal() {
            return Err(usage("removing a model takes --yes where nobody can be asked"));
        }
        eprint!("remove {}, {gb:.2} GB? [y/N] ", one_line(&model.path().display().to_string()));
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        anyhow::ensure!(answer.trim().eq_ignore_ascii_case("y"), "{name} stays");
    }
    catalog::remove(&model)?;
    output::warn(&format!("{name} is removed; {gb:.2} GB are free again"));
    Ok(())
}

fn suggest(as_json: bool) -> anyhow::Result<()> {
    let memory = System::discover().memory().map(|memory| memory.available as f64 / 1e9);
    let disk = crate::disk::free_bytes(&existing(&super::options::data_folder()?)).map(|bytes| bytes as f64 / 1e9);
    let suits = |s: &suggestions::Suggestion| {
        memory.is_none_or(|memory| f64::from(s.memory_gb) <= memory)
            && disk.is_none_or(|disk| f64::from(s.disk_gb) < disk)
    };
    if as_json {
        let all = suggestions::ALL.iter().map(|s| {
            json!({ "name": s.name, "what": s.what, "parameters_billions": s.parameters.0, "active_billions": s.parameters.1,
                    "disk_gb": s.disk_gb, "memory_gb": s.memory_gb, "suits": suits(s) })
        });
        return Ok(output::print_json(&all.collect())?);
    }
    let known = |gb: Option<f64>| gb.map_or("unknown".to_owned(), |gb| format!("{gb:.0} GB"));
    let mut text = format!("Memory available here: {}. Free on the disk: {}. ", known(memory), known(disk));
    text.push_str("* suits this machine.\n\n");
    text.extend(suggestions::ALL.iter().map(|s| {
        let mark = if suits(s) { '*' } else { ' ' };
        let (all, active) = s.parameters;
        format!(
            "{mark} {}\n    {}; {all}B parameters, {active}B a token; about {} GB on the disk, from about {} GB of memory\n",
            s.name, s.what, s.disk_gb, s.memory_gb
        )
    }));
    text.push_str("\nwayinfer pull NAME fetches one.\n");
    Ok(output::print(&text)?)
}

/// The nearest folder above that is there.
fn existing(folder: &std::path::Path) -> std::path::PathBuf {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder).to_owned()
}

fn model_json(model: &Model) -> serde_json::Value {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let facts = model.facts.as_ref();
    json!({
        "name": name_of(model),
        "owner": model.owner.name(),
        "path": model.path.display().to_string(),
        "bytes": model.bytes,
        "format": facts.map(|f| f.format.clone()).ok(),
        "architecture": facts.map(|f| f.architecture.clone()).ok(),
        "parameters": facts.map(|f| f.parameters).ok(),
        "experts": facts.ok().and_then(|f| f.n_experts),
        "problem": facts.err(),
        "pulled_from": model.origin.as_ref().map(|origin| origin.url.clone()),
        "sha256": model.origin.as_ref().and_then(|origin| origin.sha256.clone()),
        "last_used": model.used.map(seconds),
    })
}

/// The name to call a model by.
fn name_of(model: &Model) -> String {
    let name = match (&model.repository, model.owner) {
        (Some(repository), Owner::WayInfer | Owner::HuggingFace | Owner::LmStudio) => {
            let file = model.path.file_name().unwrap_or_default().to_string_lossy();
            format!("{repository}:{file}")
        }
        _ => model.name.clone(),
    };
    one_line(&name)
}

fn table(models: &[Model]) -> String {
    let row = |model: &Model| {
        let (format, architecture) = match &model.facts {
            Ok(facts) => {
                let experts = facts.n_experts.map_or(String::new(), |n| format!(", {n} experts"));
                (facts.format.clone(), format!("{}{experts}", one_line(&facts.architecture)))
            }
            Err(problem) => ("?".to_owned(), one_line(problem)),
        };
        let used = model.used.map_or("never".to_owned(), ago);
        [name_of(model), model.owner.name().to_owned(), size(model.bytes), format, used, architecture]
    };
    let rows: Vec<_> = models.iter().map(row).collect();
    let header = ["NAME", "FROM", "SIZE", "FORMAT", "USED", "ARCHITECTURE"].map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for row in Some(&header).filter(|_| !rows.is_empty()).into_iter().chain(&rows) {
        text.extend(row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")));
        text.push_str(&row[5]);
        text.push('\n');
    }
    text
}

/// In the unit that leaves something before the point.
fn size(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.0} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.2} GB", bytes as f64 / 1e9)
    }
}

/// How long ago, in the largest unit.
fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().map_or(0, |age| age.as_secs());
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86400),
    }
}
