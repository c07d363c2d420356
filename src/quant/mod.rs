//! Tensor formats: what a GGUF tensor's type id means, how large its blocks are, and, one file a format, the block's
//! layout, its decoding to f32 and the scalar dot product that every faster kernel is judged by.

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

    /// Bytes of a row of `n` elements, or `None` where `n` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let len = self.block_len() as u64;
        (n % len == 0).then_some(n / len)?.checked_mul(self.block_bytes() as u64)
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_enum() {
        for (i, e) in GgmlType::TABLE.iter().enumerate() {
            assert_eq!(e.0 as usize, i, "{}", e.2);
            assert_eq!(GgmlType::from_id(e.1), Some(e.0));
        }
    }
}
