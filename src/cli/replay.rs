//! `wayinfer replay`: what other budgets and policies would have made of a trace, without the model.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::look::LookArgs;
use super::options::parse_size;
use super::output::{self, usage};
use crate::disk;
use crate::store::{Counts, Phase, Policy, Replay, ReplayOutcome, Rule, Scope, TraceReader};
use crate::tui::theme::Palette;
use crate::tui::{self, ColorDepth, ExitReason, Keys, Player, ReplayScreen, Theme};

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A trace, recorded with --trace
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// Memory for dense weights and experts, for example 8G [default: a row of budgets, 0.3 to 1.2 of the experts]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    ram: Option<u64>,
    /// lru, lfu, lrfu[:N], least-stale, longest-wait[:N] (N: half-life in tokens), optimal, or all [default: lru, the
    /// engine's own, and the optimum]
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// What shares the budget
    #[arg(long, value_name = "SCOPE", default_value = "global", value_parser = PossibleValuesParser::new(["global", "layer"]))]
    scope: String,
    /// The hit rate of every layer
    #[arg(long)]
    per_layer: bool,
    /// Play the trace on the panel: what was recorded, and with --ram what that would hold in memory
    #[arg(long, conflicts_with_all = ["json", "policy", "per_layer"])]
    tui: bool,
    /// Draw the panel as it stands --at, as an SVG file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "policy", "per_layer"])]
    svg: Option<PathBuf>,
    /// Record the playing as an asciicast file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "policy", "per_layer"])]
    cast: Option<PathBuf>,
    /// Seconds from the beginning of the trace, for --svg [default: its end]
    #[arg(long, value_name = "SECONDS", requires = "svg", value_parser = parse_seconds)]
    at: Option<Duration>,
    /// Seconds on the screen, for --cast
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = parse_seconds)]
    length: Duration,
    /// Times as fast as recorded, for --cast and, up to 64, at first for --tui
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = parse_speed)]
    speed: f64,
    /// Columns and rows of a picture or a cast
    #[arg(long, value_name = "COLUMNSxROWS", default_value = "100x40", value_parser = parse_columns_and_rows)]
    size: (u16, u16),
    /// The figures as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    look: LookArgs,
}

const SHARES: [f64; 8] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.2];

/// One rule at one budget.
struct Run {
    rule: Rule,
    budget: u64,
    outcome: ReplayOutcome,
}

pub(super) fn replay(args: &ReplayArgs, keys: Keys) -> anyhow::Result<()> {
    if args.tui || args.svg.is_some() || args.cast.is_some() {
        return play(args, keys);
    }
    let scope = if args.scope == "layer" { Scope::PerLayer } else { Scope::Global };
    let rules = rules(args.policy.as_deref(), scope)?;
    let replay = Replay::read(TraceReader::open(&args.trace)?)?;
    let shape = replay.shape();
    let all = shape.expert_bytes();
    anyhow::ensure!(all > 0, "{} is of a dense model, which has no experts to page", shape.name);
    let budgets = match args.ram {
        None => SHARES.map(|share| (share * all as f64) as u64).to_vec(),
        Some(ram) => vec![for_experts(ram, shape.dense_bytes)?],
    };
    if replay.cut_off() {
        output::warn("the trace ends within a pass, which is left out");
    }
    let runs = |&rule: &Rule| {
        let run = |&budget: &u64| Run { rule, budget, outcome: replay.run(rule, budget) };
        budgets.iter().map(run).collect::<Vec<_>>()
    };
    let runs: Vec<Vec<Run>> = rules.iter().map(runs).collect();
    if args.json {
        output::print_json(&report(&replay, &runs))?;
    } else {
        output::print(&tables(&replay, &runs, args.per_layer))?;
    }
    Ok(())
}

/// What a budget leaves for experts.
fn for_experts(ram: u64, dense_bytes: u64) -> anyhow::Result<u64> {
    let dense = gigabytes(dense_bytes as f64);
    let left = ram.checked_sub(dense_bytes).filter(|&left| left > 0);
    left.ok_or_else(|| usage(format!("--ram must be more than the {dense} GB of dense weights")))
}

