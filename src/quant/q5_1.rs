//! Q5_1: 32 elements in 24 bytes, `d · code + m`. The dot product takes Q8_1 activations, whose `s` carries the minimum.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8_1;
use super::block::{Half, decode_row, dot_i8, dot_row, encode_row, fifth_bits, nibbles, pack_fifth_bits, pack_nibbles};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ5_1 {
    pub d: Half,
    pub m: Half,
    /// Bit `i`, little-endian, is the fifth bit of element `i`.
    pub qh: [u8; 4],
    /// Low nibbles are elements 0..16, high nibbles 16..32.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_1>() == 24);

impl BlockQ5_1 {
    fn codes(&self) -> [i8; 32] {
        let (low, high) = (nibbles(&self.qs), fifth_bits(u32::from_le_bytes(self.qh)));
        std::array::from_fn(|i| (low[i] | high[i]) as i8)
    }
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ5_1, 32>(bytes, out, |block, out| {
        let (d, m) = (block.d.to_f32(), block.m.to_f32());
        *out = block.codes().map(|code| f32::from(code) * d + m);
    });
}

/// As ggml: the smallest value is code 0 and the largest 31, and all are rounded half up.
pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    encode_row::<BlockQ5_1, 32>(x, out, |x| {
        let min = x.iter().copied().fold(f32::MAX, f32::min);
        let d = (x.iter().copied().fold(-f32::MAX, f32::max) - min) / 31.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let codes = x.map(|v| (((v - min) * inverse + 0.5) as u8).min(31));
        let (d, m) = (Half::from_f32(d), Half::from_f32(min));
        BlockQ5_1 { d, m, qh: pack_fifth_bits(&codes), qs: pack_nibbles(&codes) }
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ5_1, BlockQ8_1, 32>(n, weights, activations, |w, a| {
        w.d.to_f32() * a.d.to_f32() * dot_i8(&w.codes(), &a.qs) as f32 + w.m.to_f32() * a.s.to_f32()
    })
}
