//! Experts that a person pins, and those that are read before anybody asks for any.

use super::tests::{N_EXPERTS, N_USED, check_sums, compute, routed, some_experts, store, three_layers};
use super::*;

#[test]
fn a_pinned_expert_stays_through_everything_until_it_is_let_go() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let total = store(&model, paging, 0).unwrap().total_bytes();
        let store = store(&model, paging, total / 2).unwrap();
        let mut random = 5;
        let mut turns = |n: usize, pinned: &[(usize, usize)]| {
            for turn in 0..n {
                for layer in 0..3 {
                    let experts = some_experts(&mut random);
                    let asked = routed(&experts);
                    let mut wanted = store.request(layer, 1, &asked).unwrap();
                    for &(_, expert) in pinned.iter().filter(|p| p.0 == layer && experts.contains(&p.1)) {
                        // What was read on the person's word may still be on its way the first time.
                        assert!(turn < 2 || wanted.found(expert) == Found::InMemory, "{paging:?} {turn}");
                    }
                    if layer < 2 {
                        wanted.guess(layer + 1, &some_experts(&mut random));
                    }
                    if turn % 5 == 3 {
                        continue;
                    }
                    compute(wanted, layer, &experts).unwrap();
                }
                if turn % 10 == 0 {
                    // A prompt takes all experts of a layer.
                    let all: Vec<usize> = (0..N_EXPERTS).collect();
                    compute(store.request(1, 40, &routed(&all)).unwrap(), 1, &all).unwrap();
                }
                let used = store.lock().cache().used_bytes();
                assert!(used <= store.budget());
            }
            for &(layer, expert) in pinned {
                let id = ExpertId { layer: layer as u32, expert: expert as u32 };
                assert!(store.lock().cache().contains(id), "{paging:?}: {id:?}");
            }
        };
        turns(10, &[]);
        let pinned = [(0, 3), (1, 11), (2, 0), (1, 4)];
        for (layer, expert) in pinned {
            store.pin(layer, expert, true).unwrap();
            store.pin(layer, expert, true).unwrap();
        }
        let bytes = store.paging().snapshot().pinned_bytes.unwrap();
        assert!(bytes > 0 && bytes < total / 2, "{bytes} of {total}");
        turns(100, &pinned);
        // As much as leaves a token its room, and no more.
        let refused = (0..N_EXPERTS).find_map(|expert| store.pin(1, expert, true).err());
        assert!(matches!(refused, Some(PinError::NoRoom { .. })), "{refused:?}");
        turns(40, &pinned);
        for (layer, expert) in (0..3).flat_map(|layer| (0..N_EXPERTS).map(move |expert| (layer, expert))) {
            store.pin(layer, expert, false).unwrap();
        }
        turns(40, &[]);
        let p = store.paging().snapshot();
        assert_eq!((p.pinned_bytes, store.paging().unpinned_experts.get()), (Some(0), 0));
        check_sums(&p);
    }
}

#[test]
fn pinned_experts_give_way_to_a_smaller_budget_the_last_ones_first() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let total = store(&model, paging, 0).unwrap().total_bytes();
        let store = store(&model, paging, total / 2).unwrap();
        let token = total / N_EXPERTS as u64 * N_USED as u64;
        store.pin(0, 1, true).unwrap();
        store.pin(0, 2, true).unwrap();
        let pinned = || (store.paging().snapshot().pinned_bytes.unwrap(), store.paging().unpinned_experts.get());
        let one = pinned().0 / 2;
        store.set_budget(token + one + one / 2);
        assert_eq!(pinned(), (one, 1));
        // The first one is still there to be let go.
        store.pin(0, 2, false).unwrap();
        assert_eq!(pinned(), (one, 1));
        store.set_budget(token);
        assert_eq!(pinned(), (0, 2));
        compute(store.request(0, 1, &routed(&[1, 2, 3])).unwrap(), 0, &[1, 2, 3]).unwrap();
    }
}

#[test]
fn what_cannot_be_pinned_is_refused_with_the_reason() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    let whole = store(&model, PagingChoice::Auto, u64::MAX).unwrap();
    assert_eq!(whole.pin(0, 0, true), Err(PinError::AllFit));
    for (layer, expert) in [(3, 0), (0, N_EXPERTS), (usize::MAX, usize::MAX)] {
        assert_eq!(whole.pin(layer, expert, true), Err(PinError::Unknown { layer, expert }));
    }
    assert_eq!(whole.pin(0, 0, false), Ok(()));
    let small = store(&model, PagingChoice::Direct, whole.total_bytes() / 5).unwrap();
    let told = small.pin(0, 0, true).unwrap_err().to_string();
    assert!(told.contains("no room to pin more") && told.contains("1 MiB"), "{told}");
}

#[test]
fn before_anybody_asks_as_many_are_read_as_have_room_and_none_leaves_for_them() {
    let file = three_layers();
    let model = ModelFile::open(file.path()).unwrap();
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let total = store(&model, paging, 0).unwrap().total_bytes();
        let stopped = store(&model, paging, total / 2).unwrap();
        stopped.warm(|| true);
        assert_eq!(stopped.lock().cache().used_bytes(), 0);
        let store = store(&model, paging, total / 2).unwrap();
        compute(store.request(1, 1, &routed(&[11, 10])).unwrap(), 1, &[11, 10]).unwrap();
        store.warm(|| false);
        let p = store.paging().snapshot();
        let used = store.lock().cache().used_bytes();
        assert!(
            used <= store.budget() && used > store.budget() - total / 20,
            "{paging:?}: {used} of {}",
            store.budget()
        );
        assert_eq!((p.evicted_bytes, p.wasted_bytes), (0, 0));
        // Some of every layer, with their own bytes, and no reading.
        for layer in 0..3 {
            compute(store.request(layer, 1, &routed(&[0, 1, 2])).unwrap(), layer, &[0, 1, 2]).unwrap();
        }
        let after = store.paging().snapshot();
        assert_eq!((after.demand_bytes, after.evicted_bytes), (p.demand_bytes, 0), "{paging:?}");
        check_sums(&after);
    }
}
