//! What the reader brings is what the mapping shows, in the order it should, and what fails says so: the same tests for
//! every way of reading.

mod faulty;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::test_runner::{Config, TestRunner};
use tempfile::NamedTempFile;

pub(in crate::store) use faulty::{Faults, faulty_reader};

use super::*;
use crate::gguf::Metadata;
use crate::gguf::writer::{TensorPlan, Writer};
use crate::quant::GgmlType;
use crate::store::{ModelFile, StoreError};

const MODEL_BYTES: u64 = 3 << 20;

/// A model whose every 8 bytes differ, on the disk that this test is on: a tmpfs has no direct reads everywhere.
fn model() -> (NamedTempFile, ModelFile) {
    let beside = std::env::current_exe().unwrap();
    let file = NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
    let plan = TensorPlan { name: "x".into(), shape: vec![MODEL_BYTES], ty: GgmlType::I8 };
    let mut writer = Writer::new(file.as_file(), &Metadata::default(), &[plan]).unwrap();
    let bytes: Vec<u8> = (0..MODEL_BYTES / 8).flat_map(|i| (i * 0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    writer.write("x", &bytes).unwrap();
    writer.finish().unwrap().sync_all().unwrap();
    let model = ModelFile::open(&file).unwrap();
    assert!(model.gguf().file_bytes() % ALIGN != 0, "the file's end is to be an odd one");
    (file, model)
}

fn options(way: Way) -> ReaderOptions {
    ReaderOptions { way: Some(way), request_bytes: 4 * ALIGN as u32, n_threads: 3, ..ReaderOptions::default() }
}

/// Runs a test for each way of reading that this system has.
fn each_way(test: impl Fn(ReaderOptions, &ModelFile, &Path)) {
    let mut n_ways = 0;
    for way in [Way::Uring, Way::Threads] {
        let (file, model) = model();
        let arena = Arc::new(Arena::new(ALIGN).unwrap());
        match Reader::with_options(&model, arena, options(way)) {
            Ok(reader) if reader.way() == way => test(options(way), &model, file.path()),
            Ok(_) => println!("SKIP: {} is not for this system", way.name()),
            Err(error @ (StoreError::Uring(_) | StoreError::Direct { .. })) => println!("SKIP: {error}"),
            Err(error) => panic!("{error}"),
        }
        n_ways += 1;
    }
    assert_eq!(n_ways, 2);
}

fn reader(model: &ModelFile, arena: &Arc<Arena>, options: ReaderOptions) -> (Reader, Arc<Mutex<Faults>>) {
    faulty_reader(model, arena, options).unwrap()
}

fn arena() -> Arc<Arena> {
    Arc::new(Arena::new(4 << 20).unwrap())
}

fn range(offset: u64, n_bytes: u64) -> FileRange {
    FileRange { file: 0, offset, n_bytes }
}

/// Pieces one after the other in the arena.
fn pieces(ranges: &[FileRange]) -> Vec<Piece> {
    let mut end = 0;
    let place = |&range: &FileRange| {
        let at = end;
        end += slot_bytes(range);
        Piece { range, at }
    };
    ranges.iter().map(place).collect()
}

fn read<'a>(arena: &'a Arena, piece: &Piece) -> &'a [u8] {
    // SAFETY: The tests look only at what they have waited for.
    unsafe { arena.bytes(piece.at + piece.range.offset % ALIGN, piece.range.n_bytes as usize) }
}

/// Waits for all that is left.
fn finish(reader: &mut Reader) -> Vec<Completion> {
    let mut done = Vec::new();
    while !reader.idle() {
        reader.wait(&mut done);
    }
    done
}

fn tickets(done: &[Completion]) -> HashSet<u64> {
    done.iter().map(|c| c.ticket.0).collect()
}

/// Offsets of what was started, in units of a request.
fn started(faults: &Mutex<Faults>) -> Vec<u64> {
    faults.lock().unwrap().started.iter().map(|r| r.offset / (4 * ALIGN)).collect()
}

