//! The thread that owns the model: commands in, events out. Events are never lost; gauges go through `telemetry`.

mod beside;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

pub use crate::session::{PromptStats, ReplyStats, StopReason};

use self::beside::{SetOnDrop, pin_experts, sample_gauges};
use crate::model::{Compute, Model, Prefetch};
use crate::sampler::SamplingParams;
use crate::session::{
    self, Chat, ChatError, EngineError, EngineOptions, KvFile, LoadError, ReplySink, SaveError, SessionError, Watch,
    Words,
};
use crate::store::ModelFile;
use crate::telemetry::Telemetry;
use crate::transcript::{Message, Record};

/// What the screen asks of the engine.
#[derive(Debug, Clone)]
pub enum Command {
    /// Opens a model, letting go of the one before.
    Load(PathBuf),
    /// Keeps the conversation's KV cache in this file from now on: what is there and fits is used by the next model that is
    /// loaded; it is saved when nothing is asked for a while, and at the end.
    /// `None`: nowhere.
    KeepKv(Option<PathBuf>),
    /// Answers the conversation, whose last message is the user's, or goes on with the reply that is its last. What is
    /// already in the KV cache is not computed again. `max_tokens`: the most to generate; `None`: until the context is full.
    Generate { messages: Vec<Message>, sampling: SamplingParams, max_tokens: Option<usize> },
    /// What becomes of the recording of which experts are used.
    Trace(TraceOrder),
    /// Ends the thread.
    Quit,
}

/// Experts that are to stay in memory from now on, or may leave again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinOrder {
    /// Layers and experts.
    pub experts: Vec<(usize, usize)>,
    pub is_to_stay: bool,
}

/// What is to become of a recording for `wayinfer replay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceOrder {
    /// Into this new file from now on, until another model is opened; what was recorded before ends.
    Start(PathBuf),
    Stop,
    /// Say whether there is one.
    Tell,
}

/// What the engine tells the screen, in order.
#[derive(Debug, Clone)]
pub enum Event {
    Loaded(ModelSummary),
    LoadFailed {
        path: PathBuf,
        error: String,
    },
    /// Something the person should see, for example a fallback chat template.
    Warning(String),
    /// What was asked for has been done.
    Note(String),
    /// An expert is not pinned, and why.
    PinRefused(String),
    /// The reply has begun: the prompt's tokens, and how many of them were in the KV cache already.
    ReplyStarted {
        prompt_tokens: usize,
        reused_tokens: usize,
    },
    /// The prompt leaves the model's thinking open: the reply begins within it, without a tag. It comes before any text.
    ThinkingBegun,
    /// More text of the reply.
    Text {
        text: String,
        /// The number that the pass which reads its last token has in the log of tokens, should there be one; `None`:
        /// nobody counts.
        pass: Option<u64>,
    },
    ReplyFinished {
        stop: StopReason,
        stats: ReplyStats,
    },
    /// The conversation does not fit: nothing was computed. `droppable_turns`: how many of the oldest turns must go so that
    /// it fits; `None` where not even the last message fits alone.
    ContextFull {
        needed: usize,
        capacity: usize,
        droppable_turns: Option<usize>,
    },
    ReplyFailed(String),
}

/// What the screen shows of a loaded model.
#[derive(Debug, Clone, Default)]
pub struct ModelSummary {
    pub name: String,
    pub path: PathBuf,
    pub architecture: String,
    /// For example `Q4_K_M` or `mostly Q4_K`.
    pub quantization: String,
    pub parameters: u64,
    pub file_bytes: u64,
    pub n_layers: usize,
    /// 0 for a dense model.
    pub n_experts: usize,
    pub n_experts_used: usize,
    pub context_length: usize,
}

/// The screen's end of the worker.
#[derive(Debug)]
pub struct WorkerHandle {
    pub commands: Sender<Command>,
    /// Heard while a reply runs, too.
    pub pins: Sender<PinOrder>,
    pub events: Receiver<Event>,
    pub telemetry: Arc<Telemetry>,
    /// Set to stop the reply (or the load) within a layer's time; the worker clears it when it takes the next command.
    pub cancel: Arc<AtomicBool>,
}

/// Starts the worker. It ends when told to quit or when the handle is dropped.
pub fn spawn(options: EngineOptions) -> Result<WorkerHandle, EngineError> {
    let compute = options.compute()?;
    let (commands, inbox) = unbounded();
    let (outbox, events) = unbounded();
    let (pins, pin_orders) = unbounded();
    let telemetry = Arc::new(Telemetry::default());
    let cancel = Arc::new(AtomicBool::new(false));
    let worker = Worker {
        options,
        compute,
        inbox,
        pin_orders,
        outbox,
        telemetry: Arc::clone(&telemetry),
        cancel: Arc::clone(&cancel),
        kv_path: RefCell::default(),
        is_asked: AtomicBool::new(false),
        is_traced: Cell::new(false),
    };
    std::thread::Builder::new().name("worker".into()).spawn(move || worker.run()).map_err(EngineError::Thread)?;
    Ok(WorkerHandle { commands, pins, events, telemetry, cancel })
}

