//! Folders of conversations, some of which are none.

use std::time::Duration;

use super::super::{TranscriptWriter, read};
use super::*;

fn keep(path: &Path, records: Vec<Record>) {
    let header = Header::new(Some("Be kind.".into()), serde_json::json!({ "top_k": 7 }));
    let writer = TranscriptWriter::resume(SessionFile::open(path).unwrap(), header).unwrap();
    records.into_iter().for_each(|record| writer.append(record));
    assert_eq!(writer.finish(Duration::from_secs(10)).error, None);
}

fn user(id: u64, parent: Option<u64>, text: &str) -> Record {
    Record::User { id, parent, text: text.into() }
}

fn reply(id: u64, parent: u64, text: &str) -> Record {
    let (text, stop) = (text.into(), "end_of_turn".into());
    Record::Reply { id, parent: Some(parent), text, stop, tokens: 3, seconds: 0.5 }
}

fn model(name: &str) -> Record {
    Record::Model { name: name.into(), path: "p".into(), quantization: "q".into() }
}

/// A conversation on two branches, with two models.
fn talk() -> Vec<Record> {
    vec![
        model("A"),
        user(1, None, "Where do pages\nsleep?"),
        reply(2, 1, "On the DISK, of course."),
        model("B"),
        reply(3, 1, "In the cache."),
        user(4, Some(3), "lost"),
        Record::Withdrawn { id: 4 },
        Record::Branch { id: Some(2) },
    ]
}

fn names(listed: &[Listed]) -> Vec<String> {
    listed.iter().map(Listed::name).collect()
}

#[test]
fn a_folder_is_listed_with_what_is_no_conversation_and_searched_without() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(list(&dir.join("absent"), "").unwrap(), []);
    keep(&dir.join("one.jsonl"), talk());
    keep(&dir.join("two.jsonl"), vec![user(1, None, "Something else"), Record::Title { text: "A title".into() }]);
    fs::write(dir.join("foreign.jsonl"), "dear diary\n").unwrap();
    fs::write(dir.join("empty.jsonl"), "").unwrap();
    fs::write(dir.join("notes.txt"), "pages").unwrap();
    fs::create_dir(dir.join("folder.jsonl")).unwrap();
    let all = list(dir, "").unwrap();
    assert_eq!(all.len(), 4);
    let one = all.iter().find(|l| l.id() == "one").unwrap().what.clone().unwrap();
    assert_eq!((one.name.as_str(), one.turns, one.models), ("Where do pages sleep?", 2, vec!["B".into(), "A".into()]));
    assert!(!Summary { time: one.time, ..Summary::of(&Transcript::default()) }.local_time().is_empty());
    let error = |id: &str| all.iter().find(|l| l.id() == id).unwrap().what.clone().unwrap_err();
    assert!(error("foreign").contains("not a transcript") && error("empty").contains("empty"));
    let found = list(dir, " disk, OF").unwrap();
    assert_eq!(
        (names(&found), found[0].excerpt.as_str()),
        (vec!["Where do pages sleep?".into()], "On the DISK, of course.")
    );
    assert_eq!(names(&list(dir, "a TITLE").unwrap()), ["A title"]);
    assert_eq!(list(dir, "diary").unwrap(), []);
}

#[test]
fn a_conversation_is_found_by_path_number_file_name_and_words_and_never_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    keep(&dir.join("20260101-1.jsonl"), vec![user(1, None, "Alpha beta")]);
    keep(&dir.join("20260101-2.jsonl"), vec![user(1, None, "Alpha gamma")]);
    let id = |name: &str| find(dir, name).map(|l| l.id());
    assert_eq!(id("20260101-1").unwrap(), "20260101-1");
    assert_eq!(id(dir.join("20260101-2.jsonl").to_str().unwrap()).unwrap(), "20260101-2");
    assert_eq!(id("GAMMA").unwrap(), "20260101-2");
    assert_eq!(id("alpha beta").unwrap(), "20260101-1");
    assert!(["20260101-1", "20260101-2"].contains(&id("1").unwrap().as_str()));
    for name in ["alpha", "2026"] {
        assert!(matches!(find(dir, name), Err(LibraryError::Ambiguous { .. })), "{name}");
    }
    for name in ["delta", "0", "9"] {
        assert!(matches!(find(dir, name), Err(LibraryError::Unknown { .. })), "{name}");
    }
}