/// The range of requests `first..end` of the model.
fn requests(first: u64, end: u64) -> FileRange {
    range(first * 4 * ALIGN, (end - first) * 4 * ALIGN)
}

#[test]
fn any_range_reads_as_the_mapping_shows_it() {
    each_way(|options, model, _| {
        let end = model.gguf().file_bytes();
        let mut fixed = vec![range(0, 1), range(end - 1, 1), range(end / ALIGN * ALIGN, end % ALIGN), range(4095, 2)];
        fixed.extend([range(end - 300_001, 300_001), range(12_345, 98_765), range(0, 4 * ALIGN), range(77, 0)]);
        let check = |ranges: &[FileRange], request_bytes: u32| {
            let arena = arena();
            let options = ReaderOptions { request_bytes, ..options };
            let mut reader = Reader::with_options(model, arena.clone(), options).unwrap();
            let pieces = pieces(ranges);
            for (n, batch) in pieces.chunks(2).enumerate() {
                let urgency = if n % 2 == 0 { Urgency::Demand } else { Urgency::Speculative };
                reader.submit(Ticket(n as u64), batch, urgency);
            }
            let done = finish(&mut reader);
            assert_eq!(done.len(), pieces.chunks(2).len());
            assert!(done.iter().all(|c| c.outcome.is_ok()), "{done:?}");
            for piece in &pieces {
                assert!(read(&arena, piece) == model.bytes(piece.range), "{piece:?}");
            }
            let slots = pieces.iter().filter(|p| p.range.n_bytes > 0).map(|p| {
                let start = p.range.offset / ALIGN * ALIGN;
                slot_bytes(p.range).min(end - start)
            });
            assert_eq!(reader.read_bytes(), slots.sum::<u64>());
        };
        check(&fixed, 4 * ALIGN as u32);
        let strategy = (proptest::collection::vec((0..end, 1..100_000u64), 1..20), 1..20u32);
        let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
        let property = |(ranges, blocks): (Vec<(u64, u64)>, u32)| {
            let ranges: Vec<_> = ranges.into_iter().map(|(at, n)| range(at, n.min(end - at))).collect();
            check(&ranges, blocks * ALIGN as u32);
            Ok(())
        };
        runner.run(&strategy, property).unwrap();
    });
}

#[test]
fn demand_goes_before_speculation_and_limits_hold() {
    each_way(|options, model, _| {
        let arena = arena();
        let one = u64::from(options.request_bytes);
        let options = ReaderOptions { demand_bytes: 2 * one, speculative_bytes: one, ..options };
        let (mut reader, faults) = reader(model, &arena, options);
        faults.lock().unwrap().hold = true;
        let [guess, wish, need] = pieces(&[requests(0, 3), requests(10, 12), requests(20, 24)])[..] else { panic!() };
        reader.submit(Ticket(0), &[guess], Urgency::Speculative);
        reader.submit(Ticket(1), &[wish], Urgency::Speculative);
        assert_eq!(started(&faults), [0], "no more speculation than its limit");
        reader.submit(Ticket(2), &[need], Urgency::Demand);
        assert_eq!(started(&faults), [0, 20], "no more demand than its limit");
        let mut done = Vec::new();
        reader.poll(&mut done);
        assert!(done.is_empty() && !reader.idle());
        faults.lock().unwrap().hold = false;
        let done = finish(&mut reader);
        assert_eq!(started(&faults), [0, 20, 21, 22, 23, 1, 2, 10, 11]);
        assert_eq!(tickets(&done), [0, 1, 2].into());
        assert_eq!(faults.lock().unwrap().most_in_flight_bytes, 2 * one);
    });
}

