//! What to change for more speed: findings in, sentences out, the most rewarding first. What is unknown is no reason for
//! advice.

use super::findings::Findings;
use crate::kernel::Isa;

/// Below this many bytes a second experts arrive slower than most CPUs compute them.
const SLOW_DISK: f64 = 0.8e9;
/// Mapped paging asks for this much at once at best.
const LARGE_TRANSFER: u64 = 512 << 10;
/// What good Mixture-of-Experts models take on a disk.
const MODEL_BYTES: u64 = 20_000_000_000;

pub(super) fn advice(findings: &Findings) -> Vec<String> {
    let all = [cpu(findings), memory(findings), disk(findings), terminal(findings)];
    all.into_iter().flatten().collect()
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn cpu(findings: &Findings) -> Vec<String> {
    let cpu = &findings.cpu;
    let mut advice = Vec::new();
    if !findings.optimized {
        advice.push("this is a debug build, many times slower: build with --release".to_owned());
    }
    if cpu.isas.iter().all(|&isa| isa == Isa::Scalar) {
        advice.push(
            "this CPU has no instruction set with fast kernels (AVX2 or better): replies will be slow".to_owned(),
        );
    }
    if let Some(processors) = cpu.processors.filter(|&processors| processors > cpu.threads) {
        let threads = cpu.threads;
        advice.push(format!(
            "a limit or the affinity of this process leaves it {threads} of {processors} cores; raise it for prompts that are read faster"
        ));
    }
    // Drivers with a mind of their own run fast under this name too.
    let own_mind = cpu.frequency_driver.as_deref().is_none_or(|driver| driver.contains("pstate"));
    if cpu.governor.as_deref() == Some("powersave") && !own_mind {
        advice.push(
            "the CPU is kept at its lowest frequency (governor powersave): cpupower frequency-set -g schedutil"
                .to_owned(),
        );
    }
    advice
}

fn memory(findings: &Findings) -> Vec<String> {
    let memory = &findings.memory;
    let mut advice = Vec::new();
    if let Some(limit) = memory.limits.iter().min_by_key(|limit| limit.0.bytes) {
        advice.push(format!("memory is limited to {}; raise the limit to keep more experts", limit.words()));
    }
    if let (Some(usable), Some(available)) = (memory.usable, memory.available)
        && available < usable / 2
    {
        let taken = gb(usable - available);
        advice.push(format!("{taken:.1} GB of memory are taken by programs; what they free holds experts"));
    }
    if memory.large_pages.as_deref() == Some("never") {
        advice.push(
            "large pages are off, and direct reads slower for it: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
                .to_owned(),
        );
    }
    advice
}

fn disk(findings: &Findings) -> Vec<String> {
    let disk = &findings.disk;
    let mut advice = Vec::new();
    if let Some(Ok(probe)) = &disk.probe
        && probe.rate() < SLOW_DISK
    {
        advice.push(format!(
            "the disk gives {:.2} GB/s: experts that are not in memory come slowly; put models on a faster disk, or take one \
             whose experts fit in memory",
            probe.rate() / 1e9
        ));
    }
    if let Some(Err(why)) = &disk.direct_reads {
        advice.push(format!(
            "the file system takes no direct reads ({why}), so that --paging direct cannot be; put models on a local disk"
        ));
    }
    if let (Err(why), Some(Ok(()))) = (&disk.io_uring, &disk.direct_reads) {
        advice.push(format!(
            "io_uring is refused ({why}), so that threads read; allow it (kernel.io_uring_disabled, seccomp)"
        ));
    }
    let device = &disk.device;
    if let (Some(readahead), Some(file)) = (device.readahead_bytes, &device.readahead_file)
        && readahead.max(device.transfer_bytes.unwrap_or(0)) < LARGE_TRANSFER
    {
        let (readahead, wanted) = (readahead >> 10, LARGE_TRANSFER >> 10);
        advice.push(format!(
            "the readahead of {readahead} KiB makes --paging mapped slow: echo {wanted} > {}",
            file.display()
        ));
    }
    if let Some(free) = disk.free.filter(|&free| free < MODEL_BYTES && findings.models.count == 0) {
        advice.push(format!(
            "{:.1} GB are free for models; most good Mixture-of-Experts models need {:.0} GB or more (`pull --folder` names another disk)",
            gb(free),
            gb(MODEL_BYTES)
        ));
    }
    advice
}

fn terminal(findings: &Findings) -> Vec<String> {
    let terminal = &findings.terminal;
    let mut advice = Vec::new();
    if terminal.there && !terminal.utf8 {
        advice.push("the locale is not UTF-8, so that text and panel may be garbled: set LANG=C.UTF-8".to_owned());
    }
    let (columns, rows) = crate::tui::PANEL_NEEDS;
    if terminal.there && terminal.size.is_some_and(|size| size.0 < columns || size.1 < rows) {
        advice.push(format!("the panel wants a window of at least {columns} columns and {rows} rows"));
    }
    advice
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::findings::examples::{content, silent};
    use super::super::findings::{Cpu, Disk, Limit, Memory, Models, ProbeFigures, Terminal};
    use super::*;
    use crate::store::direct::Way;
    use crate::store::{CgroupVersion, Device, MemoryLimit};

    #[test]
    fn a_machine_that_has_all_or_says_nothing_gets_no_advice() {
        assert_eq!(advice(&content()), Vec::<String>::new());
        assert_eq!(advice(&silent()), Vec::<String>::new());
    }

    #[test]
    fn each_shortcoming_gets_its_advice() {
        let cpu = |change: fn(&mut Cpu)| {
            let mut findings = content();
            change(&mut findings.cpu);
            findings
        };
        let memory = |change: fn(&mut Memory)| {
            let mut findings = content();
            change(&mut findings.memory);
            findings
        };
        let disk = |change: fn(&mut Disk)| {
            let mut findings = content();
            change(&mut findings.disk);
            findings
        };
        let terminal = |change: fn(&mut Terminal)| {
            let mut findings = content();
            change(&mut findings.terminal);
            findings
        };
        let cases = [
            (Findings { optimized: false, ..content() }, "--release"),
            (cpu(|cpu| cpu.isas = vec![Isa::Scalar]), "AVX2"),
            (cpu(|cpu| cpu.processors = Some(64)), "8 of 64 cores"),
            (cpu(|cpu| cpu.frequency_driver = Some("acpi-cpufreq".into())), "cpupower"),
            (
                memory(|memory| {
                    let folder = PathBuf::from("/sys/fs/cgroup/app");
                    memory.limits = vec![Limit(MemoryLimit { version: CgroupVersion::V2, folder, bytes: 4 << 30 })];
                }),
                "limited to 4.3 GB (cgroup v2, /sys/fs/cgroup/app)",
            ),
            (memory(|memory| memory.available = Some(8 << 30)), "25.8 GB of memory are taken"),
            (memory(|memory| memory.large_pages = Some("never".into())), "madvise"),
            (
                disk(|disk| {
                    disk.probe = Some(Ok(ProbeFigures { way: Way::Threads, bytes: 200_000_000, seconds: 2.0 }));
                }),
                "0.10 GB/s",
            ),
            (disk(|disk| disk.direct_reads = Some(Err("invalid".into()))), "no direct reads (invalid)"),
            (disk(|disk| disk.io_uring = Err("not permitted".into())), "io_uring is refused (not permitted)"),
            (
                disk(|disk| disk.device = Device { transfer_bytes: Some(256 << 10), ..disk.device.clone() }),
                "echo 512 > /sys/block/nvme0n1/queue/read_ahead_kb",
            ),
            (terminal(|terminal| terminal.utf8 = false), "LANG"),
            (terminal(|terminal| terminal.size = Some((60, 24))), "columns"),
        ];
        for (findings, words) in cases {
            let advice = advice(&findings);
            assert!(advice.len() == 1 && advice[0].contains(words), "{words}: {advice:?}");
        }
        let mut full = disk(|disk| disk.free = Some(1 << 30));
        assert!(advice(&full).is_empty(), "there are models: their disk may be full");
        full.models = Models { count: 0, bytes: 0, there: true };
        assert!(advice(&full)[0].contains("1.1 GB are free"));
    }
}
