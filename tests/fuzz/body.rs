//! What is done to every hostile file: all that the program does to a model when it opens it. The file's bytes in;
//! nothing out but that it returns. `tests/hostile.rs` and the fuzz target share this.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use wayinfer::gguf::{Gguf, Metadata, TensorInfo, Value};
use wayinfer::model::{Compute, Model, Prefetch};
use wayinfer::sampler::{Sampler, SamplingParams};
use wayinfer::session::{EngineOptions, Session, Watch};
use wayinfer::store::{
    ExpertOptions, ExpertStore, LayerExperts, ModelFile, PagingChoice, Place, ResidencySurvey, Room, Routed,
};
use wayinfer::telemetry::ExpertMap;
use wayinfer::text::chat::ChatFormat;
use wayinfer::text::tokenizer::{Special, Tokenizer};
use wayinfer::transcript::{Message, Role};

/// How far a file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Refused with an error.
    Refused,
    /// The file is whole, but not a model with its words.
    File,
    /// All of it opened.
    Whole,
}

/// Opens a model's file: header, tensors, experts; not yet its words.
///
/// # Panics
/// Where something that was opened does not hold what it promises.
pub fn open_file(bytes: &[u8]) -> Option<ModelFile> {
    let model = ModelFile::from_bytes(bytes).ok()?;
    read_metadata(&model.gguf().metadata);
    check_tensors(&model, bytes);
    survey(&model);
    read_experts(&model).then_some(model)
}

/// Opens a model and everything in it.
///
/// # Panics
/// Where something that was opened does not hold what it promises.
pub fn open_everything(bytes: &[u8]) -> Opened {
    match open_file(bytes) {
        None => Opened::Refused,
        Some(model) if load(&model) => Opened::Whole,
        Some(_) => Opened::File,
    }
}

/// Binds the model, reads tokenizer and template, and puts a conversation through them.
fn load(file: &ModelFile) -> bool {
    let options = EngineOptions { context: Some(4), ..EngineOptions::default() };
    let model = Model::new(file, PagingChoice::Mapped, &options.plan()).ok();
    model.iter().for_each(|model| compute(file, model, &options));
    let metadata = &file.gguf().metadata;
    let Ok((tokenizer, _)) = Tokenizer::from_metadata(metadata) else { return false };
    let text = "Hello <|im_end|>, \u{fffd}\u{1f600} wörld";
    if let Ok(ids) = tokenizer.encode(text, Special::Parse) {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()), "an id outside the vocabulary");
    }
    let Ok((format, _)) = ChatFormat::from_metadata(metadata, &tokenizer) else { return false };
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    let messages = [message(Role::System, "be kind"), message(Role::User, text)];
    model.is_some() && format.encode(&tokenizer, &messages, jiff::civil::date(2026, 1, 15).at(9, 30, 0, 0)).is_ok()
}

/// Computes a few tokens of a model whose numbers may be anything.
fn compute(file: &ModelFile, model: &Model<'_>, options: &EngineOptions) {
    static COMPUTE: LazyLock<Compute> = LazyLock::new(|| {
        let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
        options.compute().expect("one thread can be started")
    });
    let watch = Watch::unattended(file, model, Prefetch::On);
    let Ok(mut session) = Session::new(model, &COMPUTE, options.kv_for(model)) else { return };
    if let Ok(logits) = session.feed(&[0, 0, 0], watch.control()) {
        assert_eq!(logits.len(), model.hyperparameters().n_vocab);
        Sampler::new(SamplingParams { seed: Some(1), ..SamplingParams::default() }).sample(logits);
    }
}

/// Asks for every value as every type.
fn read_metadata(metadata: &Metadata) {
    for (key, value) in metadata.iter() {
        // A NaN is not equal to itself.
        assert_eq!(metadata.get(key).map(Value::type_name), Some(value.type_name()));
        let answers = [
            metadata.u64(key).is_ok(),
            metadata.u32(key).is_ok(),
            metadata.f32(key).is_ok(),
            metadata.bool(key).is_ok(),
            metadata.str(key).is_ok(),
            metadata.strings(key).is_ok(),
            metadata.f32s(key).is_ok(),
            metadata.integers(key).is_ok(),
        ];
        assert!(answers.iter().filter(|&&ok| ok).count() <= 3, "`{key}` is {} and all else", value.type_name());
    }
}

/// Every tensor lies in the file, has the bytes of its type and shape, and shares none of them.
fn check_tensors(model: &ModelFile, bytes: &[u8]) {
    let gguf: &Gguf = model.gguf();
    assert_eq!(gguf.file_bytes(), bytes.len() as u64);
    let mut ends: Vec<(u64, u64)> = Vec::with_capacity(gguf.tensors.len());
    for tensor in &gguf.tensors {
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        assert!((1..=4).contains(&tensor.shape.len()) && !tensor.shape.contains(&0));
        let data = model.tensor_bytes(tensor);
        assert_eq!(Some(data.len() as u64), tensor.ty.row_bytes(tensor.shape[0]).map(|row| row * rows(tensor)));
        assert_eq!(data, &bytes[tensor.offset as usize..][..data.len()]);
        ends.push((tensor.offset, tensor.offset + tensor.n_bytes));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "tensors share bytes");
}

fn rows(tensor: &TensorInfo) -> u64 {
    tensor.shape[1..].iter().product()
}

fn survey(model: &ModelFile) {
    let mut survey = ResidencySurvey::new(model);
    survey.step(&ExpertMap::new(2, 4), Duration::from_millis(1));
    assert_eq!(survey.resident_bytes(), None, "nobody says what of a model in memory is resident");
}

/// Reads a few experts of the first layers, with room for all and with room for one; false where their tensors do not belong together.
fn read_experts(model: &ModelFile) -> bool {
    let experts = |layer: usize| {
        let tensor = |part: &str| model.gguf().tensor(&format!("blk.{layer}.ffn_{part}_exps.weight"));
        Some(LayerExperts { gate: tensor("gate")?, up: tensor("up")?, down: tensor("down")? })
    };
    let layers: Vec<_> = (0..4).map(experts).collect();
    if layers.iter().all(Option::is_none) {
        return true;
    }
    [u64::MAX, 0].into_iter().all(|budget| {
        let options = ExpertOptions { paging: PagingChoice::Mapped, budget, room: Room::ForAll, n_used: 1 };
        let map = Arc::new(ExpertMap::new(layers.len(), 1));
        let Ok(store) = ExpertStore::new(model, &layers, options, map) else {
            return false;
        };
        for (layer, tensors) in layers.iter().enumerate() {
            let Some(LayerExperts { gate, up, down }) = tensors else { continue };
            let n_experts = gate.shape[2] as usize;
            for expert in [0, n_experts / 2, n_experts - 1] {
                let routed = [Routed { expert, n_tokens: 1, place: Place::Hot }];
                let mut wanted = store.request(layer, 1, &routed).expect("nothing is read yet");
                let mut taken = Vec::new();
                let taking = wanted.take(&mut taken);
                assert_eq!(taking.is_ok(), budget > 0, "{taking:?}");
                if taking.is_ok() {
                    assert_eq!(taken, [expert]);
                    let bytes = wanted.taken().bytes(expert);
                    let of = |tensor: &TensorInfo| tensor.n_bytes / n_experts as u64;
                    assert_eq!(
                        [bytes.gate, bytes.up, bytes.down].map(|b| b.len() as u64),
                        [of(gate), of(up), of(down)]
                    );
                }
            }
        }
        true
    })
}
