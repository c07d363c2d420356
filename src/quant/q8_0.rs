//! Q8_0: 32 elements in 34 bytes, `d · q`. It is a weight format and the activation form of most 32-element formats.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{Half, decode_row, dot_i8, dot_row};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ8_0 {
    pub d: Half,
    pub qs: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ8_0, 32>(bytes, out, |block, out| {
        let d = block.d.to_f32();
        *out = block.qs.map(|q| f32::from(q) * d);
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ8_0, BlockQ8_0, 32>(n, weights, activations, |w, a| {
        dot_i8(&w.qs, &a.qs) as f32 * (w.d.to_f32() * a.d.to_f32())
    })
}
