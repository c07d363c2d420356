//! F16: an IEEE half an element. The dot product takes activations rounded to halves; products and sums are f32.

use super::block::{Half, blocks, decode_row};
use super::float32::sum_products;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<Half, 1>(bytes, out, |value, out| out[0] = value.to_f32());
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    sum_products(blocks::<Half>(weights, n), blocks::<Half>(activations, n), Half::to_f32)
}
