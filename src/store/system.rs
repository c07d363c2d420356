//! What the system says about itself and this process: memory and its limits, faults, bytes read from disk, and how much
//! a disk reads at once. All of it comes from `/proc` and `/sys`; where they are absent, on other systems, the answer is
//! `None`.

#![allow(unsafe_code, reason = "the allocator is told by a C function")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::device::Queue;
use crate::telemetry::{Gauge, Telemetry};

/// What one WILLNEED brings in where the disk does not say: the kernel's default readahead.
pub(super) const MIN_PIECE_BYTES: u64 = 128 << 10;
/// What one WILLNEED should ask for at most: longer reads are no faster.
const MAX_PIECE_BYTES: u64 = 1 << 20;

/// The share of the machine's memory that is left to other programs.
const MACHINE_SHARE: u64 = 32;
/// The share of a cgroup's limit that is left free, and the least: the kernel charges memory in batches, one for each
/// processor, and begins to take pages back at the limit.
const CGROUP_SHARE: u64 = 64;
const CGROUP_BYTES: u64 = 4 << 20;

/// Bytes of memory this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The tightest of the machine's memory and every limit above this process.
    pub total: u64,
    /// What can still be taken; page cache that can be given back counts as free.
    pub available: u64,
}

/// What the kernel has counted for this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessGauges {
    pub rss_bytes: Option<u64>,
    /// Memory that may not leave, as the kernel counts it.
    pub locked_bytes: Option<u64>,
    pub peak_rss_bytes: Option<u64>,
    /// Bytes read from disks on behalf of this process, page faults included.
    pub disk_read_bytes: Option<u64>,
    pub major_faults: Option<u64>,
    pub minor_faults: Option<u64>,
}

/// The system as this process sees it; the memory limits above it are found once.
#[derive(Debug, Clone)]
pub struct System {
    proc: PathBuf,
    /// This process's memory cgroup and its ancestors, as far as they can be seen.
    cgroups: Vec<Cgroup>,
}

/// A folder of a memory cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cgroup {
    version: CgroupVersion,
    folder: PathBuf,
}

/// Which of the kernel's two kinds of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    V1,
    V2,
}

/// A memory limit above this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    pub version: CgroupVersion,
    /// Where it is set.
    pub folder: PathBuf,
    pub bytes: u64,
}

impl System {
    pub fn discover() -> System {
        System::under(Path::new("/"))
    }

    /// The system whose `/proc` and `/sys` lie under `root`.
    fn under(root: &Path) -> System {
        let proc = root.join("proc");
        let read = |name: &str| fs::read_to_string(proc.join("self").join(name)).unwrap_or_default();
        let cgroups = cgroups(root, &read("cgroup"), &read("mountinfo"));
        System { proc, cgroups }
    }

    /// The limits above this process that are tighter than the machine, those closest to the machine first.
    pub fn limits(&self) -> Vec<MemoryLimit> {
        let machine = fs::read_to_string(self.proc.join("meminfo")).ok();
        let machine = machine.and_then(|text| number_after(&text, "MemTotal:")?.checked_mul(1024)).unwrap_or(u64::MAX);
        let limit = |cgroup: &Cgroup| {
            let bytes = cgroup.memory()?.total;
            (bytes < machine).then(|| MemoryLimit { version: cgroup.version, folder: cgroup.folder.clone(), bytes })
        };
        self.cgroups.iter().filter_map(limit).collect()
    }

    /// `None` where the system does not say.
    pub fn memory(&self) -> Option<Memory> {
        let machine = self.machine()?;
        let tighter = |m: Memory, limit: Memory| Memory {
            total: m.total.min(limit.total),
            available: m.available.min(limit.available),
        };
        Some(self.cgroups.iter().filter_map(Cgroup::memory).fold(machine, tighter))
    }

    /// What of the available memory can be taken without pressing the system, or a cgroup above this process, to its
    /// limit; `None` where the system does not say.
    pub fn spare(&self) -> Option<u64> {
        let Memory { total, available } = self.machine()?;
        let machine = available.saturating_sub(total / MACHINE_SHARE);
        let cgroups = self.cgroups.iter().filter_map(Cgroup::memory);
        let spare = cgroups.map(|m| m.available.saturating_sub((m.total / CGROUP_SHARE).max(CGROUP_BYTES)));
        Some(spare.fold(machine, u64::min))
    }

    fn machine(&self) -> Option<Memory> {
        let meminfo = fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let kib = |key| number_after(&meminfo, key)?.checked_mul(1024);
        Some(Memory { total: kib("MemTotal:")?, available: kib("MemAvailable:")? })
    }