/// Waits until a worker whose handle is gone has ended: it may be saving. Returns the warnings that nobody has seen, or
/// `None` where it takes longer than `patience`.
pub fn wait_for_end(events: &Receiver<Event>, patience: Duration) -> Option<Vec<String>> {
    let deadline = Instant::now() + patience;
    let mut warnings = Vec::new();
    loop {
        match events.recv_deadline(deadline) {
            Ok(Event::Warning(text)) => warnings.push(text),
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => return Some(warnings),
            Err(RecvTimeoutError::Timeout) => return None,
        }
    }
}

struct Worker {
    options: EngineOptions,
    compute: Compute,
    inbox: Receiver<Command>,
    pin_orders: Receiver<PinOrder>,
    outbox: Sender<Event>,
    telemetry: Arc<Telemetry>,
    cancel: Arc<AtomicBool>,
    kv_path: RefCell<Option<KvPath>>,
    /// The model that is served has been asked for a reply.
    is_asked: AtomicBool,
    /// The file that the options name for a trace is that of a model that was loaded before.
    is_traced: Cell<bool>,
}

/// Where the KV cache is kept.
#[derive(Debug)]
struct KvPath {
    path: PathBuf,
    /// It is of the conversation as it was when the program started: later models find their own in it, or nothing.
    is_read: bool,
}

/// The KV cache of the model that is served, in its file.
struct Kept {
    file: KvFile,
    /// Whether the session has what the file has not.
    is_due: bool,
    /// What the last save cost; a first one is expected to cost nothing.
    seconds: f64,
}

impl Kept {
    /// How long nothing must be asked for before the cache is saved: a few seconds, and ten times what it costs, so that
    /// the disk is busy with it at most a tenth of the time.
    fn pause(&self) -> Duration {
        const PAUSE: Duration = Duration::from_secs(3);
        PAUSE.max(Duration::from_secs_f64((10.0 * self.seconds).min(600.0)))
    }
}

/// What the model's turn at the stack ended with.
enum Next {
    Load(PathBuf),
    Quit,
}

