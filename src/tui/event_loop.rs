//! The loop: waits for messages from the terminal, the engine, the system and the disk, lets the state take them, carries
//! out what it wants, and draws. It waits for nothing else; a burst of messages costs one frame.

mod away;
mod change;

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded, unbounded};
use crossterm::event::Event as TerminalEvent;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use crate::model::PlanOptions;
use crate::transcript::{Finished, Header, PromptHistory, Record, SessionFile, TranscriptWriter};
use crate::worker::{Command, Event, WorkerHandle};

use super::app::{Answer, App, Effect, Msg, Work};
use super::clipboard::{self, Between};
use super::markdown::highlight;
use super::outlook;
use super::output::{FrameBuffer, Progress, Synchronized};
use super::picker::{self, Scan};
use super::picture;
use super::reader::{Input, Questions, Reader};
use super::signals::{self, Notice, SignalThread};
use super::terminal::{self, Guard};
use super::theme::{ColorDepth, GroundQuestion, Theme};
use super::work::{self, Outcome, Places};
use super::{ChatOptions, Exit, ExitReason, Motion, TuiError, view};

/// Frames are at least this far apart: 60 a second.
const FRAME: Duration = Duration::from_micros(16_667);
/// What someone typed is shown sooner.
const ECHO: Duration = Duration::from_millis(4);
/// The panel takes a reading this often, or less often where the map would cost the line more bytes a second than this.
const READING: Duration = Duration::from_millis(200);
const CALM_READING: Duration = Duration::from_secs(1);
const LOCAL_BYTES_PER_SECOND: u32 = 256 << 10;
const REMOTE_BYTES_PER_SECOND: u32 = 32 << 10;
/// How often the screen looks at the gauges while something runs, and while nothing does.
const BUSY_TICK: Duration = Duration::from_millis(100);
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Messages of one kind taken before the next frame is drawn.
const MAX_BURST: usize = 4096;
/// Headers that are read for the list of models.
const MAX_OUTLOOKS: usize = 200;
/// How long the transcript may take to reach the disk at the end.
const SAVE_PATIENCE: Duration = Duration::from_secs(4);
/// A message is shown as said when the file has it, or when the disk has been waited for so long.
const SHOWN_LATEST: Duration = Duration::from_millis(300);
/// After coming back from the shell, news of that stop and its end may still be on their way.
const STOP_ECHO: Duration = Duration::from_millis(500);

pub(super) fn run(handle: WorkerHandle, mut options: ChatOptions) -> Result<Exit, TuiError> {
    let session = options.session.take();
    let header = || Header::new(options.system.clone(), options.sampling.json());
    // The state reads the session before the writer owns it, and the worker learns of its cache before it loads a model.
    let kept = |session: &&SessionFile| options.keep_kv || session.kv_path().exists();
    let kv_path = session.as_ref().filter(kept).map(SessionFile::kv_path);
    let earlier = session.as_ref().map(|session| (session.path().to_owned(), session.transcript().cloned()));
    let mut writer = match (session, &options.sessions_dir) {
        (Some(session), _) => Some(TranscriptWriter::resume(session, header()).map_err(TuiError::Thread)?),
        (None, Some(dir)) => Some(TranscriptWriter::start(dir.clone(), header()).map_err(TuiError::Thread)?),
        (None, None) => None,
    };
    if let Some(path) = kv_path {
        let _ = handle.commands.send(Command::KeepKv(Some(path)));
    }
    // Signals come first: one that arrived between the two would leave the terminal's modes on.
    let signals = SignalThread::start().map_err(TuiError::Thread)?;
    let guard = Guard::enter().map_err(|error| match error.kind() {
        std::io::ErrorKind::Unsupported => TuiError::NoTerminal(error),
        _ => TuiError::Terminal(error),
    })?;
    let env = |name: &str| std::env::var(name).ok();
    let theme = options.appearance.first_theme(env);
    let question = GroundQuestion::ask(env).filter(|_| theme.depth != ColorDepth::Mono);
    if let Some(question) = question {
        guard.write(question);
    }
    let questions = Questions { keyboard: env("TERM").as_deref() != Some("dumb"), ground: question.is_some() };
    let reader = Reader::start(questions).map_err(TuiError::Terminal)?;
    let outcome = Screen::new(handle, options, guard, signals, reader, &mut writer, theme).and_then(|mut screen| {
        if let Some(prompts) = &screen.prompts {
            screen.app.know_prompts(&prompts.read());
        }
        if let Some((path, Some(transcript))) = earlier {
            screen.app.resume(path, &transcript);
        }
        screen.run()
    });
    // The screen is dropped: the terminal is as it was. Only now the disk may take its time.
    let saved = writer.map_or_else(Finished::default, |writer| writer.finish(SAVE_PATIENCE));
    let reason = outcome?;
    let unsaved = saved.error.map(|error| match saved.rescued {
        Some(path) => {
            format!("the conversation could not be saved in its folder ({error}); it lies in {}", path.display())
        }
        None => format!("the end of the conversation could not be saved: {error}"),
    });
    Ok(Exit { reason, transcript: saved.path, unsaved, panic: terminal::take_panic() })
}

