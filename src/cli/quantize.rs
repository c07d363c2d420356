//! `wayinfer quantize`: a model file into another format.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::options::find_model;
use super::output::{self, Progress, usage};
use crate::pool::Pool;
use crate::quantize::{Mix, Options, quantize};

#[derive(Debug, Args)]
pub(super) struct QuantizeArgs {
    /// A GGUF file in F32, F16 or BF16, or any split of one
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The format, for example Q4_K_M, Q6_K or Q8_0
    #[arg(value_name = "TYPE")]
    ty: String,
    /// The same format for every matrix, without the mix's better ones
    #[arg(long)]
    pure: bool,
    /// Take weights that are quantized already, at a loss
    #[arg(long)]
    allow_requantize: bool,
    /// Write over OUT
    #[arg(long)]
    force: bool,
    /// Compute threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
}

pub(super) fn run(args: &QuantizeArgs) -> anyhow::Result<()> {
    let Some(mix) = Mix::of(&args.ty) else {
        let names: Vec<_> = Mix::ALL.iter().map(|mix| mix.name).collect();
        return Err(usage(format!("`{}` is no format to write; there are {}", args.ty, names.join(", "))));
    };
    anyhow::ensure!(
        args.force || !args.output.exists(),
        "{} exists; say --force to write over it",
        args.output.display()
    );
    let options = Options { mix, pure: args.pure, requantize: args.allow_requantize };
    let pool = Pool::new(args.threads.map(|n| n as usize))?;
    let began = Instant::now();
    let mut progress = Progress::new("MB");
    let show = |done: u64, total: u64| progress.show((done >> 20) as usize, (total >> 20) as usize);
    let summary = quantize(&find_model(&args.input)?, &args.output, options, &pool, show)?;
    drop(progress);
    let gb = |bytes: u64| bytes as f64 / 1e9;
    output::warn(&format!(
        "{}: {:.3} GB, from {:.3} GB in {:.1} s",
        args.output.display(),
        gb(summary.to_bytes),
        gb(summary.from_bytes),
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}
