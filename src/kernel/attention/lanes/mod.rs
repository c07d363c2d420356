//! Sixteen numbers side by side, on each instruction set: what the kernels of attention are written in, once for all.
//! Every operation rounds as the scalar one does, so that every instruction set gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub(super) use self::{avx2::Avx2, avx512::Avx512};

use crate::quant::{Half, LANES, fold_lanes};

/// Sixteen floats, and beside them sixteen integers that products of bytes are summed in.
///
/// The implementation for an instruction set is used in functions that are compiled for it, which are called on the
/// proof that this CPU has it.
pub(super) trait Lanes: Copy {
    /// Rows of queries whose scores the registers hold at once.
    const SCORE_ROWS: usize;
    /// Rows of weights whose sums of values the registers hold at once, each for so many sixteens of elements, one or four.
    const SUM_ROWS: usize;
    const SUM_CHUNKS: usize;
    /// Rows up to which values are better decoded as they are met than all before.
    const DIRECT_ROWS: usize;
    /// What [`Lanes::signed_bytes`] adds to every byte.
    const SIGNED_OFFSET: i32;

    fn splat(x: f32) -> Self;
    fn load(x: &[f32; LANES]) -> Self;
    fn from_halves(x: &[Half; LANES]) -> Self;
    fn from_i8(x: &[i8; LANES]) -> Self;
    /// The low nibbles, less 8.
    fn from_low_nibbles(x: &[u8; LANES]) -> Self;
    /// The high nibbles, less 8.
    fn from_high_nibbles(x: &[u8; LANES]) -> Self;
    fn store(self, out: &mut [f32; LANES]);
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self · factor + sum`, rounded once.
    fn mul_add(self, factor: Self, sum: Self) -> Self;
    /// Lane by lane the larger; `other` where `self` is NaN.
    fn max(self, other: Self) -> Self;
    fn round_to_f16(self) -> Self;
    /// Each of four folded to one number, as [`fold_lanes`] does.
    fn fold4(four: [Self; 4]) -> [f32; 4];

    /// The products of `G` queries of some sixteens of elements with four keys in f16, summed in lanes and folded.
    #[inline(always)]
    fn half_dots<const G: usize>(queries: &[&[[f32; LANES]]; G], keys: &[[Half; LANES]], out: &mut [[f32; 4]; G]) {
        let n_chunks = keys.len() / 4;
        let mut sums = [[Self::splat(0.0); 4]; G];
        for c in 0..n_chunks {
            let mut four = [Self::splat(0.0); 4];
            for i in 0..4 {
                four[i] = Self::from_halves(&keys[i * n_chunks + c]);
            }
            for g in 0..G {
                let query = Self::load(&queries[g][c]);
                for i in 0..4 {
                    sums[g][i] = query.mul_add(four[i], sums[g][i]);
                }
            }
        }
        for g in 0..G {
            out[g] = Self::fold4(sums[g]);
        }
    }

    /// One of the [`Lanes::INT_PARTS`] registers that sixteen integers are in.
    type Ints: Copy;
    /// As many bytes as factors: an integer's four are side by side.
    type Bytes: Copy;
    const INT_PARTS: usize;
    fn ints(x: i32) -> Self::Ints;
    fn signed_bytes(x: &[u8; 64], part: usize) -> Self::Bytes;
    /// The low and the high nibbles.
    fn nibbles(x: &[u8; 64], part: usize) -> [Self::Bytes; 2];
    /// `codes` plus 16 in the bytes whose byte of `fifth` has `bit`, of 0 to 7.
    fn with_fifth_bit(codes: Self::Bytes, fifth: &[u8; 64], part: usize, bit: usize) -> Self::Bytes;
    /// In every lane `sum` plus the products of its four bytes with the four signed bytes of `factors`.
    fn dot(sum: Self::Ints, bytes: Self::Bytes, factors: i32) -> Self::Ints;
    /// As four times [`Lanes::dot`], for codes of 0 to 31.
    fn dot_five_bits(sum: Self::Ints, codes: [Self::Bytes; 4], factors: [i32; 4]) -> Self::Ints;
    fn store_ints(ints: Self::Ints, out: &mut [i32; LANES], part: usize);
    fn from_ints(ints: &[i32; LANES]) -> Self;
}

impl Lanes for [f32; LANES] {
    const SCORE_ROWS: usize = 1;
    const SUM_ROWS: usize = 1;
    const SUM_CHUNKS: usize = 1;
    const DIRECT_ROWS: usize = 0;
    const SIGNED_OFFSET: i32 = 0;

    fn splat(x: f32) -> Self {
        [x; LANES]
    }

    fn load(x: &[f32; LANES]) -> Self {
        *x
    }

    fn from_halves(x: &[Half; LANES]) -> Self {
        x.map(Half::to_f32)
    }

    fn from_i8(x: &[i8; LANES]) -> Self {
        x.map(f32::from)
    }

    fn from_low_nibbles(x: &[u8; LANES]) -> Self {
        x.map(|x| f32::from(x & 0x0F) - 8.0)
    }

    fn from_high_nibbles(x: &[u8; LANES]) -> Self {
        x.map(|x| f32::from(x >> 4) - 8.0)
    }

    fn store(self, out: &mut [f32; LANES]) {
        *out = self;
    }

    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }

    fn mul_add(self, factor: Self, sum: Self) -> Self {
        std::array::from_fn(|i| self[i].mul_add(factor[i], sum[i]))
    }

    fn max(self, other: Self) -> Self {
        std::array::from_fn(|i| if self[i] > other[i] { self[i] } else { other[i] })
    }

    fn round_to_f16(self) -> Self {
        self.map(|x| Half::from_f32(x).to_f32())
    }

    fn fold4(four: [Self; 4]) -> [f32; 4] {
        four.map(fold_lanes)
    }

    type Ints = [i32; LANES];
    type Bytes = [i8; 64];
    const INT_PARTS: usize = 1;

    fn ints(x: i32) -> Self::Ints {
        [x; LANES]
    }

    fn signed_bytes(x: &[u8; 64], _: usize) -> Self::Bytes {
        x.map(|x| x as i8)
    }

    fn nibbles(x: &[u8; 64], _: usize) -> [Self::Bytes; 2] {
        [x.map(|x| (x & 0x0F) as i8), x.map(|x| (x >> 4) as i8)]
    }

    fn with_fifth_bit(codes: Self::Bytes, fifth: &[u8; 64], _: usize, bit: usize) -> Self::Bytes {
        std::array::from_fn(|i| codes[i] | ((fifth[i] >> bit & 1) << 4) as i8)
    }

    fn dot(sum: Self::Ints, bytes: Self::Bytes, factors: i32) -> Self::Ints {
        let factors = factors.to_le_bytes().map(|f| i32::from(f as i8));
        std::array::from_fn(|i| sum[i] + (0..4).map(|j| i32::from(bytes[4 * i + j]) * factors[j]).sum::<i32>())
    }

    fn dot_five_bits(sum: Self::Ints, codes: [Self::Bytes; 4], factors: [i32; 4]) -> Self::Ints {
        codes.into_iter().zip(factors).fold(sum, |sum, (codes, factors)| Self::dot(sum, codes, factors))
    }

    fn store_ints(ints: Self::Ints, out: &mut [i32; LANES], _: usize) {
        *out = ints;
    }

    fn from_ints(ints: &[i32; LANES]) -> Self {
        ints.map(|x| x as f32)
    }
}