struct Screen<'a> {
    handle: WorkerHandle,
    synchronized: Synchronized,
    writer: &'a mut Option<TranscriptWriter>,
    guard: Guard,
    signals: SignalThread,
    reader: Reader,
    scans: (Sender<Scan>, Receiver<Scan>),
    places: Places,
    plan: Option<PlanOptions>,
    prompts: Option<PromptHistory>,
    outcomes: (Sender<Outcome>, Receiver<Outcome>),
    /// The person's own editor has the terminal.
    in_editor: bool,
    /// Where pictures went, or why they did not.
    pictures: (Sender<String>, Receiver<String>),
    terminal: Terminal<CrosstermBackend<FrameBuffer>>,
    frames: FrameBuffer,
    app: App,
    worker_gone: bool,
    dirty: bool,
    /// A message is being written: the frame that shows it waits for this, until then.
    writing: Option<(Receiver<()>, Instant)>,
    last_frame: Instant,
    next_frame: Instant,
    next_reading: Instant,
    reading: Duration,
    bytes_per_second: u32,
    next_tick: Instant,
    echoes_until: Instant,
    end: Option<ExitReason>,
}

impl<'a> Screen<'a> {
    fn new(
        handle: WorkerHandle,
        options: ChatOptions,
        guard: Guard,
        signals: SignalThread,
        reader: Reader,
        writer: &'a mut Option<TranscriptWriter>,
        theme: Theme,
    ) -> Result<Screen<'a>, TuiError> {
        let frames = FrameBuffer::default();
        let terminal = Terminal::new(CrosstermBackend::new(frames.clone())).map_err(TuiError::Terminal)?;
        let now = Instant::now();
        let remote = std::env::var_os("SSH_CONNECTION").is_some();
        let synchronized = options.appearance.synchronized;
        let reading = if options.appearance.motion == Motion::Off { CALM_READING } else { READING };
        let places = Places {
            sessions: options.sessions_dir.clone(),
            models: options.models.clone(),
            embedded: options.embedded.clone(),
            themes: options.appearance.themes.clone(),
        };
        let prompts = options.prompts.clone().map(PromptHistory::new);
        let plan = options.plan;
        let (app, effects) = App::new(options, theme, now);
        let mut screen = Screen {
            handle,
            synchronized,
            writer,
            guard,
            signals,
            reader,
            scans: bounded(4),
            places,
            plan,
            prompts,
            outcomes: unbounded(),
            in_editor: false,
            pictures: bounded(4),
            terminal,
            frames,
            app,
            worker_gone: false,
            dirty: true,
            writing: None,
            last_frame: now,
            next_frame: now,
            next_reading: now,
            reading,
            bytes_per_second: if remote { REMOTE_BYTES_PER_SECOND } else { LOCAL_BYTES_PER_SECOND },
            next_tick: now,
            echoes_until: now,
            end: None,
        };
        screen.carry_out(effects);
        Ok(screen)
    }

    fn run(mut self) -> Result<ExitReason, TuiError> {
        loop {
            if let Some(reason) = self.end {
                return Ok(reason);
            }
            self.wait();
            self.take_all();
            let now = Instant::now();
            if now >= self.next_tick {
                self.next_tick = now + if self.app.is_busy() { BUSY_TICK } else { IDLE_TICK };
                self.tell(Msg::Tick);
            }
            if self.frame_can_come() && self.end.is_none() && now >= self.next_frame.max(self.shown_at()) {
                self.draw(now);
            }
        }
    }

    /// There is something new to draw, and while the terminal still takes the frame before, the next one waits for it.
    fn frame_can_come(&self) -> bool {
        self.dirty && !self.in_editor && self.guard.is_idle()
    }

    /// Until when a frame waits for the file, which may have it sooner.
    fn shown_at(&self) -> Instant {
        self.writing.as_ref().map_or(self.last_frame, |(_, latest)| *latest)
    }

    /// Waits for a message, the next tick or the next frame.
    fn wait(&mut self) {
        let next_frame = self.next_frame.max(self.shown_at());
        let deadline = if self.frame_can_come() { next_frame.min(self.next_tick) } else { self.next_tick };
        let mut select = Select::new();
        select.recv(self.reader.inputs());
        select.recv(self.signals.notices());
        select.recv(&self.scans.1);
        select.recv(&self.outcomes.1);
        select.recv(&self.pictures.1);
        select.recv(self.guard.progress());
        if !self.worker_gone {
            select.recv(&self.handle.events);
        }
        if let Some(writer) = &*self.writer {
            select.recv(writer.status());
        }
        if let Some((written, _)) = &self.writing {
            select.recv(written);
        }
        let _ = select.ready_deadline(deadline);
    }

    /// Lets the state take every message that has arrived; what is typed comes first.
    fn take_all(&mut self) {
        while let Ok(notice) = self.signals.notices().try_recv() {
            self.on_signal(notice);
        }
        for _ in 0..MAX_BURST {
            match self.reader.inputs().try_recv() {
                Ok(Input::Event(TerminalEvent::Resize(..))) => self.dirty = true,
                Ok(Input::Event(event)) => {
                    self.next_frame = self.next_frame.min(self.last_frame + ECHO);
                    self.tell(Msg::Terminal(event));
                }
                Ok(Input::KeyboardProtocol) => self.guard.enable_keyboard_protocol(),
                Ok(Input::Ground(ground)) => self.tell(Msg::Ground(ground)),
                Ok(Input::Closed) => self.tell(Msg::TerminalClosed),
                Err(_) => break,
            }
            if self.end.is_some() {
                return;
            }
        }
        self.writing = self
            .writing
            .take()
            .filter(|(written, latest)| written.try_recv() == Err(TryRecvError::Empty) && Instant::now() < *latest);
        if let Some(panic) = terminal::take_panic() {
            self.tell(Msg::Panicked(panic));
        }
        for _ in 0..MAX_BURST {
            match self.handle.events.try_recv() {
                Ok(event) => {
                    // What is counted of a model is there when the model is.
                    if let Event::Loaded(_) = event {
                        self.app.observe(self.handle.telemetry.snapshot(), Instant::now());
                    }
                    self.tell(Msg::Worker(event));
                }
                Err(TryRecvError::Disconnected) if !self.worker_gone => {
                    self.worker_gone = true;
                    // The thread says why before its end of the channel falls.
                    if let Some(panic) = terminal::take_panic() {
                        self.tell(Msg::Panicked(panic));
                    }
                    self.tell(Msg::WorkerGone);
                }
                Err(_) => break,
            }
        }
        while let Ok(progress) = self.guard.progress().try_recv() {
            if progress == Progress::Failed {
                self.tell(Msg::TerminalClosed);
            }
        }
        while let Ok(scan) = self.scans.1.try_recv() {
            self.tell(Msg::Scanned(scan));
        }
        while let Ok(note) = self.pictures.1.try_recv() {
            self.dirty = true;
            self.app.notify(note, Instant::now());
        }
        while let Some(status) = self.writer.as_ref().and_then(|w| w.status().try_recv().ok()) {
            self.tell(Msg::Transcript(status));
        }
        while let Ok(outcome) = self.outcomes.1.try_recv() {
            self.take_outcome(outcome);
        }
    }

    fn tell(&mut self, msg: Msg) {
        self.dirty = true;
        let busy = self.app.is_busy();
        let effects = self.app.update(msg, Instant::now());
        if busy != self.app.is_busy() {
            // At the end too: the panel is to show the last figures soon.
            self.next_tick = self.next_tick.min(Instant::now() + if busy { READING } else { BUSY_TICK });
        }
        self.carry_out(effects);
    }

    fn on_signal(&mut self, notice: Notice) {
        match notice {
            // The editor takes the terminal back by itself.
            Notice::Continued if self.in_editor => {}
            Notice::Stop if self.in_editor => signals::stop(),
            Notice::End(signal) => self.tell(Msg::Terminate(signal)),
            Notice::Stop | Notice::Continued if Instant::now() < self.echoes_until => {}
            Notice::Stop => self.suspend(),
            // Something else stopped us, and may have changed the terminal.
            Notice::Continued => self.come_back(),
            Notice::Resized => self.dirty = true,
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(command) => self.send(command),
                Effect::Cancel => self.handle.cancel.store(true, Relaxed),
                Effect::Record(record) => self.record(record),
                Effect::Work(work) => self.work(work),
                Effect::Color { item, job } => {
                    let color = move || Answer::Colored { item, colored: highlight::color(job) };
                    self.on_a_thread(move || Some(Outcome::Answer(color())));
                }
                Effect::Open(name) => {
                    let places = self.places.clone();
                    self.on_a_thread(move || Some(Outcome::Opened(work::open(&name, &places))));
                }
                Effect::Begin { header, delete } => self.begin(*header, delete),
                Effect::Remember(prompt) => {
                    if let (Some(prompts), Some(writer)) = (self.prompts.clone(), &*self.writer) {
                        // Without it the prompt is only not found again by looking for it.
                        writer.after_saving(move || drop(prompts.add(&prompt)));
                    }
                }
                Effect::Copy(text) => {
                    let between = Between::detect(|name| std::env::var(name).ok());
                    self.guard.write(clipboard::sequence(&text, between));
                }
                Effect::EditText(text) => self.edit(text),
                Effect::Scan(dir) => {
                    let sender = self.scans.0.clone();
                    let (outcomes, plan, embedded) = (self.outcomes.0.clone(), self.plan, self.places.embedded.clone());
                    let scan = move || {
                        let scan = picker::scan(&dir);
                        let paths = scan.models.iter().map(|model| model.path.clone()).take(MAX_OUTLOOKS);
                        let paths: Vec<_> = paths.chain(embedded).collect();
                        let (true, Some(plan)) = (sender.send(scan).is_ok(), plan) else { return };
                        let mut rates = outlook::Rates::new(outlook::memory_rate(plan.n_threads));
                        for path in paths {
                            let outlook = outlook::of(&path, &plan, &mut rates);
                            if outcomes.send(Outcome::Answer(Answer::Outlook(path, outlook))).is_err() {
                                return;
                            }
                        }
                    };
                    if let Err(error) = thread::Builder::new().name("model search".into()).spawn(scan) {
                        let scan = Scan { error: Some(error.to_string()), ..Scan::default() };
                        let _ = self.scans.0.try_send(scan);
                    }
                }
                Effect::SetMouse(on) => self.guard.set_mouse(on),
                // Without an engine nothing is in memory.
                Effect::Pin(order) => drop(self.handle.pins.send(order)),
                Effect::Redraw => self.redraw(),
                Effect::SavePicture(shows) => {
                    let (sender, size) = (self.pictures.0.clone(), self.terminal.size().unwrap_or_default());
                    picture::save(&mut self.app, shows, size, Instant::now(), move |note| drop(sender.try_send(note)));
                }
                Effect::Suspend => self.suspend_by_key(),
                Effect::Quit(reason) => self.end = Some(reason),
            }
        }
    }

    /// Has a record written. What is seen to be said is to be found again, whatever becomes of this program: the next frame
    /// waits for it.
    fn record(&mut self, record: Record) {
        let Some(writer) = &*self.writer else { return };
        let is_said = matches!(record, Record::User { .. } | Record::Reply { .. });
        writer.append(record);
        if is_said {
            let (sender, written) = bounded(1);
            writer.after_writing(move || {
                let _ = sender.send(());
            });
            self.writing = Some((written, Instant::now() + SHOWN_LATEST));
        }
    }

    /// Hands a command to the worker. A conversation goes on when all that was said before is on the disk.
    fn send(&self, command: Command) {
        let commands = self.handle.commands.clone();
        // A worker that is gone is told by its events.
        match (&*self.writer, &command) {
            (Some(writer), Command::Generate { .. }) => writer.after_saving(move || drop(commands.send(command))),
            _ => drop(commands.send(command)),
        }
    }

    fn work(&mut self, work: Work) {
        let places = self.places.clone();
        self.on_a_thread(move || Some(Outcome::Answer(work::run(work, &places))));
    }

    /// Does something that the screen does not wait for.
    fn on_a_thread(&mut self, work: impl FnOnce() -> Option<Outcome> + Send + 'static) {
        let sender = self.outcomes.0.clone();
        let work = move || drop(work().map(|outcome| sender.send(outcome)));
        if let Err(error) = thread::Builder::new().name("work".into()).spawn(work) {
            let error = format!("a thread cannot be started: {error}");
            let _ = self.outcomes.0.send(Outcome::Answer(Answer::Told(Err(error))));
        }
    }

    fn take_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answer(answer) => {
                if let (Answer::Edited(_), true) = (&answer, self.in_editor) {
                    self.leave_editor();
                }
                self.tell(Msg::Answer(answer));
            }
            Outcome::Opened(Err(error)) => self.tell(Msg::Answer(Answer::Told(Err(error)))),
            Outcome::Opened(Ok(session)) => self.go_on_with(*session),
        }
    }

    /// A terminal that refuses bytes has gone away.
    fn check(&mut self, result: &std::io::Result<()>) {
        if result.is_err() && self.end.is_none() {
            self.tell(Msg::TerminalClosed);
        }
    }

    fn redraw(&mut self) {
        // This clears the screen within the next frame, which is then a whole one. `Terminal::clear` would also ask the
        // terminal where its cursor is, and wait for the answer.
        if let Ok(size) = self.terminal.size() {
            let _ = self.terminal.resize(size.into());
        }
        self.frames.forget();
        self.dirty = true;
    }

    fn draw(&mut self, now: Instant) {
        self.dirty = false;
        self.last_frame = now;
        self.next_frame = now + FRAME;
        let read_gauges = now >= self.next_reading;
        if read_gauges {
            self.app.observe(self.handle.telemetry.snapshot(), now);
        }
        let app = &mut self.app;
        let drawn = self.terminal.draw(|frame| view::draw(frame, app, now)).map(drop);
        let bytes = self.frames.take(self.synchronized);
        if read_gauges {
            let cost = Duration::from_secs(bytes.len() as u64) / self.bytes_per_second;
            self.next_reading = now + self.reading.max(cost);
        }
        if !bytes.is_empty() {
            self.guard.write(bytes);
        }
        self.check(&drawn);
    }
}
