//! A recorded trace as an engine that the panel can watch: passes and a position in, the same counters and maps out that a
//! running engine writes. Times are those recorded. What is in memory is what the store's bookkeeping makes of a budget
//! that is given; without one it is unknown.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crate::store::{self, Demand, ExpertCache, LayerRecord, Pass, Policy, Shape, TraceError, TraceReader};
use crate::telemetry::{Choice, ExpertMap, Found, Paging, PagingWay, Snapshot, Telemetry, TokenCost, TokenLog};

/// Uses of experts that are held in memory: 96 MB of them, their weights included.
const MAX_DEMANDS: usize = 8 << 20;
/// Tokens over which a speed is taken.
const SPEED_TOKENS: usize = 16;

#[derive(Debug)]
pub struct Player {
    shape: Shape,
    passes: Vec<Pass>,
    /// When each pass ends.
    ends: Vec<Duration>,
    /// Bytes that experts may take.
    budget: Option<u64>,
    at: Duration,
    /// Passes that are over.
    n_done: usize,
    state: State,
}

/// What the passes so far have made.
#[derive(Debug)]
struct State {
    telemetry: Telemetry,
    map: Arc<ExpertMap>,
    tokens: Arc<TokenLog>,
    paging: Arc<Paging>,
    cache: Option<ExpertCache>,
    read_bytes: u64,
}

