//! Dot product and weighted sum against rows of f16, for the KV cache.

#![allow(unsafe_code, reason = "F16C and FMA intrinsics")]

use half::f16;

use super::{Isa, Kernels};

impl Kernels {
    /// `Σ x[i] · y[i]`.
    pub fn dot_f16(&self, x: &[f32], y: &[f16]) -> f32 {
        assert_eq!(x.len(), y.len(), "dot product of different lengths");
        match self.isa() {
            Isa::Scalar => x.iter().zip(y).map(|(&x, y)| x * y.to_f32()).sum(),
            // SAFETY: a set of kernels above scalar is proof of AVX2, FMA and F16C; the lengths are equal.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { x86::dot(x, y) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("x86 kernels on another architecture"),
        }
    }

    /// `acc[i] += scale · y[i]`.
    pub fn add_scaled_f16(&self, acc: &mut [f32], scale: f32, y: &[f16]) {
        assert_eq!(acc.len(), y.len(), "sum of different lengths");
        match self.isa() {
            Isa::Scalar => acc.iter_mut().zip(y).for_each(|(a, y)| *a += scale * y.to_f32()),
            // SAFETY: as in `dot_f16`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { x86::add_scaled(acc, scale, y) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("x86 kernels on another architecture"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::{
        __m128i, _mm_loadu_si128, _mm256_add_ps, _mm256_castps256_ps128, _mm256_cvtph_ps, _mm256_extractf128_ps,
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    use core::arch::x86_64::{_mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps};

    use half::f16;

    /// # Safety
    /// The CPU has AVX, FMA and F16C; `x` and `y` are of one length.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn dot(x: &[f32], y: &[f16]) -> f32 {
        let whole = x.len() / 16 * 16;
        let mut sums = [_mm256_setzero_ps(); 2];
        for i in (0..whole).step_by(16) {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `i + 16 <= whole <= len` of both slices.
                let (a, b) = unsafe {
                    (
                        _mm256_loadu_ps(x.as_ptr().add(i + 8 * j)),
                        _mm_loadu_si128(y.as_ptr().add(i + 8 * j).cast::<__m128i>()),
                    )
                };
                *sum = _mm256_fmadd_ps(a, _mm256_cvtph_ps(b), *sum);
            }
        }
        let sum = _mm256_add_ps(sums[0], sums[1]);
        let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        let one = _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)));
        one + x[whole..].iter().zip(&y[whole..]).map(|(&x, y)| x * y.to_f32()).sum::<f32>()
    }

    /// # Safety
    /// The CPU has AVX, FMA and F16C; `acc` and `y` are of one length.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn add_scaled(acc: &mut [f32], scale: f32, y: &[f16]) {
        let whole = acc.len() / 8 * 8;
        let factor = _mm256_set1_ps(scale);
        for i in (0..whole).step_by(8) {
            // SAFETY: `i + 8 <= whole <= len` of both slices.
            unsafe {
                let values = _mm256_cvtph_ps(_mm_loadu_si128(y.as_ptr().add(i).cast::<__m128i>()));
                let sum = _mm256_fmadd_ps(factor, values, _mm256_loadu_ps(acc.as_ptr().add(i)));
                _mm256_storeu_ps(acc.as_mut_ptr().add(i), sum);
            }
        }
        for (a, y) in acc[whole..].iter_mut().zip(&y[whole..]) {
            *a += scale * y.to_f32();
        }
    }
}
