//! The panel on the screen: zoomed in, collapsed, of any size, and with a token of the conversation.

use std::sync::Arc;

use ratatui::style::Color;

use super::screens::{SIZES, check, draw, reading, talk, text};
use super::*;
use crate::telemetry::ExpertMap;

#[test]
fn a_layer_and_a_token_are_zoomed_into() {
    let mut d = talk();
    draw(&mut d, &reading(), (120, 40));
    for key in ["F5", "Left", "Left", "Enter"] {
        d.press(key);
    }
    check("token", &mut d, &reading());
    draw(&mut d, &reading(), (120, 40));
    d.press("Esc");
    for key in ["Up", "Up", "Enter", "Left", "j"] {
        d.press(key);
    }
    check("layer", &mut d, &reading());
    draw(&mut d, &reading(), (120, 40));
    d.press("F5");
    d.type_text("typed");
    assert_eq!(d.app.composer.text(), "typed", "the keys go to the conversation again");
}

#[test]
fn the_compact_panel_and_sections_collapsed_frozen_and_alone() {
    let mut d = talk();
    draw(&mut d, &reading(), (120, 40));
    d.press("F2");
    check("compact", &mut d, &reading());
    draw(&mut d, &reading(), (120, 40));
    for key in ["F2", "F2", "F5", "c", "f"] {
        d.press(key);
    }
    let shown = text(&draw(&mut d, &Snapshot::default(), (120, 40)));
    assert!(shown.contains("+ tokens") && shown.contains("frozen") && shown.contains("6.00 GiB"), "{shown}");
    for key in ["f", "c", "x"] {
        d.press(key);
    }
    let shown = text(&draw(&mut d, &reading(), (120, 40)));
    assert!(shown.contains("tokens ─") && !shown.contains("memory ─"), "{shown}");
}

#[test]
fn every_zoom_and_preset_can_be_drawn_at_every_size() {
    let mut d = talk();
    draw(&mut d, &reading(), (120, 40));
    d.press("F5");
    for key in ["x", "x", "Enter", "x", "p", "p", "p", "Esc", "Esc", "F5", "Up", "Enter", "PgDn", "End"] {
        d.press(key);
        for columns in (78..130).step_by(9).chain([500]) {
            for rows in (4..40).step_by(3).chain([200]) {
                draw(&mut d, &reading(), (columns, rows));
            }
        }
    }
}

#[test]
fn a_map_of_any_shape_can_be_drawn() {
    let mut d = talk();
    for (layers, experts) in [(0, 0), (1, 1), (28, 1), (200, 1), (2, 4), (61, 384), (300, 1000)] {
        let experts = Some(Arc::new(ExpertMap::new(layers, experts)));
        let snapshot = Snapshot { experts, ..reading() };
        for size in SIZES {
            draw(&mut d, &snapshot, size);
        }
    }
}

#[test]
fn the_map_shows_residency_by_hue_and_recency_by_brightness() {
    let map = ExpertMap::new(2, 4);
    map.set_resident(0, 0, Some(1.0));
    map.set_resident(0, 1, Some(0.0));
    map.set_resident(1, 0, Some(1.0));
    map.mark_used(0, 0, 1000, 1);
    let snapshot = Snapshot { experts: Some(Arc::new(map)), ..reading() };
    let mut d = talk();
    let buffer = draw(&mut d, &snapshot, (120, 40));
    let title = (0..40).find(|&y| {
        let row: String = (0..120).map(|x| buffer[(x, y)].symbol()).collect();
        row.contains("experts ─")
    });
    let (x, y) = (75, title.unwrap() + 1);
    let cell = |column: u16| &buffer[(x + 4 * column, y)];
    let brightness = |color: Color| match color {
        Color::Rgb(r, g, b) => u32::from(r) + u32::from(g) + u32::from(b),
        other => panic!("{other:?}"),
    };
    let theme = &d.app.theme;
    let color = |share, heat| theme.map_color(share, heat).unwrap();
    use crate::tui::theme::Heat;
    assert_eq!(cell(0).symbol(), "▀");
    assert_eq!(cell(0).fg, color(Some(1.0), Heat::NOW));
    assert_eq!(cell(0).bg, color(Some(1.0), Heat::NEVER));
    assert!(brightness(cell(0).fg) > 2 * brightness(cell(0).bg));
    assert_eq!(cell(1).fg, color(Some(0.0), Heat::NEVER));
    assert_eq!(cell(2).fg, color(None, Heat::NEVER));
}

/// A reply whose words were read by the passes from `first` on, the last by none yet.
fn say(d: &mut Driver, first: u64, words: &[&str]) {
    for (word, pass) in words.iter().zip(first..) {
        d.worker(Event::Text { text: (*word).into(), pass: Some(pass) });
    }
    d.finish(StopReason::EndOfTurn);
}

