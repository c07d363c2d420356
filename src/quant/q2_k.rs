//! Q2_K: 256 elements in 84 bytes, sixteen sub-blocks of 16, `d · scale · code - dmin · min`. The dot product takes Q8_K
//! activations, whose sums of 16 carry the minima.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled, encode_row};
use super::search::{Affine, importance, sub_blocks};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ2K {
    /// A sub-block's scale in the low nibble and its minimum in the high one.
    pub scales: [u8; 16],
    /// Each half of 128 elements has 32 bytes; bits 2j and 2j+1 of byte `l` are element 32j + `l` of the half.
    pub qs: [u8; 64],
    pub d: Half,
    pub dmin: Half,
}
const _: () = assert!(size_of::<BlockQ2K>() == 84);

impl BlockQ2K {
    fn codes(&self) -> [i8; 256] {
        two_bits(&self.qs)
    }
}

/// The 2-bit codes in the order of the elements: the layout that Q2_K and Q3_K share.
pub(super) fn two_bits(qs: &[u8; 64]) -> [i8; 256] {
    std::array::from_fn(|i| ((qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3) as i8)
}

/// The inverse of [`two_bits`], of the low two bits of 256 codes.
pub(super) fn pack_two_bits(codes: &[u8; 256]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let first = i / 32 * 128 + i % 32;
        (0..4).map(|j| (codes[first + 32 * j] & 3) << (2 * j)).sum()
    })
}

pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    const CODES: Affine = Affine { top: 3.0 };
    encode_row::<BlockQ2K, 256>(x, out, |x| {
        let w = importance(x);
        let (x, w) = (sub_blocks::<16, 16>(x), sub_blocks::<16, 16>(&w));
        let shared = CODES.share(x, w, std::array::from_fn(|s| CODES.fit(&x[s], &w[s])), 15.0);
        let codes = shared.codes(CODES, x);
        BlockQ2K {
            scales: std::array::from_fn(|s| shared.scales[s] | (shared.mins[s] << 4)),
            qs: pack_two_bits(&codes),
            d: shared.d,
            dmin: shared.dmin,
        }
    });
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ2K, 256>(bytes, out, |block, out| {
        let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
        let codes = block.codes();
        for (i, out) in out.iter_mut().enumerate() {
            let scale = block.scales[i / 16];
            *out = d * f32::from(scale & 0x0F) * f32::from(codes[i]) - dmin * f32::from(scale >> 4);
        }
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ2K, BlockQ8K, 256>(n, weights, activations, |w, a| {
        let products = dot_scaled::<16>(&w.codes(), &w.scales.map(|s| (s & 0x0F) as i8), &a.qs);
        let minima: i32 = w.scales.iter().zip(&a.bsums).map(|(&s, sum)| i32::from(s >> 4) * i32::from(sum.get())).sum();
        let d = a.d.get();
        d * w.d.to_f32() * products as f32 - d * w.dmin.to_f32() * minima as f32
    })
}
