//! How much of a model's files is in memory, as the kernel says: a byte range in, resident bytes or "unknown" out.
//!
//! `cachestat` (Linux 6.5) answers for the page cache. `mincore` is the second choice: it is slower, and for a file
//! that one neither owns nor may write it answers "all of it", so it is only believed for the others.

#![allow(unsafe_code, reason = "cachestat and mincore have no safe wrapper")]

use std::fs::File;
use std::path::Path;

use super::mapping::{FileRange, ModelFile};

/// Asks the kernel about a model's files.
#[derive(Debug)]
pub struct Residency<'m> {
    model: &'m ModelFile,
    source: Option<Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no other system is asked yet"))]
enum Source {
    Cachestat,
    Mincore,
}

impl Source {
    const ALL: [Source; 2] = [Source::Cachestat, Source::Mincore];

    fn name(self) -> &'static str {
        match self {
            Source::Cachestat => "cachestat",
            Source::Mincore => "mincore",
        }
    }
}

impl<'m> Residency<'m> {
    /// Finds out which way of asking works for all files of the model.
    pub fn new(model: &'m ModelFile) -> Residency<'m> {
        let files = &model.gguf().files;
        let trusts = |source: Source| {
            let trusts = |index: usize| model.file(index).is_some_and(|file| trusted(file, &files[index].path, source));
            (0..files.len()).all(trusts)
        };
        Residency { model, source: Source::ALL.into_iter().find(|&source| trusts(source)) }
    }

    /// The system call that answers for the file at `path`; `None` where none can be believed.
    pub fn source_for(path: &Path) -> Option<&'static str> {
        let file = File::open(path).ok()?;
        Source::ALL.into_iter().find(|&source| trusted(&file, path, source)).map(Source::name)
    }

    /// The system call that answers; `None` where none can be believed.
    pub fn source(&self) -> Option<&'static str> {
        self.source.map(Source::name)
    }

    /// Bytes of the range in memory; `None`: unknown. Whole pages count in proportion to the range.
    pub fn resident_bytes(&self, range: FileRange) -> Option<u64> {
        let (resident, pages) = resident_pages(self.model, range, self.source?)?;
        let share = u128::from(resident.min(pages)) * u128::from(range.n_bytes) / u128::from(pages.max(1));
        Some(share as u64)
    }
}

#[cfg(not(target_os = "linux"))]
fn trusted(_: &File, _: &Path, _: Source) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn resident_pages(_: &ModelFile, _: FileRange, _: Source) -> Option<(u64, u64)> {
    None
}

