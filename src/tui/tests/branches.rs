//! Commands, branches, conversations and what is looked for, without a terminal or an engine.

use super::*;
use crate::transcript::library::Listed;
use crate::transcript::{Header, Transcript};
use crate::tui::app::{Answer, Work};
use crate::tui::commands::COMMANDS;
use crate::tui::session_list::Mode;

impl Driver {
    /// Types a line and sends it.
    fn say(&mut self, text: &str) -> Vec<String> {
        self.type_text(text);
        names(&self.press("Enter"))
    }

    /// Sends a message and lets it be answered.
    fn turn(&mut self, question: &str, answer: &str) {
        self.say(question);
        self.text(answer);
        self.finish(StopReason::EndOfTurn);
    }

    /// The messages shown, with their marks.
    fn shown(&self) -> Vec<String> {
        let items = self.app.conversation.items().iter().filter(|item| item.id > 0);
        items.map(|item| format!("{}{}", item.raw, item.mark)).collect()
    }

    fn notice(&self) -> &str {
        self.app.notice().unwrap_or_default()
    }
}

#[test]
fn a_retried_reply_stands_beside_the_first_and_both_can_be_gone_on_with() {
    let mut d = Driver::ready();
    d.turn("Hi", "one");
    assert_eq!(d.say("/retry"), ["generate u:Hi"]);
    assert_eq!(d.shown(), ["Hi", "‹2/2›"]);
    d.text("two");
    assert_eq!(names(&d.finish(StopReason::EndOfTurn)), ["save reply 3 two end_of_turn"]);
    assert_eq!(d.shown(), ["Hi", "two‹2/2›"]);
    d.turn("More", "three");
    assert_eq!(d.shown(), ["Hi", "two‹2/2›", "More", "three"]);
    assert_eq!(names(&d.press("Alt+P")), ["save branch Some(2)"]);
    assert_eq!(d.shown(), ["Hi", "one‹1/2›"]);
    d.type_text("Other");
    assert_eq!(names(&d.press("Enter")), ["save user 6 Other", "generate u:Hi|a:one|u:Other"]);
    d.text("four");
    d.finish(StopReason::EndOfTurn);
    // Back on the other branch, all of it is there, up to its end.
    assert_eq!(d.say("/branch 2"), ["save branch Some(5)"]);
    assert_eq!(d.shown(), ["Hi", "two‹2/2›", "More", "three"]);
    assert_eq!(d.say("/branch"), ["save branch Some(7)"]);
    assert_eq!(names(&d.press("Alt+N")), ["save branch Some(5)"]);
    assert_eq!(d.say("/branch 9"), [""; 0]);
    assert_eq!((d.notice(), d.app.composer.text().as_str()), ("There are 2 branches here", "/branch 9"));
}

#[test]
fn a_message_put_otherwise_begins_a_branch() {
    let mut d = Driver::ready();
    d.turn("first", "1");
    d.turn("second", "2");
    d.press("Alt+E");
    assert_eq!((d.app.composer.text().as_str(), d.app.editing), ("second", Some(3)));
    d.press("Alt+E");
    assert_eq!((d.app.composer.text().as_str(), d.app.editing), ("first", Some(1)));
    d.type_text("!");
    d.press("Alt+E");
    assert_eq!(d.app.composer.text(), "first!");
    assert_eq!(names(&d.press("Enter")), ["save user 5 first!", "generate u:first!"]);
    d.text("11");
    d.finish(StopReason::EndOfTurn);
    assert_eq!(d.shown(), ["first!‹2/2›", "11"]);
    d.press("Alt+P");
    assert_eq!(d.shown(), ["first‹1/2›", "1", "second", "2"]);
    // Written anew from an empty line, it is still that message put otherwise.
    d.say("/edit 2");
    assert_eq!(d.app.editing, Some(1));
    d.press("Ctrl+U");
    assert_eq!(d.say("third"), ["save user 7 third", "generate u:third"]);
    d.text("111");
    d.finish(StopReason::EndOfTurn);
    assert_eq!((d.app.editing, d.shown()), (None, vec!["third‹3/3›".into(), "111".into()]));
    // Sent empty, it stays.
    d.say("/edit");
    d.press("Ctrl+U");
    assert!(d.press("Enter").is_empty());
    assert_eq!((d.app.editing, d.notice()), (None, "The message stays as it was"));
    assert_eq!(d.say("fourth"), ["save user 9 fourth", "generate u:third|a:111|u:fourth"]);
}