impl Worker {
    fn run(self) {
        let mut next = self.wait_for_model();
        while let Next::Load(path) = next {
            // A panic in the engine is a defect, and must not take the conversation on screen with it.
            let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.serve(&path)));
            next = match served {
                Ok(Ok(next)) => next,
                Ok(Err(error)) => self.load_failed(path, error.to_string()),
                Err(_) => self.load_failed(path, "the engine failed unexpectedly; the log has more".into()),
            };
        }
    }

    fn load_failed(&self, path: PathBuf, error: String) -> Next {
        self.telemetry.set_experts(None);
        self.telemetry.set_tokens(None);
        self.tell(Event::LoadFailed { path, error });
        self.wait_for_model()
    }

    /// A screen that is gone needs no events; the next receive ends the worker.
    fn tell(&self, event: Event) {
        let _ = self.outbox.send(event);
    }

    fn wait_for_model(&self) -> Next {
        loop {
            match self.inbox.recv() {
                Ok(Command::Load(path)) => return Next::Load(path),
                Ok(Command::KeepKv(path)) => self.keep_kv(path),
                Ok(Command::Trace(_)) => self.tell(Event::Warning("no model is loaded, so nothing is recorded".into())),
                Ok(Command::Generate { .. }) => self.tell(Event::ReplyFailed("no model is loaded".into())),
                Ok(Command::Quit) | Err(_) => return Next::Quit,
            }
        }
    }

    /// Loads a model and answers with it until another one is asked for. File, model and session live on this stack.
    fn serve(&self, path: &Path) -> Result<Next, EngineError> {
        let file = session::open_file(path)?;
        let model = session::bind_model(path, &file, &self.options)?;
        let words = Words::read(path, &file, model.hyperparameters().n_vocab)?;
        let watch =
            Watch::new(Arc::clone(&self.telemetry), Arc::clone(&self.cancel), &file, &model, self.options.prefetch);
        let watch = if self.is_traced.get() { watch } else { watch.record(&self.options, &file, &model)? };
        let mut chat = session::chat(&model, &self.compute, &words, &self.options)?;
        self.telemetry.kv_capacity.set(chat.session.capacity() as u64);
        let mut kept = self.kept(&mut chat, &file, &model);
        self.telemetry.kv_used.set(chat.session.cached().len() as u64);
        // Those were about the model before.
        self.pin_orders.try_iter().for_each(drop);
        self.tell(Event::Loaded(ModelSummary::new(path, &file, &model, chat.session.capacity())));
        if let Some(trace) = self.options.trace.as_ref().filter(|_| self.is_traced.replace(true)) {
            let trace = trace.display();
            self.tell(Event::Note(format!("{trace} is of the model before; /trace start FILE records this one")));
        }
        let warnings = words.warnings.iter().cloned().chain(model.plan().warnings());
        warnings.for_each(|w| self.tell(Event::Warning(w)));
        let (orders, outbox, is_asked) = (&self.pin_orders, &self.outbox, &self.is_asked);
        is_asked.store(false, Ordering::Relaxed);
        let (done, budget) = (AtomicBool::new(false), model.plan().budget.known());
        std::thread::scope(|scope| {
            // What every token needs is on its way while the person still types, then what it may need.
            scope.spawn(|| {
                session::read_in(&file, &model, &watch.telemetry, &done);
                if watch.prefetch == Prefetch::On {
                    model.experts().warm(|| done.load(Ordering::Relaxed) || is_asked.load(Ordering::Relaxed));
                }
            });
            scope.spawn(|| sample_gauges(&file, &watch, budget, &done));
            scope.spawn(|| pin_experts(model.experts(), orders, outbox, &done));
            let _stop_sampling = SetOnDrop(&done);
            Ok(self.answer(&mut chat, (&file, &model), watch.clone(), &mut kept))
        })
    }

    fn keep_kv(&self, path: Option<PathBuf>) {
        *self.kv_path.borrow_mut() = path.map(|path| KvPath { path, is_read: false });
    }

    /// The file of the KV cache, if one is wanted, and in `chat` what is in it, if it fits.
    fn kept(&self, chat: &mut Chat<'_>, file: &ModelFile, model: &Model<'_>) -> Option<Kept> {
        let mut wanted = self.kv_path.borrow_mut();
        let wanted = wanted.as_mut()?;
        let kept = Kept { file: KvFile::new(wanted.path.clone(), file, model), is_due: false, seconds: 0.0 };
        if !std::mem::replace(&mut wanted.is_read, true) {
            match kept.file.load(&mut chat.session) {
                Ok(_) | Err(LoadError::Absent) => {}
                Err(error) => self.tell(Event::Warning(format!(
                    "the saved KV cache {error}; the conversation is read again with the next message"
                ))),
            }
        }
        Some(kept)
    }

    fn answer(
        &self,
        chat: &mut Chat<'_>,
        (file, model): (&ModelFile, &Model<'_>),
        mut watch: Watch,
        kept: &mut Option<Kept>,
    ) -> Next {
        loop {
            let due = kept.as_mut().filter(|kept| kept.is_due);
            let command = match due {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(kept) => match self.inbox.recv_timeout(kept.pause()) {
                    Err(RecvTimeoutError::Timeout) => {
                        // A command that comes meanwhile does not wait for the disk.
                        self.save(chat, kept, &|| self.inbox.is_empty());
                        continue;
                    }
                    other => other,
                },
            };
            match command {
                Ok(Command::Generate { messages, sampling, max_tokens }) => {
                    self.cancel.store(false, Ordering::Relaxed);
                    self.is_asked.store(true, Ordering::Relaxed);
                    if let Err(error) = self.reply(chat, &messages, (&sampling, max_tokens), &watch) {
                        self.tell(Event::ReplyFailed(error.to_string()));
                    }
                    kept.iter_mut().for_each(|kept| kept.is_due = true);
                }
                Ok(Command::KeepKv(path)) => {
                    if let Some(kept) = kept.as_mut().filter(|kept| kept.is_due) {
                        self.save(chat, kept, &|| true);
                    }
                    self.keep_kv(path);
                    *kept = self.kept(chat, file, model);
                }
                Ok(Command::Trace(order)) => match trace(order, &mut watch, file, model) {
                    Ok(told) => self.tell(Event::Note(told)),
                    Err(error) => self.tell(Event::Warning(error.to_string())),
                },
                Ok(Command::Load(path)) => return Next::Load(path),
                Ok(Command::Quit) | Err(_) => {
                    if let Some(kept) = kept.as_mut().filter(|kept| kept.is_due) {
                        self.save(chat, kept, &|| true);
                    }
                    return Next::Quit;
                }
            }
        }
    }

    /// Saves the KV cache. Without it the conversation only takes longer to resume, so that a failure is told once and
    /// nothing more.
    fn save(&self, chat: &Chat<'_>, kept: &mut Kept, go_on: &dyn Fn() -> bool) {
        match kept.file.save(&chat.session, go_on) {
            Ok(saved) => (kept.is_due, kept.seconds) = (false, saved.seconds),
            Err(SaveError::Stopped) => {}
            Err(error) => {
                kept.is_due = false;
                self.tell(Event::Warning(format!(
                    "the KV cache could not be saved: {error}. The conversation is not affected; resuming it reads it again"
                )));
            }
        }
    }

    fn reply(
        &self,
        chat: &mut Chat<'_>,
        messages: &[Message],
        (sampling, max_tokens): (&SamplingParams, Option<usize>),
        watch: &Watch,
    ) -> Result<(), ChatError> {
        let now = jiff::Zoned::now().datetime();
        let prompt = chat.prompt(messages, now)?;
        let capacity = chat.session.capacity();
        // A prompt that just fits leaves no room for an answer.
        if prompt.len() >= capacity {
            let droppable_turns = chat.droppable_turns(messages, now)?;
            self.tell(Event::ContextFull { needed: prompt.len(), capacity, droppable_turns });
            return Ok(());
        }
        let thinks = chat.begins_with_thinking(&prompt);
        let sink = ReplySink {
            on_prompt: &mut |stats: PromptStats| {
                self.tell(Event::ReplyStarted {
                    prompt_tokens: stats.reused + stats.computed,
                    reused_tokens: stats.reused,
                });
                if thinks {
                    self.tell(Event::ThinkingBegun);
                }
            },
            on_text: &mut |text: &str| {
                self.tell(Event::Text { text: text.to_owned(), pass: Some(watch.tokens.n_tokens()) });
            },
        };
        match chat.reply(&prompt, sampling, max_tokens, watch.control(), sink) {
            Ok((stop, stats)) => self.tell(Event::ReplyFinished { stop, stats }),
            Err(ChatError::Session(SessionError::ContextFull { needed, capacity })) => {
                self.tell(Event::ContextFull { needed, capacity, droppable_turns: None });
            }
            Err(other) => return Err(other),
        }
        if let Err(error) = watch.check_trace() {
            self.tell(Event::Warning(error.to_string()));
        }
        Ok(())
    }
}

