//! Every kernel against scalar: odd counts, hard scales, hard activations, and surroundings that would poison a result.

use super::{Isa, Kernels};
use crate::quant::testing::{Random, Scales, Values, quantized, values, weights};
use crate::quant::{ActivationForm, GgmlType};

/// `bytes` at an odd address, between bytes that are NaN in every float format and the largest magnitude as integers.
struct Guarded {
    memory: Vec<u8>,
    len: usize,
}

const GUARD: usize = 65;

impl Guarded {
    fn new(bytes: &[u8]) -> Guarded {
        let memory = [&[0xFF; GUARD][..], bytes, &[0xFF; GUARD]].concat();
        Guarded { memory, len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[GUARD..GUARD + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[GUARD..GUARD + self.len]
    }

    fn is_intact(&self) -> bool {
        let (before, after) = (&self.memory[..GUARD], &self.memory[GUARD + self.len..]);
        before.iter().chain(after).all(|&byte| byte == 0xFF)
    }
}

fn faster_kernels() -> Vec<Kernels> {
    for isa in Isa::ALL {
        if Kernels::new(isa).is_none() {
            println!("SKIP: this CPU has no {isa}");
        }
    }
    Isa::ALL.into_iter().filter(|&isa| isa != Isa::Scalar).filter_map(Kernels::new).collect()
}

/// Σ |w| · |a| of a row, which the rounding error of any order of summation is a small multiple of.
fn magnitude(ty: GgmlType, row: &[u8], x: &[f32]) -> f32 {
    let mut w = vec![0.0; x.len()];
    ty.dequantize(row, &mut w);
    let largest = w.iter().fold(0f32, |m, w| m.max(w.abs()));
    x.iter().map(|x| x.abs() * largest).sum()
}

#[test]
fn every_dot_agrees_with_scalar() {
    let mut random = Random(11);
    for kernels in faster_kernels() {
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable()) {
            let (dot, scalar) = (kernels.dot(ty).unwrap(), ty.scalar_dot().unwrap());
            for n_blocks in [0, 1, 2, 3, 5, 15, 16, 17, 33, 67] {
                for scales in Scales::ALL {
                    for kind in Values::ALL {
                        let n = n_blocks * ty.block_len();
                        let x = if n == 0 { Vec::new() } else { values(n, kind, &mut random) };
                        let row = Guarded::new(&weights(ty, n_blocks, scales, &mut random));
                        let a = Guarded::new(&quantized(ty.activation_form().unwrap(), &x));
                        let (got, expected) = (dot(n, row.bytes(), a.bytes()), scalar(n, row.bytes(), a.bytes()));
                        let bound = 4.0 * f32::EPSILON * magnitude(ty, row.bytes(), &x) + f32::MIN_POSITIVE;
                        assert!(
                            (got - expected).abs() <= bound,
                            "{ty} on {}: {got} is not {expected} ± {bound:e}; {n_blocks} {scales:?} {kind:?}",
                            kernels.isa()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn four_rows_of_activations_give_the_bits_of_one_after_the_other() {
    let mut random = Random(14);
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable()) {
            // Of floats more than is taken of a row at a time.
            let most = if ty.block_len() == 1 { 1300 } else { 5 };
            for n_blocks in [0, 1, 2, 3, 16, 33, most] {
                let n = n_blocks * ty.block_len();
                let row = Guarded::new(&weights(ty, n_blocks, Scales::Usual, &mut random));
                let a = [Values::Usual, Values::Outlier, Values::Tiny, Values::Integers].map(|kind| {
                    let x = if n == 0 { Vec::new() } else { values(n, kind, &mut random) };
                    Guarded::new(&quantized(ty.activation_form().unwrap(), &x))
                });
                let dot = kernels.dot(ty).unwrap();
                let expected = a.each_ref().map(|a| dot(n, row.bytes(), a.bytes()).to_bits());
                let got = kernels.dot4(ty, n, row.bytes(), a.each_ref().map(Guarded::bytes)).map(f32::to_bits);
                assert_eq!(got, expected, "{ty} on {}, {n_blocks} blocks", kernels.isa());
                // Fewer than four, more than are taken at a time, and none.
                for n_rows in [0, 3, 37] {
                    let rows: Vec<u8> =
                        (0..n_rows).flat_map(|_| weights(ty, n_blocks, Scales::Usual, &mut random)).collect();
                    let rows = Guarded::new(&rows);
                    let row_bytes = rows.bytes().len() / n_rows.max(1);
                    let row = |i: usize| &rows.bytes()[i * row_bytes..][..row_bytes];
                    let expected: Vec<_> =
                        (0..n_rows).map(|i| a.each_ref().map(|a| dot(n, row(i), a.bytes()))).collect();
                    let mut got = vec![[f32::NAN; 4]; n_rows];
                    kernels.dot4_rows(ty, n, rows.bytes(), a.each_ref().map(Guarded::bytes), &mut got);
                    let bits = |sums: Vec<[f32; 4]>| sums.into_iter().map(|s| s.map(f32::to_bits)).collect::<Vec<_>>();
                    assert_eq!(bits(got), bits(expected), "{ty} on {}, {n_rows} of {n_blocks} blocks", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn rows_of_weights_give_the_bits_of_one_after_the_other() {
    let mut random = Random(15);
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable()) {
            let dot = kernels.dot(ty).unwrap();
            for n_blocks in [0, 1, 2, 3, 4, 5, 6, 7, 18, 33] {
                for (n_rows, kind) in
                    [0, 1, 2, 5, 11].into_iter().zip([Values::Usual, Values::Outlier, Values::Tiny].into_iter().cycle())
                {
                    let n = n_blocks * ty.block_len();
                    let rows: Vec<_> = (0..n_rows).map(|_| weights(ty, n_blocks, Scales::Usual, &mut random)).collect();
                    let x = if n == 0 { Vec::new() } else { values(n, kind, &mut random) };
                    let a = Guarded::new(&quantized(ty.activation_form().unwrap(), &x));
                    let expected: Vec<u32> = rows.iter().map(|row| dot(n, row, a.bytes()).to_bits()).collect();
                    let mut got = vec![f32::NAN; n_rows];
                    kernels.dot_rows(ty, n, Guarded::new(&rows.concat()).bytes(), a.bytes(), &mut got);
                    let got: Vec<u32> = got.into_iter().map(f32::to_bits).collect();
                    assert_eq!(got, expected, "{ty} on {}, {n_rows} rows of {n_blocks} blocks", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn integer_sums_are_exact() {
    // Scales of one, on both sides: each block's sum is an integer, small enough in one block for every conversion to
    // a float to be exact.
    let mut random = Random(12);
    for kernels in faster_kernels() {
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable() && ty.block_len() > 1) {
            for _ in 0..200 {
                let row = weights(ty, 1, Scales::One, &mut random);
                let a =
                    quantized(ty.activation_form().unwrap(), &values(ty.block_len(), Values::Integers, &mut random));
                let n = ty.block_len();
                let (got, expected) = (kernels.dot(ty).unwrap()(n, &row, &a), ty.scalar_dot().unwrap()(n, &row, &a));
                assert_eq!(got, expected, "{ty} on {}", kernels.isa());
            }
        }
    }
}

#[test]
fn the_largest_codes_do_not_overflow() {
    // Every byte of the codes alike, every activation at its bound, of equal and of alternating signs.
    for kernels in faster_kernels() {
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable() && ty.block_len() > 1) {
            for byte in [0x00, 0x7F, 0x80, 0xF0, 0x0F, 0xFF] {
                for alternating in [false, true] {
                    let n = ty.block_len();
                    let x: Vec<f32> = (0..n).map(|i| if alternating && i % 2 == 1 { -127.0 } else { 127.0 }).collect();
                    let mut row = weights(ty, 1, Scales::One, &mut Random(1));
                    let one = row.clone();
                    row.fill(byte);
                    crate::quant::testing::copy_scales(ty, &one, &mut row);
                    let a = quantized(ty.activation_form().unwrap(), &x);
                    let (got, expected) =
                        (kernels.dot(ty).unwrap()(n, &row, &a), ty.scalar_dot().unwrap()(n, &row, &a));
                    let bound = 2.0 * f32::EPSILON * magnitude(ty, &row, &x);
                    assert!((got - expected).abs() <= bound, "{ty} on {}: {got} is not {expected}", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn a_nan_or_an_infinity_in_the_activations_reaches_the_result() {
    for kernels in faster_kernels() {
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable()) {
                let mut x = vec![1.0; 512];
                x[300] = fault;
                let form = ty.activation_form().unwrap();
                let mut a = vec![0; form.row_bytes(x.len())];
                kernels.quantize(form, &x, &mut a);
                let row = weights(ty, x.len() / ty.block_len(), Scales::One, &mut Random(3));
                assert!(!kernels.dot(ty).unwrap()(x.len(), &row, &a).is_finite(), "{ty} {fault} on {}", kernels.isa());
            }
        }
    }
}

/// Values on which rounding, ties, signs and ranges go wrong first.
fn hard_values(n: usize, random: &mut Random) -> Vec<f32> {
    let pool: [f32; 15] =
        [0.0, -0.0, 0.5, -0.5, 1.5, -2.5, 0.49999997, 127.0, -127.0, 126.5, 1e-40, -1e-45, 65504.0, 65520.0, 1e30];
    let largest = pool[random.next() as usize % pool.len()].abs();
    (0..n)
        .map(|_| match random.next() % 4 {
            0 => pool[random.next() as usize % pool.len()].clamp(-largest, largest),
            1 => (random.unit() * 254.0).round() / 2.0,
            _ => random.unit() * largest,
        })
        .collect()
}

#[test]
fn quantized_activations_are_scalar_s_bit_for_bit() {
    let mut random = Random(13);
    for kernels in faster_kernels() {
        for form in ActivationForm::ALL {
            for round in 0..400 {
                let n = (1 + random.next() as usize % 9) * form.block_len();
                let mut x = match Values::ALL.get(round % 6) {
                    Some(&kind) => values(n, kind, &mut random),
                    None => hard_values(n, &mut random),
                };
                let at = random.next() as usize % n;
                match round % 40 {
                    0 => x[at] = f32::NAN,
                    1 => x[at] = f32::from_bits(0xFF80_0001),
                    2 => x[at] = f32::INFINITY,
                    3 => x[at] = f32::NEG_INFINITY,
                    _ => {}
                }
                let expected = quantized(form, &x);
                let mut got = Guarded::new(&vec![0xAA; expected.len()]);
                kernels.quantize(form, &x, got.bytes_mut());
                assert_eq!(got.bytes(), expected, "{form:?} on {}: {x:?}", kernels.isa());
                assert!(got.is_intact(), "{form:?} on {} wrote beyond its row", kernels.isa());
            }
        }
    }
}

#[test]
fn floats_of_halves_are_scalar_s_bit_for_bit() {
    // All but the last three, so that no vector's width divides their number.
    let halves: Vec<u8> = (0..u16::MAX - 2).flat_map(u16::to_le_bytes).collect();
    let mut expected = vec![0.0; halves.len() / 2];
    GgmlType::F16.dequantize(&halves, &mut expected);
    for kernels in faster_kernels() {
        let mut got = vec![0.0; expected.len()];
        kernels.widen()(&halves, &mut got);
        let differing = got.iter().zip(&expected).position(|(got, expected)| {
            // A conversion by the CPU makes a signalling NaN quiet.
            got.to_bits() != expected.to_bits() && !(got.is_nan() && expected.is_nan())
        });
        assert_eq!(differing, None, "on {}", kernels.isa());
    }
}

#[test]
fn every_bf16_and_f16_rounding_is_scalar_s() {
    // All upper halves of an f32, with lower halves around the ties.
    let x: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| {
            [0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001].map(|low| (u32::from(high) << 16) | low)
        })
        .map(f32::from_bits)
        .collect();
    for kernels in faster_kernels() {
        for form in [ActivationForm::F16, ActivationForm::BF16] {
            let mut got = vec![0; form.row_bytes(x.len())];
            kernels.quantize(form, &x, &mut got);
            assert!(got == quantized(form, &x), "{form:?} on {}", kernels.isa());
        }
    }
}

#[test]
#[should_panic(expected = "cannot lie in 143 bytes")]
fn a_row_of_the_wrong_length_is_refused() {
    Kernels::detect().dot(GgmlType::Q4_K).unwrap()(256, &[0; 143], &[0; 292]);
}