    pub fn process(&self) -> ProcessGauges {
        let read = |name: &str| fs::read_to_string(self.proc.join("self").join(name)).unwrap_or_default();
        let (status, io, stat) = (read("status"), read("io"), read("stat"));
        let kib = |key| number_after(&status, key)?.checked_mul(1024);
        // The command's name stands in parentheses and may hold spaces and parentheses; the fields after the last one
        // begin with the third, the state.
        let stat = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let field = |n: usize| stat.split_ascii_whitespace().nth(n - 3)?.parse().ok();
        ProcessGauges {
            rss_bytes: kib("VmRSS:"),
            locked_bytes: kib("VmLck:"),
            peak_rss_bytes: kib("VmHWM:"),
            disk_read_bytes: number_after(&io, "read_bytes:"),
            major_faults: field(12),
            minor_faults: field(10),
        }
    }

    /// Reads all gauges of memory and of this process into `telemetry`; takes about 0.1 ms.
    pub fn sample(&self, telemetry: &Telemetry) {
        let set = |gauge: &Gauge, value: Option<u64>| value.map_or_else(|| gauge.clear(), |v| gauge.set(v));
        let (memory, process) = (self.memory(), self.process());
        set(&telemetry.memory_total, memory.map(|m| m.total));
        set(&telemetry.memory_available, memory.map(|m| m.available));
        set(&telemetry.rss_bytes, process.rss_bytes);
        set(&telemetry.locked_bytes, process.locked_bytes);
        set(&telemetry.disk_read_bytes, process.disk_read_bytes);
        set(&telemetry.major_faults, process.major_faults);
        set(&telemetry.minor_faults, process.minor_faults);
    }
}

/// Has the allocator give large buffers back to the system as soon as they are freed, from one megabyte on. By itself it
/// learns to keep some tens of megabytes, which a budget would have to count.
pub fn return_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: The call changes how the allocator works from here on, not what it has handed out.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) };
}

impl Cgroup {
    /// `None` where this cgroup sets no limit.
    fn memory(&self) -> Option<Memory> {
        let file = |name| fs::read_to_string(self.folder.join(name)).ok();
        let number = |name| file(name)?.trim().parse::<u64>().ok();
        let (total, usage, cached) = match self.version {
            CgroupVersion::V1 => {
                let limit = number("memory.limit_in_bytes")?;
                (limit, number("memory.usage_in_bytes")?, ["total_inactive_file", "total_active_file"])
            }
            CgroupVersion::V2 => {
                // Above `memory.high` a process is slowed down, above `memory.max` it is killed.
                let limit = number("memory.max").into_iter().chain(number("memory.high")).min()?;
                (limit, number("memory.current")?, ["inactive_file", "active_file"])
            }
        };
        let stat = file("memory.stat").unwrap_or_default();
        let cache: u64 = cached.iter().filter_map(|key| number_after(&stat, key)).fold(0, u64::saturating_add);
        Some(Memory { total, available: total.saturating_sub(usage.saturating_sub(cache)) })
    }
}

/// The memory cgroups above this process, from the text of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn cgroups(root: &Path, own: &str, mounts: &str) -> Vec<Cgroup> {
    let mut found = Vec::new();
    for mount in mounts.lines().filter_map(CgroupMount::parse) {
        let own = own.lines().filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let version = match controllers {
                "" => CgroupVersion::V2,
                list if list.split(',').any(|c| c == "memory") => CgroupVersion::V1,
                _ => return None,
            };
            (version == mount.version).then_some(path)
        });
        for path in own {
            let top = root.join(mount.folder.trim_start_matches('/'));
            // A container may see its own cgroup as the root of the mount, or under a path that is not there: then
            // only the folders that are there are its ancestors.
            let below = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or("");
            let parts = below.split('/').filter(|part| !part.is_empty() && *part != "..");
            let folders = std::iter::once(top.clone()).chain(parts.scan(top, |folder, part| {
                folder.push(part);
                Some(folder.clone())
            }));
            let folders = folders.take_while(|folder| folder.is_dir());
            found.extend(folders.map(|folder| Cgroup { version: mount.version, folder }));
        }
    }
    found
}

/// A line of `/proc/self/mountinfo` that mounts a memory cgroup hierarchy.
struct CgroupMount {
    version: CgroupVersion,
    /// The folder of the hierarchy that is mounted.
    root: String,
    /// Where it is mounted.
    folder: String,
}

