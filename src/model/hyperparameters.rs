//! Hyperparameters: GGUF metadata in, checked numbers out. Past this file nothing is optional just in case.

use crate::gguf::{GgufError, Metadata};
use crate::kernel::{AttentionShape, KvFormat};

/// How the two halves of a rotated pair lie in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Neighbours: `(0, 1), (2, 3), …` (Llama as GGUF stores it).
    Interleaved,
    /// Halves: `(0, n/2), (1, n/2 + 1), …` (GPT-NeoX, Qwen).
    Halves,
}

/// What an architecture's name means beyond the numbers in its metadata and the tensors that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// `general.architecture`, and the prefix of its keys.
    pub name: &'static str,
    pub rope_layout: RopeLayout,
}

impl Architecture {
    /// The architectures that the forward pass computes.
    pub const ALL: [Architecture; 4] = [
        Architecture { name: "llama", rope_layout: RopeLayout::Interleaved },
        Architecture { name: "qwen2", rope_layout: RopeLayout::Halves },
        Architecture { name: "qwen3", rope_layout: RopeLayout::Halves },
        Architecture { name: "qwen3moe", rope_layout: RopeLayout::Halves },
    ];
}

/// Stretching of rotary positions beyond the trained context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by `factor`.
    Linear {
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): low frequencies stretched, high ones kept, attention sharpened.
    Yarn {
        factor: f64,
        original_context: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
    },
}

/// Mixture-of-Experts numbers; a dense model has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MoeParams {
    pub n_experts: usize,
    pub n_used: usize,
    /// Rows of an expert's gate and up matrices.
    pub n_ff: usize,
    /// Whether the weights of the chosen experts are scaled to sum to one.
    pub weights_norm: bool,
    /// A factor on the weights of the chosen experts.
    pub weights_scale: f32,
}

/// The numbers that steer the forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameters {
    pub architecture: Architecture,
    pub n_layers: usize,
    pub n_vocab: usize,
    pub n_embd: usize,
    /// Rows of the dense FFN's gate and up matrices, a layer.
    pub n_ff: Vec<usize>,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim_k: usize,
    pub head_dim_v: usize,
    pub norm_eps: f32,
    /// Rotated dimensions of a head.
    pub n_rot: usize,
    pub rope_base: f64,
    pub rope_scaling: RopeScaling,
    /// Positions a token looks back on, itself included; `None`: all.
    pub sliding_window: Option<usize>,
    /// The context the model was made for.
    pub context_length: usize,
    pub moe: Option<MoeParams>,
}

/// Why a model's metadata cannot steer the forward pass.
#[derive(Debug, thiserror::Error)]
pub enum HyperparameterError {
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error("metadata `{key}` is missing; the file is not a complete model")]
    Missing { key: String },
    #[error("metadata `{key}` is {found}, expected {expected}")]
    Value { key: String, found: String, expected: String },
    #[error("architecture `{found}` is not supported; supported: {supported}")]
    Architecture { found: String, supported: String },
}

/// Limits that no real model comes near; they bound what a hostile file can make us compute.
const MAX_LAYERS: u64 = 4096;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_HEADS: u64 = 4096;
const MAX_HEAD_DIM: u64 = 4096;
const MAX_EXPERTS: u64 = 4096;
const MAX_CONTEXT: u64 = 1 << 28;

/// Reads keys of one architecture and checks their ranges.
struct Reader<'a> {
    metadata: &'a Metadata,
    architecture: &'static str,
}

