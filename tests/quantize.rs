//! Quantization against ggml: the plain formats byte for byte, the searched ones by their error, and whole files from
//! the command line. `tests/data/quantized/make.py` made what is expected.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use wayinfer::gguf::writer::{TensorPlan, Writer};
use wayinfer::gguf::{Array, Gguf, Metadata, Value};
use wayinfer::quant::GgmlType;

/// The generator of `make.py`: `n` numbers from -1 to 1 with 24 bits.
fn uniform(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
    .take(n)
    .collect()
}

const KINDS: [&str; 4] = ["bell", "tails", "shifted", "scaled"];

fn rows(kind: &str, n: usize, seed: u64) -> Vec<f32> {
    let scale = uniform(n / 32, seed + 1);
    let bell = uniform(4 * n, seed).chunks_exact(4).map(|u| (u[0] + u[1]) + (u[2] + u[3])).collect::<Vec<_>>();
    let shape = |(i, &x): (usize, &f32)| match kind {
        "bell" => x * 0.02,
        "tails" => x * x * x * 0.01,
        "shifted" => (x + 1.5) * 0.02,
        _ => x * scale[i / 32],
    };
    bell.iter().enumerate().map(shape).collect()
}

/// Rows of each kind, and blocks of 32 that are hard: zero, constant, ties, two largest, an outlier, tiny.
fn plain() -> Vec<f32> {
    let mut x: Vec<f32> = KINDS.iter().zip(7..).flat_map(|(kind, seed)| rows(kind, 512, seed)).collect();
    let block = |f: &dyn Fn(f32) -> f32| (0..32).map(|i| f(i as f32)).collect::<Vec<_>>();
    x.extend(block(&|_| 0.0));
    x.extend(block(&|_| 1.0));
    x.extend(block(&|i| i - 16.0));
    x.extend(block(&|i| (i - 15.5) / 2.0));
    x.extend(block(&|i| if i % 2.0 == 0.0 { -3.0 } else { 3.0 }));
    x.extend(block(&|i| if i == 9.0 { 3000.0 } else { 0.0 }));
    x.extend(block(&|i| (i - 16.0) * 1e-9));
    x.extend(block(&|i| (15.5 - i) / 2.0));
    x
}

fn quantized(ty: GgmlType, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0; ty.row_bytes(x.len() as u64).unwrap() as usize];
    ty.quantize(x, &mut out);
    out
}

fn rmse(ty: GgmlType, x: &[f32]) -> f64 {
    let mut back = vec![0.0; x.len()];
    ty.dequantize(&quantized(ty, x), &mut back);
    let squares: f64 = x.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / x.len() as f64).sqrt()
}

#[test]
fn the_plain_formats_have_the_bytes_of_the_reference_quantizer() {
    let x = plain();
    for ty in ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"] {
        let expected = fs::read(common::data(&format!("quantized/{ty}.bin"))).unwrap();
        let ty = GgmlType::ALL.into_iter().find(|t| t.name() == ty).unwrap();
        let found = quantized(ty, &x);
        assert_eq!(found.len(), expected.len(), "{ty}");
        for (i, pair) in found.chunks(ty.block_bytes()).zip(expected.chunks(ty.block_bytes())).enumerate() {
            assert_eq!(pair.0, pair.1, "{ty}, block {i}");
        }
    }
}

