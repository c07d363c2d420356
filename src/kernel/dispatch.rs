//! Which kernels run here: an instruction set is detected or asked for once, and what comes back is a table of functions.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::matmul::Matrix;
use super::output::Output;
use super::scalar;
use super::tiled::{Bf16Tile, STEPS, TileCodes, Tiles, tile_len};
use crate::quant::{ActivationForm, DotFn, GgmlType};

/// An instruction set that kernels are written for, from the least to the most capable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    Scalar,
    Avx2,
    Avx512,
    Amx,
}

impl Isa {
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no instruction set of [`Isa::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no instruction set; the choices are scalar, avx2, avx512 and amx")]
pub struct UnknownIsa(String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

/// The dot products of a row of `n` weights with four rows of activations.
pub(super) type Dot4Fn = fn(n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4];

/// Those of as many rows of `n` weights, one after the other in memory, as `out` has fours.
pub(super) type Rows4Fn = fn(n: usize, weights: &[u8], activations: [&[u8]; 4], out: &mut [[f32; 4]]);

/// The dot products of as many rows of `n` weights, one after the other in memory, as `out` has numbers, with one row of
/// activations.
pub(super) type RowsFn = fn(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]);

/// Writes activations in a form, as [`crate::quant::quantize_activations`] does and bit for bit the same.
pub(super) type QuantizeFn = fn(form: ActivationForm, x: &[f32], out: &mut [u8]);

/// Makes floats of halves, as the dequantization of F16 does.
pub(super) type WidenFn = fn(halves: &[u8], out: &mut [f32]);

/// Lays out a part of up to sixteen rows of activations, which are in a form, as bf16, a tile for every 32 elements.
pub(super) type LayOutBf16Fn = fn(form: ActivationForm, rows: &[&[u8]], tiles: &mut [Bf16Tile; STEPS]);

/// A matrix product of more rows of activations than a dot product is good for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    /// From how many rows on it is faster than dot products and other products.
    pub(super) least_rows: usize,
    /// Rows of weights that are decoded together; ranges begin at a multiple of them.
    pub(super) panel_rows: usize,
    /// Rows of weights that a thread takes at a time where all threads have work then: a multiple of those of a panel. The more
    /// they are, the less often activations are read from the cache that is shared.
    pub(super) range_rows: usize,
    pub(super) codes: TileCodes,
    pub(super) run: RunFn,
}

/// Computes the columns of the output that belong to a range of the rows of weights.
pub(super) type RunFn = fn(&Operands<'_>, Range<usize>);

/// What a [`Product`] multiplies, and where the result goes.
pub(super) struct Operands<'a> {
    pub(super) weights: Matrix<'a>,
    /// The rows that are likely to be multiplied after the last of the range, of these weights or others.
    pub(super) next: &'a [u8],
    /// Rows of activations.
    pub(super) n_rows: usize,
    pub(super) tiles: Tiles<'a>,
    pub(super) output: &'a Output<'a>,
}

/// The functions of one instruction set. Only [`Kernels::new`] builds one, after it has asked the CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    /// Indexed by [`GgmlType`]; `None` where the format is not computable.
    pub(super) dots: [Option<DotFn>; GgmlType::ALL.len()],
    /// Indexed likewise; `None` where four dot products one after the other are the best there is.
    pub(super) dot4s: [Option<Dot4Fn>; GgmlType::ALL.len()],
    /// Indexed likewise; `None` where rows of weights are best taken one after the other.
    pub(super) rows4: [Option<Rows4Fn>; GgmlType::ALL.len()],
    /// Indexed likewise; `None` where rows share nothing.
    pub(super) rows: [Option<RowsFn>; GgmlType::ALL.len()],
    /// Indexed likewise: products by the number of rows that they are for, the most first.
    pub(super) products: [[Option<Product>; 2]; GgmlType::ALL.len()],
    pub(super) quantize: QuantizeFn,
    pub(super) widen: WidenFn,
    /// `None` where no product takes such tiles.
    pub(super) lay_out_bf16: Option<LayOutBf16Fn>,
}

/// The kernels of an instruction set. Holding one is the proof that this CPU has it.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    table: Table,
}

impl Kernels {
    /// The kernels for `isa`, or `None` where this CPU lacks it.
    pub fn new(isa: Isa) -> Option<Kernels> {
        let table = match isa {
            Isa::Scalar => Some(scalar::table()),
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => x86_table(isa),
        }?;
        Some(Kernels { isa, table })
    }

    /// The most capable kernels that this CPU has.
    pub fn detect() -> Kernels {
        let best = Isa::ALL.into_iter().rev().find_map(Kernels::new);
        best.unwrap_or_else(|| Kernels { isa: Isa::Scalar, table: scalar::table() })
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The dot product for weights of format `ty`; `None` where the format is not computable.
    pub fn dot(&self, ty: GgmlType) -> Option<DotFn> {
        self.table.dots[ty as usize]
    }

    /// The dot products of a row of `n` weights of format `ty` with four rows of activations in its form, which share the
    /// unpacking of the weights. Each is, to the bit, what [`Kernels::dot`] gives for it. Panics where a length is wrong
    /// or the format is not computable.
    pub fn dot4(&self, ty: GgmlType, n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4] {
        match (self.table.dot4s[ty as usize], self.dot(ty)) {
            (Some(dot4), _) => dot4(n, weights, activations),
            (None, Some(dot)) => activations.map(|a| dot(n, weights, a)),
            (None, None) => panic!("{ty} cannot be computed with"),
        }
    }

    /// As [`Kernels::dot4`], of as many rows of weights, one after the other in memory, as `out` has fours.
    pub fn dot4_rows(&self, ty: GgmlType, n: usize, weights: &[u8], activations: [&[u8]; 4], out: &mut [[f32; 4]]) {
        if let Some(rows4) = self.table.rows4[ty as usize] {
            return rows4(n, weights, activations, out);
        }
        let row_bytes = ty.row_bytes(n as u64).map_or(0, |bytes| bytes as usize);
        assert_eq!(row_bytes * out.len(), weights.len(), "{} rows of {n} elements of {ty}", out.len());
        for (i, out) in out.iter_mut().enumerate() {
            *out = self.dot4(ty, n, &weights[i * row_bytes..][..row_bytes], activations);
        }
    }

    /// The dot products of rows of `n` weights of format `ty`, one after the other in memory, with one row of activations in its
    /// form. Each is, to the bit, what [`Kernels::dot`] gives for it. Panics where a length is wrong or the format is not
    /// computable.
    pub fn dot_rows(&self, ty: GgmlType, n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
        match (self.table.rows[ty as usize], self.dot(ty)) {
            (Some(rows), _) => rows(n, weights, activations, out),
            (None, Some(dot)) => {
                let row_bytes = ty.row_bytes(n as u64).map_or(0, |bytes| bytes as usize);
                assert_eq!(row_bytes * out.len(), weights.len(), "{} rows of {n} elements of {ty}", out.len());
                for (i, out) in out.iter_mut().enumerate() {
                    *out = dot(n, &weights[i * row_bytes..][..row_bytes], activations);
                }
            }
            (None, None) => panic!("{ty} cannot be computed with"),
        }
    }

    /// The product for `n_rows` rows of `n_cols` activations and weights of format `ty`; `None` where dot products are
    /// faster or a row is not a whole number of tiles.
    pub(super) fn product(&self, ty: GgmlType, n_rows: usize, n_cols: usize) -> Option<Product> {
        let len = ty.activation_form().and_then(tile_len);
        let is_whole = len.is_some_and(|len| n_cols.is_multiple_of(len));
        let mut products = self.table.products[ty as usize].into_iter().flatten();
        products.find(|product| is_whole && n_rows >= product.least_rows)
    }

    /// How this instruction set makes floats of halves.
    pub(super) fn widen(&self) -> WidenFn {
        self.table.widen
    }

    /// How this instruction set lays out activations as bf16, where it has products of such.
    pub(super) fn lay_out_bf16(&self) -> Option<LayOutBf16Fn> {
        self.table.lay_out_bf16
    }

    /// Writes `x` in `form` to `out`, which has exactly `form.row_bytes(x.len())` bytes. Every instruction set writes the
    /// same bytes.
    pub fn quantize(&self, form: ActivationForm, x: &[f32], out: &mut [u8]) {
        (self.table.quantize)(form, x, out);
    }
}

#[cfg(target_arch = "x86_64")]
fn x86_table(isa: Isa) -> Option<Table> {
    use super::{amx, avx2, avx512};
    match isa {
        Isa::Scalar => None,
        Isa::Avx2 => avx2::is_available().then(avx2::table),
        Isa::Avx512 => avx512::is_available().then(avx512::table),
        Isa::Amx => amx::is_available().then(amx::table),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_table(_: Isa) -> Option<Table> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_others_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!("avx9".parse::<Isa>().unwrap_err().to_string().contains("avx9"));
    }

    #[test]
    fn every_instruction_set_here_has_a_dot_for_every_computable_format() {
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            for ty in GgmlType::ALL {
                assert_eq!(kernels.dot(ty).is_some(), ty.is_computable(), "{ty} on {}", kernels.isa());
            }
        }
    }
}