impl Player {
    /// Reads a trace to its end. `budget`: bytes of experts.
    ///
    /// # Errors
    /// What is wrong with it, or that it is too long.
    pub fn read(mut reader: TraceReader<impl Read>, budget: Option<u64>) -> Result<Player, TraceError> {
        let shape = reader.shape().clone();
        let (mut passes, mut ends, mut n_demands, mut end) = (Vec::new(), Vec::new(), 0, Duration::ZERO);
        while let Some(pass) = reader.next_pass()? {
            n_demands +=
                pass.layers.iter().map(|layer| 1 + layer.demanded.len() + layer.predicted.len()).sum::<usize>();
            if n_demands + passes.len() > MAX_DEMANDS {
                return Err(TraceError::TooLong { max_demands: MAX_DEMANDS });
            }
            end = end.saturating_add(Duration::from_micros(pass.wall_us));
            ends.push(end);
            passes.push(pass);
        }
        let state = State::new(&shape, budget);
        Ok(Player { shape, passes, ends, budget, at: Duration::ZERO, n_done: 0, state })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn budget(&self) -> Option<u64> {
        self.budget
    }

    pub fn at(&self) -> Duration {
        self.at
    }

    pub fn length(&self) -> Duration {
        self.ends.last().copied().unwrap_or_default()
    }

    pub fn n_passes(&self) -> usize {
        self.passes.len()
    }

    pub fn n_done(&self) -> usize {
        self.n_done
    }

    pub fn is_over(&self) -> bool {
        self.at >= self.length()
    }

    /// Goes to a time: on from here, or from the beginning where it lies before. `true`: everything began anew.
    pub fn seek(&mut self, to: Duration) -> bool {
        let back = to < self.at;
        if back {
            (self.state, self.n_done) = (State::new(&self.shape, self.budget), 0);
        }
        self.at = to.min(self.length());
        while self.ends.get(self.n_done).is_some_and(|&end| end <= self.at) {
            let speed = self.speed_after(self.n_done);
            self.state.apply(&self.shape, &self.passes[self.n_done], self.ends[self.n_done], speed);
            self.n_done += 1;
        }
        self.show_pass_at_hand();
        back
    }

    /// To the end of the pass at hand.
    pub fn step(&mut self) {
        if let Some(&end) = self.ends.get(self.n_done) {
            self.seek(end);
        }
    }

    /// To the end of the pass before the last one. `true`: everything began anew.
    pub fn step_back(&mut self) -> bool {
        let to = self.n_done.checked_sub(2).map_or(Duration::ZERO, |before| self.ends[before]);
        self.seek(to)
    }

    pub fn snapshot(&self) -> Snapshot {
        self.state.telemetry.snapshot()
    }

    /// Tokens a second of the tokens up to a pass, where it is one.
    fn speed_after(&self, pass: usize) -> Option<f64> {
        let tokens = self.passes[..=pass].iter().rev().take_while(|pass| pass.n_tokens == 1).take(SPEED_TOKENS);
        let (n, micros) = tokens.fold((0, 0), |(n, sum), pass| (n + 1, sum + u128::from(pass.wall_us)));
        (micros > 0).then(|| f64::from(n) * 1e6 / micros as f64)
    }

    /// How far a pass of a prompt has come: passes are recorded whole, so that this is its share of the time.
    fn show_pass_at_hand(&self) {
        let t = &self.state.telemetry;
        let began = self.n_done.checked_sub(1).map_or(Duration::ZERO, |last| self.ends[last]);
        let Some(pass) = self.passes.get(self.n_done).filter(|pass| pass.n_tokens > 1 && pass.wall_us > 0) else {
            t.prompt_done.clear();
            t.prompt_total.clear();
            t.layer.clear();
            return;
        };
        let share = self.at.saturating_sub(began).as_secs_f64() / Duration::from_micros(pass.wall_us).as_secs_f64();
        let share = share.clamp(0.0, 1.0);
        t.prompt_total.set(pass.n_tokens.into());
        t.prompt_done.set((share * f64::from(pass.n_tokens)) as u64);
        let n_layers = self.shape.layers.len() as u64;
        t.layer.set(((share * n_layers as f64) as u64).min(n_layers.saturating_sub(1)));
    }
}

impl State {
    fn new(shape: &Shape, budget: Option<u64>) -> State {
        let n_layers = shape.layers.len();
        let n_experts = shape.layers.iter().map(|layer| layer.n_experts as usize).max().unwrap_or(0);
        let map = Arc::new(ExpertMap::new(n_layers, n_experts.max(1)));
        let tokens = Arc::new(TokenLog::new(n_layers, shape.n_used as usize));
        let policy = Policy::default();
        let reason = match budget {
            Some(_) => format!("memory by the store's own rule, {policy}"),
            None => "what was in memory is not in a trace".to_owned(),
        };
        let paging = Arc::new(Paging::new(PagingWay { name: "replayed", reason }, shape.expert_bytes(), n_layers));
        let cache = budget.map(|budget| {
            let slot_bytes: Vec<u64> = shape.layers.iter().map(|layer| layer.slot_bytes).collect();
            let n_experts: Vec<usize> = shape.layers.iter().map(|layer| layer.n_experts as usize).collect();
            for (layer, &n_experts) in n_experts.iter().enumerate() {
                (0..n_experts).for_each(|expert| map.set_resident(layer, expert, Some(0.0)));
            }
            paging.budget_bytes.set(budget);
            paging.resident_bytes.set(0);
            ExpertCache::new(policy, &slot_bytes, &n_experts, budget)
        });
        let telemetry = Telemetry::default();
        telemetry.set_experts(Some(Arc::clone(&map)));
        telemetry.set_tokens(Some(Arc::clone(&tokens)));
        telemetry.set_paging((shape.expert_bytes() > 0).then(|| Arc::clone(&paging)));
        telemetry.file_bytes.set(shape.dense_bytes.saturating_add(shape.expert_bytes()));
        if let Some(budget) = budget {
            telemetry.memory_total.set(budget.saturating_add(shape.dense_bytes));
        }
        State { telemetry, map, tokens, paging, cache, read_bytes: 0 }
    }

