//! Which way of reading experts this disk and file system are good for: a few megabytes of experts that are not in memory,
//! read both ways and compared.

#![allow(unsafe_code, reason = "an arena lends its bytes on a promise")]

use std::sync::Arc;
use std::time::Instant;

use super::cache::ExpertId;
use super::direct::{ALIGN, Arena, Piece, Reader, Ticket, Urgency, slot_bytes};
use super::mapping::{FileRange, StoreError};
use super::places::Places;

/// Bytes of a part of an expert that is read, and how many of them each way.
const PART_BYTES: u64 = 1 << 20;
const N_PARTS: usize = 4;
/// How many times as fast reads through the page cache must be to be chosen: direct ones keep to their budget by
/// themselves and leave the processor alone.
const CLEARLY: f64 = 2.5;

/// Bytes a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speeds {
    direct: f64,
    mapped: f64,
}

impl Speeds {
    pub(super) fn prefers_mapped(&self) -> bool {
        self.mapped > CLEARLY * self.direct
    }

    /// In words.
    pub(super) fn tell(&self) -> String {
        let gigabytes = |speed: f64| speed / 1e9;
        format!("{:.1} GB/s past the page cache, {:.1} through it", gigabytes(self.direct), gigabytes(self.mapped))
    }
}

/// Reads parts of experts both ways. `None` where too few are out of memory to be timed.
///
/// # Errors
/// Direct reads that do not work or give other bytes.
pub(super) fn probe(places: &Places<'_>) -> Result<Option<Speeds>, StoreError> {
    let arena = Arc::new(Arena::new(N_PARTS as u64 * (PART_BYTES + 2 * ALIGN))?);
    let mut reader = Reader::new(places.model, Arc::clone(&arena))?;
    let parts = cold_parts(places);
    if parts.len() < 2 * N_PARTS {
        return Ok(None);
    }
    let (direct, mapped) = parts.split_at(N_PARTS);

    let mut at = 0;
    let place = |&range: &FileRange| {
        let piece = Piece { range, at };
        at += slot_bytes(range);
        piece
    };
    let pieces: Vec<Piece> = direct.iter().map(place).collect();
    // Each part by itself, and the best of them: who else uses the disk or the processor should not decide.
    let speed = |n_bytes: u64, began: Instant| n_bytes as f64 / began.elapsed().as_secs_f64();
    let (mut done, mut populated) = (Vec::new(), true);
    let mut best = Speeds { direct: 0.0, mapped: 0.0 };
    for (i, (piece, &part)) in pieces.iter().zip(mapped).enumerate() {
        let began = Instant::now();
        reader.submit(Ticket(i as u64), std::slice::from_ref(piece), Urgency::Demand);
        reader.wait(&mut done);
        best.direct = best.direct.max(speed(piece.range.n_bytes, began));
        let began = Instant::now();
        places.model.will_need(part);
        populated &= places.model.populate(part).is_ok();
        best.mapped = best.mapped.max(speed(part.n_bytes, began));
    }
    let failed = done.into_iter().find_map(|completion| completion.outcome.err());
    let differs = if failed.is_none() { differing(places, &arena, &pieces) } else { None };
    parts.iter().for_each(|&part| places.model.drop_pages(part));
    if let Some(error) = failed {
        let path = places.model.gguf().files[direct[0].file].path.clone();
        return Err(StoreError::Direct { path, source: std::io::Error::other(error) });
    }
    if let Some(range) = differs {
        let path = places.model.gguf().files[range.file].path.clone();
        return Err(StoreError::DirectDiffers { path, offset: range.offset });
    }
    Ok(populated.then_some(best))
}

/// A part that was read directly to other bytes than the mapping has.
fn differing(places: &Places<'_>, arena: &Arena, pieces: &[Piece]) -> Option<FileRange> {
    let differs = |&&Piece { range, at }: &&Piece| {
        places.model.will_need(range);
        let _ = places.model.populate(range);
        arena_bytes(arena, at + range.offset % ALIGN, range.n_bytes) != places.model.bytes(range)
    };
    pieces.iter().find(differs).map(|piece| piece.range)
}

fn arena_bytes(arena: &Arena, at: u64, n_bytes: u64) -> &[u8] {
    // SAFETY: the reads into this arena, which nobody else has, are over.
    unsafe { arena.bytes(at, n_bytes as usize) }
}

/// Beginnings of experts from all over the model, none of which is in memory.
fn cold_parts(places: &Places<'_>) -> Vec<FileRange> {
    let routed: Vec<u32> =
        (0..places.layers.len() as u32).filter(|&layer| places.layers[layer as usize].is_some()).collect();
    let mut parts = Vec::new();
    // The last ones are the least likely to have been read with something else.
    for expert in 0..2 * N_PARTS as u32 {
        for i in 0..N_PARTS.min(routed.len()) {
            let layer = routed[i * routed.len() / N_PARTS.min(routed.len())];
            let n_experts = places.layer(layer as usize).n_experts() as u32;
            if parts.len() == 2 * N_PARTS || expert >= n_experts {
                continue;
            }
            let [range, ..] = places.ranges(ExpertId { layer, expert: n_experts - 1 - expert });
            let part = FileRange { n_bytes: range.n_bytes.min(PART_BYTES), ..range };
            if part.n_bytes > 0 && places.residency.resident_bytes(part) == Some(0) {
                parts.push(part);
            }
        }
    }
    parts
}
