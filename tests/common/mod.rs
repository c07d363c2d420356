//! What the integration tests share: where the reference results are, and skipping with a reason.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::PathBuf;

/// The folder of expected results beside the checkout, or `None` with a SKIP line where it is absent.
pub fn shared(test: &str, part: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")).join(part);
    if path.exists() {
        return Some(path);
    }
    println!("SKIP {test}: ../shared/{part} is not there");
    None
}

/// A home without settings, models or conversations, for programs that are run: those of the person who tests are neither
/// read nor written.
pub const STRANGE_HOME: [(&str, &str); 4] = [
    ("HOME", env!("CARGO_TARGET_TMPDIR")),
    ("XDG_CONFIG_HOME", env!("CARGO_TARGET_TMPDIR")),
    ("XDG_DATA_HOME", env!("CARGO_TARGET_TMPDIR")),
    ("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR")),
];

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(name)
}

/// A real model in the folder that WAYINFER_TEST_MODELS names, or `None` with a SKIP line.
pub fn real_model(test: &str, file: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("WAYINFER_TEST_MODELS") else {
        println!("SKIP {test}: WAYINFER_TEST_MODELS names no folder of real models");
        return None;
    };
    let path = PathBuf::from(folder).join(file);
    if path.exists() {
        return Some(path);
    }
    println!("SKIP {test}: {} is not there", path.display());
    None
}

/// Mean over positions of the KL divergence from `expected` to `found`: both `[positions, n_vocab]` logits.
pub fn mean_kl(expected: &[f32], found: &[f32], n_vocab: usize) -> f64 {
    assert_eq!(expected.len(), found.len(), "different numbers of logits");
    let log_softmax = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        row.iter().map(|&x| f64::from(x - max) - sum.ln()).collect::<Vec<_>>()
    };
    let rows = expected.chunks_exact(n_vocab).zip(found.chunks_exact(n_vocab));
    let kl: f64 = rows
        .map(|(expected, found)| {
            let (p, q) = (log_softmax(expected), log_softmax(found));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        })
        .sum();
    kl / (expected.len() / n_vocab) as f64
}

/// Little-endian f32s of a file.
pub fn read_f32(path: &std::path::Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
