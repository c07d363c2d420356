//! Random rows for tests: weights of any format with scales of a chosen kind, and activations with their hard cases.

use super::{ActivationForm, GgmlType, quantize_activations};

/// SplitMix64: small, seeded and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// What the scales of a row of weights are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    Usual,
    Subnormal,
    Zero,
    /// The largest that the format has, short of overflowing an f32 sum.
    Largest,
    /// Powers of two, so that the arithmetic on floats is exact and integers can be compared through it.
    One,
}

impl Scales {
    pub(crate) const ALL: [Scales; 5] = [Scales::Usual, Scales::Subnormal, Scales::Zero, Scales::Largest, Scales::One];

    fn half(self, random: &mut Random) -> u16 {
        let bits = random.next() as u16;
        match self {
            Scales::Usual => (bits & 0x83FF) | (0x2000 + (bits & 0x0C00)),
            Scales::Subnormal => (bits & 0x83FF).max(1),
            Scales::Zero => bits & 0x8000,
            Scales::Largest => (bits & 0x8000) | 0x7BFF,
            Scales::One => 0x3C00,
        }
    }

    fn exponent(self, random: &mut Random) -> u8 {
        match self {
            Scales::Usual => 120 + (random.next() % 8) as u8,
            Scales::Subnormal => (random.next() % 3) as u8,
            Scales::Zero => 0,
            Scales::Largest => 200,
            Scales::One => 128,
        }
    }
}

/// Where the halves of a block lie.
pub(super) fn half_offsets(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::MXFP4 | GgmlType::F32 | GgmlType::BF16 => &[],
        _ => &[0],
    }
}

/// A row of `n_blocks` random blocks of weights.
pub(crate) fn weights(ty: GgmlType, n_blocks: usize, scales: Scales, random: &mut Random) -> Vec<u8> {
    let mut row: Vec<u8> = (0..n_blocks * ty.block_bytes()).map(|_| random.next() as u8).collect();
    for block in row.chunks_exact_mut(ty.block_bytes()) {
        for &at in half_offsets(ty) {
            block[at..at + 2].copy_from_slice(&scales.half(random).to_le_bytes());
        }
        // A float on its own is its own scale; a bf16 or an f32 takes that of a half.
        let value = half::f16::from_bits(scales.half(random)).to_f32();
        match ty {
            GgmlType::MXFP4 => block[0] = scales.exponent(random),
            GgmlType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            GgmlType::BF16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            _ => {}
        }
    }
    row
}

/// Gives a block the scales of another.
pub(crate) fn copy_scales(ty: GgmlType, from: &[u8], to: &mut [u8]) {
    for &at in half_offsets(ty) {
        to[at..at + 2].copy_from_slice(&from[at..at + 2]);
    }
    if ty == GgmlType::MXFP4 {
        to[0] = from[0];
    }
}

/// What a row of activations is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Usual,
    /// One value dwarfs the others.
    Outlier,
    /// So small that the scale is zero as a half, or its reciprocal overflows.
    Tiny,
    Zero,
    /// Integers from -127 to 127 with both extremes in each block of 32, so that the scale is one.
    Integers,
}

impl Values {
    pub(crate) const ALL: [Values; 5] = [Values::Usual, Values::Outlier, Values::Tiny, Values::Zero, Values::Integers];
}

pub(crate) fn values(n: usize, kind: Values, random: &mut Random) -> Vec<f32> {
    let mut x: Vec<f32> = (0..n).map(|_| random.unit()).collect();
    let mut map = |f: &dyn Fn(f32) -> f32| x.iter_mut().for_each(|v| *v = f(*v));
    match kind {
        Values::Usual => map(&|v| v * 4.0),
        Values::Outlier => x[random.next() as usize % n] *= 3000.0,
        Values::Tiny => {
            let scale = 10f32.powi(-30 - (random.next() % 15) as i32);
            map(&|v| v * scale);
        }
        Values::Zero => x.fill(0.0),
        Values::Integers => {
            map(&|v| (v * 127.0).round());
            for block in x.chunks_mut(32) {
                block[0] = -127.0;
                block[block.len() - 1] = 127.0;
            }
        }
    }
    x
}

pub(crate) fn quantized(form: ActivationForm, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0; form.row_bytes(x.len())];
    quantize_activations(form, x, &mut out);
    out
}
