//! The forms that activations take before a dot product, and the scalar quantization into them: f32 in, the bytes that a
//! [`super::DotFn`] reads out. The rounding is ggml's reference, so that every kernel works on the same integers.

use zerocopy::little_endian::{F32, I16, U16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{Half, encode_row};
use super::q8_0::BlockQ8_0;

/// The form in which a weight format wants its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum ActivationForm {
    F32,
    F16,
    BF16,
    Q8_0,
    Q8_1,
    Q8_K,
}

impl ActivationForm {
    pub const ALL: [ActivationForm; 6] = [
        ActivationForm::F32,
        ActivationForm::F16,
        ActivationForm::BF16,
        ActivationForm::Q8_0,
        ActivationForm::Q8_1,
        ActivationForm::Q8_K,
    ];

    /// Elements a block; a row is a whole number of them.
    pub fn block_len(self) -> usize {
        match self {
            ActivationForm::F32 | ActivationForm::F16 | ActivationForm::BF16 => 1,
            ActivationForm::Q8_0 | ActivationForm::Q8_1 => 32,
            ActivationForm::Q8_K => 256,
        }
    }

    /// Bytes of a row of `n` elements, a whole number of blocks.
    pub fn row_bytes(self, n: usize) -> usize {
        assert_eq!(n % self.block_len(), 0, "a row of {n} elements is not a whole number of {self:?} blocks");
        n / self.block_len()
            * match self {
                ActivationForm::F32 => size_of::<f32>(),
                ActivationForm::F16 | ActivationForm::BF16 => size_of::<u16>(),
                ActivationForm::Q8_0 => size_of::<BlockQ8_0>(),
                ActivationForm::Q8_1 => size_of::<BlockQ8_1>(),
                ActivationForm::Q8_K => size_of::<BlockQ8K>(),
            }
    }
}

/// 32 activations, `d · q`, with the sum that a format with minima needs.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ8_1 {
    pub d: Half,
    /// d · Σ q, from the d that has not been rounded to a half.
    pub s: Half,
    pub qs: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_1>() == 36);

/// 256 activations, `d · q`, with the sums of q that formats with minima or offsets need.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockQ8K {
    pub d: F32,
    pub qs: [i8; 256],
    /// Sums of sixteen q each.
    pub bsums: [I16; 16],
}
const _: () = assert!(size_of::<BlockQ8K>() == 292);

/// Writes `x` in `form` to `out`, which has exactly `form.row_bytes(x.len())` bytes. A block with a NaN or an infinity
/// gets a NaN scale, so that the fault reaches the logits instead of hiding in an integer.
pub fn quantize_activations(form: ActivationForm, x: &[f32], out: &mut [u8]) {
    assert_eq!(out.len(), form.row_bytes(x.len()), "activations of {} elements as {form:?}", x.len());
    match form {
        ActivationForm::F32 => encode_row(x, out, |&[v]| F32::new(v)),
        ActivationForm::F16 => encode_row(x, out, |&[v]| Half::from_f32(v)),
        ActivationForm::BF16 => encode_row(x, out, |&[v]| U16::new(half::bf16::from_f32(v).to_bits())),
        ActivationForm::Q8_0 => encode_row(x, out, quantize_q8_0),
        ActivationForm::Q8_1 => encode_row(x, out, quantize_q8_1),
        ActivationForm::Q8_K => encode_row(x, out, quantize_q8_k),
    }
}

/// The largest magnitude; a NaN or an infinity in `x` comes through, because their bit patterns are the largest.
fn max_magnitude(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0))
}

/// The scale of a block of Q8_0 or Q8_1 by its largest magnitude, and the factor that makes its values integers; `None`
/// where all integers are zero: by a value that is not finite, and where the scale is so small that it is zero as a half.
pub fn scale_of_32(amax: f32) -> (f32, Option<f32>) {
    if !amax.is_finite() {
        return (f32::NAN, None);
    }
    let d = amax / 127.0;
    let inverse = 1.0 / d;
    (d, inverse.is_finite().then_some(inverse))
}

/// The scale of a block of Q8_K by its element of largest magnitude, the first of equals, and the factor that makes its
/// values integers, which takes that element to -127; `None` where all integers are zero, as in [`scale_of_32`].
pub fn scale_of_256(largest: f32) -> (f32, Option<f32>) {
    if !largest.is_finite() {
        return (f32::NAN, None);
    }
    let inverse = -127.0 / largest;
    if inverse.is_finite() { (1.0 / inverse, Some(inverse)) } else { (0.0, None) }
}

/// The scale of 32 values and their integers, rounded half away from zero.
fn quantize_32(x: &[f32; 32]) -> (f32, [i8; 32]) {
    let (d, inverse) = scale_of_32(max_magnitude(x));
    (d, inverse.map_or([0; 32], |inverse| x.map(|v| (v * inverse).round() as i8)))
}

fn quantize_q8_0(x: &[f32; 32]) -> BlockQ8_0 {
    let (d, qs) = quantize_32(x);
    BlockQ8_0 { d: Half::from_f32(d), qs }
}

fn quantize_q8_1(x: &[f32; 32]) -> BlockQ8_1 {
    let (d, qs) = quantize_32(x);
    let sum: i32 = qs.iter().map(|&q| i32::from(q)).sum();
    BlockQ8_1 { d: Half::from_f32(d), s: Half::from_f32(sum as f32 * d), qs }
}

/// Q8_K rounds half to even.
fn quantize_q8_k(x: &[f32; 256]) -> BlockQ8K {
    let amax = max_magnitude(x);
    // A NaN has no equal; as the largest magnitude it stands for itself.
    let largest = x.iter().copied().find(|v| v.abs() == amax).unwrap_or(amax);
    let (d, inverse) = scale_of_256(largest);
    let qs = inverse.map_or([0; 256], |inverse| x.map(|v| (v * inverse).round_ties_even() as i8));
    let (sixteens, _) = qs.as_chunks::<16>();
    let bsums = std::array::from_fn(|i| I16::new(sixteens[i].iter().map(|&q| i16::from(q)).sum()));
    BlockQ8K { d: F32::new(d), qs, bsums }
}
