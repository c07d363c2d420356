//! BF16: the upper half of an f32. The dot product takes activations rounded to bf16; products and sums are f32.

use zerocopy::little_endian::U16;

use super::block::{blocks, decode_row};
use super::float32::{LANES, fold_lanes};

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<U16, 1>(bytes, out, |value, out| out[0] = to_f32(*value));
}

/// Σ w·a in lanes of two neighbours, the upper one first: the order of AVX-512's own instruction.
pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (weights, activations) = (blocks::<U16>(weights, n), blocks::<U16>(activations, n));
    for (w, a) in weights.chunks(2 * LANES).zip(activations.chunks(2 * LANES)) {
        for (lane, (w, a)) in lanes.iter_mut().zip(w.chunks(2).zip(a.chunks(2))) {
            for (&w, &a) in w.iter().zip(a).rev() {
                *lane = to_f32(w).mul_add(to_f32(a), *lane);
            }
        }
    }
    fold_lanes(lanes)
}

fn to_f32(value: U16) -> f32 {
    f32::from_bits(u32::from(value.get()) << 16)
}
