//! The cache against a plain list that looks at every expert, and policies against their definitions.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const SHAPES: [&[(u64, usize)]; 3] = [&[(10, 8)], &[(0, 8), (10, 5), (10, 5), (16, 4), (10, 5)], &[(7, 3), (9, 9)]];

fn cache(policy: Policy, shape: &[(u64, usize)], budget: u64) -> ExpertCache {
    let (slot_bytes, n_experts): (Vec<u64>, Vec<usize>) = shape.iter().copied().unzip();
    ExpertCache::new(policy, &slot_bytes, &n_experts, budget)
}

fn id(layer: u32, expert: u32) -> ExpertId {
    ExpertId { layer, expert }
}

#[derive(Debug, Clone)]
enum Step {
    Begin { layer: usize, n_tokens: usize },
    Demand { pick: usize, n_tokens: usize },
    Insert { pick: usize, place: Place },
    Remove { pick: usize },
    Pin { pick: usize },
    Unpin { pick: usize },
    SetPlace { pick: usize, place: Place },
    Budget { bytes: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = 0usize..1000;
    let place = prop_oneof![Just(Place::Hot), Just(Place::Cold)];
    let n_tokens = prop_oneof![4 => Just(1usize), 1 => 1usize..200];
    prop_oneof![
        2 => (pick.clone(), n_tokens.clone()).prop_map(|(layer, n_tokens)| Step::Begin { layer, n_tokens }),
        4 => (pick.clone(), n_tokens).prop_map(|(pick, n_tokens)| Step::Demand { pick, n_tokens }),
        6 => (pick.clone(), place.clone()).prop_map(|(pick, place)| Step::Insert { pick, place }),
        1 => pick.clone().prop_map(|pick| Step::Remove { pick }),
        2 => pick.clone().prop_map(|pick| Step::Pin { pick }),
        2 => pick.clone().prop_map(|pick| Step::Unpin { pick }),
        1 => (pick, place).prop_map(|(pick, place)| Step::SetPlace { pick, place }),
        1 => (0u64..250).prop_map(|bytes| Step::Budget { bytes }),
    ]
}

/// Everything in plain sight, every decision by looking at all residents.
struct Plain {
    policy: Policy,
    shape: Vec<(u64, usize)>,
    budget: u64,
    current: usize,
    steps: f64,
    clocks: Vec<(f64, f64)>,
    keys: HashMap<ExpertId, f64>,
    /// Place and pins.
    resident: HashMap<ExpertId, (Place, u32)>,
}

impl Plain {
    fn bytes<'i>(&self, ids: impl Iterator<Item = &'i ExpertId>) -> u64 {
        ids.map(|id| self.shape[id.layer as usize].0).sum()
    }

    fn used(&self) -> u64 {
        self.bytes(self.resident.keys())
    }

    fn pinned(&self) -> u64 {
        self.bytes(self.resident.iter().filter(|(_, (_, pins))| *pins > 0).map(|(id, _)| id))
    }

    fn victim(&self, class: Option<u64>) -> Option<ExpertId> {
        let n_layers = self.shape.len();
        let rank = |&id: &ExpertId, place: Place| {
            let layer = id.layer as usize;
            let passed = ((self.current + n_layers - layer) % n_layers) as f64 / n_layers as f64;
            let key = self.keys.get(&id).copied().unwrap_or(self.policy.unused());
            (place, self.policy.worth(key, self.clocks[layer].0, passed), id.layer, key, id.expert)
        };
        let free = || self.resident.iter().filter(|(_, (_, pins))| *pins == 0).map(|(id, (place, _))| rank(id, *place));
        let least = |same: bool| {
            let among = free().filter(|r| (class == Some(self.shape[r.2 as usize].0)) == same);
            // Within a layer by key, which orders even what rounds to one worth.
            among.min_by(|a, b| {
                let within = (a.0, a.3, a.4).partial_cmp(&(b.0, b.3, b.4)).unwrap();
                if a.2 == b.2 { within } else { (a.0, a.1, a.2).partial_cmp(&(b.0, b.1, b.2)).unwrap() }
            })
        };
        let chosen = match (least(false), least(true)) {
            (Some(other), Some(same)) => {
                let apart = self.policy.tokens_apart(other.1, same.1) > CLASS_PREFERENCE;
                if other.0 < same.0 || other.0 == same.0 && apart { other } else { same }
            }
            (other, same) => same.or(other)?,
        };
        Some(id(chosen.2, chosen.4))
    }

    fn evict_to(&mut self, bytes: u64, class: Option<u64>) -> Vec<ExpertId> {
        let mut evicted = Vec::new();
        while self.used() > bytes {
            let Some(id) = self.victim(class) else { break };
            self.resident.remove(&id);
            evicted.push(id);
        }
        evicted
    }
}