#[test]
fn a_branch_that_comes_to_nothing_leaves_everything_as_it_was() {
    let mut d = Driver::ready();
    d.turn("Hi", "one");
    d.say("/retry");
    d.press("Esc");
    assert_eq!(names(&d.finish(StopReason::Cancelled)), [""; 0]);
    assert_eq!(d.shown(), ["Hi", "one"]);
    d.say("/retry");
    d.worker(Event::ContextFull { needed: 9, capacity: 4, droppable_turns: None });
    assert_eq!((names(&d.press("Esc")), d.shown()), (vec![], vec!["Hi".into(), "one".into()]));
    d.say("/edit");
    d.type_text("!");
    assert_eq!(names(&d.press("Enter"))[0], "save user 5 Hi!");
    assert_eq!(names(&d.finish(StopReason::Cancelled)), ["save withdrawn 5", "save branch Some(2)"]);
    assert_eq!((d.shown(), d.app.composer.text().as_str()), (vec!["Hi".into(), "one".into()], "Hi!"));
}

#[test]
fn a_stopped_reply_is_gone_on_with_and_becomes_one() {
    let mut d = Driver::ready();
    assert_eq!(d.say("/continue"), [""; 0]);
    d.press("Ctrl+U");
    d.say("Hi");
    d.text("Once upon");
    d.finish(StopReason::Cancelled);
    assert_eq!(d.say("/continue"), ["generate u:Hi|a:Once upon"]);
    d.text(" a time");
    assert_eq!(names(&d.pass(Duration::from_secs(2))), ["save part 2  a time"]);
    assert_eq!(names(&d.finish(StopReason::Cancelled)), ["save reply 2 Once upon a time cancelled"]);
    assert!(d.last().3.starts_with("80 tokens · 5.00 tok/s · stopped"), "{}", d.last().3);
    // Nothing more came: it is as it was.
    d.say("/continue");
    assert_eq!(names(&d.finish(StopReason::Cancelled)), [""; 0]);
    assert_eq!(
        (d.shown(), d.last().3),
        (vec!["Hi".into(), "Once upon a time".into()], "80 tokens · 5.00 tok/s · stopped".into())
    );
    d.say("/continue");
    d.worker(Event::ReplyFailed("no".into()));
    assert_eq!(d.shown(), ["Hi", "Once upon a time"]);
    d.say("/continue");
    d.finish(StopReason::EndOfTurn);
    assert_eq!(d.say("/continue"), [""; 0]);
    assert!(d.notice().contains("came to its end"));
}

#[test]
fn sampling_is_set_told_and_kept() {
    let mut d = Driver::ready();
    assert_eq!(d.say("/temp 0.25"), ["save settings None 0.25 null"]);
    assert_eq!(d.notice(), "The temperature is 0.25 from the next reply on");
    assert_eq!(d.say("/max-tokens 12"), ["save settings None 0.25 12"]);
    assert_eq!(d.say("/system Be kind."), ["save settings Some(\"Be kind.\") 0.25 12"]);
    d.type_text("Hi");
    let effects = d.press("Enter");
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Send(Command::Generate { messages, sampling, max_tokens: Some(12) })
        if messages[0].content == "Be kind." && sampling.temperature == 0.25))
    );
    d.text("ok");
    d.finish(StopReason::MaxTokens);
    for (line, why) in [
        ("/temp hot", "`hot` is no number"),
        ("/temp nan", "`nan` is no number"),
        ("/top-p 7", "top-p is 7, expected 0 to 1"),
        ("/top-k -3", "`-3` is no whole number"),
        ("/max-tokens 0", "at least 1"),
        ("/seed x", "no whole number, nor -"),
        ("/new now", "takes nothing behind it"),
    ] {
        assert_eq!(d.say(line), [""; 0], "{line}");
        assert!(d.notice().contains(why), "{line}: {}", d.notice());
        // What was typed is not lost.
        assert_eq!(d.app.composer.text(), line);
        d.press("Ctrl+U");
    }
    for line in ["/top-p 0.5", "/top-k 3", "/min-p 0", "/seed 4", "/seed -", "/max-tokens -", "/repeat-penalty 1.1"] {
        assert_eq!(d.say(line).len(), 1, "{line}");
        assert!(d.notice().contains("from the next reply on"), "{line}");
    }
    for line in ["/temp", "/top-p", "/top-k", "/min-p", "/seed", "/max-tokens", "/frequency-penalty"] {
        assert_eq!(d.say(line), [""; 0], "{line}");
        assert!(d.notice().contains(" is "), "{line}");
    }
}