impl Reader<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    fn missing(&self, suffix: &str) -> HyperparameterError {
        HyperparameterError::Missing { key: self.key(suffix) }
    }

    fn value(&self, suffix: &str, found: impl ToString, expected: impl ToString) -> HyperparameterError {
        HyperparameterError::Value { key: self.key(suffix), found: found.to_string(), expected: expected.to_string() }
    }

    fn check(&self, suffix: &str, x: u64, max: u64) -> Result<usize, HyperparameterError> {
        if x == 0 || x > max {
            return Err(self.value(suffix, x, format!("1 to {max}")));
        }
        Ok(x as usize)
    }

    /// A number of 1 to `max`, where it is there.
    fn count(&self, suffix: &str, max: u64) -> Result<Option<usize>, HyperparameterError> {
        self.metadata.u64(&self.key(suffix))?.map(|x| self.check(suffix, x, max)).transpose()
    }

    fn required(&self, suffix: &str, max: u64) -> Result<usize, HyperparameterError> {
        self.count(suffix, max)?.ok_or_else(|| self.missing(suffix))
    }

    /// A number for every layer: one for all of them, or an array.
    fn per_layer(&self, suffix: &str, n_layers: usize, max: u64) -> Result<Option<Vec<usize>>, HyperparameterError> {
        let key = self.key(suffix);
        if !matches!(self.metadata.get(&key), Some(crate::gguf::Value::Array(_))) {
            return Ok(self.count(suffix, max)?.map(|x| vec![x; n_layers]));
        }
        let array = self.metadata.integers(&key)?.unwrap_or_default();
        if array.len() != n_layers {
            return Err(self.value(suffix, format!("{} numbers", array.len()), format!("{n_layers}, one a layer")));
        }
        let checked = array.iter().map(|&x| self.check(suffix, u64::try_from(x).unwrap_or(0), max));
        checked.collect::<Result<_, _>>().map(Some)
    }

    /// As [`Reader::per_layer`], where all layers must agree.
    fn uniform(&self, suffix: &str, n_layers: usize, max: u64) -> Result<Option<usize>, HyperparameterError> {
        let Some(all) = self.per_layer(suffix, n_layers, max)? else { return Ok(None) };
        if all.iter().any(|&x| x != all[0]) {
            return Err(self.value(suffix, format!("{all:?}"), "the same number in every layer"));
        }
        Ok(all.first().copied())
    }

    /// A finite number in `range`, where it is there.
    fn float(
        &self,
        suffix: &str,
        range: std::ops::RangeInclusive<f32>,
        expected: &str,
    ) -> Result<Option<f32>, HyperparameterError> {
        match self.metadata.f32(&self.key(suffix))? {
            Some(x) if !range.contains(&x) => Err(self.value(suffix, x, expected)),
            other => Ok(other),
        }
    }
}

impl Hyperparameters {
    /// What attention needs of them, over a KV cache in `format`.
    pub fn attention_shape(&self, format: KvFormat) -> AttentionShape {
        AttentionShape {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim_k: self.head_dim_k,
            head_dim_v: self.head_dim_v,
            sliding_window: self.sliding_window,
            format,
        }
    }

