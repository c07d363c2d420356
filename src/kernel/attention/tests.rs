//! Attention against a plain softmax in f64, and its bits on every instruction set, cut into tiles, batches and threads.

use super::cache::BLOCK;
use super::*;
use crate::quant::GgmlType;

fn value(i: usize) -> f32 {
    ((i * 7919 % 1009) as f32 - 500.0) / 250.0
}

/// A cache of one layer, with what was stored in it.
struct Cache {
    shape: AttentionShape,
    /// `[planes][kv heads]`
    keys: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
    /// `[positions, n_kv_heads, head_dim]`
    plain: [Vec<f32>; 2],
    /// `[planes]`; none where keys have no bias
    angles: Vec<Vec<u8>>,
}

/// Angles of a position.
const N_ANGLES: usize = 24;

fn angle(position: usize, i: usize) -> f32 {
    (position as f32 * 0.3 / (i + 1) as f32).cos()
}

impl Cache {
    fn new(kernels: &Kernels, shape: AttentionShape, n_positions: usize) -> Cache {
        let n_planes = n_positions.div_ceil(PLANE_POSITIONS);
        let planes = |n_bytes| vec![vec![0u8; n_bytes]; n_planes * shape.n_kv_heads];
        let plain = |dim, seed| (0..n_positions * shape.n_kv_heads * dim).map(|i| value(i * seed + i / 50)).collect();
        let mut cache = Cache {
            shape,
            keys: planes(shape.format.key_plane_bytes(shape.head_dim_k)),
            values: planes(shape.format.value_plane_bytes(shape.head_dim_v)),
            plain: [plain(shape.head_dim_k, 1), plain(shape.head_dim_v, 3)],
            angles: Vec::new(),
        };
        for position in 0..n_positions {
            for head in 0..shape.n_kv_heads {
                let (plane, place) = (position / PLANE_POSITIONS * shape.n_kv_heads + head, position % PLANE_POSITIONS);
                let row = position * shape.n_kv_heads + head;
                let key = &cache.plain[0][row * shape.head_dim_k..][..shape.head_dim_k];
                kernels.store_key(shape.format, key, &mut cache.keys[plane], place);
                let value = &cache.plain[1][row * shape.head_dim_v..][..shape.head_dim_v];
                kernels.store_value(shape.format, value, &mut cache.values[plane], place);
            }
        }
        cache
    }

    fn attend(&self, kernels: &Kernels, pool: &Pool, start: usize, q: &[f32]) -> Vec<f32> {
        let shape = &self.shape;
        let n = q.len() / (shape.n_heads * shape.head_dim_k);
        let mut out = vec![f32::NAN; n * shape.n_heads * shape.head_dim_v];
        let planes = |head: usize, plane: usize| {
            let i = plane * shape.n_kv_heads + head;
            let angles = self.angles.get(plane).map_or(&[][..], Vec::as_slice);
            Planes { keys: self.keys[i].as_slice(), values: self.values[i].as_slice(), angles }
        };
        let numbers = self.bias_numbers(q);
        let bias = (!self.angles.is_empty()).then_some(KeyBias { dim: N_ANGLES, queries: &numbers });
        kernels.attend(pool, shape, start, q, bias, planes, &mut AttentionScratch::default(), &mut out);
        out
    }

    /// What meets the angles of the keys' bias: any numbers will do.
    fn bias_numbers(&self, q: &[f32]) -> Vec<f32> {
        (0..q.len() / self.shape.head_dim_k * N_ANGLES).map(|i| 3.0 * value(i * 13)).collect()
    }

    /// What attention should give, from what was stored.
    fn expected(&self, start: usize, q: &[f32]) -> Vec<f64> {
        let AttentionShape { n_heads, n_kv_heads, head_dim_k, head_dim_v, sliding_window, .. } = self.shape;
        let row = |x: &[f32], i: usize, dim: usize| -> Vec<f64> {
            x[i * dim..][..dim].iter().map(|&x| f64::from(x)).collect()
        };
        let (numbers, mut out) = (self.bias_numbers(q), Vec::new());
        for (i, _) in q.chunks_exact(head_dim_k).enumerate() {
            let (end, kv_head) = (start + i / n_heads + 1, i % n_heads / (n_heads / n_kv_heads));
            let query = row(q, i, head_dim_k);
            let first = sliding_window.map_or(0, |window| end.saturating_sub(window));
            let score = |p: usize| {
                let key = row(&self.plain[0], p * n_kv_heads + kv_head, head_dim_k);
                let of_bias = match self.angles[..] {
                    [] => 0.0,
                    _ => (0..N_ANGLES).map(|j| f64::from(numbers[i * N_ANGLES + j] * angle(p, j))).sum::<f64>(),
                };
                (key.iter().zip(&query).map(|(a, b)| a * b).sum::<f64>() + of_bias) / (head_dim_k as f64).sqrt()
            };
            let scores: Vec<f64> = (first..end).map(score).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let mut sum = vec![0.0; head_dim_v];
            for (p, score) in (first..end).zip(&scores) {
                let value = row(&self.plain[1], p * n_kv_heads + kv_head, head_dim_v);
                sum.iter_mut().zip(value).for_each(|(sum, v)| *sum += (score - max).exp() / total * v);
            }
            out.extend(sum);
        }
        out
    }
}