#[test]
fn what_looks_like_a_command_and_is_none_stays_and_two_slashes_send_one() {
    let mut d = Driver::ready();
    assert_eq!(d.say("/usr/bin is full"), [""; 0]);
    assert!(d.notice().contains("There is no command /usr/bin"));
    assert_eq!(d.app.composer.text(), "/usr/bin is full");
    d.press("Home");
    d.type_text("/");
    assert_eq!(names(&d.press("Enter"))[0], "save user 1 /usr/bin is full");
    d.text("ok");
    d.type_text("//wait");
    d.press("Enter");
    d.press("Up");
    assert_eq!(d.app.composer.text(), "//wait");
    d.press("Enter");
    assert!(names(&d.finish(StopReason::EndOfTurn)).contains(&"save user 3 /wait".to_owned()));
    d.press("Up");
    assert_eq!(d.app.composer.text(), "//wait");
    d.press("Ctrl+U");
    d.say("/tepm 1");
    assert!(d.notice().contains("did you mean /temp?"));
}

#[test]
fn commands_are_completed_and_chosen_from() {
    let mut d = Driver::ready();
    d.type_text("/");
    assert_eq!(d.app.suggestions().unwrap().0.len(), COMMANDS.len());
    d.type_text("top");
    d.press("Down");
    d.press("Tab");
    assert_eq!(d.app.composer.text(), "/top-k ");
    d.press("Ctrl+U");
    // Enter completes what is not yet a command.
    d.type_text("/exp");
    d.press("Enter");
    assert_eq!(d.app.composer.text(), "/export ");
    d.press("Up");
    d.press("Up");
    d.press("Tab");
    assert_eq!(d.app.composer.text(), "/export json ");
    d.press("Ctrl+U");
    d.type_text("/retry\u{20}");
    assert!(d.app.suggestions().is_some());
    d.press("Ctrl+J");
    assert!(d.app.suggestions().is_none());
}

#[test]
fn while_a_reply_runs_the_conversation_is_not_changed_and_the_command_stays() {
    let mut d = Driver::asked("Hi");
    for line in ["/retry", "/continue", "/edit", "/branch", "/new", "/model", "/sessions", "/resume x"] {
        assert_eq!(d.say(line), [""; 0], "{line}");
        assert!(d.notice().contains("Esc stops it"), "{line}");
        assert_eq!(d.app.composer.text(), line);
        d.press("Ctrl+U");
    }
    assert_eq!(d.say("/temp 1").len(), 1);
}