    /// A pass is over, at `end`.
    fn apply(&mut self, shape: &Shape, pass: &Pass, end: Duration, speed: Option<f64>) {
        let single = pass.n_tokens == 1;
        self.telemetry.ticks.add(1);
        let tick = self.telemetry.ticks.get();
        if single {
            self.tokens.begin();
        }
        let (mut stall, mut read_bytes, mut counted) = (Duration::ZERO, 0_u64, false);
        for record in &pass.layers {
            let layer = record.layer as usize;
            let slot_bytes = shape.layers[layer].slot_bytes;
            let found = self.serve(layer, pass, slot_bytes, &record.demanded);
            for demand in &record.demanded {
                self.map.mark_used(layer, demand.expert as usize, tick, demand.n_tokens.into());
            }
            if single {
                self.tokens.choose(layer, ranked(record, &found).into_iter());
                if !record.predicted.is_empty() {
                    let foreseen = record.demanded.iter().filter(|d| record.predicted.contains(&d.expert)).count();
                    self.paging.foreseen_experts.add(foreseen as u64);
                    self.paging.unforeseen_experts.add((record.demanded.len() - foreseen) as u64);
                }
            }
            if let Some(cost) = record.cost {
                if single {
                    self.tokens.end_layer(layer, cost);
                }
                self.paging.add_compute(layer, cost.compute);
                if let Some((more, bytes)) = cost.stall.zip(cost.read_bytes) {
                    counted = true;
                    stall = stall.saturating_add(more);
                    read_bytes = read_bytes.saturating_add(bytes);
                    self.paging.add_stall(layer, more);
                }
            }
        }
        self.read_bytes = self.read_bytes.saturating_add(read_bytes);
        if counted {
            self.telemetry.disk_read_bytes.set(self.read_bytes);
        }
        let wall = Duration::from_micros(pass.wall_us);
        self.paging.end_pass(wall, stall);
        if single {
            let cost = TokenCost { wall, stall: counted.then_some(stall), read_bytes: counted.then_some(read_bytes) };
            self.tokens.end_at(end, cost);
            speed.into_iter().for_each(|speed| self.telemetry.generate_milli_tok_s.set((speed * 1000.0) as u64));
        } else if pass.wall_us > 0 {
            let speed = f64::from(pass.n_tokens) * 1e6 / pass.wall_us as f64;
            self.telemetry.prompt_milli_tok_s.set((speed * 1000.0) as u64);
        }
    }

    /// What the store would have had of a layer's experts, each in its turn.
    fn serve(&mut self, layer: usize, pass: &Pass, slot_bytes: u64, demanded: &[Demand]) -> Vec<Found> {
        let Some(cache) = &mut self.cache else { return vec![Found::Uncounted; demanded.len()] };
        let mut evicted = Vec::new();
        let is_there = store::serve(cache, layer, pass.n_tokens, demanded, &mut evicted);
        for (demand, &there) in demanded.iter().zip(&is_there) {
            let counter = if there { &self.paging.hit_bytes } else { &self.paging.demand_bytes };
            counter.add(slot_bytes);
            self.paging.requested_bytes.add(slot_bytes);
            self.map.set_resident(layer, demand.expert as usize, Some(1.0));
        }
        for gone in evicted.iter().filter(|&&id| !cache.contains(id)) {
            self.map.set_resident(gone.layer as usize, gone.expert as usize, Some(0.0));
        }
        self.paging.resident_bytes.set(cache.used_bytes());
        is_there.into_iter().map(|there| if there { Found::InMemory } else { Found::Missing }).collect()
    }
}

/// What a token chose in a layer as its router ranked it: the heaviest first, of equals the lower number. Without weights
/// by number.
fn ranked(record: &LayerRecord, found: &[Found]) -> Vec<Choice> {
    let weight = |i: usize| record.weights.get(i).copied().filter(|weight| !weight.is_nan());
    let choice = |(i, (demand, &found)): (usize, (&Demand, &Found))| Choice {
        expert: demand.expert as usize,
        weight: weight(i),
        found,
    };
    let mut choices: Vec<Choice> = record.demanded.iter().zip(found).enumerate().map(choice).collect();
    let heavy = |choice: &Choice| choice.weight.unwrap_or(f32::NEG_INFINITY);
    choices.sort_by(|a, b| heavy(b).total_cmp(&heavy(a)));
    choices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LayerShape, Outcome, TraceRecorder};
    use crate::telemetry::LayerCost;

    const COST: LayerCost =
        LayerCost { compute: Duration::from_micros(50), stall: Some(Duration::from_micros(100)), read_bytes: Some(7) };

