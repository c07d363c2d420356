//! What every block format shares: half-precision fields, bytes viewed as blocks, and the two loops over a row,
//! decoding and the dot product.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IEEE half in a block, as the file has it: two bytes, little-endian, at any address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Half([u8; 2]);

impl Half {
    pub fn from_f32(value: f32) -> Half {
        Half(half::f16::from_f32(value).to_le_bytes())
    }

    pub fn to_f32(self) -> f32 {
        half::f16::from_le_bytes(self.0).to_f32()
    }

    pub fn from_bits(bits: u16) -> Half {
        Half(bits.to_le_bytes())
    }

    /// The sixteen bits, for kernels that convert many at once.
    pub fn to_bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }
}

/// A value that any bytes are and that may lie at any address: a block of a row.
pub trait Block: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {}

impl<B: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned> Block for B {}

/// `bytes` seen as `n_blocks` blocks. Panics where the length is not exactly theirs: rows are measured when a model is
/// bound, so a wrong length here is a broken invariant and not a broken file.
pub fn blocks<B: Block>(bytes: &[u8], n_blocks: usize) -> &[B] {
    let Ok(blocks) = <[B]>::ref_from_bytes_with_elems(bytes, n_blocks) else {
        panic!("a row of {n_blocks} blocks of {} bytes cannot lie in {} bytes", size_of::<B>(), bytes.len())
    };
    blocks
}

/// The mutable form of [`blocks`].
pub fn blocks_mut<B: Block>(bytes: &mut [u8], n_blocks: usize) -> &mut [B] {
    let len = bytes.len();
    let Ok(blocks) = <[B]>::mut_from_bytes_with_elems(bytes, n_blocks) else {
        panic!("a row of {n_blocks} blocks of {} bytes cannot lie in {len} bytes", size_of::<B>())
    };
    blocks
}

/// Decodes a row of blocks of `N` elements: `decode` is given each block and its place in `out`.
pub(super) fn decode_row<B: Block, const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&B, &mut [f32; N])) {
    let (chunks, rest) = out.as_chunks_mut::<N>();
    assert!(
        rest.is_empty(),
        "a row of {} elements is not a whole number of blocks of {N}",
        chunks.len() * N + rest.len()
    );
    for (block, chunk) in blocks::<B>(bytes, chunks.len()).iter().zip(chunks) {
        decode(block, chunk);
    }
}

/// Encodes a row into blocks of `N` elements. Panics where `out` is not exactly the bytes of `x.len()` elements.
pub(super) fn encode_row<B: Block, const N: usize>(x: &[f32], out: &mut [u8], encode: impl Fn(&[f32; N]) -> B) {
    let (chunks, rest) = x.as_chunks::<N>();
    assert!(rest.is_empty(), "a row of {} elements is not a whole number of blocks of {N}", x.len());
    for (out, chunk) in blocks_mut::<B>(out, chunks.len()).iter_mut().zip(chunks) {
        *out = encode(chunk);
    }
}

/// The dot product of a row of `n` elements: the sum, in the order of the blocks, of what `dot` gives for each pair.
pub(super) fn dot_row<W: Block, A: Block, const N: usize>(
    n: usize,
    weights: &[u8],
    activations: &[u8],
    dot: impl Fn(&W, &A) -> f32,
) -> f32 {
    assert_eq!(n % N, 0, "a row of {n} elements is not a whole number of blocks of {N}");
    let weights = blocks::<W>(weights, n / N);
    let activations = blocks::<A>(activations, n / N);
    weights.iter().zip(activations).map(|(w, a)| dot(w, a)).sum()
}

/// Σ a·b, exactly.
pub(super) fn dot_i8<const N: usize>(a: &[i8; N], b: &[i8; N]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// Σ over the sub-blocks of `SUB` elements of scale · Σ code · q, exactly. There are 256 / `SUB` scales.
pub(super) fn dot_scaled<const SUB: usize>(codes: &[i8; 256], scales: &[i8], quants: &[i8; 256]) -> i32 {
    let (codes, _) = codes.as_chunks::<SUB>();
    let (quants, _) = quants.as_chunks::<SUB>();
    codes.iter().zip(quants).zip(scales).map(|((c, q), &scale)| i32::from(scale) * dot_i8(c, q)).sum()
}

/// The sixteen low nibbles of `bytes` and then the sixteen high ones: the order of every 4-bit block of 32.
pub(super) fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 0x0F } else { bytes[i - 16] >> 4 })
}

/// The inverse of [`nibbles`], of the low four bits of 32 codes.
pub(super) fn pack_nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| (codes[i] & 0x0F) | (codes[i + 16] << 4))
}

/// The inverse of [`fifth_bits`], of 32 codes of five bits.
pub(super) fn pack_fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().enumerate().map(|(i, &code)| u32::from(code >> 4) << i);
    bits.fold(0u32, |all, bit| all | bit).to_le_bytes()
}

/// The fifth bits of 32 codes, in place: bit `i` of `bits` belongs to element `i`.
pub(super) fn fifth_bits(bits: u32) -> [u8; 32] {
    std::array::from_fn(|i| (((bits >> i) & 1) << 4) as u8)
}