fn agree(policy: Policy, shape: &[(u64, usize)], budget: u64, steps: &[Step]) {
    let mut cache = cache(policy, shape, budget);
    let mut plain = Plain {
        policy,
        shape: shape.to_vec(),
        budget,
        current: 0,
        steps: 0.0,
        clocks: vec![(0.0, 0.0); shape.len()],
        keys: HashMap::new(),
        resident: HashMap::new(),
    };
    let all: Vec<ExpertId> = (0..shape.len() as u32)
        .flat_map(|layer| (0..shape[layer as usize].1 as u32).map(move |expert| id(layer, expert)))
        .filter(|id| shape[id.layer as usize].0 > 0)
        .collect();
    for step in steps {
        let (mut evicted, mut expected) = (Vec::new(), Vec::new());
        let chosen = |pick: usize| all[pick % all.len()];
        match *step {
            Step::Begin { layer, n_tokens } => {
                let layer = layer % shape.len();
                cache.begin_layer(layer, n_tokens);
                plain.current = layer;
                plain.steps += n_tokens as f64;
                plain.clocks[layer] = (plain.clocks[layer].0 + n_tokens as f64, n_tokens as f64);
            }
            Step::Demand { pick, n_tokens } => {
                let id = chosen(pick);
                let (clock, batch) = plain.clocks[id.layer as usize];
                if batch == 0.0 {
                    continue;
                }
                let n_tokens = n_tokens.min(batch as usize);
                assert_eq!(cache.demand(id, n_tokens), plain.resident.contains_key(&id));
                let moment = policy::Moment {
                    steps: plain.steps,
                    n_layers: shape.len() as f64,
                    clock,
                    batch,
                    n_tokens: n_tokens as f64,
                };
                let key = plain.keys.entry(id).or_insert(policy.unused());
                *key = policy.used(*key, &moment);
                plain.resident.entry(id).and_modify(|(place, _)| *place = Place::Hot);
            }
            Step::Insert { pick, place } => {
                let id = chosen(pick);
                if plain.resident.contains_key(&id) {
                    continue;
                }
                let wanted = shape[id.layer as usize].0;
                let inserted = cache.insert(id, place, &mut evicted);
                assert_eq!(inserted.is_ok(), plain.pinned() + wanted <= plain.budget, "{inserted:?}");
                if inserted.is_ok() {
                    expected = plain.evict_to(plain.budget - wanted, Some(wanted));
                    plain.resident.insert(id, (place, 0));
                    assert!(cache.used_bytes() <= plain.budget);
                }
            }
            Step::Remove { pick } => {
                let id = chosen(pick);
                if plain.resident.get(&id).is_some_and(|(_, pins)| *pins == 0) {
                    cache.remove(id);
                    plain.resident.remove(&id);
                }
            }
            Step::Pin { pick } => {
                if let Some((_, pins)) = plain.resident.get_mut(&chosen(pick)) {
                    cache.pin(chosen(pick));
                    *pins += 1;
                }
            }
            Step::Unpin { pick } => {
                if let Some((_, pins)) = plain.resident.get_mut(&chosen(pick)).filter(|(_, pins)| *pins > 0) {
                    cache.unpin(chosen(pick));
                    *pins -= 1;
                }
            }
            Step::SetPlace { pick, place } => {
                if let Some(found) = plain.resident.get_mut(&chosen(pick)) {
                    cache.set_place(chosen(pick), place);
                    found.0 = place;
                }
            }
            Step::Budget { bytes } => {
                cache.set_budget(bytes, &mut evicted);
                plain.budget = bytes;
                expected = plain.evict_to(bytes, None);
                assert!(cache.used_bytes() <= bytes.max(plain.pinned()));
            }
        }
        assert_eq!(evicted, expected, "{step:?}");
        assert_eq!(cache.used_bytes(), plain.used());
        let resident: HashSet<ExpertId> = cache.resident().collect();
        assert_eq!(resident, plain.resident.keys().copied().collect());
        let slots: HashSet<(usize, u32)> =
            resident.iter().map(|&id| (cache.class(id.layer as usize), cache.slot(id).unwrap())).collect();
        assert_eq!(slots.len(), resident.len(), "no two experts share a slot");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn every_policy_decides_as_a_plain_list_does(
        policy in proptest::sample::select(Policy::all()),
        shape in proptest::sample::select(&SHAPES[..]),
        budget in 0u64..250,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        agree(policy, shape, budget, &steps);
    }
}

/// Demands the experts of one token a layer as a store does; gives the hits.
fn token(cache: &mut ExpertCache, experts: &[&[u32]]) -> usize {
    let mut hits = 0;
    for (layer, demanded) in experts.iter().enumerate() {
        cache.begin_layer(layer, 1);
        let ids = demanded.iter().map(|&expert| id(layer as u32, expert));
        for id in ids.clone() {
            if cache.demand(id, 1) {
                hits += 1;
                cache.pin(id);
            }
        }
        for id in ids.clone() {
            if !cache.contains(id) {
                cache.insert(id, Place::Hot, &mut Vec::new()).unwrap();
                cache.pin(id);
            }
        }
        ids.for_each(|id| cache.unpin(id));
    }
    hits
}

#[test]
fn below_a_tokens_working_set_lru_never_hits_and_the_default_hits_nearly_as_often_as_is_possible() {
    // Four layers, the same two experts for every token, room for six of the eight.
    let experts: [&[u32]; 4] = [&[0, 1], &[2, 3], &[1, 2], &[0, 3]];
    let hits = |policy| {
        let mut cache = cache(policy, &[(10, 4); 4], 60);
        (0..15).map(|_| token(&mut cache, &experts)).skip(1).sum::<usize>()
    };
    assert_eq!(hits(Policy::Lru), 0);
    // Of 112 demands no order of leaving makes more than 80 hits.
    assert_eq!(hits(Policy::LeastStale), 76);
    assert!(hits(Policy::default()) >= 76);
}

#[test]
fn lru_evicts_the_one_used_the_longest_ago_and_lfu_the_one_used_least() {
    let order = |policy| {
        let mut cache = cache(policy, &[(10, 4)], 40);
        for expert in [0u32, 0, 0, 1, 2, 2, 3] {
            token(&mut cache, &[&[expert]]);
        }
        let mut evicted = Vec::new();
        cache.set_budget(0, &mut evicted);
        evicted.iter().map(|id| id.expert).collect::<Vec<_>>()
    };
    assert_eq!(order(Policy::Lru), [0, 1, 2, 3]);
    assert_eq!(order(Policy::Lfu), [1, 3, 2, 0]);
    assert_eq!(order(Policy::Lrfu { half_life: 1.0 }), [0, 1, 2, 3]);
    assert_eq!(order(Policy::Lrfu { half_life: 1e6 }), [1, 3, 2, 0]);
}

#[test]
fn cold_experts_leave_first_until_they_are_demanded() {
    let mut cache = cache(Policy::Lru, &[(10, 4)], 20);
    cache.begin_layer(0, 1);
    let mut evicted = Vec::new();
    cache.insert(id(0, 0), Place::Hot, &mut evicted).unwrap();
    cache.insert(id(0, 1), Place::Cold, &mut evicted).unwrap();
    cache.insert(id(0, 2), Place::Cold, &mut evicted).unwrap();
    assert_eq!(evicted, [id(0, 1)]);
    assert!(cache.demand(id(0, 2), 1));
    cache.insert(id(0, 3), Place::Hot, &mut evicted).unwrap();
    assert_eq!(evicted, [id(0, 1), id(0, 0)]);
}

#[test]
fn a_slot_is_filled_in_place_where_sizes_are_equal_and_the_wait_is_about_the_same() {
    let mut cache = cache(Policy::LeastStale, &[(10, 2), (10, 2), (16, 2)], 26);
    token(&mut cache, &[&[], &[0], &[0]]);
    let slot = cache.slot(id(1, 0)).unwrap();
    cache.begin_layer(0, 1);
    let mut evicted = Vec::new();
    // Layer 2 waits longer than layer 1 by a third of a token, and is of another size.
    assert_eq!(cache.insert(id(0, 1), Place::Hot, &mut evicted), Ok(slot));
    assert_eq!(evicted, [id(1, 0)]);
}

#[test]
fn pinned_experts_stay_and_a_budget_they_fill_is_refused_with_the_numbers() {
    let mut cache = cache(Policy::Lru, &[(10, 4)], 20);
    let mut evicted = Vec::new();
    for expert in 0..2 {
        cache.insert(id(0, expert), Place::Hot, &mut evicted).unwrap();
        cache.pin(id(0, expert));
    }
    let error = cache.insert(id(0, 2), Place::Hot, &mut evicted).unwrap_err();
    assert_eq!(error, NoRoom { budget: 20, pinned: 20, wanted: 10 });
    cache.set_budget(5, &mut evicted);
    assert!(evicted.is_empty());
    cache.unpin(id(0, 1));
    cache.set_budget(10, &mut evicted);
    assert_eq!(evicted, [id(0, 1)]);
}

#[test]
fn in_a_sweep_what_was_computed_leaves_before_what_the_next_layers_want() {
    let fill = || {
        let mut cache = cache(Policy::default(), &[(10, 2), (10, 2), (10, 2)], 40);
        let mut evicted = Vec::new();
        // Nobody has asked for these: they were read ahead.
        (1..3).for_each(|layer| assert!(cache.insert(id(layer, 0), Place::Cold, &mut evicted).is_ok()));
        cache.begin_layer(0, 9);
        cache.note_routed(2);
        for expert in 0..2 {
            cache.demand(id(0, expert), 9);
            cache.insert(id(0, expert), Place::Cold, &mut evicted).unwrap();
            cache.pin(id(0, expert));
        }
        cache.unpin(id(0, 0));
        (cache, evicted)
    };
    let (mut cache, mut evicted) = fill();
    cache.insert(id(1, 1), Place::Cold, &mut evicted).unwrap();
    assert_eq!(evicted, [id(0, 0)]);
    let (mut cache, mut evicted) = fill();
    cache.note_routed(1);
    cache.insert(id(1, 1), Place::Cold, &mut evicted).unwrap();
    assert_ne!(evicted, [id(0, 0)], "without a sweep what was never used leaves");
}

#[test]
fn a_sweep_fills_slots_of_the_size_it_needs_so_that_memory_need_not_be_taken_anew() {
    let mut cache = cache(Policy::default(), &[(10, 2), (10, 2), (16, 2), (10, 2)], 26);
    let mut evicted = Vec::new();
    cache.insert(id(0, 0), Place::Cold, &mut evicted).unwrap();
    cache.insert(id(2, 0), Place::Cold, &mut evicted).unwrap();
    cache.begin_layer(2, 9);
    cache.note_routed(2);
    let slot = cache.slot(id(0, 0)).unwrap();
    assert_eq!(cache.insert(id(3, 0), Place::Cold, &mut evicted), Ok(slot));
    assert_eq!(evicted, [id(0, 0)]);
}

#[test]
fn a_limit_below_the_budget_is_kept_where_experts_may_leave_in_slots_of_their_size() {
    let mut cache = cache(Policy::Lru, &[(10, 4), (16, 4)], 100);
    let mut evicted = Vec::new();
    cache.insert(id(0, 0), Place::Hot, &mut evicted).unwrap();
    cache.insert(id(1, 0), Place::Cold, &mut evicted).unwrap();
    cache.set_limit(26);
    assert!(cache.is_limited() && evicted.is_empty());
    let slot = cache.slot(id(0, 0)).unwrap();
    assert_eq!(cache.insert(id(0, 1), Place::Hot, &mut evicted), Ok(slot), "though a cold one was there");
    assert_eq!(evicted, [id(0, 0)]);
    // Who may not leave does not keep others from coming, up to the budget.
    (0..2).for_each(|layer| cache.pin(id(layer, 1 - layer)));
    cache.insert(id(0, 2), Place::Hot, &mut evicted).unwrap();
    assert_eq!((cache.used_bytes(), evicted.len()), (36, 1));
    cache.set_limit(u64::MAX);
    assert!(!cache.is_limited());
    cache.insert(id(0, 3), Place::Hot, &mut evicted).unwrap();
    assert_eq!((cache.used_bytes(), evicted.len()), (46, 1));
}

#[test]
fn tokens_of_a_batch_count_like_as_many_tokens_one_at_a_time() {
    for policy in Policy::all() {
        let mut single = cache(policy, &[(10, 3)], 30);
        for expert in [0u32, 1].repeat(50) {
            token(&mut single, &[&[expert, 2]]);
        }
        let mut batch = cache(policy, &[(10, 3)], 30);
        batch.begin_layer(0, 100);
        for (expert, n_tokens) in [(0, 50), (1, 50), (2, 100)] {
            batch.demand(id(0, expert), n_tokens);
            batch.insert(id(0, expert), Place::Hot, &mut Vec::new()).unwrap();
        }
        let last_to_leave = |mut cache: ExpertCache| {
            let mut evicted = Vec::new();
            cache.set_budget(0, &mut evicted);
            evicted.last().copied()
        };
        assert_eq!(last_to_leave(single), Some(id(0, 2)), "{policy}");
        assert_eq!(last_to_leave(batch), Some(id(0, 2)), "{policy}");
    }
}

#[test]
fn names_of_policies_are_read_as_they_are_written() {
    for policy in Policy::all() {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    for text in ["", "fifo", "lru:3", "lrfu:0", "lrfu:x", "lrfu:inf", "longest-wait:-1", "lrfu:NaN"] {
        assert!(text.parse::<Policy>().is_err(), "{text}");
    }
}
