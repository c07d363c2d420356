//! Toned text that knows where in the Markdown it stands, and its wrapping into rows.

use crate::tui::sanitize::sanitize;
use crate::tui::wrap::Wrapped;

use super::units::as_said;
use super::{Join, Row, Tone, Tones};

/// A text in one tone or several.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    pub text: String,
    pub tones: Tones,
    /// From these bytes on, the text stands from these bytes of the Markdown on.
    marks: Vec<(usize, usize)>,
}

impl Runs {
    pub fn push(&mut self, text: &str, tone: Tone, source: usize) {
        self.marks.push((self.text.len(), source));
        // What an entity such as `&#27;` stands for comes into being only here.
        if text.bytes().all(|b| (0x20..0x7f).contains(&b) || b == b'\n') {
            self.text.push_str(text);
        } else {
            self.text.push_str(&sanitize(&as_said(text)));
        }
        self.tone(tone);
    }

    fn tone(&mut self, tone: Tone) {
        let end = self.text.len() as u32;
        match self.tones.last_mut() {
            Some((last_end, last)) if *last == tone => *last_end = end,
            _ => self.tones.push((end, tone)),
        }
    }

    /// Where in the Markdown byte `at` stands.
    pub fn source(&self, at: usize) -> usize {
        let i = self.marks.partition_point(|mark| mark.0 <= at);
        i.checked_sub(1).map_or(0, |i| self.marks[i].1 + (at - self.marks[i].0))
    }

    /// The text in lines of `width` cells, as it is, and how each hangs together with the one before.
    pub fn wrap(&self, width: usize) -> Vec<(std::ops::Range<usize>, Join)> {
        let mut wrapped = Wrapped::new(width.min(usize::from(u16::MAX)) as u16);
        wrapped.extend(&self.text);
        let mut before = 0;
        let line = |i| {
            let range = wrapped.line(i);
            let join = if i == 0 { Join::Line } else { Join::of(&self.text[before..range.start]) };
            before = range.end;
            (range, join)
        };
        (0..wrapped.len()).map(line).collect()
    }

    /// The tones of a part, as if it stood alone behind `lead` bytes.
    pub fn tones_of(&self, part: &std::ops::Range<usize>, lead: usize) -> impl Iterator<Item = (u32, Tone)> {
        let first = self.tones.partition_point(|&(end, _)| end as usize <= part.start);
        let (start, end) = (part.start, part.end);
        let mut done = part.is_empty();
        self.tones[first..].iter().map_while(move |&(tone_end, tone)| {
            if done {
                return None;
            }
            done = tone_end as usize >= end;
            Some(((lead + (tone_end as usize).min(end) - start) as u32, tone))
        })
    }

    /// A row of a part of the text, behind `lead`.
    pub fn row(&self, part: &std::ops::Range<usize>, lead: &Runs, join: Join) -> Row {
        let mut tones = lead.tones.clone();
        tones.extend(self.tones_of(part, lead.text.len()));
        let text = format!("{}{}", lead.text, &self.text[part.clone()]);
        Row { text, tones, source: self.source(part.start), lead: lead.text.len(), join }
    }
}
