//! Activations as the unit takes them.

use std::arch::x86_64::*;

use super::super::avx512::registers::{store_line, turned};
use super::super::tiled::{Bf16Tile, STEPS};
use super::super::x86::bytes_at;
use super::levels::scaled;
use crate::quant::{ActivationForm, Block, BlockQ8_0, BlockQ8_1, blocks};

/// As [`LayOutBf16Fn`](super::super::dispatch::LayOutBf16Fn).
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
pub(super) fn lay_out(form: ActivationForm, rows: &[&[u8]], tiles: &mut [Bf16Tile; STEPS]) {
    match form {
        ActivationForm::Q8_0 => lay_out_blocks(rows, tiles, |block: &BlockQ8_0| {
            scaled(bytes_at::<32>(block, 2), _mm512_set1_ps(block.d.to_f32()))
        }),
        ActivationForm::Q8_1 => lay_out_blocks(rows, tiles, |block: &BlockQ8_1| {
            scaled(bytes_at::<32>(block, 4), _mm512_set1_ps(block.d.to_f32()))
        }),
        _ => panic!("no tiles of bf16 for {form:?}"),
    }
}

/// `elements` gives those of a block, which is a step.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
fn lay_out_blocks<B: Block>(rows: &[&[u8]], tiles: &mut [Bf16Tile; STEPS], elements: impl Fn(&B) -> __m512i) {
    let mut lines = Bf16Tile::ZERO;
    let n_blocks = rows[0].len() / size_of::<B>();
    for (step, tile) in tiles[..n_blocks].iter_mut().enumerate() {
        for (line, row) in lines.0.iter_mut().zip(rows) {
            store_line(line, elements(&blocks::<B>(row, n_blocks)[step]));
        }
        for i in 0..4 {
            let turned = turned(|row| &lines.0[row].as_chunks::<16>().0[i]);
            for (line, turned) in tile.0.as_chunks_mut::<4>().0[i].iter_mut().zip(turned) {
                store_line(line, turned);
            }
        }
    }
}
