//! A trace on the panel, without a model: on the screen at 1x or faster, or drawn off screen for pictures and casts.

use std::path::Path;
use std::time::{Duration, Instant};

use crossterm::event::{Event as TerminalEvent, KeyEvent, KeyEventKind};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::export::{self, Cast};
use super::gauges::Gauges;
use super::keys::{Action, Context, InputState, Keys};
use super::output::FrameBuffer;
use super::panel::{Panel, Preset, Section};
use super::picture;
use super::player::Player;
use super::reader::{Input, Questions, Reader};
use super::sanitize::one_line;
use super::signals::{self, Notice, SignalThread};
use super::terminal::Guard;
use super::theme::{ColorDepth, GroundQuestion, Palette, Theme};
use super::view::panel::{self, Head};
use super::{Appearance, ExitReason, TuiError, units};

/// Time between two frames.
const FRAME: Duration = Duration::from_millis(50);
/// How far a key seeks.
const SEEK: Duration = Duration::from_secs(5);
/// The cells of a picture that a key saves.
const PICTURE: Rect = Rect { x: 0, y: 0, width: 100, height: 40 };
const SLOWEST: f64 = 0.125;
const FASTEST: f64 = 64.0;
/// Readings of a player that are taken off screen, so that rates and histories are what they would be on it.
const READING: Duration = Duration::from_millis(100);

/// A player with its panel.
pub struct ReplayScreen {
    player: Player,
    panel: Panel,
    gauges: Gauges,
    keys: Keys,
    theme: Theme,
    speed: f64,
    paused: bool,
    help: bool,
    /// What to tell until the next key.
    note: Option<String>,
    /// The clock of the gauges: the time of the trace behind this.
    began: Instant,
}

impl ReplayScreen {
    pub fn new(player: Player, theme: Theme) -> ReplayScreen {
        let panel = Panel { focus: Some(Section::Tokens), ..Panel::default() };
        let mut screen = ReplayScreen {
            player,
            panel,
            gauges: Gauges::default(),
            theme,
            keys: Keys::default(),
            speed: 1.0,
            paused: false,
            help: false,
            note: None,
            began: Instant::now(),
        };
        screen.observe();
        screen
    }

    fn observe(&mut self) {
        self.gauges.observe(self.began + self.player.at(), self.player.snapshot());
    }

    /// Time has passed on the screen.
    fn pass(&mut self, time: Duration) {
        if !self.paused && !self.player.is_over() {
            self.seek(self.player.at() + time.mul_f64(self.speed));
        }
    }

    fn seek(&mut self, to: Duration) {
        if self.player.seek(to) {
            self.gauges = Gauges::default();
        }
        self.observe();
    }

