//! `wayinfer doctor`: what this machine offers, and what to change for more speed.

use std::io::IsTerminal;
use std::path::Path;

use clap::Args;
use serde_json::json;

use super::options::data_folder;
use super::output;
use crate::kernel::{Isa, Kernels};
use crate::store::System;
use crate::tui::ColorDepth;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What was found. `None` is what the system does not say.
#[derive(Debug, Clone, PartialEq)]
struct Findings {
    cpu: Option<String>,
    threads: usize,
    /// The instruction sets that kernels are there for, the best last.
    isas: Vec<Isa>,
    /// Bytes in the machine.
    machine_memory: Option<u64>,
    /// Bytes that this process may use, of which so many are available now.
    memory: Option<(u64, u64)>,
    /// Bytes free where models go.
    disk_free: Option<u64>,
    optimized: bool,
    terminal: Terminal,
}

#[derive(Debug, Clone, PartialEq)]
struct Terminal {
    /// Stdout is one.
    there: bool,
    name: Option<String>,
    colors: ColorDepth,
    utf8: bool,
    /// Columns and rows.
    size: Option<(u16, u16)>,
}

pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    let findings = Findings::collect(&data_folder()?);
    let advice = findings.advice();
    if args.json {
        return Ok(output::print_json(&findings.json(&advice))?);
    }
    Ok(output::print(&findings.page(&advice))?)
}

