//! IQ4_XS: 256 elements in 136 bytes, eight sub-blocks of 32, `d · scale · VALUES[code]` with IQ4_NL's grid and signed
//! 6-bit scales. The dot product takes Q8_K activations.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled, encode_row, pack_nibbles};
use super::iq4_nl::{VALUES, levels, nearest_index};
use super::search::{importance, inverse, sub_blocks};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockIq4Xs {
    pub d: Half,
    /// Bits 2i and 2i+1 are the upper bits of scale `i`.
    pub scales_h: U16,
    /// The low nibbles of the scales, which are 32 too large.
    pub scales_l: [u8; 4],
    /// Each sub-block has 16 bytes: low nibbles are its elements 0..16, high nibbles 16..32.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockIq4Xs>() == 136);

impl BlockIq4Xs {
    fn values(&self) -> [i8; 256] {
        std::array::from_fn(|i| VALUES[usize::from((self.qs[i / 32 * 16 + i % 16] >> (i % 32 / 16 * 4)) & 0x0F)])
    }

    fn scales(&self) -> [i8; 8] {
        std::array::from_fn(|i| {
            let low = (self.scales_l[i / 2] >> (i % 2 * 4)) & 0x0F;
            let high = ((self.scales_h.get() >> (2 * i)) & 3) as u8;
            (low | (high << 4)) as i8 - 32
        })
    }
}

pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    let levels = levels();
    encode_row::<BlockIq4Xs, 256>(x, out, |x| {
        let w = importance(x);
        let (x, w) = (sub_blocks::<32, 8>(x), sub_blocks::<32, 8>(&w));
        let (d, scales) = levels.share(x, w, std::array::from_fn(|s| levels.fit(&x[s], &w[s])), 32.0);
        let raised = scales.map(|scale| (scale + 32) as u8);
        let mut qs = [0; 128];
        for (s, qs) in qs.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let inverse = inverse(d.to_f32() * f32::from(scales[s]));
            *qs = pack_nibbles(&x[s].map(|v| nearest_index(v * inverse)));
        }
        BlockIq4Xs {
            d,
            scales_h: U16::new((0..8).map(|i| u16::from(raised[i] >> 4) << (2 * i)).sum()),
            scales_l: std::array::from_fn(|i| (raised[2 * i] & 0x0F) | (raised[2 * i + 1] << 4)),
            qs,
        }
    });
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockIq4Xs, 256>(bytes, out, |block, out| {
        let d = block.d.to_f32();
        let (values, scales) = (block.values(), block.scales());
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(scales[i / 32]) * f32::from(values[i]);
        }
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockIq4Xs, BlockQ8K, 256>(n, weights, activations, |w, a| {
        w.d.to_f32() * a.d.get() * dot_scaled::<32>(&w.values(), &w.scales(), &a.qs) as f32
    })
}
