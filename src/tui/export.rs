//! The screen as files: cells in, an SVG picture or an asciicast out. Blocks and rules are drawn as shapes, so that a
//! picture looks the same with every font.

use std::fmt::Write;
use std::time::Duration;

use ratatui::buffer::{Buffer, Cell, CellWidth};
use ratatui::style::{Color, Modifier};

/// A cell in pixels.
const CELL: (u32, u32) = (8, 17);
/// Around the picture.
const MARGIN: u32 = 12;
const FOREGROUND: (u8, u8, u8) = (201, 205, 212);
const BACKGROUND: (u8, u8, u8) = (21, 24, 29);

/// The first sixteen colours of a terminal.
const ANSI: [(u8, u8, u8); 16] = [
    (21, 24, 29),
    (224, 112, 112),
    (134, 188, 150),
    (218, 170, 98),
    (122, 162, 220),
    (176, 122, 232),
    (64, 206, 190),
    (190, 194, 200),
    (98, 104, 114),
    (240, 130, 130),
    (160, 210, 170),
    (236, 196, 130),
    (150, 186, 240),
    (200, 150, 244),
    (110, 226, 212),
    (236, 238, 242),
];

fn rgb(color: Color, other: (u8, u8, u8)) -> (u8, u8, u8) {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let named = |i: usize| ANSI[i];
    match color {
        Color::Reset => other,
        Color::Rgb(r, g, b) => (r, g, b),
        Color::Indexed(i @ 0..16) => named(i.into()),
        Color::Indexed(i @ 16..232) => {
            let at = |n: u8| LEVELS[usize::from(n % 6)];
            let i = i - 16;
            (at(i / 36), at(i / 6), at(i))
        }
        Color::Indexed(i) => {
            let grey = 8 + 10 * (i - 232);
            (grey, grey, grey)
        }
        other => ansi_number(other).map_or(FOREGROUND, |i| named(i.into())),
    }
}

/// The number of a named colour among the sixteen.
fn ansi_number(color: Color) -> Option<u8> {
    const NAMES: [Color; 16] = [
        Color::Black,
        Color::Red,
        Color::Green,
        Color::Yellow,
        Color::Blue,
        Color::Magenta,
        Color::Cyan,
        Color::Gray,
        Color::DarkGray,
        Color::LightRed,
        Color::LightGreen,
        Color::LightYellow,
        Color::LightBlue,
        Color::LightMagenta,
        Color::LightCyan,
        Color::White,
    ];
    NAMES.iter().position(|&name| name == color).map(|i| i as u8)
}

/// How a cell looks: colours as they are seen, weight, faintness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    fg: (u8, u8, u8),
    bg: (u8, u8, u8),
    bold: bool,
    dim: bool,
}

impl Look {
    fn of(cell: &Cell) -> Look {
        let (mut fg, mut bg) = (rgb(cell.fg, FOREGROUND), rgb(cell.bg, BACKGROUND));
        if cell.modifier.contains(Modifier::REVERSED) {
            (fg, bg) = (bg, fg);
        }
        Look { fg, bg, bold: cell.modifier.contains(Modifier::BOLD), dim: cell.modifier.contains(Modifier::DIM) }
    }
}

fn hex((r, g, b): (u8, u8, u8)) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Where in its cell a sign is drawn as a rectangle: x, y, width, height in pixels.
fn shape(sign: &str) -> Option<(u32, u32, u32, u32)> {
    let (w, h) = CELL;
    let eighths = |n: u32| {
        let rows = (h * n + 4) / 8;
        (0, h - rows, w, rows)
    };
    Some(match sign {
        "█" => (0, 0, w, h),
        "▀" => (0, 0, w, h / 2),
        "▁" => eighths(1),
        "▂" => eighths(2),
        "▃" => eighths(3),
        "▄" => eighths(4),
        "▅" => eighths(5),
        "▆" => eighths(6),
        "▇" => eighths(7),
        "━" => (0, h / 2 - 1, w, 3),
        "╸" => (0, h / 2 - 1, w / 2, 3),
        "─" => (0, h / 2, w, 1),
        "│" => (w / 2, 0, 1, h),
        _ => return None,
    })
}

