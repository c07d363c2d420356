//! Q6_K: 256 elements in 210 bytes, sixteen sub-blocks of 16, `d · scale · (code - 32)` with signed 8-bit scales. The dot
//! product takes Q8_K activations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled};

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
