//! What the engine and the disk say while a reply is due: a full context, warnings, failures, the end of the engine itself.

use super::*;

#[test]
fn a_full_context_asks_and_drops_the_oldest_turns_when_told() {
    let mut d = Driver::asked("one");
    d.text("1");
    d.finish(StopReason::EndOfTurn);
    d.type_text("two");
    d.press("Enter");
    d.worker(Event::ContextFull { needed: 5210, capacity: 4096, droppable_turns: Some(1) });
    assert!(d.app.dialog.is_some());
    d.type_text("x");
    assert_eq!(d.app.composer.text(), "");
    assert_eq!(names(&d.press("d")), ["save dropped [1, 2]", "generate u:two"]);
    let standings: Vec<Standing> = d.app.conversation.items().iter().map(|i| i.standing).collect();
    assert_eq!(standings[..3], [Standing::Dropped, Standing::Dropped, Standing::Sent]);
    assert!(d.app.is_busy());
}

#[test]
fn a_full_context_can_be_left_as_it_is() {
    for droppable_turns in [Some(1), None, Some(0)] {
        let mut d = Driver::asked("one");
        d.type_text("two");
        d.press("Tab");
        d.worker(Event::ContextFull { needed: 5210, capacity: 4096, droppable_turns });
        assert_eq!(names(&d.press("Esc")), ["save withdrawn 1"]);
        assert_eq!(d.last().1, Standing::Withdrawn);
        assert_eq!(d.app.composer.text(), "two");
        assert!(d.app.dialog.is_none() && !d.app.is_busy());
    }
}

#[test]
fn pieces_of_a_reply_are_saved_about_once_a_second() {
    let mut d = Driver::asked("Hi");
    d.text("one ");
    assert_eq!(names(&d.pass(Duration::from_millis(500))), [""; 0]);
    d.text("two ");
    assert_eq!(names(&d.pass(Duration::from_millis(600))), ["save part 2 one two "]);
    assert_eq!(names(&d.pass(Duration::from_secs(2))), [""; 0]);
    d.text("three");
    assert_eq!(names(&d.pass(Duration::from_secs(2))), ["save part 2 three"]);
}

#[test]
fn a_warning_before_the_first_word_stands_before_the_reply() {
    let mut d = Driver::asked("Hi");
    let warning = || Event::Warning("no chat template".into());
    d.worker(warning());
    d.worker(warning());
    d.text("Hello");
    d.worker(warning());
    let kinds: Vec<Kind> = d.app.conversation.items().iter().map(|i| i.kind).collect();
    assert_eq!(kinds, [Kind::User, Kind::Warning, Kind::Warning, Kind::Reply, Kind::Warning]);
    d.finish(StopReason::EndOfTurn);
    assert_eq!(d.app.conversation.items()[3].raw, "Hello");
}

#[test]
fn an_engine_that_dies_is_told_and_loses_no_text() {
    let mut d = Driver::asked("Hi");
    d.text("Half a");
    d.type_text("next");
    assert_eq!(names(&d.press("Enter")), ["save draft next"]);
    d.tell(Msg::Panicked("`engine` panicked: oh".into()));
    assert_eq!(names(&d.tell(Msg::WorkerGone)), ["save reply 2 Half a cancelled"]);
    assert_eq!(d.app.composer.text(), "next");
    assert_eq!(d.last().0, Kind::Error);
    assert_eq!(names(&d.press("Enter")), [""; 0]);
    assert_eq!(d.app.composer.text(), "next");
    let effects = names(&d.press("Ctrl+C"));
    assert_eq!(effects, [""; 0]);
    // The draft is in the file since it was queued.
    assert_eq!(names(&d.press("Ctrl+C"))[0], "cancel");
}

#[test]
fn trouble_with_saving_is_shown_and_its_end_too() {
    let mut d = Driver::asked("Hi");
    d.tell(Msg::Transcript(Status::Created("/s/1.jsonl".into())));
    d.tell(Msg::Transcript(Status::Failing("no space left".into())));
    d.tell(Msg::Transcript(Status::Recovered));
    let texts: Vec<&str> = d.app.conversation.items().iter().map(|i| i.raw.as_str()).collect();
    assert!(texts[1].contains("no space left"), "{texts:?}");
    assert_eq!(texts[2], "The conversation is saved again.");
    assert_eq!(d.app.conversation.items().last().unwrap().kind, Kind::Reply);
}

#[test]
fn events_that_belong_to_no_reply_are_taken_calmly() {
    let mut d = Driver::ready();
    d.text("stray");
    d.finish(StopReason::EndOfTurn);
    d.worker(Event::ContextFull { needed: 1, capacity: 1, droppable_turns: None });
    assert!(d.app.conversation.is_empty() && d.app.dialog.is_none());
    d.worker(Event::ReplyFailed("stray".into()));
    assert_eq!(d.last().0, Kind::Error);
}

#[test]
fn a_model_that_cannot_be_opened_leads_to_the_list_with_the_reason() {
    let mut d = Driver::loading();
    d.type_text("early");
    d.press("Enter");
    let failed = Event::LoadFailed { path: "/m/model.gguf".into(), error: "it is not a GGUF file".into() };
    assert_eq!(names(&d.worker(failed)), ["scan /home/you/models"]);
    assert_eq!(d.app.picker.as_ref().unwrap().error.as_deref(), Some("model.gguf: it is not a GGUF file"));
    assert_eq!(d.app.composer.text(), "early");
}

#[test]
fn the_temperature_of_the_model_in_the_binary_stays_with_it_and_one_that_was_set_stays() {
    let now = Instant::now();
    let own = |path: &str| Event::Loaded(ModelSummary { path: path.into(), ..summary() });
    let temperature = |d: &mut Driver| {
        d.type_text("/temp");
        d.press("Enter");
        d.app.notice().unwrap().to_owned()
    };
    let options = ChatOptions { embedded: Some("/c/demo.gguf".into()), ..ChatOptions::new("/m".into()) };
    let mut d = Driver { app: App::new(options, Theme::dark(ColorDepth::True), now).0, now };
    d.app.picker = None;
    d.worker(own("/c/demo.gguf"));
    assert_eq!(temperature(&mut d), "The temperature is 0.2");
    d.worker(own("/m/a.gguf"));
    assert_eq!(temperature(&mut d), "The temperature is 0.8");
    d.type_text("/temp 0.5");
    d.press("Enter");
    d.worker(own("/c/demo.gguf"));
    assert_eq!(temperature(&mut d), "The temperature is 0.5");
}
