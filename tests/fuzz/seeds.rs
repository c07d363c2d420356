//! Small whole models to mutate, one an architecture, and the values and shapes a hostile file might hold instead.

use wayinfer::gguf::writer::{TensorPlan, Writer};
use wayinfer::gguf::{Array, Metadata, Value};
use wayinfer::quant::GgmlType;

/// A model about to be written.
#[derive(Debug, Clone)]
pub struct Seed {
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<TensorPlan>,
}

/// Widths of the small models.
const N_EMBD: u64 = 32;
const N_FF: u64 = 64;
const N_HEADS: u64 = 4;
const N_KV_HEADS: u64 = 2;
const N_EXPERTS: u64 = 4;
const HEAD_DIM: u64 = N_EMBD / N_HEADS;
const N_LAYERS: u64 = 2;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// What templates do to those who render them without limits.
const TEMPLATES: [&str; 6] = [
    "{% for i in range(1000000000) %}{% for j in range(1000000000) %}x{% endfor %}{% endfor %}",
    "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('xxxxxxxx') }}",
    "{{ 'x' * 100000000000 }}",
    "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% include 'self' %}{% extends 'self' %}{% import 'self' as self %}",
    "{{ messages[99999999999999999999].content }}{{ raise_exception('no') }}",
];

/// Small whole models: dense and of experts, of both kinds of vocabulary.
pub fn seeds() -> Vec<Seed> {
    ["llama", "qwen2", "qwen3", "qwen3moe"].into_iter().map(seed).collect()
}

