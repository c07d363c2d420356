//! Matrix products against scalar dot products: odd counts of rows on both sides, hard scales, hard activations.

use super::tiled::TILE_FLOATS;
use super::{ActivationScratch, Activations, Grouped, Isa, Kernels, LEAST_BATCH, Matrix, Projection, Rows};
use crate::pool::Pool;
use crate::quant::GgmlType;
use crate::quant::testing::{Random, Scales, Values, quantized, values, weights};

/// A matrix, activations and what scalar dot products make of them.
struct Case {
    ty: GgmlType,
    n_rows: usize,
    n_cols: usize,
    weights: Vec<u8>,
    x: Vec<f32>,
    /// `[rows of x, n_rows]`
    expected: Vec<f32>,
    /// The largest Σ |x| of any row.
    length: f32,
    /// At least the largest Σ |w| · |x| of any output, which rounding errors are small multiples of.
    magnitude: f32,
}

impl Case {
    fn new(
        ty: GgmlType,
        n_blocks: usize,
        n_rows: usize,
        scales: Scales,
        kinds: &[Values],
        random: &mut Random,
    ) -> Case {
        let n_cols = n_blocks * ty.block_len();
        let weights = (0..n_rows).flat_map(|_| weights(ty, n_blocks, scales, random)).collect();
        let x = kinds.iter().flat_map(|&kind| values(n_cols, kind, random)).collect();
        Case::of(ty, weights, n_rows, x)
    }

    fn of(ty: GgmlType, weights: Vec<u8>, n_rows: usize, x: Vec<f32>) -> Case {
        let n_cols = weights.len() / n_rows / ty.block_bytes() * ty.block_len();
        let (dot, form) = (ty.scalar_dot().unwrap(), ty.activation_form().unwrap());
        let rows = || weights.chunks_exact(weights.len() / n_rows);
        let dots = |x: &[f32]| -> Vec<f32> {
            let x = quantized(form, x);
            rows().map(|row| dot(n_cols, row, &x)).collect()
        };
        let expected = x.chunks_exact(n_cols).flat_map(dots).collect();
        let mut decoded = vec![0.0; n_cols];
        let mut largest = 0f32;
        for row in rows() {
            ty.dequantize(row, &mut decoded);
            largest = decoded.iter().fold(largest, |m, w| m.max(w.abs()));
        }
        let lengths = x.chunks_exact(n_cols).map(|x| x.iter().map(|x| x.abs()).sum::<f32>());
        let length = lengths.fold(0.0, f32::max);
        Case { ty, n_rows, n_cols, weights, x, expected, length, magnitude: length * largest }
    }

    fn product(&self, kernels: &Kernels, pool: &Pool, rows: Rows<'_>, n: usize) -> Vec<f32> {
        let mut scratch = ActivationScratch::default();
        let mut out = vec![f32::NAN; n * self.n_rows];
        let matrix = Matrix::new(self.ty, self.n_rows, self.n_cols, &self.weights);
        kernels.matmul(pool, &matrix, &mut Activations::new(&self.x, self.n_cols, &mut scratch), rows, &mut out);
        out
    }

    fn check(&self, kernels: &Kernels, pool: &Pool, what: &str) {
        let n = self.x.len() / self.n_cols;
        let got = self.product(kernels, pool, Rows::All, n);
        let bound = if rounds(self.ty, kernels) {
            // Both operands to eight significant bits, by half a unit of the last; weights without them become zeros.
            self.magnitude / 256.0 + self.length * f32::MIN_POSITIVE
        } else {
            // Floats are added in another order.
            4.0 * f32::EPSILON * self.magnitude + f32::MIN_POSITIVE
        };
        for (i, (got, expected)) in got.iter().zip(&self.expected).enumerate() {
            assert!(
                (got - expected).abs() <= bound,
                "{} on {}: {got} is not {expected} ± {bound:e} in row {} of {n}, column {} of {}; {what}",
                self.ty,
                kernels.isa(),
                i / self.n_rows,
                i % self.n_rows,
                self.n_rows,
            );
        }
    }
}

/// Whether products of these weights are made of bf16.
fn rounds(ty: GgmlType, kernels: &Kernels) -> bool {
    kernels.isa() == Isa::Amx && ty.block_len() == 32
}

/// Blocks, or for formats of floats elements, of which a row is a whole number of tiles.
fn whole_tiles(ty: GgmlType, n_blocks: usize) -> usize {
    if ty.block_len() > 1 { n_blocks } else { n_blocks * TILE_FLOATS }
}

