//! What stands in place of the map when a token or a layer is looked at: of a token what each layer cost and which experts
//! it took, of a layer its experts.

use std::time::Duration;

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::telemetry::{Choice, ExpertMap, Found, LayerCost};
use crate::tui::gauges::Gauges;
use crate::tui::theme::{ColorDepth, Heat, Theme};
use crate::tui::units::{self, or_unknown};

use super::Row;

/// Columns of a layer's number.
const NUMBER: usize = 3;
/// Columns of the figures behind it, each with a space before it: milliseconds, those of them waited, bytes read.
const FIGURES: [usize; 3] = [7, 7, 8];
/// An expert with its weight, and a space.
const CHOICE: usize = 9;
/// Experts below a layer begin here, with a space.
const INDENT: usize = 2;
/// A bar is as long as this.
const BAR: std::ops::RangeInclusive<usize> = 6..=40;

/// What is looked at.
pub struct Detail {
    pub title: String,
    pub rows: Vec<Row>,
    /// Rows at the top that stay when the others are scrolled.
    pub n_head: usize,
}

/// What the layers of a token cost, as far as it is known and there is room.
struct Table {
    costs: Vec<Option<LayerCost>>,
    /// How many of the figures are shown.
    n_figures: usize,
    /// Whether experts stand beside the figures, as they do where half of them have room there, or below.
    is_beside: bool,
    /// Where bars begin, and their room. Below all lines of it lies nothing else.
    bar: (usize, usize),
    longest: Duration,
    columns: usize,
}

impl Table {
    /// `n_used`: the most experts of a layer.
    fn new(costs: Vec<Option<LayerCost>>, n_used: usize, columns: usize) -> Table {
        let longest = costs.iter().flatten().map(LayerCost::wall).max();
        let is_counted = costs.iter().flatten().any(|cost| cost.stall.is_some() || cost.read_bytes.is_some());
        // A column in which nobody knows anything would only repeat that.
        let known = longest.map_or(0, |_| if is_counted { FIGURES.len() } else { 1 });
        let n_figures = (0..=known).rev().find(|&n| width(n) <= columns).unwrap_or(0);
        let n_beside = columns.saturating_sub(width(n_figures)) / CHOICE;
        let is_beside = n_figures == 0 || 2 * n_beside >= n_used;
        let start = width(n_figures) + if is_beside { CHOICE * n_used } else { 0 };
        let bar = (start, columns.saturating_sub(start + 1).min(*BAR.end()));
        Table { costs, n_figures, is_beside, bar, longest: longest.unwrap_or_default(), columns }
    }

    fn is_counted(&self) -> bool {
        self.costs.iter().flatten().any(|cost| cost.stall.is_some())
    }

    fn line(&self, label: &str, texts: [&str; 3], styles: [Style; 4]) -> Vec<Span<'static>> {
        let mut spans = vec![Span::styled(format!("{label:>NUMBER$}"), styles[0])];
        for i in 0..self.n_figures {
            spans.push(Span::styled(format!(" {:>1$}", texts[i], FIGURES[i]), styles[i + 1]));
        }
        spans
    }

    /// The figures of a layer, or of all of them.
    fn figures(&self, theme: &Theme, label: &str, wall: Option<Duration>, cost: LayerCost) -> Vec<Span<'static>> {
        let texts = [or_unknown(wall, ms), or_unknown(cost.stall, ms), or_unknown(cost.read_bytes, units::bytes)];
        let style = |known: bool, style: Style| if known { style } else { theme.dim };
        let waited = style(cost.stall.is_some_and(|stall| stall > Duration::ZERO), theme.warning);
        let read = style(cost.read_bytes.is_some_and(|bytes| bytes > 0), theme.text);
        let styles = [theme.key, style(wall.is_some(), theme.text), waited, read];
        self.line(label, [&texts[0], &texts[1], &texts[2]], styles)
    }

    /// A layer's time beside the longest one's, the part of it that was waited apart, behind a line of `used` columns.
    fn bar(&self, theme: &Theme, cost: LayerCost, used: usize) -> Vec<Span<'static>> {
        let (start, room) = self.bar;
        if room < *BAR.start() || used > start || self.longest.is_zero() {
            return Vec::new();
        }
        let cells = |time: Duration| (time.as_secs_f64() / self.longest.as_secs_f64() * room as f64).round() as usize;
        let (all, waited) = (cells(cost.wall()), cells(cost.stall.unwrap_or_default()));
        let computed = Span::styled("━".repeat(all.saturating_sub(waited)), theme.bar);
        vec![Span::raw(" ".repeat(start + 1 - used)), computed, Span::styled("╍".repeat(waited), theme.warning)]
    }
}