/// The trace through the panel: on the screen, or as files.
fn play(args: &ReplayArgs, keys: Keys) -> anyhow::Result<()> {
    let player = || -> anyhow::Result<Player> {
        let reader = TraceReader::open(&args.trace)?;
        let budget = args.ram.map(|ram| for_experts(ram, reader.shape().dense_bytes)).transpose()?;
        let player = Player::read(reader, budget)?;
        anyhow::ensure!(player.n_passes() > 0, "{} has no pass to play", args.trace.display());
        Ok(player)
    };
    let appearance = args.look.appearance()?;
    let theme = Theme::new(appearance.theme.clone().unwrap_or_else(Palette::dark), ColorDepth::True);
    let screen = || Ok::<_, anyhow::Error>(ReplayScreen::new(player()?, theme.clone()));
    if let Some(path) = &args.svg {
        write(path, &screen()?.picture(args.at.unwrap_or(Duration::MAX), args.size))?;
    }
    if let Some(path) = &args.cast {
        write(path, &screen()?.cast(args.length, args.speed, args.size))?;
    }
    if args.tui
        && let ExitReason::Signal(signal) = tui::run_replay(player()?, args.speed, &appearance, keys)?
    {
        signal_hook::low_level::emulate_default_handler(signal)?;
    }
    Ok(())
}

/// Puts a picture in the place of the one before.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = disk::PartFile::create(path)?;
    part.file().write_all(text.as_bytes()).map_err(|e| disk::DiskError::io(part.part(), "cannot be written", e))?;
    part.finish()?;
    output::warn(&format!("{}: {:.0} KB", path.display(), text.len() as f64 / 1e3));
    Ok(())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| time.as_secs() <= 3600)
        .ok_or_else(|| "seconds are 0 to 3600".to_owned())
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.01..=1000.0).contains(&speed) { Ok(speed) } else { Err("a speed is 0.01 to 1000".to_owned()) }
}

fn parse_columns_and_rows(text: &str) -> Result<(u16, u16), String> {
    let size = text.split_once('x').and_then(|(columns, rows)| Some((columns.parse().ok()?, rows.parse().ok()?)));
    let fits = |&(columns, rows): &(u16, u16)| (24..=500).contains(&columns) && (6..=200).contains(&rows);
    size.filter(fits).ok_or_else(|| "a size is 24x6 to 500x200".to_owned())
}

fn rules(name: Option<&str>, scope: Scope) -> anyhow::Result<Vec<Rule>> {
    let online = |policy| Rule::Online(policy, scope);
    Ok(match name {
        None => vec![online(Policy::Lru), online(Policy::default()), Rule::Optimal],
        Some("all") => Policy::all().into_iter().map(online).chain([Rule::Optimal]).collect(),
        Some("optimal") => vec![Rule::Optimal],
        Some(name) => vec![online(name.parse().map_err(|e| usage(format!("{e}, optimal and all")))?)],
    })
}

fn name(rule: Rule) -> String {
    match rule {
        Rule::Online(policy, Scope::Global) => policy.to_string(),
        Rule::Online(policy, Scope::PerLayer) => format!("{policy}, by layer"),
        Rule::Optimal => "optimal".into(),
    }
}

fn gigabytes(bytes: f64) -> String {
    format!("{:.2}", bytes / 1e9)
}

