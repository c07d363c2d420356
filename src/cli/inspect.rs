//! `wayinfer inspect`: what is in a model file, and what a memory budget would mean for it. Reads the header alone.

use clap::Args;
use serde_json::{Value as Json, json};

use super::options::{Common, ModelArg, Screen};
use super::output;
use crate::gguf::{Array, Gguf, Value};
use crate::model::Hyperparameters;
use crate::store::System;

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Everything as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

/// Where the bytes are, and how much of them one token needs.
#[derive(Debug)]
struct Sizes {
    dense: u64,
    experts: u64,
    /// Bytes of the experts that one token uses; `None` for a dense model or where the metadata does not say.
    active_experts: Option<u64>,
    kv_per_token: Option<u64>,
}

impl Sizes {
    fn of(gguf: &Gguf, h: Option<&Hyperparameters>) -> Sizes {
        let is_expert = |name: &str| name.contains("_exps.");
        let sum =
            |experts: bool| gguf.tensors.iter().filter(|t| is_expert(&t.name) == experts).map(|t| t.n_bytes).sum();
        let experts: u64 = sum(true);
        let moe = h.and_then(|h| h.moe);
        Sizes {
            dense: sum(false),
            experts,
            active_experts: moe.map(|moe| (experts as f64 * moe.n_used as f64 / moe.n_experts as f64) as u64),
            kv_per_token: h
                .map(|h| (h.n_layers * h.n_kv_heads * (h.head_dim_k + h.head_dim_v) * size_of::<u16>()) as u64),
        }
    }

    /// What fits into `budget`: bytes of experts resident beside the dense weights.
    fn resident_experts(&self, budget: u64) -> u64 {
        budget.saturating_sub(self.dense).min(self.experts)
    }
}

pub(super) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    args.common.start_log(Screen::Free)?;
    let gguf = Gguf::open(args.model.required()?)?;
    let n_vocab = gguf.tensor("token_embd.weight").and_then(|t| t.shape.get(1).copied()).unwrap_or(0);
    let hyperparameters = Hyperparameters::from_metadata(&gguf.metadata, n_vocab as usize);
    let sizes = Sizes::of(&gguf, hyperparameters.as_ref().ok());
    let budget = args.common.ram().or_else(|| System::discover().memory().map(|m| m.available));
    if args.json {
        return Ok(output::print_json(&report(&gguf, &hyperparameters, &sizes, budget))?);
    }
    Ok(output::print(&page(&gguf, &hyperparameters, &sizes, budget))?)
}

type Read = Result<Hyperparameters, crate::model::HyperparameterError>;

fn report(gguf: &Gguf, hyperparameters: &Read, sizes: &Sizes, budget: Option<u64>) -> Json {
    let metadata: serde_json::Map<_, _> =
        gguf.metadata.iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect();
    let tensors: Vec<_> = gguf
        .tensors
        .iter()
        .map(|t| {
            json!({ "name": t.name, "type": t.ty.name(), "shape": t.shape, "bytes": t.n_bytes, "file": t.file,
                    "offset": t.offset, "supported": t.ty.is_computable() })
        })
        .collect();
    json!({
        "version": gguf.version,
        "files": gguf.files.iter().map(|f| json!({ "path": f.path.display().to_string(), "bytes": f.bytes })).collect::<Vec<_>>(),
        "bytes": gguf.file_bytes(),
        "parameters": gguf.parameters(),
        "runnable": hyperparameters.is_ok() && gguf.tensors.iter().all(|t| t.ty.is_computable()),
        "not_runnable_because": hyperparameters.as_ref().err().map(ToString::to_string),
        "dense_bytes": sizes.dense,
        "expert_bytes": sizes.experts,
        "active_expert_bytes_per_token": sizes.active_experts,
        "kv_bytes_per_token": sizes.kv_per_token,
        "budget": budget.map(|bytes| json!({
            "bytes": bytes,
            "fits": bytes >= gguf.file_bytes(),
            "resident_expert_bytes": sizes.resident_experts(bytes),
        })),
        "metadata": metadata,
        "tensors": tensors,
    })
}

