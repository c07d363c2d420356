//! Looking for text in the conversation: in what is drawn, across wrapped lines, and in what is folded.

use std::ops::Range;

use crate::tui::markdown::Join;

use super::Conversation;
use super::item::Item;

/// More places than this are not counted.
pub const MOST: usize = 10_000;

/// A search, while it is open.
#[derive(Debug, Default)]
pub struct Find {
    pub query: String,
    places: Vec<Place>,
    /// Which of them is looked at.
    current: usize,
    /// Items from this one on have changed since they were looked through.
    stale_from: usize,
}

/// A place where the text was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    item: usize,
    /// A row of the item and a byte of it; `None`: it is folded.
    start: Option<(usize, usize)>,
    /// The row of its end, and the byte behind it.
    end: (usize, usize),
}

impl Find {
    /// The number of the place that is looked at, from 1 on, and how many there are.
    pub fn count(&self) -> (usize, usize) {
        let n = self.places.len();
        (if n == 0 { 0 } else { self.current + 1 }, n)
    }

    /// Items from `item` on have changed.
    pub(super) fn spoil(&mut self, item: usize) {
        self.stale_from = self.stale_from.min(item);
    }

    fn look(&mut self, items: &[Item]) {
        let from = std::mem::replace(&mut self.stale_from, usize::MAX);
        if from >= items.len() && from != 0 {
            self.places.retain(|place| place.item < items.len());
            return;
        }
        self.places.retain(|place| place.item < from);
        if self.query.is_empty() {
            return;
        }
        // Capitals count where they were typed.
        let any_case = !self.query.chars().any(char::is_uppercase);
        let wanted = if any_case { folded(&self.query) } else { self.query.clone() };
        for (i, item) in items.iter().enumerate().skip(from) {
            if self.places.len() >= MOST {
                break;
            }
            look_through(i, item, &wanted, any_case, &mut self.places);
        }
        self.places.truncate(MOST);
        self.current = self.current.min(self.places.len().saturating_sub(1));
    }
}

/// In small letters, each character in as many bytes as before.
fn folded(text: &str) -> String {
    let fold = |c: char| {
        let mut small = c.to_lowercase();
        match (small.next(), small.next()) {
            (Some(one), None) if one.len_utf8() == c.len_utf8() => one,
            _ => c,
        }
    };
    text.chars().map(fold).collect()
}

fn look_through(i: usize, item: &Item, wanted: &str, any_case: bool, places: &mut Vec<Place>) {
    let cased = |text: String| if any_case { folded(&text) } else { text };
    if let Some(thinking) = item.thinking().filter(|thinking| !thinking.shows_text()) {
        let hidden = cased(thinking.part(item.text()).replace('\n', " "));
        let found = hidden.match_indices(wanted).take(MOST);
        places.extend(found.map(|_| Place { item: i, start: None, end: (0, 0) }));
    }
    // The rows as one text, and where each begins in it and in its row.
    let (mut text, mut rows) = (String::new(), Vec::with_capacity(item.rows()));
    for row in (0..item.rows()).map(|row| item.row(row)) {
        match row.join {
            Join::Line => text.push('\n'),
            Join::Space => text.push(' '),
            Join::Word => {}
        }
        rows.push((text.len(), row.lead));
        text.push_str(&row.text[row.lead.min(row.text.len())..]);
    }
    let place = |at: usize| {
        let row = rows.partition_point(|row| row.0 <= at).saturating_sub(1);
        (row, at.saturating_sub(rows[row].0) + rows[row].1)
    };
    let text = cased(text);
    for (at, _) in text.match_indices(wanted).take(MOST) {
        if rows.is_empty() {
            return;
        }
        let (end_row, end) = place(at + wanted.len() - 1);
        places.push(Place { item: i, start: Some(place(at)), end: (end_row, end + 1) });
    }
}

impl Conversation {
    pub fn find(&self) -> Option<&Find> {
        self.find.as_ref()
    }

    /// Looks for `query` from the view on.
    pub fn look_for(&mut self, query: &str) {
        self.find = Some(Find { query: query.to_owned(), ..Find::default() });
        self.refresh_find();
        let top = self.top();
        let lines: Vec<usize> = self.find.iter().flat_map(|f| &f.places).map(|p| self.line_of_place(p)).collect();
        if let (Some(find), false) = (&mut self.find, lines.is_empty()) {
            find.current = lines.partition_point(|&line| line < top).min(lines.len() - 1);
            self.show_found();
        }
    }

    /// Ends the search; the place that is looked at stays.
    pub fn close_find(&mut self) {
        self.find = None;
    }

    /// Goes `by` places on, or back; behind the last one comes the first.
    pub fn find_next(&mut self, by: isize) {
        self.refresh_find();
        let Some(find) = self.find.as_mut().filter(|find| !find.places.is_empty()) else { return };
        find.current = (find.current as isize + by).rem_euclid(find.places.len() as isize) as usize;
        self.show_found();
    }

    /// Looks through what has changed.
    pub(super) fn refresh_find(&mut self) {
        if let Some(find) = &mut self.find {
            find.look(&self.items);
        }
    }

    fn line_of_place(&self, place: &Place) -> usize {
        let item = &self.items[place.item];
        self.ends[place.item] - item.lines() + item.head_lines() + place.start.map_or(0, |start| start.0)
    }

    /// Brings the place that is looked at into view, unfolding it where it must.
    fn show_found(&mut self) {
        let Some(place) = self.find.as_ref().and_then(|find| find.places.get(find.current)).copied() else { return };
        let mut line = self.line_of_place(&place);
        if place.start.is_none() {
            if let Some(thinking) = self.items[place.item].thinking_mut() {
                thinking.toggle(true);
            }
            self.recount(place.item);
            self.refresh_find();
            line = self.find.as_ref().and_then(|f| f.places.get(f.current)).map_or(line, |p| self.line_of_place(p));
        }
        let (top, height) = (self.top(), usize::from(self.height));
        if !(top..top + height).contains(&line) {
            self.scroll_to(line.saturating_sub(height / 3));
        }
    }

    /// What was found in row `row` of item `item`: bytes of the row, and whether it is the place that is looked at.
    pub fn found_in(&self, item: usize, row: usize) -> impl Iterator<Item = (Range<usize>, bool)> {
        let places = self.find.as_ref().map_or(&[][..], |find| &find.places);
        let current = self.find.as_ref().map_or(0, |find| find.current);
        let first = places.partition_point(|p| (p.item, p.end.0) < (item, row) || p.item == item && p.start.is_none());
        places[first..].iter().enumerate().map_while(move |(i, place)| {
            let start = place.start?;
            if place.item != item || start.0 > row {
                return None;
            }
            let from = if start.0 == row { start.1 } else { 0 };
            let to = if place.end.0 == row { place.end.1 } else { usize::MAX };
            Some((from..to, first + i == current))
        })
    }
}
