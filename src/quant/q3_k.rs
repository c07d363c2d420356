//! Q3_K: 256 elements in 110 bytes, sixteen sub-blocks of 16, `d · scale · code` with signed 6-bit scales and codes from
//! -4 to 3. The dot product takes Q8_K activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled};
use super::q2_k::two_bits;

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
