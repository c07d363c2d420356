//! Products of many rows on the matrix unit (Intel AMX): 16 × 16 sums of 64 byte products in one instruction. Sixteen rows
//! of weights are decoded a block at a time into the first level of cache and meet all rows of activations there.
//!
//! Sums over a block are integers, exact; floats are as in the dot products, one step a block.

#![allow(unsafe_code, reason = "tiles are loaded and stored by assembly")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix, and a kernel uses dozens")]

mod blocks;
mod lanes;
mod super_blocks;
mod unit;

use super::avx512;
use super::dispatch::{Operands, Product, Table};
use crate::quant::GgmlType;

/// Makes a [`Product`] of a function that needs CPU features.
macro_rules! proven {
    ($product:expr) => {{
        fn run(operands: &Operands<'_>, range: std::ops::Range<usize>) {
            // SAFETY: the table that this function stands in is only handed out by `Kernels::new`, which has found the
            // features that the product needs on this CPU.
            unsafe { $product(operands, range) }
        }
        Some(Product { least_rows: 3, panel_rows: 32, run })
    }};
}

/// The table of this instruction set, for a CPU that has it, and for no other.
pub(super) fn table() -> Table {
    let mut products = [None; GgmlType::ALL.len()];
    products[GgmlType::Q4_0 as usize] = proven!(blocks::q4_0);
    products[GgmlType::Q4_1 as usize] = proven!(blocks::q4_1);
    products[GgmlType::Q5_0 as usize] = proven!(blocks::q5_0);
    products[GgmlType::Q5_1 as usize] = proven!(blocks::q5_1);
    products[GgmlType::Q8_0 as usize] = proven!(blocks::q8_0);
    products[GgmlType::IQ4_NL as usize] = proven!(blocks::iq4_nl);
    products[GgmlType::MXFP4 as usize] = proven!(blocks::mxfp4);
    products[GgmlType::Q2_K as usize] = proven!(super_blocks::q2_k);
    products[GgmlType::Q3_K as usize] = proven!(super_blocks::q3_k);
    products[GgmlType::Q4_K as usize] = proven!(super_blocks::q4_k);
    products[GgmlType::Q5_K as usize] = proven!(super_blocks::q5_k);
    products[GgmlType::Q6_K as usize] = proven!(super_blocks::q6_k);
    products[GgmlType::IQ4_XS as usize] = proven!(super_blocks::iq4_xs);
    Table { products, ..avx512::table() }
}

/// Whether this CPU, the operating system and this process have what [`table`] needs.
pub(super) fn is_available() -> bool {
    avx512::is_available() && unit::is_available()
}
