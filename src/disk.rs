//! Files that are whole or not there: room on a disk in, a file under its own name out, only once all of it is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What keeps a large file from being written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{}: {what}: {source}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error(
        "{} has {free:.2} GB free and {needed:.2} GB are needed; make room or choose another folder",
        folder.display()
    )]
    Room { folder: PathBuf, needed: f64, free: f64 },
}

impl DiskError {
    pub fn io(path: &Path, what: &'static str, source: io::Error) -> DiskError {
        DiskError::Io { path: path.to_owned(), what, source }
    }
}

/// The folder a file lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Bytes that this user may still write to the disk of `folder`; `None` where the system does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Refuses where `folder` has not room for `needed` more bytes.
pub fn check_room(folder: &Path, needed: u64) -> Result<(), DiskError> {
    match free_bytes(folder) {
        Some(free) if free < needed => {
            let gb = |bytes| bytes as f64 / 1e9;
            Err(DiskError::Room { folder: folder.to_owned(), needed: gb(needed), free: gb(free) })
        }
        _ => Ok(()),
    }
}

/// The name with `suffix` behind it.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A file that is written beside its final name and removed again unless it is finished.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl PartFile {
    /// Begins the file that will be `path`.
    pub fn create(path: &Path) -> Result<PartFile, DiskError> {
        let part = with_suffix(path, &format!(".{}.part", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        let file = file.map_err(|e| DiskError::io(&part, "cannot be created", e))?;
        Ok(PartFile { file, part, path: path.to_owned(), finished: false })
    }

    /// Where it is until it is finished.
    pub fn part(&self) -> &Path {
        &self.part
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, once its bytes are on the disk.
    pub fn finish(mut self) -> Result<(), DiskError> {
        self.file.sync_all().map_err(|e| DiskError::io(&self.part, "cannot be written", e))?;
        rename(&self.part, &self.path)?;
        self.finished = true;
        Ok(())
    }
}

/// Writes a file that must not be there yet; what could not be written whole is removed again.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// Gives `part`, whose bytes are on the disk, the name `path`, and sees to it that the name is there too.
pub fn rename(part: &Path, path: &Path) -> Result<(), DiskError> {
    fs::rename(part, path).map_err(|e| DiskError::io(path, "cannot be given its name", e))?;
    // Some systems do not let a folder be opened or synced. The name then comes to the disk when they like.
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.finished {
            // It is of no use to anyone; if it cannot be removed, there is nobody left to tell.
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let part = PartFile::create(&path).unwrap();
        part.file().write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(part);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let part = PartFile::create(&path).unwrap();
        part.file().write_all(b"whole").unwrap();
        part.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_file_takes_no_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.md");
        write_new(&path, b"one").unwrap();
        assert_eq!(write_new(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn a_disk_without_room_is_named_with_the_numbers() {
        let folder = tempfile::tempdir().unwrap();
        check_room(folder.path(), 1).unwrap();
        let error = check_room(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("GB are needed") && error.contains(folder.path().to_str().unwrap()), "{error}");
    }
}
