//! Activations into the form that a format wants, to the same bits as [`crate::quant::quantize_activations`].

use std::arch::x86_64::*;

use zerocopy::{FromZeros, IntoBytes};

use super::super::x86::{HALF_AWAY, store_128, store_256};
use super::load_f32x16;
use crate::quant::{
    ActivationForm, BlockQ8_0, BlockQ8_1, BlockQ8K, Half, blocks_mut, quantize_activations, scale_of_32, scale_of_256,
};

/// The function of the table.
pub(super) fn quantize(form: ActivationForm, x: &[f32], out: &mut [u8]) {
    assert_eq!(out.len(), form.row_bytes(x.len()), "activations of {} elements as {form:?}", x.len());
    // SAFETY: the table that this function stands in is only handed out by `Kernels::new`, which has found the features
    // that the kernels need on this CPU.
    unsafe {
        match form {
            ActivationForm::F32 => quantize_activations(form, x, out),
            ActivationForm::F16 => to_f16(x, out),
            ActivationForm::BF16 => to_bf16(x, out),
            ActivationForm::Q8_0 => to_q8_0(x, out),
            ActivationForm::Q8_1 => to_q8_1(x, out),
            ActivationForm::Q8_K => to_q8_k(x, out),
        }
    }
}

#[target_feature(enable = "avx512bw")]
fn to_f16(x: &[f32], out: &mut [u8]) {
    let (x, x_rest) = x.as_chunks::<16>();
    let (out, out_rest) = out.as_chunks_mut::<32>();
    for (x, out) in x.iter().zip(out) {
        store_256(out, _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32x16(x)));
    }
    quantize_activations(ActivationForm::F16, x_rest, out_rest);
}

#[target_feature(enable = "avx512bw")]
fn to_bf16(x: &[f32], out: &mut [u8]) {
    let (x, x_rest) = x.as_chunks::<16>();
    let (out, out_rest) = out.as_chunks_mut::<32>();
    for (x, out) in x.iter().zip(out) {
        let x = load_f32x16(x);
        let bits = _mm512_castps_si512(x);
        let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7FFF)));
        // Rounding could carry a NaN into an infinity or zero; a NaN is made quiet and cut instead.
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let upper = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, is_nan, quiet));
        store_256(out, _mm512_cvtepi32_epi16(upper));
    }
    quantize_activations(ActivationForm::BF16, x_rest, out_rest);
}

/// The largest magnitude as bits, in which a NaN or an infinity comes through.
#[inline]
#[target_feature(enable = "avx512bw")]
fn max_magnitude<const N: usize>(x: &[__m512; N]) -> f32 {
    let mut max = _mm512_setzero_si512();
    for &v in x {
        max = _mm512_max_epu32(max, _mm512_castps_si512(_mm512_abs_ps(v)));
    }
    f32::from_bits(_mm512_reduce_max_epu32(max))
}

/// The scale of 32 values and their integers as doublewords, rounded half away from zero.
#[inline]
#[target_feature(enable = "avx512bw")]
fn quantize_32(x: &[f32; 32]) -> (f32, [__m512i; 2]) {
    let (x, _) = x.as_chunks::<16>();
    let x = [load_f32x16(&x[0]), load_f32x16(&x[1])];
    let (d, inverse) = scale_of_32(max_magnitude(&x));
    let Some(inverse) = inverse else { return (d, [_mm512_setzero_si512(); 2]) };
    let sign = _mm512_set1_epi32(i32::MIN);
    let round = |v: __m512| {
        let v = _mm512_mul_ps(v, _mm512_set1_ps(inverse));
        let half = _mm512_castps_si512(_mm512_set1_ps(HALF_AWAY));
        let half = _mm512_or_si512(_mm512_and_si512(_mm512_castps_si512(v), sign), half);
        _mm512_cvttps_epi32(_mm512_add_ps(v, _mm512_castsi512_ps(half)))
    };
    (d, [round(x[0]), round(x[1])])
}

/// 32 doublewords as bytes.
#[inline]
#[target_feature(enable = "avx512bw")]
fn bytes(q: [__m512i; 2]) -> [i8; 32] {
    let q =
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(_mm512_cvtsepi32_epi8(q[0])), _mm512_cvtsepi32_epi8(q[1]));
    let mut out = [0; 32];
    store_256(&mut out, q);
    zerocopy::transmute!(out)
}