fn formats() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.into_iter().filter(|ty| ty.is_computable())
}

#[test]
fn every_product_agrees_with_scalar() {
    let pool = Pool::new(Some(2)).unwrap();
    let mut random = Random(21);
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for ty in formats() {
            for (n_rows, n, n_blocks) in [
                (1, 1, 1),
                (2, 3, 2),
                (3, 33, 1),
                (15, 2, 3),
                (16, 15, 9),
                (17, 16, 1),
                (31, 17, 2),
                (33, 31, 3),
                (70, 48, 1),
            ] {
                let kinds: Vec<Values> = (0..n).map(|i| Values::ALL[i % Values::ALL.len()]).collect();
                for scales in Scales::ALL {
                    for n_blocks in [n_blocks, whole_tiles(ty, n_blocks)] {
                        let case = Case::new(ty, n_blocks, n_rows, scales, &kinds, &mut random);
                        case.check(&kernels, &pool, &format!("{n_blocks} blocks, {scales:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn integer_sums_of_products_are_exact() {
    // Scales of one on both sides: each block's sum is an integer, small enough in one block for every conversion to a
    // float to be exact.
    let pool = Pool::new(Some(1)).unwrap();
    let mut random = Random(22);
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for ty in formats().filter(|ty| ty.block_len() > 1) {
            let case = Case::new(ty, 1, 48, Scales::One, &[Values::Integers; 33], &mut random);
            let out = case.product(&kernels, &pool, Rows::All, 33);
            let wrong = out.iter().zip(&case.expected).find(|(got, expected)| got != expected);
            assert_eq!(wrong, None, "{ty} on {}", kernels.isa());
        }
    }
}

/// The root of the mean square of what products are wrong by, beside those of the weights' values with the activations
/// themselves.
fn error(case: &Case, products: &[f32]) -> f64 {
    let row_bytes = case.weights.len() / case.n_rows;
    let mut decoded = vec![0.0; case.n_cols];
    let mut squares = 0.0;
    for (r, row) in case.weights.chunks_exact(row_bytes).enumerate() {
        case.ty.dequantize(row, &mut decoded);
        for (m, x) in case.x.chunks_exact(case.n_cols).enumerate() {
            let exact: f64 = x.iter().zip(&decoded).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            squares += (exact - f64::from(products[m * case.n_rows + r])).powi(2);
        }
    }
    (squares / products.len() as f64).sqrt()
}

#[test]
fn rounding_in_products_adds_little_to_the_error_of_quantized_activations() {
    let pool = Pool::new(Some(2)).unwrap();
    let mut random = Random(24);
    for ty in formats().filter(|ty| ty.block_len() > 1) {
        let case = Case::new(ty, 1024 / ty.block_len(), 48, Scales::Usual, &[Values::Usual; 33], &mut random);
        let of_scalar = error(&case, &case.expected);
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let of_product = error(&case, &case.product(&kernels, &pool, Rows::All, 33));
            assert!(of_product <= 1.2 * of_scalar, "{ty} on {}: {of_product} and {of_scalar}", kernels.isa());
        }
    }
}

#[test]
fn the_largest_codes_do_not_overflow_a_product() {
    // Every byte of the codes alike, every activation at its bound, of equal and of alternating signs.
    let pool = Pool::new(Some(1)).unwrap();
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for ty in formats().filter(|ty| ty.block_len() > 1) {
            for byte in [0x00, 0x7F, 0x80, 0xF0, 0x0F, 0xFF] {
                let mut case = Case::new(ty, 1, 3, Scales::One, &[Values::Integers; 8], &mut Random(1));
                let scales = case.weights.clone();
                case.weights.fill(byte);
                let rows = scales.chunks_exact(ty.block_bytes()).zip(case.weights.chunks_exact_mut(ty.block_bytes()));
                rows.for_each(|(from, to)| crate::quant::testing::copy_scales(ty, from, to));
                for (row, x) in case.x.chunks_exact_mut(case.n_cols).enumerate() {
                    x.iter_mut().enumerate().for_each(|(i, x)| *x = if row > 3 && i % 2 == 1 { -127.0 } else { 127.0 });
                }
                let case = Case::of(ty, case.weights, 3, case.x);
                case.check(&kernels, &pool, &format!("all codes {byte:#x}"));
            }
        }
    }
}

#[test]
fn chosen_rows_and_their_order_give_the_bits_of_all_rows() {
    let pool = Pool::new(Some(2)).unwrap();
    let mut random = Random(23);
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for ty in formats() {
            let case = Case::new(ty, whole_tiles(ty, 2), 40, Scales::Usual, &[Values::Usual; 40], &mut random);
            let all = case.product(&kernels, &pool, Rows::All, 40);
            let mut scratch = ActivationScratch::default();
            let mut x = Activations::new(&case.x, case.n_cols, &mut scratch);
            let matrix = Matrix::new(ty, case.n_rows, case.n_cols, &case.weights);
            // The second product of the same rows, and one of all rows after it, use what lies in the scratch.
            let chosen: Vec<u32> = (0..21).map(|i| i * 17 % 40).collect();
            for indices in [&chosen[..], &chosen, &chosen[..20], &chosen[1..]] {
                let mut out = vec![f32::NAN; indices.len() * case.n_rows];
                kernels.matmul(&pool, &matrix, &mut x, Rows::Only(indices), &mut out);
                for (&row, out) in indices.iter().zip(out.chunks_exact(case.n_rows)) {
                    let expected = &all[row as usize * case.n_rows..][..case.n_rows];
                    assert!(out == expected, "{ty} on {}: row {row} of {indices:?}", kernels.isa());
                }
            }
            let mut again = vec![f32::NAN; all.len()];
            kernels.matmul(&pool, &matrix, &mut x, Rows::All, &mut again);
            assert!(again == all, "{ty} on {}", kernels.isa());
        }
    }
}

#[test]
fn products_that_are_added_have_the_bits_of_a_sum() {
    let mut random = Random(15);
    let pool = Pool::new(Some(2)).unwrap();
    for ty in formats() {
        for (n_rows, n) in [(5, 3), (300, 37)] {
            let n_cols = 2 * ty.block_len().max(TILE_FLOATS);
            let case =
                Case::new(ty, n_cols / ty.block_len(), n_rows, Scales::Usual, &vec![Values::Usual; n], &mut random);
            let before = values(n * n_rows, Values::Usual, &mut random);
            let bias = values(n_rows, Values::Usual, &mut random);
            for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
                let mut expected = case.product(&kernels, &pool, Rows::All, n);
                for (row, before) in expected.chunks_exact_mut(n_rows).zip(before.chunks_exact(n_rows)) {
                    row.iter_mut().zip(&bias).for_each(|(product, bias)| *product += bias);
                    row.iter_mut().zip(before).for_each(|(product, before)| *product += before);
                }
                let mut scratch = ActivationScratch::default();
                let mut x = Activations::new(&case.x, case.n_cols, &mut scratch);
                let weight = Matrix::new(ty, n_rows, case.n_cols, &case.weights);
                let mut out = before.clone();
                kernels.matmul_add(&pool, Projection { weight, bias: Some(&bias) }, &mut x, &mut out);
                assert!(out == expected, "{ty} {n_rows} x {n} on {}", kernels.isa());
            }
        }
    }
}

#[test]
fn a_nan_or_an_infinity_reaches_its_row_of_a_product_and_no_other() {
    let pool = Pool::new(Some(1)).unwrap();
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for ty in formats() {
                let mut case = Case::new(ty, 512 / ty.block_len(), 5, Scales::One, &[Values::Usual; 9], &mut Random(3));
                case.x[4 * case.n_cols + 300] = fault;
                let out = case.product(&kernels, &pool, Rows::All, 9);
                for (row, out) in out.chunks_exact(5).enumerate() {
                    let spoilt = out.iter().all(|x| !x.is_finite());
                    let sound = out.iter().all(|x| x.is_finite());
                    assert!(
                        if row == 4 { spoilt } else { sound },
                        "{ty} {fault} on {}: {out:?} in {row}",
                        kernels.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn groups_have_the_bits_of_products_of_their_own() {
    let pool = Pool::new(Some(2)).unwrap();
    let mut random = Random(23);
    let n_out = 37;
    // Of each group, the rows that it takes: none, one, a few, more than a tile has, one twice.
    let groups: [&[u32]; 5] =
        [&[3], &[], &[0, 5, 4], &[1, 2, 6, 7, 8, 0, 3, 2, 5, 4, 9, 10, 11, 12, 13, 14, 15, 1], &[7, 7]];
    let rows = groups.concat();
    let starts: Vec<usize> =
        std::iter::once(0).chain(groups.iter().scan(0, |at, group| Some((*at += group.len(), *at).1))).collect();
    // The places of the rows, from the end on, one left free.
    let places: Vec<u32> = (1..=rows.len() as u32).rev().collect();
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for ty in formats() {
            let cases: Vec<Case> = (0..groups.len())
                .map(|_| Case::new(ty, whole_tiles(ty, 2), n_out, Scales::ALL[0], &[Values::ALL[0]; 16], &mut random))
                .collect();
            let matrix = |i: usize| Matrix::new(ty, n_out, cases[i].n_cols, &cases[i].weights);
            let (x, n_cols) = (&cases[0].x, cases[0].n_cols);
            for n_batch in [2, LEAST_BATCH] {
                let mut scratch = ActivationScratch::default();
                let mut acts = Activations::new(x, n_cols, &mut scratch).of_batch(n_batch);
                let grouped = Grouped { rows: Rows::Only(&rows), starts: &starts };
                let mut out = vec![f32::NAN; (rows.len() + 1) * n_out];
                kernels.matmul_groups(&pool, matrix, &mut acts, grouped, &mut out, Rows::Only(&places));
                assert!(out[..n_out].iter().all(|x| x.is_nan()), "what is no place was written to");
                for (i, group) in groups.iter().enumerate().filter(|(_, group)| !group.is_empty()) {
                    let mut scratch = ActivationScratch::default();
                    let mut acts = Activations::new(x, n_cols, &mut scratch).of_batch(n_batch);
                    let mut expected = vec![f32::NAN; group.len() * n_out];
                    kernels.matmul(&pool, &matrix(i), &mut acts, Rows::Only(group), &mut expected);
                    for (row, expected) in expected.chunks_exact(n_out).enumerate() {
                        let place = places[starts[i] + row] as usize;
                        let got = &out[place * n_out..][..n_out];
                        assert_eq!(got, expected, "{ty} on {}, group {i}, row {row}", kernels.isa());
                        if n_batch < LEAST_BATCH && group.len() == 1 {
                            let form = ty.activation_form().unwrap();
                            let x = quantized(form, &x[group[0] as usize * n_cols..][..n_cols]);
                            let dots = (0..n_out).map(|r| kernels.dot(ty).unwrap()(n_cols, matrix(i).row(r), &x));
                            assert_eq!(got, dots.collect::<Vec<f32>>(), "{ty} on {}", kernels.isa());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_take_several_passes_have_the_bits_of_one_after_the_other() {
    // More than a pass takes of tiles, and a last pass with hardly any.
    const N: usize = 2 * 512 + 17;
    let pool = Pool::new(Some(2)).unwrap();
    let mut random = Random(29);
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new).filter(|kernels| kernels.isa() != Isa::Scalar) {
        for ty in formats() {
            let case = Case::new(ty, whole_tiles(ty, 1), 70, Scales::Usual, &[Values::Usual; 16], &mut random);
            let matrix = Matrix::new(ty, case.n_rows, case.n_cols, &case.weights);
            let product = |x: &[f32]| {
                let mut scratch = ActivationScratch::default();
                let mut acts = Activations::new(x, case.n_cols, &mut scratch).of_batch(N);
                let mut out = vec![f32::NAN; x.len() / case.n_cols * case.n_rows];
                kernels.matmul(&pool, &matrix, &mut acts, Rows::All, &mut out);
                out
            };
            let x: Vec<f32> = case.x.iter().copied().cycle().take(N * case.n_cols).collect();
            let (all, of_sixteen) = (product(&x), product(&case.x));
            for (i, rows) in all.chunks(of_sixteen.len()).enumerate() {
                assert!(rows == &of_sixteen[..rows.len()], "{ty} on {}, from row {}", kernels.isa(), 16 * i);
            }
        }
    }
}

#[test]
#[should_panic(expected = "one place")]
fn two_rows_with_one_place_are_refused() {
    let case = Case::new(GgmlType::Q8_0, 1, 3, Scales::One, &[Values::Integers; 2], &mut Random(1));
    let mut scratch = ActivationScratch::default();
    let mut acts = Activations::new(&case.x, case.n_cols, &mut scratch);
    let grouped = Grouped { rows: Rows::All, starts: &[0, 1, 2] };
    let matrix = |_| Matrix::new(case.ty, case.n_rows, case.n_cols, &case.weights);
    let pool = Pool::new(Some(2)).unwrap();
    Kernels::detect().matmul_groups(&pool, matrix, &mut acts, grouped, &mut [0.0; 6], Rows::Only(&[1, 1]));
}
