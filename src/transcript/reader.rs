//! Reads a transcript back: a file of JSON lines in, the conversation out.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::{Header, Line, Message, Record, Role, TranscriptError, VERSION};

/// No transcript of a person's making comes near this size.
const MAX_BYTES: u64 = 256 << 20;

/// A conversation as it was saved.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    pub header: Header,
    pub entries: Vec<Entry>,
    /// What was typed but not sent.
    pub draft: Option<String>,
    /// The last line was cut off, as by a crash in the middle of a write.
    pub torn: bool,
    /// Other lines that could not be understood, for example of a newer program.
    pub skipped: usize,
}

/// One message and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: u64,
    pub message: Message,
    /// Why the reply ended; `None` for the person's messages and for a reply that was cut off.
    pub stop: Option<String>,
    /// Shown, but no longer sent: the context was full.
    pub dropped: bool,
    /// Not answered, and not sent.
    pub withdrawn: bool,
}

impl Transcript {
    /// The messages to send when the conversation goes on.
    pub fn messages(&self) -> Vec<Message> {
        self.entries.iter().filter(|e| !e.dropped && !e.withdrawn).map(|e| e.message.clone()).collect()
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|e| e.id == id)
    }

    fn add(&mut self, id: u64, role: Role, content: String) -> &mut Entry {
        let message = Message { role, content };
        self.entries.push(Entry { id, message, stop: None, dropped: false, withdrawn: false });
        let last = self.entries.len() - 1;
        &mut self.entries[last]
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Header(_) | Record::Model { .. } => {}
            Record::User { id, text } => {
                self.draft = None;
                self.add(id, Role::User, text);
            }
            Record::Partial { id, text } => match self.entry(id) {
                Some(entry) => entry.message.content.push_str(&text),
                None => {
                    self.add(id, Role::Assistant, text);
                }
            },
            Record::Reply { id, text, stop, .. } => {
                let entry = match self.entries.iter().rposition(|e| e.id == id) {
                    Some(i) => &mut self.entries[i],
                    None => self.add(id, Role::Assistant, String::new()),
                };
                entry.message.content = text;
                entry.stop = Some(stop);
            }
            Record::Dropped { ids } => {
                for id in ids {
                    if let Some(entry) = self.entry(id) {
                        entry.dropped = true;
                    }
                }
            }
            Record::Withdrawn { id } => {
                if let Some(entry) = self.entry(id) {
                    entry.withdrawn = true;
                }
            }
            Record::Draft { text } => self.draft = (!text.is_empty()).then_some(text),
        }
    }
}