/// Long arrays (vocabularies) are told by their length.
fn value_json(value: &Value) -> Json {
    match value {
        Value::U8(x) => json!(x),
        Value::I8(x) => json!(x),
        Value::U16(x) => json!(x),
        Value::I16(x) => json!(x),
        Value::U32(x) => json!(x),
        Value::I32(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::Bool(x) => json!(x),
        Value::String(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::I64(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::Array(a) if a.len() > 64 => json!({ "array_length": a.len() }),
        Value::Array(a) => array_json(a),
    }
}

fn array_json(array: &Array) -> Json {
    match array {
        Array::U8(v) => json!(v),
        Array::I8(v) => json!(v),
        Array::U16(v) => json!(v),
        Array::I16(v) => json!(v),
        Array::U32(v) => json!(v),
        Array::I32(v) => json!(v),
        Array::F32(v) => json!(v),
        Array::Bool(v) => json!(v),
        Array::String(v) => json!(v),
        Array::U64(v) => json!(v),
        Array::I64(v) => json!(v),
        Array::F64(v) => json!(v),
        Array::Array(v) => Json::Array(v.iter().map(array_json).collect()),
    }
}

fn page(gguf: &Gguf, hyperparameters: &Read, sizes: &Sizes, budget: Option<u64>) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>());
        out.push('\n');
    };
    let gb = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
    for file in &gguf.files {
        line(format!("file        {} ({}, GGUF version {})", file.path.display(), gb(file.bytes), gguf.version));
    }
    line(format!("parameters  {:.2} billion", gguf.parameters() as f64 / 1e9));
    match hyperparameters {
        Err(why) => line(format!("runs here   no: {why}")),
        Ok(h) => {
            let experts = h.moe.map_or("dense".into(), |m| format!("{} experts, {} used", m.n_experts, m.n_used));
            line(format!(
                "model       {}, {} layers, {} wide, {} heads ({} for keys and values), {experts}, context {}",
                h.architecture.name, h.n_layers, h.n_embd, h.n_heads, h.n_kv_heads, h.context_length
            ));
            if let Some(tensor) = gguf.tensors.iter().find(|t| !t.ty.is_computable()) {
                line(format!("runs here   no: tensor `{}` is {}, a format without kernels", tensor.name, tensor.ty));
            }
        }
    }
    line(format!("bytes       dense {}, experts {}", gb(sizes.dense), gb(sizes.experts)));
    if let Some(active) = sizes.active_experts {
        line(format!("one token   reads {} dense and {} of experts", gb(sizes.dense), gb(active)));
    }
    if let Some(kv) = sizes.kv_per_token {
        line(format!("KV cache    {:.1} KB a token in f16", kv as f64 / 1e3));
    }
    if let Some(budget) = budget {
        line(format!("in {:<9}{}", gb(budget), verdict(gguf, sizes, budget)));
    }
    line(String::new());
    for (key, value) in gguf.metadata.iter() {
        let text = value_json(value).to_string();
        let short: String = text.chars().take(100).collect();
        line(format!("{key} = {short}{}", if short.len() < text.len() { "…" } else { "" }));
    }
    line(String::new());
    for t in &gguf.tensors {
        let shape = t.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        line(format!("{:<48} {:<7} {:>12}  {shape}", t.name, t.ty.name(), t.n_bytes));
    }
    out
}

/// What a budget would mean, in words.
fn verdict(gguf: &Gguf, sizes: &Sizes, budget: u64) -> String {
    if budget >= gguf.file_bytes() {
        return "the whole model fits in memory".into();
    }
    if sizes.experts == 0 {
        return "does not fit, and every token reads all of it: the disk sets the speed".into();
    }
    if budget <= sizes.dense {
        return "the dense weights alone do not fit: every token reads some of them again".into();
    }
    let share = sizes.resident_experts(budget) as f64 / sizes.experts as f64;
    let cold = sizes.active_experts.map_or(String::new(), |active| {
        format!("; with no locality at all a token reads {:.2} GB", active as f64 * (1.0 - share) / 1e9)
    });
    format!("the dense weights and {:.0}% of the experts fit{cold}", share * 100.0)
}
