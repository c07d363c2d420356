use super::testing::{Random, Scales, Values, quantized, values, weights};
use super::*;

#[test]
fn the_table_stands_in_the_order_of_the_enum() {
    for (i, e) in GgmlType::TABLE.iter().enumerate() {
        assert_eq!(e.0 as usize, i, "{}", e.2);
        assert_eq!(GgmlType::from_id(e.1), Some(e.0));
    }
}

fn fnv1a(values: &[f32]) -> u64 {
    // Minus zero counts as zero: decoders disagree on its sign, and no sum feels it.
    let bytes = values.iter().flat_map(|v| (v + 0.0).to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Bytes of a fixed generator with every half made a usual one, as the decoder that gave the expected values had them.
fn known_row(ty: GgmlType, n_blocks: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut row: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    })
    .take(n_blocks * ty.block_bytes())
    .collect();
    for block in row.chunks_exact_mut(ty.block_bytes()) {
        match ty {
            GgmlType::MXFP4 => block[0] &= 0x7F,
            GgmlType::BF16 => block[1] = (block[1] & 0x80) | 0x3F,
            _ => {
                for at in testing::half_offsets(ty) {
                    block[at + 1] = (block[at + 1] & 0x80) | 0x2C;
                }
            }
        }
    }
    row
}

#[test]
fn every_format_decodes_to_the_bits_of_an_independent_decoder() {
    // Elements 0, 17, 100 and the last, and a hash of all, from the Python package `gguf`.
    #[rustfmt::skip]
    let expected: [(GgmlType, [f32; 4], u64); 15] = [
        (GgmlType::Q4_0, [-0.46313477, 0.19848633, 0.5280762, 0.3314209], 0x91592c04496bb3ef),
        (GgmlType::Q4_1, [0.7235718, 0.260437, 1.0622559, 0.64123535], 0x33280fcf06555552),
        (GgmlType::Q5_0, [0.39697266, -0.5292969, 0.6262207, -0.3137207], 0xd1baab601da15338),
        (GgmlType::Q5_1, [0.1942749, 1.6498413, -0.72839355, 1.1531982], 0x76f969373d40ecaf),
        (GgmlType::Q8_0, [-8.402588, -7.939453, 3.875, -4.2129517], 0x21935a4b52cdb930),
        (GgmlType::Q2_K, [-0.21258545, -3.3945923, -0.8503418, 0.8913574], 0x33d9f818b07740cd),
        (GgmlType::Q3_K, [-1.3919678, 3.3804932, 0.0, -4.8449707], 0xa5a4aada94620de4),
        (GgmlType::Q4_K, [9.808838, 9.014893, 16.990479, -49.24585], 0xf03673e6bde1958f),
        (GgmlType::Q5_K, [5.8391113, 24.099854, 8.654053, -16.254395], 0x6dc7e7106e642238),
        (GgmlType::Q6_K, [-77.21533, 135.46313, 176.55945, 14.574219], 0xc7b088c15126ce4d),
        (GgmlType::IQ4_NL, [-6.8808594, 2.5141602, 8.524658, 4.3084717], 0x2aba7d7e6db6dbe4),
        (GgmlType::IQ4_XS, [12.967773, -6.616211, 37.38159, -0.15209961], 0xa6749c566eae0fda),
        (GgmlType::MXFP4, [-2.7105054e-20, 0.0, 9.403955e-38, -5.877472e-39], 0xe19774234f999745),
        (GgmlType::F16, [0.06616211, -0.06854248, 0.06994629, 0.07366943], 0x6401a7a9b1c89603),
        (GgmlType::BF16, [0.734375, -0.88671875, 0.9765625, 1.4296875], 0x62aa0ad34c6f9065),
    ];
    for (ty, some, hash) in expected {
        let n_blocks = if ty.block_len() == 1 { 224 } else { 7 };
        let mut out = vec![f32::NAN; n_blocks * ty.block_len()];
        ty.dequantize(&known_row(ty, n_blocks), &mut out);
        assert_eq!([out[0], out[17], out[100], out[out.len() - 1]], some, "{ty}");
        assert_eq!(fnv1a(&out), hash, "{ty}");
    }
}

/// The activations that the integers stand for. Q8_1's own sum is rounded to a half, which the bound below allows for.
fn dequantize_activations(form: ActivationForm, row: &[u8], n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    match form {
        ActivationForm::F32 => GgmlType::F32.dequantize(row, &mut out),
        ActivationForm::F16 => GgmlType::F16.dequantize(row, &mut out),
        ActivationForm::BF16 => GgmlType::BF16.dequantize(row, &mut out),
        ActivationForm::Q8_0 => GgmlType::Q8_0.dequantize(row, &mut out),
        ActivationForm::Q8_1 => block::decode_row::<BlockQ8_1, 32>(row, &mut out, |block, out| {
            *out = block.qs.map(|q| f32::from(q) * block.d.to_f32());
        }),
        ActivationForm::Q8_K => block::decode_row::<BlockQ8K, 256>(row, &mut out, |block, out| {
            *out = block.qs.map(|q| f32::from(q) * block.d.get());
        }),
    }
    out
}