/// Reads the transcript at `path`. A last line that was cut off is left out and noted; other lines that mean nothing are
/// counted.
pub fn read(path: &Path) -> Result<Transcript, TranscriptError> {
    let failed = |source| TranscriptError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(TranscriptError::TooLarge { path: path.to_owned(), bytes, limit: MAX_BYTES });
    }
    let mut lines = BufReader::new(file.take(MAX_BYTES));
    let mut transcript = Transcript::default();
    let mut line = Vec::new();
    let mut first = true;
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let whole = line.last() == Some(&b'\n');
        let record = serde_json::from_slice::<Line>(&line).map(|l| l.record);
        if first {
            first = false;
            let Ok(Record::Header(header)) = record else {
                return Err(TranscriptError::NoHeader { path: path.to_owned() });
            };
            if header.version > VERSION {
                let (found, supported) = (header.version, VERSION);
                return Err(TranscriptError::Version { path: path.to_owned(), found, supported });
            }
            transcript.header = header;
            continue;
        }
        match record {
            Ok(record) => transcript.apply(record),
            Err(_) if !whole => transcript.torn = true,
            Err(_) => transcript.skipped += 1,
        }
    }
    if first { Err(TranscriptError::NoHeader { path: path.to_owned() }) } else { Ok(transcript) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        r#"{"time":"t","type":"header","version":1,"program":"wayinfer 0","system":null,"sampling":{}}"#;

    fn read_text(text: &str) -> Result<Transcript, TranscriptError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn lines(records: &[&str]) -> String {
        let records = records.iter().map(|record| format!("{{\"time\":\"t\",{record}}}"));
        std::iter::once(HEADER.to_owned()).chain(records).map(|line| line + "\n").collect()
    }

    #[test]
    fn a_reply_that_was_cut_off_is_put_together_from_its_pieces() {
        let t = read_text(&lines(&[
            r#""type":"user","id":1,"text":"Hi""#,
            r#""type":"partial","id":2,"text":"Hel""#,
            r#""type":"partial","id":2,"text":"lo""#,
        ]))
        .unwrap();
        assert_eq!(t.entries.len(), 2);
        assert_eq!(t.entries[1].message, Message { role: Role::Assistant, content: "Hello".into() });
        assert_eq!(t.entries[1].stop, None);
    }

    #[test]
    fn a_finished_reply_stands_in_place_of_its_pieces() {
        let t = read_text(&lines(&[
            r#""type":"partial","id":2,"text":"Hel""#,
            r#""type":"reply","id":2,"text":"Hello!","stop":"end_of_turn","tokens":3,"seconds":1.5"#,
        ]))
        .unwrap();
        assert_eq!(t.entries.len(), 1);
        assert_eq!(t.entries[0].message.content, "Hello!");
        assert_eq!(t.entries[0].stop.as_deref(), Some("end_of_turn"));
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_noted_wherever_it_was_cut() {
        let whole = lines(&[r#""type":"user","id":1,"text":"One ä""#, r#""type":"user","id":2,"text":"Two ö""#]);
        let second = whole.trim_end().rfind('\n').unwrap() + 1;
        for cut in second + 1..whole.len() - 1 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.jsonl");
            std::fs::write(&path, &whole.as_bytes()[..cut]).unwrap();
            let t = read(&path).unwrap();
            assert_eq!(t.entries.len(), 1, "cut at {cut}");
            assert!(t.torn, "cut at {cut}");
        }
    }

    #[test]
    fn a_record_of_a_newer_program_is_counted_and_skipped() {
        let t = read_text(&lines(&[r#""type":"hologram","id":1"#, r#""type":"user","id":2,"text":"Hi""#])).unwrap();
        assert_eq!((t.entries.len(), t.skipped, t.torn), (1, 1, false));
    }

    #[test]
    fn dropped_and_withdrawn_messages_stay_but_are_not_sent() {
        let t = read_text(&lines(&[
            r#""type":"user","id":1,"text":"old""#,
            r#""type":"user","id":2,"text":"lost""#,
            r#""type":"user","id":3,"text":"new""#,
            r#""type":"dropped","ids":[1]"#,
            r#""type":"withdrawn","id":2"#,
        ]))
        .unwrap();
        assert_eq!(t.entries.len(), 3);
        assert_eq!(t.messages(), [Message { role: Role::User, content: "new".into() }]);
    }

    #[test]
    fn a_message_clears_the_draft_before_it_and_a_later_draft_stays() {
        let sent = [r#""type":"draft","text":"half""#, r#""type":"user","id":1,"text":"half a thought""#];
        assert_eq!(read_text(&lines(&sent)).unwrap().draft, None);
        let kept = [sent[0], sent[1], r#""type":"draft","text":"more""#];
        assert_eq!(read_text(&lines(&kept)).unwrap().draft.as_deref(), Some("more"));
    }

    #[test]
    fn what_is_not_a_transcript_is_refused_by_name() {
        assert!(matches!(read_text(""), Err(TranscriptError::NoHeader { .. })));
        assert!(matches!(read_text("GGUF\0\0\0\n"), Err(TranscriptError::NoHeader { .. })));
        let newer = HEADER.replace("\"version\":1", "\"version\":2");
        assert!(matches!(read_text(&newer), Err(TranscriptError::Version { found: 2, .. })));
        let absent = read(Path::new("/nowhere/at/all.jsonl")).unwrap_err().to_string();
        assert!(absent.contains("/nowhere/at/all.jsonl"), "{absent}");
    }
}
