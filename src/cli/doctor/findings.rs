//! What `doctor` finds: the system's own words in, facts out. `None` is what the system does not say.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::catalog;
use crate::disk::{self, PartFile};
use crate::kernel::{Isa, Kernels};
use crate::store::direct::{self, Probe, Way};
use crate::store::{CgroupVersion, Device, MemoryLimit, Residency, System};
use crate::tui::{ColorDepth, one_line};

/// How long the disk is read from.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Bytes written for a probe where there is no model to read from.
const PROBE_BYTES: usize = 256 << 20;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Findings {
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    pub(super) disk: Disk,
    pub(super) models: Models,
    pub(super) terminal: Terminal,
    pub(super) optimized: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cpu {
    pub(super) name: Option<String>,
    /// Threads that this process may keep busy; limits of control groups and affinity count.
    pub(super) threads: usize,
    /// Of the machine.
    pub(super) processors: Option<usize>,
    /// The instruction sets that kernels are there for, the best last.
    pub(super) isas: Vec<Isa>,
    pub(super) governor: Option<String>,
    pub(super) frequency_driver: Option<String>,
}

/// In bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Memory {
    pub(super) machine: Option<u64>,
    /// The tightest of the machine's and all limits.
    pub(super) usable: Option<u64>,
    pub(super) available: Option<u64>,
    pub(super) swap: Option<u64>,
    pub(super) limits: Vec<Limit>,
    /// `always`, `madvise` or `never`.
    pub(super) large_pages: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limit(pub(super) MemoryLimit);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Disk {
    pub(super) folder: String,
    pub(super) device: Device,
    pub(super) free: Option<u64>,
    /// What was read from.
    pub(super) probed: String,
    /// `None` where nothing was to be measured.
    pub(super) probe: Option<Result<ProbeFigures, String>>,
    pub(super) direct_reads: Option<Result<(), String>>,
    pub(super) io_uring: Result<(), String>,
    /// The system call that tells what of a file is in memory.
    pub(super) page_cache: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ProbeFigures {
    pub(super) way: Way,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Models {
    pub(super) count: usize,
    pub(super) bytes: u64,
    /// The models folder is there.
    pub(super) there: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Terminal {
    /// Stdout is one.
    pub(super) there: bool,
    pub(super) name: Option<String>,
    pub(super) colors: ColorDepth,
    pub(super) utf8: bool,
    /// Columns and rows.
    pub(super) size: Option<(u16, u16)>,
    /// It tells Shift+Enter from Enter, when asked to.
    pub(super) tells_shift_enter: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Disk,
    Nothing,
}

impl Findings {
    pub(super) fn collect(models: &Path, model: Option<&Path>, measure: Measure) -> Findings {
        Findings {
            cpu: Cpu::find(),
            memory: Memory::find(),
            disk: Disk::find(models, model, measure),
            models: Models::find(models),
            terminal: Terminal::of(&|key| std::env::var(key).ok().filter(|value| !value.is_empty())),
            optimized: !cfg!(debug_assertions),
        }
    }

    pub(super) fn json(&self, advice: &[String]) -> serde_json::Value {
        let Findings { cpu, memory, disk, models, terminal, optimized } = self;
        let outcome = |outcome: &Result<(), String>| outcome.as_ref().err().cloned();
        let limits = memory.limits.iter().map(
            |Limit(limit)| json!({ "cgroup": version(limit.version), "folder": limit.folder, "bytes": limit.bytes }),
        );
        let probe = disk.probe.as_ref().and_then(|probe| probe.as_ref().ok()).map(|probe| {
            json!({ "file": disk.probed, "way": probe.way.name(), "bytes": probe.bytes, "seconds": probe.seconds,
                    "bytes_per_second": probe.rate() })
        });
        json!({
            "cpu": { "name": cpu.name, "threads": cpu.threads, "processors": cpu.processors,
                     "isas": cpu.isas.iter().map(|isa| isa.name()).collect::<Vec<_>>(),
                     "isa": cpu.isas.last().map(|isa| isa.name()), "governor": cpu.governor },
            "memory": { "machine_bytes": memory.machine, "usable_bytes": memory.usable,
                        "available_bytes": memory.available, "swap_bytes": memory.swap,
                        "limits": limits.collect::<Vec<_>>(), "large_pages": memory.large_pages },
            "models": { "folder": disk.folder, "exists": models.there, "count": models.count, "bytes": models.bytes },
            "disk": { "file_system": disk.device.file_system, "device": disk.device.source, "free_bytes": disk.free,
                      "probe": probe, "probe_problem": disk.probe.as_ref().and_then(|probe| probe.as_ref().err()),
                      "direct_reads": disk.direct_reads.as_ref().map(Result::is_ok),
                      "direct_reads_problem": disk.direct_reads.as_ref().and_then(outcome),
                      "io_uring": disk.io_uring.is_ok(), "io_uring_problem": outcome(&disk.io_uring),
                      "readahead_bytes": disk.device.readahead_bytes,
                      "transfer_bytes": disk.device.transfer_bytes, "page_cache": disk.page_cache },
            "terminal": { "there": terminal.there, "name": terminal.name, "colors": terminal.colors_name(),
                          "utf8": terminal.utf8, "size": terminal.size,
                          "shift_enter": terminal.tells_shift_enter },
            "optimized": optimized,
            "advice": advice,
        })
    }
}

impl Cpu {
    fn find() -> Cpu {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let frequency = |file: &str| word_of(&format!("/sys/devices/system/cpu/cpu0/cpufreq/{file}"));
        Cpu {
            name: after_colon(&cpuinfo, "model name").map(|name| one_line(&name)),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            processors: Some(processors).filter(|&n| n > 0),
            isas: Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()).collect(),
            governor: frequency("scaling_governor"),
            frequency_driver: frequency("scaling_driver"),
        }
    }
}

impl Memory {
    fn find() -> Memory {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let bytes = |key: &str| after_colon(&meminfo, key)?.split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024);
        let system = System::discover();
        let memory = system.memory();
        let large_pages = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok();
        Memory {
            machine: bytes("MemTotal"),
            usable: memory.map(|memory| memory.total),
            available: memory.map(|memory| memory.available),
            swap: bytes("SwapTotal"),
            limits: system.limits().into_iter().map(Limit).collect(),
            large_pages: large_pages.and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
        }
    }
}

impl Limit {
    pub(super) fn words(&self) -> String {
        let Limit(limit) = self;
        format!("{} (cgroup v{}, {})", super::gb(Some(limit.bytes)), version(limit.version), limit.folder.display())
    }
}

fn version(version: CgroupVersion) -> u32 {
    match version {
        CgroupVersion::V1 => 1,
        CgroupVersion::V2 => 2,
    }
}

impl Disk {
    /// The disk of `model`, or of the folder `models`.
    fn find(models: &Path, model: Option<&Path>, measure: Measure) -> Disk {
        let folder = models.ancestors().find(|folder| folder.exists()).unwrap_or(models);
        let large_enough = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() >= Probe::LEAST_BYTES);
        let file = match model {
            Some(model) => Some(model.to_owned()),
            None => largest(models).filter(|path| large_enough(path)),
        };
        let place = file.as_deref().unwrap_or(folder);
        let mut disk = Disk {
            folder: one_line(&models.to_string_lossy()),
            device: Device::of(place),
            free: disk::free_bytes(file.as_deref().map_or(folder, disk::folder_of)),
            probed: file.as_ref().map_or("a file written for it".into(), |path| one_line(&path.to_string_lossy())),
            probe: None,
            direct_reads: None,
            io_uring: direct::io_uring().map_err(|error| error.to_string()),
            page_cache: None,
        };
        match file {
            Some(path) => disk.look_at(&path, measure),
            None if measure == Measure::Nothing => {}
            None => match written_file(folder) {
                Ok(file) => disk.look_at(file.part(), measure),
                Err(why) => disk.probe = Some(Err(why)),
            },
        }
        disk
    }

    fn look_at(&mut self, file: &Path, measure: Measure) {
        self.direct_reads = Some(direct::past_cache(file).map_err(|error| error.to_string()));
        self.page_cache = Residency::source_for(file);
        self.probe = (measure == Measure::Disk).then(|| {
            let probe = Probe::run(file, PATIENCE).map_err(|error| error.to_string())?;
            Ok(ProbeFigures { way: probe.way, bytes: probe.bytes, seconds: probe.seconds })
        });
    }
}

impl ProbeFigures {
    /// Bytes a second.
    pub(super) fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9)
    }
}

