//! Models whose experts do not all fit: whatever the way, the budget and the guesses, the output is to the bit that of a
//! model in memory.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wayinfer::kernel::KvFormat;
use wayinfer::model::{Compute, ForwardError, KvParams, Model, PlanOptions, Prefetch};
use wayinfer::session::{EngineOptions, Session, SessionError, Watch};
use wayinfer::store::{Budget, ModelFile, PagingChoice};
use wayinfer::telemetry::{LayerCost, PagingSnapshot};

fn compute() -> Compute {
    EngineOptions { threads: Some(2), ..EngineOptions::default() }.compute().unwrap()
}

fn open() -> ModelFile {
    ModelFile::open(common::data("mixtral-Q4_K_M.gguf")).unwrap()
}

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| i * 37 % 500).collect()
}

/// The logits after each part of a text that is read in parts, and what the experts cost.
fn logits(compute: &Compute, model: &Model<'_>, file: &ModelFile, prefetch: Prefetch) -> (Vec<f32>, PagingSnapshot) {
    let watch = Watch::unattended(file, model, prefetch);
    let kv = KvParams { capacity: 256, format: KvFormat::default() };
    let mut session = Session::new(model, compute, kv).unwrap();
    let mut all = Vec::new();
    let ids = ids(150);
    // A prompt, tokens one at a time, a short batch, and tokens again.
    for part in
        [&ids[..80]].into_iter().chain(ids[80..110].chunks(1)).chain([&ids[110..115]]).chain(ids[115..].chunks(1))
    {
        all.extend_from_slice(session.feed(part, watch.control()).unwrap());
    }
    (all, watch.telemetry.paging().unwrap().snapshot())
}

#[test]
fn every_way_budget_and_prefetch_gives_the_same_bits() {
    let (compute, file) = (compute(), open());
    let whole = Model::new(&file, PagingChoice::Auto, &PlanOptions::for_experts(u64::MAX)).unwrap();
    let total = whole.experts().total_bytes();
    let (judge, _) = logits(&compute, &whole, &file, Prefetch::On);
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        for share in [8, 5, 2] {
            for prefetch in [Prefetch::On, Prefetch::Off] {
                let model = Model::new(&file, paging, &PlanOptions::for_experts(total / share)).unwrap();
                let (found, counted) = logits(&compute, &model, &file, prefetch);
                assert!(found == judge, "{paging:?}, a {share}th of the experts, prefetch {prefetch:?}");
                let read = counted.demand_bytes + counted.speculated_bytes;
                assert!(counted.evicted_bytes > 0 && read > 0, "{paging:?} {share}: {counted:?}");
                assert!(counted.resident_bytes.unwrap() <= total / share);
            }
        }
    }
}

