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
