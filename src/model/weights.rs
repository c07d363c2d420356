//! Weights: tensors of the file bound once, by name, to typed and shaped fields.

use crate::gguf::TensorInfo;
use crate::kernel::Matrix;
use crate::quant::GgmlType;
use crate::store::{LayerExperts, ModelFile};

use super::hyperparameters::{Hyperparameters, MoeParams};

/// A matrix with its optional bias: `y = W x + b`.
#[derive(Debug)]
pub struct Linear<'a> {
    /// `[n_out, n_in]`
    pub weight: Matrix<'a>,
    /// `[n_out]`
    pub bias: Option<Vec<f32>>,
}

/// One layer.
#[derive(Debug)]
pub struct Layer<'a> {
    /// `[n_embd]`
    pub attn_norm: Vec<f32>,
    /// `[n_heads · head_dim_k, n_embd]`
    pub q: Linear<'a>,
    /// `[n_kv_heads · head_dim_k, n_embd]`
    pub k: Linear<'a>,
    /// `[n_kv_heads · head_dim_v, n_embd]`
    pub v: Linear<'a>,
    /// `[head_dim_k]`, a norm of every query head (Qwen3).
    pub q_norm: Option<Vec<f32>>,
    /// `[head_dim_k]`
    pub k_norm: Option<Vec<f32>>,
    /// `[n_embd, n_heads · head_dim_v]`
    pub attn_out: Linear<'a>,
    /// `[n_embd]`
    pub ffn_norm: Vec<f32>,
    pub ffn: FeedForward<'a>,
}

impl Layer<'_> {
    /// The bias of the keys, where nothing but the rotation by position comes between it and the scores.
    pub fn turned_key_bias(&self) -> Option<&[f32]> {
        self.k.bias.as_deref().filter(|_| self.k_norm.is_none())
    }
}

/// The second half of a layer.
#[derive(Debug)]
pub enum FeedForward<'a> {
    /// `gate`, `up`: `[n_ff, n_embd]`; `down`: `[n_embd, n_ff]`.
    Dense { gate: Linear<'a>, up: Linear<'a>, down: Linear<'a> },
    /// `router`: `[n_experts, n_embd]`; the experts' bytes come through the store, in `formats`.
    Moe { router: Linear<'a>, formats: ExpertFormats },
}

/// The formats of the matrices of a layer's experts.
#[derive(Debug, Clone, Copy)]
pub struct ExpertFormats {
    pub gate: GgmlType,
    pub up: GgmlType,
    pub down: GgmlType,
}

/// All weights of a model.
#[derive(Debug)]
pub struct Weights<'a> {
    /// `[n_vocab, n_embd]`
    pub token_embd: Matrix<'a>,
    pub layers: Vec<Layer<'a>>,
    /// Where each layer's experts are, for the store; `None` for a dense layer.
    pub experts: Vec<Option<LayerExperts<'a>>>,
    /// `[n_embd]`
    pub output_norm: Vec<f32>,
    /// `[n_vocab, n_embd]`; the embedding itself where the file has no output matrix.
    pub output: Linear<'a>,
    /// `[n_rot / 2]`
    pub rope_factors: Option<Vec<f32>>,
}

/// Why a tensor cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    #[error("tensor `{name}` is missing; the file is not a complete model of its architecture")]
    Missing { name: String },
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape { name: String, expected: Vec<u64>, found: Vec<u64> },
    #[error("tensor `{name}` is {ty}, a format without kernels; use a file in {supported}")]
    Format { name: String, ty: GgmlType, supported: &'static str },
}

/// The formats that can be computed with, for messages.
const SUPPORTED: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS or MXFP4";

/// The rows of the embedding, which say how large the vocabulary is.
pub fn vocabulary_rows(file: &ModelFile) -> Result<usize, WeightError> {
    let name = "token_embd.weight";
    let tensor = file.gguf().tensor(name).ok_or_else(|| WeightError::Missing { name: name.into() })?;
    match tensor.shape[..] {
        [_, rows] => Ok(rows as usize),
        _ => Err(WeightError::Shape { name: name.into(), expected: vec![], found: tensor.shape.clone() }),
    }
}

/// Looks tensors up and checks their shapes and formats.
struct Binder<'a> {
    file: &'a ModelFile,
}

