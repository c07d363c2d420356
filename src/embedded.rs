//! The demonstration model that is part of the binary: its bytes in, a file out that can be mapped and paged like any other.
//! It is a toy, so that a chat opens on a machine that has no model yet.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::disk::{self, DiskError, PartFile};
use crate::gguf::{Gguf, GgufError};
use crate::sampler::SamplingParams;

/// How the model is called, wherever a model is named.
pub const NAME: &str = "demo";
/// What a person should know of it.
pub const NOTICE: &str = "This is the demonstration model that comes with WayInfer: a toy that shows the machine at work and knows \
                          next to nothing. For a real model: `wayinfer models --suggest` names some that suit this machine, \
                          `wayinfer pull NAME` fetches one.";

/// How its tokens are chosen where nobody says otherwise: at what suits large models, one this small wanders off.
pub fn sampling() -> SamplingParams {
    SamplingParams { temperature: 0.2, ..SamplingParams::default() }
}

const BYTES: &[u8] = include_bytes!("../assets/demo.gguf");
const FILE: &str = "demo.gguf";
const BLOCK: usize = 256 << 10;

/// What keeps the model from having a file.
#[derive(Debug, thiserror::Error)]
#[error(
    "the demonstration model cannot be written to the disk, where it is mapped from: {cache}; {temporary}; make room, let \
     XDG_CACHE_HOME or TMPDIR name a folder that can be written to, or give a model of your own"
)]
pub struct NoFile {
    cache: DiskError,
    temporary: DiskError,
}

/// Bytes of the model.
pub fn bytes() -> u64 {
    BYTES.len() as u64
}

/// What stands before its weights.
///
/// # Errors
/// None, unless it was built from a file that is no model.
pub fn header() -> Result<Gguf, GgufError> {
    Gguf::parse(BYTES)
}

/// Where [`file`] puts the model, where it can.
pub fn path(cache: &Path) -> PathBuf {
    cache.join(FILE)
}

/// Whether `path` is where [`file`] puts the model.
pub fn is_at(file: &Path, cache: &Path) -> bool {
    file == path(cache) || file == path(&private_temporary())
}

/// The model's file in the folder `cache`, or where that cannot be written in a folder for temporary files. It is written
/// unless it is there already, byte for byte.
///
/// # Errors
/// Neither folder can be written.
pub fn file(cache: &Path) -> Result<PathBuf, NoFile> {
    file_in(cache, &private_temporary())
}

fn file_in(cache: &Path, temporary: &Path) -> Result<PathBuf, NoFile> {
    let failed = match written(cache) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    tracing::warn!("the demonstration model goes to {}: {failed}", temporary.display());
    written(temporary).map_err(|error| NoFile { cache: failed, temporary: error })
}

/// A folder of this user's alone among the temporary files.
fn private_temporary() -> PathBuf {
    #[cfg(unix)]
    let user = rustix::process::geteuid().as_raw();
    #[cfg(not(unix))]
    let user = "user";
    std::env::temp_dir().join(format!("wayinfer-{user}"))
}

/// The model's file in `folder`.
fn written(folder: &Path) -> Result<PathBuf, DiskError> {
    make_own(folder).map_err(|e| DiskError::io(folder, "cannot be made", e))?;
    let path = path(folder);
    if is_current(&path) {
        return Ok(path);
    }
    disk::check_room(folder, bytes())?;
    // In a container every process may have the same number, also one that was killed before it had finished.
    let leftover = disk::with_suffix(&path, &format!(".{}.part", std::process::id()));
    let _ = fs::remove_file(leftover);
    let part = PartFile::create(&path)?;
    part.file().write_all(BYTES).map_err(|e| DiskError::io(&path, "cannot be written", e))?;
    part.finish()?;
    Ok(path)
}

/// Makes a folder that this user alone may write to; one that is there must be this user's.
fn make_own(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if fs::metadata(folder)?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
        }
    }
    Ok(())
}

/// Whether the file at `path` is the model, to the last byte.
fn is_current(path: &Path) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    if file.metadata().map_or(true, |metadata| !metadata.is_file() || metadata.len() != bytes()) {
        return false;
    }
    let mut block = vec![0; BLOCK];
    BYTES.chunks(BLOCK).all(|expected| {
        let found = &mut block[..expected.len()];
        file.read_exact(found).is_ok() && found == expected
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_written_once_and_again_only_where_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("new/cache");
        let path = file_in(&cache, Path::new("/nowhere")).unwrap();
        assert!(path.starts_with(&cache) && fs::read(&path).unwrap() == BYTES);
        let written_at = || fs::metadata(&path).unwrap().modified().unwrap();
        let first = written_at();
        file_in(&cache, Path::new("/nowhere")).unwrap();
        assert_eq!(written_at(), first);
        let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = BYTES.to_vec();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
            file_in(&cache, Path::new("/nowhere")).unwrap();
            assert!(fs::read(&path).unwrap() == BYTES);
        };
        damaged(&|bytes| *bytes.last_mut().unwrap() ^= 1);
        damaged(&|bytes| bytes.truncate(100));
        damaged(&|bytes| bytes.push(0));
        // What a killed process of the same number has left is in nobody's way.
        fs::write(disk::with_suffix(&path, &format!(".{}.part", std::process::id())), "half").unwrap();
        damaged(&|bytes| bytes.clear());
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    }

    #[test]
    fn where_the_cache_cannot_be_written_a_temporary_folder_is_taken_and_else_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let (blocked, temporary) = (file.join("cache"), folder.path().join("temporary"));
        assert!(file_in(&blocked, &temporary).unwrap().starts_with(&temporary));
        let error = file_in(&blocked, &file.join("other")).unwrap_err().to_string();
        for word in ["cache", "other", "TMPDIR"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