#[test]
fn what_is_promoted_is_read_as_demand() {
    each_way(|options, model, _| {
        let arena = arena();
        let one = u64::from(options.request_bytes);
        let options = ReaderOptions { demand_bytes: one, speculative_bytes: one, ..options };
        let (mut reader, faults) = reader(model, &arena, options);
        faults.lock().unwrap().hold = true;
        let ranges = [requests(0, 2), requests(10, 12), requests(20, 22)];
        for (ticket, piece) in pieces(&ranges).into_iter().enumerate() {
            reader.submit(Ticket(ticket as u64), &[piece], Urgency::Speculative);
        }
        reader.promote(Ticket(2));
        reader.promote(Ticket(2));
        reader.promote(Ticket(9));
        faults.lock().unwrap().hold = false;
        let done = finish(&mut reader);
        assert_eq!(started(&faults), [0, 20, 21, 1, 10, 11]);
        assert_eq!(tickets(&done), [0, 1, 2].into());
    });
}

#[test]
fn of_what_is_given_up_only_what_the_kernel_has_is_read() {
    each_way(|options, model, _| {
        let arena = arena();
        let one = u64::from(options.request_bytes);
        let options = ReaderOptions { demand_bytes: one, speculative_bytes: one, ..options };
        let (mut reader, faults) = reader(model, &arena, options);
        faults.lock().unwrap().hold = true;
        let [a, b, c] = pieces(&[requests(0, 2), requests(10, 12), requests(20, 22)])[..] else { panic!() };
        reader.submit(Ticket(0), &[a], Urgency::Speculative);
        reader.submit(Ticket(1), &[b], Urgency::Speculative);
        reader.submit(Ticket(2), &[c], Urgency::Demand);
        assert_eq!(reader.give_up(Ticket(0)), GivenUp::Ending, "its first request is on its way");
        assert_eq!(reader.give_up(Ticket(0)), GivenUp::Unchanged, "nothing of it is left to save");
        assert_eq!([1, 2].map(|t| reader.give_up(Ticket(t))), [GivenUp::Forgotten; 2]);
        assert_eq!([1, 7].map(|t| reader.give_up(Ticket(t))), [GivenUp::Unchanged; 2], "there is no such batch");
        // The place and the name are free at once.
        reader.submit(Ticket(1), &[Piece { at: c.at, ..b }], Urgency::Demand);
        faults.lock().unwrap().hold = false;
        let done = finish(&mut reader);
        assert_eq!(started(&faults), [0, 10, 11]);
        assert_eq!((done.len(), tickets(&done)), (2, [0, 1].into()));
        let extent = |ticket| *done.iter().find(|c| c.ticket == Ticket(ticket)).unwrap().outcome.as_ref().unwrap();
        assert_eq!((extent(0), extent(1)), (Extent::Part { read_bytes: one }, Extent::Whole));
        assert!(read(&arena, &Piece { at: c.at, ..b }) == model.bytes(b.range));
    });
}

#[cfg(unix)]
#[test]
fn a_failed_read_fails_its_batch_alone_and_says_where() {
    use rustix::io::Errno;
    each_way(|options, model, path| {
        let arena = arena();
        let options = ReaderOptions { demand_bytes: u64::from(options.request_bytes), ..options };
        let (mut reader, faults) = reader(model, &arena, options);
        let [bad, good] = pieces(&[requests(0, 6), requests(10, 12)])[..] else { panic!() };
        faults.lock().unwrap().error = Some((2 * 4 * ALIGN + 5, Errno::IO.raw_os_error(), 1));
        reader.submit(Ticket(0), &[bad], Urgency::Demand);
        reader.submit(Ticket(1), &[good], Urgency::Demand);
        let done = finish(&mut reader);
        assert_eq!(done.len(), 2);
        let error = done[0].outcome.as_ref().unwrap_err().to_string();
        let expected = format!("{}: the 16384 bytes at 32768 cannot be read: ", path.display());
        assert!(error.starts_with(&expected) && error.contains("disk"), "{error}");
        assert!(done[1].outcome.is_ok() && read(&arena, &good) == model.bytes(good.range));
        assert_eq!(started(&faults), [0, 1, 2, 10, 11], "the rest of a failed batch is not read");
        reader.submit(Ticket(0), &[bad], Urgency::Speculative);
        assert!(finish(&mut reader)[0].outcome.is_ok() && read(&arena, &bad) == model.bytes(bad.range));
    });
}

