//! Opens whatever the fuzzer makes up. Needs a nightly toolchain and `cargo install cargo-fuzz`:
//!
//! ```text
//! cargo test --release --test hostile -- --ignored     # writes the first corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz gguf
//! ```

#![no_main]

#[path = "../body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    body::open_everything(bytes);
});
