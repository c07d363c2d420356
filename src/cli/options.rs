//! Options that several subcommands share, and what they become.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::output::usage;
use crate::catalog::{self, CatalogError, Folders};
use crate::embedded;
use crate::kernel::Isa;
use crate::model::Prefetch;
use crate::sampler::SamplingParams;
use crate::session::EngineOptions;
use crate::store::PagingChoice;

/// How the engine runs, whatever it is asked to do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct Common {
    /// Compute threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Context length in tokens [default: the model's own, as far as it fits in memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// Instruction set of the kernels [default: the best this CPU has]
    #[arg(long, value_name = "ISA", value_parser = PossibleValuesParser::new(["scalar", "avx2", "avx512", "amx"]))]
    isa: Option<String>,
    /// How expert weights arrive
    #[arg(long, value_name = "WAY", default_value = "auto", value_parser = PossibleValuesParser::new(["auto", "mapped", "direct"]))]
    paging: String,
    /// Memory to keep to, for example 8G [default: what the machine and its limits leave]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    ram: Option<u64>,
    /// Never read experts before the router has chosen them
    #[arg(long)]
    no_prefetch: bool,
    /// Format of the KV cache
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = PossibleValuesParser::new(["f16", "q8_0", "q4_0"]))]
    kv: String,
    /// Record to this file which experts are used, for `wayinfer replay`
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Log more, to stderr or to the file of --log
    #[arg(long)]
    debug: bool,
    /// Write a log to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

impl Common {
    pub(super) fn engine(&self) -> anyhow::Result<EngineOptions> {
        Ok(EngineOptions {
            threads: self.threads.map(|n| n as usize),
            context: self.ctx.map(|n| n as usize),
            isa: self.isa.as_deref().map(str::parse::<Isa>).transpose()?,
            kv: self.kv.parse()?,
            paging: match self.paging.as_str() {
                "mapped" => PagingChoice::Mapped,
                "direct" => PagingChoice::Direct,
                _ => PagingChoice::Auto,
            },
            prefetch: if self.no_prefetch { Prefetch::Off } else { Prefetch::On },
            ram: self.ram,
            trace: self.trace.clone(),
        })
    }

    /// Starts logging: to the file of `--log`, else with `--debug` to stderr where `screen` is free for it.
    pub(super) fn start_log(&self, screen: Screen) -> anyhow::Result<()> {
        let level = if self.debug { "wayinfer=debug" } else { "wayinfer=info" };
        let builder = tracing_subscriber::fmt().with_env_filter(level).with_ansi(false);
        if let Some(path) = &self.log {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let file = file.map_err(|e| anyhow::anyhow!("cannot write the log {}: {e}", path.display()))?;
            builder.with_writer(std::sync::Mutex::new(file)).init();
        } else if self.debug && screen == Screen::Free {
            builder.with_writer(std::io::stderr).init();
        }
        Ok(())
    }
}

/// Whether the terminal belongs to the chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Screen {
    Free,
    Taken,
}

/// Where the model is named: by position, or by `--model`.
#[derive(Debug, Args)]
pub(super) struct ModelArg {
    /// A GGUF file, any split of one, the name of a model that `wayinfer models` lists, or `demo`, the one in the binary
    #[arg(value_name = "MODEL")]
    positional: Option<PathBuf>,
    /// The model, as an option
    #[arg(long = "model", value_name = "PATH")]
    flag: Option<PathBuf>,
}

impl ModelArg {
    /// The model, if one is named.
    pub(super) fn path(&self) -> anyhow::Result<Option<PathBuf>> {
        let name = match (&self.positional, &self.flag) {
            (Some(_), Some(_)) => return Err(usage("the model is named twice, by position and by --model")),
            (positional, flag) => positional.as_deref().or(flag.as_deref()),
        };
        name.map(find_model).transpose()
    }

    /// The model, which must be named.
    pub(super) fn required(&self) -> anyhow::Result<PathBuf> {
        self.path()?.ok_or_else(|| usage("no model is named; give the path of a GGUF file, or `demo`"))
    }
}

/// The folder where WayInfer keeps models, conversations and notes.
pub(super) fn data_folder() -> anyhow::Result<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "wayinfer");
    Ok(folders.ok_or_else(|| anyhow::anyhow!("no home folder; set HOME"))?.data_dir().to_owned())
}

