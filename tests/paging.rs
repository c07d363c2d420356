//! Models whose experts do not all fit: whatever the way, the budget and the guesses, the output is to the bit that of a
//! model in memory.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use wayinfer::kernel::KvFormat;
use wayinfer::model::{Compute, ForwardError, KvParams, Model, PlanOptions, Prefetch};
use wayinfer::session::{EngineOptions, Session, SessionError, Watch};
use wayinfer::store::{ModelFile, PagingChoice};
use wayinfer::telemetry::PagingSnapshot;

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
