//! Q3_K: 256 elements in 110 bytes, sixteen sub-blocks of 16, `d · scale · code` with signed 6-bit scales and codes from
//! -4 to 3. The dot product takes Q8_K activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled, encode_row};
use super::q2_k::{pack_two_bits, two_bits};
use super::search::{Levels, importance, inverse, nearest_code, sub_blocks};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ3K {
    /// Bit `b` of byte `l` is the third bit of element 32b + `l`.
    pub hmask: [u8; 32],
    /// The two low bits, laid out as Q2_K's.
    pub qs: [u8; 64],
    /// Sixteen 6-bit scales, 32 too large: eight bytes of low nibbles (0..8 low, 8..16 high), four of upper bit pairs.
    pub scales: [u8; 12],
    pub d: Half,
}
const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl BlockQ3K {
    fn codes(&self) -> [i8; 256] {
        let low = two_bits(&self.qs);
        std::array::from_fn(|i| low[i] + ((self.hmask[i % 32] >> (i / 32)) & 1) as i8 * 4 - 4)
    }

    fn scales(&self) -> [i8; 16] {
        std::array::from_fn(|i| {
            let low = if i < 8 { self.scales[i] & 0x0F } else { self.scales[i - 8] >> 4 };
            let high = (self.scales[8 + i % 4] >> (i / 4 * 2)) & 3;
            (low | (high << 4)) as i8 - 32
        })
    }
}

/// The inverse of [`BlockQ3K::scales`].
fn pack_scales(scales: [i8; 16]) -> [u8; 12] {
    let raised = scales.map(|scale| (scale + 32) as u8);
    std::array::from_fn(|i| match i {
        0..8 => (raised[i] & 0x0F) | (raised[i + 8] << 4),
        _ => (0..4).map(|j| (raised[4 * j + i - 8] >> 4) << (2 * j)).sum(),
    })
}

pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    let levels = Levels { farthest: -4.0, step: 0.1, nearest: |v| nearest_code(v, -4.0, 3.0) };
    encode_row::<BlockQ3K, 256>(x, out, |x| {
        let w = importance(x);
        let (x, w) = (sub_blocks::<16, 16>(x), sub_blocks::<16, 16>(&w));
        let (d, scales) = levels.share(x, w, std::array::from_fn(|s| levels.fit(&x[s], &w[s])), 32.0);
        let inverses = scales.map(|scale| inverse(d.to_f32() * f32::from(scale)));
        let codes: [u8; 256] =
            std::array::from_fn(|i| ((levels.nearest)(x[i / 16][i % 16] * inverses[i / 16]) + 4.0) as u8);
        BlockQ3K {
            hmask: std::array::from_fn(|l| (0..8).map(|b| (codes[32 * b + l] >> 2) << b).sum()),
            qs: pack_two_bits(&codes),
            scales: pack_scales(scales),
            d,
        }
    });
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ3K, 256>(bytes, out, |block, out| {
        let d = block.d.to_f32();
        let (codes, scales) = (block.codes(), block.scales());
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(scales[i / 16]) * f32::from(codes[i]);
        }
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ3K, BlockQ8K, 256>(n, weights, activations, |w, a| {
        w.d.to_f32() * a.d.get() * dot_scaled::<16>(&w.codes(), &w.scales(), &a.qs) as f32
    })
}