/// The largest model file in the folder.
fn largest(models: &Path) -> Option<std::path::PathBuf> {
    catalog::scan(models).models.into_iter().max_by_key(|model| model.bytes).map(|model| model.path)
}

/// A file that is there as long as its value: of bytes that no file system makes smaller, and on the disk.
fn written_file(folder: &Path) -> Result<PartFile, String> {
    disk::check_room(folder, 2 * PROBE_BYTES as u64).map_err(|error| error.to_string())?;
    let file = PartFile::create(&folder.join("wayinfer-doctor")).map_err(|error| error.to_string())?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 4 << 20];
    for _ in 0..PROBE_BYTES / block.len() {
        for word in block.chunks_exact_mut(8) {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.file().write_all(&block).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    file.file().sync_all().map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(file)
}

impl Models {
    fn find(folder: &Path) -> Models {
        let models = catalog::scan(folder).models;
        Models { count: models.len(), bytes: models.iter().map(|model| model.bytes).sum(), there: folder.is_dir() }
    }

    pub(super) fn words(&self) -> String {
        match self.count {
            0 => "none".to_owned(),
            count => format!("{count}, {}", super::gb(Some(self.bytes))),
        }
    }
}

impl Terminal {
    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Terminal {
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default().to_ascii_lowercase();
        let there = std::io::stdout().is_terminal();
        // The terminal itself is asked, and may only be where it can also answer.
        let asked = there && std::io::stdin().is_terminal() && variable("TERM").is_some_and(|term| term != "dumb");
        Terminal {
            there,
            name: variable("TERM").map(|name| one_line(&name)),
            colors: ColorDepth::detect(variable),
            utf8: locale.contains("utf-8") || locale.contains("utf8"),
            size: there.then(|| crossterm::terminal::size().ok()).flatten(),
            tells_shift_enter: asked.then(|| crossterm::terminal::supports_keyboard_enhancement().ok()).flatten(),
        }
    }

    pub(super) fn colors_name(&self) -> &'static str {
        match self.colors {
            ColorDepth::Mono => "none",
            ColorDepth::Ansi16 => "16",
            ColorDepth::Indexed256 => "256",
            ColorDepth::True => "16 million",
        }
    }
}