    /// Takes a key. `false`: the end.
    fn on_key(&mut self, key: KeyEvent) -> bool {
        self.note = None;
        if self.help {
            self.help = false;
            return true;
        }
        match self.keys.action(Context::Replay, InputState::Typed, key) {
            Some(Action::Quit | Action::Interrupt) => return false,
            Some(action) => self.act(action),
            None => {
                if let Some(action) = self.keys.action(Context::Panel, InputState::Typed, key) {
                    self.act_in_panel(action);
                }
                // There is nothing else that keys could go to.
                self.panel.focus.get_or_insert(Section::Tokens);
            }
        }
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Pause if self.player.is_over() => {
                self.paused = false;
                self.seek(Duration::ZERO);
            }
            Action::Pause => self.paused ^= true,
            Action::Faster => self.speed = (self.speed * 2.0).min(FASTEST),
            Action::Slower => self.speed = (self.speed / 2.0).max(SLOWEST),
            Action::StepForward => {
                self.paused = true;
                self.player.step();
                self.observe();
            }
            Action::StepBack => {
                self.paused = true;
                if self.player.step_back() {
                    self.gauges = Gauges::default();
                }
                self.observe();
            }
            Action::SeekForward => self.seek(self.player.at() + SEEK),
            Action::SeekBack => self.seek(self.player.at().saturating_sub(SEEK)),
            Action::Help => self.help = true,
            _ => {}
        }
    }

    fn act_in_panel(&mut self, action: Action) {
        match action {
            Action::TogglePanel if self.panel.preset == Preset::Full => self.panel.preset = Preset::Compact,
            Action::TogglePanel => self.panel.preset = Preset::Full,
            Action::SavePicture => {
                let mut buffer = Buffer::empty(PICTURE);
                self.draw(PICTURE, &mut buffer);
                self.note = Some(picture::write_new(Path::new("."), "panel", &export::svg(&buffer, &self.title())));
            }
            action => {
                self.panel.act(action, &self.gauges);
            }
        }
    }

    fn title(&self) -> String {
        format!("WayInfer replays a trace of {}", one_line(&self.player.shape().name))
    }

    fn head(&self) -> Head {
        let shape = self.player.shape();
        let n_experts = shape.layers.iter().map(|layer| layer.n_experts).max().unwrap_or(0);
        let layers = units::plural(shape.layers.len(), "layer");
        let kind = match self.player.budget() {
            Some(budget) => {
                format!("replay: times as recorded, memory as with {} of experts", units::bytes(budget))
            }
            None => "replay: times as recorded".to_owned(),
        };
        Head {
            name: one_line(&shape.name),
            kind,
            shape: format!("{layers} × {n_experts} experts, {} used", shape.n_used),
        }
    }

    /// Draws the panel and below it where the replay is.
    pub fn draw(&mut self, area: Rect, buf: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        if area.width < 24 || area.height < 6 {
            let text = format!("{}×{} is too small: 24×6 needed", area.width, area.height);
            buf.set_stringn(area.x, area.y, text, area.width.into(), self.theme.dim);
            return;
        }
        if self.help {
            self.draw_help(area, buf);
            return;
        }
        let inner = Rect { x: area.x + 1, width: area.width - 2, height: area.height - 1, ..area };
        let head = self.head();
        panel::draw(&self.theme, &mut self.panel, &mut self.gauges, &head, inner, buf);
        let state = match (self.player.is_over(), self.paused) {
            (true, _) => "end",
            (false, true) => "paused",
            (false, false) => "replay",
        };
        let speed = speed_in_words(self.speed);
        let position = format!(
            "{state} {speed} · {} of {} · pass {} of {}",
            units::duration(self.player.at()),
            units::duration(self.player.length()),
            self.player.n_done(),
            self.player.n_passes(),
        );
        let text = self.note.clone().unwrap_or(position);
        let y = area.bottom() - 1;
        buf.set_stringn(inner.x, y, &text, inner.width.into(), self.theme.dim);
        let hints = [
            (Action::Pause, "pause"),
            (Action::StepForward, "step"),
            (Action::Faster, "faster"),
            (Action::Help, "help"),
        ];
        let mut spans = Vec::new();
        for (action, does) in hints {
            let key = self.keys.name_of(Context::Replay, action).unwrap_or_default();
            spans.extend([Span::styled(key, self.theme.key), Span::styled(format!(" {does}  "), self.theme.dim)]);
        }
        let line = Line::from(spans);
        let width = line.width().saturating_sub(2) as u16;
        if text.chars().count() + usize::from(width) + 2 <= usize::from(inner.width) {
            buf.set_line(inner.right() - width, y, &line, width);
        }
    }

    fn draw_help(&self, area: Rect, buf: &mut Buffer) {
        // What is about a conversation, and what help itself says already, is none of a replay's.
        let foreign = [Action::FocusPanel, Action::Help, Action::WalkTokens, Action::Pin, Action::SaveScreen]
            .map(|action| self.keys.name_of(Context::Panel, action));
        let own = self
            .keys
            .help(Context::Panel)
            .filter(|(keys, _)| !foreign.iter().flatten().any(|key| keys.split("  ").next() == Some(key)));
        let lines = self.keys.help(Context::Replay).chain(own);
        for ((keys, does), y) in lines.zip(area.top()..area.bottom()) {
            let line = Line::from(vec![
                Span::styled(format!(" {keys:<14}"), self.theme.key),
                Span::styled(does, self.theme.text),
            ]);
            buf.set_line(area.x, y, &line, area.width);
        }
    }

    /// Goes on to `to` in steps, so that histories fill as they would on a screen.
    fn play_to(&mut self, to: Duration) {
        let to = to.min(self.player.length());
        while self.player.at() < to {
            let next = (self.player.at() + READING).min(to);
            self.seek(next);
        }
    }

    /// A picture at a time of the trace.
    pub fn picture(&mut self, at: Duration, (columns, rows): (u16, u16)) -> String {
        self.play_to(at);
        let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
        self.panel.focus = None;
        self.draw(buffer.area, &mut buffer);
        export::svg(&buffer, &self.title())
    }

    /// A recording of `length` on the screen, from the beginning, `speed` times as fast as the trace.
    pub fn cast(&mut self, length: Duration, speed: f64, (columns, rows): (u16, u16)) -> String {
        const FRAME: Duration = Duration::from_millis(200);
        let mut cast = Cast::new(columns, rows, &self.title());
        self.seek(Duration::ZERO);
        (self.panel.focus, self.speed) = (None, speed);
        let mut at = Duration::ZERO;
        while at <= length {
            let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
            self.draw(buffer.area, &mut buffer);
            cast.frame(at, &buffer);
            if self.player.is_over() {
                break;
            }
            at += FRAME;
            self.play_to(self.player.at() + FRAME.mul_f64(speed));
        }
        cast.finish()
    }
}

