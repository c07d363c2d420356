#![allow(unsafe_code, reason = "counting what is allocated takes a global allocator")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests are tests, too")]
//! Hostile model files, with fixed seeds: each gives an error or a valid model, without a panic, in less than a second,
//! and without taking more memory than a few times its own size.

#[path = "fuzz/body.rs"]
mod body;
#[path = "fuzz/seeds.rs"]
mod seeds;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use body::Opened;
use seeds::Seed;
use wayinfer::gguf::Gguf;
use wayinfer::quant::GgmlType;

/// Memory that opening a file may take: so many times the file, and this much besides.
const FILE_LIMIT: Limit = Limit { multiple: 8, fixed: 256 << 10 };
/// The same with the model, the tokenizer and the chat template in it: compiled regular expressions and what a template
/// may build while it runs have limits of their own, whatever the file.
const LOAD_LIMIT: Limit = Limit { multiple: 24, fixed: 32 << 20 };
const TIME_LIMIT: Duration = Duration::from_secs(1);

/// Bytes allocated now, and the most since the mark was last reset.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Limit {
    multiple: usize,
    fixed: usize,
}

impl Limit {
    fn bytes(&self, file: usize) -> usize {
        self.multiple * file + self.fixed
    }
}

/// The most memory that `work` had at once.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let live = LIVE.load(Relaxed);
    PEAK.store(live, Relaxed);
    let result = work();
    (PEAK.load(Relaxed).saturating_sub(live), result)
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: Every call goes on to the system's allocator as it came; only numbers are kept besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: The caller's promises are this call's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: As above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: As above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // The old block lives until the new one is filled.
        count(new_size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: As above.
        unsafe { System.realloc(at, layout, new_size) }
    }
}

