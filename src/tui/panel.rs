//! What the person made of the panel: how much of it is shown, which section the keys go to, which layer or token is
//! looked at. Keys in, state out; nothing here draws.

use super::gauges::Gauges;
use super::keys::Action;

/// A part of the panel that can be walked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Memory,
    Experts,
    Paging,
    Tokens,
    Disk,
    Speed,
}

impl Section {
    /// In the order in which they are drawn.
    pub const ALL: [Section; 6] =
        [Section::Memory, Section::Experts, Section::Paging, Section::Tokens, Section::Disk, Section::Speed];
}

/// How much of the panel is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    #[default]
    Full,
    /// The figures that matter most, in a narrow column, without the map.
    Compact,
    Off,
}

impl Preset {
    pub fn next(self) -> Preset {
        match self {
            Preset::Full => Preset::Compact,
            Preset::Compact => Preset::Off,
            Preset::Off => Preset::Full,
        }
    }
}

/// What stands in place of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zoom {
    /// The experts of a layer.
    Layer(usize),
    /// The experts of the selected token.
    Token,
}

#[derive(Debug, Default)]
pub struct Panel {
    pub preset: Preset,
    /// Where the keys go; `None`: to the conversation.
    pub focus: Option<Section>,
    /// The keys go from token to token in the text of the conversation.
    pub in_text: bool,
    /// The focused section has all the room.
    pub expanded: bool,
    pub(super) collapsed: [bool; Section::ALL.len()],
    /// The token that is looked at, by its number; `None`: the last one.
    pub token: Option<u64>,
    pub zoom: Option<Zoom>,
    /// The first line of what is zoomed into.
    pub top: usize,
    /// Of a layer that is zoomed into the expert that is looked at.
    pub expert: usize,
    /// What is shown instead of what is.
    pub frozen: Option<Box<Gauges>>,
}

impl Panel {
    pub fn is_collapsed(&self, section: Section) -> bool {
        self.collapsed[section as usize]
    }

    /// Lets the keys go to the panel, or back.
    pub fn toggle_focus(&mut self) {
        self.focus = if self.focus.is_some() { None } else { Some(Section::Tokens) };
        self.show();
    }

    /// Shows the panel, where it is off.
    pub fn show(&mut self) {
        if self.preset == Preset::Off {
            self.preset = Preset::Full;
        }
    }

    /// Takes a key; `false` where it is none of the panel's.
    pub fn act(&mut self, action: Action, gauges: &Gauges) -> bool {
        let Some(section) = self.focus else { return false };
        match action {
            Action::Close => self.leave(),
            Action::Last | Action::First if self.zoom.is_some() => {
                self.top = if action == Action::First { 0 } else { usize::MAX };
                self.expert = self.top;
                self.look_within(gauges);
            }
            Action::Up | Action::Down if self.zoom.is_some() => {
                let by = if action == Action::Up { -1 } else { 1 };
                if let Some(Zoom::Layer(_)) = self.zoom {
                    self.expert = self.expert.saturating_add_signed(by);
                    self.look_within(gauges);
                } else {
                    self.scroll(by);
                }
            }
            Action::PageUp | Action::PageDown => {
                let by = if action == Action::PageUp { -8 } else { 8 };
                self.scroll(by);
                self.expert = self.expert.saturating_add_signed(by);
                self.look_within(gauges);
            }
            Action::Up => self.focus = Some(neighbour(section, -1)),
            Action::Down => self.focus = Some(neighbour(section, 1)),
            Action::Previous => self.step(section, gauges, -1),
            Action::Next => self.step(section, gauges, 1),
            Action::First => self.step(section, gauges, i64::MIN / 2),
            Action::Last => self.step(section, gauges, i64::MAX / 2),
            Action::Choose => self.zoom_in(section),
            Action::Collapse => self.collapsed[section as usize] ^= true,
            Action::Expand => self.expanded ^= true,
            Action::Freeze => self.toggle_frozen(gauges),
            _ => return false,
        }
        true
    }

    /// Out of the zoom, then out of what fills the panel, then back to the conversation.
    fn leave(&mut self) {
        if self.zoom.take().is_some() {
            (self.top, self.expert) = (0, 0);
        } else if self.expanded {
            self.expanded = false;
        } else {
            (self.focus, self.token) = (None, None);
        }
    }

    fn zoom_in(&mut self, section: Section) {
        (self.top, self.expert) = (0, 0);
        match (section, self.zoom) {
            (Section::Experts, None) => self.zoom = Some(Zoom::Layer(0)),
            (Section::Tokens, None | Some(Zoom::Layer(_))) => self.zoom = Some(Zoom::Token),
            (_, Some(_)) => self.zoom = None,
            (_, None) => self.expanded ^= true,
        }
    }

    /// The expert that is looked at is one that there is.
    fn look_within(&mut self, gauges: &Gauges) {
        let n = gauges.snapshot.experts.as_ref().map_or(0, |map| map.n_experts());
        self.expert = self.expert.min(n.saturating_sub(1));
    }

