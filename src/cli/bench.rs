//! `wayinfer bench`: prompt and generation speed, measured as llama-bench does: uniformly random ids, an empty context
//! before every test, a warm-up, mean and deviation over repetitions.

use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::options::{Common, ModelArg, Screen};
use super::output::{self, Progress};
use crate::model::Control;
use crate::session::{self, Session, SessionError, Watch};
use crate::store::System;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Tokens of the prompt test; 0: none
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens of the generation test; 0: none
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    generate: usize,
    /// Tokens of context that are there before a test begins
    #[arg(short = 'd', long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Repetitions
    #[arg(short = 'r', long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Measure from the first token on
    #[arg(long)]
    no_warmup: bool,
    /// The figures as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

/// Speeds of the repetitions of one test, tokens a second.
#[derive(Debug)]
struct Speeds {
    tokens: usize,
    samples: Vec<f64>,
}

impl Speeds {
    fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len() as f64
    }

    /// Sample standard deviation; `None` for a single repetition.
    fn deviation(&self) -> Option<f64> {
        let mean = self.mean();
        let squares: f64 = self.samples.iter().map(|s| (s - mean).powi(2)).sum();
        (self.samples.len() > 1).then(|| (squares / (self.samples.len() - 1) as f64).sqrt())
    }

    fn json(&self) -> serde_json::Value {
        json!({ "tokens": self.tokens, "tok_s": self.mean(), "stddev": self.deviation(), "samples": self.samples })
    }

    fn line(&self, name: &str) -> String {
        let deviation = self.deviation().map_or(String::new(), |d| format!(" ± {d:.2}"));
        format!("{name:<9} {:>6} tokens  {:>9.2}{deviation} tok/s\n", self.tokens, self.mean())
    }
}

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let path = &args.model.required()?;
    let mut options = args.common.engine()?;
    args.common.start_log(Screen::Free)?;
    if options.context.is_none() {
        options.context = Some(args.depth + args.prompt.max(args.generate).max(WARM_PROMPT));
    }
    let began = Instant::now();
    let compute = options.compute()?;
    let file = session::open_file(path)?;
    let model = session::bind_model(path, &file, &options)?;
    let load_ms = began.elapsed().as_secs_f64() * 1000.0;
    let watch = Watch::unattended(&file, &model, options.prefetch).record(&options, &file, &model)?;
    output::tell_paging(&watch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model))?;
    let mut ids = Ids { state: 1, n_vocab: model.hyperparameters().n_vocab };
    let control = watch.control();
    session::read_in(&file, &model, &watch.telemetry, &watch.cancel);

    if !args.no_warmup {
        warm_up(&mut session, &mut ids, args, model.experts().is_whole(), control)?;
    }
    let mut progress = Progress::new("repetition");
    let (mut prompt, mut generate) = (Vec::new(), Vec::new());
    for i in 0..args.repetitions {
        progress.show(i as usize, args.repetitions as usize);
        if args.prompt > 0 {
            deepen(&mut session, &mut ids, args.depth, control)?;
            prompt.push(prompt_speed(&mut session, &mut ids, args.prompt, control)?);
        }
        if args.generate > 0 {
            deepen(&mut session, &mut ids, args.depth, control)?;
            generate.push(generate_speed(&mut session, &mut ids, args.generate, control)?);
        }
    }
    drop(progress);
    watch.finish_trace()?;
    let speeds = |tokens, samples: Vec<f64>| (!samples.is_empty()).then_some(Speeds { tokens, samples });
    let (prompt, generate) = (speeds(args.prompt, prompt), speeds(args.generate, generate));
    let isa = compute.kernels.isa();
    if args.json {
        output::print_json(&json!({
            "model": path.display().to_string(),
            "threads": compute.pool.n_threads(),
            "isa": isa.name(),
            "depth": args.depth,
            "kv": options.kv.name(),
            "kv_bytes": session.kv_bytes(),
            "prompt": prompt.as_ref().map(Speeds::json),
            "generate": generate.as_ref().map(Speeds::json),
            "load_ms": load_ms,
            "peak_rss_bytes": System::discover().process().peak_rss_bytes,
            "disk_read_bytes": System::discover().process().disk_read_bytes,
            "memory": output::plan_json(model.plan()),
            "paging": watch.telemetry.paging().map(|paging| output::paging_json(&paging.snapshot())),
        }))?;
    } else {
        let lines = [prompt.map(|s| s.line("prompt")), generate.map(|s| s.line("generate"))];
        output::print(&lines.into_iter().flatten().collect::<String>())?;
        let megabytes = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| format!("{:.0} MB", b as f64 / 1e6));
        output::warn(&format!(
            "{isa}, {} threads, loaded in {load_ms:.0} ms, peak memory {}, read from disk {}",
            compute.pool.n_threads(),
            megabytes(System::discover().process().peak_rss_bytes),
            megabytes(System::discover().process().disk_read_bytes),
        ));
    }
    Ok(())
}

/// Uniformly random ids, the same in every run.
struct Ids {
    state: u64,
    n_vocab: usize,
}

impl Ids {
    fn next(&mut self) -> u32 {
        // Knuth's MMIX generator; the high bits are good enough to spread tokens.
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.state >> 33) % self.n_vocab as u64) as u32
    }

    fn take(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Tokens that meet about all experts, of which llama-bench's warm-up meets all.
const WARM_PROMPT: usize = 64;

/// `whole`: every expert fits, so that one that was met stays.
fn warm_up(
    session: &mut Session<'_>,
    ids: &mut Ids,
    args: &BenchArgs,
    whole: bool,
    control: Control<'_>,
) -> Result<(), SessionError> {
    if args.prompt > 0 {
        prompt_speed(session, ids, args.prompt, control)?;
        session.clear();
    }
    if args.generate > 0 {
        if args.prompt == 0 && whole {
            prompt_speed(session, ids, WARM_PROMPT, control)?;
        }
        deepen(session, ids, args.depth, control)?;
        generate_speed(session, ids, 1, control)?;
    }
    Ok(())
}

/// Makes the context hold `depth` tokens: those of the last test that it still has, and new ones where they are too few.
fn deepen(session: &mut Session<'_>, ids: &mut Ids, depth: usize, control: Control<'_>) -> Result<(), SessionError> {
    session.keep(depth);
    let missing = depth - session.cached().len();
    if missing > 0 {
        session.feed(&ids.take(missing), control)?;
    }
    Ok(())
}

fn prompt_speed(session: &mut Session<'_>, ids: &mut Ids, n: usize, control: Control<'_>) -> Result<f64, SessionError> {
    let ids = ids.take(n);
    let began = Instant::now();
    session.feed(&ids, control)?;
    Ok(n as f64 / began.elapsed().as_secs_f64())
}

fn generate_speed(
    session: &mut Session<'_>,
    ids: &mut Ids,
    n: usize,
    control: Control<'_>,
) -> Result<f64, SessionError> {
    let began = Instant::now();
    for _ in 0..n {
        session.feed(&[ids.next()], control)?;
    }
    Ok(n as f64 / began.elapsed().as_secs_f64())
}
