//! Kernels for AVX-512 with VNNI. Products of bytes are summed four at a time in one instruction; formats of 256 elements
//! fill whole registers, of formats of 32 four blocks together do.
#![allow(unsafe_code, reason = "vector loads and stores go through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix, and a kernel uses dozens")]

mod block_products;
mod blocks;
mod floats;
mod fours;
pub(super) mod interleaved;
mod quantize;
pub(super) mod registers;
mod super_block_products;
mod super_blocks;

use std::arch::x86_64::*;

use super::dispatch::{Product, Table};
use super::panels::{PANELS, ROWS};
use super::scalar;
use super::tiled::TileCodes;
use super::x86::{has_large_second_level, proven, proven_product, proven_rows, proven_rows4, proven4};
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
    dot4s[GgmlType::Q2_K as usize] = proven4!(super_blocks::dot4_q2_k);
    dot4s[GgmlType::Q3_K as usize] = proven4!(super_blocks::dot4_q3_k);
    dot4s[GgmlType::Q4_K as usize] = proven4!(super_blocks::dot4_q4_k);
    dot4s[GgmlType::Q5_K as usize] = proven4!(super_blocks::dot4_q5_k);
    dot4s[GgmlType::Q6_K as usize] = proven4!(super_blocks::dot4_q6_k);
    dot4s[GgmlType::IQ4_XS as usize] = proven4!(super_blocks::dot4_iq4_xs);
    let mut rows4 = [None; GgmlType::ALL.len()];
    rows4[GgmlType::F32 as usize] = proven_rows4!(floats::rows4_f32);
    rows4[GgmlType::F16 as usize] = proven_rows4!(floats::rows4_f16);
    rows4[GgmlType::BF16 as usize] = proven_rows4!(floats::rows4_bf16);
    let mut rows = [None; GgmlType::ALL.len()];
    rows[GgmlType::Q4_0 as usize] = proven_rows!(blocks::rows_q4_0);
    rows[GgmlType::Q4_1 as usize] = proven_rows!(blocks::rows_q4_1);
    rows[GgmlType::Q5_0 as usize] = proven_rows!(blocks::rows_q5_0);
    rows[GgmlType::Q5_1 as usize] = proven_rows!(blocks::rows_q5_1);
    rows[GgmlType::Q8_0 as usize] = proven_rows!(blocks::rows_q8_0);
    rows[GgmlType::MXFP4 as usize] = proven_rows!(blocks::rows_mxfp4);
    rows[GgmlType::IQ4_NL as usize] = proven_rows!(blocks::rows_iq4_nl);
    // Elsewhere these are read at memory's speed one after the other.
    if has_large_second_level() {
        rows[GgmlType::F32 as usize] = proven_rows!(floats::rows_f32);
        rows[GgmlType::F16 as usize] = proven_rows!(floats::rows_f16);
        rows[GgmlType::BF16 as usize] = proven_rows!(floats::rows_bf16);
        rows[GgmlType::Q2_K as usize] = proven_rows!(super_blocks::rows_q2_k);
        rows[GgmlType::Q3_K as usize] = proven_rows!(super_blocks::rows_q3_k);
        rows[GgmlType::Q4_K as usize] = proven_rows!(super_blocks::rows_q4_k);
        rows[GgmlType::Q5_K as usize] = proven_rows!(super_blocks::rows_q5_k);
        rows[GgmlType::Q6_K as usize] = proven_rows!(super_blocks::rows_q6_k);
    }
    Table {
        dots,
        dot4s,
        rows4,
        rows,
        products: products(),
        quantize: quantize::quantize,
        widen: scalar::table().widen,
        lay_out_bf16: None,
    }
}

fn products() -> [[Option<Product>; 2]; GgmlType::ALL.len()] {
    let mut products = [[None; 2]; GgmlType::ALL.len()];
    let mut set = |ty: GgmlType, codes, run| {
        products[ty as usize][1] =
            Some(Product { least_rows: 2, panel_rows: PANELS * ROWS, range_rows: PANELS * ROWS, codes, run });
    };
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
    super::avx2::is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_512(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that an unaligned load reads.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_f32x16(values: &[f32; 16]) -> __m512 {
    // SAFETY: the reference covers the 64 bytes that an unaligned load reads.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}
