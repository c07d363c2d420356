//! Reads a transcript back: a file of JSON lines in, the conversation out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Header, Line, Message, Record, Role, TranscriptError, VERSION};

/// No transcript of a person's making comes near this size.
const MAX_BYTES: u64 = 256 << 20;

/// A conversation as it was saved.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    pub header: Header,
    /// Every message, in the order in which they were said.
    pub entries: Vec<Entry>,
    /// What was typed but not sent.
    pub draft: Option<String>,
    /// What the person called it.
    pub title: Option<String>,
    /// The last line was cut off, as by a crash in the middle of a write.
    pub torn: bool,
    /// Other lines that could not be understood, for example of a newer program.
    pub skipped: usize,
    /// The model that was loaded last: its name, and the file it was in.
    model: Option<String>,
    model_path: Option<PathBuf>,
    /// Bytes of the file that are whole lines, or a last one that lacks nothing but its end.
    pub(super) whole_bytes: u64,
    /// Where in `entries` each number is.
    places: HashMap<u64, usize>,
    /// The numbers of the messages that follow each, in the order in which they were said.
    followers: HashMap<Option<u64>, Vec<u64>>,
    /// The message that the conversation goes on after.
    head: Option<u64>,
}

/// One message and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: u64,
    /// The message that it follows; `None` for the first.
    pub parent: Option<u64>,
    pub message: Message,
    /// When it was sent or finished; of a reply that was cut off, when it began. RFC 3339.
    pub time: String,
    /// The model that replied; `None` for the person's messages.
    pub model: Option<String>,
    /// What is known of a whole reply; `None` for the person's messages and for a reply that was cut off.
    pub figures: Option<Figures>,
    /// Shown, but no longer sent: the context was full.
    pub dropped: bool,
    /// Not answered, and not sent.
    pub withdrawn: bool,
}

/// How a reply ended, and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Why it ended.
    pub stop: String,
    /// Tokens generated, and in which time.
    pub tokens: usize,
    pub seconds: f64,
}

impl Transcript {
    /// A conversation in which nothing is said yet.
    pub fn new(header: Header) -> Transcript {
        Transcript { header, ..Transcript::default() }
    }

