//! A budget is kept: whatever it is, the reply is the same and the program's memory stays within it, page cache of the
//! model included.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value as Json;
use wayinfer::gguf::writer::{TensorPlan, Writer};
use wayinfer::gguf::{Gguf, Metadata, Value};
use wayinfer::quant::GgmlType;

const N_LAYERS: u64 = 8;
const N_EXPERTS: u64 = 16;
const N_EMBD: u64 = 512;
const N_FF: u64 = 1024;
const N_KV: u64 = 128;

/// Writes a model of 220 MB, nearly all of it experts, whose weights are of no use to anybody but are plain numbers.
fn write_model(path: &Path) {
    let tiny = Gguf::open(common::data("mixtral-Q4_K_M.gguf")).unwrap();
    let mut metadata = Metadata::default();
    let numbers = [
        ("block_count", N_LAYERS),
        ("embedding_length", N_EMBD),
        ("feed_forward_length", N_FF),
        ("attention.head_count", 8),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 64),
        ("expert_count", N_EXPERTS),
        ("expert_used_count", 2),
        ("context_length", 4096),
    ];
    for (key, n) in numbers {
        metadata.insert(format!("llama.{key}"), Value::U32(n as u32)).unwrap();
    }
    for (key, value) in
        tiny.metadata.iter().filter(|(key, _)| numbers.iter().all(|(ours, _)| *key != format!("llama.{ours}")))
    {
        metadata.insert(key.to_owned(), value.clone()).unwrap();
    }
    let n_vocab = tiny.tensor("token_embd.weight").unwrap().shape[1];
    let mut plans = Vec::new();
    let mut add = |name: String, shape: &[u64], ty| plans.push(TensorPlan { name, shape: shape.to_vec(), ty });
    add("token_embd.weight".into(), &[N_EMBD, n_vocab], GgmlType::Q8_0);
    add("output.weight".into(), &[N_EMBD, n_vocab], GgmlType::Q8_0);
    add("output_norm.weight".into(), &[N_EMBD], GgmlType::F32);
    for layer in 0..N_LAYERS {
        for (name, shape) in [("attn_q", [N_EMBD, N_EMBD]), ("attn_k", [N_EMBD, N_KV]), ("attn_v", [N_EMBD, N_KV])] {
            add(format!("blk.{layer}.{name}.weight"), &shape, GgmlType::Q8_0);
        }
        add(format!("blk.{layer}.attn_output.weight"), &[N_EMBD, N_EMBD], GgmlType::Q8_0);
        for name in ["attn_norm", "ffn_norm"] {
            add(format!("blk.{layer}.{name}.weight"), &[N_EMBD], GgmlType::F32);
        }
        add(format!("blk.{layer}.ffn_gate_inp.weight"), &[N_EMBD, N_EXPERTS], GgmlType::F32);
        for (name, shape) in [("gate", [N_EMBD, N_FF]), ("up", [N_EMBD, N_FF]), ("down", [N_FF, N_EMBD])] {
            let shape = [shape[0], shape[1], N_EXPERTS];
            add(format!("blk.{layer}.ffn_{name}_exps.weight"), &shape, GgmlType::Q8_0);
        }
    }
    let file = std::fs::File::create(path).unwrap();
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, file), &metadata, &plans).unwrap();
    let mut random = 1u64;
    for TensorPlan { name, shape, ty } in &plans {
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random
        };
        let n = shape.iter().product::<u64>() as usize;
        let bytes: Vec<u8> = match ty {
            GgmlType::F32 if shape.len() == 1 => std::iter::repeat_n(1f32.to_le_bytes(), n).flatten().collect(),
            GgmlType::F32 => {
                (0..n).flat_map(|_| ((next() >> 40) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()).collect()
            }
            _ => {
                // A scale of 2^-10 in f16, and 32 signed bytes.
                let block = |_| {
                    std::iter::once([0x00, 0x14])
                        .flatten()
                        .chain((0..4).flat_map(|_| next().to_le_bytes()).collect::<Vec<_>>())
                };
                (0..n / 32).flat_map(block).collect()
            }
        };
        writer.write(name, &bytes).unwrap();
    }
    let file = writer.finish().unwrap().into_inner().unwrap();
    file.sync_all().unwrap();
}