impl<'a> Binder<'a> {
    /// The tensor `name` of exactly `shape` (ggml's order, fastest first), where it is there.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<&'a TensorInfo>, WeightError> {
        let Some(tensor) = self.file.gguf().tensor(name) else { return Ok(None) };
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        // Trailing dimensions of 1 say nothing.
        let significant = tensor.shape.iter().rposition(|&n| n != 1).map_or(1, |i| i + 1).max(expected.len());
        if tensor.shape.get(..significant) != Some(&expected[..]) {
            return Err(WeightError::Shape { name: name.to_owned(), expected, found: tensor.shape.clone() });
        }
        if !tensor.ty.is_computable() {
            return Err(WeightError::Format { name: name.to_owned(), ty: tensor.ty, supported: SUPPORTED });
        }
        Ok(Some(tensor))
    }

    fn required(&self, name: &str, shape: &[usize]) -> Result<&'a TensorInfo, WeightError> {
        self.find(name, shape)?.ok_or_else(|| WeightError::Missing { name: name.to_owned() })
    }

    fn optional_vector(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>, WeightError> {
        let Some(tensor) = self.find(name, &[n])? else { return Ok(None) };
        let mut out = vec![0.0; n];
        tensor.ty.dequantize(self.file.tensor_bytes(tensor), &mut out);
        Ok(Some(out))
    }

    fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>, WeightError> {
        self.optional_vector(name, n)?.ok_or_else(|| WeightError::Missing { name: name.to_owned() })
    }

    fn matrix(&self, name: &str, n_rows: usize, n_cols: usize) -> Result<Matrix<'a>, WeightError> {
        let tensor = self.required(name, &[n_cols, n_rows])?;
        Ok(Matrix::new(tensor.ty, n_rows, n_cols, self.file.tensor_bytes(tensor)))
    }

    /// `NAME.weight` and, where it is there, `NAME.bias`.
    fn linear(&self, name: &str, n_rows: usize, n_cols: usize) -> Result<Linear<'a>, WeightError> {
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), n_rows, n_cols)?,
            bias: self.optional_vector(&format!("{name}.bias"), n_rows)?,
        })
    }

    fn layer(&self, h: &Hyperparameters, i: usize) -> Result<(Layer<'a>, Option<LayerExperts<'a>>), WeightError> {
        let name = |suffix: &str| format!("blk.{i}.{suffix}");
        let (n_q, n_k) = (h.n_heads * h.head_dim_k, h.n_kv_heads * h.head_dim_k);
        let (n_v, n_attn) = (h.n_kv_heads * h.head_dim_v, h.n_heads * h.head_dim_v);
        let (ffn, experts) = match h.moe {
            // A layer of an MoE model without a router is a dense one.
            Some(moe) if self.file.gguf().tensor(&name("ffn_gate_inp.weight")).is_some() => {
                let (ffn, experts) = self.moe(h, &moe, i)?;
                (ffn, Some(experts))
            }
            _ => (self.dense(h, i)?, None),
        };
        let layer = Layer {
            attn_norm: self.vector(&name("attn_norm.weight"), h.n_embd)?,
            q: self.linear(&name("attn_q"), n_q, h.n_embd)?,
            k: self.linear(&name("attn_k"), n_k, h.n_embd)?,
            v: self.linear(&name("attn_v"), n_v, h.n_embd)?,
            q_norm: self.optional_vector(&name("attn_q_norm.weight"), h.head_dim_k)?,
            k_norm: self.optional_vector(&name("attn_k_norm.weight"), h.head_dim_k)?,
            attn_out: self.linear(&name("attn_output"), h.n_embd, n_attn)?,
            ffn_norm: self.vector(&name("ffn_norm.weight"), h.n_embd)?,
            ffn,
        };
        Ok((layer, experts))
    }

    fn dense(&self, h: &Hyperparameters, i: usize) -> Result<FeedForward<'a>, WeightError> {
        let name = |suffix: &str| format!("blk.{i}.{suffix}");
        Ok(FeedForward::Dense {
            gate: self.linear(&name("ffn_gate"), h.n_ff[i], h.n_embd)?,
            up: self.linear(&name("ffn_up"), h.n_ff[i], h.n_embd)?,
            down: self.linear(&name("ffn_down"), h.n_embd, h.n_ff[i])?,
        })
    }

    fn moe(
        &self,
        h: &Hyperparameters,
        moe: &MoeParams,
        i: usize,
    ) -> Result<(FeedForward<'a>, LayerExperts<'a>), WeightError> {
        let name = |suffix: &str| format!("blk.{i}.{suffix}");
        let up_shape = [h.n_embd, moe.n_ff, moe.n_experts];
        let gate = self.required(&name("ffn_gate_exps.weight"), &up_shape)?;
        let up = self.required(&name("ffn_up_exps.weight"), &up_shape)?;
        let down = self.required(&name("ffn_down_exps.weight"), &[moe.n_ff, h.n_embd, moe.n_experts])?;
        let ffn = FeedForward::Moe {
            router: self.linear(&name("ffn_gate_inp"), moe.n_experts, h.n_embd)?,
            formats: ExpertFormats { gate: gate.ty, up: up.ty, down: down.ty },
        };
        Ok((ffn, LayerExperts { gate, up, down }))
    }
}

impl<'a> Weights<'a> {
    /// Binds every tensor that the architecture needs. Reads the norms and biases, and no matrix.
    pub fn bind(file: &'a ModelFile, h: &Hyperparameters) -> Result<Weights<'a>, WeightError> {
        let binder = Binder { file };
        let bound = (0..h.n_layers).map(|i| binder.layer(h, i)).collect::<Result<Vec<_>, _>>()?;
        let (layers, experts) = bound.into_iter().unzip();
        let token_embd = binder.matrix("token_embd.weight", h.n_vocab, h.n_embd)?;
        let output = match file.gguf().tensor("output.weight") {
            Some(_) => binder.linear("output", h.n_vocab, h.n_embd)?,
            None => Linear { weight: token_embd, bias: binder.optional_vector("output.bias", h.n_vocab)? },
        };
        Ok(Weights {
            token_embd,
            layers,
            experts,
            output_norm: binder.vector("output_norm.weight", h.n_embd)?,
            output,
            rope_factors: binder.optional_vector("rope_freqs.weight", h.n_rot / 2)?,
        })
    }
}
