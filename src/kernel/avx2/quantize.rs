//! Activations into the form that a format wants, to the same bits as [`crate::quant::quantize_activations`].

use std::arch::x86_64::*;

use zerocopy::{FromZeros, IntoBytes};

use super::super::x86::{HALF_AWAY, load_128, store_128, store_256};
use super::load_f32x8;
use crate::quant::{
    ActivationForm, BlockQ8_0, BlockQ8_1, BlockQ8K, GgmlType, Half, blocks_mut, quantize_activations, scale_of_32,
    scale_of_256,
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

/// The function of the table.
pub(super) fn widen(halves: &[u8], out: &mut [f32]) {
    assert_eq!(halves.len(), 2 * out.len(), "halves of {} floats", out.len());
    // SAFETY: as in `quantize`.
    unsafe { from_f16(halves, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn from_f16(halves: &[u8], out: &mut [f32]) {
    let (halves, rest) = halves.as_chunks::<16>();
    let (chunks, out_rest) = out.as_chunks_mut::<8>();
    for (halves, out) in halves.iter().zip(chunks) {
        let mut bytes = [0; 32];
        store_256(&mut bytes, _mm256_castps_si256(_mm256_cvtph_ps(load_128(halves))));
        *out = zerocopy::transmute!(bytes);
    }
    GgmlType::F16.dequantize(rest, out_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn to_f16(x: &[f32], out: &mut [u8]) {
    let (x, x_rest) = x.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<16>();
    for (x, out) in x.iter().zip(out) {
        store_128(out, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32x8(x)));
    }
    quantize_activations(ActivationForm::F16, x_rest, out_rest);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn to_bf16(x: &[f32], out: &mut [u8]) {
    let upper = |x: &[f32; 8]| {
        let x = load_f32x8(x);
        let bits = _mm256_castps_si256(x);
        let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7FFF)));
        // Rounding could carry a NaN into an infinity or zero; a NaN is made quiet and cut instead.
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan))
    };
    let (x, x_rest) = x.as_chunks::<16>();
    let (out, out_rest) = out.as_chunks_mut::<32>();
    for (x, out) in x.iter().zip(out) {
        let (x, _) = x.as_chunks::<8>();
        let packed = _mm256_packus_epi32(upper(&x[0]), upper(&x[1]));
        store_256(out, _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
    }
    quantize_activations(ActivationForm::BF16, x_rest, out_rest);
}

#[inline]
#[target_feature(enable = "avx2")]
fn magnitude(v: __m256) -> __m256 {
    _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX)))
}

/// The largest magnitude by its bits, in which a NaN or an infinity comes through.
#[inline]
#[target_feature(enable = "avx2")]
fn max_magnitude<const N: usize>(x: &[__m256; N]) -> f32 {
    let mut max = _mm256_setzero_si256();
    for &v in x {
        max = _mm256_max_epu32(max, _mm256_castps_si256(magnitude(v)));
    }
    let max = _mm_max_epu32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
    let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b00_00_11_10>(max));
    let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b00_00_00_01>(max));
    f32::from_bits(_mm_cvtsi128_si32(max) as u32)
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_i32x8(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_11_10>(v));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_00_01>(v)))
}

/// 32 doublewords as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(q: [__m256i; 4]) -> __m256i {
    // Packing works within either half of the registers and leaves groups of four in the order 0, 2, 4, 6, 1, 3, 5, 7.
    let packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// The scale of 32 values and their integers as doublewords, rounded half away from zero.
#[inline]
#[target_feature(enable = "avx2")]
fn quantize_32(x: &[f32; 32]) -> (f32, [__m256i; 4]) {
    let (x, _) = x.as_chunks::<8>();
    let x = [load_f32x8(&x[0]), load_f32x8(&x[1]), load_f32x8(&x[2]), load_f32x8(&x[3])];
    let (d, inverse) = scale_of_32(max_magnitude(&x));
    let Some(inverse) = inverse else { return (d, [_mm256_setzero_si256(); 4]) };
    let sign = _mm256_set1_ps(-0.0);
    let round = |v: __m256| {
        let v = _mm256_mul_ps(v, _mm256_set1_ps(inverse));
        let half = _mm256_or_ps(_mm256_and_ps(v, sign), _mm256_set1_ps(HALF_AWAY));
        _mm256_cvttps_epi32(_mm256_add_ps(v, half))
    };
    (d, x.map(round))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn to_q8_0(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<32>();
    for (x, out) in x.iter().zip(blocks_mut::<BlockQ8_0>(out, x.len())) {
        let (d, q) = quantize_32(x);
        let mut qs = [0; 32];
        store_256(&mut qs, bytes(q));
        *out = BlockQ8_0 { d: Half::from_f32(d), qs: zerocopy::transmute!(qs) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn to_q8_1(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<32>();
    for (x, out) in x.iter().zip(blocks_mut::<BlockQ8_1>(out, x.len())) {
        let (d, q) = quantize_32(x);
        let sum = sum_i32x8(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
        let mut qs = [0; 32];
        store_256(&mut qs, bytes(q));
        *out = BlockQ8_1 { d: Half::from_f32(d), s: Half::from_f32(sum as f32 * d), qs: zerocopy::transmute!(qs) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn to_q8_k(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<256>();
    for (x, out) in x.iter().zip(blocks_mut::<BlockQ8K>(out, x.len())) {
        quantize_256(x, out);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_256(x: &[f32; 256], out: &mut BlockQ8K) {
    // Loops, since the closures of iterators and arrays are not always compiled for the features of their surroundings.
    let (chunks, _) = x.as_chunks::<8>();
    let mut values = [_mm256_setzero_ps(); 32];
    for i in 0..32 {
        values[i] = load_f32x8(&chunks[i]);
    }
    let amax = max_magnitude(&values);
    let mut largest = amax;
    for (chunk, &v) in chunks.iter().zip(&values) {
        let equal = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(magnitude(v), _mm256_set1_ps(amax)));
        if let Some(&value) = chunk.get(equal.trailing_zeros() as usize) {
            largest = value;
            break;
        }
    }
    let (d, inverse) = scale_of_256(largest);
    out.d.set(d);
    let Some(inverse) = inverse else {
        out.qs = [0; 256];
        out.bsums.zero();
        return;
    };
    let inverse = _mm256_set1_ps(inverse);
    let (qs, _) = out.qs.as_mut_bytes().as_chunks_mut::<32>();
    for (i, qs) in qs.iter_mut().enumerate() {
        let mut q = [_mm256_setzero_si256(); 4];
        for j in 0..4 {
            q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(values[4 * i + j], inverse));
        }
        store_256(qs, bytes(q));
        out.bsums[2 * i].set(sum_i32x8(_mm256_add_epi32(q[0], q[1])) as i16);
        out.bsums[2 * i + 1].set(sum_i32x8(_mm256_add_epi32(q[2], q[3])) as i16);
    }
}
