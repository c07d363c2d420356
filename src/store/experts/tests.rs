//! Experts as a model takes them, in both ways of reading, under budgets from one expert to all.

use std::io::Write;
use std::time::{Duration, Instant};

use super::*;
use crate::gguf::Metadata;
use crate::gguf::writer::{TensorPlan, Writer};
use crate::quant::GgmlType;
use crate::store::Place;
use crate::telemetry::PagingSnapshot;

pub(super) const N_EXPERTS: usize = 12;
pub(super) const N_USED: usize = 3;

/// A model of these layers: `[gate, up, down]` of each, with all bytes of an expert the same.
fn write(out: impl Write, layers: &[[&[u64]; 3]]) {
    let tensors = layers.iter().enumerate().flat_map(|(layer, shapes)| {
        ["gate", "up", "down"].iter().zip(shapes).map(move |(name, shape)| TensorPlan {
            name: format!("{name}{layer}"),
            shape: shape.to_vec(),
            ty: GgmlType::I8,
        })
    });
    let plans: Vec<_> = tensors.collect();
    let mut writer = Writer::new(out, &Metadata::default(), &plans).unwrap();
    for (i, plan) in plans.iter().enumerate() {
        let n_experts = plan.shape.get(2).copied().unwrap_or(1);
        let n_bytes = plan.shape.iter().product::<u64>() / n_experts;
        for expert in 0..n_experts {
            writer.write(&plan.name, &vec![byte(i / 3, i % 3, expert as usize); n_bytes as usize]).unwrap();
        }
    }
    writer.finish().unwrap();
}

fn byte(layer: usize, matrix: usize, expert: usize) -> u8 {
    (layer * 64 + matrix * 20 + expert) as u8
}

/// Three routed layers of two sizes, whose experts lie across pages as they like.
pub(super) fn three_layers() -> tempfile::NamedTempFile {
    // A file on a disk, as this test is: a tmpfs has no direct reads, and its pages cannot be dropped.
    let beside = std::env::current_exe().unwrap();
    let file = tempfile::NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
    let n = N_EXPERTS as u64;
    let (small, large): ([&[u64]; 3], [&[u64]; 3]) =
        ([&[100, 90, n], &[100, 90, n], &[90, 100, n]], [&[100, 90, n], &[100, 90, n], &[200, 100, n]]);
    write(file.as_file(), &[small, large, small]);
    file.as_file().sync_all().unwrap();
    file
}

pub(super) fn store(model: &ModelFile, paging: PagingChoice, budget: u64) -> Result<ExpertStore<'_>, StoreError> {
    let layers: Vec<_> = (0..)
        .map_while(|layer| {
            let tensor = |name: &str| model.gguf().tensor(&format!("{name}{layer}"));
            Some(Some(LayerExperts { gate: tensor("gate")?, up: tensor("up")?, down: tensor("down")? }))
        })
        .collect();
    let map = Arc::new(ExpertMap::new(layers.len(), N_EXPERTS));
    ExpertStore::new(model, &layers, ExpertOptions { paging, budget, room: Room::ForAll, n_used: N_USED }, map)
}

pub(super) fn routed(experts: &[usize]) -> Vec<Routed> {
    experts.iter().map(|&expert| Routed { expert, n_tokens: 1, place: Place::Hot }).collect()
}

/// Takes all of a layer's experts and checks that they are these.
pub(super) fn compute(mut wanted: Wanted<'_>, layer: usize, expected: &[usize]) -> Result<(), PagingError> {
    let (mut some, mut all) = (Vec::new(), Vec::new());
    wanted.take(&mut some)?;
    while !some.is_empty() {
        for &expert in &some {
            let ExpertBytes { gate, up, down } = wanted.taken().bytes(expert);
            for (matrix, bytes) in [gate, up, down].into_iter().enumerate() {
                let expected = byte(layer, matrix, expert);
                assert!(!bytes.is_empty() && bytes.iter().all(|&b| b == expected), "layer {layer} expert {expert}");
            }
            wanted.release(expert)?;
        }
        all.extend_from_slice(&some);
        wanted.take(&mut some)?;
    }
    all.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(all, expected, "layer {layer}");
    Ok(())
}

