//! Replays whose outcome can be counted by hand.

use proptest::prelude::*;

use super::super::trace::LayerShape;
use super::*;

/// A trace of the experts of every layer of every pass.
fn replay(n_experts: u32, slot_bytes: u64, passes: &[Vec<Vec<u32>>]) -> Replay {
    let layers = vec![LayerShape { n_experts, slot_bytes }; passes[0].len()];
    let mut replay = Replay {
        shape: Shape { name: "test".into(), n_used: 2, dense_bytes: 0, layers },
        passes: Vec::new(),
        visits: Vec::new(),
        demands: Vec::new(),
        next: Vec::new(),
        cut_off: false,
    };
    for pass in passes {
        replay.passes.push(TracedPass { n_tokens: 1, first: replay.visits.len() });
        for (layer, experts) in pass.iter().enumerate() {
            replay.visits.push(Visit { layer: layer as u32, first: replay.demands.len() });
            replay.demands.extend(experts.iter().map(|&expert| Demand { expert, n_tokens: 1 }));
        }
    }
    replay.next = replay.next_uses();
    replay
}

fn total(outcome: &ReplayOutcome) -> Counts {
    outcome.cold.generate.plus(outcome.warm.generate)
}

/// The fewest misses any order of leaving can reach, by trying all: one expert a demand, so nothing is pinned.
fn fewest_misses(demands: &[u32], resident: &mut Vec<u32>, room: usize) -> u64 {
    let Some((first, rest)) = demands.split_first() else { return 0 };
    if resident.contains(first) {
        return fewest_misses(rest, resident, room);
    }
    let mut best = u64::MAX;
    if resident.len() < room {
        resident.push(*first);
        best = fewest_misses(rest, resident, room);
        resident.pop();
    } else {
        for i in 0..room {
            let left = std::mem::replace(&mut resident[i], *first);
            best = best.min(fewest_misses(rest, resident, room));
            resident[i] = left;
        }
    }
    best + 1
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_optimum_is_what_trying_everything_finds_and_no_policy_beats_it(
        demands in prop::collection::vec(0u32..5, 1..12),
        room in 1usize..4,
    ) {
        let passes: Vec<_> = demands.iter().map(|&expert| vec![vec![expert]]).collect();
        let replay = replay(5, 10, &passes);
        let misses = |rule| {
            let counts = total(&replay.run(rule, 10 * room as u64));
            assert_eq!(counts.read_bytes, 10 * (counts.demands - counts.hits));
            assert_eq!((counts.tokens, counts.demands), (demands.len() as u64, demands.len() as u64));
            counts.demands - counts.hits
        };
        let fewest = fewest_misses(&demands, &mut Vec::new(), room);
        prop_assert_eq!(misses(Rule::Optimal), fewest);
        for policy in Policy::all() {
            prop_assert!(misses(Rule::Online(policy, Scope::Global)) >= fewest, "{}", policy);
        }
    }

    #[test]
    fn with_room_for_all_every_expert_is_read_once_whatever_the_rule(
        passes in prop::collection::vec(
            prop::collection::vec(prop::collection::btree_set(0u32..9, 1..4), 3..4), 1..20),
    ) {
        let passes: Vec<Vec<Vec<u32>>> =
            passes.into_iter().map(|p| p.into_iter().map(|l| l.into_iter().collect()).collect()).collect();
        let replay = replay(9, 7, &passes);
        let all = replay.shape().expert_bytes();
        let mut different: Vec<(usize, u32)> =
            passes.iter().flat_map(|p| p.iter().enumerate().flat_map(|(l, e)| e.iter().map(move |&e| (l, e)))).collect();
        different.sort_unstable();
        different.dedup();
        let policies = Policy::all().into_iter().flat_map(|p| [Scope::Global, Scope::PerLayer].map(|s| Rule::Online(p, s)));
        for rule in policies.chain([Rule::Optimal]) {
            let outcome = replay.run(rule, all);
            prop_assert_eq!(outcome.cold.generate.read_bytes, 7 * different.len() as u64, "{:?}", rule);
            prop_assert_eq!(&outcome.warm, &Phase::default());
            let layers = outcome.layers.iter().map(|c| c.read_bytes).sum::<u64>();
            prop_assert_eq!(layers, outcome.cold.generate.read_bytes);
        }
    }
}

#[test]
fn a_budget_smaller_than_one_layers_demand_still_computes_and_reads_all_of_it() {
    let passes = vec![vec![vec![0, 1, 2, 3]]; 3];
    let replay = replay(4, 10, &passes);
    for rule in [Rule::Optimal, Rule::Online(Policy::default(), Scope::Global)] {
        assert_eq!(total(&replay.run(rule, 0)), Counts { tokens: 3, demands: 12, hits: 0, read_bytes: 120 });
        let some = total(&replay.run(rule, 20));
        assert_eq!(some.read_bytes, 120 - 10 * some.hits, "{rule:?}");
    }
}

#[test]
fn a_layers_own_part_is_whole_slots_and_all_parts_are_within_the_budget() {
    let layers =
        [(8, 10), (0, 0), (8, 15), (4, 10)].map(|(n_experts, slot_bytes)| LayerShape { n_experts, slot_bytes });
    let shape = Shape { layers: layers.to_vec(), ..Shape::default() };
    for budget in 0..=shape.expert_bytes() + 20 {
        let parts = parts(&shape, budget);
        assert!(parts.iter().sum::<u64>() <= budget);
        assert!(parts.iter().zip(&layers).all(|(p, l)| l.slot_bytes == 0 && *p == 0 || p % l.slot_bytes == 0));
    }
    assert_eq!(parts(&shape, 240), [80, 0, 120, 40]);
}
