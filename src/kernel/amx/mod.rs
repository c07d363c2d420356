//! Products of many rows on the matrix unit (Intel AMX), whose one instruction makes 16 × 16 sums of 64 products of bytes or
//! of 32 of bf16. Weights are decoded a block of sixteen rows at a time into the first level of cache and meet all rows of
//! activations there.
//!
//! Formats of 256 elements are multiplied as bytes: sums over a block are integers, exact; floats are as in the dot products,
//! one step a block. Formats of 32 would have every sum of 32 products scaled, which takes longer than the unit takes for
//! them; so weights and activations, which have been quantized as for every other kernel, are rounded to bf16 with their
//! scales, and the unit adds up whole rows. That adds a seventh to the error which quantizing the activations has made. Q8_0,
//! whose codes have as many bits as a bf16, is left to AVX-512.

#![allow(unsafe_code, reason = "tiles are loaded and stored by assembly")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix, and a kernel uses dozens")]

mod activations;
mod bf16;
mod blocks;
mod levels;
mod parts;
mod super_blocks;
pub(super) mod unit;

use super::avx512;
use super::dispatch::{Product, Table};
use super::panels::{PANELS, ROWS};
use super::tiled::TileCodes;
use super::x86::proven_product;
use crate::quant::GgmlType;

/// From how many rows of activations on the unit is faster than AVX-512. It always computes sixteen.
const LEAST_ROWS: usize = 8;

/// Rows of weights of a range, see [`Product::range_rows`]: their sums with 512 rows of activations are half a megabyte, beside
/// another of activations in the second level of cache.
const RANGE_ROWS: usize = 256;

/// The table of this instruction set, for a CPU that has it, and for no other.
pub(super) fn table() -> Table {
    let mut table = avx512::table();
    let mut set = |ty: GgmlType, codes, run| {
        table.products[ty as usize][0] =
            Some(Product { least_rows: LEAST_ROWS, panel_rows: PANELS * ROWS, range_rows: RANGE_ROWS, codes, run });
    };
    set(GgmlType::Q4_0, TileCodes::Bf16, proven_product!(blocks::q4_0));
    set(GgmlType::Q4_1, TileCodes::Bf16, proven_product!(blocks::q4_1));
    set(GgmlType::Q5_0, TileCodes::Bf16, proven_product!(blocks::q5_0));
    set(GgmlType::Q5_1, TileCodes::Bf16, proven_product!(blocks::q5_1));
    set(GgmlType::IQ4_NL, TileCodes::Bf16, proven_product!(blocks::iq4_nl));
    set(GgmlType::MXFP4, TileCodes::Bf16, proven_product!(blocks::mxfp4));
    set(GgmlType::Q2_K, TileCodes::Signed, proven_product!(parts::q2_k));
    set(GgmlType::Q3_K, TileCodes::Signed, proven_product!(parts::q3_k));
    set(GgmlType::Q4_K, TileCodes::Signed, proven_product!(parts::q4_k));
    set(GgmlType::Q5_K, TileCodes::Signed, proven_product!(parts::q5_k));
    set(GgmlType::Q6_K, TileCodes::Signed, proven_product!(parts::q6_k));
    set(GgmlType::IQ4_XS, TileCodes::Signed, proven_product!(parts::iq4_xs));
    table.lay_out_bf16 = Some(|form, rows, tiles| {
        // SAFETY: as for `proven_product`.
        unsafe { activations::lay_out(form, rows, tiles) }
    });
    table
}

/// Whether this CPU, the operating system and this process have what [`table`] needs.
pub(super) fn is_available() -> bool {
    avx512::is_available() && is_x86_feature_detected!("avx512bf16") && unit::is_available()
}