    /// A prompt of four tokens, then tokens that take two experts in turn.
    fn trace() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layers = vec![LayerShape { n_experts: 4, slot_bytes: 100 }; 2];
        let shape = Shape { name: "a model".into(), n_used: 1, dense_bytes: 1000, layers };
        let recorder = TraceRecorder::create(file.path(), &shape).unwrap();
        for pass in 0..6 {
            let n_tokens = if pass == 0 { 4 } else { 1 };
            recorder.pass(n_tokens);
            for layer in 0..2 {
                recorder.layer(layer, [(pass % 2, n_tokens)].into_iter());
                recorder.predicted(layer, &[0, 3]);
                recorder.cost(layer, COST);
            }
            std::thread::sleep(Duration::from_millis(2));
            recorder.end_pass(Outcome::Whole);
        }
        file
    }

    fn player(budget: Option<u64>) -> Player {
        Player::read(TraceReader::open(trace().path()).unwrap(), budget).unwrap()
    }

    #[test]
    fn a_trace_fills_the_same_counters_as_an_engine() {
        let mut player = player(Some(400));
        player.seek(player.length());
        let shown = player.snapshot();
        let paging = shown.paging.unwrap();
        assert_eq!((shown.tick, player.n_done(), player.is_over()), (6, 6, true));
        assert_eq!((paging.requested_bytes, paging.hit_bytes, paging.demand_bytes), (1200, 800, 400));
        assert_eq!((paging.foreseen_experts, paging.unforeseen_experts), (4, 6));
        assert_eq!((paging.stall, shown.disk_read_bytes), (Duration::from_micros(1200), Some(84)));
        let tokens = shown.tokens.unwrap();
        assert_eq!(tokens.n_tokens(), 5);
        let record = tokens.get(4).unwrap();
        assert_eq!((record.hits, record.misses, record.cost.read_bytes), (Some(2), Some(0), Some(14)));
        assert_eq!((0..3).map(|layer| tokens.layer(4, layer)).collect::<Vec<_>>(), [Some(COST), Some(COST), None]);
        assert_eq!((record.cost.stall, record.cost.read_bytes), (Some(2 * COST.stall.unwrap()), Some(14)));
        assert!(shown.generate_tok_s.unwrap() > 1.0 && shown.prompt_tok_s.unwrap() > 4.0);
        let map = shown.experts.unwrap();
        assert_eq!((map.resident(0, 1), map.resident(0, 3), map.uses(0, 0)), (Some(1.0), Some(0.0), 6));
    }

    #[test]
    fn a_tokens_experts_are_ranked_as_by_the_router() {
        let demanded = [4, 9, 11, 30].map(|expert| Demand { expert, n_tokens: 1 }).to_vec();
        let order = |weights: &[f32]| {
            let record =
                LayerRecord { demanded: demanded.clone(), weights: weights.to_vec(), ..LayerRecord::default() };
            let choices = ranked(&record, &[Found::Uncounted; 4]);
            choices.iter().map(|choice| (choice.expert, choice.weight)).collect::<Vec<_>>()
        };
        let by_weight = [(30, Some(0.5)), (4, Some(0.25)), (11, Some(0.25)), (9, Some(0.0))];
        assert_eq!(order(&[0.25, 0.0, 0.25, 0.5]), by_weight);
        assert_eq!(order(&[f32::NAN, 0.0, 1.0, 0.5])[3], (4, None));
        assert_eq!(order(&[]), [(4, None), (9, None), (11, None), (30, None)]);
    }

    #[test]
    fn without_a_budget_what_was_in_memory_is_unknown() {
        let mut player = player(None);
        player.seek(player.length());
        let shown = player.snapshot();
        assert_eq!(shown.paging.as_ref().and_then(|paging| paging.hit_rate()), None);
        assert_eq!(shown.experts.unwrap().resident(0, 0), None);
        assert_eq!(shown.tokens.unwrap().get(0).unwrap().hits, None);
    }

    #[test]
    fn a_budget_below_one_expert_keeps_none() {
        let mut player = player(Some(50));
        player.seek(player.length());
        assert_eq!(player.snapshot().paging.unwrap().hit_bytes, 0);
    }

    #[test]
    fn steps_go_pass_by_pass_and_back() {
        let mut player = player(None);
        player.seek(Duration::from_micros(1));
        let shown = player.snapshot();
        assert_eq!((shown.prompt.map(|p| p.1), shown.layer), (Some(4), Some(0)), "a prompt is being read");
        player.step();
        player.step();
        assert_eq!((player.n_done(), player.snapshot().tick), (2, 2));
        assert!(player.step_back());
        assert_eq!((player.n_done(), player.snapshot().tick), (1, 1));
        player.step_back();
        assert_eq!((player.n_done(), player.at()), (0, Duration::ZERO));
    }

    #[test]
    fn seeking_back_and_on_again_gives_the_same_state() {
        let mut player = player(Some(200));
        player.seek(player.length());
        let first = player.snapshot().paging;
        player.seek(Duration::ZERO);
        player.seek(player.length());
        assert_eq!(player.snapshot().paging, first);
    }
}