fn shape(format: KvFormat, n_heads: usize, n_kv_heads: usize, dims: (usize, usize)) -> AttentionShape {
    AttentionShape { n_heads, n_kv_heads, head_dim_k: dims.0, head_dim_v: dims.1, sliding_window: None, format }
}

fn queries(shape: &AttentionShape, n: usize) -> Vec<f32> {
    (0..n * shape.n_heads * shape.head_dim_k).map(|i| value(i * 5 + i / 30) / 3.0).collect()
}

fn shapes() -> Vec<(AttentionShape, usize, usize)> {
    let mut all = Vec::new();
    for format in KvFormat::ALL {
        // One head, groups of 3, 5, 6 and 8, whole tiles and odd ones, one plane and several.
        for (heads, dims, start, n) in [
            ((1, 1), (64, 64), 0, 1),
            ((6, 2), (64, 32), 254, 5),
            ((5, 1), (32, 96), 600, 1),
            ((12, 2), (128, 128), 1023, 1),
            ((8, 1), (96, 64), 700, 3),
        ] {
            all.push((shape(format, heads.0, heads.1, dims), start, n));
        }
        let windowed = AttentionShape { sliding_window: Some(300), ..shape(format, 4, 2, (32, 32)) };
        all.push((windowed, 1000, 40));
    }
    all.push((shape(KvFormat::F16, 3, 1, (20, 100)), 270, 2));
    // Batches: odd tiles of queries, of positions and of elements.
    all.push((shape(KvFormat::F16, 3, 1, (20, 100)), 270, 35));
    all.push((shape(KvFormat::F16, 16, 2, (128, 64)), 0, 64));
    all.push((shape(KvFormat::F16, 2, 2, (64, 48)), 500, 90));
    all
}

/// The root of the mean square of the differences, NaN where a number is.
fn deviation(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares: f64 = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    (squares / found.len() as f64).sqrt()
}

#[test]
fn attention_is_a_softmax() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(Some(1)).unwrap());
    for (shape, start, n) in shapes() {
        let cache = Cache::new(&kernels, shape, start + n);
        let q = queries(&shape, n);
        let (found, expected) = (cache.attend(&kernels, &pool, start, &q), cache.expected(start, &q));
        let error = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        let bound = match shape.format {
            KvFormat::F16 => 2e-3,
            KvFormat::Q8_0 => 2e-2,
            KvFormat::Q4_0 => 0.3,
        };
        assert!(error < bound, "{shape:?}: {error}");
    }
}

/// A cache whose keys have their bias apart.
fn with_bias(kernels: &Kernels, shape: AttentionShape, n: usize) -> Cache {
    let mut cache = Cache::new(kernels, shape, n);
    cache.angles = vec![vec![0; KvFormat::F16.key_plane_bytes(N_ANGLES)]; n.div_ceil(PLANE_POSITIONS)];
    for position in 0..n {
        let angles: Vec<f32> = (0..N_ANGLES).map(|i| angle(position, i)).collect();
        let plane = &mut cache.angles[position / PLANE_POSITIONS];
        kernels.store_key(KvFormat::F16, &angles, plane, position % PLANE_POSITIONS);
    }
    cache
}

#[test]
fn a_bias_of_keys_adds_its_product_with_the_angles_on_every_isa_and_any_threads() {
    let pools = [1, 2, 5].map(|n| Pool::new(Some(n)).unwrap());
    let judge = Kernels::new(Isa::Scalar).unwrap();
    for (shape, start, n) in shapes().into_iter().filter(|(shape, ..)| shape.format != KvFormat::F16) {
        let cache = with_bias(&judge, shape, start + n);
        let q = queries(&shape, n);
        let found = cache.attend(&judge, &pools[0], start, &q);
        let expected = cache.expected(start, &q);
        let error = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(error < if shape.format == KvFormat::Q8_0 { 3e-2 } else { 0.4 }, "{shape:?}: {error}");
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            for pool in &pools {
                assert_eq!(cache.attend(&kernels, pool, start, &q), found, "{shape:?} on {}", kernels.isa());
            }
        }
    }
}

