//! The token timeline: a cell for each token, and what one cost in words.

use std::time::Duration;

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::telemetry::TokenRecord;
use crate::tui::gauges::Gauges;
use crate::tui::theme::{Heat, Theme};
use crate::tui::units::{self, milliseconds, or_unknown};

use super::{LABEL_COLUMNS, Row};

/// The eighths of a cell.
pub const HEIGHTS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// A column as high as `share` says; what is there at all is seen.
pub fn height(share: f64) -> &'static str {
    if share <= 0.0 || share.is_nan() { HEIGHTS[0] } else { HEIGHTS[((share * 8.0).round() as usize).clamp(1, 8)] }
}

/// The tokens in `columns` cells: those around the one that is looked at, else the last ones.
fn window(gauges: &Gauges, selected: Option<u64>, columns: usize) -> std::ops::Range<u64> {
    let (first, end) = (gauges.timeline.first, gauges.timeline.end());
    let columns = columns as u64;
    let last = selected.map_or(end, |token| (token + columns / 2 + 1).clamp(first, end));
    let from = last.saturating_sub(columns).max(first);
    from..(from + columns).min(end)
}

/// How a token's cell is tinted: by the share of its time that it waited.
fn tint(theme: &Theme, record: &TokenRecord) -> Style {
    let waited = record.cost.stall.map(|stall| {
        let wall = record.cost.wall.as_secs_f64();
        if wall > 0.0 { (stall.as_secs_f64() / wall) as f32 } else { 0.0 }
    });
    match theme.map_color(waited.map(|share| 1.0 - share), Heat::NOW) {
        Some(color) => Style::new().fg(color),
        None => theme.text,
    }
}

/// The longest of the tokens that are drawn, for the caption.
pub fn scale(gauges: &Gauges, selected: Option<u64>, columns: usize) -> Option<Duration> {
    let tokens = window(gauges, selected, columns.saturating_sub(LABEL_COLUMNS));
    tokens.filter_map(|n| gauges.timeline.get(n)).map(|record| record.cost.wall).max()
}

/// The timeline's rows: how long each token took, what share of its experts was missing, how long it waited.
pub fn timeline(theme: &Theme, gauges: &Gauges, selected: Option<u64>, columns: usize) -> Vec<Row> {
    let room = columns.saturating_sub(LABEL_COLUMNS);
    let tokens = window(gauges, selected, room);
    if tokens.is_empty() {
        return vec![Row::new(0, Line::styled("none computed one at a time yet", theme.dim))];
    }
    let records: Vec<(u64, &TokenRecord)> = tokens.filter_map(|n| Some((n, gauges.timeline.get(n)?))).collect();
    let longest = records.iter().map(|(_, r)| r.cost.wall).max().unwrap_or_default().as_secs_f64();
    let waited = records.iter().filter_map(|(_, r)| r.cost.stall).max().unwrap_or_default().as_secs_f64();
    let cells =
        |label: &'static str, share: &dyn Fn(&TokenRecord) -> Option<f64>, style: &dyn Fn(&TokenRecord) -> Style| {
            let mut spans = vec![Span::styled(format!("{label:<LABEL_COLUMNS$}"), theme.dim)];
            spans.extend(records.iter().map(|&(number, record)| {
                let (sign, style) = match share(record) {
                    None => ("·", theme.dim),
                    Some(share) => (height(share), style(record)),
                };
                let marked = if selected == Some(number) { Modifier::REVERSED } else { Modifier::empty() };
                Span::styled(sign, style.add_modifier(marked))
            }));
            Line::from(spans)
        };
    let of = |time: Duration, longest: f64| if longest > 0.0 { time.as_secs_f64() / longest } else { 0.0 };
    let tinted = |record: &TokenRecord| tint(theme, record);
    let missing = |record: &TokenRecord| {
        let (hits, misses) = record.hits.zip(record.misses)?;
        Some(misses as f64 / (hits + misses).max(1) as f64)
    };
    let mut rows = vec![
        Row::new(0, cells("time", &|r| Some(of(r.cost.wall, longest)), &tinted)),
        Row::new(2, cells("waited", &|r| Some(of(r.cost.stall?, waited)), &|_| theme.warning)),
        Row::new(3, cells("misses", &missing, &|_| theme.text)),
    ];
    let number = selected.unwrap_or(gauges.timeline.end() - 1);
    if let Some(record) = gauges.timeline.get(number) {
        rows.extend(cost(theme, number, record, columns));
    }
    rows
}

/// What a token cost, in words.
fn cost(theme: &Theme, number: u64, record: &TokenRecord, columns: usize) -> Vec<Row> {
    let wall = milliseconds(record.cost.wall);
    let (stall, read) = (record.cost.stall, record.cost.read_bytes);
    // Without paging there is nothing to wait for.
    let lines = if stall.is_none() && read.is_none() {
        vec![format!("token {number}: {wall}")]
    } else {
        let read = or_unknown(read, units::bytes);
        let read = match record.hits.zip(record.misses).filter(|_| columns >= super::WIDEST) {
            Some((hits, misses)) => format!("{read} read, {hits} hits, {misses} misses"),
            None => format!("{read} read"),
        };
        vec![format!("token {number}: {wall}, waited {}", or_unknown(stall, milliseconds)), read]
    };
    lines.into_iter().map(|text| Row::new(2, Line::styled(text, theme.dim))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Choice, Found, Snapshot, TokenCost, TokenLog};
    use crate::tui::theme::ColorDepth;
    use std::sync::Arc;
    use std::time::Instant;

    fn text(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| row.line.to_string().trim_end().to_owned()).collect()
    }

    fn gauges(n: u64) -> Gauges {
        let log = TokenLog::new(2, 2);
        for i in 0..n {
            log.begin();
            let choice = |(expert, found)| Choice { expert, weight: Some(0.5), found };
            log.choose(0, [(7, Found::InMemory), (130, Found::Missing)].into_iter().map(choice));
            let [wall, stall] = [10 * (i + 1), 5 * (i + 1)].map(Duration::from_millis);
            log.end(TokenCost { wall, stall: Some(stall), read_bytes: Some(3 << 20) });
        }
        let mut gauges = Gauges::default();
        gauges.observe(Instant::now(), Snapshot { tokens: Some(Arc::new(log)), ..Snapshot::default() });
        gauges
    }

    #[test]
    fn a_token_is_one_cell_as_high_as_its_time() {
        let theme = Theme::dark(ColorDepth::Mono);
        let rows = text(&timeline(&theme, &gauges(8), None, 40));
        assert_eq!(rows[0], "time    ▁▂▃▄▅▆▇█");
        assert_eq!(rows[2], "misses  ▄▄▄▄▄▄▄▄");
        assert_eq!(rows[3..], ["token 7: 80 ms, waited 40 ms", "3.00 MiB read"]);
        assert_eq!(text(&timeline(&theme, &gauges(0), None, 40)), ["none computed one at a time yet"]);
    }

    #[test]
    fn the_token_that_is_looked_at_is_in_view_wherever_it_is() {
        let gauges = gauges(200);
        for token in [0, 1, 50, 199] {
            let shown = window(&gauges, Some(token), 20);
            assert!(shown.contains(&token) && shown.end - shown.start == 20, "{token}: {shown:?}");
        }
        assert_eq!(window(&gauges, None, 20), 180..200);
    }

    #[test]
    fn no_number_breaks_a_cell() {
        for share in [f64::NAN, -1.0, 0.0, 1e-9, 1.0, f64::INFINITY] {
            assert!(HEIGHTS.contains(&height(share)));
        }
    }
}
