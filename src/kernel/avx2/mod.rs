//! Kernels for AVX2 with FMA and F16C. Products of bytes are summed in pairs to 16 bits and scaled there.
#![allow(unsafe_code, reason = "vector loads go through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix, and a kernel uses dozens")]

mod block_products;
mod blocks;
mod floats;
mod half_products;
mod interleaved;
mod products;
mod quantize;
mod super_block_products;
mod super_blocks;

use std::arch::x86_64::*;

use super::dispatch::{Product, Table};
use super::panels::{PANELS, ROWS};
use super::tiled::TileCodes;
use super::x86::{proven, proven_product, proven4};
use crate::quant::GgmlType;

/// The table of this instruction set, for a CPU that has it, and for no other.
pub(super) fn table() -> Table {
    let mut dots = [None; GgmlType::ALL.len()];
    dots[GgmlType::F32 as usize] = proven!(floats::dot_f32);
    dots[GgmlType::F16 as usize] = proven!(floats::dot_f16);
    dots[GgmlType::BF16 as usize] = proven!(floats::dot_bf16);
    dots[GgmlType::Q4_0 as usize] = proven!(blocks::dot_q4_0);
    dots[GgmlType::Q4_1 as usize] = proven!(blocks::dot_q4_1);
    dots[GgmlType::Q5_0 as usize] = proven!(blocks::dot_q5_0);
    dots[GgmlType::Q5_1 as usize] = proven!(blocks::dot_q5_1);
    dots[GgmlType::Q8_0 as usize] = proven!(blocks::dot_q8_0);
    dots[GgmlType::IQ4_NL as usize] = proven!(blocks::dot_iq4_nl);
    dots[GgmlType::MXFP4 as usize] = proven!(blocks::dot_mxfp4);
    dots[GgmlType::Q2_K as usize] = proven!(super_blocks::dot_q2_k);
    dots[GgmlType::Q3_K as usize] = proven!(super_blocks::dot_q3_k);
    dots[GgmlType::Q4_K as usize] = proven!(super_blocks::dot_q4_k);
    dots[GgmlType::Q5_K as usize] = proven!(super_blocks::dot_q5_k);
    dots[GgmlType::Q6_K as usize] = proven!(super_blocks::dot_q6_k);
    dots[GgmlType::IQ4_XS as usize] = proven!(super_blocks::dot_iq4_xs);
    let mut dot4s = [None; GgmlType::ALL.len()];
    dot4s[GgmlType::F32 as usize] = proven4!(floats::dot4_f32);
    dot4s[GgmlType::F16 as usize] = proven4!(floats::dot4_f16);
    dot4s[GgmlType::BF16 as usize] = proven4!(floats::dot4_bf16);
    dot4s[GgmlType::Q4_0 as usize] = proven4!(blocks::dot4_q4_0);
    dot4s[GgmlType::Q4_1 as usize] = proven4!(blocks::dot4_q4_1);
    dot4s[GgmlType::Q5_0 as usize] = proven4!(blocks::dot4_q5_0);
    dot4s[GgmlType::Q5_1 as usize] = proven4!(blocks::dot4_q5_1);
    dot4s[GgmlType::Q8_0 as usize] = proven4!(blocks::dot4_q8_0);
    dot4s[GgmlType::IQ4_NL as usize] = proven4!(blocks::dot4_iq4_nl);
    dot4s[GgmlType::MXFP4 as usize] = proven4!(blocks::dot4_mxfp4);
    dot4s[GgmlType::Q2_K as usize] = proven4!(super_blocks::dot4_q2_k);
    dot4s[GgmlType::Q3_K as usize] = proven4!(super_blocks::dot4_q3_k);
    dot4s[GgmlType::Q4_K as usize] = proven4!(super_blocks::dot4_q4_k);
    dot4s[GgmlType::Q5_K as usize] = proven4!(super_blocks::dot4_q5_k);
    dot4s[GgmlType::Q6_K as usize] = proven4!(super_blocks::dot4_q6_k);
    dot4s[GgmlType::IQ4_XS as usize] = proven4!(super_blocks::dot4_iq4_xs);
    Table {
        dots,
        dot4s,
        rows4: [None; GgmlType::ALL.len()],
        rows: [None; GgmlType::ALL.len()],
        products: products(),
        quantize: quantize::quantize,
        widen: quantize::widen,
        lay_out_bf16: None,
    }
}

fn products() -> [[Option<Product>; 2]; GgmlType::ALL.len()] {
    let mut products = [[None; 2]; GgmlType::ALL.len()];
    let mut set = |ty: GgmlType, codes, run| {
        // Below these the forms for one row and for four rows of activations are faster (`tests/bench/EXPERIMENTS.md`).
        let least_rows = match ty {
            GgmlType::Q8_0 | GgmlType::Q6_K => 5,
            GgmlType::Q3_K => 3,
            GgmlType::F16 => 9,
            _ => 2,
        };
        products[ty as usize][1] =
            Some(Product { least_rows, panel_rows: PANELS * ROWS, range_rows: PANELS * ROWS, codes, run });
    };
    // F32 and BF16 keep the one order of sums: with another, near-ties of routers fell the other way in batches.
    set(GgmlType::F16, TileCodes::Signed, proven_product!(half_products::f16));
    set(GgmlType::Q4_0, TileCodes::Offset, proven_product!(block_products::q4_0));
    set(GgmlType::Q4_1, TileCodes::Signed, proven_product!(block_products::q4_1));
    set(GgmlType::Q5_0, TileCodes::Offset, proven_product!(block_products::q5_0));
    set(GgmlType::Q5_1, TileCodes::Signed, proven_product!(block_products::q5_1));
    set(GgmlType::Q8_0, TileCodes::Offset, proven_product!(block_products::q8_0));
    set(GgmlType::IQ4_NL, TileCodes::Offset, proven_product!(block_products::iq4_nl));
    set(GgmlType::MXFP4, TileCodes::Offset, proven_product!(block_products::mxfp4));
    set(GgmlType::Q2_K, TileCodes::Signed, proven_product!(super_block_products::q2_k));
    set(GgmlType::Q3_K, TileCodes::Offset, proven_product!(super_block_products::q3_k));
    set(GgmlType::Q4_K, TileCodes::Signed, proven_product!(super_block_products::q4_k));
    set(GgmlType::Q5_K, TileCodes::Signed, proven_product!(super_block_products::q5_k));
    set(GgmlType::Q6_K, TileCodes::Offset, proven_product!(super_block_products::q6_k));
    set(GgmlType::IQ4_XS, TileCodes::Offset, proven_product!(super_block_products::iq4_xs));
    products
}

/// Whether this CPU, and the operating system, have what [`table`] needs.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_f32x8(values: &[f32; 8]) -> __m256 {
    // SAFETY: the reference covers the 32 bytes that an unaligned load reads.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// Sums of two products of unsigned codes and activations, as 16 bits. They fit: codes are below 129, activations within
/// ±127.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs_of_products(codes: __m256i, activations: __m256i) -> __m256i {
    _mm256_maddubs_epi16(codes, activations)
}

/// The same for signed values: the sign goes over to the activation.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs_of_signed_products(values: __m256i, activations: __m256i) -> __m256i {
    pairs_of_products(_mm256_abs_epi8(values), _mm256_sign_epi8(activations, values))
}
