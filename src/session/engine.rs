//! A model file opened for use: the file, its tokenizer and chat format, and what computes it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Chat, Session};
use crate::kernel::{Isa, Kernels, KvFormat};
use crate::model::{Compute, Control, KvCacheError, KvParams, Model, ModelError, PlanOptions, Prefetch};
use crate::pool::{Pool, PoolError};
use crate::store::{self, Budget, ModelFile, PagingChoice, StoreError, System, TraceRecorder};
use crate::telemetry::{ExpertMap, Telemetry, TokenLog};
use crate::text::chat::{self, ChatFormat};
use crate::text::tokenizer::{Tokenizer, TokenizerError};

/// How the engine is set up, whatever the model.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Compute threads; `None`: as many as the machine has.
    pub threads: Option<usize>,
    /// Positions of context; `None`: the model's own, as far as they fit.
    pub context: Option<usize>,
    /// The format of the KV cache.
    pub kv: KvFormat,
    /// The instruction set; `None`: the best there is.
    pub isa: Option<Isa>,
    /// How expert weights arrive.
    pub paging: PagingChoice,
    /// Whether experts are guessed and read before the router has chosen.
    pub prefetch: Prefetch,
    /// Bytes of memory to keep to; `None`: what the machine and its limits leave.
    pub ram: Option<u64>,
    /// Where to record which experts are used.
    pub trace: Option<PathBuf>,
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("this CPU has no {0} kernels; the best it has is {best}", best = Kernels::detect().isa())]
    Isa(Isa),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("cannot start the worker's thread: {0}")]
    Thread(io::Error),
    #[error("cannot write the trace {}: {source}", path.display())]
    Trace { path: PathBuf, source: io::Error },
    #[error(transparent)]
    KvCache(#[from] KvCacheError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: ModelError },
    #[error("{}: {source}", path.display())]
    Tokenizer { path: PathBuf, source: TokenizerError },
    #[error("{}: {source}", path.display())]
    Template { path: PathBuf, source: chat::ChatError },
    #[error("{}: the model has {n_model} tokens and its tokenizer {n_tokenizer}", path.display())]
    Vocabulary { path: PathBuf, n_model: usize, n_tokenizer: usize },
}

impl EngineOptions {
    /// The kernels and threads asked for.
    pub fn compute(&self) -> Result<Compute, EngineError> {
        store::return_large_buffers();
        let kernels = match self.isa {
            None => Kernels::detect(),
            Some(isa) => Kernels::new(isa).ok_or(EngineError::Isa(isa))?,
        };
        Ok(Compute { kernels, pool: Pool::new(self.threads)? })
    }

    /// What these options and the system say about memory.
    pub fn plan(&self) -> PlanOptions {
        PlanOptions {
            budget: Budget::new(self.ram, System::discover().spare()),
            context: self.context,
            kv: self.kv,
            n_threads: Pool::threads_for(self.threads),
            isa: self.isa.unwrap_or_else(|| Kernels::detect().isa()),
            most_experts: u64::MAX,
        }
    }

    /// The KV cache for a model.
    pub fn kv_for(&self, model: &Model<'_>) -> KvParams {
        KvParams { capacity: model.plan().context, format: self.kv }
    }
}

/// The words of a model: its tokenizer and chat format, and what the person should know about them.
#[derive(Debug)]
pub struct Words {
    pub tokenizer: Tokenizer,
    pub format: ChatFormat,
    pub warnings: Vec<String>,
}

impl Words {
    /// Reads tokenizer and chat template from the metadata of a model with `n_vocab` rows of embedding.
    pub fn read(path: &Path, file: &ModelFile, n_vocab: usize) -> Result<Words, EngineError> {
        let path = path.to_owned();
        let (tokenizer, mut warnings) = Tokenizer::from_metadata(&file.gguf().metadata)
            .map_err(|source| EngineError::Tokenizer { path: path.clone(), source })?;
        if tokenizer.n_vocab() > n_vocab {
            return Err(EngineError::Vocabulary { path, n_model: n_vocab, n_tokenizer: tokenizer.n_vocab() });
        }
        let (format, more) = ChatFormat::from_metadata(&file.gguf().metadata, &tokenizer)
            .map_err(|source| EngineError::Template { path, source })?;
        warnings.extend(more);
        Ok(Words { tokenizer, format, warnings })
    }
}

/// Opens `path` and binds its model to the file, on the caller's stack: the file must outlive the model.
pub fn open_file(path: &Path) -> Result<ModelFile, EngineError> {
    Ok(ModelFile::open(path)?)
}

/// The model in an opened file.
pub fn bind_model<'f>(path: &Path, file: &'f ModelFile, options: &EngineOptions) -> Result<Model<'f>, EngineError> {
    let model = Model::new(file, options.paging, &options.plan());
    model.map_err(|source| EngineError::Model { path: path.to_owned(), source })
}