/// What a person reads: budgets across, rules down.
fn tables(replay: &Replay, runs: &[Vec<Run>], per_layer: bool) -> String {
    let shape = replay.shape();
    let all = shape.expert_bytes();
    let n_experts = shape.layers.iter().map(|l| l.n_experts).max().unwrap_or(0);
    let mut text = format!(
        "{}: {} layers, {n_experts} experts, {} used; experts {} GB, dense {} GB, experts of a token {} GB\n",
        shape.name,
        shape.layers.len(),
        shape.n_used,
        gigabytes(all as f64),
        gigabytes(shape.dense_bytes as f64),
        gigabytes(shape.token_bytes() as f64),
    );
    let total = |part: fn(&Phase) -> Counts| {
        let outcome = &runs[0][0].outcome;
        part(&outcome.cold).tokens + part(&outcome.warm).tokens
    };
    let (prompt, generate) = (total(|p| p.prompt), total(|p| p.generate));
    text += &line(format_args!("{generate} tokens one at a time, {prompt} in batches, {} passes", replay.n_passes()));
    text += &row("experts in memory, GB", runs[0].iter().map(|r| gigabytes(r.budget as f64)));
    text += &row("  of all", runs[0].iter().map(|r| format!("{:.2}", r.budget as f64 / all as f64)));
    let block = |title, part, show| Block { title, part, show };
    let blocks = [
        block("hits of single tokens, once memory is full", |o| o.warm.generate, percent),
        block("GB read for each", |o| o.warm.generate, read),
        block("hits of single tokens, before", |o| o.cold.generate, percent),
        block("GB read for each token of a batch, all", |o| o.cold.prompt.plus(o.warm.prompt), read),
    ];
    for Block { title, part, show } in blocks {
        let counted = |run: &Run| part(&run.outcome).tokens > 0;
        if runs.iter().flatten().any(counted) {
            text += &line(format_args!("\n{title}"));
            for runs in runs {
                text += &row(&name(runs[0].rule), runs.iter().map(|r| show(part(&r.outcome))));
            }
        }
    }
    if per_layer {
        for runs in runs {
            text += &line(format_args!("\nhits of single tokens by layer, {}", name(runs[0].rule)));
            for layer in (0..shape.layers.len()).filter(|&l| shape.layers[l].n_experts > 0) {
                text += &row(&layer.to_string(), runs.iter().map(|r| percent(r.outcome.layers[layer])));
            }
        }
    }
    text
}

/// Rows of one figure.
struct Block {
    title: &'static str,
    part: fn(&ReplayOutcome) -> Counts,
    show: fn(Counts) -> String,
}

fn percent(c: Counts) -> String {
    c.hit_rate().map_or("–".into(), |rate| format!("{:.1}%", 100.0 * rate))
}

/// GB a token.
fn read(c: Counts) -> String {
    c.bytes_per_token().map_or("–".into(), |bytes| format!("{:.3}", bytes / 1e9))
}

fn line(text: std::fmt::Arguments<'_>) -> String {
    format!("{text}\n")
}

fn row(head: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!("{cell:>9}")).collect();
    format!("{head:<24}{cells}\n")
}

fn report(replay: &Replay, runs: &[Vec<Run>]) -> Value {
    let shape = replay.shape();
    let counts = |c: &Counts| {
        json!({
            "tokens": c.tokens,
            "demands": c.demands,
            "hits": c.hits,
            "hit_rate": c.hit_rate(),
            "read_bytes": c.read_bytes,
            "read_bytes_per_token": c.bytes_per_token(),
        })
    };
    let phase = |p: &Phase| json!({ "prompt": counts(&p.prompt), "generate": counts(&p.generate) });
    let run = |run: &Run| {
        json!({
            "policy": name(run.rule),
            "budget_bytes": run.budget,
            "cold": phase(&run.outcome.cold),
            "warm": phase(&run.outcome.warm),
            "layers": run.outcome.layers.iter().map(Counts::hit_rate).collect::<Vec<_>>(),
        })
    };
    json!({
        "model": shape.name,
        "layers": shape.layers.len(),
        "experts_used": shape.n_used,
        "expert_bytes": shape.expert_bytes(),
        "dense_bytes": shape.dense_bytes,
        "token_bytes": shape.token_bytes(),
        "passes": replay.n_passes(),
        "cut_off": replay.cut_off(),
        "runs": runs.iter().flatten().map(run).collect::<Vec<_>>(),
    })
}
