//! Kernels for AVX2 with FMA and F16C.

/// Whether this CPU, and the operating system, have AVX2, FMA and F16C.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}
