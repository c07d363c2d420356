//! Tensor formats: what a GGUF tensor's type id means, how large its blocks are, and, one file a format, the block's
//! layout, its decoding to f32 and the scalar dot product that every faster kernel is judged by.

mod activation;
mod bfloat16;
mod block;
mod float16;
mod float32;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;

pub use activation::{ActivationForm, BlockQ8_1, BlockQ8K, quantize_activations, scale_of_32, scale_of_256};
pub use block::{Block, Half, blocks, blocks_mut};
pub use float32::{LANES, fold_lanes};
pub use iq4_nl::{BlockIq4Nl, VALUES as IQ4_VALUES};
pub use iq4_xs::BlockIq4Xs;
pub use mxfp4::{BlockMxfp4, DOUBLED_VALUES as MXFP4_DOUBLED_VALUES};
pub use q2_k::BlockQ2K;
pub use q3_k::BlockQ3K;
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5K;
pub use q6_k::BlockQ6K;
pub use q8_0::BlockQ8_0;

/// The dot product of a row of `n` weights and `n` activations, each in exactly the bytes that such a row has; the
/// activations are in the weights' [`GgmlType::activation_form`]. Panics where a length is wrong.
pub type DotFn = fn(n: usize, weights: &[u8], activations: &[u8]) -> f32;

/// Decodes a row of blocks to f32. Panics where the bytes are not exactly those of `out.len()` elements.
type DequantizeFn = fn(bytes: &[u8], out: &mut [f32]);

/// Encodes a row of f32 to blocks. Panics where the bytes are not exactly those of `x.len()` elements.
type QuantizeFn = fn(x: &[f32], out: &mut [u8]);

/// A tensor format of GGUF (`ggml_type`). Formats that are only known by size can be listed, not computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
}

impl GgmlType {
    /// `(type, id in the file, name, elements a block, bytes a block)`; NVFP4 and the ternary and IQ1–IQ3 types are only listed.
    const TABLE: [(GgmlType, u32, &'static str, usize, usize); 33] = [
        (GgmlType::F32, 0, "F32", 1, 4),
        (GgmlType::F16, 1, "F16", 1, 2),
        (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
        (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
        (GgmlType::Q5_0, 6, "Q5_0", 32, 22),
        (GgmlType::Q5_1, 7, "Q5_1", 32, 24),
        (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
        (GgmlType::Q8_1, 9, "Q8_1", 32, 36),
        (GgmlType::Q2_K, 10, "Q2_K", 256, 84),
        (GgmlType::Q3_K, 11, "Q3_K", 256, 110),
        (GgmlType::Q4_K, 12, "Q4_K", 256, 144),
        (GgmlType::Q5_K, 13, "Q5_K", 256, 176),
        (GgmlType::Q6_K, 14, "Q6_K", 256, 210),
        (GgmlType::Q8_K, 15, "Q8_K", 256, 292),
        (GgmlType::IQ2_XXS, 16, "IQ2_XXS", 256, 66),
        (GgmlType::IQ2_XS, 17, "IQ2_XS", 256, 74),
        (GgmlType::IQ3_XXS, 18, "IQ3_XXS", 256, 98),
        (GgmlType::IQ1_S, 19, "IQ1_S", 256, 50),
        (GgmlType::IQ4_NL, 20, "IQ4_NL", 32, 18),
        (GgmlType::IQ3_S, 21, "IQ3_S", 256, 110),
        (GgmlType::IQ2_S, 22, "IQ2_S", 256, 82),
        (GgmlType::IQ4_XS, 23, "IQ4_XS", 256, 136),
        (GgmlType::I8, 24, "I8", 1, 1),
        (GgmlType::I16, 25, "I16", 1, 2),
        (GgmlType::I32, 26, "I32", 1, 4),
        (GgmlType::I64, 27, "I64", 1, 8),
        (GgmlType::F64, 28, "F64", 1, 8),
        (GgmlType::IQ1_M, 29, "IQ1_M", 256, 56),
        (GgmlType::BF16, 30, "BF16", 1, 2),
        (GgmlType::TQ1_0, 34, "TQ1_0", 256, 54),
        (GgmlType::TQ2_0, 35, "TQ2_0", 256, 66),
        (GgmlType::MXFP4, 39, "MXFP4", 32, 17),
        (GgmlType::NVFP4, 40, "NVFP4", 64, 36),
    ];

    /// Every format, in the order of the variants.
    pub const ALL: [GgmlType; Self::TABLE.len()] = {
        let mut all = [GgmlType::F32; Self::TABLE.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = Self::TABLE[i].0;
            i += 1;
        }
        all
    };

    fn entry(self) -> &'static (GgmlType, u32, &'static str, usize, usize) {
        &Self::TABLE[self as usize]
    }

    /// The format with this id in a GGUF file, or `None` where the id means nothing to us.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        Self::TABLE.iter().find(|e| e.1 == id).map(|e| e.0)
    }

    /// The id in a GGUF file.
    pub fn id(self) -> u32 {
        self.entry().1
    }

    /// ggml's name, for example `Q4_K`.
    pub fn name(self) -> &'static str {
        self.entry().2
    }

    /// Elements a block.
    pub fn block_len(self) -> usize {
        self.entry().3
    }

    /// Bytes a block.
    pub fn block_bytes(self) -> usize {
        self.entry().4
    }

    /// What computing with the format takes, or `None` where it can only be listed.
    fn arithmetic(self) -> Option<(ActivationForm, DequantizeFn, DotFn)> {
        Some(match self {
            GgmlType::F32 => (ActivationForm::F32, float32::dequantize, float32::dot),
            GgmlType::F16 => (ActivationForm::F16, float16::dequantize, float16::dot),
            GgmlType::BF16 => (ActivationForm::BF16, bfloat16::dequantize, bfloat16::dot),
            GgmlType::Q4_0 => (ActivationForm::Q8_0, q4_0::dequantize, q4_0::dot),
            GgmlType::Q4_1 => (ActivationForm::Q8_1, q4_1::dequantize, q4_1::dot),
            GgmlType::Q5_0 => (ActivationForm::Q8_0, q5_0::dequantize, q5_0::dot),
            GgmlType::Q5_1 => (ActivationForm::Q8_1, q5_1::dequantize, q5_1::dot),
            GgmlType::Q8_0 => (ActivationForm::Q8_0, q8_0::dequantize, q8_0::dot),
            GgmlType::Q2_K => (ActivationForm::Q8_K, q2_k::dequantize, q2_k::dot),
            GgmlType::Q3_K => (ActivationForm::Q8_K, q3_k::dequantize, q3_k::dot),
            GgmlType::Q4_K => (ActivationForm::Q8_K, q4_k::dequantize, q4_k::dot),
            GgmlType::Q5_K => (ActivationForm::Q8_K, q5_k::dequantize, q5_k::dot),
            GgmlType::Q6_K => (ActivationForm::Q8_K, q6_k::dequantize, q6_k::dot),
            GgmlType::IQ4_NL => (ActivationForm::Q8_0, iq4_nl::dequantize, iq4_nl::dot),
            GgmlType::IQ4_XS => (ActivationForm::Q8_K, iq4_xs::dequantize, iq4_xs::dot),
            GgmlType::MXFP4 => (ActivationForm::Q8_0, mxfp4::dequantize, mxfp4::dot),
            GgmlType::Q8_1
            | GgmlType::Q8_K
            | GgmlType::IQ2_XXS
            | GgmlType::IQ2_XS
            | GgmlType::IQ3_XXS
            | GgmlType::IQ1_S
            | GgmlType::IQ3_S
            | GgmlType::IQ2_S
            | GgmlType::I8
            | GgmlType::I16
            | GgmlType::I32
            | GgmlType::I64
            | GgmlType::F64
            | GgmlType::IQ1_M
            | GgmlType::TQ1_0
            | GgmlType::TQ2_0
            | GgmlType::NVFP4 => return None,
        })
    }

    /// Whether weights of this format can be computed with.
    pub fn is_computable(self) -> bool {
        self.arithmetic().is_some()
    }

    /// The form that activations take before they meet weights of this format; `None` where we cannot compute with it.
    pub fn activation_form(self) -> Option<ActivationForm> {
        self.arithmetic().map(|a| a.0)
    }

    /// Decodes a row of weights to f32. Panics where the format is not computable or where `bytes` are not exactly those
    /// of `out.len()` elements.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let Some((_, dequantize, _)) = self.arithmetic() else { panic!("{self} cannot be decoded") };
        dequantize(bytes, out);
    }

