//! IQ4_NL: 32 elements in 18 bytes, `d · VALUES[code]`, a non-linear 4-bit grid. The dot product takes Q8_0 activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{Half, decode_row, dot_i8, dot_row, encode_row, nibbles, pack_nibbles};
use super::q8_0::BlockQ8_0;
use super::search::{Levels, importance, inverse};

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

/// The code of the level nearest to `v`.
pub(super) fn nearest_index(v: f32) -> u8 {
    let middles = VALUES.windows(2).map(|pair| f32::from(i16::from(pair[0]) + i16::from(pair[1])) / 2.0);
    middles.map(|middle| u8::from(v > middle)).sum()
}

/// The levels as the search for a scale wants them.
pub(super) fn levels() -> Levels<impl Fn(f32) -> f32> {
    // Upwards through the levels without a branch, so that many values are looked up at once.
    let nearest = |v: f32| {
        let mut level = f32::from(VALUES[0]);
        for pair in VALUES.windows(2) {
            let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
            level = if v > f32::midpoint(low, high) { high } else { level };
        }
        level
    };
    Levels { farthest: f32::from(VALUES[0]), step: 2.0, nearest }
}

pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    let levels = levels();
    encode_row::<BlockIq4Nl, 32>(x, out, |x| {
        let d = Half::from_f32(levels.fit(x, &importance(x)));
        let inverse = inverse(d.to_f32());
        BlockIq4Nl { d, qs: pack_nibbles(&x.map(|v| nearest_index(v * inverse))) }
    });
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
