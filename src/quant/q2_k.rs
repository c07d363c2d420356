//! Q2_K: 256 elements in 84 bytes, sixteen sub-blocks of 16, `d · scale · code - dmin · min`. The dot product takes Q8_K
//! activations, whose sums of 16 carry the minima.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled};

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
