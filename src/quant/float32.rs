//! F32: four bytes an element, little-endian. The dot product takes f32 activations.

use zerocopy::little_endian::F32;

use super::block::{blocks, decode_row};

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<F32, 1>(bytes, out, |value, out| out[0] = value.get());
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    sum_products(blocks::<F32>(weights, n), blocks::<F32>(activations, n), F32::get)
}

/// Partial sums of a float dot product: one order of summation on every instruction set.
pub const LANES: usize = 16;

/// Σ a·b in f32, in sixteen interleaved partial sums of fused products, which [`fold_lanes`] adds up.
pub(super) fn sum_products<T: Copy>(a: &[T], b: &[T], to_f32: impl Fn(T) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = to_f32(a).mul_add(to_f32(b), *lane);
        }
    }
    fold_lanes(lanes)
}

/// The sum of sixteen partial sums, halves onto halves, as a vector register is folded.
#[inline]
pub fn fold_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}