#[test]
fn what_is_deleted_is_gone_with_its_cache_and_what_is_open_or_foreign_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.jsonl");
    keep(&path, talk());
    fs::write(dir.path().join("one.jsonl.kv"), "cache").unwrap();
    let held = SessionFile::open(&path).unwrap();
    assert!(matches!(delete(&path), Err(LibraryError::Transcript(TranscriptError::InUse { .. }))));
    assert!(matches!(rename(&path, "x"), Err(LibraryError::Transcript(TranscriptError::InUse { .. }))));
    drop(held);
    rename(&path, "Beds of pages").unwrap();
    assert_eq!(read(&path).unwrap().name(), "Beds of pages");
    delete(&path).unwrap();
    let foreign = dir.path().join("foreign.jsonl");
    fs::write(&foreign, "dear diary\n").unwrap();
    assert!(delete(&foreign).is_err() && rename(&foreign, "mine").is_err());
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "dear diary\n");
    assert!(
        delete(&dir.path().join("absent.jsonl")).is_err() && rename(&dir.path().join("absent.jsonl"), "x").is_err()
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_export_is_imported_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.jsonl");
    keep(&path, talk());
    rename(&path, "Beds of pages").unwrap();
    let before = read(&path).unwrap();
    let copy = import(dir.path(), &export(&before, Format::Json)).unwrap();
    let after = read(&copy).unwrap();
    assert_eq!((&after.entries, after.name(), after.head()), (&before.entries, before.name(), before.head()));
    assert_eq!((after.header.system.as_deref(), &after.header.sampling), (Some("Be kind."), &before.header.sampling));
    assert_eq!(after.path().iter().map(|e| e.id).collect::<Vec<_>>(), [1, 2]);
    let text = export(&before, Format::Markdown);
    assert!(text.starts_with("# Beds of pages\n") && text.contains("## System\n\nBe kind.\n"), "{text}");
    assert!(text.contains("## You\n\nWhere do pages\nsleep?\n\n## A\n\nOn the DISK, of course.\n"), "{text}");
    assert!(text.contains("1 messages on other branches"), "{text}");
}

#[test]
fn lists_of_messages_are_imported_and_what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let list = r#"[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"Hi"}]},
                   {"role":"assistant","content":"Hello"}]"#;
    for text in [list.to_owned(), format!(r#"{{"messages":{list},"title":"Greetings"}}"#)] {
        let t = read(&import(dir.path(), &text).unwrap()).unwrap();
        let said: Vec<&str> = t.path().iter().map(|e| e.message.content.as_str()).collect();
        assert_eq!((said, t.header.system.as_deref()), (vec!["Hi", "Hello"], Some("Be kind.")));
        assert_eq!(t.title.is_some(), text.contains("Greetings"));
    }
    let files = fs::read_dir(dir.path()).unwrap().count();
    let own = |messages: &str| format!(r#"{{"format":"wayinfer-conversation","version":1,"messages":[{messages}]}}"#);
    let said = |id: u64, parent: &str| format!(r#"{{"id":{id},"parent":{parent},"role":"user","content":"x"}}"#);
    for (text, why) in [
        ("nonsense".into(), "no JSON"),
        ("3".into(), "a single value"),
        ("{}".into(), "without `messages`"),
        ("[]".into(), "0 messages"),
        (r#"[{"role":"tool","content":"x"}]"#.into(), "message 1 has the role `tool`"),
        (r#"[{"role":"user","content":"x"},{"role":"user"}]"#.into(), "message 2 has no text"),
        (own("").replace("\"version\":1", "\"version\":9"), "version 9"),
        (own(""), "0 messages"),
        (own(&said(1, "7")), "message 1 has the number 1"),
        (own(&[said(1, "null"), said(1, "null")].join(",")), "message 2 has the number 1"),
    ] {
        let error = import(dir.path(), &text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), files);
}