/// Three different experts, the same in every run.
pub(super) fn some_experts(random: &mut u64) -> [usize; N_USED] {
    std::array::from_fn(|i| {
        *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        i * (N_EXPERTS / N_USED) + (*random >> 33) as usize % (N_EXPERTS / N_USED)
    })
}

pub(super) fn check_sums(p: &PagingSnapshot) {
    assert_eq!(p.requested_bytes, p.hit_bytes + p.demand_bytes + p.speculated_used_bytes, "{p:?}");
    assert!(p.speculated_used_bytes + p.wasted_bytes <= p.speculated_bytes, "{p:?}");
}

#[test]
fn where_all_fit_every_expert_has_its_own_bytes_and_nothing_is_counted() {
    let mut bytes = Vec::new();
    write(&mut bytes, &[[&[4, 6, 3], &[4, 6, 3], &[6, 4, 3]]]);
    let model = ModelFile::from_bytes(&bytes).unwrap();
    let store = store(&model, PagingChoice::Auto, u64::MAX).unwrap();
    assert!(store.is_whole());
    compute(store.request(0, 1, &routed(&[2, 0])).unwrap(), 0, &[2, 0]).unwrap();
    compute(store.request(0, 1, &routed(&[1])).unwrap(), 0, &[1]).unwrap();
    assert_eq!(store.paging().snapshot().requested_bytes, 0);
    assert_eq!(store.paging().way.name, "mapped");
}

#[test]
fn every_budget_gives_every_expert_its_own_bytes_in_both_ways() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let total = store(&model, paging, 0).unwrap().total_bytes();
        for budget in [total / 24, total / 6, total / 2, total] {
            let store = store(&model, paging, budget).unwrap();
            let mut random = 7;
            for turn in 0..60 {
                for layer in 0..3 {
                    let experts = some_experts(&mut random);
                    let asked = routed(&experts);
                    let mut wanted = store.request(layer, 1, &asked).unwrap();
                    if turn % 2 == 0 && layer < 2 {
                        wanted.guess(layer + 1, &some_experts(&mut random)[..2]);
                    }
                    if turn % 7 == 3 {
                        // A pass that is cancelled with its experts on the way.
                        continue;
                    }
                    compute(wanted, layer, &experts).unwrap();
                }
            }
            let paging = store.paging().snapshot();
            check_sums(&paging);
            assert!(paging.resident_bytes.unwrap() <= budget, "{paging:?}");
            if !store.is_whole() {
                assert!(paging.demand_bytes > 0, "{paging:?}");
                // Only what is read past the page cache is known to have come while a pass waited.
                assert_eq!(paging.stall_read_bytes > 0, paging.way.name == "direct", "{paging:?}");
                assert_eq!(paging.evicted_bytes > 0, budget < total, "{paging:?}");
            }
        }
    }
}

#[test]
fn a_batch_of_all_experts_reads_each_once_under_any_budget() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    let all: Vec<usize> = (0..N_EXPERTS).collect();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let total = store(&model, paging, 0).unwrap().total_bytes();
        for budget in [total / 10, total / 3] {
            let store = store(&model, paging, budget).unwrap();
            for _ in 0..2 {
                let before = store.paging().snapshot();
                for layer in 0..3 {
                    let keep = |&expert: &usize| if expert < 2 { Place::Hot } else { Place::Cold };
                    let asked: Vec<_> =
                        all.iter().map(|e| Routed { expert: *e, n_tokens: 5, place: keep(e) }).collect();
                    let mut wanted = store.request(layer, 20, &asked).unwrap();
                    if layer < 2 {
                        wanted.read_ahead(layer + 1);
                    }
                    compute(wanted, layer, &all).unwrap();
                }
                let after = store.paging().snapshot();
                check_sums(&after);
                let read = |p: &PagingSnapshot| p.demand_bytes + p.speculated_bytes;
                let file_bytes = after.requested_bytes - before.requested_bytes;
                assert!(read(&after) - read(&before) <= file_bytes, "{paging:?} {budget} of {total}: {after:?}");
            }
        }
    }
}

