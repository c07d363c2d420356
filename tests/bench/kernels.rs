//! Bytes of weights a second through each dot product, from memory and from cache, on one core and on two, beside a plain
//! read of the same memory in the same run: `cargo bench --bench kernels -- q4_k` runs the part that matches.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use wayinfer::kernel::{Isa, Kernels};
use wayinfer::quant::GgmlType;

/// More than any cache holds; a pass over it reads memory.
const MEMORY: usize = 1 << 30;
/// What one measurement reads of it, nearly.
const WINDOW: usize = 32 << 20;
/// What fits the second level of cache.
const CACHED: usize = 512 << 10;
/// Elements of a row: Mixtral's and Llama's width.
const N: usize = 4096;

/// One value everywhere: the kernels' speed does not depend on data, but a subnormal float would cost an assist.
static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0x2C; MEMORY]);

fn main() {
    divan::main();
}

/// Consecutive windows of the memory, so that none is in cache when its turn comes.
fn next_window(bytes: usize) -> &'static [u8] {
    static AT: AtomicUsize = AtomicUsize::new(0);
    let start = AT.fetch_add(WINDOW, Ordering::Relaxed) % MEMORY;
    &WEIGHTS[start..start + bytes]
}

#[derive(Clone, Copy)]
struct Case {
    ty: GgmlType,
    kernels: Kernels,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.ty.name().to_lowercase(), self.kernels.isa())
    }
}

/// Every computable format on every instruction set that has dot products of its own.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable()) {
        for kernels in [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().filter_map(Kernels::new) {
            cases.push(Case { ty, kernels });
        }
    }
    cases
}

impl Case {
    fn row_bytes(&self) -> usize {
        self.ty.row_bytes(N as u64).expect("whole blocks") as usize
    }

    /// The bytes of as many whole rows as `bytes` hold.
    fn whole_rows(&self, bytes: usize) -> usize {
        bytes / self.row_bytes() * self.row_bytes()
    }
}

fn activations(case: &Case) -> Vec<u8> {
    let form = case.ty.activation_form().expect("a computable format");
    let x: Vec<f32> = (0..N).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut out = vec![0; form.row_bytes(N)];
    case.kernels.quantize(form, &x, &mut out);
    out
}

fn dot_rows(case: &Case, weights: &[u8], activations: &[u8]) {
    // As many rows as a thread takes at a time.
    let mut out = [0.0; 64];
    for rows in weights.chunks(out.len() * case.row_bytes()) {
        let out = &mut out[..rows.len() / case.row_bytes()];
        case.kernels.dot_rows(case.ty, N, rows, activations, out);
        black_box(out);
    }
}

#[divan::bench(args = cases(), sample_count = 10, sample_size = 1, threads = [1, 2])]
fn from_memory(bencher: Bencher, case: &Case) {
    let activations = activations(case);
    let bytes = case.whole_rows(WINDOW);
    bencher.counter(BytesCount::new(bytes)).bench(|| dot_rows(case, next_window(bytes), &activations));
}

#[divan::bench(args = cases(), sample_count = 20, sample_size = 8)]
fn from_cache(bencher: Bencher, case: &Case) {
    let activations = activations(case);
    let weights = &WEIGHTS[..case.whole_rows(CACHED)];
    bencher.counter(BytesCount::new(weights.len())).bench(|| dot_rows(case, weights, &activations));
}

/// The same with four rows of activations, where each byte of weights counts four times.
#[divan::bench(args = cases(), sample_count = 20, sample_size = 4)]
fn four_from_cache(bencher: Bencher, case: &Case) {
    let activations = activations(case);
    let weights = &WEIGHTS[..case.whole_rows(CACHED)];
    bencher.counter(BytesCount::new(weights.len() * 4)).bench(|| {
        for row in weights.chunks_exact(case.row_bytes()) {
            black_box(case.kernels.dot4(case.ty, N, row, [&activations; 4]));
        }
    });
}

/// The roof: the same memory, read and summed.
#[divan::bench(sample_count = 30, sample_size = 1, threads = [1, 2])]
fn plain_read(bencher: Bencher) {
    bencher.counter(BytesCount::new(WINDOW)).bench(|| {
        let (words, _) = next_window(WINDOW).as_chunks::<8>();
        words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
    });
}