/// Starts or ends a recording, or says what is recorded.
fn trace(order: TraceOrder, watch: &mut Watch, file: &ModelFile, model: &Model<'_>) -> Result<String, EngineError> {
    let replay =
        |path: &Path| format!("`wayinfer replay {}` tells what other budgets would have made of it", path.display());
    Ok(match order {
        TraceOrder::Start(path) => {
            let before = match watch.start_trace(&path, file, model)? {
                Some(Ok(before)) => format!("The trace {} has ended. ", before.display()),
                Some(Err(error)) => format!("The trace before has ended, and is not whole: {error}. "),
                None => String::new(),
            };
            format!(
                "{before}Recording to {} which experts are used, until /trace stop; {}",
                path.display(),
                replay(&path)
            )
        }
        TraceOrder::Stop => match watch.stop_trace().transpose()? {
            Some(path) => format!("The trace {} is whole; {}", path.display(), replay(&path)),
            None => "Nothing was being recorded".to_owned(),
        },
        TraceOrder::Tell => match watch.finish_trace().map(|()| watch.trace_path())? {
            Some(path) => format!("Recording to {}; /trace stop ends it", path.display()),
            None => "Nothing is recorded; /trace start FILE records which experts are used".to_owned(),
        },
    })
}

/// What a transcript says of a model that was loaded.
pub fn model_record(summary: &ModelSummary) -> Record {
    Record::Model {
        name: summary.name.clone(),
        path: summary.path.to_string_lossy().into_owned(),
        quantization: summary.quantization.clone(),
    }
}

impl ModelSummary {
    pub fn new(path: &Path, file: &ModelFile, model: &Model<'_>, context_length: usize) -> ModelSummary {
        let gguf = file.gguf();
        let h = model.hyperparameters();
        let file_name = || path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        ModelSummary {
            name: gguf.metadata.str("general.name").ok().flatten().map_or_else(file_name, str::to_owned),
            path: path.to_owned(),
            architecture: h.architecture.name.to_owned(),
            quantization: main_format(file),
            parameters: gguf.parameters(),
            file_bytes: gguf.file_bytes(),
            n_layers: h.n_layers,
            n_experts: h.moe.map_or(0, |moe| moe.n_experts),
            n_experts_used: h.moe.map_or(0, |moe| moe.n_used),
            context_length,
        }
    }
}

/// The format that holds most of the bytes, in words.
fn main_format(file: &ModelFile) -> String {
    let mut bytes = std::collections::BTreeMap::new();
    for tensor in &file.gguf().tensors {
        *bytes.entry(tensor.ty).or_insert(0u64) += tensor.n_bytes;
    }
    let most = bytes.iter().max_by_key(|&(_, n)| n).map(|(ty, _)| *ty);
    most.map_or_else(String::new, |ty| if bytes.len() == 1 { ty.to_string() } else { format!("mostly {ty}") })
}
