//! The worker beside a real, tiny model.

use super::*;

#[test]
fn the_trace_of_a_model_is_not_overwritten_by_that_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("a.trace");
    let worker = spawn(EngineOptions { trace: Some(trace.clone()), ..EngineOptions::default() }).unwrap();
    let until = |wanted: fn(&Event) -> bool| {
        let next = || worker.events.recv_timeout(Duration::from_secs(60)).expect("an event");
        std::iter::repeat_with(next).find(wanted).unwrap()
    };
    let load = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        worker.commands.send(Command::Load(path)).unwrap();
        until(|event| matches!(event, Event::Loaded(_)));
    };
    load("mixtral-Q4_K_M.gguf");
    let header = std::fs::read(&trace).unwrap();
    load("qwen2-Q4_K_M.gguf");
    let Event::Note(text) = until(|event| matches!(event, Event::Note(_))) else { unreachable!() };
    assert!(text.contains("a.trace is of the model before"), "{text}");
    assert_eq!(std::fs::read(&trace).unwrap(), header);
}

#[test]
fn experts_are_pinned_while_the_model_is_served_and_what_cannot_be_is_told() {
    let data = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    // As little as it can work with, so that its experts do not all fit.
    let mut options = EngineOptions { ram: Some(1 << 20), context: Some(64), ..EngineOptions::default() };
    let load = |options: &EngineOptions| {
        let worker = spawn(options.clone()).unwrap();
        worker.commands.send(Command::Load(data("mixtral-Q4_K_M.gguf"))).unwrap();
        let event = worker.events.recv_timeout(Duration::from_secs(60)).expect("an event");
        (worker, event)
    };
    let more = |options: &mut EngineOptions, bytes| options.ram = options.ram.map(|ram| ram + bytes);
    while let (_, Event::LoadFailed { .. }) = load(&options) {
        more(&mut options, 1 << 18);
    }
    more(&mut options, 1 << 19);
    let (worker, event) = load(&options);
    assert!(matches!(event, Event::Loaded(_)), "{event:?}");
    let map = worker.telemetry.experts().unwrap();
    let pin = |experts: &[(usize, usize)], is_to_stay| {
        worker.pins.send(PinOrder { experts: experts.to_vec(), is_to_stay }).unwrap();
    };
    let refused = || loop {
        let event = worker.events.recv_timeout(Duration::from_secs(60)).expect("an event");
        if let Event::PinRefused(why) = event {
            break why;
        }
    };
    pin(&[(99, 0)], true);
    assert_eq!(refused(), "the model has no expert 0 in layer 99");
    // All of them do not fit, by what the test began with.
    let all: Vec<_> = (0..map.n_layers()).flat_map(|layer| (0..map.n_experts()).map(move |e| (layer, e))).collect();
    pin(&all, true);
    assert!(refused().starts_with("no room to pin more: of "));
    let pinned = || all.iter().filter(|&&(layer, expert)| map.is_pinned(layer, expert)).count();
    let n = pinned();
    assert!(n > 0 && n < all.len(), "{n}");
    pin(&all, false);
    pin(&[(0, 99)], true);
    assert_eq!(refused(), "the model has no expert 99 in layer 0");
    assert_eq!(pinned(), 0);
}
