//! `wayinfer pull`: a model from the hub or from an address.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::options::data_folder;
use super::output;
use crate::pull::{PullOptions, PullProgress, Reference, pull};

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// owner/repo, owner/repo:Q4_K_M, owner/repo:file.gguf, or an address of a .gguf file
    #[arg(value_name = "NAME")]
    name: String,
    /// Where models go [default: the models folder]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// The most connections at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=16))]
    connections: u32,
    /// Write over a file that is there and differs
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &PullArgs) -> anyhow::Result<()> {
    let reference: Reference = args.name.parse()?;
    let folder = args.folder.clone().map_or_else(|| Ok(data_folder()?.join("models")), anyhow::Ok)?;
    let connections = args.connections as usize;
    let options = PullOptions { connections, force: args.force, ..PullOptions::from_environment(folder) };
    let mut meter = Meter { shown: None };
    let path = pull(&reference, &options, &mut |progress| meter.show(progress));
    drop(meter);
    let path = path?;
    output::print(&format!("{}\n", path.display()))?;
    output::warn(&format!("to chat with it: wayinfer {}", path.display()));
    Ok(())
}

/// A line on stderr with what has come, the rate and the time left; silent where stderr is no terminal.
struct Meter {
    shown: Option<Instant>,
}

impl Meter {
    fn show(&mut self, p: PullProgress) {
        let due = self.shown.is_none_or(|at| at.elapsed() >= Duration::from_millis(150));
        if !due || !io::stderr().is_terminal() {
            return;
        }
        self.shown = Some(Instant::now());
        eprint!("\r\x1b[K{}", line(p));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn line(p: PullProgress) -> String {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let part = if p.part.1 > 1 { format!(" ({} of {})", p.part.0, p.part.1) } else { String::new() };
    let rate = p.rate.filter(|&rate| rate > 0.0).map_or(String::new(), |rate| {
        let left = (p.total - p.done) as f64 / rate;
        let left = Duration::try_from_secs_f64(left).map_or("long".to_owned(), crate::tui::duration);
        format!("  {:.1} MB/s  {left} left", rate / 1e6)
    });
    let percent = p.done as f64 / p.total.max(1) as f64 * 100.0;
    format!("{}{part}  {:.2} of {:.2} GB ({percent:.0}%){rate}", p.file, gb(p.done), gb(p.total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_has_come_the_rate_and_the_time_left() {
        let progress = PullProgress { file: "m.gguf", part: (1, 1), done: 1 << 30, total: 4 << 30, rate: None };
        assert_eq!(line(progress), "m.gguf  1.07 of 4.29 GB (25%)");
        let moving = PullProgress { part: (2, 3), rate: Some(100e6), ..progress };
        assert_eq!(line(moving), "m.gguf (2 of 3)  1.07 of 4.29 GB (25%)  100.0 MB/s  32 s left");
        let crawling = PullProgress { rate: Some(1e-300), ..progress };
        assert!(line(crawling).ends_with("long left"));
    }
}