/// Shows the replay until the person quits. The terminal is as it was when this returns.
///
/// `speed`: times as fast as recorded, at first.
///
/// # Errors
/// What keeps the terminal from being used.
pub fn run(player: Player, speed: f64, appearance: &Appearance, keys: Keys) -> Result<ExitReason, TuiError> {
    let signals = SignalThread::start().map_err(TuiError::Thread)?;
    let mut guard = Guard::enter().map_err(|error| match error.kind() {
        std::io::ErrorKind::Unsupported => TuiError::NoTerminal(error),
        _ => TuiError::Terminal(error),
    })?;
    let env = |name: &str| std::env::var(name).ok();
    let theme = appearance.first_theme(env);
    let question = GroundQuestion::ask(env).filter(|_| appearance.theme.is_none() && theme.depth != ColorDepth::Mono);
    if let Some(question) = question {
        guard.write(question);
    }
    let questions = Questions { keyboard: false, ground: question.is_some() };
    let reader = Reader::start(questions).map_err(TuiError::Terminal)?;
    let mut frames = FrameBuffer::default();
    let mut terminal = Terminal::new(CrosstermBackend::new(frames.clone())).map_err(TuiError::Terminal)?;
    let mut screen = ReplayScreen::new(player, theme);
    screen.speed = speed.clamp(SLOWEST, FASTEST);
    screen.keys = keys.with_arrows(screen.theme.symbols.arrows());
    let mut last = Instant::now();
    loop {
        while let Ok(notice) = signals.notices().try_recv() {
            match notice {
                Notice::End(signal) => return Ok(ExitReason::Signal(signal)),
                // Ctrl+Z and back: the shell may have changed the modes.
                Notice::Stop => {
                    guard.leave();
                    signals::stop();
                    guard.resume().map_err(TuiError::Terminal)?;
                    frames.forget();
                }
                Notice::Continued | Notice::Resized => frames.forget(),
            }
        }
        let now = Instant::now();
        screen.pass(now.saturating_duration_since(last));
        last = now;
        if guard.is_idle() {
            terminal
                .draw(|frame| {
                    let area = frame.area();
                    screen.draw(area, frame.buffer_mut());
                    screen.theme.finish(frame.buffer_mut());
                })
                .map_err(TuiError::Terminal)?;
            let bytes = frames.take(appearance.synchronized);
            if !bytes.is_empty() {
                guard.write(bytes);
            }
        }
        let deadline = now + FRAME;
        while let Ok(input) = reader.inputs().recv_deadline(deadline) {
            match input {
                Input::Event(TerminalEvent::Key(key)) if key.kind != KeyEventKind::Release => {
                    if !screen.on_key(key) {
                        return Ok(ExitReason::Quit);
                    }
                    break;
                }
                Input::Event(TerminalEvent::Resize(..)) => break,
                Input::Closed => return Ok(ExitReason::TerminalClosed),
                Input::Ground(ground) => screen.theme = screen.theme.with_palette(Palette::of_ground(ground)),
                Input::Event(_) | Input::KeyboardProtocol => {}
            }
        }
    }
}