/// Reads in what every token needs, until it is there or `stop` says so, and shows in the telemetry how far it has come
/// where it takes longer than a moment.
pub fn read_in(file: &ModelFile, model: &Model<'_>, telemetry: &Telemetry, stop: &AtomicBool) {
    const MOMENT: Duration = Duration::from_millis(500);
    let (began, total, done) = (Instant::now(), model.plan().dense, AtomicU64::new(0));
    file.read_dense(model.kept_dense_bytes(), stop, |n_bytes| {
        let done = done.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
        if began.elapsed() >= MOMENT {
            telemetry.loading_total.set(total);
            telemetry.loading_done.set(done);
        }
    });
    telemetry.loading_done.clear();
    telemetry.loading_total.clear();
    model.experts().drop_mapped();
    tracing::info!("{} bytes of weights were read in within {:?}", done.into_inner(), began.elapsed());
}

/// What an engine is watched and stopped through.
#[derive(Debug, Clone)]
pub struct Watch {
    pub telemetry: Arc<Telemetry>,
    pub cancel: Arc<AtomicBool>,
    pub experts: Arc<ExpertMap>,
    pub tokens: Arc<TokenLog>,
    pub prefetch: Prefetch,
    trace: Option<Arc<TraceRecorder>>,
}

impl Watch {
    /// Puts the model's expert map and sizes into the telemetry.
    pub fn new(
        telemetry: Arc<Telemetry>,
        cancel: Arc<AtomicBool>,
        file: &ModelFile,
        model: &Model<'_>,
        prefetch: Prefetch,
    ) -> Watch {
        let experts = Arc::clone(model.expert_map());
        telemetry.set_experts(Some(Arc::clone(&experts)));
        let h = model.hyperparameters();
        let tokens = Arc::new(TokenLog::new(h.n_layers, h.moe.map_or(0, |moe| moe.n_used)));
        telemetry.set_tokens(Some(Arc::clone(&tokens)));
        telemetry.set_paging(model.hyperparameters().moe.map(|_| Arc::clone(model.experts().paging())));
        telemetry.file_bytes.set(file.gguf().file_bytes());
        Watch { telemetry, cancel, experts, tokens, prefetch, trace: None }
    }

    /// For work that nobody watches while it runs.
    pub fn unattended(file: &ModelFile, model: &Model<'_>, prefetch: Prefetch) -> Watch {
        Watch::new(Arc::default(), Arc::default(), file, model, prefetch)
    }

    /// Records from here on which experts are used, if the options name a file for it; what is in it is lost.
    pub fn record(
        mut self,
        options: &EngineOptions,
        file: &ModelFile,
        model: &Model<'_>,
    ) -> Result<Watch, EngineError> {
        if let Some(path) = &options.trace {
            let recorder = TraceRecorder::create(path, &model.trace_shape(file));
            let recorder = recorder.map_err(|source| EngineError::Trace { path: path.clone(), source })?;
            self.trace = Some(Arc::new(recorder));
        }
        Ok(self)
    }

    /// Records into a new file from here on. What was recorded before ends as by [`Watch::stop_trace`].
    ///
    /// # Errors
    /// The file is there already or cannot be made; then nothing changes.
    pub fn start_trace(
        &mut self,
        path: &Path,
        file: &ModelFile,
        model: &Model<'_>,
    ) -> Result<Option<Result<PathBuf, EngineError>>, EngineError> {
        let recorder = TraceRecorder::create_new(path, &model.trace_shape(file)).map_err(|source| {
            let source = match source.kind() {
                kind @ io::ErrorKind::AlreadyExists => io::Error::new(kind, "it is there already; name another file"),
                _ => source,
            };
            EngineError::Trace { path: path.to_owned(), source }
        })?;
        let before = self.stop_trace();
        self.trace = Some(Arc::new(recorder));
        Ok(before)
    }

    /// Ends the recording, if there is one: its path, or what kept it from being written whole.
    pub fn stop_trace(&mut self) -> Option<Result<PathBuf, EngineError>> {
        let finished = self.finish_trace();
        let trace = self.trace.take()?;
        Some(finished.map(|()| trace.path().to_owned()))
    }

    /// Where it is recorded.
    pub fn trace_path(&self) -> Option<&Path> {
        self.trace.as_deref().map(TraceRecorder::path)
    }

    /// Tells once what keeps the trace from being written whole.
    pub fn check_trace(&self) -> Result<(), EngineError> {
        let Some(trace) = &self.trace else { return Ok(()) };
        trace.check().map_err(|source| EngineError::Trace { path: trace.path().to_owned(), source })
    }

    /// Tells what kept the trace from being written whole.
    pub fn finish_trace(&self) -> Result<(), EngineError> {
        let Some(trace) = &self.trace else { return Ok(()) };
        trace.finish().map_err(|source| EngineError::Trace { path: trace.path().to_owned(), source })
    }

    pub fn control(&self) -> Control<'_> {
        Control {
            cancel: &self.cancel,
            telemetry: &self.telemetry,
            experts: &self.experts,
            tokens: &self.tokens,
            prefetch: self.prefetch,
            trace: self.trace.as_deref(),
        }
    }
}

/// A conversation with a model.
pub fn chat<'m>(
    model: &'m Model<'m>,
    compute: &'m Compute,
    words: &'m Words,
    options: &EngineOptions,
) -> Result<Chat<'m>, EngineError> {
    let session = Session::new(model, compute, options.kv_for(model))?;
    Ok(Chat { session, tokenizer: &words.tokenizer, format: &words.format })
}