/// The rest of the line of `file` that begins with `key`, behind the colon.
fn line_of(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

impl Findings {
    fn collect(data: &Path) -> Findings {
        let machine_kib = line_of("/proc/meminfo", "MemTotal");
        let machine_kib = machine_kib.and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
        let folder = data.ancestors().find(|folder| folder.exists()).unwrap_or(data);
        Findings {
            cpu: line_of("/proc/cpuinfo", "model name"),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            isas: Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()).collect(),
            machine_memory: machine_kib.and_then(|kib| kib.checked_mul(1024)),
            memory: System::discover().memory().map(|memory| (memory.total, memory.available)),
            disk_free: crate::disk::free_bytes(folder),
            optimized: !cfg!(debug_assertions),
            terminal: Terminal::of(&|key| std::env::var(key).ok().filter(|value| !value.is_empty())),
        }
    }

    /// The limit above this process, where it is tighter than the machine.
    fn limit(&self) -> Option<u64> {
        let (total, _) = self.memory?;
        self.machine_memory.filter(|&machine| total < machine).map(|_| total)
    }

    /// What to change, most rewarding first.
    fn advice(&self) -> Vec<String> {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let mut advice = Vec::new();
        if !self.optimized {
            advice.push("this is a debug build, many times slower: build with --release".to_owned());
        }
        if self.isas.iter().all(|&isa| isa == Isa::Scalar) {
            advice.push(
                "this CPU has no instruction set with fast kernels (AVX2 or better): replies will be slow".to_owned(),
            );
        }
        if let Some(limit) = self.limit() {
            let more = format!(
                "a limit (cgroup) leaves {:.1} GB of the machine's memory; raise it to keep more experts",
                gb(limit)
            );
            advice.push(more);
        }
        if let Some((total, available)) = self.memory
            && available < total / 2
        {
            let taken = gb(total - available);
            advice.push(format!("{taken:.1} GB of memory are taken by other programs; what they free holds experts"));
        }
        if self.disk_free.is_some_and(|free| free < 20_000_000_000) {
            advice.push(
                "less than 20 GB are free for models; most good MoE models need more (--folder of `pull`)".to_owned(),
            );
        }
        let terminal = &self.terminal;
        if terminal.there && !terminal.utf8 {
            advice.push("the locale is not UTF-8, so that text and panel may be garbled: set LANG=C.UTF-8".to_owned());
        }
        if terminal.there && terminal.size.is_some_and(|(columns, rows)| columns < 100 || rows < 24) {
            advice.push("the panel wants a window of at least 100 columns and 24 rows".to_owned());
        }
        advice
    }

    fn json(&self, advice: &[String]) -> serde_json::Value {
        let terminal = &self.terminal;
        json!({
            "cpu": self.cpu,
            "threads": self.threads,
            "isas": self.isas.iter().map(|isa| isa.name()).collect::<Vec<_>>(),
            "machine_memory_bytes": self.machine_memory,
            "memory_bytes": self.memory.map(|memory| memory.0),
            "memory_available_bytes": self.memory.map(|memory| memory.1),
            "disk_free_bytes": self.disk_free,
            "optimized": self.optimized,
            "terminal": {
                "there": terminal.there,
                "name": terminal.name,
                "colors": format!("{:?}", terminal.colors),
                "utf8": terminal.utf8,
                "size": terminal.size,
            },
            "advice": advice,
        })
    }

    fn page(&self, advice: &[String]) -> String {
        let gb =
            |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} GB", bytes as f64 / 1e9));
        let isas: Vec<_> = self.isas.iter().map(|isa| isa.name()).collect();
        let limit = self.limit().map_or("no limit".to_owned(), |limit| format!("limited to {}", gb(Some(limit))));
        let terminal = &self.terminal;
        let size = terminal.size.map_or("unknown size".to_owned(), |(columns, rows)| format!("{columns} x {rows}"));
        let mut lines = vec![
            format!("CPU       {}, {} threads", self.cpu.as_deref().unwrap_or("unknown"), self.threads),
            format!("kernels   {}; {} is used", isas.join(", "), isas.last().unwrap_or(&"none")),
            format!(
                "memory    {}, {} available, {limit}",
                gb(self.machine_memory),
                gb(self.memory.map(|memory| memory.1))
            ),
            format!("disk      {} free for models", gb(self.disk_free)),
            format!(
                "terminal  {}, {size}, colours: {:?}, {}",
                terminal.name.as_deref().unwrap_or("unknown"),
                terminal.colors,
                if terminal.utf8 { "UTF-8" } else { "not UTF-8" }
            ),
            String::new(),
        ];
        if advice.is_empty() {
            lines.push("Nothing to change.".to_owned());
        }
        lines.extend(advice.iter().map(|advice| format!("- {advice}")));
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Terminal {
    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Terminal {
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default().to_ascii_lowercase();
        let there = std::io::stdout().is_terminal();
        Terminal {
            there,
            name: variable("TERM"),
            colors: ColorDepth::detect(variable),
            utf8: locale.contains("utf-8") || locale.contains("utf8"),
            size: there.then(|| crossterm::terminal::size().ok()).flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Findings {
        Findings {
            cpu: Some("a CPU".into()),
            threads: 8,
            isas: vec![Isa::Scalar, Isa::Avx2],
            machine_memory: Some(32 << 30),
            memory: Some((32 << 30, 30 << 30)),
            disk_free: Some(100 << 30),
            optimized: true,
            terminal: Terminal {
                there: true,
                name: Some("xterm".into()),
                colors: ColorDepth::detect(|_| None),
                utf8: true,
                size: Some((120, 40)),
            },
        }
    }

    #[test]
    fn a_machine_that_has_all_gets_no_advice() {
        assert_eq!(content().advice(), Vec::<String>::new());
        assert!(content().page(&[]).contains("avx2 is used"));
    }

    #[test]
    fn each_shortcoming_gets_its_advice() {
        let cases = [
            (Findings { optimized: false, ..content() }, "--release"),
            (Findings { isas: vec![Isa::Scalar], ..content() }, "AVX2"),
            (Findings { memory: Some((4 << 30, 4 << 30)), ..content() }, "4.3 GB of the machine's"),
            (Findings { memory: Some((32 << 30, 8 << 30)), ..content() }, "25.8 GB of memory are taken"),
            (Findings { disk_free: Some(1 << 30), ..content() }, "20 GB"),
            (Findings { terminal: Terminal { utf8: false, ..content().terminal }, ..content() }, "LANG"),
            (
                Findings { terminal: Terminal { size: Some((80, 24)), ..content().terminal }, ..content() },
                "100 columns",
            ),
        ];
        for (findings, words) in cases {
            let advice = findings.advice();
            assert!(advice.len() == 1 && advice[0].contains(words), "{words}: {advice:?}");
        }
    }

    #[test]
    fn the_locale_is_the_first_variable_that_is_set() {
        let terminal = |pairs: &[(&str, &str)]| {
            Terminal::of(&|key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()))
        };
        assert!(terminal(&[("LANG", "de_DE.UTF-8")]).utf8);
        assert!(terminal(&[("LC_ALL", "C.utf8"), ("LANG", "C")]).utf8);
        assert!(!terminal(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]).utf8);
        assert!(!terminal(&[]).utf8);
    }
}