#[test]
fn a_token_of_the_conversation_is_looked_at_with_what_it_cost() {
    let mut d = Driver::asked("Where do the experts live?");
    draw(&mut d, &reading(), (120, 40));
    assert_eq!(names(&d.press("F7")), [""; 0]);
    assert!(d.app.notice().unwrap().starts_with("No token to look at"), "{:?}", d.app.notice());
    say(&mut d, 33, &["On", " the", " **SSD**", ", mostly", ".\n\n- In", " memory", " now and then", "."]);
    d.press("F7");
    assert_eq!(d.app.notice(), None, "it would stand in the token's place");
    // Forty passes were made: the last word waits to be read.
    assert_eq!((d.app.panel.token, d.app.context()), (Some(39), Context::Tokens));
    d.press("Home");
    d.press("Right");
    d.press("Right");
    d.press("Enter");
    assert_eq!(d.app.panel.token, Some(35));
    check("tokens", &mut d, &reading());
    // The last size has no room for the panel.
    d.press("F5");
    assert_eq!(d.app.context(), Context::Tokens);
    draw(&mut d, &reading(), (120, 40));
    d.press("Esc");
    assert_eq!((d.app.panel.zoom, d.app.context()), (None, Context::Tokens));
    // The panel goes on with the same token, and back.
    d.press("F5");
    assert_eq!((d.app.panel.token, d.app.context()), (Some(35), Context::Panel));
    d.press("Left");
    assert_eq!(d.app.conversation.token().unwrap().text, " the");
    d.press("F7");
    assert_eq!((d.app.panel.token, d.app.context()), (Some(34), Context::Tokens));
    d.press("Esc");
    assert_eq!((d.app.panel.token, d.app.context()), (None, Context::Chat));
    assert_eq!(d.app.conversation.token(), None);
}

#[test]
fn tokens_stay_with_their_reply_through_branches_and_end_with_their_model() {
    let mut d = Driver::asked("Hi");
    draw(&mut d, &reading(), (120, 40));
    say(&mut d, 3, &["one", " two"]);
    d.press("Alt+r");
    say(&mut d, 9, &["other", " words"]);
    d.press("Alt+p");
    d.press("F7");
    assert_eq!(d.app.conversation.token().unwrap().text, " two");
    d.press("Esc");
    d.press("Alt+n");
    d.press("F7");
    assert_eq!(d.app.conversation.token().unwrap().text, " words");
    // Another model numbers its passes anew.
    d.worker(Event::Loaded(summary()));
    assert_eq!((d.app.context(), d.app.panel.token, d.app.conversation.token()), (Context::Chat, None, None));
    d.press("F7");
    assert_eq!(d.app.context(), Context::Chat);
}

#[test]
fn the_expert_of_a_layer_and_those_of_a_token_are_pinned_and_let_go() {
    let mut d = Driver::asked("Hi");
    let reading = reading();
    draw(&mut d, &reading, (120, 40));
    say(&mut d, 3, &["one", " two"]);
    d.press("F5");
    assert!(names(&d.press("Up")).is_empty());
    // What the keys go to has no expert.
    assert_eq!(names(&d.press("m")), [""; 0]);
    assert!(d.app.notice().unwrap().starts_with("Zoom into a layer"), "{:?}", d.app.notice());
    d.press("Up");
    for key in ["Enter", "Right", "Right", "Down", "PgDn", "Down", "Up", "Down"] {
        d.press(key);
    }
    assert_eq!(names(&d.press("m")), ["pin [(2, 10)] true"]);
    let map = reading.experts.clone().unwrap();
    map.set_pinned(2, 10, true);
    let shown = text(&draw(&mut d, &reading, (120, 40)));
    assert!(shown.contains("  10* "), "{shown}");
    assert_eq!(names(&d.press("m")), ["pin [(2, 10)] false"]);
    d.press("End");
    assert_eq!(names(&d.press("m")), ["pin [(2, 127)] true"]);
    assert!(text(&draw(&mut d, &reading, (120, 40))).contains(" 127 "));
    // A token's experts, of all layers.
    d.press("F7");
    let effects = d.press("m");
    let [Effect::Pin(order)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((order.experts.len(), order.is_to_stay), (48 * 8, true));
    let log = reading.tokens.as_ref().unwrap();
    assert_eq!(order.experts[8..16].to_vec(), log.choices(4, 1).iter().map(|c| (1, c.expert)).collect::<Vec<_>>());
    assert!(
        d.app.notice().unwrap().contains("Kept in memory where there is room: the token's 384 experts"),
        "{:?}",
        d.app.notice()
    );
    order.experts.iter().for_each(|&(layer, expert)| map.set_pinned(layer, expert, true));
    assert!(matches!(&d.press("m")[..], [Effect::Pin(order)] if !order.is_to_stay));
    d.worker(Event::PinRefused("no room to pin more".into()));
    assert_eq!(d.app.notice(), Some("no room to pin more"));
}