/// The rest of the first line of `text` that begins with `key`, behind the colon.
fn after_colon(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The text of a file of one word.
fn word_of(file: &str) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
pub(super) mod examples {
    use super::*;

    /// A machine that has all one could want.
    pub(in super::super) fn content() -> Findings {
        let device = Device {
            file_system: Some("ext4".into()),
            source: Some("/dev/nvme0n1p1".into()),
            readahead_bytes: Some(128 << 10),
            transfer_bytes: Some(1 << 20),
            readahead_file: Some("/sys/block/nvme0n1/queue/read_ahead_kb".into()),
        };
        Findings {
            cpu: Cpu {
                name: Some("a CPU".into()),
                threads: 8,
                processors: Some(8),
                isas: vec![Isa::Scalar, Isa::Avx2],
                governor: Some("powersave".into()),
                frequency_driver: Some("intel_pstate".into()),
            },
            memory: Memory {
                machine: Some(32 << 30),
                usable: Some(32 << 30),
                available: Some(30 << 30),
                swap: Some(0),
                limits: Vec::new(),
                large_pages: Some("madvise".into()),
            },
            disk: Disk {
                folder: "/models".into(),
                device,
                free: Some(100 << 30),
                probed: "/models/m.gguf".into(),
                probe: Some(Ok(ProbeFigures { way: Way::Uring, bytes: 2_000_000_000, seconds: 1.0 })),
                direct_reads: Some(Ok(())),
                io_uring: Ok(()),
                page_cache: Some("cachestat"),
            },
            models: Models { count: 1, bytes: 18 << 30, there: true },
            terminal: Terminal {
                there: true,
                name: Some("xterm".into()),
                colors: ColorDepth::detect(|_| None),
                utf8: true,
                size: Some((120, 40)),
                tells_shift_enter: Some(true),
            },
            optimized: true,
        }
    }

    /// A system that says nothing.
    pub(in super::super) fn silent() -> Findings {
        let content = content();
        Findings {
            cpu: Cpu { name: None, processors: None, governor: None, frequency_driver: None, ..content.cpu },
            memory: Memory {
                machine: None,
                usable: None,
                available: None,
                swap: None,
                limits: Vec::new(),
                large_pages: None,
            },
            disk: Disk {
                device: Device::default(),
                free: None,
                probe: None,
                direct_reads: None,
                page_cache: None,
                ..content.disk
            },
            ..content
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_folder_without_models_is_measured_by_a_file_that_is_gone_behind_it() {
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let models = folder.path().join("not/there");
        let disk = Disk::find(&models, None, Measure::Disk);
        match disk.probe.expect("it was to be measured") {
            Ok(probe) => assert!(probe.bytes >= Probe::LEAST_BYTES.min(PROBE_BYTES as u64) && probe.seconds > 0.0),
            Err(why) => println!("SKIP: nothing can be measured here: {why}"),
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(Disk::find(&models, None, Measure::Nothing).probe, None);
    }

    #[test]
    fn the_json_has_the_published_keys() {
        let json = examples::content().json(&["do this".to_owned()]);
        for key in [
            "/cpu/name",
            "/cpu/threads",
            "/cpu/isa",
            "/memory/usable_bytes",
            "/memory/limits",
            "/memory/large_pages",
            "/models/folder",
            "/disk/free_bytes",
            "/disk/probe/bytes_per_second",
            "/disk/direct_reads",
            "/disk/io_uring",
            "/disk/readahead_bytes",
            "/disk/page_cache",
            "/terminal/colors",
            "/optimized",
            "/advice/0",
        ] {
            assert!(json.pointer(key).is_some_and(|value| !value.is_null()), "{key}");
        }
        assert!(examples::silent().json(&[]).pointer("/disk/probe").unwrap().is_null());
    }
}
