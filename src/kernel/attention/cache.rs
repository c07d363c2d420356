//! How keys and values of one head lie in the KV cache: planes of [`PLANE_POSITIONS`] positions, in f16 or in blocks of 32
//! elements as Q8_0 and Q4_0 quantize them, in the order that the kernels of attention read them.
//!
//! | | keys | values |
//! |---|---|---|
//! | F16 | `[position][dim]` | `[position][dim]` |
//! | Q8_0 | for each 16 positions: scales `[block][position]`, then `[dim / 4][position][4]` | scales `[block][position]`, then `[position][dim]` |
//! | Q4_0 | likewise, four bits of each element, a byte has one of the first half of its block and one of the second: `[block][4][position][4]`; after each block its fifth bits, `[position][4]`: bit `i / 4` of byte `i % 4` is element `i`'s | `[block][position]`, then `[position][block][16]` |
//!
//! Quantized heads are rotated first (see `rotation`). Errors of keys cost far more than those of values, hence their
//! fifth bit. A quantized key is multiplied with a query in integers; sixteen positions side by side need no sum across a register.

use std::fmt;
use std::str::FromStr;

use super::rotation::rotate;
use crate::kernel::Kernels;
use crate::quant::{ActivationForm, Half, LANES, blocks_mut, scale_of_32};

/// Positions a plane.
pub const PLANE_POSITIONS: usize = 256;

/// Elements that share a scale.
pub(super) const BLOCK: usize = 32;

/// A format of keys and values in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(non_camel_case_types)]
pub enum KvFormat {
    #[default]
    F16,
    /// 8.5 bits an element.
    Q8_0,
    /// 5.5 bits an element of keys, 4.5 of values.
    Q4_0,
}

/// A name that is no format of [`KvFormat::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no format of the KV cache; the choices are f16, q8_0 and q4_0")]
pub struct UnknownKvFormat(String);

impl KvFormat {
    pub const ALL: [KvFormat; 3] = [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
            KvFormat::Q4_0 => "q4_0",
        }
    }

    /// Whether heads of `dim` elements are whole blocks.
    pub fn holds(self, dim: usize) -> bool {
        self == KvFormat::F16 || dim.is_multiple_of(BLOCK)
    }

    /// Bytes of [`PLANE_POSITIONS`] keys of one head of `dim` elements.
    pub fn key_plane_bytes(self, dim: usize) -> usize {
        self.plane_bytes(dim, if self == KvFormat::Q4_0 { 5 } else { self.value_bits() })
    }

    /// Bytes of [`PLANE_POSITIONS`] values of one head of `dim` elements.
    pub fn value_plane_bytes(self, dim: usize) -> usize {
        self.plane_bytes(dim, self.value_bits())
    }

    fn value_bits(self) -> usize {
        match self {
            KvFormat::F16 => 16,
            KvFormat::Q8_0 => 8,
            KvFormat::Q4_0 => 4,
        }
    }

    fn plane_bytes(self, dim: usize, bits: usize) -> usize {
        assert!(self.holds(dim), "heads of {dim} elements in {self}");
        PLANE_POSITIONS * (padded(dim) * bits / 8 + self.n_scales(dim) * size_of::<Half>())
    }

    /// Bytes of the beginning of a plane that hold all that its first `n` keys are made of.
    pub fn used_key_bytes(self, dim: usize, n: usize) -> usize {
        // Sixteen quantized keys lie side by side.
        let n = if self == KvFormat::F16 { n } else { n.next_multiple_of(LANES) };
        self.key_plane_bytes(dim) / PLANE_POSITIONS * n
    }

    /// Bytes of the beginning of a plane that hold all that its first `n` values are made of.
    pub fn used_value_bytes(self, dim: usize, n: usize) -> usize {
        // The scales of all positions come first.
        let scale_bytes = PLANE_POSITIONS * self.n_scales(dim) * size_of::<Half>();
        scale_bytes + (self.value_plane_bytes(dim) - scale_bytes) / PLANE_POSITIONS * n
    }

    fn n_scales(self, dim: usize) -> usize {
        if self == KvFormat::F16 { 0 } else { dim / BLOCK }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvFormat {
    type Err = UnknownKvFormat;

    fn from_str(name: &str) -> Result<KvFormat, UnknownKvFormat> {
        KvFormat::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| UnknownKvFormat(name.to_owned()))
    }
}