/// As [`Half::from_f32`], which is a call.
#[inline]
#[target_feature(enable = "avx512bw")]
fn half(value: f32) -> Half {
    let bits = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value));
    Half::from_bits(_mm_cvtsi128_si32(bits) as u16)
}

#[target_feature(enable = "avx512bw")]
fn to_q8_0(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<32>();
    for (x, out) in x.iter().zip(blocks_mut::<BlockQ8_0>(out, x.len())) {
        let (d, q) = quantize_32(x);
        *out = BlockQ8_0 { d: half(d), qs: bytes(q) };
    }
}

#[target_feature(enable = "avx512bw")]
fn to_q8_1(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<32>();
    for (x, out) in x.iter().zip(blocks_mut::<BlockQ8_1>(out, x.len())) {
        let (d, q) = quantize_32(x);
        let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
        *out = BlockQ8_1 { d: half(d), s: half(sum as f32 * d), qs: bytes(q) };
    }
}

#[target_feature(enable = "avx512bw")]
fn to_q8_k(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<256>();
    for (x, out) in x.iter().zip(blocks_mut::<BlockQ8K>(out, x.len())) {
        quantize_256(x, out);
    }
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn quantize_256(x: &[f32; 256], out: &mut BlockQ8K) {
    // Loops, since the closures of iterators and arrays are not always compiled for the features of their surroundings.
    let (chunks, _) = x.as_chunks::<16>();
    let mut x = [_mm512_setzero_ps(); 16];
    for i in 0..16 {
        x[i] = load_f32x16(&chunks[i]);
    }
    // As integers, positive floats are in order and larger than negative ones, which as unsigned ones are in order of their
    // magnitudes and larger than positive ones.
    let (mut positive, mut negative) = (_mm512_set1_epi32(i32::MIN), _mm512_setzero_si512());
    for i in 0..16 {
        positive = _mm512_max_epi32(positive, _mm512_castps_si512(x[i]));
        negative = _mm512_max_epu32(negative, _mm512_castps_si512(x[i]));
    }
    let positive = _mm512_reduce_max_epi32(positive).max(0).cast_unsigned();
    let negative = _mm512_reduce_max_epu32(negative);
    let negative = if negative >> 31 == 1 { negative & 0x7FFF_FFFF } else { 0 };
    let amax = f32::from_bits(positive.max(negative));
    let mut largest = if positive > negative { amax } else { -amax };
    if positive == negative || amax.is_nan() {
        // The first one of the largest decides.
        largest = amax;
        for i in 0..16 {
            let lane = _mm512_cmpeq_ps_mask(_mm512_abs_ps(x[i]), _mm512_set1_ps(amax)).trailing_zeros() as usize;
            if lane < 16 {
                largest = chunks[i][lane];
                break;
            }
        }
    }
    let (d, inverse) = scale_of_256(largest);
    out.d.set(d);
    let Some(inverse) = inverse else {
        out.qs = [0; 256];
        out.bsums.zero();
        return;
    };
    let inverse = _mm512_set1_ps(inverse);
    let (qs, _) = out.qs.as_mut_bytes().as_chunks_mut::<16>();
    let mut q = [_mm512_setzero_si512(); 16];
    for i in 0..16 {
        q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(x[i], inverse));
        store_128(&mut qs[i], _mm512_cvtsepi32_epi8(q[i]));
    }
    let (sums, _) = out.bsums.as_mut_bytes().as_chunks_mut::<32>();
    store_256(&mut sums[0], _mm512_cvtepi32_epi16(sums_of_sixteen(q)));
}

/// The sum of the lanes of each of sixteen registers.
#[inline]
#[target_feature(enable = "avx512bw")]
fn sums_of_sixteen(v: [__m512i; 16]) -> __m512i {
    let zero = _mm512_setzero_si512();
    // Neighbours are added up crosswise: first within 128 bits, where four registers become one, then across them.
    let (mut pairs, mut fours, mut eights) = ([zero; 8], [zero; 4], [zero; 2]);
    for i in 0..8 {
        let [a, b] = [v[2 * i], v[2 * i + 1]];
        pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    }
    for i in 0..4 {
        let [a, b] = [pairs[2 * i], pairs[2 * i + 1]];
        fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
    for i in 0..2 {
        let [a, b] = [fours[2 * i], fours[2 * i + 1]];
        let [low, high] = [_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b)];
        eights[i] = _mm512_add_epi32(low, high);
    }
    let [a, b] = eights;
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
}