    /// The layers and experts that a key is about: the expert of a layer that is zoomed into, or those of a token.
    pub fn experts(&self, gauges: &Gauges) -> Vec<(usize, usize)> {
        if let (Some(Zoom::Layer(layer)), Some(Section::Experts)) = (self.zoom, self.focus) {
            return vec![(layer, self.expert)];
        }
        if self.focus.is_some_and(|section| section != Section::Tokens) {
            return Vec::new();
        }
        let gauges = self.frozen.as_deref().unwrap_or(gauges);
        let token = self.token.or_else(|| gauges.timeline.end().checked_sub(1));
        let Some((log, token)) = gauges.snapshot.tokens.as_ref().zip(token) else { return Vec::new() };
        let layer = |layer| log.choices(token, layer).into_iter().map(move |choice| (layer, choice.expert));
        (0..log.n_layers()).flat_map(layer).collect()
    }

    /// Shows what is as it is now, until the next time.
    pub fn toggle_frozen(&mut self, gauges: &Gauges) {
        self.frozen = if self.frozen.is_some() { None } else { Some(Box::new(gauges.frozen())) };
    }

    pub fn scroll(&mut self, lines: isize) {
        self.top = self.top.saturating_add_signed(lines);
    }

    /// Goes to another layer where one is looked at, else to another token.
    fn step(&mut self, section: Section, gauges: &Gauges, by: i64) {
        let gauges = self.frozen.as_deref().unwrap_or(gauges);
        if section == Section::Experts {
            let n_layers = gauges.snapshot.experts.as_ref().map_or(0, |map| map.n_layers()) as i64;
            let layer = match self.zoom {
                Some(Zoom::Layer(layer)) => (layer as i64).saturating_add(by),
                _ => 0,
            };
            if n_layers > 0 {
                self.zoom = Some(Zoom::Layer(layer.clamp(0, n_layers - 1) as usize));
            }
            return;
        }
        let (first, end) = (gauges.timeline.first as i64, gauges.timeline.end() as i64);
        if first < end {
            let from = self.token.map_or(end - 1, |token| token as i64);
            let token = from.saturating_add(by).clamp(first, end - 1);
            // Whoever goes to the last one follows what comes.
            self.token = (token < end - 1 || by < 0).then_some(token as u64);
        }
    }
}

fn neighbour(section: Section, by: isize) -> Section {
    let n = Section::ALL.len();
    Section::ALL[(section as usize).wrapping_add_signed(by).wrapping_add(n) % n]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ExpertMap, Snapshot, TokenCost, TokenLog};
    use std::sync::Arc;
    use std::time::Instant;

    fn gauges() -> Gauges {
        let log = TokenLog::new(3, 1);
        for _ in 0..5 {
            log.begin();
            log.end(TokenCost::default());
        }
        let (experts, tokens) = (Some(Arc::new(ExpertMap::new(3, 4))), Some(Arc::new(log)));
        let mut gauges = Gauges::default();
        gauges.observe(Instant::now(), Snapshot { experts, tokens, ..Snapshot::default() });
        gauges
    }

    #[test]
    fn tokens_are_walked_through_and_the_last_one_is_followed() {
        let (gauges, mut panel) = (gauges(), Panel::default());
        assert!(!panel.act(Action::Previous, &gauges), "the keys go to the conversation");
        panel.toggle_focus();
        panel.act(Action::Previous, &gauges);
        assert_eq!(panel.token, Some(3));
        panel.act(Action::First, &gauges);
        assert_eq!(panel.token, Some(0));
        panel.act(Action::Next, &gauges);
        assert_eq!(panel.token, Some(1));
        panel.act(Action::Last, &gauges);
        assert_eq!(panel.token, None);
    }

    #[test]
    fn layers_are_zoomed_into_and_left_again_step_by_step() {
        let (gauges, mut panel) = (gauges(), Panel { focus: Some(Section::Experts), ..Panel::default() });
        panel.act(Action::Choose, &gauges);
        panel.act(Action::Next, &gauges);
        panel.act(Action::Next, &gauges);
        panel.act(Action::Next, &gauges);
        assert_eq!(panel.zoom, Some(Zoom::Layer(2)));
        panel.act(Action::Expand, &gauges);
        for want in [(None, true, true), (None, false, true), (None, false, false)] {
            panel.act(Action::Close, &gauges);
            assert_eq!((panel.zoom, panel.expanded, panel.focus.is_some()), want);
        }
    }

    #[test]
    fn what_is_frozen_does_not_change_with_the_engine() {
        let (gauges, mut panel) = (gauges(), Panel { focus: Some(Section::Disk), ..Panel::default() });
        panel.act(Action::Freeze, &gauges);
        gauges.snapshot.experts.as_ref().unwrap().mark_used(0, 0, 9, 1);
        let frozen = panel.frozen.as_ref().unwrap();
        assert_eq!(frozen.snapshot.experts.as_ref().unwrap().last_used(0, 0), None);
        panel.act(Action::Freeze, &gauges);
        assert!(panel.frozen.is_none());
    }

    #[test]
    fn sections_are_walked_in_a_circle_and_collapse() {
        let (gauges, mut panel) = (gauges(), Panel { focus: Some(Section::Memory), ..Panel::default() });
        panel.act(Action::Up, &gauges);
        assert_eq!(panel.focus, Some(Section::Speed));
        panel.act(Action::Down, &gauges);
        panel.act(Action::Collapse, &gauges);
        assert!(panel.is_collapsed(Section::Memory) && !panel.is_collapsed(Section::Speed));
    }
}