/// Columns of a layer's number and `n` figures.
fn width(n: usize) -> usize {
    NUMBER + FIGURES[..n].iter().map(|width| width + 1).sum::<usize>()
}

/// Milliseconds in seven columns at most, without their unit.
fn ms(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        ms @ 0.0..9.995 => format!("{ms:.2}"),
        ms @ 9.995..9999.95 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// A token layer by layer: what the layer cost, and its experts as the router ranked them, each with its weight.
pub fn token_detail(theme: &Theme, gauges: &Gauges, selected: Option<u64>, columns: usize) -> Detail {
    let Some(number) = selected.or_else(|| gauges.timeline.end().checked_sub(1)) else {
        let rows = vec![Row::new(0, Line::styled("no token yet", theme.dim))];
        return Detail { title: "a token's experts".into(), rows, n_head: 0 };
    };
    let log = gauges.snapshot.tokens.as_deref();
    let layers = 0..log.map_or(0, |log| log.n_layers());
    let costs = layers.clone().map(|layer| log.and_then(|log| log.layer(number, layer))).collect();
    let chosen = |layer| log.map_or_else(Vec::new, |log| log.choices(number, layer));
    let choices: Vec<Vec<Choice>> = layers.clone().map(chosen).collect();
    let table = Table::new(costs, choices.iter().map(Vec::len).max().unwrap_or(0), columns);
    let mut rows = Vec::new();
    let mut say = |spans: Vec<Span<'static>>| rows.push(Row::new(0, Line::from(spans)));
    let n_head = usize::from(table.n_figures > 0);
    if n_head > 0 {
        say(table.line("no.", ["ms", "waited", "read"], [theme.dim; 4]));
    }
    let cost = gauges.timeline.get(number).map(|record| record.cost).filter(|_| n_head > 0);
    if let Some(cost) = cost {
        let all = LayerCost { compute: Duration::ZERO, stall: cost.stall, read_bytes: cost.read_bytes };
        say(table.figures(theme, "all", Some(cost.wall), all));
    }
    if n_head > 0 && !table.is_counted() {
        say(vec![Span::styled("waits, reads: unknown, not counted", theme.dim)]);
    }
    let map = gauges.snapshot.experts.as_deref();
    let is_pinned = |layer, expert| {
        map.filter(|map| layer < map.n_layers() && expert < map.n_experts())
            .is_some_and(|map| map.is_pinned(layer, expert))
    };
    let known = layers.filter(|&layer| table.costs[layer].is_some() || !choices[layer].is_empty());
    let mut n_known = 0;
    for layer in known {
        let is_pinned = |expert| is_pinned(layer, expert);
        layer_lines(theme, &table, layer, &choices[layer], is_pinned).into_iter().for_each(&mut say);
        n_known += 1;
    }
    let walls: Option<Vec<Duration>> = table.costs.iter().map(|cost| cost.map(|cost| cost.wall())).collect();
    if let Some((cost, walls)) = cost.zip(walls) {
        let rest = cost.wall.saturating_sub(walls.into_iter().fold(Duration::ZERO, Duration::saturating_add));
        say(vec![Span::styled(format!("{:NUMBER$} {:>2$} outside layers", "", ms(rest), FIGURES[0]), theme.dim)]);
    }
    if n_known == 0 {
        say(vec![Span::styled("what its layers did is not kept", theme.dim)]);
    }
    Detail { title: format!("token {number}"), rows, n_head }
}

/// A layer's figures, its experts beside or below, and a bar.
fn layer_lines(
    theme: &Theme,
    table: &Table,
    layer: usize,
    choices: &[Choice],
    is_pinned: impl Fn(usize) -> bool,
) -> Vec<Vec<Span<'static>>> {
    let cost = table.costs[layer];
    let mut lines = vec![table.figures(theme, &layer.to_string(), cost.map(|c| c.wall()), cost.unwrap_or_default())];
    let figures = width(table.n_figures);
    let indent = if table.is_beside { figures } else { INDENT };
    // Room on the first line is for the bar where experts follow below.
    let mut used = if table.is_beside { figures } else { table.columns };
    let mut first = figures;
    for choice in choices {
        let text = chosen(choice, is_pinned(choice.expert));
        let width = 1 + text.chars().count();
        // However narrow it is, a line takes one.
        if used + width > table.columns && (used > indent || !table.is_beside && lines.len() == 1) {
            lines.push(vec![Span::raw(" ".repeat(indent))]);
            used = indent;
        }
        used += width;
        if lines.len() == 1 {
            first = used;
        }
        let spans = [Span::raw(" "), Span::styled(text, found_style(theme, choice.found))];
        lines.last_mut().expect("there is a first line").extend(spans);
    }
    lines[0].extend(cost.into_iter().flat_map(|cost| table.bar(theme, cost, first)));
    lines
}