#[test]
fn a_sweep_makes_do_with_less_than_the_budget_until_the_next_token() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    let all: Vec<usize> = (0..N_EXPERTS).collect();
    let total = store(&model, PagingChoice::Direct, 0).unwrap().total_bytes();
    let store = store(&model, PagingChoice::Direct, total).unwrap();
    let sweep = |layer: usize, n_cold: usize| {
        let place = |expert: usize| if expert < n_cold { Place::Cold } else { Place::Hot };
        let asked: Vec<_> = all.iter().map(|&e| Routed { expert: e, n_tokens: 5, place: place(e) }).collect();
        let mut wanted = store.request(layer, 20, &asked).unwrap();
        if layer < 2 {
            wanted.read_ahead(layer + 1);
        }
        compute(wanted, layer, &all).unwrap();
    };
    store.lock().make_do_with(total / 2);
    // A layer and the next one, all of whose experts are on their way together here, have room in any case.
    let most = total - store.places.layer(2).slot_bytes * N_EXPERTS as u64;
    for layer in [0, 1, 2, 0, 1, 2] {
        sweep(layer, 12 - layer);
        let resident = store.paging().snapshot().resident_bytes.unwrap();
        assert!(resident <= most, "layer {layer}: {resident} of {total}");
    }
    let p = store.paging().snapshot();
    check_sums(&p);
    assert!(p.evicted_bytes > 0, "{p:?}");
    // A token may have the budget again, and so may the sweep after it.
    compute(store.request(0, 1, &routed(&[1])).unwrap(), 0, &[1]).unwrap();
    let evicted = store.paging().snapshot().evicted_bytes;
    (0..3).for_each(|layer| sweep(layer, 0));
    let p = store.paging().snapshot();
    assert_eq!((p.evicted_bytes, p.resident_bytes), (evicted, Some(total)));
}

#[test]
fn what_was_kept_of_a_batch_is_there_for_the_next_token() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    let all: Vec<usize> = (0..N_EXPERTS).collect();
    let total = store(&model, PagingChoice::Direct, 0).unwrap().total_bytes();
    let store = store(&model, PagingChoice::Direct, total / 2).unwrap();
    let place = |expert: usize| if expert % 4 == 1 { Place::Hot } else { Place::Cold };
    for layer in 0..3 {
        let asked: Vec<_> = all.iter().map(|&e| Routed { expert: e, n_tokens: 5, place: place(e) }).collect();
        compute(store.request(layer, 20, &asked).unwrap(), layer, &all).unwrap();
    }
    let before = store.paging().snapshot();
    for layer in 0..3 {
        compute(store.request(layer, 1, &routed(&[1, 5, 9])).unwrap(), layer, &[1, 5, 9]).unwrap();
    }
    let after = store.paging().snapshot();
    assert_eq!(after.demand_bytes, before.demand_bytes, "all three of each layer were there");
}

#[test]
fn guesses_are_used_or_wasted_and_never_awaited() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let total = store(&model, paging, 0).unwrap().total_bytes();
        let store = store(&model, paging, total / 2).unwrap();
        let experts = routed(&[3]);
        let mut wanted = store.request(0, 1, &experts).unwrap();
        wanted.guess(1, &[4, 5]);
        compute(wanted, 0, &[3]).unwrap();
        // Whether the disk was quick enough or not, one was right.
        compute(store.request(1, 1, &routed(&[5])).unwrap(), 1, &[5]).unwrap();
        let p = store.paging().snapshot();
        check_sums(&p);
        let expert_bytes = store.places.layer(1).expert_bytes;
        assert_eq!(p.speculated_used_bytes, expert_bytes, "{paging:?} {p:?}");
        assert_eq!(p.wasted_bytes, 0);
        store.set_budget(0);
        let p = store.paging().snapshot();
        assert!(p.speculated_bytes == expert_bytes || p.wasted_bytes == expert_bytes, "{paging:?} {p:?}");
        assert_eq!(p.resident_bytes, Some(0));
    }
}