#[test]
fn what_the_layers_of_a_token_cost_adds_up_to_what_the_token_cost() {
    let (compute, file) = (compute(), open());
    let total = Model::new(&file, PagingChoice::Auto, &PlanOptions::for_experts(u64::MAX)).unwrap();
    let total = total.experts().total_bytes();
    for (paging, budget) in [
        (PagingChoice::Mapped, total / 5),
        (PagingChoice::Direct, total / 5),
        (PagingChoice::Direct, total / 2),
        (PagingChoice::Auto, u64::MAX),
    ] {
        let model = Model::new(&file, paging, &PlanOptions::for_experts(budget)).unwrap();
        let watch = Watch::unattended(&file, &model, Prefetch::On);
        let kv = KvParams { capacity: 256, format: KvFormat::default() };
        let mut session = Session::new(&model, &compute, kv).unwrap();
        for id in ids(60) {
            session.feed(&[id], watch.control()).unwrap();
        }
        assert_eq!(watch.tokens.n_tokens(), 60);
        let n_layers = model.hyperparameters().n_layers;
        let rounding = Duration::from_micros(2 * n_layers as u64);
        let (mut in_layers, mut in_all, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
        for token in 0..60 {
            let record = watch.tokens.get(token).unwrap();
            let layers: Vec<_> = (0..n_layers).map(|layer| watch.tokens.layer(token, layer).unwrap()).collect();
            let stall: Option<Duration> = layers.iter().map(|layer| layer.stall).sum();
            let read_bytes: Option<u64> = layers.iter().map(|layer| layer.read_bytes).sum();
            let wall: Duration = layers.iter().map(LayerCost::wall).sum();
            assert_eq!(read_bytes, record.cost.read_bytes, "{paging:?}");
            assert_eq!(stall.is_some(), budget < total);
            match stall.zip(record.cost.stall) {
                Some((sum, all)) => assert!(sum <= all && all <= sum + rounding, "{sum:?} of {all:?}"),
                None => assert_eq!(stall, record.cost.stall),
            }
            assert!(wall <= record.cost.wall + rounding, "{wall:?} of {:?}", record.cost.wall);
            (in_layers, in_all) = (in_layers + wall, in_all + record.cost.wall);
            bytes += read_bytes.unwrap_or(0);
        }
        println!("{paging:?}, {budget} bytes: {in_layers:?} of {in_all:?} in layers, {bytes} bytes read");
        assert!(2 * in_layers > in_all, "{in_layers:?} of {in_all:?}");
        assert_eq!(bytes > 0, budget < total);
    }
}

/// A plan of `share` of the model's bytes beside what the program itself takes.
fn budget(file: &ModelFile, compute: &Compute, share: f64) -> PlanOptions {
    let options =
        PlanOptions { context: Some(2048), n_threads: compute.pool.n_threads(), ..PlanOptions::for_experts(u64::MAX) };
    let process = Model::new(file, PagingChoice::Auto, &options).unwrap().plan().process;
    let bytes = process + (file.gguf().file_bytes() as f64 * share) as u64;
    PlanOptions { budget: Budget::new(Some(bytes), None), ..options }
}

#[test]
fn whatever_the_budget_a_long_prompt_and_its_reply_are_the_same_bits() {
    let (compute, file) = (compute(), open());
    let ids: Vec<u32> = (0..1400).map(|i| i * 37 % 500).collect();
    let run = |options: &PlanOptions| {
        let model = Model::new(&file, PagingChoice::Auto, options).unwrap();
        let watch = Watch::unattended(&file, &model, Prefetch::On);
        let kv = KvParams { capacity: model.plan().context, format: options.kv };
        let mut session = Session::new(&model, &compute, kv).unwrap();
        let mut all = session.feed(&ids[..1281], watch.control()).unwrap().to_vec();
        let mut most_experts = 0;
        for id in &ids[1281..] {
            all.extend_from_slice(session.feed(&[*id], watch.control()).unwrap());
            most_experts = most_experts.max(watch.telemetry.paging().unwrap().snapshot().resident_bytes.unwrap());
        }
        let plan = model.plan();
        let taken = plan.dense + plan.process + session.kv_bytes() as u64 + most_experts + plan.scratch.of(1);
        assert!(taken <= plan.budget.bytes, "{taken} of {}", plan.budget.bytes);
        (all, plan.max_batch(0), model.experts().is_whole())
    };
    let (judge, _, whole) = run(&PlanOptions { context: Some(2048), ..PlanOptions::for_experts(u64::MAX) });
    assert!(whole);
    let mut passes = Vec::new();
    // The smallest ones are refused with the numbers: a tiny model's cache and buffers are not small beside its weights.
    for share in [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 3.0, 5.0, 10.0] {
        let options = budget(&file, &compute, share);
        if let Err(error) = Model::new(&file, PagingChoice::Auto, &options) {
            assert!(error.to_string().contains("--ram"), "{error}");
            continue;
        }
        let (found, pass, whole) = run(&options);
        println!("{share}: passes of {pass}, whole: {whole}");
        assert!(found == judge, "{share} of the model, passes of {pass}");
        passes.push(pass);
    }
    passes.dedup();
    assert!(passes.len() > 2, "{passes:?}");
}

#[test]
fn a_pass_without_room_for_an_expert_has_no_effect() {
    let (compute, file) = (compute(), open());
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let model = Model::new(&file, paging, &PlanOptions::for_experts(u64::MAX / 2)).unwrap();
        let watch = Watch::unattended(&file, &model, Prefetch::On);
        let kv = KvParams { capacity: 64, format: KvFormat::default() };
        let mut session = Session::new(&model, &compute, kv).unwrap();
        session.feed(&[1, 2, 3], watch.control()).unwrap();
        let expected = session.feed(&[4], watch.control()).unwrap().to_vec();
        session.keep(3);
        model.experts().set_budget(100);
        let error = session.feed(&[4], watch.control()).unwrap_err();
        assert!(matches!(error, SessionError::Forward(ForwardError::Paging(_))), "{error}");
        assert!(error.to_string().contains("budget of 100 bytes"), "{error}");
        assert_eq!(session.cached(), [1, 2, 3]);
        model.experts().set_budget(model.experts().total_bytes() / 3);
        assert_eq!(session.feed(&[4], watch.control()).unwrap(), expected, "{paging:?}");
    }
}

