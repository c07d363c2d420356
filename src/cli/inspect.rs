//! `wayinfer inspect`: what is in a model file, and what a memory budget would mean for it. Reads the header alone.

use clap::Args;
use serde_json::{Value as Json, json};

use super::options::{Common, ModelArg, Screen};
use super::output;
use crate::gguf::{Array, Gguf, Value};
use crate::kernel::{KvFormat, PLANE_POSITIONS};
use crate::model::{Hyperparameters, KvCache, Plan, PlanError, PlanOptions};
use crate::store::{Budget, is_expert_tensor};

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

/// Where the bytes are, how much of them one token needs, and what memory would be spent on.
#[derive(Debug)]
struct Sizes {
    dense: u64,
    experts: u64,
    /// Bytes of the experts that one token uses; `None` for a dense model or where the metadata does not say.
    active_experts: Option<u64>,
    kv_per_token: Option<u64>,
    kv: KvFormat,
    budget: Budget,
    /// `None` where the metadata does not say what the model is.
    plan: Option<Result<Plan, PlanError>>,
}

impl Sizes {
    fn of(gguf: &Gguf, h: Option<&Hyperparameters>, options: &PlanOptions) -> Sizes {
        let sum =
            |experts: bool| gguf.tensors.iter().filter(|t| is_expert_tensor(t) == experts).map(|t| t.n_bytes).sum();
        let experts: u64 = sum(true);
        let moe = h.and_then(|h| h.moe);
        let kv_block = h.and_then(|h| KvCache::block_bytes(h, options.kv).ok());
        Sizes {
            dense: sum(false),
            experts,
            active_experts: moe.map(|moe| (experts as f64 * moe.n_used as f64 / moe.n_experts as f64) as u64),
            kv_per_token: kv_block.map(|bytes| bytes / PLANE_POSITIONS as u64),
            kv: options.kv,
            budget: options.budget,
            plan: h.map(|h| Plan::new(gguf, h, options)),
        }
    }

    /// The plan, if there is one that works.
    fn working(&self) -> Option<&Plan> {
        self.plan.as_ref()?.as_ref().ok()
    }

    /// Whether all weights stay in memory.
    fn fits(&self) -> bool {
        self.working().is_some_and(|plan| !plan.reads_dense_weights_again() && plan.holds_all_experts())
    }
}

pub(super) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    args.common.start_log(Screen::Free)?;
    let gguf = Gguf::open(args.model.required()?)?;
    let n_vocab = gguf.tensor("token_embd.weight").and_then(|t| t.shape.get(1).copied()).unwrap_or(0);
    let hyperparameters = Hyperparameters::from_metadata(&gguf.metadata, n_vocab as usize);
    let sizes = Sizes::of(&gguf, hyperparameters.as_ref().ok(), &args.common.engine()?.plan());
    if args.json {
        return Ok(output::print_json(&report(&gguf, &hyperparameters, &sizes))?);
    }
    Ok(output::print(&page(&gguf, &hyperparameters, &sizes))?)
}

type Read = Result<Hyperparameters, crate::model::HyperparameterError>;

fn report(gguf: &Gguf, hyperparameters: &Read, sizes: &Sizes) -> Json {
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
        "budget": sizes.budget.known().map(|bytes| budget_json(bytes, sizes)),
        "metadata": metadata,
        "tensors": tensors,
    })
}

/// What a budget would mean: whether it works, and the parts of memory, all in bytes.
fn budget_json(bytes: u64, sizes: &Sizes) -> Json {
    let too_small = match &sizes.plan {
        Some(Err(PlanError::TooSmall(error))) => Some(&error.plan),
        _ => None,
    };
    let plan = sizes.working().or(too_small);
    json!({
        "bytes": bytes,
        "fits": sizes.fits(),
        "works": sizes.plan.as_ref().map(Result::is_ok),
        "not_working_because": sizes.plan.as_ref().and_then(|plan| plan.as_ref().err()).map(ToString::to_string),
        "resident_expert_bytes": sizes.working().map(|plan| plan.expert_budget(0, 1)),
        "context": plan.map(|plan| plan.context),
        "needed_bytes": plan.map(Plan::needed),
        "plan": plan.map(output::plan_json),
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

fn page(gguf: &Gguf, hyperparameters: &Read, sizes: &Sizes) -> String {
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
        line(format!("KV cache    {:.1} KB a token in {}", kv as f64 / 1e3, sizes.kv));
    }
    if let (Some(budget), Some(plan)) = (sizes.budget.known(), &sizes.plan) {
        line(format!("in {:<9}{}", gb(budget), plan.as_ref().map_or_else(ToString::to_string, |p| verdict(p, sizes))));
        if let Ok(plan) = plan {
            line(format!(
                "            {} dense, {} the program, {} experts at first; KV cache {} at {} tokens, buffers {} at {}",
                gb(plan.dense_kept),
                gb(plan.process),
                gb(plan.expert_budget(0, 1)),
                gb(plan.kv_bytes(plan.context)),
                plan.context,
                gb(plan.scratch.of(plan.max_batch(0))),
                plan.max_batch(0),
            ));
        }
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
fn verdict(plan: &Plan, sizes: &Sizes) -> String {
    if sizes.fits() {
        return "the whole model fits in memory".into();
    }
    if plan.reads_dense_weights_again() {
        return "does not fit, and every token reads all of it: the disk sets the speed".into();
    }
    let share = plan.expert_budget(0, 1) as f64 / plan.experts as f64;
    let cold = sizes.active_experts.map_or(String::new(), |active| {
        format!("; with no locality at all a token reads {:.2} GB", active as f64 * (1.0 - share) / 1e9)
    });
    format!("the dense weights and {:.0}% of the experts fit{cold}", share * 100.0)
}