fn listed(name: &str) -> Listed {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(r#"{{"messages":[{{"role":"user","content":"{name}"}}]}}"#);
    crate::transcript::library::import(dir.path(), &text).unwrap();
    crate::transcript::library::list(dir.path(), "").unwrap().remove(0)
}

#[test]
fn conversations_are_searched_opened_named_and_deleted_when_one_has_said_yes() {
    let mut d = Driver::ready();
    assert_eq!(names(&d.press("F4")), [r#"List { query: "" }"#]);
    let found = |query: &str| Answer::Listed { query: query.into(), found: Ok(vec![listed("alpha"), listed("beta")]) };
    d.tell(Msg::Answer(found("")));
    d.press("Down");
    assert_eq!(d.app.sessions.as_ref().unwrap().chosen, 1);
    d.type_text("a");
    // An answer to the question before comes late.
    d.tell(Msg::Answer(Answer::Listed { query: String::new(), found: Ok(vec![]) }));
    assert_eq!(d.app.sessions.as_ref().unwrap().rows().len(), 2);
    d.tell(Msg::Answer(found("a")));
    let path = d.app.sessions.as_ref().unwrap().chosen().unwrap().path.display().to_string();
    assert_eq!(names(&d.press("Enter")), [format!("open {path}")]);
    d.press("F2");
    d.press("Backspace");
    d.type_text("!");
    assert_eq!(names(&d.press("Enter")), [format!("Rename {{ path: {path:?}, title: \"alph!\" }}")]);
    assert_eq!(d.app.sessions.as_ref().unwrap().mode, Mode::Browse);
    d.press("Ctrl+D");
    assert!(d.app.confirm.is_some());
    assert_eq!(names(&d.press("n")), [""; 0]);
    d.press("Ctrl+D");
    assert_eq!(names(&d.press("y")), [format!("Delete {{ path: {path:?} }}")]);
    assert_eq!(names(&d.tell(Msg::Answer(Answer::Changed(Ok("gone".into()))))), [r#"List { query: "a" }"#]);
    d.press("Esc");
    assert!(d.app.sessions.is_none());
}

#[test]
fn another_conversation_begins_empty_and_an_earlier_one_comes_back_with_its_settings() {
    let mut d = Driver::ready();
    d.turn("Hi", "one");
    d.type_text("typed");
    d.press("Ctrl+U");
    assert_eq!(d.say("/new"), ["begin None", "save model Qwen3 30B A3B"]);
    assert!(d.app.conversation.is_empty());
    let mut t =
        Transcript::new(Header::new(Some("Be kind.".into()), serde_json::json!({"temperature": 0.5, "max_tokens": 7})));
    t.note(Record::User { id: 1, parent: None, text: "Where?".into() });
    t.note(Record::Partial { id: 2, parent: Some(1), text: "There".into() });
    t.note(Record::Draft { text: "draft".into() });
    d.type_text("typed");
    let now = d.now;
    d.app.change_session("/s/1.jsonl".into(), &t, now);
    assert_eq!((d.shown(), d.app.composer.text().as_str()), (vec!["Where?".into(), "There".into()], "typed\ndraft"));
    d.press("Ctrl+U");
    d.type_text("!");
    let effects = d.press("Enter");
    assert!(effects.iter().any(|e| matches!(e, Effect::Send(Command::Generate { sampling, max_tokens: Some(7), .. })
        if sampling.temperature == 0.5)));
    d.text("x");
    d.finish(StopReason::EndOfTurn);
    assert_eq!(d.say("/rename  A  name "), ["save title A name"]);
    d.say("/delete");
    assert_eq!(names(&d.press("y"))[0], "begin Some(\"/s/1.jsonl\")");
}

#[test]
fn a_model_is_changed_by_name_or_from_the_list_which_leads_back() {
    let mut d = Driver::ready();
    d.turn("Hi", "one");
    assert_eq!(d.say("/model"), ["scan /home/you/models"]);
    d.press("Esc");
    assert!(d.app.picker.is_none() && matches!(d.app.engine, Engine::Ready));
    assert_eq!(d.say("/model other"), [format!("{:?}", Work::FindModel("other".into()))]);
    d.tell(Msg::Answer(Answer::Model(Err("there is none".into()))));
    assert_eq!(d.last().2, "Error: there is none");
    assert_eq!(names(&d.tell(Msg::Answer(Answer::Model(Ok("/m/o.gguf".into()))))), ["load /m/o.gguf"]);
    d.worker(Event::Loaded(ModelSummary { name: "Other".into(), ..summary() }));
    assert_eq!(d.say("More"), ["save user 3 More", "generate u:Hi|a:one|u:More"]);
    d.text("two");
    d.finish(StopReason::EndOfTurn);
    let labels: Vec<&str> = d.app.conversation.items().iter().map(|item| item.label.as_str()).collect();
    assert_eq!(labels, ["you", "Qwen3 30B A3B", "", "you", "Other"]);
}

#[test]
fn an_earlier_prompt_is_found_by_its_letters_and_what_was_typed_is_not_lost() {
    let mut d = Driver::ready();
    d.app.know_prompts(&["Where do pages sleep?".into(), "another".into(), "Pages again".into()]);
    d.type_text("half");
    d.press("Ctrl+R");
    d.type_text("PAGES");
    assert_eq!(d.app.search.as_ref().unwrap().found, ["Pages again", "Where do pages sleep?"]);
    d.press("Ctrl+R");
    d.press("Enter");
    assert_eq!(d.app.composer.text(), "Where do pages sleep?");
    d.press("Ctrl+R");
    d.press("Enter");
    // What was there before is the latest of the earlier inputs.
    assert_eq!(d.app.composer.text(), "half");
    d.press("Ctrl+R");
    d.type_text("half");
    d.press("Backspace");
    assert_eq!(d.app.search.as_ref().unwrap().found, ["half"]);
    d.press("Esc");
    assert_eq!(d.app.composer.text(), "half");
}

#[test]
fn what_an_editor_made_of_the_input_comes_back_and_its_failure_changes_nothing() {
    let mut d = Driver::ready();
    d.type_text("draft");
    assert_eq!(names(&d.press("Ctrl+G")), ["edit draft"]);
    d.tell(Msg::Answer(Answer::Edited(Err("it fell over".into()))));
    assert_eq!(d.app.composer.text(), "draft");
    d.tell(Msg::Answer(Answer::Edited(Ok(Some("better\n\u{1b}[2J".into())))));
    assert_eq!(d.app.composer.text(), "better\n\u{241b}[2J");
}
