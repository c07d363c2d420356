//! GB/s of direct reads into an arena, by request size, bytes in flight and way of reading: `cargo bench --bench disk --
//! MODEL.gguf [GB]`. Once with idle cores, where the reader waits, and once with a thread computing on each, of which one
//! looks after the reads now and then, as in a run of a model. Pieces are of 4 MiB at random places; each figure is the
//! median of several rounds over all rows and columns.
#![allow(unsafe_code, reason = "the process's clock has no safe wrapper")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wayinfer::store::direct::{ALIGN, Arena, Completion, Piece, Reader, ReaderOptions, Ticket, Urgency, Way};
use wayinfer::store::{FileRange, ModelFile};

const WAYS: [Way; 2] = [Way::Uring, Way::Threads];
const REQUEST_KIB: [u32; 5] = [128, 256, 512, 1024, 2048];
const IN_FLIGHT_MIB: [u64; 6] = [1, 2, 4, 8, 16, 32];
const PIECE_BYTES: u64 = 4 << 20;
const ARENA_PIECES: u64 = 32;
/// Bytes read for one figure of one round.
const READ_BYTES: u64 = 160 << 20;
const N_ROUNDS: usize = 3;
/// How long a computing thread goes on before it looks after the reads.
const COMPUTE: Duration = Duration::from_micros(200);

#[derive(Debug, Clone, Copy)]
enum Cores {
    Idle,
    Busy,
}

/// Of one run.
#[derive(Debug, Clone, Copy)]
struct Figures {
    gb_per_second: f64,
    /// Core seconds that the reads took, for each GB: used by the process, or lost to those who compute.
    core_seconds_per_gb: f64,
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let Some(path) = args.next() else {
        println!("SKIP: name a model file that is larger than the disk's own cache: -- MODEL.gguf");
        return;
    };
    let model = ModelFile::open(path).expect("a model");
    let arena = Arc::new(Arena::new(ARENA_PIECES * PIECE_BYTES).expect("128 MiB"));
    let mut bench = Bench { model: &model, arena, random: 1, alone: 0.0 };
    pages(&mut bench);
    for cores in [Cores::Idle, Cores::Busy] {
        table(&mut bench, cores);
    }
}

/// Reads to pages of the arena that are there already, and to pages that are not.
fn pages(bench: &mut Bench<'_>) {
    let mut run = |fresh: bool| {
        let figures = (0..9).map(|_| {
            if fresh {
                bench.arena.discard(0, bench.arena.len());
            }
            bench.run(ReaderOptions::default(), Cores::Idle)
        });
        let figures: Vec<_> = figures.flatten().collect();
        let of = |f: fn(&Figures) -> f64| median(figures.iter().map(f).collect());
        println!(
            "{fresh:<8}{:>10.2} GB/s {:>8.3} core seconds/GB",
            of(|f| f.gb_per_second),
            of(|f| f.core_seconds_per_gb)
        );
    };
    println!("fresh pages");
    run(false);
    run(true);
    run(false);
    run(true);
}

