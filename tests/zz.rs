mod common;
use std::path::Path; use std::sync::Arc; use std::sync::atomic::AtomicBool;
use wayinfer::kernel::Isa; use wayinfer::session::*; use wayinfer::telemetry::Telemetry;
#[test] fn dump() {
  for m in std::env::var("ONLY").unwrap().split(',') {
    let path = format!("/work/shared/conformance/models/{m}.gguf"); let path = Path::new(&path);
    let j: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("/work/shared/conformance/logits/{m}.json")).unwrap()).unwrap();
    let ids: Vec<u32> = j["ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
    let options = EngineOptions { isa: Some(Isa::Scalar), context: Some(512), ..EngineOptions::default() };
    let compute = options.compute().unwrap(); let file = open_file(path).unwrap(); let model = bind_model(path, &file).unwrap();
    let watch = Watch::new(Arc::new(Telemetry::default()), Arc::new(AtomicBool::new(false)), &file, &model);
    let mut session = Session::new(&model, &compute, 512);
    let mut out = Vec::new();
    session.all_logits(&ids, watch.control(), &mut |_, rows| rows.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()))).unwrap();
    std::fs::write(format!("/tmp/m/{m}.ours"), out).unwrap();
  }
}
