//! Agreement with the reference engine: logits, greedy continuations and perplexity, on every instruction set.

mod common;

use std::path::Path;

use serde_json::Value;
use wayinfer::kernel::{Isa, Kernels};
use wayinfer::sampler::{Sampler, SamplingParams};
use wayinfer::session::{EngineOptions, ReplyRequest, Session, Watch, bind_model, open_file};

/// A model's logits over `ids`, `[positions, n_vocab]`, and the greedy continuation of `n_greedy` ids.
fn run(path: &Path, isa: Isa, ids: &[u32], n_greedy: usize) -> (Vec<f32>, Vec<u32>) {
    let options = EngineOptions { isa: Some(isa), context: Some(512), ..EngineOptions::default() };
    let compute = options.compute().unwrap();
    let file = open_file(path).unwrap();
    let model = bind_model(path, &file).unwrap();
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
    let mut logits = Vec::new();
    session.all_logits(ids, watch.control(), &mut |_, rows| logits.extend_from_slice(rows)).unwrap();
    let mut greedy = Vec::new();
    let request = ReplyRequest {
        prompt: ids,
        max_tokens: Some(n_greedy),
        is_end: &|_| false,
        on_prompt: &mut |_| {},
        on_token: &mut |token| greedy.push(token),
    };
    session.reply(request, &mut Sampler::new(SamplingParams::greedy()), watch.control()).unwrap();
    (logits, greedy)
}

struct Expected {
    ids: Vec<u32>,
    n_vocab: usize,
    greedy: Vec<u32>,
    positions: Option<Vec<usize>>,
    repack_kl_mean: f64,
    logits: Vec<f32>,
}

fn expected(json: &Path) -> Expected {
    let value: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let numbers = |key: &str| -> Option<Vec<u32>> {
        Some(value[key].as_array()?.iter().map(|x| x.as_u64().unwrap() as u32).collect())
    };
    Expected {
        ids: numbers("ids").unwrap(),
        n_vocab: value["shape"][1].as_u64().unwrap() as usize,
        greedy: numbers("greedy").unwrap(),
        positions: numbers("positions").map(|p| p.into_iter().map(|p| p as usize).collect()),
        repack_kl_mean: value["repack_kl_mean"].as_f64().unwrap(),
        logits: common::read_f32(&json.with_extension("f32")),
    }
}

/// The bound on the mean KL divergence for a model file, by the format in its name.
fn bound(name: &str, expected: &Expected) -> f64 {
    match name.rsplit('-').next().unwrap() {
        "f32" => 1e-7,
        "F16" | "BF16" => 1e-6,
        _ => 2e-4f64.max(1.5 * expected.repack_kl_mean),
    }
}

/// Runs one model on every instruction set of this machine; what was found wrong, a line each.
fn disagreements(path: &Path, json: &Path) -> Vec<String> {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let expected = expected(json);
    let mut wrong = Vec::new();
    for isa in Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()) {
        let (logits, greedy) = run(path, isa, &expected.ids, expected.greedy.len());
        let kl = common::mean_kl(&expected.logits, &logits, expected.n_vocab);
        let bound = bound(name, &expected);
        println!("{name:<24} {isa:<7} mean KL {kl:.2e} of {bound:.0e}");
        if kl.is_nan() || kl > bound {
            wrong.push(format!("{name} on {isa}: mean KL {kl:.2e} is above {bound:.0e}"));
        }
        if name.ends_with("-f32") && greedy != expected.greedy {
            wrong.push(format!("{name} on {isa}: greedy {greedy:?}, expected {:?}", expected.greedy));
        }
    }
    wrong
}

#[test]
fn the_committed_models_give_the_reference_logits_on_every_isa() {
    for name in ["mixtral-Q4_K_M", "qwen2-Q4_K_M"] {
        let path = common::data(&format!("{name}.gguf"));
        let wrong = disagreements(&path, &path.with_extension("json"));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn all_tiny_models_give_the_reference_logits_on_every_isa() {
    let Some(folder) = common::shared("all tiny models", "conformance") else { return };
    let mut models: Vec<_> = std::fs::read_dir(folder.join("models")).unwrap().map(|e| e.unwrap().path()).collect();
    models.sort();
    assert!(models.len() >= 20, "only {} models", models.len());
    let json = |path: &Path| folder.join("logits").join(path.file_name().unwrap()).with_extension("json");
    let wrong: Vec<String> = models.iter().flat_map(|path| disagreements(path, &json(path))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn neither_threads_nor_batches_change_a_bit() {
    let path = common::data("mixtral-Q4_K_M.gguf");
    let ids: Vec<u32> = (0..100).map(|i| i * 37 % 500).collect();
    let logits = |threads, batch: usize| {
        let options = EngineOptions { threads: Some(threads), context: Some(128), ..EngineOptions::default() };
        let compute = options.compute().unwrap();
        let file = open_file(&path).unwrap();
        let model = bind_model(&path, &file).unwrap();
        let watch = Watch::unattended(&file, &model, options.prefetch);
        let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
        ids.chunks(batch).map(|ids| session.feed(ids, watch.control()).unwrap().to_vec()).last().unwrap()
    };
    let judge = logits(1, 100);
    for (threads, batch) in [(2, 100), (3, 100), (1, 1), (2, 7)] {
        assert_eq!(logits(threads, batch), judge, "{threads} threads, batches of {batch}");
    }
}

#[test]
fn the_real_models_give_the_reference_logits() {
    for file in ["SmolLM2-135M-Instruct.Q4_1.gguf", "qwen-0.5b-q4.gguf", "qwen-1.5b-q4.gguf"] {
        let Some(folder) = common::shared("real models", "conformance/logits") else { return };
        let Some(path) = common::real_model("real models", file) else { continue };
        let expected = expected(&folder.join(file.replace(".gguf", ".json")));
        let isa = Kernels::detect().isa();
        let (logits, _) = run(&path, isa, &expected.ids, 0);
        let row = |&p: &usize| &logits[p * expected.n_vocab..][..expected.n_vocab];
        let found: Vec<f32> = expected.positions.as_ref().unwrap().iter().flat_map(row).copied().collect();
        let kl = common::mean_kl(&expected.logits, &found, expected.n_vocab);
        println!("{file} {isa} mean KL {kl:.2e}");
        assert!(kl <= 5e-3, "{file}: mean KL {kl:.2e}");
    }
}
