//! Products of many rows on the matrix unit (Intel AMX): 16 × 16 sums of 64 byte products in one instruction. Sixteen rows
//! of weights are decoded a block at a time into the first level of cache and meet all rows of activations there.
//!
//! Sums over a block are integers, exact; floats are as in the dot products, one step a block.

#![allow(unsafe_code, reason = "tiles are loaded and stored by assembly")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix, and a kernel uses dozens")]

mod blocks;
mod super_blocks;
mod unit;

use super::avx512;
use super::dispatch::{Product, Table};
use super::panels::{PANELS, ROWS};
use super::tiled::TileCodes;
use super::x86::proven_product;
use crate::quant::GgmlType;

/// From how many rows of activations on the unit is faster than AVX-512. It always computes sixteen.
const LEAST_ROWS: usize = 8;

/// The table of this instruction set, for a CPU that has it, and for no other.
pub(super) fn table() -> Table {
    let mut table = avx512::table();
    let mut set = |ty: GgmlType, run| {
        let codes = TileCodes::Signed;
        table.products[ty as usize][0] =
            Some(Product { least_rows: LEAST_ROWS, panel_rows: PANELS * ROWS, codes, run });
    };
    set(GgmlType::Q4_0, proven_product!(blocks::q4_0));
    set(GgmlType::Q4_1, proven_product!(blocks::q4_1));
    set(GgmlType::Q5_0, proven_product!(blocks::q5_0));
    set(GgmlType::Q5_1, proven_product!(blocks::q5_1));
    set(GgmlType::Q8_0, proven_product!(blocks::q8_0));
    set(GgmlType::IQ4_NL, proven_product!(blocks::iq4_nl));
    set(GgmlType::MXFP4, proven_product!(blocks::mxfp4));
    set(GgmlType::Q2_K, proven_product!(super_blocks::q2_k));
    set(GgmlType::Q3_K, proven_product!(super_blocks::q3_k));
    set(GgmlType::Q4_K, proven_product!(super_blocks::q4_k));
    set(GgmlType::Q5_K, proven_product!(super_blocks::q5_k));
    set(GgmlType::Q6_K, proven_product!(super_blocks::q6_k));
    set(GgmlType::IQ4_XS, proven_product!(super_blocks::iq4_xs));
    table
}

/// Whether this CPU, the operating system and this process have what [`table`] needs.
pub(super) fn is_available() -> bool {
    avx512::is_available() && unit::is_available()
}