#[test]
fn predictions_that_are_wrong_too_often_are_no_longer_read_until_they_are_right_again() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    let store = store(&model, PagingChoice::Direct, u64::MAX / 2).unwrap();
    let token = |predicted: &[usize], taken: &[usize]| {
        compute(store.request(0, 1, &routed(&[0])).unwrap(), 0, &[0]).unwrap();
        store.guess(1, predicted);
        compute(store.request(1, 1, &routed(taken)).unwrap(), 1, taken).unwrap();
        // All that came leaves, so that the next guess is read again.
        store.set_budget(0);
        store.set_budget(u64::MAX / 2);
    };
    assert!(store.wants_forecast());
    (0..600).for_each(|_| token(&[4, 5], &[6]));
    let wrong = store.paging().snapshot();
    check_sums(&wrong);
    (0..10).for_each(|_| token(&[4, 5], &[6]));
    assert_eq!(store.paging().snapshot().speculated_bytes, wrong.speculated_bytes, "nothing is guessed any more");
    assert!((0..20).any(|_| store.wants_forecast()) && (0..20).any(|_| !store.wants_forecast()), "but now and then");
    (0..600).for_each(|_| token(&[4, 5], &[4, 5]));
    let right = store.paging().snapshot();
    check_sums(&right);
    assert!(right.speculated_used_bytes > wrong.speculated_used_bytes, "{right:?}");
    assert_eq!((right.foreseen_experts, right.unforeseen_experts), (1200, 610));
}

#[test]
fn a_later_prediction_takes_the_place_of_an_earlier_one() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let total = store(&model, paging, 0).unwrap().total_bytes();
        let store = store(&model, paging, total / 2).unwrap();
        for round in 0..40 {
            let experts = routed(&[round % N_EXPERTS]);
            let mut wanted = store.request(0, 1, &experts).unwrap();
            wanted.guess(1, &[4, 5, 6]);
            compute(wanted, 0, &[round % N_EXPERTS]).unwrap();
            let late = [(round + 7) % N_EXPERTS, 4];
            store.guess(1, &late);
            let taken = [late[0], (round + 3) % N_EXPERTS];
            if taken[0] != taken[1] {
                compute(store.request(1, 1, &routed(&taken)).unwrap(), 1, &taken).unwrap();
            }
            check_sums(&store.paging().snapshot());
        }
        let p = store.paging().snapshot();
        assert!(p.speculated_used_bytes > 0, "{p:?}");
        store.set_budget(0);
        assert_eq!(store.paging().snapshot().resident_bytes, Some(0), "nothing is held for ever");
    }
}

#[test]
fn a_budget_below_one_expert_is_an_error_that_says_so() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let store = store(&model, paging, 1000).unwrap();
        let error = compute(store.request(0, 1, &routed(&[1, 2])).unwrap(), 0, &[1, 2]).unwrap_err().to_string();
        assert!(error.contains("budget of 1000 bytes"), "{error}");
        // With more memory the same store goes on.
        store.set_budget(1 << 20);
        compute(store.request(0, 1, &routed(&[1, 2])).unwrap(), 0, &[1, 2]).unwrap();
    }
}

#[test]
fn a_file_that_lost_its_end_fails_the_pass_and_harms_no_other_expert() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Direct, PagingChoice::Mapped] {
        let total = store(&model, PagingChoice::Mapped, 0).unwrap().total_bytes();
        let store = store(&model, paging, total / 2).unwrap();
        compute(store.request(0, 1, &routed(&[0])).unwrap(), 0, &[0]).unwrap();
        let end = store.places.ranges(ExpertId { layer: 2, expert: 11 })[2];
        let whole = end.offset + end.n_bytes;
        // More than a page: what is left of the last one reads as zeros.
        file.as_file().set_len(whole - end.n_bytes).unwrap();
        let error = compute(store.request(2, 1, &routed(&[1, 11])).unwrap(), 2, &[1, 11]).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{paging:?}: {error}");
        compute(store.request(0, 1, &routed(&[0, 3])).unwrap(), 0, &[0, 3]).unwrap();
        file.as_file().set_len(whole).unwrap();
    }
}