#[test]
fn every_isa_gives_the_same_bits() {
    let pool = Pool::new(Some(1)).unwrap();
    let judge = Kernels::new(Isa::Scalar).unwrap();
    for (shape, start, n) in shapes() {
        let cache = Cache::new(&judge, shape, start + n);
        let q = queries(&shape, n);
        let expected = cache.attend(&judge, &pool, start, &q);
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let same = Cache::new(&kernels, shape, start + n);
            assert!(same.keys == cache.keys && same.values == cache.values, "cache of {shape:?} on {}", kernels.isa());
            let found = cache.attend(&kernels, &pool, start, &q);
            if kernels.attends_on_unit(shape.format, n) {
                // Sums have another order, so that some weights are rounded to their other neighbour: no worse, no better.
                let exact = cache.expected(start, &q);
                let (found, judge) = (deviation(&found, &exact), deviation(&expected, &exact));
                assert!(found < 1.03 * judge, "{shape:?}: {found} instead of {judge}");
            } else {
                assert_eq!(found, expected, "{shape:?} on {}", kernels.isa());
            }
        }
    }
}

#[test]
fn neither_threads_nor_batches_change_a_bit() {
    let kernels = Kernels::detect();
    let one = Pool::new(Some(1)).unwrap();
    for (shape, start, n) in shapes() {
        let cache = Cache::new(&kernels, shape, start + n);
        let q = queries(&shape, n);
        let expected = cache.attend(&kernels, &one, start, &q);
        let n_q = shape.n_heads * shape.head_dim_k;
        for threads in [2, 3, 8] {
            let pool = Pool::new(Some(threads)).unwrap();
            assert_eq!(cache.attend(&kernels, &pool, start, &q), expected, "{shape:?}, {threads} threads");
            // Of the unit's batches no part has fewer tokens than it takes.
            let parts = if kernels.attends_on_unit(shape.format, n) { [n - 16, 16] } else { [1, 1] };
            let (mut found, mut t) = (Vec::new(), 0);
            for part in parts.into_iter().cycle() {
                let part = part.min(n - t);
                if part == 0 {
                    break;
                }
                found.extend(cache.attend(&kernels, &pool, start + t, &q[t * n_q..][..part * n_q]));
                t += part;
            }
            assert_eq!(found, expected, "{shape:?}, cut, {threads} threads");
        }
    }
}

#[test]
fn what_lies_beyond_the_visible_positions_is_not_used() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(Some(2)).unwrap());
    for (shape, start, n) in shapes() {
        let mut cache = Cache::new(&kernels, shape, start + n + 40);
        let q = queries(&shape, n);
        let expected = cache.attend(&kernels, &pool, start, &q);
        for position in start + n..start + n + 40 {
            let (plane, place) = (position / PLANE_POSITIONS, position % PLANE_POSITIONS);
            for head in 0..shape.n_kv_heads {
                let i = plane * shape.n_kv_heads + head;
                kernels.store_key(shape.format, &vec![f32::NAN; shape.head_dim_k], &mut cache.keys[i], place);
                kernels.store_value(shape.format, &vec![f32::NAN; shape.head_dim_v], &mut cache.values[i], place);
            }
        }
        assert_eq!(cache.attend(&kernels, &pool, start, &q), expected, "{shape:?}");
    }
}

#[test]
fn stored_blocks_are_those_of_the_formats() {
    let kernels = Kernels::detect();
    for (format, ty) in [(KvFormat::Q8_0, GgmlType::Q8_0), (KvFormat::Q4_0, GgmlType::Q4_0)] {
        let (dim, position) = (64, 37);
        let x: Vec<f32> = (0..dim).map(value).collect();
        let mut plane = vec![0; format.value_plane_bytes(dim)];
        kernels.store_value(format, &x, &mut plane, position);
        let (n_blocks, code_bytes) = (dim / BLOCK, ty.block_bytes() - 2);
        let codes = n_blocks * PLANE_POSITIONS * 2 + position * n_blocks * code_bytes;
        let block = |b: usize| {
            let scale = &plane[(b * PLANE_POSITIONS + position) * 2..][..2];
            [scale, &plane[codes + b * code_bytes..][..code_bytes]].concat()
        };
        let mut x = x;
        rotate(&mut x);
        let mut decoded = vec![0.0; dim];
        ty.dequantize(&(0..n_blocks).flat_map(block).collect::<Vec<u8>>(), &mut decoded);
        let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        let step = if format == KvFormat::Q8_0 { largest / 127.0 } else { 2.0 * largest / 8.0 };
        let error = x.iter().zip(&decoded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= step * 1.05, "{format}: {error}");
        assert!(plane.iter().filter(|&&b| b != 0).count() <= n_blocks * ty.block_bytes());
    }
}

#[test]
fn names_read_back_and_heads_must_be_whole_blocks() {
    for format in KvFormat::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert!("q5".parse::<KvFormat>().unwrap_err().to_string().contains("q5"));
    assert!(KvFormat::F16.holds(20) && !KvFormat::Q8_0.holds(20) && KvFormat::Q4_0.holds(64));
}