    /// How the format is written, or `None` where we only read it.
    fn encoder(self) -> Option<QuantizeFn> {
        Some(match self {
            GgmlType::F32 => |x, out| quantize_activations(ActivationForm::F32, x, out),
            GgmlType::F16 => |x, out| quantize_activations(ActivationForm::F16, x, out),
            GgmlType::BF16 => |x, out| quantize_activations(ActivationForm::BF16, x, out),
            GgmlType::Q8_0 => |x, out| quantize_activations(ActivationForm::Q8_0, x, out),
            GgmlType::Q4_0 => q4_0::quantize,
            GgmlType::Q4_1 => q4_1::quantize,
            GgmlType::Q5_0 => q5_0::quantize,
            GgmlType::Q5_1 => q5_1::quantize,
            GgmlType::Q2_K => q2_k::quantize,
            GgmlType::Q3_K => q3_k::quantize,
            GgmlType::Q4_K => q4_k::quantize,
            GgmlType::Q5_K => q5_k::quantize,
            GgmlType::Q6_K => q6_k::quantize,
            GgmlType::IQ4_NL => iq4_nl::quantize,
            GgmlType::IQ4_XS => iq4_xs::quantize,
            _ => return None,
        })
    }

    /// Whether weights can be written in this format.
    pub fn is_quantizable(self) -> bool {
        self.encoder().is_some()
    }

    /// Encodes weights. F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 give ggml's bytes; the others are searched for the
    /// scales of least weighted squared error. Values that are not finite give blocks that are not, or any codes.
    ///
    /// # Panics
    /// Where the format is only read, or where `out` is not exactly the bytes of `x.len()` elements.
    pub fn quantize(self, x: &[f32], out: &mut [u8]) {
        let Some(quantize) = self.encoder() else { panic!("{self} cannot be written") };
        quantize(x, out);
    }

    /// The scalar dot product, which every faster one must agree with; `None` where we cannot compute with the format.
    pub fn scalar_dot(self) -> Option<DotFn> {
        self.arithmetic().map(|a| a.2)
    }

    /// Bytes of a row of `n` elements, or `None` where `n` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let len = self.block_len() as u64;
        n.is_multiple_of(len).then_some(n / len)?.checked_mul(self.block_bytes() as u64)
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
