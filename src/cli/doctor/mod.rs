//! `wayinfer doctor`: what this machine offers, and what to change for more speed. What the system does not say is
//! unknown.

mod advice;
mod findings;

use std::path::PathBuf;

use clap::Args;

use super::options::{data_folder, find_model};
use super::output;
use findings::{Findings, Measure};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Look at the disk of this model, in the place of the models folder's
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Do not measure how fast the disk is
    #[arg(long)]
    no_probe: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    let model = args.model.as_deref().map(find_model).transpose()?;
    let measure = if args.no_probe { Measure::Nothing } else { Measure::Disk };
    let findings = Findings::collect(&data_folder()?.join("models"), model.as_deref(), measure);
    let advice = advice::advice(&findings);
    if args.json {
        return Ok(output::print_json(&findings.json(&advice))?);
    }
    Ok(output::print(&page(&findings, &advice))?)
}

const UNKNOWN: &str = "unknown";

fn gb(bytes: Option<u64>) -> String {
    bytes.map_or(UNKNOWN.to_owned(), |bytes| format!("{:.1} GB", bytes as f64 / 1e9))
}

fn kib(bytes: Option<u64>) -> String {
    bytes.map_or(UNKNOWN.to_owned(), |bytes| format!("{} KiB", bytes >> 10))
}

fn yes_or_why(outcome: Option<&Result<(), String>>) -> String {
    match outcome {
        None => UNKNOWN.to_owned(),
        Some(Ok(())) => "yes".to_owned(),
        Some(Err(why)) => format!("no ({why})"),
    }
}

fn page(findings: &Findings, advice: &[String]) -> String {
    let Findings { cpu, memory, disk, models, terminal, optimized } = findings;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let isas: Vec<_> = cpu.isas.iter().map(|isa| isa.name()).collect();
    let limits = match &memory.limits[..] {
        [] => "none below the machine's memory".to_owned(),
        limits => limits.iter().map(findings::Limit::words).collect::<Vec<_>>().join(", "),
    };
    let probe = match &disk.probe {
        None => "not measured".to_owned(),
        Some(Err(why)) => format!("not measured: {why}"),
        Some(Ok(probe)) => {
            let (rate, way) = (probe.rate() / 1e9, probe.way.name());
            format!("{rate:.2} GB/s, {:.2} GB read from {} by {way}", probe.bytes as f64 / 1e9, disk.probed)
        }
    };
    let size = terminal.size.map_or("size unknown".to_owned(), |(columns, rows)| format!("{columns} x {rows}"));
    let keyboard = match terminal.tells_shift_enter {
        None => UNKNOWN,
        Some(true) => "yes",
        Some(false) => "no; Ctrl+J and Alt+Enter make new lines",
    };
    let rows = [
        ("CPU", or_unknown(&cpu.name)),
        (
            "cores",
            format!("{} usable of {}", cpu.threads, cpu.processors.map_or(UNKNOWN.to_owned(), |n| n.to_string())),
        ),
        ("kernels", format!("{}; {} is used", isas.join(", "), isas.last().unwrap_or(&"none"))),
        ("governor", or_unknown(&cpu.governor)),
        ("build", if *optimized { "optimized" } else { "debug" }.to_owned()),
        ("", String::new()),
        ("memory", format!("{}, {} available", gb(memory.machine), gb(memory.available))),
        ("limits", limits),
        ("swap", gb(memory.swap)),
        ("large pages", or_unknown(&memory.large_pages)),
        ("", String::new()),
        ("models", format!("{} in {}", models.words(), disk.folder)),
        (
            "disk",
            format!(
                "{} on {}, {} free",
                or_unknown(&disk.device.file_system),
                or_unknown(&disk.device.source),
                gb(disk.free)
            ),
        ),
        ("disk speed", probe),
        ("direct reads", yes_or_why(disk.direct_reads.as_ref())),
        ("io_uring", yes_or_why(Some(&disk.io_uring))),
        (
            "readahead",
            format!("{}, largest transfer {}", kib(disk.device.readahead_bytes), kib(disk.device.transfer_bytes)),
        ),
        ("page cache", disk.page_cache.map_or(UNKNOWN.to_owned(), |source| format!("told by {source}"))),
        ("", String::new()),
        ("terminal", if terminal.there { or_unknown(&terminal.name) } else { "none (stdout is none)".to_owned() }),
        ("window", size),
        ("colours", terminal.colors_name().to_owned()),
        ("text", if terminal.utf8 { "UTF-8" } else { "not UTF-8" }.to_owned()),
        ("Shift+Enter", keyboard.to_owned()),
    ];
    let mut page: String = rows
        .iter()
        .map(|(name, value)| if name.is_empty() { "\n".to_owned() } else { format!("{name:<13} {value}\n") })
        .collect();
    page.push_str("\nFor more speed:\n");
    if advice.is_empty() {
        page.push_str("  nothing to change\n");
    }
    page.extend(advice.iter().map(|advice| format!("- {advice}\n")));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_does_not_say_is_unknown() {
        let page = page(&findings::examples::silent(), &[]);
        for name in ["CPU", "governor", "swap", "large pages", "direct reads", "page cache"] {
            let line = page.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.contains(UNKNOWN), "{line}");
        }
        assert!(page.contains("nothing to change"));
    }

    #[test]
    fn the_page_tells_what_was_found() {
        let page = page(&findings::examples::content(), &["do this".to_owned()]);
        for words in ["a CPU", "scalar, avx2; avx2 is used", "2.00 GB/s", "- do this", "120 x 40", "128 KiB"] {
            assert!(page.contains(words), "{words}:\n{page}");
        }
    }
}
