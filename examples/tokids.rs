use wayinfer::text::tokenizer::*;
#[path = "../tests/text.rs"]
mod t;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (tk, w) = Tokenizer::from_metadata(&t::metadata(std::path::Path::new(&a[1]))).unwrap();
    if !w.is_empty() {
        eprintln!("{w:?}");
    }
    let b = std::fs::read(&a[3]).unwrap();
    let mut i = 0;
    while i < b.len() {
        let n = u32::from_le_bytes(b[i..i + 4].try_into().unwrap()) as usize;
        let s = std::str::from_utf8(&b[i + 4..i + 4 + n]).unwrap();
        i += 4 + n;
        let ids = tk.encode(s, if a[2] == "1" { Special::Parse } else { Special::Plain }).unwrap();
        let mut o = String::new();
        for x in ids {
            o.push_str(&format!("{x} "));
        }
        println!("{o}");
    }
    let mut o = String::from("EOG");
    for i in 0..tk.n_vocab() as u32 {
        if tk.is_end_of_turn(i) {
            o.push_str(&format!(" {i}"));
        }
    }
    println!("{o}");
}