/// Elements that a head of `dim` takes up: whole registers, the last one filled up with zeros.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// Where in its plane the scales and codes of quantized keys are.
pub(super) struct KeyLayout {
    n_blocks: usize,
    /// Bytes of the codes of sixteen positions.
    code_bytes: usize,
}

impl KeyLayout {
    pub(super) fn new(format: KvFormat, dim: usize) -> KeyLayout {
        let code_bytes = match format {
            KvFormat::F16 => unreachable!("keys in f16 lie in the order of their elements"),
            KvFormat::Q8_0 => dim * LANES,
            KvFormat::Q4_0 => dim * LANES * 5 / 8,
        };
        KeyLayout { n_blocks: dim / BLOCK, code_bytes }
    }

    /// The scales `[n_blocks][16]` and the codes `[n_blocks][n][16][4]` of tile `i` of sixteen positions.
    pub(super) fn tile<'p>(&self, plane: &'p [u8], i: usize) -> (&'p [u8], &'p [u8]) {
        let scale_bytes = self.scale_bytes();
        let tile_bytes = scale_bytes + self.code_bytes;
        plane[i * tile_bytes..][..tile_bytes].split_at(scale_bytes)
    }

    fn tile_mut<'p>(&self, plane: &'p mut [u8], i: usize) -> (&'p mut [u8], &'p mut [u8]) {
        let scale_bytes = self.scale_bytes();
        let tile_bytes = scale_bytes + self.code_bytes;
        plane[i * tile_bytes..][..tile_bytes].split_at_mut(scale_bytes)
    }

    fn scale_bytes(&self) -> usize {
        self.n_blocks * LANES * size_of::<Half>()
    }
}

/// 32 elements as a scale and codes of a byte each.
struct Codes {
    scale: Half,
    codes: [u8; BLOCK],
}

/// Quantizes as Q8_0: signed codes.
fn codes_q8_0(x: &[f32; BLOCK]) -> Codes {
    let (scale, inverse) = scale_of_32(x.iter().fold(0.0, |max, v| if v.is_nan() { *v } else { v.abs().max(max) }));
    let codes = inverse.map_or([0; BLOCK], |inverse| x.map(|v| (v * inverse).round() as i8 as u8));
    Codes { scale: Half::from_f32(scale), codes }
}

/// Quantizes to codes of 0 to `2 ZERO - 1`, where `ZERO` stands for 0, with the scale of the least squared error among
/// [`SCALES`].
fn codes_of_least_error<const ZERO: u8>(x: &[f32; BLOCK]) -> Codes {
    let largest = x.iter().copied().fold(0f32, |max, v| if v.is_nan() || v.abs() > max.abs() { v } else { max });
    let zero = f32::from(ZERO);
    let mut best = (f32::INFINITY, Codes { scale: Half::from_f32(largest / -zero), codes: [ZERO; BLOCK] });
    for factor in SCALES {
        let scale = Half::from_f32(largest / -zero * factor);
        let step = scale.to_f32();
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        let codes = x.map(|v| ((v * inverse + (zero + 0.5)) as u8).min(2 * ZERO - 1));
        let error = x.iter().zip(&codes).fold(0.0, |sum, (v, &code)| {
            let off = (f32::from(code) - zero) * step - v;
            sum + off * off
        });
        if error < best.0 {
            best = (error, Codes { scale, codes });
        }
    }
    best.1
}

/// The scales that are tried, in parts of that which gives the element of largest magnitude the lowest code.
const SCALES: [f32; 8] = [1.04, 1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76];