#[cfg(target_os = "linux")]
use linux::{resident_pages, trusted};

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::fs::{Access, AtFlags, CWD, accessat};
    use rustix::process::geteuid;

    use super::{FileRange, ModelFile, Source};

    /// Whether the kernel answers truthfully for this file.
    pub(super) fn trusted(file: &File, path: &Path, source: Source) -> bool {
        match source {
            Source::Cachestat => cachestat(file, 0, 1).is_some(),
            Source::Mincore => {
                let owner = file.metadata().is_ok_and(|m| m.uid() == geteuid().as_raw());
                owner || accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
            }
        }
    }

    /// `(resident, all)` pages that the range touches.
    pub(super) fn resident_pages(model: &ModelFile, range: FileRange, source: Source) -> Option<(u64, u64)> {
        let page = rustix::param::page_size() as u64;
        let (first, end) = (range.offset / page, (range.offset + range.n_bytes).div_ceil(page));
        let resident = match source {
            Source::Cachestat => cachestat(model.file(range.file)?, range.offset, range.n_bytes)?,
            Source::Mincore => mincore(model, FileRange { offset: first * page, ..range }, end - first, page)?,
        };
        Some((resident, end - first))
    }

    /// The kernel's `struct cachestat_range`.
    #[repr(C)]
    struct CachestatRange {
        offset: u64,
        n_bytes: u64,
    }

    /// The kernel's `struct cachestat`, in pages.
    #[repr(C)]
    #[derive(Default)]
    struct Cachestat {
        cache: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }

    /// The call's number, the same on every architecture but alpha.
    const SYS_CACHESTAT: libc::c_long = 451;

    /// Pages of the range in the page cache; `None` where the kernel does not know the call or refuses it.
    fn cachestat(file: &File, offset: u64, n_bytes: u64) -> Option<u64> {
        let range = CachestatRange { offset, n_bytes };
        let mut stat = Cachestat::default();
        // SAFETY: Both pointers are to live values laid out as the kernel's structs, the second one writable; the
        // descriptor is open. The kernel reads 16 bytes and writes 40.
        let result = unsafe {
            libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0 as libc::c_uint)
        };
        (result == 0).then_some(stat.cache)
    }

    /// Pages in memory of the `n` that begin at the range's offset, which is a page's.
    fn mincore(model: &ModelFile, range: FileRange, n: u64, page: u64) -> Option<u64> {
        const CHUNK: u64 = 4096;
        let file = range.file;
        let file_bytes = model.gguf().files[file].bytes;
        let mut flags = [0u8; CHUNK as usize];
        let mut resident = 0;
        for chunk in (0..n).step_by(CHUNK as usize) {
            let offset = range.offset + chunk * page;
            let pages = CHUNK.min(n - chunk);
            let n_bytes = (pages * page).min(file_bytes - offset);
            let bytes = model.bytes(FileRange { file, offset, n_bytes });
            // SAFETY: The bytes are mapped and their address is a page's, since the offset is and the mapping's is; the
            // kernel writes a byte for every page they touch, at most `pages`, which is no more than the flags.
            let result = unsafe { libc::mincore(bytes.as_ptr().cast_mut().cast(), bytes.len(), flags.as_mut_ptr()) };
            if result != 0 {
                return None;
            }
            resident += flags[..pages as usize].iter().filter(|&&f| f & 1 == 1).count() as u64;
        }
        Some(resident)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::gguf::Metadata;
        use crate::gguf::writer::{TensorPlan, Writer};
        use crate::quant::GgmlType;
        use crate::store::Residency;

        #[test]
        fn cachestat_and_mincore_say_what_was_read_and_what_was_dropped() {
            // A file on a disk, as this test is: the pages of a tmpfs cannot be dropped.
            let beside = std::env::current_exe().unwrap();
            let file = tempfile::NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
            let plan = TensorPlan { name: "x".into(), shape: vec![8 << 20], ty: GgmlType::I8 };
            let mut writer = Writer::new(file.as_file(), &Metadata::default(), &[plan]).unwrap();
            writer.write("x", &vec![1; 8 << 20]).unwrap();
            writer.finish().unwrap().sync_all().unwrap();

            let model = ModelFile::open(file.path()).unwrap();
            let found = Residency::new(&model);
            println!("source: {:?}", found.source());
            let n_bytes = model.gguf().file_bytes();
            let all = FileRange { file: 0, offset: 0, n_bytes };
            let part = FileRange { file: 0, offset: (5 << 20) + 123, n_bytes: 1000 };
            let sources =
                Source::ALL.into_iter().filter(|&s| trusted(model.file(0).unwrap(), &model.gguf().files[0].path, s));
            let sources: Vec<_> = sources.map(|s| Residency { model: &model, source: Some(s) }).collect();
            if sources.is_empty() {
                println!("SKIP: this kernel does not say what is resident");
            }
            for residency in &sources {
                assert_eq!(residency.resident_bytes(all), Some(n_bytes), "{residency:?}: just written");
                assert_eq!(residency.resident_bytes(part), Some(1000));
            }
            rustix::fs::fadvise(model.file(0).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let left: Vec<_> = sources.iter().map(|r| r.resident_bytes(all).unwrap()).collect();
            assert!(left.iter().all(|&bytes| bytes < n_bytes / 2 && bytes == left[0]), "{left:?} of {n_bytes}");
        }

        #[test]
        fn a_model_in_memory_has_no_residency() {
            let bytes = Writer::new(Vec::new(), &Metadata::default(), &[]).unwrap().finish().unwrap();
            let model = ModelFile::from_bytes(&bytes).unwrap();
            let residency = Residency::new(&model);
            assert_eq!(residency.source(), None);
            assert_eq!(residency.resident_bytes(FileRange { file: 0, offset: 0, n_bytes: 10 }), None);
        }
    }
}