fn count(n_bytes: usize) {
    PEAK.fetch_max(LIVE.fetch_add(n_bytes, Relaxed) + n_bytes, Relaxed);
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Less than `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number that a count, a length, a dimension or an offset would rather not be.
    fn number(&mut self, near: usize) -> u64 {
        let n = near as u64;
        let known = [0, 1, 2, 3, 7, 8, 32, 33, 255, 65_535, 1 << 16, 1 << 20, 1 << 28, 1 << 31, 1 << 32, 1 << 40];
        let large = [1 << 61, 1 << 62, 1 << 63, u64::MAX - 31, u64::MAX - 1, u64::MAX, n, n + 1, n.wrapping_sub(1)];
        match self.below(3) {
            0 => self.one_of(&known),
            1 => self.one_of(&large),
            _ => self.next() >> self.below(64),
        }
    }
}

/// How the cases of a family went.
#[derive(Default)]
struct Tally {
    whole: usize,
    /// Whole files that are no whole models.
    files: usize,
    refused: usize,
    slowest: Duration,
    /// The largest share of its limit that a case took.
    fullest: f64,
}

/// What is allocated is counted for the whole process, so that families go one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens `n` files that `make` makes of random numbers.
fn open_each(family: &str, n: u64, mut make: impl FnMut(&mut Rng) -> Vec<u8>) -> Tally {
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in 0..n {
        let bytes = make(&mut Rng(seed));
        open_one(family, seed, &bytes, &mut tally);
    }
    let Tally { whole, files, refused, slowest, fullest } = tally;
    println!(
        "{family}: {whole} opened, {files} as files, {refused} refused in {:.1?}; slowest {slowest:.1?}, most memory {:.0}% of the limit",
        start.elapsed(),
        100.0 * fullest
    );
    tally
}

fn open_one(family: &str, seed: u64, bytes: &[u8], tally: &mut Tally) {
    let failed = |what: &str| -> ! {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{family}-{seed}.gguf"));
        fs::write(&path, bytes).unwrap();
        panic!("{family} {seed}: {what}; the file is {}", path.display());
    };
    let start = Instant::now();
    let attempt = std::panic::catch_unwind(|| {
        let (of_file, _) = peak_of(|| body::open_file(bytes).is_some());
        let (of_all, opened) = peak_of(|| body::open_everything(bytes));
        (of_file, of_all, opened)
    });
    let time = start.elapsed();
    let Ok((of_file, of_all, opened)) = attempt else { failed("it panicked") };
    match opened {
        Opened::Whole => tally.whole += 1,
        Opened::File => tally.files += 1,
        Opened::Refused => tally.refused += 1,
    }
    if time > TIME_LIMIT {
        failed(&format!("it took {time:?}"));
    }
    for (what, taken, limit) in [("opening", of_file, &FILE_LIMIT), ("loading", of_all, &LOAD_LIMIT)] {
        let limit = limit.bytes(bytes.len());
        if taken > limit {
            failed(&format!("{what} took {taken} bytes of memory for a file of {}", bytes.len()));
        }
        tally.fullest = tally.fullest.max(taken as f64 / limit as f64);
    }
    tally.slowest = tally.slowest.max(time);
}

/// A whole file and the bytes of it that are its header.
struct Base {
    bytes: Vec<u8>,
    header: usize,
}

impl Base {
    fn new(bytes: Vec<u8>) -> Base {
        let gguf = Gguf::parse(&bytes).unwrap();
        let header = gguf.tensors.iter().map(|t| t.offset).min().unwrap() as usize;
        Base { bytes, header }
    }
}

fn bases() -> Vec<Base> {
    seeds::seeds().iter().map(|seed| Base::new(seed.write(|| 0x3c).unwrap())).collect()
}

/// Changes some bytes of the header: bits, whole numbers, or pieces of it taken out, doubled or moved.
fn mutate(bytes: &mut Vec<u8>, header: usize, rng: &mut Rng) {
    for _ in 0..rng.one_of(&[1, 1, 1, 1, 2, 4]) {
        let header = header.min(bytes.len());
        if header < 16 {
            return;
        }
        // Counts, versions and the first keys decide the most: they are hit as often as all the rest.
        let at = if rng.below(2) == 0 { rng.below(header) } else { rng.below(header.min(400)) };
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 | 3 => {
                let number = rng.number(bytes.len()).to_le_bytes();
                let n = rng.one_of(&[4, 8]).min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&number[..n]);
            }
            4 => {
                let end = (at + 1 + rng.below(64)).min(header);
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + 1 + rng.below(64)).min(header);
                let piece = bytes[at..end].to_vec();
                let to = rng.below(header);
                bytes.splice(to..to, piece);
            }
        }
    }
}

/// Changes what a model says, in a file that is otherwise well made.
fn say_otherwise(seed: &mut Seed, rng: &mut Rng) {
    for _ in 0..=rng.below(3) {
        if seed.entries.is_empty() || seed.tensors.is_empty() {
            return;
        }
        let (entry, tensor) = (rng.below(seed.entries.len()), rng.below(seed.tensors.len()));
        match rng.below(8) {
            0..=3 => seed.entries[entry].1 = seeds::hostile_value(|n| rng.below(n)),
            4 => drop(seed.entries.remove(entry)),
            5 => drop(seed.tensors.remove(tensor)),
            6 => {
                let shape = &mut seed.tensors[tensor].shape;
                match rng.below(3) {
                    0 => shape.push(1 + rng.next() % 3),
                    1 if shape.len() > 1 => drop(shape.pop()),
                    _ => {
                        let dim = rng.below(shape.len());
                        shape[dim] = 32 * (1 + rng.next() % 8);
                    }
                }
            }
            _ => {
                let (ty, shape) = (rng.one_of(&TYPES), &mut seed.tensors[tensor].shape);
                shape[0] = shape[0].next_multiple_of(ty.block_len() as u64);
                seed.tensors[tensor].ty = ty;
            }
        }
    }
}

const TYPES: [GgmlType; 8] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::I8,
    GgmlType::Q4_K,
    GgmlType::Q6_K,
    GgmlType::IQ2_XXS,
    GgmlType::NVFP4,
    GgmlType::Q8_0,
];

/// A file put together by hand, most of it right and some of it not.
fn hand_made(rng: &mut Rng) -> Vec<u8> {
    let lie = |rng: &mut Rng, truth: u64| if rng.below(8) == 0 { rng.number(2000) } else { truth };
    let string = |out: &mut Vec<u8>, text: &[u8], rng: &mut Rng| {
        out.extend(lie(rng, text.len() as u64).to_le_bytes());
        out.extend(text);
    };
    let (n_tensors, n_entries) = (rng.below(6), rng.below(6));
    let mut out = b"GGUF".to_vec();
    out.extend(rng.one_of(&[3u32, 3, 3, 3, 2, 1, 0, 4, 0x0300_0000]).to_le_bytes());
    out.extend(lie(rng, n_tensors as u64).to_le_bytes());
    out.extend(lie(rng, n_entries as u64).to_le_bytes());
    for i in 0..n_entries {
        let key = [format!("key.{i}"), "general.alignment".into(), "\u{1b}[2J".into(), String::new()];
        string(&mut out, key[rng.below(16).saturating_sub(12)].as_bytes(), rng);
        let ty = rng.below(14) as u32;
        out.extend(ty.to_le_bytes());
        match ty {
            8 => string(&mut out, &vec![rng.next() as u8; rng.below(40)], rng),
            9 => {
                let (mut ty, mut depth) = (rng.below(14) as u32, 0);
                while ty == 9 && depth < 8 {
                    out.extend(ty.to_le_bytes());
                    out.extend(lie(rng, 1).to_le_bytes());
                    (ty, depth) = (rng.below(14) as u32, depth + 1);
                }
                let n = rng.below(20) as u64;
                out.extend(ty.to_le_bytes());
                out.extend(lie(rng, n).to_le_bytes());
                out.resize(out.len() + 8 * n as usize, rng.one_of(&[0, 0, 1, 0xff]));
            }
            _ => out.resize(out.len() + [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8, 4][ty as usize], rng.next() as u8 & 1),
        }
    }
    let mut offset = 0;
    for i in 0..n_tensors {
        string(&mut out, format!("blk.{}.x", if rng.below(16) == 0 { 0 } else { i }).as_bytes(), rng);
        let n_dims = if rng.below(16) == 0 { rng.below(9) as u32 } else { 1 + rng.below(4) as u32 };
        out.extend(n_dims.to_le_bytes());
        let dims: Vec<u64> = (0..n_dims).map(|d| if d == 0 { 32 } else { 1 + rng.next() % 3 }).collect();
        for &dim in &dims {
            out.extend(lie(rng, dim).to_le_bytes());
        }
        let id = rng.one_of(&[0u32, 0, 1, 2, 8, 24, 30, 39, 4, 41, 1 << 31]);
        out.extend(id.to_le_bytes());
        out.extend(lie(rng, offset).to_le_bytes());
        offset += (dims.iter().product::<u64>() * 4).next_multiple_of(32);
    }
    out.resize((out.len().next_multiple_of(32) as u64 + lie(rng, offset).min(1 << 14)) as usize, 0);
    out
}

#[test]
fn mutated_files_are_refused_or_valid() {
    let _alone = alone();
    let bases = bases();
    let tally = open_each("mutated", 50_000, |rng| {
        let base = &bases[rng.below(bases.len())];
        let mut bytes = base.bytes.clone();
        mutate(&mut bytes, base.header, rng);
        bytes
    });
    assert!(tally.whole > 1000 && tally.refused > 1000, "the mutations are too weak or too strong");
}

#[test]
fn truncated_files_are_refused() {
    let _alone = alone();
    let bases = bases();
    let tally = open_each("truncated", 10_000, |rng| {
        let base = &bases[rng.below(bases.len())];
        let n = if rng.below(4) == 0 { rng.below(base.bytes.len()) } else { rng.below(base.header) };
        base.bytes[..n].to_vec()
    });
    // The padding at the end is all that a file can lose.
    assert!(tally.whole + tally.files < 10, "{} truncated files opened", tally.whole + tally.files);
}

#[test]
fn well_made_files_with_hostile_contents_are_refused_or_valid() {
    let _alone = alone();
    let seeds = seeds::seeds();
    let tally = open_each("contents", 28_000, |rng| {
        loop {
            let mut seed = seeds[rng.below(seeds.len())].clone();
            say_otherwise(&mut seed, rng);
            if let Some(bytes) = seed.write(|| rng.next() as u8) {
                return bytes;
            }
        }
    });
    assert!(tally.whole > 1000 && tally.refused > 100, "the contents are too tame or too wild");
}

#[test]
fn hand_made_files_are_refused_or_valid() {
    let _alone = alone();
    let tally = open_each("hand-made", 15_000, hand_made);
    assert!(tally.files > 100 && tally.refused > 1000, "the files are too bad or too good");
}

#[test]
fn mutated_reference_models_are_refused_or_valid() {
    let _alone = alone();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/models");
    let names = ["llama-Q4_K_M", "qwen2-Q4_K_M", "qwen3-Q4_K_M"];
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(format!("{name}.gguf"))).collect();
    if !paths.iter().all(|path| path.is_file()) {
        println!("SKIP: {} is absent", folder.display());
        return;
    }
    let bases: Vec<Base> = paths.iter().map(|path| Base::new(fs::read(path).unwrap())).collect();
    let tally = open_each("reference", 2000, |rng| {
        let base = &bases[rng.below(bases.len())];
        let mut bytes = base.bytes.clone();
        mutate(&mut bytes, base.header, rng);
        bytes
    });
    assert!(tally.whole > 100 && tally.refused > 100, "the mutations are too weak or too strong");
}

/// Counts that the file's size allows, of the things that take the most memory for their bytes.
#[test]
fn files_full_of_the_costliest_things_stay_within_the_limit() {
    let _alone = alone();
    const N: usize = 100_000;
    let entry = |version: u32, ty: u32| {
        let count = |n: usize| if version == 1 { (n as u32).to_le_bytes().to_vec() } else { n.to_le_bytes().to_vec() };
        let mut out = [b"GGUF".as_slice(), &version.to_le_bytes(), &count(0), &count(1), &count(1), b"k"].concat();
        for number in [9, ty] {
            out.extend(u32::to_le_bytes(number));
        }
        out.extend(count(N));
        out
    };
    let files = [1u32, 3].into_iter().flat_map(|version| {
        let width = if version == 1 { 4 } else { 8 };
        let (mut strings, mut arrays, mut broken) = (entry(version, 8), entry(version, 9), entry(version, 8));
        strings.resize(strings.len() + N * width, 0);
        arrays.resize(arrays.len() + N * (4 + width), 0);
        for _ in 0..N {
            broken.extend(&1u64.to_le_bytes()[..width]);
            broken.push(0xff);
        }
        [strings, arrays, broken]
    });
    let mut entries = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes(), &10_000u64.to_le_bytes()].concat();
    for i in 0..10_000u32 {
        entries.extend(5u64.to_le_bytes());
        entries.extend(format!("{i:05}").bytes());
        entries.extend([0; 5]);
    }
    let mut tensors = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &10_000u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    tensors.extend([&17u64.to_le_bytes(), b"general.alignment".as_slice(), &[4, 0, 0, 0, 1, 0, 0, 0]].concat());
    for i in 0..10_000u64 {
        tensors.extend(5u64.to_le_bytes());
        tensors.extend(format!("{i:05}").bytes());
        tensors.extend([&1u32.to_le_bytes(), 1u64.to_le_bytes().as_slice(), &24u32.to_le_bytes()].concat());
        tensors.extend(i.to_le_bytes());
    }
    tensors.resize(tensors.len() + 10_000, 0);
    let files: Vec<Vec<u8>> = files.chain([entries, tensors]).collect();
    let mut next = files.iter();
    let tally = open_each("costly", files.len() as u64, |_| next.next().unwrap().clone());
    assert_eq!(tally.files, files.len());
}

#[test]
#[ignore = "writes the fuzzer's first corpus, see tests/fuzz/targets/gguf.rs"]
fn seeds_are_written_for_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/gguf");
    fs::create_dir_all(&folder).unwrap();
    for (i, base) in bases().iter().enumerate() {
        fs::write(folder.join(format!("seed-{i}.gguf")), &base.bytes).unwrap();
    }
}
