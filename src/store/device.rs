//! The disk that a file or folder lies on, as the kernel describes it: a path in, its file system, device and readahead
//! out. All of it comes from `/proc` and `/sys`; what they do not say is `None`.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::system::unescape;

/// Where bytes of a file come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// `ext4`, `tmpfs`.
    pub file_system: Option<String>,
    /// What is mounted: `/dev/nvme0n1p2`, or a name of the file system's own.
    pub source: Option<String>,
    /// What the kernel reads ahead of a reader at most.
    pub readahead_bytes: Option<u64>,
    /// What the device takes as one transfer at most.
    pub transfer_bytes: Option<u64>,
    /// The file that sets the readahead.
    pub readahead_file: Option<PathBuf>,
}

impl Device {
    /// The device of the file or folder at `path`, which must be there.
    pub fn of(path: &Path) -> Device {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = path.canonicalize().ok().and_then(|path| Mount::of(&path, &mounts));
        let queue = fs::metadata(path).ok().and_then(|metadata| Queue::of(&metadata));
        Device {
            file_system: mount.as_ref().map(|mount| mount.file_system.clone()),
            source: mount.map(|mount| mount.source),
            readahead_bytes: queue.as_ref().map(|queue| queue.readahead_bytes),
            transfer_bytes: queue.as_ref().and_then(|queue| queue.transfer_bytes),
            readahead_file: queue.map(|queue| queue.readahead_file),
        }
    }
}

/// What the kernel keeps for a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) readahead_bytes: u64,
    pub(super) transfer_bytes: Option<u64>,
    readahead_file: PathBuf,
}

impl Queue {
    /// That of the disk a file is on.
    #[cfg(target_os = "linux")]
    pub(super) fn of(metadata: &Metadata) -> Option<Queue> {
        use std::os::unix::fs::MetadataExt;
        let device = metadata.dev();
        Queue::named(Path::new("/sys"), &format!("{}:{}", libc::major(device), libc::minor(device)))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_: &Metadata) -> Option<Queue> {
        None
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "other systems have no /sys"))]
    fn named(sys: &Path, device: &str) -> Option<Queue> {
        // A partition has no queue of its own, and the file systems that are not on one device only a `bdi`.
        let block = sys.join("dev/block").join(device);
        let queues = [block.join("queue"), block.join("../queue"), sys.join("class/bdi").join(device)];
        let kib = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()?.checked_mul(1024);
        queues.into_iter().find_map(|queue| {
            let readahead_file = queue.join("read_ahead_kb");
            let readahead_bytes = kib(&readahead_file)?;
            let transfer_bytes = kib(&queue.join("max_sectors_kb"));
            let readahead_file = readahead_file.canonicalize().unwrap_or(readahead_file);
            Some(Queue { readahead_bytes, transfer_bytes, readahead_file })
        })
    }
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    file_system: String,
    source: String,
}

impl Mount {
    /// The mount that `path`, without links, lies on: the one closest to it, and of several at one place the last.
    fn of(path: &Path, mounts: &str) -> Option<Mount> {
        let parse = |line: &str| {
            let (mount, device) = line.split_once(" - ")?;
            let point = PathBuf::from(unescape(mount.split(' ').nth(4)?));
            let mut device = device.split(' ');
            let (file_system, source) = (device.next()?.to_owned(), unescape(device.next()?));
            path.starts_with(&point).then_some((point.components().count(), Mount { file_system, source }))
        };
        mounts.lines().filter_map(parse).max_by_key(|(depth, _)| *depth).map(|(_, mount)| mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_mount_counts_and_of_several_at_one_place_the_last() {
        let mounts = "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n\
                      23 22 0:4 / /home/my\\040models rw shared:1 - tmpfs old rw\n\
                      24 22 0:5 / /home/my\\040models rw - xfs /dev/nvme0n1p1 rw\n\
                      25 22 0:6 / /home/mymodels rw - nfs server:/x rw\n";
        let mount = |path: &str| Mount::of(Path::new(path), mounts).map(|m| (m.file_system, m.source));
        let expected = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(mount("/home/my models/x.gguf"), expected("xfs", "/dev/nvme0n1p1"));
        assert_eq!(mount("/home/my"), expected("ext4", "/dev/sda2"));
        assert_eq!(Mount::of(Path::new("/x"), ""), None);
    }

    #[test]
    fn a_partition_has_the_queue_of_its_disk_and_others_that_of_their_bdi() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("dev/block/259:1/partition", "1\n");
        write("dev/block/queue/read_ahead_kb", "128\n");
        write("dev/block/queue/max_sectors_kb", "512\n");
        write("class/bdi/0:45/read_ahead_kb", "4096\n");
        let queue = |device: &str| Queue::named(sys.path(), device).map(|q| (q.readahead_bytes, q.transfer_bytes));
        assert_eq!(queue("259:1"), Some((128 << 10, Some(512 << 10))));
        assert_eq!(queue("0:45"), Some((4 << 20, None)));
        assert_eq!(queue("0:46"), None);
    }
}
