//! BF16: the upper half of an f32. The dot product takes activations rounded to bf16; products and sums are f32.

use zerocopy::little_endian::U16;

use super::block::{blocks, decode_row};
use super::float32::sum_products;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<U16, 1>(bytes, out, |value, out| out[0] = to_f32(*value));
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    sum_products(blocks::<U16>(weights, n), blocks::<U16>(activations, n), to_f32)
}

fn to_f32(value: U16) -> f32 {
    f32::from_bits(u32::from(value.get()) << 16)
}
