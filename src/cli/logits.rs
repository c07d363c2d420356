//! `wayinfer logits`: the logits of every position, for agreement tests against other engines.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::options::{Common, ModelArg, Screen};
use super::output::{self, Progress, usage};
use crate::session::{self, Session, Watch};

#[derive(Debug, Args)]
pub(super) struct LogitsArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Little-endian i32 token ids, fed from an empty context
    #[arg(long, value_name = "FILE")]
    ids_file: PathBuf,
    /// Where the logits go: little-endian f32, positions x vocabulary
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) fn logits(args: &LogitsArgs) -> anyhow::Result<()> {
    let path = args.model.required()?;
    let mut options = args.common.engine()?;
    args.common.start_log(Screen::Free)?;
    let ids = output::read_ids(&args.ids_file)?;
    if ids.is_empty() {
        return Err(usage(format!("{} holds no ids", args.ids_file.display())));
    }
    options.context.get_or_insert(ids.len());
    let compute = options.compute()?;
    let file = session::open_file(path)?;
    let model = session::bind_model(path, &file, &options)?;
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model))?;
    let name = args.out.display();
    let out = std::fs::File::create(&args.out).map_err(|e| anyhow::anyhow!("cannot write {name}: {e}"))?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, out);
    let mut progress = Progress::new("position");
    let mut failed = None;
    session.all_logits(&ids, watch.control(), &mut |position, rows| {
        progress.show(position, ids.len());
        let written = rows.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()));
        failed = failed.take().or(written.err());
    })?;
    let failed = failed.map_or_else(|| out.flush(), Err);
    failed.map_err(|e| anyhow::anyhow!("cannot write {name}: {e}"))
}
