//! `wayinfer perplexity`: exp of the mean negative log likelihood of a text, scored as llama-perplexity does: chunks of
//! the context's length, each from an empty context, only the second half of each counted.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::options::{Common, Screen};
use super::output::{self, Progress, usage};
use crate::session::{self, Session, Watch, Words};
use crate::text::tokenizer::Special;

#[derive(Debug, Args)]
pub(super) struct PerplexityArgs {
    /// The model, then the text
    #[arg(value_name = "MODEL> <FILE", num_args = 1..=2, required = true)]
    positional: Vec<PathBuf>,
    /// The model, as an option
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The figures as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

impl PerplexityArgs {
    /// Model and text.
    fn paths(&self) -> anyhow::Result<(&Path, &Path)> {
        match (&self.model, &self.positional[..]) {
            (None, [model, text]) | (Some(model), [text]) => Ok((model, text)),
            _ => Err(usage("perplexity takes one model and one text file")),
        }
    }
}

pub(super) fn perplexity(args: &PerplexityArgs) -> anyhow::Result<()> {
    let (path, text_path) = args.paths()?;
    let mut options = args.common.engine()?;
    args.common.start_log(Screen::Free)?;
    let n_ctx = *options.context.get_or_insert(512);
    if n_ctx < 4 {
        return Err(usage(format!("--ctx {n_ctx} is too short to score; use at least 4")));
    }
    let text = String::from_utf8(output::read_limited(text_path, 1 << 30)?)
        .map_err(|e| anyhow::anyhow!("{} is not UTF-8: {e}", text_path.display()))?;
    let compute = options.compute()?;
    let file = session::open_file(path)?;
    let model = session::bind_model(path, &file, &options)?;
    let words = Words::read(path, &file, model.hyperparameters().n_vocab)?;
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let bos = words.tokenizer.bos().filter(|_| words.tokenizer.add_bos());
    let ids: Vec<u32> = bos.into_iter().chain(words.tokenizer.encode(&text, Special::Plain)?).collect();
    let n_chunks = ids.len() / n_ctx;
    anyhow::ensure!(
        n_chunks > 0,
        "{} has {} tokens, fewer than one chunk of {n_ctx}; use a longer text or a smaller --ctx",
        text_path.display(),
        ids.len()
    );

    let mut session = Session::new(&model, &compute, options.kv_for(&model))?;
    let mut progress = Progress::new("chunk");
    let mut score = Score::default();
    for (i, chunk) in ids.chunks_exact(n_ctx).enumerate() {
        progress.show(i, n_chunks);
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        session.all_logits(&chunk, watch.control(), &mut |first, rows| {
            let n_vocab = model.hyperparameters().n_vocab;
            for (position, logits) in (first..).zip(rows.chunks_exact(n_vocab)) {
                if (n_ctx / 2..n_ctx - 1).contains(&position) {
                    score.add(negative_log_likelihood(logits, chunk[position + 1]));
                }
            }
        })?;
    }
    drop(progress);
    if args.json {
        output::print_json(&json!({
            "perplexity": score.perplexity(),
            "standard_error": score.standard_error(),
            "chunks": n_chunks,
            "tokens": score.n,
            "ctx": n_ctx,
        }))?;
    } else {
        output::print(&format!("{:.4} ± {:.4}\n", score.perplexity(), score.standard_error()))?;
    }
    Ok(())
}

/// Sums over the scored tokens.
#[derive(Debug, Default)]
struct Score {
    n: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Score {
    fn add(&mut self, nll: f64) {
        self.n += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }

    fn perplexity(&self) -> f64 {
        (self.sum / self.n as f64).exp()
    }

    /// Of the perplexity, from the spread of the tokens' likelihoods.
    fn standard_error(&self) -> f64 {
        let mean = self.sum / self.n as f64;
        let variance = (self.sum_of_squares / self.n as f64 - mean * mean).max(0.0);
        (variance / (self.n.max(2) - 1) as f64).sqrt() * self.perplexity()
    }
}

/// `-ln softmax(logits)[token]`.
fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_logits_have_the_perplexity_of_the_vocabulary() {
        let mut score = Score::default();
        (0..5).for_each(|t| score.add(negative_log_likelihood(&[3.0; 8], t)));
        assert!((score.perplexity() - 8.0).abs() < 1e-9);
        assert!(score.standard_error() < 1e-6);
    }
}
