//! Q5_K: 256 elements in 176 bytes, Q4_K with a fifth bit, `d · scale · code - dmin · min`. The dot product takes Q8_K
//! activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{Half, decode_row, dot_row, encode_row};
use super::q4_k::{decode_with_mins, dot_with_mins, four_bits, pack_four_bits, pack_scales_and_mins, search_with_mins};
use super::search::{Affine, SharedScales};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ5K {
    pub d: Half,
    pub dmin: Half,
    /// Eight 6-bit scales and eight 6-bit minima, packed as Q4_K's.
    pub scales: [u8; 12],
    /// Bit `b` of byte `l` is the fifth bit of element 32b + `l`.
    pub qh: [u8; 32],
    /// The four low bits, laid out as Q4_K's.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ5K>() == 176);

impl BlockQ5K {
    fn codes(&self) -> [i8; 256] {
        let low = four_bits(&self.qs);
        std::array::from_fn(|i| (low[i] | (((self.qh[i % 32] >> (i / 32)) & 1) << 4)) as i8)
    }
}

pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    encode_row::<BlockQ5K, 256>(x, out, |x| {
        let (SharedScales { d, dmin, scales, mins }, codes) = search_with_mins(Affine { top: 31.0 }, x);
        BlockQ5K {
            d,
            dmin,
            scales: pack_scales_and_mins(scales, mins),
            qh: std::array::from_fn(|l| (0..8).map(|b| (codes[32 * b + l] >> 4) << b).sum()),
            qs: pack_four_bits(&codes),
        }
    });
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ5K, 256>(bytes, out, |block, out| {
        decode_with_mins(block.d.to_f32(), block.dmin.to_f32(), &block.scales, &block.codes(), out);
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ5K, _, 256>(n, weights, activations, |w, a| {
        dot_with_mins(w.d.to_f32(), w.dmin.to_f32(), &w.scales, &w.codes(), a)
    })
}