    /// The messages to send when the conversation goes on, after the system's.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.header.system.clone().map(|content| Message { role: Role::System, content });
        let unanswered = self.unanswered();
        let sent = self.path().into_iter().filter(|e| !e.dropped && Some(e.id) != unanswered);
        let said = sent.map(|e| e.message.clone());
        system.into_iter().chain(said).collect()
    }

    /// The conversation: from the first message to the last, by their parents. A message that was withdrawn leads nowhere.
    pub fn path(&self) -> Vec<&Entry> {
        let mut path = Vec::new();
        let mut at = self.head.and_then(|id| self.places.get(&id).copied());
        while let Some(i) = at {
            let entry = &self.entries[i];
            path.push(entry);
            // A parent was said before; a file that says otherwise leads in no circle.
            at = entry.parent.and_then(|id| self.places.get(&id).copied()).filter(|&parent| parent < i);
        }
        path.reverse();
        path
    }

    /// The person's last message, where the program ended before it was answered. It is not sent again by itself: templates
    /// want the speakers to alternate.
    pub fn unanswered(&self) -> Option<u64> {
        self.entries.last().filter(|e| e.message.role == Role::User && !e.withdrawn).map(|e| e.id)
    }

    /// The message that the conversation goes on after; `None` at its beginning.
    pub fn head(&self) -> Option<u64> {
        self.head
    }

    /// The message `id`.
    pub fn get(&self, id: u64) -> Option<&Entry> {
        self.places.get(&id).map(|&i| &self.entries[i])
    }

    /// The messages that follow `parent`, but for those that were withdrawn: each begins a branch.
    pub fn branches(&self, parent: Option<u64>) -> Vec<u64> {
        let all = self.followers.get(&parent).map_or(&[][..], Vec::as_slice);
        all.iter().copied().filter(|&id| self.get(id).is_some_and(|e| !e.withdrawn)).collect()
    }

    /// The end of the branch that `id` is on: the latest of what follows.
    pub fn end_of_branch(&self, id: u64) -> u64 {
        let mut at = id;
        // A follower was said later; a file that says otherwise leads in no circle.
        while let Some(&next) = self.branches(Some(at)).last()
            && self.places.get(&next) > self.places.get(&at)
        {
            at = next;
        }
        at
    }

    /// Takes a record as it is written, so that this stays what the file says.
    pub fn note(&mut self, record: Record) {
        self.apply(Line { time: String::new(), record });
    }

    /// The file of the model that was loaded last, wherever it is now.
    pub fn model_path(&self) -> Option<&Path> {
        self.model_path.as_deref()
    }

    /// What it is called: its title, or the beginning of its first message.
    pub fn name(&self) -> String {
        const LONGEST: usize = 80;
        let first = || self.entries.iter().find(|e| e.message.role == Role::User).map(|e| e.message.content.as_str());
        let text = self.title.as_deref().or_else(first).unwrap_or_default();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", words[..end].trim_end()),
            None => words,
        }
    }

    /// The number of the next message.
    pub fn next_id(&self) -> u64 {
        self.entries.iter().map(|e| e.id).max().map_or(1, |id| id.saturating_add(1))
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.places.get(&id).map(|&i| &mut self.entries[i])
    }

    /// The message `id`, which is added where it is new.
    fn add(&mut self, id: u64, parent: Option<u64>, role: Role, time: String) -> &mut Entry {
        let parent = match self.header.version {
            1 => self.entries.iter().rev().find(|e| !e.withdrawn).map(|e| e.id),
            _ => parent,
        };
        let i = *self.places.entry(id).or_insert_with(|| {
            let message = Message { role, content: String::new() };
            let model = self.model.clone().filter(|_| role == Role::Assistant);
            let (dropped, withdrawn) = (false, false);
            self.entries.push(Entry { id, parent, message, time, model, figures: None, dropped, withdrawn });
            self.followers.entry(parent).or_default().push(id);
            self.head = Some(id);
            self.entries.len() - 1
        });
        &mut self.entries[i]
    }

    fn apply(&mut self, Line { time, record }: Line) {
        match record {
            Record::Header(_) => {}
            Record::Model { name, path, .. } => (self.model, self.model_path) = (Some(name), Some(path.into())),
            Record::User { id, parent, text } => {
                self.draft = None;
                self.add(id, parent, Role::User, time).message.content = text;
            }
            Record::Partial { id, parent, text } => {
                self.add(id, parent, Role::Assistant, time).message.content.push_str(&text);
            }
            Record::Reply { id, parent, text, stop, tokens, seconds } => {
                let entry = self.add(id, parent, Role::Assistant, time.clone());
                entry.message.content = text;
                entry.time = time;
                entry.figures = Some(Figures { stop, tokens, seconds });
            }
            Record::Dropped { ids } => {
                for id in ids {
                    if let Some(entry) = self.entry(id) {
                        entry.dropped = true;
                    }
                }
            }
            Record::Withdrawn { id } => {
                let Some(entry) = self.entry(id) else { return };
                entry.withdrawn = true;
                let parent = entry.parent;
                if self.head == Some(id) {
                    self.head = parent;
                }
            }
            Record::Branch { id } if id.is_none_or(|id| self.places.contains_key(&id)) => self.head = id,
            Record::Branch { .. } => self.skipped += 1,
            Record::Settings { system, sampling } => {
                self.header.system = system;
                self.header.sampling = sampling;
            }
            Record::Title { text } => self.title = (!text.trim().is_empty()).then_some(text),
            Record::Draft { text } => self.draft = (!text.is_empty()).then_some(text),
        }
    }
}

/// Reads the transcript at `path`. A last line that was cut off is left out and noted; other lines that mean nothing are
/// counted.
pub fn read(path: &Path) -> Result<Transcript, TranscriptError> {
    let file = File::open(path).map_err(|source| TranscriptError::Read { path: path.to_owned(), source })?;
    read_file(&file, path)
}