/// Notes for `wayinfer models` that a model is being opened. A note that cannot be written is no reason to stop.
pub(super) fn note_use(data: &Path, model: &Path) {
    if let Err(error) = catalog::remember_use(data, model) {
        tracing::info!("the use of {} is not noted: {error}", model.display());
    }
}

/// The file of a model that a person names: a path, the name of a model that is here, or that of the one in the binary.
pub(super) fn find_model(name: &Path) -> anyhow::Result<PathBuf> {
    match catalog::resolve(name, &model_folders()?) {
        Err(CatalogError::Unknown { .. }) if name == Path::new(embedded::NAME) => embedded_model(),
        found => Ok(found?),
    }
}

/// The file of the model in the binary.
pub(super) fn embedded_model() -> anyhow::Result<PathBuf> {
    Ok(embedded::file(&cache_folder())?)
}

/// The folder for what can be made again.
pub(super) fn cache_folder() -> PathBuf {
    let folders = directories::ProjectDirs::from("", "", "wayinfer");
    folders.map_or_else(std::env::temp_dir, |folders| folders.cache_dir().to_owned())
}

/// Where models are looked for.
pub(super) fn model_folders() -> anyhow::Result<Folders> {
    Ok(Folders::from_environment(&data_folder()?))
}

/// The names of [`SamplingArgs`].
pub(super) const SAMPLING: [&str; 9] =
    ["greedy", "temp", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "seed"];

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(super) struct SamplingArgs {
    /// Always the most probable token
    #[arg(long, conflicts_with_all = ["temp", "top_k", "top_p", "min_p", "seed"])]
    greedy: bool,
    /// Temperature; 0 is greedy [default: 0.8, for `demo` 0.2]
    #[arg(long, value_name = "T")]
    temp: Option<f32>,
    /// Draw from the K best only; 0: off [default: 40]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest that reach this probability; 1: off [default: 0.95]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Drop what is less than P times as likely as the best; 0: off [default: 0.05]
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Penalty on repeated tokens; 1: off [default: 1]
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
    /// Penalty a token for each time it was said [default: 0]
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    frequency_penalty: Option<f32>,
    /// Penalty on every token that was said [default: 0]
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    presence_penalty: Option<f32>,
    /// The same seed gives the same reply [default: from the clock]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// Those for a model of which nothing is known.
    pub(super) fn params(&self) -> anyhow::Result<SamplingParams> {
        self.params_beside(SamplingParams::default())
    }

    /// Those for `model`: the one in the binary has defaults of its own, however it was named.
    pub(super) fn params_for(&self, model: &Path) -> anyhow::Result<SamplingParams> {
        if embedded::is_at(model, &cache_folder()) {
            return self.params_beside(embedded::sampling());
        }
        self.params()
    }

    fn params_beside(&self, d: SamplingParams) -> anyhow::Result<SamplingParams> {
        // What a settings file says of drawing is no contradiction to --greedy, which draws nothing.
        let base = if self.greedy {
            SamplingParams::greedy()
        } else {
            SamplingParams {
                temperature: self.temp.unwrap_or(d.temperature),
                top_k: self.top_k.unwrap_or(d.top_k),
                top_p: self.top_p.unwrap_or(d.top_p),
                min_p: self.min_p.unwrap_or(d.min_p),
                ..d
            }
        };
        let params = SamplingParams {
            repeat_penalty: self.repeat_penalty.unwrap_or(base.repeat_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            seed: self.seed,
            ..base
        };
        params.problem().map_or(Ok(params), |problem| Err(usage(problem)))
    }
}

/// A size in bytes: `8G`, `3500M`, `1.5GiB`, `123456`; K, M, G, T count in 1024s.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no size; write for example 8G or 3500M"))?;
    let shift = match unit.trim().to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("`{unit}` is no unit of size; use K, M, G or T")),
    };
    let bytes = number * (1u64 << shift) as f64;
    if !(1.0..1e18).contains(&bytes) {
        return Err(format!("`{text}` is out of range"));
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_the_usual_spellings() {
        for (text, bytes) in
            [("8G", 8 << 30), ("3500M", 3500 << 20), ("1.5GiB", 3 << 29), ("64kb", 64 << 10), ("4096", 4096)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "8X", "-1G", "1e9999G", "0", "99999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
