//! MXFP4 (OCP Microscaling): 32 elements in 17 bytes, 4-bit floats (E2M1) under a power-of-two scale (E8M0).
//! The dot product takes Q8_0 activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{decode_row, dot_i8, dot_row, nibbles};
use super::q8_0::BlockQ8_0;

/// Twice the sixteen E2M1 values, so that they are integers; the scale is halved to make up for it. Code 8, minus zero,
/// is zero.
pub const DOUBLED_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// The shared exponent: the scale is 2^(e - 127).
    pub e: u8,
    /// Low nibbles are elements 0..16, high nibbles 16..32.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockMxfp4>() == 17);

impl BlockMxfp4 {
    fn doubled_values(&self) -> [i8; 32] {
        nibbles(&self.qs).map(|code| DOUBLED_VALUES[usize::from(code)])
    }

    /// Half the scale, 2^(e - 128), as an f32. The two smallest are subnormal; 255, which the standard calls NaN, is 2^127
    /// as it is in ggml.
    pub fn half_scale(&self) -> f32 {
        let e = u32::from(self.e);
        f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
    }
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockMxfp4, 32>(bytes, out, |block, out| {
        let d = block.half_scale();
        *out = block.doubled_values().map(|value| f32::from(value) * d);
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockMxfp4, BlockQ8_0, 32>(n, weights, activations, |w, a| {
        a.d.to_f32() * w.half_scale() * dot_i8(&w.doubled_values(), &a.qs) as f32
    })
}
