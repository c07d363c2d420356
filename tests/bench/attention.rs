//! Milliseconds of attention in a whole pass, with each format of the KV cache: `cargo bench --bench attention -- [FORMAT]
//! [ISA]`. The heads are those of Qwen2.5 1.5B, 28 layers of 12 heads that share 2 of keys and values, 128 elements each;
//! every layer has planes of its own, so that they come from memory. Columns are one token after 2048 and after 8192
//! positions, the latter also in GB/s of the cache, and 512 tokens after none and after 2048. Each is the best of a few runs.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::{Duration, Instant};

use wayinfer::kernel::{AttentionScratch, AttentionShape, Isa, Kernels, KvFormat, PLANE_POSITIONS, Planes};
use wayinfer::pool::Pool;

const N_LAYERS: usize = 28;
const N_HEADS: usize = 12;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 128;
const MAX_POSITIONS: usize = 8192 + PLANE_POSITIONS;
/// How long one figure may take, after the first run.
const PATIENCE: Duration = Duration::from_millis(400);

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        let of_kind = |isa: bool| filters.iter().filter(move |f| f.parse::<Isa>().is_ok() == isa);
        let is_isa = name.parse::<Isa>().is_ok();
        of_kind(is_isa).count() == 0 || of_kind(is_isa).any(|f| f.eq_ignore_ascii_case(name))
    };
    let pool = Pool::new(None).expect("threads");
    println!("{:<14}{:>9}{:>9}{:>9}{:>9}{:>9}", "milliseconds", "1@2048", "1@8192", "GB/s", "512@0", "512@2048");
    for format in KvFormat::ALL.into_iter().filter(|format| wanted(format.name())) {
        for kernels in [Isa::Avx2, Isa::Avx512, Isa::Amx].into_iter().filter_map(Kernels::new) {
            if wanted(kernels.isa().name()) {
                let cache = Cache::new(&kernels, format);
                let [short, long, prompt, late] =
                    [(1, 2048), (1, 8192), (512, 0), (512, 2048)].map(|(n, at)| cache.seconds(&kernels, &pool, n, at));
                let bytes = N_LAYERS * N_KV_HEADS * cache.position_bytes() * 8192;
                println!(
                    "{:<14}{:>9.2}{:>9.2}{:>9.1}{:>9.0}{:>9.0}",
                    format!("{format} {}", kernels.isa()),
                    short * 1e3,
                    long * 1e3,
                    bytes as f64 / long / 1e9,
                    prompt * 1e3,
                    late * 1e3
                );
            }
        }
    }
}

/// Keys and values of all layers.
struct Cache {
    shape: AttentionShape,
    /// `[layers, kv heads, planes]`
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Cache {
    fn new(kernels: &Kernels, format: KvFormat) -> Cache {
        let mut key = vec![0; format.key_plane_bytes(HEAD_DIM)];
        let mut value = vec![0; format.value_plane_bytes(HEAD_DIM)];
        for position in 0..PLANE_POSITIONS {
            let x: Vec<f32> = (0..HEAD_DIM).map(|i| ((position * HEAD_DIM + i) as f32 * 0.37).sin()).collect();
            kernels.store_key(format, &x, &mut key, position);
            kernels.store_value(format, &x, &mut value, position);
        }
        let n_planes = N_LAYERS * N_KV_HEADS * MAX_POSITIONS / PLANE_POSITIONS;
        let shape = AttentionShape {
            n_heads: N_HEADS,
            n_kv_heads: N_KV_HEADS,
            head_dim_k: HEAD_DIM,
            head_dim_v: HEAD_DIM,
            sliding_window: None,
            format,
        };
        Cache { shape, keys: key.repeat(n_planes), values: value.repeat(n_planes) }
    }

    /// Bytes of a position of one head.
    fn position_bytes(&self) -> usize {
        let format = self.shape.format;
        (format.key_plane_bytes(HEAD_DIM) + format.value_plane_bytes(HEAD_DIM)) / PLANE_POSITIONS
    }

    /// Of attention of `n` tokens after `start` others in every layer.
    fn seconds(&self, kernels: &Kernels, pool: &Pool, n: usize, start: usize) -> f64 {
        let q: Vec<f32> = (0..n * N_HEADS * HEAD_DIM).map(|i| (i as f32 * 0.11).sin()).collect();
        let mut out = vec![0.0; n * N_HEADS * HEAD_DIM];
        let mut scratch = AttentionScratch::default();
        let format = self.shape.format;
        let mut pass = || {
            let began = Instant::now();
            for layer in 0..N_LAYERS {
                let planes = |head: usize, plane: usize| {
                    let i = (layer * N_KV_HEADS + head) * (MAX_POSITIONS / PLANE_POSITIONS) + plane;
                    let of = |n_bytes: usize| i * n_bytes..(i + 1) * n_bytes;
                    let keys = &self.keys[of(format.key_plane_bytes(HEAD_DIM))];
                    Planes { keys, values: &self.values[of(format.value_plane_bytes(HEAD_DIM))], angles: &[] }
                };
                kernels.attend(pool, &self.shape, start, &q, None, planes, &mut scratch, &mut out);
            }
            began.elapsed().as_secs_f64()
        };
        let (began, mut best) = (Instant::now(), pass());
        while began.elapsed() < PATIENCE {
            best = best.min(pass());
        }
        best
    }
}
