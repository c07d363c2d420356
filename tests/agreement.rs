//! Agreement with the reference engine: logits, greedy continuations and perplexity, on every instruction set.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use wayinfer::gguf::writer::{TensorPlan, Writer};
use wayinfer::gguf::{Metadata, Value};
use wayinfer::kernel::{Isa, Kernels, KvFormat};
use wayinfer::quant::GgmlType;
use wayinfer::sampler::{Sampler, SamplingParams};
use wayinfer::session::{EngineOptions, ReplyRequest, Session, Watch, Words, bind_model, open_file};
use wayinfer::store::ModelFile;
use wayinfer::text::tokenizer::Special;

/// A model's logits over `ids`, `[positions, n_vocab]`, and the greedy continuation of `n_greedy` ids.
fn run(path: &Path, isa: Isa, ids: &[u32], n_greedy: usize) -> (Vec<f32>, Vec<u32>) {
    let options = EngineOptions { isa: Some(isa), context: Some(512), ..EngineOptions::default() };
    let compute = options.compute().unwrap();
    let file = open_file(path).unwrap();
    let model = bind_model(path, &file, &options).unwrap();
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
        on_token: &mut |token| {
            greedy.push(token);
            ControlFlow::Continue(())
        },
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
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
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

/// The logits after the last of 100 ids.
fn last_logits(isa: Isa, threads: usize, batch: usize) -> Vec<f32> {
    let path = common::data("mixtral-Q4_K_M.gguf");
    let ids: Vec<u32> = (0..100).map(|i| i * 37 % 500).collect();
    let options =
        EngineOptions { isa: Some(isa), threads: Some(threads), context: Some(128), ..EngineOptions::default() };
    let compute = options.compute().unwrap();
    let file = open_file(&path).unwrap();
    let model = bind_model(&path, &file, &options).unwrap();
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
    ids.chunks(batch).map(|ids| session.feed(ids, watch.control()).unwrap().to_vec()).last().unwrap()
}

#[test]
fn threads_change_no_bit_and_batches_only_the_rounding() {
    for isa in Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()) {
        for batch in [1, 7, 100] {
            let judge = last_logits(isa, 1, batch);
            for threads in [2, 3] {
                assert_eq!(last_logits(isa, threads, batch), judge, "{isa}, {threads} threads, batches of {batch}");
            }
            let whole = last_logits(isa, 1, 100);
            let kl = common::mean_kl(&whole, &judge, whole.len());
            // Products of many rows may sum floats in another order than dot products; nothing else may differ.
            let bound = if isa == Isa::Scalar { 0.0 } else { 2e-4 };
            assert!(kl.abs() <= bound, "{isa}, batches of {batch}: KL {kl:.1e} to one batch");
        }
    }
}

/// The logits after the last of 600 ids, which take two passes, alone and as the last of all.
fn logits_alone_and_among_all(name: &str, isa: Isa, kv: KvFormat) -> [Vec<f32>; 2] {
    let path = common::data(&format!("{name}.gguf"));
    let ids: Vec<u32> = (0..600).map(|i| i * 37 % 500).collect();
    let options = EngineOptions { isa: Some(isa), context: Some(640), kv, ..EngineOptions::default() };
    let compute = options.compute().unwrap();
    let file = open_file(&path).unwrap();
    let model = bind_model(&path, &file, &options).unwrap();
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
    let alone = session.feed(&ids, watch.control()).unwrap().to_vec();
    let mut among_all = Vec::new();
    let mut keep_last = |_: usize, rows: &[f32]| among_all = rows[rows.len() - alone.len()..].to_vec();
    session.all_logits(&ids, watch.control(), &mut keep_last).unwrap();
    [alone, among_all]
}