/// An expert, a mark where it was not in memory or is to stay there, its weight.
fn chosen(choice: &Choice, is_pinned: bool) -> String {
    let mark = match choice.found {
        Found::Missing => '!',
        Found::InMemory | Found::Uncounted if is_pinned => '*',
        Found::InMemory | Found::Uncounted => ' ',
    };
    let weight = match choice.weight {
        None => "  ?".to_owned(),
        Some(weight) if weight.abs() < 9.995 => format!("{weight:.2}"),
        Some(weight) => format!("{weight:.0e}"),
    };
    let weight = weight.strip_prefix('0').unwrap_or(&weight);
    format!("{:>4}{mark}{weight}", choice.expert)
}

fn found_style(theme: &Theme, found: Found) -> Style {
    let share = match found {
        Found::InMemory => Some(1.0),
        Found::Missing => Some(0.0),
        Found::Uncounted => None,
    };
    theme.map_color(share, Heat::NOW).map_or(theme.text, |color| Style::new().fg(color))
}

/// The experts of a layer: how often each was used, what of it is in memory, when it was used last.
/// `chosen`: the one that is looked at.
pub fn layer_detail(
    theme: &Theme,
    map: &ExpertMap,
    tick: u64,
    layer: usize,
    chosen: Option<usize>,
    columns: usize,
) -> Vec<Row> {
    let most = (0..map.n_experts()).map(|expert| map.uses(layer, expert)).max().unwrap_or(0);
    let row = |expert: usize| {
        let uses = map.uses(layer, expert);
        let share = map.resident(layer, expert);
        let age = map.last_used(layer, expert).map(|used| tick.saturating_sub(used));
        let when = match age {
            None => "never".to_owned(),
            Some(0) => "now".to_owned(),
            Some(n) => format!("{} ago", units::count(n)),
        };
        let color = theme.map_color(share, Heat::of_age(age));
        let style = color.map_or(theme.text, |color| Style::new().fg(color));
        let there = or_unknown(share, |share| format!("{:.0} %", 100.0 * share));
        let mut spans = vec![
            Span::styled(format!("{expert:>4}"), if chosen == Some(expert) { theme.selected } else { theme.key }),
            Span::styled(if map.is_pinned(layer, expert) { "*" } else { " " }, theme.key),
            Span::styled(format!("{:>6} ", units::count(uses)), theme.text),
            Span::styled(format!("{there:>7} "), style),
            Span::styled(format!("{when:>9} "), theme.dim),
        ];
        let room = columns.saturating_sub(29);
        if room >= 6 && most > 0 {
            let length = (uses as f64 / most as f64 * room as f64).round() as usize;
            let sign = if theme.depth == ColorDepth::Mono { "#" } else { "━" };
            spans.push(Span::styled(sign.repeat(length), style));
        }
        Row::new(0, Line::from(spans))
    };
    let head = format!("{:>4} {:>6} {:>7} {:>9}", "no.", "uses", "in mem.", "last used");
    let head = Row::new(0, Line::styled(head, theme.dim));
    std::iter::once(head).chain((0..map.n_experts()).map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Snapshot, TokenCost, TokenLog};
    use std::sync::Arc;
    use std::time::Instant;

    fn text(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| row.line.to_string().trim_end().to_owned()).collect()
    }

    /// What a layer cost, if it was recorded: computing, and where it was counted waiting and bytes.
    type Cost = Option<(u64, Option<(u64, u64)>)>;

    /// One token of a dense layer and one with four experts, whose costs in µs of computing and waiting, and in bytes, are
    /// as given.
    fn gauges(costs: [Cost; 2]) -> Gauges {
        let log = TokenLog::new(2, 4);
        log.begin();
        let choice = |(expert, weight, found)| Choice { expert, weight, found };
        let choices = [
            (7, Some(0.5), Found::InMemory),
            (130, Some(0.25), Found::Missing),
            (3, Some(0.15), Found::Uncounted),
            (99, None, Found::InMemory),
        ];
        log.choose(1, choices.into_iter().map(choice));
        let micros = Duration::from_micros;
        for (layer, (compute, waited)) in costs.into_iter().enumerate().filter_map(|(i, cost)| Some((i, cost?))) {
            let (stall, read_bytes) = waited.unzip();
            log.end_layer(layer, LayerCost { compute: micros(compute), stall: stall.map(micros), read_bytes });
        }
        let (stalls, reads): (Vec<u64>, Vec<u64>) = costs.into_iter().flatten().filter_map(|cost| cost.1).unzip();
        let counted = |sum: u64| (!stalls.is_empty()).then_some(sum);
        let stall = counted(stalls.iter().sum()).map(micros);
        let read_bytes = counted(reads.iter().sum());
        log.end(TokenCost { wall: micros(30_400), stall, read_bytes });
        let mut gauges = Gauges::default();
        let experts = Some(Arc::new(ExpertMap::new(2, 3)));
        gauges.observe(Instant::now(), Snapshot { tokens: Some(Arc::new(log)), experts, ..Snapshot::default() });
        gauges
    }

    fn shown(gauges: &Gauges, columns: usize) -> Vec<String> {
        text(&token_detail(&Theme::dark(ColorDepth::Mono), gauges, Some(0), columns).rows)
    }

    const COSTS: [Cost; 2] = [Some((10_000, Some((0, 0)))), Some((5_000, Some((15_000, 3 << 20))))];

    #[test]
    fn each_layer_of_a_token_shows_its_time_its_waiting_its_bytes_and_its_experts() {
        let gauges = gauges(COSTS);
        assert_eq!(
            shown(&gauges, 29),
            [
                "no.      ms  waited     read",
                "all    30.4    15.0 3.00 MiB",
                "  0    10.0    0.00      0 B",
                "  1    20.0    15.0 3.00 MiB",
                "      7 .50  130!.25    3 .15",
                "     99   ?",
                "       0.40 outside layers",
            ]
        );
        let wide = shown(&gauges, 44);
        // A bar is as long beside the longest one as its time.
        assert_eq!(
            wide[2..4],
            ["  0    10.0    0.00      0 B ━━━━━━━━", "  1    20.0    15.0 3.00 MiB ━━━━╍╍╍╍╍╍╍╍╍╍╍"]
        );
        assert_eq!(wide[4], "      7 .50  130!.25    3 .15   99   ?");
        assert_eq!(
            shown(&gauges, 66)[3..5],
            ["  1    20.0    15.0 3.00 MiB    7 .50  130!.25    3 .15   99   ?", "       0.40 outside layers"]
        );
        let bars = |line: &str| line.chars().filter(|sign| "━╍".contains(*sign)).count();
        assert_eq!(shown(&gauges, 100)[2..4].iter().map(|line| bars(line)).collect::<Vec<_>>(), [18, 35]);
        assert_eq!(shown(&gauges, 100)[2].find('━'), shown(&gauges, 100)[3].find('━'));
    }

    #[test]
    fn a_narrow_panel_leaves_out_bytes_then_waiting_then_time() {
        let gauges = gauges(COSTS);
        assert_eq!(shown(&gauges, 27)[3], "  1    20.0    15.0 ━━╍╍╍╍╍");
        assert_eq!(shown(&gauges, 18)[3], "  1    20.0 ━╍╍╍╍╍");
        assert_eq!(shown(&gauges, 10)[..2], ["  0", "  1    7 .50"]);
        for columns in 0..300 {
            for line in shown(&gauges, columns) {
                assert!(columns < 34 || line.chars().count() <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn what_nobody_counts_is_unknown() {
        assert_eq!(
            shown(&gauges([Some((10_000, None)), Some((20_000, None))]), 29),
            [
                "no.      ms",
                "all    30.4",
                "waits, reads: unknown, not counted",
                "  0    10.0",
                "  1    20.0    7 .50  130!.25",
                "               3 .15   99   ?",
                "       0.40 outside layers",
            ]
        );
        let some = shown(&gauges([None, COSTS[1]]), 29);
        assert_eq!(some[2], "  1    20.0    15.0 3.00 MiB");
        assert!(!some.join("\n").contains("outside"), "of one layer it is not known");
        assert_eq!(shown(&gauges([None, Some((9, None))]), 29)[3], "  1    0.01    7 .50  130!.25");
        let mixed = shown(&gauges([Some((10_000, None)), COSTS[1]]), 29);
        assert_eq!(mixed[2], "  0    10.0 unknown  unknown");
    }

    #[test]
    fn a_tokens_experts_are_listed_with_weights_and_what_was_missing_is_marked() {
        let theme = Theme::dark(ColorDepth::Mono);
        let gauges = gauges([None, None]);
        let detail = token_detail(&theme, &gauges, None, 30);
        let expected = ["  1    7 .50  130!.25    3 .15", "      99   ?"];
        assert_eq!((detail.title.as_str(), text(&detail.rows)), ("token 0", expected.map(String::from).to_vec()));
        assert_eq!(text(&token_detail(&theme, &gauges, Some(99), 40).rows), ["what its layers did is not kept"]);
        let weight = |weight| chosen(&Choice { expert: 1, weight: Some(weight), found: Found::Uncounted }, false);
        assert_eq!([2.5, -1e30, f32::INFINITY].map(weight), ["   1 2.50", "   1 -1e30", "   1 inf"]);
    }

    #[test]
    fn any_time_has_room_in_its_column() {
        for micros in [0, 1, 9_994, 9_996, 99_999, 9_999_949, 9_999_951, u64::from(u32::MAX)] {
            assert!(ms(Duration::from_micros(micros)).len() <= FIGURES[0], "{micros}");
        }
    }

    #[test]
    fn a_layer_lists_each_expert_and_says_what_is_not_known() {
        let map = ExpertMap::new(1, 2);
        map.mark_used(0, 1, 10, 41);
        map.set_resident(0, 1, Some(0.5));
        map.set_pinned(0, 1, true);
        let rows = text(&layer_detail(&Theme::dark(ColorDepth::Mono), &map, 15, 0, Some(1), 30));
        assert_eq!(rows[1..], ["   0      0 unknown     never", "   1*    41    50 %     5 ago"]);
    }
}