    /// Reads the metadata of a model whose embedding has `n_vocab` rows.
    pub fn from_metadata(metadata: &Metadata, n_vocab: usize) -> Result<Hyperparameters, HyperparameterError> {
        let found = metadata
            .str("general.architecture")?
            .ok_or_else(|| HyperparameterError::Missing { key: "general.architecture".into() })?;
        let architecture =
            *Architecture::ALL.iter().find(|a| a.name == found).ok_or_else(|| HyperparameterError::Architecture {
                found: found.to_owned(),
                supported: Architecture::ALL.map(|a| a.name).join(", "),
            })?;
        let r = Reader { metadata, architecture: architecture.name };
        let n_layers = r.required("block_count", MAX_LAYERS)?;
        let n_embd = r.required("embedding_length", MAX_WIDTH)?;
        let n_heads =
            r.uniform("attention.head_count", n_layers, MAX_HEADS)?.ok_or_else(|| r.missing("attention.head_count"))?;
        let n_kv_heads = r.uniform("attention.head_count_kv", n_layers, MAX_HEADS)?.unwrap_or(n_heads);
        if n_heads % n_kv_heads != 0 {
            return Err(r.value("attention.head_count_kv", n_kv_heads, format!("a divisor of {n_heads} heads")));
        }
        let head_dim_k = r.count("attention.key_length", MAX_HEAD_DIM)?.unwrap_or(n_embd / n_heads);
        let head_dim_v = r.count("attention.value_length", MAX_HEAD_DIM)?.unwrap_or(n_embd / n_heads);
        if head_dim_k == 0 || head_dim_v == 0 {
            return Err(r.value("attention.head_count", n_heads, format!("at most {n_embd} heads")));
        }
        let n_rot = r.count("rope.dimension_count", MAX_HEAD_DIM)?.unwrap_or(head_dim_k);
        if n_rot % 2 != 0 || n_rot > head_dim_k {
            return Err(r.value("rope.dimension_count", n_rot, format!("an even number up to {head_dim_k}")));
        }
        let context_length = r.required("context_length", MAX_CONTEXT)?;
        let moe = moe_params(&r, n_layers)?;
        let n_ff = match r.per_layer("feed_forward_length", n_layers, MAX_WIDTH)? {
            Some(n_ff) => n_ff,
            None if moe.is_some() => vec![0; n_layers],
            None => return Err(r.missing("feed_forward_length")),
        };
        Ok(Hyperparameters {
            architecture,
            n_layers,
            n_vocab,
            n_embd,
            n_ff,
            n_heads,
            n_kv_heads,
            head_dim_k,
            head_dim_v,
            norm_eps: r
                .float("attention.layer_norm_rms_epsilon", 0.0..=1.0, "a number from 0 to 1")?
                .ok_or_else(|| r.missing("attention.layer_norm_rms_epsilon"))?,
            n_rot,
            rope_base: f64::from(r.float("rope.freq_base", 1.0..=1e12, "1 to 1e12")?.unwrap_or(10_000.0)),
            rope_scaling: rope_scaling(&r, context_length)?,
            sliding_window: match metadata.u64(&r.key("attention.sliding_window"))? {
                None | Some(0) => None,
                Some(window) => Some(usize::try_from(window).unwrap_or(usize::MAX)),
            },
            context_length,
            moe,
        })
    }
}

fn moe_params(r: &Reader<'_>, n_layers: usize) -> Result<Option<MoeParams>, HyperparameterError> {
    // Dense models of some converters say 0 experts.
    if matches!(r.metadata.u64(&r.key("expert_count"))?, None | Some(0)) {
        return Ok(None);
    }
    let n_experts = r.required("expert_count", MAX_EXPERTS)?;
    let n_used = r.required("expert_used_count", n_experts as u64)?;
    let n_ff = match r.count("expert_feed_forward_length", MAX_WIDTH)? {
        Some(n_ff) => n_ff,
        None => r
            .uniform("feed_forward_length", n_layers, MAX_WIDTH)?
            .ok_or_else(|| r.missing("expert_feed_forward_length"))?,
    };
    match r.metadata.u64(&r.key("expert_gating_func"))? {
        // 1 is softmax, the only gating of the supported architectures.
        None | Some(0 | 1) => {}
        Some(other) => return Err(r.value("expert_gating_func", other, "1 (softmax)")),
    }
    let scale = r.float("expert_weights_scale", -1e6..=1e6, "a finite number")?;
    Ok(Some(MoeParams {
        n_experts,
        n_used,
        n_ff,
        weights_norm: r.metadata.bool(&r.key("expert_weights_norm"))?.unwrap_or(true),
        // 0 is how converters write "not set".
        weights_scale: scale.filter(|&s| s != 0.0).unwrap_or(1.0),
    }))
}

