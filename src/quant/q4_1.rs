//! Q4_1: 32 elements in 20 bytes, `d · code + m`. The dot product takes Q8_1 activations, whose `s` carries the minimum.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8_1;
use super::block::{Half, decode_row, dot_i8, dot_row, encode_row, nibbles, pack_nibbles};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ4_1 {
    pub d: Half,
    pub m: Half,
    /// Low nibbles are elements 0..16, high nibbles 16..32.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl BlockQ4_1 {
    fn codes(&self) -> [i8; 32] {
        nibbles(&self.qs).map(|code| code as i8)
    }
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ4_1, 32>(bytes, out, |block, out| {
        let (d, m) = (block.d.to_f32(), block.m.to_f32());
        *out = block.codes().map(|code| f32::from(code) * d + m);
    });
}

/// As ggml: the smallest value is code 0 and the largest 15, and all are rounded half up.
pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    encode_row::<BlockQ4_1, 32>(x, out, |x| {
        let min = x.iter().copied().fold(f32::MAX, f32::min);
        let d = (x.iter().copied().fold(-f32::MAX, f32::max) - min) / 15.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let codes = x.map(|v| (((v - min) * inverse + 0.5) as u8).min(15));
        let (d, m) = (Half::from_f32(d), Half::from_f32(min));
        BlockQ4_1 { d, m, qs: pack_nibbles(&codes) }
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ4_1, BlockQ8_1, 32>(n, weights, activations, |w, a| {
        w.d.to_f32() * a.d.to_f32() * dot_i8(&w.codes(), &a.qs) as f32 + w.m.to_f32() * a.s.to_f32()
    })
}