/// Reads a transcript from where `file` stands.
pub(super) fn read_file(file: &File, path: &Path) -> Result<Transcript, TranscriptError> {
    let failed = |source| TranscriptError::Read { path: path.to_owned(), source };
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(TranscriptError::TooLarge { path: path.to_owned(), bytes, limit: MAX_BYTES });
    }
    let mut lines = BufReader::new(file.take(MAX_BYTES));
    let mut transcript = Transcript::default();
    let mut text = Vec::new();
    let mut first = true;
    loop {
        text.clear();
        let n = lines.read_until(b'\n', &mut text).map_err(failed)?;
        if n == 0 {
            break;
        }
        let line = serde_json::from_slice::<Line>(&text);
        let whole = text.last() == Some(&b'\n');
        if whole || line.is_ok() {
            transcript.whole_bytes += n as u64;
        }
        if first {
            first = false;
            let Ok(Line { record: Record::Header(header), .. }) = line else {
                return Err(TranscriptError::NoHeader { path: path.to_owned() });
            };
            if header.version > VERSION {
                let (found, supported) = (header.version, VERSION);
                return Err(TranscriptError::Version { path: path.to_owned(), found, supported });
            }
            transcript.header = header;
            continue;
        }
        match line {
            Ok(line) => transcript.apply(line),
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
        r#"{"time":"t","type":"header","version":2,"program":"wayinfer 0","system":null,"sampling":{}}"#;

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
        assert_eq!(t.entries[1].figures, None);
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
        assert_eq!(t.entries[0].figures.as_ref().unwrap().stop, "end_of_turn");
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
            r#""type":"user","id":2,"parent":1,"text":"lost""#,
            r#""type":"user","id":3,"parent":1,"text":"new""#,
            r#""type":"partial","id":4,"parent":3,"text":"answer""#,
            r#""type":"dropped","ids":[1]"#,
            r#""type":"withdrawn","id":2"#,
        ]))
        .unwrap();
        assert_eq!(t.entries.len(), 4);
        assert_eq!(t.messages().iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["new", "answer"]);
    }

    #[test]
    fn the_conversation_is_the_way_to_the_last_message_and_other_branches_stay() {
        let records = [
            r#""type":"model","name":"M","path":"m","quantization":"q""#,
            r#""type":"user","id":1,"parent":null,"text":"Hi""#,
            r#""type":"reply","id":2,"parent":1,"text":"one","stop":"end_of_turn","tokens":3,"seconds":1.5"#,
            r#""type":"reply","id":3,"parent":1,"text":"two","stop":"end_of_turn","tokens":3,"seconds":1.5"#,
            r#""type":"user","id":4,"parent":3,"text":"More""#,
        ];
        let t = read_text(&lines(&records)).unwrap();
        let ids = |t: &Transcript| t.path().iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!((ids(&t), t.entries.len(), t.next_id()), (vec![1, 3, 4], 4, 5));
        assert_eq!((t.entries[1].model.as_deref(), t.entries[0].model.as_deref()), (Some("M"), None));
        assert_eq!(t.unanswered(), Some(4));
        assert_eq!(t.messages().iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["Hi", "two"]);
        let t = read_text(&lines(&[&records[..], &[r#""type":"withdrawn","id":4"#]].concat())).unwrap();
        assert_eq!((ids(&t), t.unanswered()), (vec![1, 3], None));
    }

    #[test]
    fn parents_that_lead_in_a_circle_or_nowhere_end_the_way() {
        for (first, second) in [("2", "1"), ("1", "2"), ("7", "1"), ("null", "18446744073709551615")] {
            let t = read_text(&lines(&[
                &format!(r#""type":"user","id":1,"parent":{first},"text":"a""#),
                &format!(r#""type":"partial","id":2,"parent":{second},"text":"b""#),
            ]))
            .unwrap();
            assert!((1..=2).contains(&t.path().len()), "{first} {second}");
        }
    }

    #[test]
    fn a_file_of_version_1_is_one_line_of_messages() {
        let text = lines(&[
            r#""type":"user","id":1,"text":"lost""#,
            r#""type":"withdrawn","id":1"#,
            r#""type":"user","id":2,"text":"Hi""#,
            r#""type":"partial","id":3,"text":"Hel""#,
            r#""type":"reply","id":3,"text":"Hello","stop":"end_of_turn","tokens":1,"seconds":1"#,
            r#""type":"user","id":4,"text":"More""#,
        ]);
        let t = read_text(&text.replacen("\"version\":2", "\"version\":1", 1)).unwrap();
        assert_eq!(
            t.path().iter().map(|e| (e.id, e.parent)).collect::<Vec<_>>(),
            [(2, None), (3, Some(2)), (4, Some(3))]
        );
    }

    #[test]
    fn a_branch_is_gone_back_to_and_what_was_put_otherwise_follows_the_same_message() {
        let records = [
            r#""type":"user","id":1,"text":"Hi""#,
            r#""type":"partial","id":2,"parent":1,"text":"one""#,
            r#""type":"partial","id":3,"parent":1,"text":"two""#,
            r#""type":"user","id":4,"parent":3,"text":"More""#,
            r#""type":"branch","id":2"#,
            r#""type":"branch","id":77"#,
            r#""type":"title","text":"A name""#,
            r#""type":"settings","system":"Be kind.","sampling":{"top_k":3}"#,
        ];
        let t = read_text(&lines(&records)).unwrap();
        assert_eq!(t.path().iter().map(|e| e.id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((t.branches(Some(1)), t.branches(None), t.end_of_branch(3), t.skipped), (vec![2, 3], vec![1], 4, 1));
        assert_eq!((t.name().as_str(), t.header.system.as_deref()), ("A name", Some("Be kind.")));
        let back = [&records[..4], &[r#""type":"withdrawn","id":4"#, r#""type":"branch","id":null"#]].concat();
        let t = read_text(&lines(&back)).unwrap();
        assert_eq!((t.path().len(), t.head(), t.end_of_branch(3)), (0, None, 3));
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
        let newer = HEADER.replace("\"version\":2", "\"version\":3");
        assert!(matches!(read_text(&newer), Err(TranscriptError::Version { found: 3, .. })));
        let absent = read(Path::new("/nowhere/at/all.jsonl")).unwrap_err().to_string();
        assert!(absent.contains("/nowhere/at/all.jsonl"), "{absent}");
    }
}