#[test]
fn a_cancelled_prompt_leaves_the_experts_usable() {
    let (compute, file) = (compute(), open());
    let whole = Model::new(&file, PagingChoice::Auto, &PlanOptions::for_experts(u64::MAX)).unwrap();
    let total = whole.experts().total_bytes();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let model = Model::new(&file, paging, &PlanOptions::for_experts(total / 4)).unwrap();
        let watch = Watch::unattended(&file, &model, Prefetch::On);
        let kv = KvParams { capacity: 256, format: KvFormat::default() };
        let mut session = Session::new(&model, &compute, kv).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    watch.cancel.fetch_xor(true, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
            for _ in 0..50 {
                match session.feed(&ids(60), watch.control()) {
                    Ok(_) => session.clear(),
                    Err(error) => {
                        assert!(matches!(error, SessionError::Forward(ForwardError::Cancelled)), "{error}");
                        assert!(session.cached().is_empty());
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        watch.cancel.store(false, Ordering::Relaxed);
        session.clear();
        let found = session.feed(&ids(60), watch.control()).unwrap().to_vec();
        let judge = Watch::unattended(&file, &whole, Prefetch::On);
        let mut session = Session::new(&whole, &compute, kv).unwrap();
        assert!(session.feed(&ids(60), judge.control()).unwrap() == found, "{paging:?}");
    }
}

#[test]
fn a_dense_model_that_does_not_fit_gives_the_same_bits() {
    let compute = compute();
    let file = ModelFile::open(common::data("qwen2-Q4_K_M.gguf")).unwrap();
    let run = |options: &PlanOptions| {
        let model = Model::new(&file, PagingChoice::Auto, options)?;
        let watch = Watch::unattended(&file, &model, Prefetch::On);
        let kv = KvParams { capacity: 64, format: options.kv };
        let mut session = Session::new(&model, &compute, kv).unwrap();
        let mut all = session.feed(&ids(40), watch.control()).unwrap().to_vec();
        all.extend_from_slice(session.feed(&[7], watch.control()).unwrap());
        Ok::<_, wayinfer::model::ModelError>((all, model.plan().reads_dense_weights_again()))
    };
    let options = PlanOptions { context: Some(64), n_threads: 2, ..PlanOptions::for_experts(u64::MAX) };
    let (judge, again) = run(&options).unwrap();
    assert!(!again);
    let mut n_streamed = 0;
    for bytes in (16 << 20..40 << 20).step_by(128 << 10) {
        match run(&PlanOptions { budget: Budget::new(Some(bytes), None), ..options }) {
            Err(error) => assert!(n_streamed == 0 && error.to_string().contains("--ram"), "{bytes}: {error}"),
            Ok((found, again)) => {
                assert!(found == judge, "{bytes}");
                n_streamed += usize::from(again);
            }
        }
    }
    assert!(n_streamed > 0, "no budget held a part of the model");
}
