//! Which format each tensor gets: a name such as `Q4_K_M` and a tensor in, a format out. Mixes spend more bits where an
//! error costs more; the rules are those of the reference engine's quantizer, so that a name means the same file.

use crate::gguf::{Gguf, GgufError, TensorInfo};
use crate::quant::GgmlType;

/// A target that a file can be quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    pub name: &'static str,
    /// `general.file_type` of such a file.
    pub file_type: u32,
    /// What most tensors become.
    pub base: GgmlType,
    size: Size,
}

/// How generous a mix of a K-format is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// The same for all but the output.
    Plain,
    Small,
    Medium,
    Large,
}

impl Mix {
    /// Every target, from the smallest to the largest.
    pub const ALL: [Mix; 20] = {
        use GgmlType::{BF16, F16, F32, IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
        const fn mix(name: &'static str, file_type: u32, base: GgmlType, size: Size) -> Mix {
            Mix { name, file_type, base, size }
        }
        [
            mix("Q2_K_S", 21, Q2_K, Size::Small),
            mix("Q2_K", 10, Q2_K, Size::Medium),
            mix("Q3_K_S", 11, Q3_K, Size::Small),
            mix("Q3_K_M", 12, Q3_K, Size::Medium),
            mix("Q3_K_L", 13, Q3_K, Size::Large),
            mix("IQ4_XS", 30, IQ4_XS, Size::Plain),
            mix("IQ4_NL", 25, IQ4_NL, Size::Plain),
            mix("Q4_0", 2, Q4_0, Size::Plain),
            mix("Q4_1", 3, Q4_1, Size::Plain),
            mix("Q4_K_S", 14, Q4_K, Size::Small),
            mix("Q4_K_M", 15, Q4_K, Size::Medium),
            mix("Q5_0", 8, Q5_0, Size::Plain),
            mix("Q5_1", 9, Q5_1, Size::Plain),
            mix("Q5_K_S", 16, Q5_K, Size::Small),
            mix("Q5_K_M", 17, Q5_K, Size::Medium),
            mix("Q6_K", 18, Q6_K, Size::Plain),
            mix("Q8_0", 7, Q8_0, Size::Plain),
            mix("F16", 1, F16, Size::Plain),
            mix("BF16", 32, BF16, Size::Plain),
            mix("F32", 0, F32, Size::Plain),
        ]
    };

    /// The target of this name, in any case; `Q3_K`, `Q4_K` and `Q5_K` are their medium mixes.
    pub fn of(name: &str) -> Option<Mix> {
        let name = name.to_ascii_uppercase();
        let name = match name.as_str() {
            "Q3_K" | "Q4_K" | "Q5_K" => format!("{name}_M"),
            _ => name,
        };
        Mix::ALL.into_iter().find(|mix| mix.name == name)
    }
}

/// What of a model the rules ask about.
#[derive(Debug)]
pub(super) struct Shape {
    n_layers: usize,
    n_experts: u64,
    /// Query heads to one of keys and values.
    n_gqa: u64,
    /// The embeddings are the output too.
    tied: bool,
    falcon: bool,
}

impl Shape {
    pub(super) fn of(gguf: &Gguf) -> Result<Shape, GgufError> {
        let m = &gguf.metadata;
        let architecture = m.str("general.architecture")?.unwrap_or_default();
        let number = |key: &str| m.u64(&format!("{architecture}.{key}"));
        let layers = gguf.tensors.iter().filter(|t| t.name.ends_with("attn_v.weight")).count();
        let n_heads = number("attention.head_count").unwrap_or(None).unwrap_or(1);
        // An array where the layers differ.
        let n_kv_heads = number("attention.head_count_kv").unwrap_or(None).unwrap_or(n_heads);
        Ok(Shape {
            n_layers: number("block_count")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(layers).max(1),
            n_experts: number("expert_count")?.unwrap_or(0),
            n_gqa: n_heads.checked_div(n_kv_heads).unwrap_or(1),
            tied: gguf.tensor("output.weight").is_none(),
            falcon: architecture == "falcon",
        })
    }