fn table(bench: &mut Bench<'_>, cores: Cores) {
    let cells: Vec<_> = WAYS.iter().flat_map(|&way| REQUEST_KIB.map(|kib| (way, kib))).collect();
    let mut figures = vec![vec![Vec::new(); IN_FLIGHT_MIB.len()]; cells.len()];
    for _ in 0..N_ROUNDS {
        for (row, &(way, kib)) in cells.iter().enumerate() {
            for (column, mib) in IN_FLIGHT_MIB.iter().enumerate() {
                let options = ReaderOptions {
                    way: Some(way),
                    request_bytes: kib << 10,
                    demand_bytes: mib << 20,
                    ..ReaderOptions::default()
                };
                figures[row][column].extend(bench.run(options, cores));
            }
        }
    }
    for (name, of) in
        [("GB/s", (|f| f.gb_per_second) as fn(&Figures) -> f64), ("core ms/GB", |f| f.core_seconds_per_gb * 1e3)]
    {
        println!("\n{cores:?} cores, {name}; MiB in flight{}", IN_FLIGHT_MIB.map(|mib| format!("{mib:>8}")).concat());
        for (row, (way, kib)) in cells.iter().enumerate() {
            let row: String =
                figures[row].iter().map(|all| format!("{:>8.2}", median(all.iter().map(of).collect()))).collect();
            println!("{:<8} requests of {kib:>4} KiB       {row}", way.name());
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Bench<'m> {
    model: &'m ModelFile,
    arena: Arc<Arena>,
    random: u64,
    /// Units of computing a second of all cores while nothing is read; 0 before it was measured.
    alone: f64,
}

impl Bench<'_> {
    /// `None` where this system does not read in this way.
    fn run(&mut self, options: ReaderOptions, cores: Cores) -> Option<Figures> {
        let mut reader = Reader::with_options(self.model, self.arena.clone(), options).ok()?;
        match cores {
            Cores::Idle => {
                let (began, cpu) = (Instant::now(), cpu_seconds());
                self.read(&mut reader, |reader, done| reader.wait(done));
                Some(figures(&reader, began.elapsed(), cpu_seconds() - cpu))
            }
            Cores::Busy => {
                if self.alone == 0.0 {
                    let (units, seconds) = computing(|compute| {
                        let began = Instant::now();
                        while began.elapsed() < Duration::from_secs(1) {
                            compute();
                        }
                    });
                    self.alone = units as f64 / seconds;
                }
                let (units, seconds) = computing(|compute| {
                    self.read(&mut reader, |reader, done| {
                        compute();
                        reader.poll(done);
                    });
                });
                let lost = (1.0 - units as f64 / seconds / self.alone) * seconds * n_cores() as f64;
                Some(figures(&reader, Duration::from_secs_f64(seconds), lost))
            }
        }
    }

    /// Keeps half the arena queued until enough has been read.
    fn read(&mut self, reader: &mut Reader, mut turn: impl FnMut(&mut Reader, &mut Vec<Completion>)) {
        let (mut submitted, mut free, mut done) = (0, (0..ARENA_PIECES).collect::<Vec<_>>(), Vec::new());
        while submitted < READ_BYTES || !reader.idle() {
            while submitted < READ_BYTES
                && let Some(slot) = free.pop()
            {
                let range = self.somewhere();
                reader.submit(Ticket(slot), &[Piece { range, at: slot * PIECE_BYTES }], Urgency::Demand);
                submitted += range.n_bytes;
            }
            turn(reader, &mut done);
            for completion in done.drain(..) {
                completion.outcome.expect("the disk works");
                free.push(completion.ticket.0);
            }
        }
    }

    /// A piece of a random one of the model's files.
    fn somewhere(&mut self) -> FileRange {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let files = &self.model.gguf().files;
        let file = (self.random >> 33) as usize % files.len();
        let blocks = files[file].bytes.saturating_sub(PIECE_BYTES) / ALIGN;
        let offset = (self.random >> 20) % blocks.max(1) * ALIGN;
        FileRange { file, offset, n_bytes: PIECE_BYTES.min(files[file].bytes) }
    }
}

fn figures(reader: &Reader, time: Duration, core_seconds: f64) -> Figures {
    let gb = reader.read_bytes() as f64 / 1e9;
    Figures { gb_per_second: gb / time.as_secs_f64(), core_seconds_per_gb: core_seconds / gb }
}

/// Runs `main` while every other core computes, and hands it what to compute itself: units computed by all, and seconds.
fn computing(main: impl FnOnce(&dyn Fn())) -> (u64, f64) {
    let (stop, units) = (AtomicBool::new(false), AtomicU64::new(0));
    let compute = || {
        let began = Instant::now();
        while began.elapsed() < COMPUTE {
            let mut x = 1u64;
            for _ in 0..1000 {
                x = black_box(x.wrapping_mul(6364136223846793005));
            }
            units.fetch_add(1, Relaxed);
        }
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 1..n_cores() {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    compute();
                }
            });
        }
        main(&compute);
        stop.store(true, Relaxed);
    });
    (units.load(Relaxed), began.elapsed().as_secs_f64())
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Used by this process; not a number where the system is not asked.
fn cpu_seconds() -> f64 {
    #[cfg(target_os = "linux")]
    {
        let mut usage = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: The kernel writes a time to a live value of the type it wants.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut usage) };
        assert_eq!(result, 0, "every Linux has this clock");
        usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9
    }
    #[cfg(not(target_os = "linux"))]
    f64::NAN
}