/// `4x`, `1.5x`, `1/2x`.
fn speed_in_words(speed: f64) -> String {
    let slower = 1.0 / speed;
    if speed < 1.0 && (slower - slower.round()).abs() < 1e-6 {
        return format!("1/{slower:.0}x");
    }
    format!("{}x", (speed * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LayerShape, Outcome, Shape, TraceReader, TraceRecorder};
    use crate::telemetry::LayerCost;
    use crossterm::event::{KeyCode, KeyModifiers};

    fn screen() -> ReplayScreen {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layers = vec![LayerShape { n_experts: 16, slot_bytes: 1 << 20 }; 4];
        let name = "evil\u{1b}[2J model".to_owned();
        let shape = Shape { name, n_used: 2, dense_bytes: 8 << 20, layers };
        let recorder = TraceRecorder::create(file.path(), &shape).unwrap();
        for pass in 0..20 {
            recorder.pass(1);
            for layer in 0..4 {
                recorder.token_layer(layer, [(pass % 15, 0.25), (15, 0.75)].into_iter());
                let [stall, compute] = [200, 300].map(Duration::from_micros);
                recorder.cost(layer, LayerCost { compute, stall: Some(stall), read_bytes: Some(1 << 20) });
            }
            std::thread::sleep(Duration::from_millis(1));
            recorder.end_pass(Outcome::Whole);
        }
        let player = Player::read(TraceReader::open(file.path()).unwrap(), Some(32 << 20)).unwrap();
        ReplayScreen::new(player, Theme::dark(ColorDepth::True))
    }

    fn press(screen: &mut ReplayScreen, code: KeyCode) -> bool {
        screen.on_key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn text(screen: &mut ReplayScreen, columns: u16, rows: u16) -> String {
        let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
        screen.draw(buffer.area, &mut buffer);
        let lines = buffer.content().chunks(usize::from(columns).max(1));
        lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
    }

    #[test]
    fn a_speed_is_told_as_it_is() {
        assert_eq!([64.0, 4.0, 1.0, 1.5, 2.25].map(speed_in_words), ["64x", "4x", "1x", "1.5x", "2.25x"]);
        assert_eq!([0.5, 0.125, 0.3].map(speed_in_words), ["1/2x", "1/8x", "0.3x"]);
    }

    #[test]
    fn keys_pause_step_seek_and_change_the_speed() {
        let mut s = screen();
        press(&mut s, KeyCode::Char(' '));
        s.pass(Duration::from_secs(60));
        assert_eq!(s.player.n_done(), 0, "it is paused");
        press(&mut s, KeyCode::Char('.'));
        press(&mut s, KeyCode::Char('.'));
        press(&mut s, KeyCode::Char(','));
        assert_eq!(s.player.n_done(), 1);
        for _ in 0..20 {
            press(&mut s, KeyCode::Char('+'));
        }
        assert!((s.speed - FASTEST).abs() < 1e-9);
        press(&mut s, KeyCode::Char(']'));
        assert!(s.player.is_over());
        press(&mut s, KeyCode::Char('['));
        assert_eq!(s.player.n_done(), 0);
        press(&mut s, KeyCode::Char(' '));
        s.pass(Duration::from_secs(60));
        assert!(s.player.is_over());
        assert!(press(&mut s, KeyCode::Esc) && !press(&mut s, KeyCode::Char('q')));
    }

    #[test]
    fn the_panels_own_keys_work_in_a_replay() {
        let mut s = screen();
        press(&mut s, KeyCode::Char(']'));
        press(&mut s, KeyCode::Left);
        assert_eq!(s.panel.token, Some(18));
        press(&mut s, KeyCode::Enter);
        let shown = text(&mut s, 100, 40);
        assert!(shown.contains("token 18") && shown.contains("15 .75    3!.25"), "{shown}");
        assert!(shown.contains("  2    0.50    0.20 1.00 MiB"), "{shown}");
    }

    #[test]
    fn a_replay_can_be_drawn_at_every_size_in_every_state() {
        let mut s = screen();
        s.play_to(Duration::from_secs(1));
        for keys in ["", "\n", "x", "f", "p", "?", "c"] {
            for key in keys.chars() {
                press(&mut s, if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) });
            }
            for columns in (0..90).step_by(7).chain([500]) {
                for rows in (0..50).step_by(3).chain([200]) {
                    let shown = text(&mut s, columns, rows);
                    assert!(!shown.contains('\u{1b}'));
                }
            }
        }
        assert!(text(&mut screen(), 20, 5).contains("20×5"));
    }

    #[test]
    fn pictures_and_casts_of_a_trace_say_what_it_is_of() {
        let svg = screen().picture(Duration::from_secs(1), (80, 30));
        assert!(svg.contains("replay") && !svg.contains('\u{1b}') && svg.len() < 100_000);
        let cast = screen().cast(Duration::from_secs(1), 1.0, (80, 30));
        let lines: Vec<serde_json::Value> = cast.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() > 1 && lines[0]["width"] == 80);
    }
}
