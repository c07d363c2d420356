//! Q4_K: 256 elements in 144 bytes, eight sub-blocks of 32, `d · scale · code - dmin · min` with 6-bit scales and minima.
//! The dot product takes Q8_K activations, whose sums of 16 carry the minima.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::activation::BlockQ8K;
use super::block::{Half, decode_row, dot_row, dot_scaled, encode_row};
use super::search::{Affine, SharedScales, importance, sub_blocks};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ4K {
    pub d: Half,
    pub dmin: Half,
    /// Eight 6-bit scales and eight 6-bit minima; see [`scales_and_mins`].
    pub scales: [u8; 12],
    /// Each quarter of 64 elements has 32 bytes: low nibbles are its first 32 elements, high nibbles its last.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144);

impl BlockQ4K {
    fn codes(&self) -> [i8; 256] {
        four_bits(&self.qs).map(|code| code as i8)
    }
}

/// The 4-bit codes in the order of the elements: the layout that Q4_K and Q5_K share.
pub(super) fn four_bits(qs: &[u8; 128]) -> [u8; 256] {
    std::array::from_fn(|i| (qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4)) & 0x0F)
}

/// The eight scales and eight minima of Q4_K and Q5_K. Bytes 0..4 hold the first four scales in their low six bits, bytes
/// 4..8 the first four minima; bytes 8..12 hold the low nibbles of the last four of both, whose upper pairs of bits
/// stand at the top of the first eight bytes.
pub(super) fn scales_and_mins(packed: &[u8; 12]) -> ([i8; 8], [i8; 8]) {
    let scale = |i: usize| if i < 4 { packed[i] & 63 } else { (packed[i + 4] & 0x0F) | ((packed[i - 4] >> 6) << 4) };
    let min = |i: usize| if i < 4 { packed[i + 4] & 63 } else { (packed[i + 4] >> 4) | ((packed[i] >> 6) << 4) };
    (std::array::from_fn(|i| scale(i) as i8), std::array::from_fn(|i| min(i) as i8))
}

/// The inverse of [`scales_and_mins`].
pub(super) fn pack_scales_and_mins(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | ((scales[i + 4] >> 4) << 6),
        4..8 => mins[i - 4] | ((mins[i] >> 4) << 6),
        _ => (scales[i - 4] & 0x0F) | ((mins[i - 4] & 0x0F) << 4),
    })
}

/// The inverse of [`four_bits`], of the low four bits of 256 codes.
pub(super) fn pack_four_bits(codes: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let first = i / 32 * 64 + i % 32;
        (codes[first] & 0x0F) | (codes[first + 32] << 4)
    })
}

/// Scales and minima of 256 values with codes up to `codes.top`, and the codes: what Q4_K and Q5_K share.
pub(super) fn search_with_mins(codes: Affine, x: &[f32; 256]) -> (SharedScales<8>, [u8; 256]) {
    let w = importance(x);
    let (x, w) = (sub_blocks::<32, 8>(x), sub_blocks::<32, 8>(&w));
    let shared = codes.share(x, w, std::array::from_fn(|s| codes.fit(&x[s], &w[s])), 63.0);
    (shared, shared.codes(codes, x))
}

pub(super) fn quantize(x: &[f32], out: &mut [u8]) {
    encode_row::<BlockQ4K, 256>(x, out, |x| {
        let (SharedScales { d, dmin, scales, mins }, codes) = search_with_mins(Affine { top: 15.0 }, x);
        BlockQ4K { d, dmin, scales: pack_scales_and_mins(scales, mins), qs: pack_four_bits(&codes) }
    });
}

/// Writes `d · scale · code - dmin · min` for 256 codes, the decoding that Q4_K and Q5_K share.
pub(super) fn decode_with_mins(d: f32, dmin: f32, packed: &[u8; 12], codes: &[i8; 256], out: &mut [f32; 256]) {
    let (scales, mins) = scales_and_mins(packed);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(scales[i / 32]) * f32::from(codes[i]) - dmin * f32::from(mins[i / 32]);
    }
}

/// The dot product of one block, which Q4_K and Q5_K share.
pub(super) fn dot_with_mins(d: f32, dmin: f32, packed: &[u8; 12], codes: &[i8; 256], a: &BlockQ8K) -> f32 {
    let (scales, mins) = scales_and_mins(packed);
    let products = dot_scaled::<32>(codes, &scales, &a.qs);
    let minima: i32 = a.bsums.iter().enumerate().map(|(i, sum)| i32::from(mins[i / 2]) * i32::from(sum.get())).sum();
    d * a.d.get() * products as f32 - dmin * a.d.get() * minima as f32
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    decode_row::<BlockQ4K, 256>(bytes, out, |block, out| {
        decode_with_mins(block.d.to_f32(), block.dmin.to_f32(), &block.scales, &block.codes(), out);
    });
}

pub(super) fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_row::<BlockQ4K, BlockQ8K, 256>(n, weights, activations, |w, a| {
        dot_with_mins(w.d.to_f32(), w.dmin.to_f32(), &w.scales, &w.codes(), a)
    })
}
