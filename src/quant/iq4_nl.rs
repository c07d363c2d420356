//! IQ4_NL: 32 elements in 18 bytes, `d · VALUES[code]`, a non-linear 4-bit grid. The dot product takes Q8_0 activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{Half, decode_row, dot_i8, dot_row, nibbles};
use super::q8_0::BlockQ8_0;

/// The sixteen levels of IQ4_NL and IQ4_XS, spaced for weights that are roughly normal (ggml's `kvalues_iq4nl`).
pub const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockIq4Nl {
    pub d: Half,
    /// Low nibbles are elements 0..16, high nibbles 16..32.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockIq4Nl>() == 18);

impl BlockIq4Nl {
    fn values(&self) -> [i8; 32] {
        nibbles(&self.qs).map(|code| VALUES[usize::from(code)])
    }
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockIq4Nl, 32>(bytes, out, |block, out| {
        let d = block.d.to_f32();
        *out = block.values().map(|value| d * f32::from(value));
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockIq4Nl, BlockQ8_0, 32>(n, weights, activations, |w, a| {
        a.d.to_f32() * w.d.to_f32() * dot_i8(&w.values(), &a.qs) as f32
    })
}
