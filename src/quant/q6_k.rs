//! Q6_K: 256 elements in 210 bytes, sixteen sub-blocks of 16, `d · scale · (code - 32)` with signed 8-bit scales. The dot
//! product takes Q8_K activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled, encode_row};
use super::search::{Levels, importance, inverse, nearest_code, sub_blocks};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ6K {
    /// Each half of 128 elements has 64 bytes: low nibbles are its first 64 elements, high nibbles its last.
    pub ql: [u8; 128],
    /// Each half has 32 bytes; bits 2j and 2j+1 of byte `l` are the upper bits of element 32j + `l` of the half.
    pub qh: [u8; 64],
    pub scales: [i8; 16],
    pub d: Half,
}
const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl BlockQ6K {
    fn codes(&self) -> [i8; 256] {
        std::array::from_fn(|i| {
            let (half, in_half) = (i / 128, i % 128);
            let low = (self.ql[half * 64 + in_half % 64] >> (in_half / 64 * 4)) & 0x0F;
            let high = (self.qh[half * 32 + in_half % 32] >> (in_half / 32 * 2)) & 3;
            (low | (high << 4)) as i8 - 32
        })
    }
}

pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    let levels = Levels { farthest: -32.0, step: 0.1, nearest: |v| nearest_code(v, -32.0, 31.0) };
    encode_row::<BlockQ6K, 256>(x, out, |x| {
        let w = importance(x);
        let (x, w) = (sub_blocks::<16, 16>(x), sub_blocks::<16, 16>(&w));
        let (d, scales) = levels.share(x, w, std::array::from_fn(|s| levels.fit(&x[s], &w[s])), 128.0);
        let inverses = scales.map(|scale| inverse(d.to_f32() * f32::from(scale)));
        let codes: [u8; 256] =
            std::array::from_fn(|i| ((levels.nearest)(x[i / 16][i % 16] * inverses[i / 16]) + 32.0) as u8);
        BlockQ6K {
            ql: std::array::from_fn(|i| {
                let first = i / 64 * 128 + i % 64;
                (codes[first] & 0x0F) | (codes[first + 64] << 4)
            }),
            qh: std::array::from_fn(|i| {
                let first = i / 32 * 128 + i % 32;
                (0..4).map(|j| (codes[first + 32 * j] >> 4) << (2 * j)).sum()
            }),
            scales,
            d,
        }
    });
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ6K, 256>(bytes, out, |block, out| {
        let d = block.d.to_f32();
        let codes = block.codes();
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(block.scales[i / 16]) * f32::from(codes[i]);
        }
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ6K, BlockQ8K, 256>(n, weights, activations, |w, a| {
        w.d.to_f32() * a.d.get() * dot_scaled::<16>(&w.codes(), &w.scales, &a.qs) as f32
    })
}