/// A memory cgroup of this test's own, to see what the kernel charges.
struct Cgroup {
    folder: PathBuf,
    members: &'static str,
    peak: &'static str,
}

impl Cgroup {
    /// `None` where none can be made.
    fn new() -> Option<Cgroup> {
        let name = format!("wayinfer-test-{}", std::process::id());
        let v1 = ("/sys/fs/cgroup/memory", "tasks", "memory.max_usage_in_bytes");
        let v2 = ("/sys/fs/cgroup", "cgroup.procs", "memory.peak");
        [v1, v2].into_iter().find_map(|(root, members, peak)| {
            let folder = Path::new(root).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let cgroup = Cgroup { folder, members, peak };
            // Of version 2 the controller may not be there.
            cgroup.folder.join(peak).exists().then_some(cgroup)
        })
    }

    fn peak(&self) -> u64 {
        std::fs::read_to_string(self.folder.join(self.peak)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// What a run printed, its peak resident set, and what the kernel charged for it where that is known.
fn run(model: &Path, ids: &Path, more: &[&str]) -> (Output, u64, Option<u64>) {
    // What the kernel holds of the model is charged to who reads it next.
    let file = std::fs::File::open(model).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let cgroup = Cgroup::new();
    let join = cgroup.as_ref().map_or("true".into(), |c| format!("echo $$ > {}", c.folder.join(c.members).display()));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{join}; exec \"$@\""), "sh"]).arg(cargo_bin("wayinfer")).arg("run").arg(model);
    command.arg("--ids-file").arg(ids).args(["--greedy", "--max-tokens", "40", "--ctx", "1024", "--json"]).args(more);
    let mut child = command.envs(common::STRANGE_HOME).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(3));
    }
    let charged = cgroup.as_ref().map(Cgroup::peak);
    (child.wait_with_output().unwrap(), peak, charged)
}

#[test]
fn every_budget_is_kept_and_changes_no_token() {
    let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let model = folder.path().join("model.gguf");
    write_model(&model);
    let n_bytes = std::fs::metadata(&model).unwrap().len();
    let ids = folder.path().join("ids");
    let numbers: Vec<u8> = (0..600i32).flat_map(|i| (i * 37 % 500).to_le_bytes()).collect();
    std::fs::File::create(&ids).unwrap().write_all(&numbers).unwrap();

    let json = |output: &Output| -> Json {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (judge, ..) = run(&model, &ids, &[]);
    let judge = json(&judge);
    assert!(judge["generate"]["tokens"].as_u64().unwrap() > 0);
    for share in [0.3, 0.5, 0.8, 1.0, 1.2] {
        for paging in ["auto", "mapped"] {
            let ram = (n_bytes as f64 * share) as u64;
            let (output, peak, charged) = run(&model, &ids, &["--ram", &ram.to_string(), "--paging", paging]);
            let report = json(&output);
            println!(
                "{share} of {n_bytes}, {paging}: resident {peak}, charged {charged:?}, hits {}, {}",
                report["paging"]["hit_rate"], report["paging"]["reason"]
            );
            assert_eq!(report["text"], judge["text"], "{share}");
            assert!(peak as f64 <= 1.03 * ram as f64, "{share}: {peak} of {ram} resident");
            // A page that leaves while it is read stays in the page cache for a while: a few, which weigh in a budget as
            // small as this one.
            let on_their_way = if paging == "mapped" { 8 << 20 } else { 0 };
            let most = 1.03 * ram as f64 + f64::from(on_their_way);
            match charged {
                Some(charged) => assert!(charged as f64 <= most, "{share}: {charged} of {ram} charged"),
                None => println!("SKIP the kernel's charge: no memory cgroup can be made here"),
            }
        }
    }
}
