//! A conversation's file, opened to be gone on with: a path in, the transcript so far and the right to append out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::reader::read_file;
use super::{Header, Line, Record, Transcript, TranscriptError};

/// A session's file. It is this process's alone while this lives, as far as programs ask for the lock.
#[derive(Debug)]
pub struct SessionFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Bytes of the file: whole lines.
    pub(super) bytes: u64,
    transcript: Option<Box<Transcript>>,
}

impl SessionFile {
    /// Opens the file, or makes an empty one. The end of a last line that was cut off is taken away.
    ///
    /// # Errors
    /// What is not a transcript is refused and left as it is, and so is one that another process goes on with.
    pub fn open(path: &Path) -> Result<SessionFile, TranscriptError> {
        let write_failed = |source| TranscriptError::Write { path: path.to_owned(), source };
        let mut file = open(path).map_err(write_failed)?;
        if !file.metadata().map_err(write_failed)?.is_file() {
            return Err(TranscriptError::NotAFile { path: path.to_owned() });
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(TranscriptError::InUse { path: path.to_owned() }),
            // A file system without locks does not keep anybody from a conversation.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // Whoever had it before may have taken it away unused, between the opening and the lock.
        if !is_at(&file, path) {
            return Err(TranscriptError::InUse { path: path.to_owned() });
        }
        // Whoever had the lock may have written until now.
        if file.metadata().map_err(write_failed)?.len() == 0 {
            return Ok(SessionFile { file, path: path.to_owned(), bytes: 0, transcript: None });
        }
        let transcript = read_file(&file, path)?;
        let bytes = mend(&mut file, transcript.whole_bytes).map_err(write_failed)?;
        Ok(SessionFile { file, path: path.to_owned(), bytes, transcript: Some(Box::new(transcript)) })
    }

    /// A file that was just made, for a new session.
    pub(super) fn created(file: File, path: PathBuf) -> SessionFile {
        // Nobody else can have it yet; a file system without locks is no reason not to write.
        let _ = file.try_lock();
        SessionFile { file, path, bytes: 0, transcript: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the KV cache of this conversation is kept: beside it.
    pub fn kv_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".kv");
        name.into()
    }

    /// What was said before; `None` for a new session.
    pub fn transcript(&self) -> Option<&Transcript> {
        self.transcript.as_deref()
    }

    /// The line that begins the file, or another one with what cannot be saved here.
    pub(super) fn header_line(&self, new: Header) -> String {
        Line::text(Record::Header(self.transcript.as_ref().map_or(new, |t| t.header.clone())))
    }
}

/// Opens for appending, readable by its owner alone where it is new; a pipe does not wait for its other end.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    options.open(path)
}

/// Whether the file is still the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |m: &std::fs::Metadata| (m.dev(), m.ino());
        file.metadata().is_ok_and(|opened| std::fs::metadata(path).is_ok_and(|named| place(&opened) == place(&named)))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Leaves whole lines only: a last line that lacks its end gets it, and what lies behind the whole ones goes. Returns the
/// bytes of the file then.
fn mend(file: &mut File, whole_bytes: u64) -> io::Result<u64> {
    use std::io::{Read, Seek, SeekFrom};
    if file.metadata()?.len() > whole_bytes {
        file.set_len(whole_bytes)?;
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(whole_bytes);
    }
    file.write_all(b"\n")?;
    Ok(whole_bytes + 1)
}

#[cfg(test)]
mod tests {
    use super::super::{Finished, Record, TranscriptWriter, read};
    use super::*;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn user(id: u64, parent: Option<u64>, text: &str) -> Record {
        Record::User { id, parent, text: text.into() }
    }

    fn finish(writer: TranscriptWriter) -> Finished {
        writer.finish(PATIENCE)
    }

    fn say(path: &Path, records: Vec<Record>) -> Finished {
        let file = SessionFile::open(path).unwrap();
        let writer =
            TranscriptWriter::resume(file, Header::new(Some("Be kind.".into()), serde_json::Value::Null)).unwrap();
        records.into_iter().for_each(|record| writer.append(record));
        finish(writer)
    }

    #[test]
    fn a_session_is_gone_on_with_in_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.jsonl");
        assert_eq!(say(&path, vec![user(1, None, "one")]).path.as_deref(), Some(&*path));
        assert_eq!(say(&path, vec![user(2, Some(1), "two")]).error, None);
        let t = read(&path).unwrap();
        assert_eq!((t.path().len(), t.header.system.as_deref()), (2, Some("Be kind.")));
        assert_eq!(std::fs::read_to_string(&path).unwrap().matches("\"header\"").count(), 1);
        assert_eq!(SessionFile::open(&path).unwrap().kv_path(), dir.path().join("chat.jsonl.kv"));
    }

    #[test]
    fn a_session_in_which_nothing_is_said_leaves_no_file_and_changes_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.jsonl");
        assert_eq!(say(&path, vec![]), Finished::default());
        assert!(!path.exists());
        say(&path, vec![user(1, None, "one")]);
        let before = std::fs::read(&path).unwrap();
        say(&path, vec![]);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn one_process_at_a_time_goes_on_with_a_session() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.jsonl");
        let first = SessionFile::open(&path).unwrap();
        let error = SessionFile::open(&path).unwrap_err();
        assert!(matches!(error, TranscriptError::InUse { .. }) && error.to_string().contains("chat.jsonl"), "{error}");
        drop(first);
        SessionFile::open(&path).unwrap();
    }

    #[test]
    fn wherever_a_last_line_was_cut_off_the_next_one_begins_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.jsonl");
        say(&path, vec![user(1, None, "one ä"), user(2, Some(1), "two ö")]);
        let whole = std::fs::read(&path).unwrap();
        let header = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        for cut in header..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            say(&path, vec![user(3, None, "three")]);
            let t = read(&path).unwrap();
            assert_eq!((t.torn, t.skipped, t.entries.last().unwrap().id), (false, 0, 3), "cut at {cut}");
            assert!(whole.starts_with(&std::fs::read(&path).unwrap()[..header]), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_a_session_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        for text in ["dear diary\n", "{}", "\n", "GGUF\0\0"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(SessionFile::open(&path), Err(TranscriptError::NoHeader { .. })), "{text:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert!(matches!(SessionFile::open(dir.path()), Err(TranscriptError::Write { .. })));
        assert!(matches!(SessionFile::open(Path::new("/dev/null")), Err(TranscriptError::NotAFile { .. })));
    }
}
