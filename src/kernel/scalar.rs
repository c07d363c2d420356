//! The scalar table: the definitions of [`crate::quant`], for a CPU without anything better and as every kernel's judge.

use super::dispatch::Table;
use crate::quant::{GgmlType, quantize_activations};

pub(super) fn table() -> Table {
    Table {
        dots: std::array::from_fn(|i| GgmlType::ALL[i].scalar_dot()),
        dot4s: [None; GgmlType::ALL.len()],
        rows4: [None; GgmlType::ALL.len()],
        rows: [None; GgmlType::ALL.len()],
        products: [[None; 2]; GgmlType::ALL.len()],
        quantize: quantize_activations,
        widen: |halves, out| GgmlType::F16.dequantize(halves, out),
        lay_out_bf16: None,
    }
}