fn seed(architecture: &str) -> Seed {
    let key = |name: &str| format!("{architecture}.{name}");
    let mut entries = vec![
        ("general.architecture".to_owned(), text(architecture)),
        ("general.name".to_owned(), text("seed")),
        (key("block_count"), Value::U32(N_LAYERS as u32)),
        (key("context_length"), Value::U32(128)),
        (key("embedding_length"), Value::U32(N_EMBD as u32)),
        (key("feed_forward_length"), Value::U32(N_FF as u32)),
        (key("attention.head_count"), Value::U32(N_HEADS as u32)),
        (key("attention.head_count_kv"), Value::U32(N_KV_HEADS as u32)),
        (key("attention.key_length"), Value::U32(HEAD_DIM as u32)),
        (key("attention.value_length"), Value::U32(HEAD_DIM as u32)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (key("rope.dimension_count"), Value::U32(HEAD_DIM as u32)),
        (key("rope.freq_base"), Value::F32(10_000.0)),
        (key("rope.scaling.type"), text("linear")),
        (key("rope.scaling.factor"), Value::F32(2.0)),
        (key("attention.sliding_window"), Value::U32(64)),
    ];
    if architecture == "qwen3moe" {
        entries.push((key("expert_count"), Value::U32(N_EXPERTS as u32)));
        entries.push((key("expert_used_count"), Value::U32(2)));
        entries.push((key("expert_feed_forward_length"), Value::U32(N_FF as u32)));
    }
    let n_vocab = if architecture == "llama" { sentencepiece(&mut entries) } else { byte_pairs(&mut entries) };
    entries.push(("tokenizer.chat_template".to_owned(), text(CHATML)));
    Seed { entries, tensors: tensors(architecture, n_vocab) }
}

/// A vocabulary of bytes and words with scores; returns its size.
fn sentencepiece(entries: &mut Vec<(String, Value)>) -> u64 {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    tokens
        .extend(["▁", "▁a", "th", "the", "▁the", "e", "t", "h", "a", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    let n = tokens.len();
    let types = (0..n).map(|i| if i == 0 { 2 } else { [3, 6, 1][usize::from(i > 2) + usize::from(i > 258)] });
    let scores = (0..n).map(|i| -(i as f32));
    entries.extend([
        ("tokenizer.ggml.model".to_owned(), text("llama")),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Array::I32(types.collect()))),
        ("tokenizer.ggml.scores".to_owned(), Value::Array(Array::F32(scores.collect()))),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
    ]);
    n as u64
}

/// A vocabulary of bytes and merges of them; returns its size.
fn byte_pairs(entries: &mut Vec<(String, Value)>) -> u64 {
    // The characters that stand for bytes: the printable ones for themselves, the others from U+0100 on.
    let printable = |b: &u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..256u32).filter(|b| !printable(b)).count() as u32;
    let bytes = (0..256).filter(printable).chain((0..others).map(|i| 256 + i));
    let mut tokens: Vec<String> = bytes.filter_map(char::from_u32).map(String::from).collect();
    tokens.extend(["th", "the", "Ġa", "Ġthe", "<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    let n = tokens.len();
    let types = (0..n).map(|i| if i < n - 3 { 1 } else { 3 });
    let merges = ["t h", "th e", "Ġ a", "Ġ the"].map(str::to_owned);
    entries.extend([
        ("tokenizer.ggml.model".to_owned(), text("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), text("qwen2")),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Array::I32(types.collect()))),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(Array::String(merges.to_vec()))),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(n as u32 - 3)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(n as u32 - 1)),
    ]);
    n as u64
}

fn tensors(architecture: &str, n_vocab: u64) -> Vec<TensorPlan> {
    let plan = |name: &str, shape: &[u64], ty| TensorPlan { name: name.to_owned(), shape: shape.to_vec(), ty };
    let (embd, kv) = (N_EMBD, N_KV_HEADS * HEAD_DIM);
    let mut tensors = vec![
        plan("token_embd.weight", &[embd, n_vocab], GgmlType::Q4_0),
        plan("output_norm.weight", &[embd], GgmlType::F32),
    ];
    if architecture != "qwen2" {
        tensors.push(plan("output.weight", &[embd, n_vocab], GgmlType::Q8_0));
    }
    for layer in 0..N_LAYERS {
        let mut add = |name: &str, shape: &[u64], ty| tensors.push(plan(&format!("blk.{layer}.{name}"), shape, ty));
        add("attn_norm.weight", &[embd], GgmlType::F32);
        add("attn_q.weight", &[embd, embd], GgmlType::Q8_0);
        add("attn_k.weight", &[embd, kv], GgmlType::Q4_1);
        add("attn_v.weight", &[embd, kv], GgmlType::F16);
        add("attn_output.weight", &[embd, embd], GgmlType::BF16);
        add("ffn_norm.weight", &[embd], GgmlType::F32);
        match architecture {
            "qwen2" => {
                for (name, n) in [("attn_q.bias", embd), ("attn_k.bias", kv), ("attn_v.bias", kv)] {
                    add(name, &[n], GgmlType::F32);
                }
            }
            "qwen3" | "qwen3moe" => {
                add("attn_q_norm.weight", &[HEAD_DIM], GgmlType::F32);
                add("attn_k_norm.weight", &[HEAD_DIM], GgmlType::F32);
            }
            _ => {}
        }
        if architecture == "qwen3moe" {
            add("ffn_gate_inp.weight", &[embd, N_EXPERTS], GgmlType::F32);
            add("ffn_gate_exps.weight", &[embd, N_FF, N_EXPERTS], GgmlType::MXFP4);
            add("ffn_up_exps.weight", &[embd, N_FF, N_EXPERTS], GgmlType::IQ4_NL);
            add("ffn_down_exps.weight", &[N_FF, embd, N_EXPERTS], GgmlType::Q5_0);
        } else {
            add("ffn_gate.weight", &[embd, N_FF], GgmlType::Q5_1);
            add("ffn_up.weight", &[embd, N_FF], GgmlType::Q5_0);
            add("ffn_down.weight", &[N_FF, embd], GgmlType::Q4_0);
        }
    }
    tensors
}

impl Seed {
    /// The file, its weights made of the bytes that `fill` gives; `None` where the writer refuses the shapes.
    pub fn write(&self, mut fill: impl FnMut() -> u8) -> Option<Vec<u8>> {
        let mut metadata = Metadata::default();
        for (key, value) in &self.entries {
            metadata.insert(key.clone(), value.clone()).ok()?;
        }
        let mut writer = Writer::new(Vec::new(), &metadata, &self.tensors).ok()?;
        for TensorPlan { name, shape, ty } in &self.tensors {
            let n_bytes = ty.row_bytes(shape[0])?.checked_mul(shape[1..].iter().product())?;
            if n_bytes > 1 << 20 {
                return None;
            }
            writer.write(name, &vec![fill(); n_bytes as usize]).ok()?;
        }
        writer.finish().ok()
    }
}

/// A value of any type to stand where another one was; `pick(n)` chooses among `n`.
pub fn hostile_value(mut pick: impl FnMut(usize) -> usize) -> Value {
    const INTEGERS: [u64; 12] = [0, 1, 2, 3, 7, 31, 255, 65_536, 1 << 31, u32::MAX as u64, 1 << 63, u64::MAX];
    const FLOATS: [f32; 9] =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, -1.0, f32::MIN_POSITIVE, f32::MAX, 1e-45];
    let integer = INTEGERS[pick(INTEGERS.len())];
    let float = FLOATS[pick(FLOATS.len())];
    let n = [0, 1, 2, 3, 300, 5000][pick(6)];
    let string = match pick(5) {
        0 => String::new(),
        1 => "\u{0}\u{1b}[2J".to_owned(),
        2 => "(".repeat(4000),
        3 => "{{".repeat(2000),
        _ => TEMPLATES[pick(TEMPLATES.len())].to_owned(),
    };
    match pick(14) {
        0 => Value::U8(integer as u8),
        1 => Value::I8(integer as i8),
        2 => Value::U16(integer as u16),
        3 => Value::U32(integer as u32),
        4 => Value::I32(integer as i32),
        5 => Value::U64(integer),
        6 => Value::I64(integer as i64),
        7 => Value::F32(float),
        8 => Value::F64(float.into()),
        9 => Value::Bool(integer & 1 == 1),
        10 => Value::String(string),
        11 => Value::Array(Array::I32(vec![integer as i32; n])),
        12 => Value::Array(Array::F32(vec![float; n])),
        _ => Value::Array(Array::String(vec![string.chars().take(8).collect(); n])),
    }
}

fn text(s: &str) -> Value {
    Value::String(s.to_owned())
}