#[test]
fn the_searched_formats_have_errors_no_larger_than_the_references() {
    // ggml's errors over the same rows, one a kind.
    #[rustfmt::skip]
    let reference: [(GgmlType, [f64; 4]); 7] = [
        (GgmlType::Q2_K, [6.623262e-03, 2.059264e-02, 6.589351e-03, 1.883845e-01]),
        (GgmlType::Q3_K, [3.381297e-03, 7.974460e-03, 4.818687e-03, 9.575504e-02]),
        (GgmlType::Q4_K, [1.603619e-03, 4.445625e-03, 1.594975e-03, 4.474758e-02]),
        (GgmlType::Q5_K, [8.123056e-04, 2.467048e-03, 7.994518e-04, 2.264745e-02]),
        (GgmlType::Q6_K, [3.968888e-04, 1.186963e-03, 5.817588e-04, 1.099691e-02]),
        (GgmlType::IQ4_NL, [1.719549e-03, 4.511051e-03, 2.584185e-03, 4.762288e-02]),
        (GgmlType::IQ4_XS, [1.732176e-03, 4.558714e-03, 2.602519e-03, 4.813564e-02]),
    ];
    for (ty, errors) in reference {
        for ((kind, seed), error) in KINDS.iter().zip(100..).zip(errors) {
            let found = rmse(ty, &rows(kind, 64 * 256, seed));
            println!("{ty} {kind}: {:.4} of the reference's error", found / error);
            assert!(found <= error * 1.01, "{ty} {kind}: {found:e}, the reference has {error:e}");
            assert!(found > error * 0.5, "{ty} {kind}: {found:e} cannot be, the reference has {error:e}");
        }
    }
}

#[test]
fn any_values_can_be_quantized_and_zero_stays_zero() {
    for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_quantizable()) {
        assert_eq!(rmse(ty, &[0.0; 512]), 0.0, "{ty}");
        for hard in [f32::NAN, f32::INFINITY, -f32::INFINITY, f32::MAX, -f32::MAX, f32::MIN_POSITIVE, 1e-45, 70000.0] {
            for n_hard in [1, 255, 512] {
                let mut x = rows("bell", 512, 3);
                x[..n_hard].fill(hard);
                quantized(ty, &x);
            }
        }
        // The least scales of a half: what a search loses is no more than the value. The plain formats do as ggml does.
        let searched = ty.block_len() == 256 || ty == GgmlType::IQ4_NL;
        let tiny: Vec<f32> = rows("bell", 512, 5).iter().map(|x| x * 1e-6).collect();
        let size = (tiny.iter().map(|x| f64::from(x * x)).sum::<f64>() / 512.0).sqrt();
        assert!(!searched || rmse(ty, &tiny) <= size * 1.001, "{ty}: {:e} of {size:e}", rmse(ty, &tiny));
    }
}