#[cfg(unix)]
#[test]
fn interrupted_and_short_reads_go_on_where_they_stopped() {
    use rustix::io::Errno;
    each_way(|options, model, _| {
        let arena = arena();
        let pieces = pieces(&[range(5000, 100_000), range(MODEL_BYTES - 9, 9)]);
        for (short, error) in [
            (Some(5000), None),
            (Some(ALIGN as u32), None),
            (None, Some(Errno::INTR)),
            (Some(9000), Some(Errno::AGAIN)),
            (None, Some(Errno::CANCELED)),
        ] {
            let (mut reader, faults) = reader(model, &arena, options);
            faults.lock().unwrap().short = short;
            faults.lock().unwrap().error = error.map(|e| (20_000, e.raw_os_error(), 15));
            reader.submit(Ticket(0), &pieces, Urgency::Demand);
            assert!(finish(&mut reader)[0].outcome.is_ok(), "{short:?} {error:?}");
            assert!(pieces.iter().all(|p| read(&arena, p) == model.bytes(p.range)), "{short:?} {error:?}");
            arena.discard(0, arena.len());
        }
    });
}

#[cfg(unix)]
#[test]
fn what_never_arrives_is_given_up() {
    use rustix::io::Errno;
    each_way(|options, model, path| {
        let arena = arena();
        let pieces = pieces(&[range(5000, 100_000)]);
        let (mut reader, faults) = reader(model, &arena, options);
        faults.lock().unwrap().error = Some((20_000, Errno::AGAIN.raw_os_error(), usize::MAX));
        reader.submit(Ticket(0), &pieces, Urgency::Demand);
        let error = finish(&mut reader)[0].outcome.as_ref().unwrap_err().to_string();
        assert!(error.contains("16384 bytes at 4096 cannot be read"), "{error}");
        // A file system may bring less than a block at a time, but not for ever.
        *faults.lock().unwrap() = Faults { short: Some(100), ..Faults::default() };
        reader.submit(Ticket(0), &pieces, Urgency::Demand);
        let error = finish(&mut reader)[0].outcome.as_ref().unwrap_err().to_string();
        assert!(error.contains(&format!("{}: the ", path.display())) && error.contains("truncated"), "{error}");
    });
}

#[test]
fn a_file_truncated_after_it_was_opened_is_an_error() {
    each_way(|options, model, path| {
        let arena = arena();
        let mut reader = Reader::with_options(model, arena.clone(), options).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
        let [cut, gone, whole] = [range(1_040_000, 10_000), range(2 << 20, 1000), range(500_000, 1000)];
        for (n, piece) in pieces(&[cut, gone, whole]).into_iter().enumerate() {
            reader.submit(Ticket(n as u64), &[piece], Urgency::Demand);
        }
        let mut done = finish(&mut reader);
        done.sort_by_key(|c| c.ticket.0);
        for (completion, at) in done.iter().zip(["at 1048576", "at 2097152"]) {
            let error = completion.outcome.as_ref().unwrap_err().to_string();
            assert!(error.contains(at) && error.contains("truncated"), "{error}");
        }
        assert!(done[2].outcome.is_ok());
    });
}

#[test]
fn reads_begun_by_a_thread_that_has_ended_arrive() {
    each_way(|options, model, _| {
        let arena = arena();
        for _ in 0..20 {
            arena.discard(0, arena.len());
            let mut reader = Reader::with_options(model, arena.clone(), options).unwrap();
            let pieces = pieces(&[range(123, 2_500_000)]);
            let submit = || reader.submit(Ticket(0), &pieces, Urgency::Demand);
            std::thread::scope(|scope| scope.spawn(submit).join()).unwrap();
            assert!(finish(&mut reader)[0].outcome.is_ok());
            assert!(read(&arena, &pieces[0]) == model.bytes(pieces[0].range));
        }
    });
}