/// 32 elements of a query as Q8_0: the scale, the sum of the codes, and in `words` the codes, four each.
pub(super) fn query_block(x: &[f32; BLOCK], words: &mut [i32; BLOCK / 4]) -> (f32, i32) {
    let Codes { scale, codes } = codes_q8_0(x);
    for (word, four) in words.iter_mut().zip(codes.as_chunks::<4>().0) {
        *word = i32::from_le_bytes(*four);
    }
    (scale.to_f32(), codes.iter().map(|&code| i32::from(code as i8)).sum())
}

/// Four bits of a code of the first and of one of the second half of a block in each byte.
fn packed(codes: &[u8; BLOCK]) -> [u8; BLOCK / 2] {
    std::array::from_fn(|i| codes[i] & 0x0F | codes[i + BLOCK / 2] << 4)
}

/// The fifth bits: that of code `i` is bit `i / 4` of byte `i % 4`.
fn fifth_bits(codes: &[u8; BLOCK]) -> [u8; 4] {
    std::array::from_fn(|byte| (0..8).map(|bit| (codes[4 * bit + byte] >> 4) << bit).sum())
}

impl Kernels {
    /// Writes one key, or value in f16, to `position` of its plane. `x`: `[dim]`.
    pub fn store_key(&self, format: KvFormat, x: &[f32], plane: &mut [u8], position: usize) {
        let quantize = match format {
            KvFormat::F16 => return self.store_halves(x, plane, position),
            KvFormat::Q8_0 => codes_q8_0,
            KvFormat::Q4_0 => codes_of_least_error::<16>,
        };
        let mut x = x.to_vec();
        rotate(&mut x);
        let layout = KeyLayout::new(format, x.len());
        let (scales, codes) = layout.tile_mut(plane, position / LANES);
        let lane = position % LANES;
        let (fours, _) = codes.as_chunks_mut::<{ 4 * LANES }>();
        let mut fours = fours.iter_mut();
        for (x, scales) in x.as_chunks::<BLOCK>().0.iter().zip(blocks_mut::<[Half; LANES]>(scales, layout.n_blocks)) {
            let quantized = quantize(x);
            scales[lane] = quantized.scale;
            let mut write = |codes: &[u8]| {
                for (four, to) in codes.as_chunks::<4>().0.iter().zip(&mut fours) {
                    to[4 * lane..][..4].copy_from_slice(four);
                }
            };
            match format {
                KvFormat::Q4_0 => {
                    write(&packed(&quantized.codes));
                    write(&fifth_bits(&quantized.codes));
                }
                KvFormat::F16 | KvFormat::Q8_0 => write(&quantized.codes),
            }
        }
    }

    /// Writes one value to `position` of its plane. `x`: `[dim]`.
    pub fn store_value(&self, format: KvFormat, x: &[f32], plane: &mut [u8], position: usize) {
        let quantize = match format {
            KvFormat::F16 => return self.store_halves(x, plane, position),
            KvFormat::Q8_0 => codes_q8_0,
            KvFormat::Q4_0 => codes_of_least_error::<8>,
        };
        let mut x = x.to_vec();
        rotate(&mut x);
        let n_blocks = x.len() / BLOCK;
        let (scales, codes) = plane.split_at_mut(n_blocks * PLANE_POSITIONS * size_of::<Half>());
        let scales = blocks_mut::<[Half; PLANE_POSITIONS]>(scales, n_blocks);
        let code_bytes = codes.len() / PLANE_POSITIONS / n_blocks;
        let codes = codes[position * code_bytes * n_blocks..].chunks_exact_mut(code_bytes);
        for ((x, scales), to) in x.as_chunks::<BLOCK>().0.iter().zip(scales).zip(codes) {
            let quantized = quantize(x);
            scales[position] = quantized.scale;
            match format {
                KvFormat::Q4_0 => to.copy_from_slice(&packed(&quantized.codes)),
                KvFormat::F16 | KvFormat::Q8_0 => to.copy_from_slice(&quantized.codes),
            }
        }
    }

    fn store_halves(&self, x: &[f32], plane: &mut [u8], position: usize) {
        let row_bytes = padded(x.len()) * size_of::<Half>();
        let n_bytes = x.len() * size_of::<Half>();
        self.quantize(ActivationForm::F16, x, &mut plane[position * row_bytes..][..n_bytes]);
    }
}
