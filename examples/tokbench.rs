use std::time::Instant;
use wayinfer::text::tokenizer::*;
#[path = "../tests/text.rs"]
mod t;
fn main() {
    let text = std::fs::read_to_string(std::env::args().nth(1).unwrap()).unwrap();
    let text = text.repeat(1 + 2_000_000 / text.len());
    for p in std::env::args().skip(2) {
        let md = t::metadata(std::path::Path::new(&p));
        let a = Instant::now();
        let (tk, w) = Tokenizer::from_metadata(&md).unwrap();
        let l = a.elapsed();
        let a = Instant::now();
        let ids = tk.encode(&text, Special::Plain).unwrap();
        let e = a.elapsed();
        let a = Instant::now();
        let d = tk.decode(&ids, ControlText::Show);
        let dd = a.elapsed();
        println!(
            "{p}: load {l:?} encode {} B -> {} ids {e:?} = {:.1} MB/s decode {dd:?} {} {w:?}",
            text.len(),
            ids.len(),
            text.len() as f64 / e.as_secs_f64() / 1e6,
            d == text || d[1..] == text
        );
    }
}