    /// The first and the last eighth of the layers, and every third between: where a mix spends more bits.
    fn is_favoured(&self, layer: usize) -> bool {
        let eighth = self.n_layers / 8;
        layer < eighth || layer >= 7 * self.n_layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// The format of `tensor` in a file quantized to `mix`; `pure`: the base format wherever a tensor is quantized at all.
pub(super) fn target(mix: Mix, pure: bool, shape: &Shape, tensor: &TensorInfo) -> GgmlType {
    if !is_quantized(tensor) {
        return tensor.ty;
    }
    let wanted = if pure || mix.base.block_len() == 1 { mix.base } else { raised(mix, shape, &tensor.name) };
    let wanted = if wanted == GgmlType::Q8_0 || !is_output(shape, &tensor.name) || pure || mix.base.block_len() == 1 {
        wanted
    } else if shape.falcon || tensor.shape[0] % 256 != 0 {
        GgmlType::Q8_0
    } else {
        GgmlType::Q6_K
    };
    fitting(wanted, tensor.shape[0])
}

/// Matrices are quantized; norms, biases, routers and what is small and decides much are not.
fn is_quantized(tensor: &TensorInfo) -> bool {
    const KEPT: [&str; 9] = [
        "_norm.weight",
        "ffn_gate_inp.weight",
        "ffn_gate_inp_shexp.weight",
        "altup",
        "laurel",
        "per_layer_model_proj",
        "ssm_conv1d",
        "shortconv.conv.weight",
        "time_mix_",
    ];
    let kept_whole = ["position_embd.weight", "token_types.weight"];
    let matrix = tensor.shape.iter().filter(|&&n| n > 1).count() >= 2 && tensor.shape.len() >= 2;
    matrix
        && tensor.name.ends_with("weight")
        && !KEPT.iter().any(|part| tensor.name.contains(part))
        && !kept_whole.contains(&tensor.name.as_str())
}

fn is_output(shape: &Shape, name: &str) -> bool {
    name == "output.weight" || (shape.tied && name == "token_embd.weight")
}

/// The format that the mix's rules give a tensor of this name.
fn raised(mix: Mix, shape: &Shape, name: &str) -> GgmlType {
    use GgmlType::{IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};
    let base = mix.base;
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok()).unwrap_or(0);
    let favoured = shape.is_favoured(layer);
    let (eighth, sixteenth) = (shape.n_layers / 8, shape.n_layers / 16);
    let eight_experts = shape.n_experts == 8;
    let holds = |part: &str| name.contains(part);
    if holds("attn_v.weight") {
        let ty = match (base, mix.size) {
            (Q2_K, Size::Medium) => {
                if shape.n_gqa >= 4 {
                    Q4_K
                } else {
                    Q3_K
                }
            }
            (Q2_K, _) => {
                if shape.n_gqa >= 4 {
                    Q4_K
                } else {
                    base
                }
            }
            (Q3_K, Size::Medium) => {
                if layer < 2 {
                    Q5_K
                } else {
                    Q4_K
                }
            }
            (Q3_K, Size::Large) => Q5_K,
            (IQ4_NL | IQ4_XS, _) if shape.n_gqa >= 4 => Q5_K,
            (Q4_K | Q5_K, Size::Medium) if favoured => Q6_K,
            (Q4_K, Size::Small) if layer < 4 => Q5_K,
            _ => base,
        };
        // With eight experts attention is a small part of the file.
        return if eight_experts { Q8_0 } else { ty };
    }
    if holds("attn_k.weight") && eight_experts {
        return Q8_0;
    }
    if holds("ffn_down") {
        return match (base, mix.size) {
            (Q2_K, Size::Medium) => Q3_K,
            (Q2_K, _) if layer < eighth => Q4_K,
            (Q3_K, Size::Medium) if layer < sixteenth => Q5_K,
            (Q3_K, Size::Medium) if !shape.falcon || favoured => Q4_K,
            (Q3_K, Size::Large) => {
                if shape.falcon {
                    Q4_K
                } else {
                    Q5_K
                }
            }
            (Q4_K, Size::Medium) if shape.falcon && layer < sixteenth => Q6_K,
            (Q4_K, Size::Medium) if shape.falcon => {
                if favoured {
                    Q5_K
                } else {
                    Q4_K
                }
            }
            (Q4_K | Q5_K, Size::Medium) if favoured => Q6_K,
            (IQ4_NL | IQ4_XS, _) if layer < eighth => Q5_K,
            (Q4_K, Size::Small) if layer < eighth => Q5_K,
            _ => base,
        };
    }
    if holds("attn_output.weight") {
        let spared = matches!(
            (base, mix.size),
            (Q2_K, Size::Medium) | (Q3_K, Size::Small | Size::Medium) | (IQ4_NL | IQ4_XS | Q4_K, _)
        );
        return match (base, mix.size) {
            _ if shape.falcon => base,
            _ if eight_experts => {
                if spared {
                    Q5_K
                } else {
                    base
                }
            }
            (Q2_K, Size::Medium) => Q3_K,
            (Q3_K, Size::Medium) => Q4_K,
            (Q3_K, Size::Large) => Q5_K,
            _ => base,
        };
    }
    if holds("attn_qkv.weight") {
        return match (base, mix.size) {
            (Q3_K, Size::Medium | Size::Large) => Q4_K,
            (Q4_K, Size::Medium) => Q5_K,
            (Q5_K, Size::Medium) => Q6_K,
            _ => base,
        };
    }
    base
}

/// The format itself, or the next better one that rows of `row` elements are whole blocks of.
fn fitting(ty: GgmlType, row: u64) -> GgmlType {
    let whole = |ty: GgmlType| row.is_multiple_of(ty.block_len() as u64);
    let smaller = match ty {
        ty if whole(ty) => return ty,
        GgmlType::Q2_K | GgmlType::Q3_K => GgmlType::Q4_0,
        GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        _ => GgmlType::F16,
    };
    if whole(smaller) { smaller } else { GgmlType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[u64]) -> TensorInfo {
        TensorInfo { name: name.into(), shape: shape.into(), ty: GgmlType::F16, file: 0, offset: 0, n_bytes: 0 }
    }

    const MIXTRAL: Shape = Shape { n_layers: 32, n_experts: 8, n_gqa: 4, tied: false, falcon: false };
    const QWEN3MOE: Shape = Shape { n_layers: 48, n_experts: 128, n_gqa: 8, tied: false, falcon: false };

    #[test]
    fn every_name_finds_its_mix_and_no_file_type_stands_twice() {
        for mix in Mix::ALL {
            assert_eq!(Mix::of(&mix.name.to_lowercase()), Some(mix));
            assert!(mix.base.is_quantizable(), "{}", mix.name);
            assert_eq!(Mix::ALL.iter().filter(|other| other.file_type == mix.file_type).count(), 1, "{}", mix.name);
        }
        assert_eq!(Mix::of("Q4_K"), Mix::of("q4_k_m"));
        assert_eq!(Mix::of("Q7"), None);
    }

    #[test]
    fn experts_routers_and_attention_get_what_the_rules_say() {
        let q4_k_m = Mix::of("Q4_K_M").unwrap();
        let ty = |shape: &Shape, name: &str| target(q4_k_m, false, shape, &tensor(name, &[2048, 768, 128]));
        assert_eq!(ty(&QWEN3MOE, "blk.5.ffn_down_exps.weight"), GgmlType::Q6_K);
        assert_eq!(ty(&QWEN3MOE, "blk.6.ffn_down_exps.weight"), GgmlType::Q4_K);
        assert_eq!(ty(&QWEN3MOE, "blk.8.ffn_down_exps.weight"), GgmlType::Q6_K);
        assert_eq!(ty(&QWEN3MOE, "blk.47.attn_v.weight"), GgmlType::Q6_K);
        assert_eq!(ty(&QWEN3MOE, "blk.6.ffn_gate_inp.weight"), GgmlType::F16);
        assert_eq!(ty(&MIXTRAL, "blk.6.attn_v.weight"), GgmlType::Q8_0);
        assert_eq!(ty(&MIXTRAL, "blk.6.attn_output.weight"), GgmlType::Q5_K);
        assert_eq!(ty(&MIXTRAL, "output.weight"), GgmlType::Q6_K);
        assert_eq!(target(q4_k_m, true, &MIXTRAL, &tensor("output.weight", &[256, 9])), GgmlType::Q4_K);
        assert_eq!(target(q4_k_m, false, &MIXTRAL, &tensor("output.weight", &[96, 9])), GgmlType::Q8_0);
        assert_eq!(target(q4_k_m, false, &MIXTRAL, &tensor("blk.0.ffn_up.weight", &[40, 9])), GgmlType::F16);
        assert_eq!(target(q4_k_m, false, &MIXTRAL, &tensor("blk.0.attn_q.bias", &[256, 9])), GgmlType::F16);
        let q8 = Mix::of("Q8_0").unwrap();
        assert_eq!(target(q8, false, &MIXTRAL, &tensor("output.weight", &[256, 9])), GgmlType::Q8_0);
        let q4_0 = Mix::of("Q4_0").unwrap();
        let tied = Shape { tied: true, ..QWEN3MOE };
        assert_eq!(target(q4_0, false, &tied, &tensor("token_embd.weight", &[256, 9])), GgmlType::Q6_K);
    }
}