#[test]
fn a_reader_that_is_dropped_waits_for_what_is_in_flight() {
    each_way(|options, model, _| {
        let arena = arena();
        let (mut reader, faults) = reader(model, &arena, options);
        reader.submit(Ticket(0), &pieces(&[range(0, 2 << 20)]), Urgency::Demand);
        assert!(faults.lock().unwrap().in_flight_bytes > 0);
        drop(reader);
        assert_eq!(faults.lock().unwrap().in_flight_bytes, 0);
        assert!(faults.lock().unwrap().started.len() <= reader::MAX_REQUESTS, "nothing more was begun");
    });
}

#[test]
#[should_panic(expected = "is in flight")]
fn two_reads_to_one_place_are_a_fault_of_the_caller() {
    let (_file, model) = model();
    let arena = arena();
    let Ok((mut reader, faults)) = faulty_reader(&model, &arena, options(Way::Threads)) else {
        panic!("SKIP: no direct reads here, so nothing is in flight");
    };
    faults.lock().unwrap().hold = true;
    reader.submit(Ticket(0), &[Piece { range: range(0, 10), at: 0 }], Urgency::Demand);
    faults.lock().unwrap().hold = false;
    reader.submit(Ticket(1), &[Piece { range: range(9000, 10), at: 0 }], Urgency::Demand);
}

#[test]
fn a_batch_without_bytes_ends_at_once() {
    each_way(|options, model, _| {
        let mut reader = Reader::with_options(model, arena(), options).unwrap();
        assert!(reader.idle());
        reader.submit(Ticket(5), &[], Urgency::Demand);
        assert!(!reader.idle());
        let done = finish(&mut reader);
        assert!(done[0].ticket == Ticket(5) && done[0].outcome.is_ok() && reader.read_bytes() == 0);
        reader.wait(&mut Vec::new());
    });
}

#[test]
fn a_model_in_memory_and_a_replaced_file_are_refused() {
    let bytes = Writer::new(Vec::new(), &Metadata::default(), &[]).unwrap().finish().unwrap();
    let in_memory = ModelFile::from_bytes(&bytes).unwrap();
    assert!(matches!(Reader::new(&in_memory, arena()), Err(StoreError::InMemory)));

    let (file, model) = model();
    let (other, _) = self::model();
    std::fs::rename(other.path(), file.path()).unwrap();
    let error = Reader::new(&model, arena()).unwrap_err();
    let refused = matches!(error, StoreError::Replaced { .. } | StoreError::Direct { .. });
    assert!(refused && error.to_string().contains(&file.path().display().to_string()), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_arena_may_be_larger_than_the_machines_memory() {
    if std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2") {
        println!("SKIP: this system counts all that might be written to");
        return;
    }
    let arena = Arena::new(1 << 42).expect("address space is refused");
    // SAFETY: Nothing reads into it.
    let last = unsafe { arena.bytes(arena.len() - 8, 8) };
    assert_eq!(last, [0; 8]);
}

#[test]
fn discarded_pages_are_zeros_and_their_neighbours_stay() {
    let page = rustix::param::page_size() as u64;
    let arena = Arena::new(8 * page).unwrap();
    // SAFETY: Nobody else has the arena.
    unsafe { arena.target(0, 8 * page).write_bytes(7, 8 * page as usize) };
    arena.discard(page + 1, 3 * page);
    arena.discard(6 * page + 1, page - 1);
    // SAFETY: As above.
    let pages: Vec<_> = unsafe { arena.bytes(0, 8 * page as usize) }.chunks(page as usize).collect();
    for (n, bytes) in pages.iter().enumerate() {
        let expected = if (2..4).contains(&n) { 0 } else { 7 };
        assert!(bytes.iter().all(|&b| b == expected), "page {n}");
    }
    let error = Arena::new(u64::MAX).unwrap_err().to_string();
    assert!(error.contains(&u64::MAX.to_string()), "{error}");
}

#[test]
#[should_panic(expected = "of an arena of")]
fn bytes_past_the_end_of_an_arena_are_refused() {
    let arena = Arena::new(10_000).unwrap();
    assert_eq!(arena.len(), 12_288);
    // SAFETY: Nobody reads into the arena.
    unsafe { arena.bytes(12_000, 289) };
}