fn rope_scaling(r: &Reader<'_>, context_length: usize) -> Result<RopeScaling, HyperparameterError> {
    const FACTORS: std::ops::RangeInclusive<f32> = 0.0..=1e6;
    let factor = match r.float("rope.scaling.factor", FACTORS, "0 to 1e6")? {
        Some(factor) => Some(factor),
        // The name that older files use.
        None => r.float("rope.scale_linear", FACTORS, "0 to 1e6")?,
    };
    let factor = f64::from(factor.filter(|&f| f > 0.0).unwrap_or(1.0));
    match r.metadata.str(&r.key("rope.scaling.type"))? {
        Some("none") => Ok(RopeScaling::None),
        // llama3's own scaling is in the tensor `rope_freqs.weight`, whatever this key says.
        None | Some("linear" | "llama3") if factor == 1.0 => Ok(RopeScaling::None),
        None | Some("linear") => Ok(RopeScaling::Linear { factor }),
        Some("llama3") => Ok(RopeScaling::None),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor,
            original_context: r.count("rope.scaling.original_context_length", MAX_CONTEXT)?.unwrap_or(context_length)
                as f64,
            attention_factor: r
                .float("rope.scaling.attn_factor", 1e-6..=1e6, "a positive number")?
                .map_or(1.0, f64::from),
            beta_fast: r.float("rope.scaling.yarn_beta_fast", 1e-6..=1e6, "a positive number")?.map_or(32.0, f64::from),
            beta_slow: r.float("rope.scaling.yarn_beta_slow", 1e-6..=1e6, "a positive number")?.map_or(1.0, f64::from),
        }),
        Some(other) => Err(r.value("rope.scaling.type", other, "none, linear, yarn or llama3")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value;

    fn llama(changes: &[(&str, Value)]) -> Metadata {
        let mut entries = vec![
            ("general.architecture", Value::String("llama".into())),
            ("llama.block_count", Value::U32(2)),
            ("llama.embedding_length", Value::U32(256)),
            ("llama.feed_forward_length", Value::U32(512)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.context_length", Value::U32(512)),
        ];
        for (key, value) in changes {
            entries.retain(|(k, _)| k != key);
            entries.push((key, value.clone()));
        }
        let mut metadata = Metadata::default();
        for (key, value) in entries {
            metadata.insert(key.to_owned(), value).unwrap();
        }
        metadata
    }

    #[test]
    fn defaults_follow_from_the_required_numbers() {
        let h = Hyperparameters::from_metadata(&llama(&[]), 100).unwrap();
        assert_eq!((h.n_kv_heads, h.head_dim_k, h.head_dim_v, h.n_rot), (4, 64, 64, 64));
        assert_eq!((h.rope_base, h.rope_scaling, h.moe), (10_000.0, RopeScaling::None, None));
    }

    #[test]
    fn impossible_numbers_are_errors_that_name_the_key() {
        for (key, value) in [
            ("llama.block_count", Value::U32(0)),
            ("llama.block_count", Value::U64(1 << 40)),
            ("llama.embedding_length", Value::String("wide".into())),
            ("llama.attention.head_count", Value::U32(257)),
            ("llama.attention.head_count_kv", Value::U32(3)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
            ("llama.rope.freq_base", Value::F32(f32::INFINITY)),
            ("llama.rope.freq_base", Value::F32(0.0)),
            ("llama.rope.dimension_count", Value::U32(65)),
            ("llama.rope.scaling.factor", Value::F32(f32::NAN)),
            ("llama.feed_forward_length", Value::Array(crate::gguf::Array::I32(vec![5]))),
        ] {
            let error = Hyperparameters::from_metadata(&llama(&[(key, value)]), 100).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
        let used = [("llama.expert_count", Value::U32(8)), ("llama.expert_used_count", Value::U32(9))];
        assert!(Hyperparameters::from_metadata(&llama(&used), 100).is_err());
    }

    #[test]
    fn an_unknown_architecture_is_named_beside_the_supported_ones() {
        let metadata = llama(&[("general.architecture", Value::String("mamba".into()))]);
        let error = Hyperparameters::from_metadata(&metadata, 100).unwrap_err().to_string();
        assert!(error.contains("mamba") && error.contains("qwen3moe"), "{error}");
    }
}