/// The picture of a screen.
pub fn svg(buffer: &Buffer, title: &str) -> String {
    let (columns, rows) = (u32::from(buffer.area.width), u32::from(buffer.area.height));
    let (width, height) = (columns * CELL.0 + 2 * MARGIN, rows * CELL.1 + 2 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\">\n<title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{}\"/>\n\
         <g transform=\"translate({MARGIN} {MARGIN})\" shape-rendering=\"crispEdges\" \
         font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"13\" \
         xml:space=\"preserve\">\n",
        escaped(title),
        hex(BACKGROUND),
    );
    for (row, cells) in buffer.content().chunks(columns.max(1) as usize).enumerate() {
        let y = row as u32 * CELL.1;
        backgrounds(&mut out, cells, y);
        shapes(&mut out, cells, y);
        words(&mut out, cells, y);
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// Runs of cells that are alike by `key`: first column, length, key. Those without one are left out.
fn runs<K: PartialEq + Copy>(cells: &[Cell], key: impl Fn(&Cell) -> Option<K>) -> Vec<(u32, u32, K)> {
    let mut runs: Vec<(u32, u32, K)> = Vec::new();
    for (x, cell) in cells.iter().enumerate() {
        let Some(key) = key(cell) else { continue };
        match runs.last_mut() {
            Some((first, n, last)) if *last == key && *first + *n == x as u32 => *n += 1,
            _ => runs.push((x as u32, 1, key)),
        }
    }
    runs
}

fn backgrounds(out: &mut String, cells: &[Cell], y: u32) {
    for (x, n, color) in runs(cells, |cell| Some(Look::of(cell).bg).filter(|&bg| bg != BACKGROUND)) {
        let (x, width, height) = (x * CELL.0, n * CELL.0, CELL.1);
        let _ =
            writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>", hex(color));
    }
}

fn shapes(out: &mut String, cells: &[Cell], y: u32) {
    let key = |cell: &Cell| shape(cell.symbol()).map(|shape| (shape, Look::of(cell).fg));
    for (x, n, ((dx, dy, w, h), color)) in runs(cells, key) {
        // Only what fills its cell from edge to edge is one with its neighbour.
        let pieces: Vec<(u32, u32)> = if w == CELL.0 { vec![(x, n * w)] } else { (x..x + n).map(|x| (x, w)).collect() };
        for (x, width) in pieces {
            let _ = writeln!(
                out,
                "<rect x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{h}\" fill=\"{}\"/>",
                x * CELL.0 + dx,
                y + dy,
                hex(color)
            );
        }
    }
}

fn words(out: &mut String, cells: &[Cell], y: u32) {
    let mut x = 0;
    while x < cells.len() {
        let look = Look::of(&cells[x]);
        let (first, mut text, mut columns) = (x, String::new(), 0);
        while x < cells.len() && Look::of(&cells[x]) == look && shape(cells[x].symbol()).is_none() {
            let width = usize::from(cells[x].cell_width()).max(1);
            text.push_str(cells[x].symbol());
            columns += width;
            x += width;
        }
        if columns == 0 {
            x += 1;
            continue;
        }
        let shown = text.trim();
        if shown.is_empty() {
            continue;
        }
        let before = text.len() - text.trim_start().len();
        let after = text.len() - text.trim_end().len();
        let (first, columns) = (first + before, columns - before - after);
        let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
        let faint = if look.dim { " opacity=\"0.6\"" } else { "" };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" fill=\"{}\" textLength=\"{}\"{weight}{faint}>{}</text>",
            first as u32 * CELL.0,
            y + 13,
            hex(look.fg),
            columns as u32 * CELL.0,
            escaped(shown),
        );
    }
}

/// Text as XML takes it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An asciicast (version 2) that grows frame by frame.
#[derive(Debug)]
pub struct Cast {
    out: String,
    last: Buffer,
}

impl Cast {
    pub fn new(columns: u16, rows: u16, title: &str) -> Cast {
        let header = serde_json::json!({ "version": 2, "width": columns, "height": rows, "title": title });
        let last = Buffer::empty(ratatui::layout::Rect::new(0, 0, columns, rows));
        let mut cast = Cast { out: format!("{header}\n"), last };
        cast.event(Duration::ZERO, "\u{1b}[?25l\u{1b}[2J");
        cast
    }

    /// What changes on the screen at `at`.
    pub fn frame(&mut self, at: Duration, buffer: &Buffer) {
        let mut text = String::new();
        let mut style = None;
        let mut next = None;
        for (x, y, cell) in self.last.diff(buffer) {
            if next != Some((x, y)) {
                let _ = write!(text, "\u{1b}[{};{}H", y + 1, x + 1);
            }
            next = Some((x + cell.cell_width(), y));
            let look = (cell.fg, cell.bg, cell.modifier);
            if style != Some(look) {
                text.push_str(&select(look));
                style = Some(look);
            }
            text.extend(cell.symbol().chars().filter(|c| !c.is_control()));
        }
        if !text.is_empty() {
            text.push_str("\u{1b}[0m");
            self.event(at, &text);
        }
        self.last = buffer.clone();
    }

    fn event(&mut self, at: Duration, text: &str) {
        let seconds = (at.as_secs_f64() * 1000.0).round() / 1000.0;
        let _ = writeln!(self.out, "{}", serde_json::json!([seconds, "o", text]));
    }

    /// The file's text.
    pub fn finish(self) -> String {
        self.out
    }
}

/// The sequence that selects colours and modifiers.
fn select((fg, bg, modifier): (Color, Color, Modifier)) -> String {
    let mut codes = vec!["0".to_owned()];
    for (bit, code) in [(Modifier::BOLD, "1"), (Modifier::DIM, "2"), (Modifier::REVERSED, "7")] {
        if modifier.contains(bit) {
            codes.push(code.to_owned());
        }
    }
    for (color, ground) in [(fg, 38), (bg, 48)] {
        codes.extend(match color {
            Color::Reset => None,
            Color::Rgb(r, g, b) => Some(format!("{ground};2;{r};{g};{b}")),
            Color::Indexed(i) => Some(format!("{ground};5;{i}")),
            named => ansi_number(named).map(|i| format!("{ground};5;{i}")),
        });
    }
    format!("\u{1b}[{}m", codes.join(";"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    fn screen() -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        buffer.set_string(0, 0, "a <b> & \"c\"", Style::new().fg(Color::Red));
        buffer.set_string(0, 1, "▀▀█記x", Style::new().fg(Color::Rgb(1, 2, 3)).bg(Color::Indexed(232)));
        buffer
    }

    #[test]
    fn a_picture_is_well_formed_and_escaped() {
        let svg = svg(&screen(), "x < y");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("<title>x &lt; y</title>"));
        assert!(svg.contains(">a &lt;b&gt; &amp; &quot;c&quot;</text>"), "{svg}");
        // Every element is closed, and nothing but elements has an angle.
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert_eq!(svg.matches("<rect").count(), svg.matches("/>").count());
    }

    #[test]
    fn blocks_are_shapes_and_neighbours_of_one_colour_are_one() {
        let svg = svg(&screen(), "");
        assert!(svg.contains("<rect x=\"0\" y=\"17\" width=\"16\" height=\"8\" fill=\"#010203\"/>"), "{svg}");
        assert!(!svg.contains('▀'));
        // The wide sign takes two columns.
        assert!(svg.contains(">記x</text>") && svg.contains("textLength=\"24\""), "{svg}");
    }

    #[test]
    fn controls_never_reach_a_file() {
        assert_eq!(escaped("a\u{1b}[2J\u{7}"), "a\u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn a_cast_is_a_header_and_events_that_draw_what_changed() {
        let mut cast = Cast::new(12, 2, "a \"title\"");
        cast.frame(Duration::from_millis(40), &screen());
        cast.frame(Duration::from_millis(80), &screen());
        let mut changed = screen();
        changed.set_string(3, 0, "B", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD));
        cast.frame(Duration::from_millis(1250), &changed);
        let text = cast.finish();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "a frame that changes nothing is no event: {text}");
        assert_eq!((&lines[0]["version"], &lines[0]["title"]), (&2.into(), &"a \"title\"".into()));
        assert_eq!(lines[3], serde_json::json!([1.25, "o", "\u{1b}[1;4H\u{1b}[0;1;38;5;1mB\u{1b}[0m"]));
    }

    #[test]
    fn every_colour_of_a_terminal_has_one_here() {
        assert_eq!(rgb(Color::Indexed(16), FOREGROUND), (0, 0, 0));
        assert_eq!(rgb(Color::Indexed(231), FOREGROUND), (255, 255, 255));
        assert_eq!(rgb(Color::Indexed(67), FOREGROUND), (95, 135, 175));
        assert_eq!(rgb(Color::Indexed(255), FOREGROUND), (238, 238, 238));
        assert_eq!(rgb(Color::White, FOREGROUND), ANSI[15]);
    }
}