/// A small llama of two layers with the tensors that the rules of the mixes speak of.
fn model(folder: &Path, ty: GgmlType) -> PathBuf {
    let mut metadata = Metadata::default();
    let mut put = |key: &str, value| metadata.insert(key.into(), value).unwrap();
    put("general.architecture", Value::String("llama".into()));
    put("general.name", Value::String("tiny".into()));
    put("tokenizer.ggml.tokens", Value::Array(Array::String(["abc", "<s>", "def"].map(String::from).into())));
    put("general.file_type", Value::U32(1));
    put("llama.block_count", Value::U32(8));
    put("llama.attention.head_count", Value::U32(8));
    put("llama.attention.head_count_kv", Value::U32(2));
    let mut plans = Vec::new();
    let mut plan =
        |name: &str, shape: &[u64], ty| plans.push(TensorPlan { name: name.into(), shape: shape.into(), ty });
    plan("token_embd.weight", &[256, 40], ty);
    for layer in 0..8 {
        for (name, shape) in
            [("attn_q", [256, 256]), ("attn_k", [256, 64]), ("attn_v", [256, 64]), ("attn_output", [256, 256])]
        {
            plan(&format!("blk.{layer}.{name}.weight"), &shape, ty);
        }
        plan(&format!("blk.{layer}.ffn_down.weight"), &[288, 256], ty);
        plan(&format!("blk.{layer}.ffn_up.weight"), &[256, 288], ty);
        plan(&format!("blk.{layer}.ffn_norm.weight"), &[256], GgmlType::F32);
        plan(&format!("blk.{layer}.ffn_gate_inp.weight"), &[256, 4], GgmlType::F32);
    }
    plan("output.weight", &[256, 40], ty);
    let path = folder.join("in.gguf");
    let mut writer = Writer::new(fs::File::create(&path).unwrap(), &metadata, &plans).unwrap();
    for (plan, seed) in plans.iter().zip(1..) {
        let x = rows("bell", plan.shape.iter().product::<u64>() as usize, seed);
        writer.write(&plan.name, &quantized(plan.ty, &x)).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn quantize(arguments: &[&str]) -> std::process::Output {
    Command::cargo_bin("wayinfer").unwrap().arg("quantize").args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_file_is_quantized_by_the_rules_of_its_mix() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(folder.path(), GgmlType::F16);
    let out = folder.path().join("out.gguf");
    let done = quantize(&[text(&input), text(&out), "Q4_K_M", "--threads", "2"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let (from, to) = (Gguf::open(&input).unwrap(), Gguf::open(&out).unwrap());
    let ty = |name: &str| to.tensor(name).unwrap().ty;
    assert_eq!(ty("output.weight"), GgmlType::Q6_K);
    assert_eq!(ty("token_embd.weight"), GgmlType::Q4_K);
    assert_eq!(ty("blk.3.attn_q.weight"), GgmlType::Q4_K);
    // More bits for the first and last eighth of the layers, and every third between.
    let values: Vec<_> = (0..8).map(|layer| ty(&format!("blk.{layer}.attn_v.weight"))).collect();
    let (high, low) = (GgmlType::Q6_K, GgmlType::Q4_K);
    assert_eq!(values, [high, low, low, high, low, low, high, high]);
    // Rows of 288 are no whole number of blocks of 256.
    assert_eq!(ty("blk.1.ffn_down.weight"), GgmlType::Q5_0);
    assert_eq!(ty("blk.0.ffn_down.weight"), GgmlType::Q8_0);
    for kept in ["blk.1.ffn_norm.weight", "blk.1.ffn_gate_inp.weight"] {
        let bytes = |path: &Path, gguf: &Gguf| {
            let tensor = gguf.tensor(kept).unwrap();
            fs::read(path).unwrap()[tensor.offset as usize..][..tensor.n_bytes as usize].to_vec()
        };
        assert_eq!(ty(kept), GgmlType::F32);
        assert_eq!(bytes(&input, &from), bytes(&out, &to), "{kept}");
    }
    assert_eq!(to.metadata.u32("general.file_type").unwrap(), Some(15));
    assert_eq!(to.metadata.u32("general.quantization_version").unwrap(), Some(2));
    assert_eq!(to.metadata.str("general.name").unwrap(), Some("tiny"));
    assert_eq!(to.tensors.len(), from.tensors.len());
}

#[test]
fn metadata_that_is_not_utf8_is_copied_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(folder.path(), GgmlType::F16);
    // As long as what stands there, so that nothing else moves: half characters, as some vocabularies hold.
    let mut bytes = fs::read(&input).unwrap();
    let mut replace = |old: &[u8], new: &[u8]| {
        let at = bytes.windows(old.len()).position(|found| found == old).unwrap();
        bytes[at..][..new.len()].copy_from_slice(new);
    };
    let (name, tokens): (&[u8], [&[u8]; 3]) = (b"t\xffn\xc3", [b"a\xe5\xb0", b"<s>", b"\xf0\x9f\x98"]);
    replace(b"tiny", name);
    replace(b"abc", tokens[0]);
    replace(b"def", tokens[2]);
    fs::write(&input, bytes).unwrap();
    let out = folder.path().join("out.gguf");
    let done = quantize(&[text(&input), text(&out), "Q8_0"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let written = fs::read(&out).unwrap();
    let holds = |wanted: &[u8]| written.windows(wanted.len()).any(|found| found == wanted);
    let string = |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text].concat();
    assert!(holds(&[&string(b"general.name")[..], &8u32.to_le_bytes(), &string(name)].concat()));
    assert!(holds(&tokens.map(string).concat()));
    // What is shown of them is still text.
    let shown = Gguf::open(&out).unwrap();
    assert_eq!(shown.metadata.str("general.name").unwrap(), Some("t\u{fffd}n\u{fffd}"));
    assert_eq!(shown.metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap(), ["a\u{fffd}", "<s>", "\u{fffd}"]);
}

#[test]
fn the_bytes_are_the_same_for_any_number_of_threads_and_those_of_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(folder.path(), GgmlType::F32);
    let run = |threads: &str| {
        let out = folder.path().join(format!("out-{threads}.gguf"));
        let done = quantize(&[text(&input), text(&out), "q5_1", "--pure", "--threads", threads]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::read(out).unwrap()
    };
    let (one, three) = (run("1"), run("3"));
    assert!(one == three, "threads change the file");
    let gguf = Gguf::parse(&one).unwrap();
    let tensor = gguf.tensor("blk.2.attn_k.weight").unwrap();
    let seed = 1 + gguf.tensors.iter().position(|t| t.name == tensor.name).unwrap() as u64;
    let expected = quantized(GgmlType::Q5_1, &rows("bell", tensor.n_elements() as usize, seed));
    assert_eq!(one[tensor.offset as usize..][..tensor.n_bytes as usize], expected);
    let leftovers: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(leftovers.len(), 3, "{leftovers:?}");
}

#[test]
fn what_cannot_be_quantized_says_so_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(folder.path(), GgmlType::F16);
    let out = folder.path().join("out.gguf");
    let refused = |arguments: &[&str], code: i32, words: &[&str]| {
        let done = quantize(arguments);
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!out.exists());
    };
    refused(&[text(&input), text(&out), "Q9_X"], 2, &["Q9_X", "Q4_K_M"]);
    refused(&[text(&input), text(&input), "Q8_0"], 1, &["in.gguf", "exists", "--force"]);
    refused(&[text(&input), text(&input), "Q8_0", "--force"], 1, &["in.gguf", "itself"]);
    refused(&[text(&input), "/nowhere/out.gguf", "Q8_0"], 1, &["/nowhere"]);

    // Cut off: refused by its header, before anything is written.
    let bytes = fs::read(&input).unwrap();
    let cut = folder.path().join("cut.gguf");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    refused(&[text(&cut), text(&out), "Q8_0"], 1, &["cut.gguf", "truncated"]);

    // Not a number, deep in a tensor.
    let gguf = Gguf::parse(&bytes).unwrap();
    let tensor = gguf.tensor("blk.3.attn_q.weight").unwrap();
    let mut poisoned = bytes.clone();
    poisoned[tensor.offset as usize + 2000..][..2].copy_from_slice(&0x7E00u16.to_le_bytes());
    let path = folder.path().join("nan.gguf");
    fs::write(&path, poisoned).unwrap();
    refused(&[text(&path), text(&out), "Q4_K_S"], 1, &["blk.3.attn_q.weight", "element 1000"]);

    // Quantized already.
    let small = folder.path().join("small.gguf");
    assert!(quantize(&[text(&input), text(&small), "Q8_0"]).status.success());
    refused(&[text(&small), text(&out), "Q4_0"], 1, &["Q8_0", "--allow-requantize"]);
    assert!(quantize(&[text(&small), text(&out), "Q4_0", "--allow-requantize"]).status.success());
    assert_eq!(Gguf::open(&out).unwrap().tensor("blk.0.attn_k.weight").unwrap().ty, GgmlType::Q4_0);
    let parts =
        fs::read_dir(folder.path()).unwrap().filter(|e| e.as_ref().unwrap().path().extension().unwrap() != "gguf");
    assert_eq!(parts.count(), 0, "a partial file was left");
}