#[test]
fn every_dot_is_the_sum_of_decoded_weights_times_decoded_activations() {
    let mut random = Random(7);
    for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable()) {
        let (form, dot) = (ty.activation_form().unwrap(), ty.scalar_dot().unwrap());
        for n_blocks in [0, 1, 2, 3, 5, 7, 33] {
            let n = n_blocks * ty.block_len();
            for scales in Scales::ALL {
                for kind in Values::ALL {
                    if n == 0 {
                        assert_eq!(dot(0, &[], &[]), 0.0);
                        continue;
                    }
                    let row = weights(ty, n_blocks, scales, &mut random);
                    let activations = quantized(form, &values(n, kind, &mut random));
                    let mut w = vec![0.0; n];
                    ty.dequantize(&row, &mut w);
                    let a = dequantize_activations(form, &activations, n);
                    let exact: f64 = w.iter().zip(&a).map(|(&w, &a)| f64::from(w) * f64::from(a)).sum();
                    let largest = w.iter().fold(0f64, |m, &w| m.max(f64::from(w).abs()));
                    let magnitude = largest * a.iter().map(|&a| f64::from(a).abs()).sum::<f64>();
                    let relative = if form == ActivationForm::Q8_1 { 1e-3 } else { 1e-6 };
                    let error = (f64::from(dot(n, &row, &activations)) - exact).abs();
                    let bound = relative * magnitude + n as f64 * 1e-9;
                    assert!(error <= bound, "{ty} {n_blocks} {scales:?} {kind:?}: {error:e} > {bound:e}");
                }
            }
        }
    }
}

fn q8_0(x: &[f32; 32]) -> BlockQ8_0 {
    blocks::<BlockQ8_0>(&quantized(ActivationForm::Q8_0, x), 1)[0]
}

fn q8_k(x: &[f32; 256]) -> BlockQ8K {
    blocks::<BlockQ8K>(&quantized(ActivationForm::Q8_K, x), 1)[0]
}

#[test]
fn q8_0_rounds_half_away_from_zero() {
    let mut x = [0.0; 32];
    x[..6].copy_from_slice(&[127.0, 0.5, -0.5, 2.5, -1.5, 0.499_999_97]);
    let block = q8_0(&x);
    assert_eq!(block.d.to_f32(), 1.0);
    assert_eq!(block.qs[..6], [127, 1, -1, 3, -2, 0]);
}

#[test]
fn q8_1_keeps_the_sum_of_its_integers() {
    let x: [f32; 32] = std::array::from_fn(|i| if i == 0 { -254.0 } else { i as f32 * 2.0 });
    let row = quantized(ActivationForm::Q8_1, &x);
    let block = blocks::<BlockQ8_1>(&row, 1)[0];
    assert_eq!((block.d.to_f32(), block.qs[0], block.qs[31]), (2.0, -127, 31));
    assert_eq!(block.s.to_f32(), 2.0 * (-127.0 + 496.0));
}

#[test]
fn q8_k_maps_the_first_largest_element_to_minus_127_and_rounds_half_to_even() {
    let mut x = [0.0; 256];
    x[16..22].copy_from_slice(&[127.0, -127.0, 0.5, 1.5, 2.5, -2.5]);
    let block = q8_k(&x);
    assert_eq!(block.d.get(), -1.0);
    assert_eq!(block.qs[16..22], [-127, 127, 0, -2, -2, 2]);
    assert_eq!(block.bsums.map(zerocopy::little_endian::I16::get)[..3], [0, -2, 0]);
}

#[test]
fn values_too_small_for_a_reciprocal_become_zeros() {
    assert_eq!(q8_0(&[1e-40; 32]).qs, [0; 32]);
    let block = q8_k(&[1e-40; 256]);
    assert_eq!((block.d.get(), block.qs), (0.0, [0; 256]));
}

#[test]
fn a_nan_or_an_infinity_in_the_activations_reaches_the_result() {
    for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable()) {
            let n = 256;
            let mut x = vec![1.0; n];
            x[200] = fault;
            let activations = quantized(ty.activation_form().unwrap(), &x);
            let row = weights(ty, n / ty.block_len(), Scales::One, &mut Random(3));
            assert!(!ty.scalar_dot().unwrap()(n, &row, &activations).is_finite(), "{ty} {fault}");
        }
    }
}

#[test]
#[should_panic(expected = "3 blocks of 18 bytes cannot lie in 53 bytes")]
fn a_row_of_the_wrong_length_is_refused() {
    GgmlType::Q4_0.dequantize(&[0; 53], &mut [0.0; 96]);
}
