//! Going from token to token of the replies; the panel shows what the one that is looked at cost, and which experts it took.

use std::time::Instant;

use crate::worker::PinOrder;

use super::super::conversation::Walk;
use super::super::keys::Action;
use super::super::panel::Zoom;
use super::super::picture::Shows;
use super::{App, Effect};

impl App {
    /// Begins to go from token to token, with the one that the panel looks at if any, or ends it.
    pub(super) fn walk_tokens(&mut self, now: Instant) {
        if self.panel.in_text {
            return self.look_at_no_token();
        }
        self.panel.in_text = self.conversation.enter_tokens(self.passes().unwrap_or(0));
        if self.panel.in_text {
            // What was told before would stand in the token's place.
            self.notice = None;
            self.panel.focus = None;
            self.follow_token();
        } else {
            self.notify("No token to look at: those of replies are known once this model has read them", now);
        }
    }

    pub(super) fn act_in_tokens(&mut self, action: Action, now: Instant) -> Vec<Effect> {
        let is_zoomed = self.panel.zoom.is_some() && self.shows_panel();
        let way = match action {
            Action::PageUp | Action::PageDown if is_zoomed => {
                self.panel.scroll(if action == Action::PageUp { -8 } else { 8 });
                return Vec::new();
            }
            Action::Previous => Walk::Token(-1),
            Action::Next => Walk::Token(1),
            Action::Up => Walk::Row(-1),
            Action::Down => Walk::Row(1),
            Action::First => Walk::First,
            Action::Last => Walk::Last,
            Action::PageUp => Walk::Reply(-1),
            Action::PageDown => Walk::Reply(1),
            Action::Choose => {
                self.panel.show();
                if self.panel_fits {
                    self.panel.zoom = if is_zoomed { None } else { Some(Zoom::Token) };
                    self.panel.top = 0;
                }
                self.note_room(now);
                return Vec::new();
            }
            Action::Close if is_zoomed => {
                self.panel.zoom = None;
                return Vec::new();
            }
            Action::Close | Action::WalkTokens => {
                self.look_at_no_token();
                return Vec::new();
            }
            Action::Freeze => {
                self.panel.toggle_frozen(&self.gauges);
                return Vec::new();
            }
            Action::TogglePanel => {
                self.toggle_panel(now);
                return Vec::new();
            }
            Action::FocusPanel => {
                if self.panel_fits {
                    self.panel.in_text = false;
                    self.focus_panel(now);
                } else {
                    self.note_room(now);
                }
                return Vec::new();
            }
            Action::Pin => return self.pin(now),
            Action::SavePicture => return vec![Effect::SavePicture(Shows::Panel)],
            Action::SaveScreen => return vec![Effect::SavePicture(Shows::Screen)],
            _ => return Vec::new(),
        };
        self.notice = None;
        self.conversation.walk(way, self.passes().unwrap_or(0));
        self.follow_token();
        Vec::new()
    }

    /// Has what the panel or the token is about stay in memory; where all of it does, lets it leave again.
    pub(super) fn pin(&mut self, now: Instant) -> Vec<Effect> {
        let Some(map) = self.gauges.snapshot.experts.as_ref() else { return Vec::new() };
        if self.model.as_ref().is_none_or(|model| model.n_experts == 0) {
            self.notify("The model has no experts to keep in memory", now);
            return Vec::new();
        }
        let is_there = |&(layer, expert): &(usize, usize)| layer < map.n_layers() && expert < map.n_experts();
        let experts: Vec<_> = self.panel.experts(&self.gauges).into_iter().filter(is_there).collect();
        let is_to_stay = experts.iter().any(|&(layer, expert)| !map.is_pinned(layer, expert));
        let named = match experts[..] {
            [] => {
                self.notify("Zoom into a layer or choose a token: its experts can be kept in memory", now);
                return Vec::new();
            }
            [(layer, expert)] => format!("expert {expert} of layer {layer}"),
            _ => format!("the token's {} experts", experts.len()),
        };
        let told = if is_to_stay { "Kept in memory where there is room" } else { "Free to leave memory again" };
        self.notify(format!("{told}: {named}"), now);
        vec![Effect::Pin(PinOrder { experts, is_to_stay })]
    }

    /// The passes of single tokens that the engine has made, where it counts them.
    fn passes(&self) -> Option<u64> {
        self.gauges.snapshot.tokens.as_ref().map(|log| log.n_tokens())
    }

    /// What was said and not read so far is not known to be read later.
    pub(super) fn end_passes(&mut self) {
        if let Some(n) = self.passes() {
            self.conversation.end_passes(n);
            self.check_token();
        }
    }

    /// The numbers of tokens are another model's.
    pub(super) fn forget_tokens(&mut self) {
        self.conversation.forget_tokens();
        self.panel.token = None;
        self.check_token();
    }

    /// The conversation has changed: the token that was looked at may be gone.
    pub(super) fn check_token(&mut self) {
        if self.panel.in_text && self.conversation.token().is_none() {
            self.look_at_no_token();
        }
    }

    fn follow_token(&mut self) {
        self.panel.token = self.conversation.token().map(|token| token.pass);
    }

    pub(super) fn look_at_no_token(&mut self) {
        self.panel.in_text = false;
        self.panel.token = None;
        if self.panel.zoom == Some(Zoom::Token) {
            self.panel.zoom = None;
        }
        self.conversation.choose_token(None);
    }
}