impl CgroupMount {
    fn parse(line: &str) -> Option<CgroupMount> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let version = match file_system.next()? {
            "cgroup2" => CgroupVersion::V2,
            "cgroup" if file_system.nth(1)?.split(',').any(|option| option == "memory") => CgroupVersion::V1,
            _ => return None,
        };
        let mut fields = mount.split(' ').skip(3);
        let (root, folder) = (unescape(fields.next()?), unescape(fields.next()?));
        Some(CgroupMount { version, root, folder })
    }
}

/// Undoes the octal escapes of mountinfo: `\040` for a space, and so for tab, newline and backslash.
pub(super) fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain))
}

/// The number in the line that begins with the word `key`.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_ascii_whitespace).find_map(|mut words| {
        let found = words.next()? == key;
        found.then_some(words)
    })?;
    words.next()?.parse().ok()
}

/// What one WILLNEED brings in at most on the disk of this file: a power of two from 128 KiB to 1 MiB.
pub(super) fn piece_bytes(file: &File) -> u64 {
    let bytes = readahead_bytes(file).unwrap_or(MIN_PIECE_BYTES).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES);
    1 << bytes.ilog2()
}

/// The kernel cuts one request off at the larger of the readahead and the largest transfer of the device.
fn readahead_bytes(file: &File) -> Option<u64> {
    let queue = Queue::of(&file.metadata().ok()?)?;
    Some(queue.readahead_bytes.max(queue.transfer_bytes.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:   8388608 kB\n";
    const V1_MOUNT: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
    const V2_MOUNT: &str = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// A folder with these files, as `(path, text)`.
    fn system(files: &[(&str, String)]) -> (tempfile::TempDir, System) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let system = System::under(root.path());
        (root, system)
    }

    fn own(cgroup: &str, mounts: &str) -> Vec<(&'static str, String)> {
        vec![
            ("proc/meminfo", MEMINFO.into()),
            ("proc/self/cgroup", cgroup.into()),
            ("proc/self/mountinfo", format!("22 27 0:21 / /proc rw - proc proc rw\n{mounts}")),
        ]
    }

    fn memory(files: &[(&str, String)]) -> Option<Memory> {
        system(files).1.memory()
    }

    #[test]
    fn without_limits_the_machine_is_the_limit() {
        assert_eq!(memory(&own("", "")), Some(Memory { total: 16 * GIB, available: 8 * GIB }));
        assert_eq!(memory(&[]), None);
    }

    #[test]
    fn the_tightest_ancestor_of_version_1_counts_and_its_page_cache_is_free() {
        let mut files = own("3:cpuset:/x\n4:cpu,memory:/a/b\n0::/elsewhere\n", V1_MOUNT);
        files.push(("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n".into()));
        files.push(("sys/fs/cgroup/memory/memory.usage_in_bytes", GIB.to_string()));
        files.push(("sys/fs/cgroup/memory/a/memory.limit_in_bytes", format!("{}\n", 4 * GIB)));
        files.push(("sys/fs/cgroup/memory/a/memory.usage_in_bytes", format!("{}\n", 3 * GIB)));
        let stat = format!("inactive_file 5\ntotal_inactive_file {GIB}\ntotal_active_file {}\n", GIB / 2);
        files.push(("sys/fs/cgroup/memory/a/memory.stat", stat));
        files.push(("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", (6 * GIB).to_string()));
        files.push(("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", GIB.to_string()));
        assert_eq!(memory(&files), Some(Memory { total: 4 * GIB, available: 4 * GIB - 3 * GIB / 2 }));
        let (root, system) = system(&files);
        let limit = |folder: &str, gib: u64| MemoryLimit {
            version: CgroupVersion::V1,
            folder: root.path().join("sys/fs/cgroup/memory").join(folder),
            bytes: gib * GIB,
        };
        assert_eq!(system.limits(), [limit("a", 4), limit("a/b", 6)]);
    }

    #[test]
    fn the_tightest_ancestor_of_version_2_counts_and_high_is_a_limit() {
        let mut files = own("0::/user.slice/app\n", V2_MOUNT);
        files.push(("sys/fs/cgroup/user.slice/memory.max", (8 * GIB).to_string()));
        files.push(("sys/fs/cgroup/user.slice/memory.high", (3 * GIB).to_string()));
        files.push(("sys/fs/cgroup/user.slice/memory.current", (2 * GIB).to_string()));
        files.push(("sys/fs/cgroup/user.slice/memory.stat", format!("anon {GIB}\ninactive_file {GIB}\n")));
        files.push(("sys/fs/cgroup/user.slice/app/memory.max", "max\n".into()));
        files.push(("sys/fs/cgroup/user.slice/app/memory.high", "max\n".into()));
        files.push(("sys/fs/cgroup/user.slice/app/memory.current", GIB.to_string()));
        assert_eq!(memory(&files), Some(Memory { total: 3 * GIB, available: 2 * GIB }));
    }

    #[test]
    fn a_container_finds_its_limit_where_its_cgroup_is_mounted() {
        let limit = |folder: &'static str| {
            let (max, current) = (format!("{folder}/memory.max"), format!("{folder}/memory.current"));
            [(max, (2 * GIB).to_string()), (current, GIB.to_string())]
        };
        let expected = Some(Memory { total: 2 * GIB, available: GIB });
        // The mount's root is the container's own cgroup; the path is of the machine's view, or outside of the mount.
        let rooted = V2_MOUNT.replace("0:26 /", "0:26 /docker/7f");
        for (path, mount, folder) in [
            ("0::/docker/7f\n", rooted.as_str(), "sys/fs/cgroup"),
            ("0::/docker/7f/inner\n", rooted.as_str(), "sys/fs/cgroup/inner"),
            ("0::/docker/7f\n", V2_MOUNT, "sys/fs/cgroup"),
            ("0::/\n", V2_MOUNT, "sys/fs/cgroup"),
            ("0::/../other\n", V2_MOUNT, "sys/fs/cgroup"),
            ("0::/a\n", &V2_MOUNT.replace("/sys/fs/cgroup", "/my\\040cgroups"), "my cgroups/a"),
        ] {
            let mut files = own(path, mount);
            let limit = limit(folder);
            files.extend(limit.iter().map(|(path, text)| (path.as_str(), text.clone())));
            assert_eq!(memory(&files), expected, "{path}{mount}");
        }
    }

    #[test]
    fn a_limit_that_is_exceeded_leaves_nothing() {
        let mut files = own("0::/a\n", V2_MOUNT);
        files.push(("sys/fs/cgroup/a/memory.max", GIB.to_string()));
        files.push(("sys/fs/cgroup/a/memory.current", (2 * GIB).to_string()));
        assert_eq!(memory(&files), Some(Memory { total: GIB, available: 0 }));
    }

    #[test]
    fn the_tightest_limit_is_not_used_to_the_last_byte() {
        let machine = own("0::/a\n", V2_MOUNT);
        assert_eq!(system(&machine).1.spare(), Some(8 * GIB - GIB / 2));
        let mut files = machine;
        files.push(("sys/fs/cgroup/a/memory.max", (4 * GIB).to_string()));
        files.push(("sys/fs/cgroup/a/memory.current", GIB.to_string()));
        assert_eq!(system(&files).1.spare(), Some(3 * GIB - GIB / 16));
        assert_eq!(system(&[]).1.spare(), None);
    }

    #[test]
    fn the_process_is_read_from_proc() {
        let files = [
            ("proc/self/status", "Name:\tx\nVmLck:\t  4 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n".into()),
            ("proc/self/io", "rchar: 5\nread_bytes: 77\nwrite_bytes: 8\n".into()),
            ("proc/self/stat", "1 (a) b) S 1 1 1 0 -1 4194560 111 0 222 0 0 0\n".into()),
        ];
        let expected = ProcessGauges {
            rss_bytes: Some(1 << 20),
            locked_bytes: Some(4096),
            peak_rss_bytes: Some(2 << 20),
            disk_read_bytes: Some(77),
            major_faults: Some(222),
            minor_faults: Some(111),
        };
        assert_eq!(system(&files).1.process(), expected);
        assert_eq!(system(&[]).1.process(), ProcessGauges::default());
    }

    #[test]
    fn a_piece_is_a_power_of_two_within_its_bounds() {
        let bytes = piece_bytes(tempfile::tempfile().as_ref().unwrap());
        assert!(bytes.is_power_of_two() && (MIN_PIECE_BYTES..=MAX_PIECE_BYTES).contains(&bytes), "{bytes}");
    }

    #[test]
    fn this_system_fills_the_gauges_that_it_has() {
        let telemetry = Telemetry::default();
        let system = System::discover();
        system.sample(&telemetry);
        let snapshot = telemetry.snapshot();
        if !cfg!(target_os = "linux") {
            println!("SKIP: other systems have no gauges");
            return;
        }
        let (total, available) = (snapshot.memory_total.unwrap(), snapshot.memory_available.unwrap());
        assert!(available <= total && total > 16 << 20, "{available} of {total}");
        let peak = system.process().peak_rss_bytes.unwrap();
        assert!((1 << 20..=peak).contains(&snapshot.rss_bytes.unwrap()));
        assert!(snapshot.minor_faults.unwrap() > 0);
    }
}
