//! Q4_0: 32 elements in 18 bytes, `d · (code - 8)`. The dot product takes Q8_0 activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{Half, decode_row, dot_i8, dot_row, encode_row, nibbles, pack_nibbles};
use super::q8_0::BlockQ8_0;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ4_0 {
    pub d: Half,
    /// Low nibbles are elements 0..16, high nibbles 16..32.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_0>() == 18);

impl BlockQ4_0 {
    fn codes(&self) -> [i8; 32] {
        nibbles(&self.qs).map(|code| code as i8 - 8)
    }
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ4_0, 32>(bytes, out, |block, out| {
        let d = block.d.to_f32();
        *out = block.codes().map(|code| f32::from(code) * d);
    });
}

/// As ggml: the value of largest magnitude, the first of equals, becomes code 0, and all are rounded half up.
pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    encode_row::<BlockQ4_0, 32>(x, out, |x| {
        let largest = x.iter().copied().fold(0.0, |a: f32, b| if b.abs() > a.abs() { b } else { a });
        let d = largest / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let codes = x.map(|v| ((v * inverse + 8.5) as u8).min(15));
        BlockQ4_0 { d: Half::from_f32(d), qs: pack_nibbles(&codes) }
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ4_0, BlockQ8_0, 32>(n, weights, activations, |w, a| {
        dot_i8(&w.codes(), &a.qs) as f32 * w.d.to_f32() * a.d.to_f32()
    })
}