#[test]
fn direct_residency_is_told_as_it_changes() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    let layers: Vec<_> = (0..3)
        .map(|layer| {
            let tensor = |name: &str| model.gguf().tensor(&format!("{name}{layer}")).unwrap();
            Some(LayerExperts { gate: tensor("gate"), up: tensor("up"), down: tensor("down") })
        })
        .collect();
    let map = Arc::new(ExpertMap::new(3, N_EXPERTS));
    let options = ExpertOptions { paging: PagingChoice::Direct, budget: 100_000, room: Room::ForAll, n_used: N_USED };
    let store = ExpertStore::new(&model, &layers, options, Arc::clone(&map)).unwrap();
    assert_eq!(map.resident(1, 4), Some(0.0));
    compute(store.request(1, 1, &routed(&[4])).unwrap(), 1, &[4]).unwrap();
    assert_eq!((map.resident(1, 4), map.resident(1, 5)), (Some(1.0), Some(0.0)));
    store.set_budget(0);
    assert_eq!(map.resident(1, 4), Some(0.0));
}

#[test]
fn tensors_with_other_experts_than_the_gate_are_refused() {
    for (shapes, name) in [
        ([&[4, 6, 3][..], &[4, 6, 3], &[6, 4, 2]], "`down0`"),
        ([&[4, 6, 3], &[4, 6], &[6, 4, 3]], "`up0`"),
        ([&[4, 6], &[4, 6, 3], &[6, 4, 3]], "`gate0`"),
    ] {
        let mut bytes = Vec::new();
        write(&mut bytes, &[shapes]);
        let model = ModelFile::from_bytes(&bytes).unwrap();
        let error = store(&model, PagingChoice::Auto, u64::MAX).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor {name} has shape")), "{error}");
    }
}

#[test]
fn a_model_in_memory_cannot_be_read_directly_and_auto_maps_it() {
    let mut bytes = Vec::new();
    write(&mut bytes, &[[&[100, 90, 3], &[100, 90, 3], &[90, 100, 3]]]);
    let model = ModelFile::from_bytes(&bytes).unwrap();
    assert!(matches!(store(&model, PagingChoice::Direct, 50_000), Err(StoreError::InMemory)));
    let store = store(&model, PagingChoice::Auto, 50_000).unwrap();
    assert_eq!(store.paging().way.name, "mapped");
    assert!(store.paging().way.reason.contains("in memory"), "{}", store.paging().way.reason);
    for experts in [[0, 1], [1, 2], [2, 0]] {
        compute(store.request(0, 1, &routed(&experts)).unwrap(), 0, &experts).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn where_all_fit_what_is_requested_or_read_ahead_comes_in_without_being_touched() {
    let file = tempfile::NamedTempFile::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    write(file.as_file(), &[[&[1024, 1024, 3][..]; 3]; 2]);
    file.as_file().sync_all().unwrap();
    let model = ModelFile::open(&file).unwrap();
    let store = store(&model, PagingChoice::Auto, u64::MAX).unwrap();
    let resident = |layer, expert| -> Option<u64> {
        let ranges = store.places.ranges(ExpertId { layer, expert });
        ranges.iter().map(|&r| store.places.residency.resident_bytes(r)).sum()
    };
    let comes_in = |layer, expert| {
        let start = Instant::now();
        while resident(layer, expert) != Some(3 << 20) {
            assert!(start.elapsed() < Duration::from_secs(10), "only {:?} bytes came in", resident(layer, expert));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    if [0, 1].iter().any(|&layer| resident(layer, 2).is_none_or(|bytes| bytes > 0)) {
        println!("SKIP: this system does not say what is resident, or does not drop it");
        return;
    }
    drop(store.request(0, 1, &routed(&[2])).unwrap());
    comes_in(0, 2);
    assert_eq!(store.asked_bytes.load(Relaxed), 3 << 20);
    drop(store.request(0, 1, &routed(&[2])).unwrap());
    assert_eq!(store.asked_bytes.load(Relaxed), 3 << 20, "what is in memory is not asked for again");
    store.request(0, 20, &routed(&[2])).unwrap().read_ahead(1);
    (0..3).for_each(|expert| comes_in(1, expert));
    assert!(store.asked_bytes.load(Relaxed) <= 12 << 20);
}
