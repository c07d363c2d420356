//! F32: four bytes an element, little-endian. The dot product takes f32 activations.

use zerocopy::little_endian::F32;

use super::block::{blocks, decode_row};

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<F32, 1>(bytes, out, |value, out| out[0] = value.get());
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    sum_products(blocks::<F32>(weights, n), blocks::<F32>(activations, n), F32::get)
}

/// Σ a·b in f32, in eight interleaved partial sums: the rounding error of a long row grows with an eighth of it.
pub(super) fn sum_products<T: Copy>(a: &[T], b: &[T], to_f32: impl Fn(T) -> f32) -> f32 {
    let mut sums = [0f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += to_f32(a) * to_f32(b);
        }
    }
    sums.iter().sum()
}