#[test]
fn the_last_layer_gives_the_last_token_alone_what_it_gives_it_among_all() {
    for name in ["mixtral-Q4_K_M", "qwen2-Q4_K_M"] {
        for isa in Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()) {
            for kv in KvFormat::ALL {
                let [alone, among_all] = logits_alone_and_among_all(name, isa, kv);
                let kl = common::mean_kl(&among_all, &alone, alone.len());
                let bound = if isa == Isa::Scalar { 0.0 } else { 2e-4 };
                assert!(kl.abs() <= bound, "{name} on {isa} with {kv}: KL {kl:.1e} to all logits");
            }
        }
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

/// Writes a Mixtral-style model beside a dense one of the `llama` architecture: every expert is a byte copy of the dense
/// FFN and the router is random, so that its answers must be the dense model's whatever is routed.
fn upcycle(dense: &Path, out: &Path, n_experts: usize) {
    let file = ModelFile::open(dense).unwrap();
    let mut metadata = Metadata::default();
    for (key, value) in file.gguf().metadata.iter() {
        metadata.insert(key.to_owned(), value.clone()).unwrap();
    }
    metadata.insert("llama.expert_count".into(), Value::U32(n_experts as u32)).unwrap();
    metadata.insert("llama.expert_used_count".into(), Value::U32(2)).unwrap();
    let n_embd = metadata.u64("llama.embedding_length").unwrap().unwrap();
    let mut plans = Vec::new();
    let mut pieces: Vec<Vec<&[u8]>> = Vec::new();
    let mut random = 1u64;
    let routers: Vec<Vec<u8>> = (0..file.gguf().tensors.len())
        .map(|_| {
            let next = |_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (((random >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.2).to_le_bytes()
            };
            (0..n_embd as usize * n_experts).flat_map(next).collect()
        })
        .collect();
    for (tensor, router) in file.gguf().tensors.iter().zip(&routers) {
        let bytes = file.tensor_bytes(tensor);
        let mut add = |name: String, shape: Vec<u64>, ty, copies| {
            plans.push(TensorPlan { name, shape, ty });
            pieces.push(copies);
        };
        if [".ffn_gate.", ".ffn_up.", ".ffn_down."].iter().any(|part| tensor.name.contains(part)) {
            let shape = [&tensor.shape[..], &[n_experts as u64]].concat();
            add(tensor.name.replace(".weight", "_exps.weight"), shape, tensor.ty, vec![bytes; n_experts]);
            if tensor.name.contains(".ffn_gate.") {
                let name = tensor.name.replace("ffn_gate", "ffn_gate_inp");
                add(name, vec![n_embd, n_experts as u64], GgmlType::F32, vec![&router[..]]);
            }
        } else {
            add(tensor.name.clone(), tensor.shape.clone(), tensor.ty, vec![bytes]);
        }
    }
    let mut writer = Writer::new(BufWriter::new(File::create(out).unwrap()), &metadata, &plans).unwrap();
    for (plan, pieces) in plans.iter().zip(&pieces) {
        pieces.iter().for_each(|piece| writer.write(&plan.name, piece).unwrap());
    }
    writer.finish().unwrap().flush().unwrap();
}

/// The token ids of a text, and `n` more that the model says after it, the likeliest every time.
fn continued(path: &Path, prompt: &str, n: usize) -> (Vec<u32>, Vec<u32>) {
    let file = open_file(path).unwrap();
    let n_vocab = bind_model(path, &file, &EngineOptions::default()).unwrap().hyperparameters().n_vocab;
    let ids = Words::read(path, &file, n_vocab).unwrap().tokenizer.encode(prompt, Special::Plain).unwrap();
    let (_, said) = run(path, Kernels::detect().isa(), &ids, n);
    (ids, said)
}

/// Of the upcycled model: more than it uses a token, so that which are chosen differs.
const N_EXPERTS: usize = 4;

#[test]
fn experts_that_are_copies_answer_as_the_dense_model() {
    let Some(dense) = common::real_model("upcycled experts", "SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("upcycled.gguf");
    upcycle(&dense, &path, N_EXPERTS);
    let prompts = [
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,",
        "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday. The days of the week are",
        "for i in range(10): print(i) # 0 1 2 3 4 5 6 7 8 9 for i in range(10):",
        "2, 4, 6, 8, 10, 12, 14, 16, 18, 20,",
        "Water boils at",
    ];
    let options = EngineOptions { context: Some(512), ..EngineOptions::default() };
    let compute = options.compute().unwrap();
    let file = open_file(&path).unwrap();
    let model = bind_model(&path, &file, &options).unwrap();
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
    for prompt in prompts {
        let (ids, said) = continued(&dense, prompt, 64);
        // Given the dense model's own text, the experts must choose its next token; left alone, rounding may fork them at
        // a near-tie and everything after differs.
        let fed = [&ids[..], &said[..said.len() - 1]].concat();
        let mut agreed = 0;
        session
            .all_logits(&fed, watch.control(), &mut |first, rows| {
                for (position, row) in (first..).zip(rows.chunks_exact(model.hyperparameters().n_vocab)) {
                    let Some(expected) = (position + 1).checked_sub(ids.len()).map(|i| said[i]) else { continue };
                    let likeliest = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                    agreed += usize::from(likeliest == expected as usize);
                }
            })
            .unwrap();
        println!("{prompt:?}: {agreed} of 64 tokens");
        assert!(agreed >= 60, "{prompt:?}: {agreed} of 64 tokens");
    }
    let n_layers = watch.experts.n_layers();
    let visited = |expert| (0..n_layers).filter(|&layer| watch.experts.uses(layer, expert) > 0).count();
    let layers: Vec<usize> = (0..N_EXPERTS).map(visited).collect();
    println!("layers in which each expert was used, of {n_layers}: {layers:?}");
    assert!(layers.iter().all(|&n| n > n_layers / 2), "{layers:?} of {n_layers}");
}

#[test]
fn perplexity_is_the_references() {
    let Some(folder) = common::shared("perplexity", "conformance/perplexity") else { return };
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(path) = common::real_model("perplexity", name) else { return };
    let output = assert_cmd::Command::cargo_bin("wayinfer")
        .unwrap()
        .envs(common::STRANGE_HOME)
        .args(["perplexity", path.to_str().unwrap(), folder.join("text.txt").to_str().unwrap(), "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let (found, expected) =
        (report["perplexity"].as_f64().unwrap(), expected["perplexity"][name]["value"].as_f64().unwrap());
    println!("{name}: perplexity {found:.4}, the reference's {expected:.4}");
    assert!((found / expected - 1.0).abs() <= 0.005, "perplexity {found}, expected {expected}");
}
