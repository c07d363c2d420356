//! The command line: options in, exit code out. The only place that prints. Results go to stdout, all else to stderr;
//! the exit code is 0, 1 (failed) or 2 (wrong use).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the floor that prints")]

mod bench;
mod chat;
mod completions;
mod config;
mod doctor;
mod inspect;
mod licenses;
mod logits;
mod look;
mod models;
mod options;
mod output;
mod perplexity;
mod pull;
mod quantize;
mod render;
mod replay;
mod run;
mod session;
mod sessions;
mod tokenize;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use config::Settings;
use output::Usage;

/// Chat with language models that do not fit in RAM, and watch the machine do it.
#[derive(Debug, Parser)]
#[command(name = "wayinfer", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    chat: chat::ChatArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One reply on stdout
    Run(run::RunArgs),
    /// Prompt and generation speed on uniformly random ids
    Bench(bench::BenchArgs),
    /// Perplexity of a text
    Perplexity(perplexity::PerplexityArgs),
    /// Logits of every position of a list of ids, as raw little-endian f32
    Logits(logits::LogitsArgs),
    /// Token ids of a text
    Tokenize(tokenize::TokenizeArgs),
    /// A conversation through a chat template
    Render(render::RenderArgs),
    /// What other budgets and policies would have made of a trace
    Replay(replay::ReplayArgs),
    /// Metadata, tensors, sizes, and what a memory budget would mean
    Inspect(inspect::InspectArgs),
    /// Fetch a model from the hub or from an address
    Pull(pull::PullArgs),
    /// The models on this machine
    Models(models::ModelsArgs),
    /// The conversations that were kept: list, search, rename, delete, export, import
    Sessions(sessions::SessionsArgs),
    /// What this machine offers, and what to change for more speed
    Doctor(doctor::DoctorArgs),
    /// The settings, and where each comes from
    Config(config::ConfigArgs),
    /// A completion script for a shell
    Completions(completions::CompletionsArgs),
    /// The man page
    Man,
    /// The licenses of WayInfer and of what it is made with
    Licenses,
    /// A model file in another format
    Quantize(quantize::QuantizeArgs),
}

/// Runs the command line and turns its outcome into an exit code.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wayinfer: {}", output::message(&error));
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// Reads the command line, with the settings as its defaults, and does what it says.
fn run() -> anyhow::Result<()> {
    // Help, and what is wrong with the command line itself, do not wait for the settings to be right.
    let mut matches = command().get_matches();
    let mut settings = Settings::default();
    if takes_settings(&matches) {
        settings = Settings::read()?;
        matches = settings.apply(command()).get_matches();
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        None => {
            let said = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
            let is_asked = options::SAMPLING.iter().any(|name| said(name));
            let asked = if is_asked { chat::Sampling::Asked } else { chat::Sampling::NotAsked };
            chat::chat(cli.chat, asked, settings.keys())
        }
        Some(Command::Sessions(args)) => sessions::run(&args),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Bench(args)) => bench::bench(&args),
        Some(Command::Perplexity(args)) => perplexity::perplexity(&args),
        Some(Command::Logits(args)) => logits::logits(&args),
        Some(Command::Tokenize(args)) => tokenize::tokenize(&args),
        Some(Command::Render(args)) => render::render(&args),
        Some(Command::Replay(args)) => replay::replay(&args, settings.keys()),
        Some(Command::Inspect(args)) => inspect::inspect(&args),
        Some(Command::Pull(args)) => pull::run(&args),
        Some(Command::Models(args)) => models::run(&args),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
        Some(Command::Config(args)) => config::config(&args, &settings, &matches),
        Some(Command::Completions(args)) => completions::completions(&args),
        Some(Command::Man) => completions::man(),
        Some(Command::Licenses) => licenses::licenses(),
        Some(Command::Quantize(args)) => quantize::run(&args),
    }
}

/// Whether what the command line asks for depends on settings.
fn takes_settings(matches: &ArgMatches) -> bool {
    let command = command();
    match matches.subcommand() {
        None => config::takes_settings(&command),
        // The file may be what is to be put right.
        Some(("config", own)) if own.get_flag("init") => false,
        Some((name, _)) => command.find_subcommand(name).is_some_and(config::takes_settings),
    }
}

/// The command line's definition, for completions and the man page.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_model_is_taken_by_position_and_by_flag_and_subcommands_win() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["wayinfer"], words].concat()).unwrap();
        assert!(parse(&["model.gguf", "--threads", "2"]).command.is_none());
        assert!(parse(&["--model", "model.gguf"]).command.is_none());
        assert!(matches!(parse(&["run", "m.gguf", "-p", "hi", "--greedy"]).command, Some(Command::Run(_))));
        assert!(matches!(parse(&["inspect", "--model", "m.gguf"]).command, Some(Command::Inspect(_))));
    }
}
