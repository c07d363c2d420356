//! The matrix unit itself: whether it may be used, its configuration, and the instructions on tiles.
//!
//! Tile registers hold C in 0..4, A and B in the others; each block of assembly names those it changes, and the compiler
//! touches none of them.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, __m512i, _MM_HINT_T1, _mm_prefetch, _xgetbv};
use std::cell::UnsafeCell;
use std::sync::OnceLock;

use super::super::avx512::registers::load_i32x16;
use super::super::panels::{Lanes, Out, PANELS};
use super::super::tiled::Bf16Tile;

/// Whether this CPU has AMX with products of bytes and of bf16, the operating system saves its tiles, and this process may use them.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_amx() && may_use_tiles())
}

fn has_amx() -> bool {
    const TILE_INT8_BF16: u32 = 1 << 24 | 1 << 25 | 1 << 22;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("xsave") || __get_cpuid_max(0).0 < 7 {
        return false;
    }
    // SAFETY: the CPU has `xsave`, and AVX's detection has found that the operating system enabled it.
    let enabled = is_x86_feature_detected!("avx") && unsafe { _xgetbv(0) } & TILE_STATE == TILE_STATE;
    enabled && __cpuid_count(7, 0).edx & TILE_INT8_BF16 == TILE_INT8_BF16
}

/// Asks Linux for room for the tiles in the state of this process's threads, which it gives to none unasked.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two integers and changes nothing but this permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// Tile shapes, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tiles of this thread, configured; they are released when this is dropped.
pub(in crate::kernel) struct Unit(());

/// Loads a tile whose lines lie one after the other, by one of two instructions.
macro_rules! load {
    ($load:literal, $tile:tt, $from:expr) => {
        asm!(concat!($load, " ", $tile, ", [{from} + {line}*1]"), from = in(reg) $from, line = in(reg) 64usize,
             out($tile) _, options(nostack, readonly, preserves_flags))
    };
}

/// A tile of sums as it was stored before, or zeros.
macro_rules! begin {
    ($tile:tt, $from:expr, $precedes:expr) => {
        if $precedes {
            load!("tileloadd", $tile, $from)
        } else {
            asm!(concat!("tilezero ", $tile), out($tile) _, options(nostack, nomem, preserves_flags))
        }
    };
}

macro_rules! store {
    ($tile:tt, $to:expr) => {
        asm!(concat!("tilestored [{to} + {line}*1], ", $tile), to = in(reg) $to, line = in(reg) 64usize,
             options(nostack, preserves_flags))
    };
}

/// Adds the product of two tiles to a third, by one of the instructions.
macro_rules! multiply {
    ($multiply:literal, $c:tt, $a:tt, $b:tt) => {
        asm!(concat!($multiply, " ", $c, ", ", $a, ", ", $b), out($c) _, options(nostack, nomem, preserves_flags))
    };
}

/// Lets some places in the instruction stream pass. While the core's other thread is at work, products and loads right after
/// each other hold each other up; with a gap between them they take two thirds of the time. A core of one's own takes no longer
/// for the gaps.
macro_rules! gap {
    ($n:literal) => {
        asm!(concat!(".rept ", $n), "nop", ".endr", options(nostack, nomem, preserves_flags))
    };
}

/// Adds the product of two tiles of bf16; see also [`gap`].
macro_rules! multiply_bf16 {
    ($c:tt, $a:tt, $b:tt) => {
        multiply!("tdpbf16ps", $c, $a, $b);
        gap!("16");
    };
}

/// Stores a tile of C and clears it.
macro_rules! store_and_clear {
    ($tile:tt, $to:expr) => {
        store!($tile, $to);
        asm!(concat!("tilezero ", $tile), out($tile) _, options(nostack, nomem, preserves_flags))
    };
}

/// Adds the product of two tiles of bytes, the first of signed ones; see also [`gap`].
macro_rules! multiply_bytes {
    ($unsigned:expr, $c:tt, $a:tt, $b:tt) => {
        if $unsigned {
            multiply!("tdpbsud", $c, $a, $b);
        } else {
            multiply!("tdpbssd", $c, $a, $b);
        }
        gap!("8");
    };
}

/// A tile of C in memory: sixteen rows of sixteen doublewords.
#[repr(C, align(64))]
struct Sums([[i32; 16]; 16]);

/// Where the unit stores C, a tile at a time while others are read.
pub(super) struct Stored(UnsafeCell<[Sums; 4]>);

impl Default for Stored {
    fn default() -> Stored {
        Stored(UnsafeCell::new(std::array::from_fn(|_| Sums([[0; 16]; 16]))))
    }
}

impl Stored {
    /// Where a tile goes.
    fn tile(&self, tile: usize) -> *mut Sums {
        assert!(tile < 4, "one of four tiles");
        // SAFETY: the tile is one of the four.
        unsafe { self.0.get().cast::<Sums>().add(tile) }
    }

    /// A row of a tile.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn row(&self, tile: usize, row: usize) -> __m512i {
        // SAFETY: it is one of this thread's tiles, which no reference outlasts this expression.
        load_i32x16(unsafe { &(&*self.tile(tile)).0[row] })
    }
}

/// A tile of A or B in memory, its lines one after the other.
pub(super) type Tile = *const u8;

/// What a product of bytes takes: two tiles of A, of which the second may not be needed, and two of B.
#[derive(Clone, Copy)]
pub(super) struct ByteOperands {
    pub(super) a: [Tile; 2],
    pub(super) b: [Tile; 2],
}

/// A tile of numbers that are sums of two bf16: the nearest one, and what is left.
#[derive(Clone)]
pub(in crate::kernel) struct SplitTile {
    pub(in crate::kernel) near: Bf16Tile,
    pub(in crate::kernel) rest: Bf16Tile,
}

impl SplitTile {
    pub(in crate::kernel) const ZERO: SplitTile = SplitTile { near: Bf16Tile::ZERO, rest: Bf16Tile::ZERO };
}

/// Sixteen rows of sixteen sums.
#[derive(Clone)]
#[repr(C, align(64))]
pub(in crate::kernel) struct FloatTile(pub(in crate::kernel) [[f32; 16]; 16]);

impl FloatTile {
    pub(in crate::kernel) const ZERO: FloatTile = FloatTile([[0.0; 16]; 16]);
}

/// Pieces in which a product of bytes is made, so that other work can be put between them.
const PIECES: usize = 4;

impl Unit {
    /// All tiles of sixteen rows of 64 bytes.
    ///
    /// # Safety
    /// [`is_available`] has said so, and no other `Unit` of this thread is alive.
    pub(in crate::kernel) unsafe fn configured() -> Unit {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: the configuration is one that palette 1 allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Unit(())
    }

    /// `sums[n][m] += weights[m] · activations[n]` for one or two tiles of activations, or, where nothing `precedes`, `=`. Of
    /// weights a tile is [rows, 32 elements], of activations [elements / 2, rows, 2], of the sums [weights, activations].
    ///
    /// Tiles are loaded a step before their product, right after the last one that needs what they replace: a core whose
    /// sibling thread is at work looks half as far ahead. Activations pass by the first level of cache, which is the
    /// weights'. What is `ahead` is asked for into the second level, a part with every step.
    #[inline(always)]
    pub(super) fn multiply<const N: usize>(
        &self,
        weights: [&[Bf16Tile]; PANELS],
        activations: [&[Bf16Tile]; N],
        sums: &mut [Out; N],
        precedes: bool,
        ahead: [&[u8]; N],
    ) {
        const { assert!(PANELS == 2 && (N == 1 || N == 2)) };
        let n_steps = weights[0].len();
        let is_even = weights[1].len() == n_steps && activations.iter().all(|tiles| tiles.len() == n_steps);
        assert!(is_even && n_steps > 0, "steps differ");
        let a = weights.map(|tiles| tiles.as_ptr());
        let b = [0, N - 1].map(|n| activations[n].as_ptr());
        let c = [0, N - 1].map(|n| [0, 1].map(|m| (&raw mut sums[n][m]).cast::<Lanes>()));
        // SAFETY: a tile of sums is sixteen rows of sixteen floats, one of an operand sixteen lines of 64 bytes; `step` below
        // stays below their number.
        unsafe {
            load!("tileloadd", "tmm4", a[0]);
            load!("tileloaddt1", "tmm6", b[0]);
            begin!("tmm0", c[0][0], precedes);
            load!("tileloadd", "tmm5", a[1]);
            begin!("tmm1", c[0][1], precedes);
            if N == 2 {
                load!("tileloaddt1", "tmm7", b[1]);
                begin!("tmm2", c[1][0], precedes);
                begin!("tmm3", c[1][1], precedes);
            }
            let lines = ahead.map(|ahead| ahead.len().div_ceil(64 * n_steps));
            for step in 1..n_steps {
                for (ahead, n) in ahead.into_iter().zip(lines) {
                    for line in (step - 1) * n..step * n {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.as_ptr().wrapping_add(64 * line).cast());
                    }
                }
                multiply_bf16!("tmm0", "tmm4", "tmm6");
                multiply_bf16!("tmm1", "tmm5", "tmm6");
                load!("tileloaddt1", "tmm6", b[0].add(step));
                if N == 2 {
                    multiply_bf16!("tmm2", "tmm4", "tmm7");
                }
                load!("tileloadd", "tmm4", a[0].add(step));
                if N == 2 {
                    multiply_bf16!("tmm3", "tmm5", "tmm7");
                }
                load!("tileloadd", "tmm5", a[1].add(step));
                if N == 2 {
                    load!("tileloaddt1", "tmm7", b[1].add(step));
                }
            }
            multiply_bf16!("tmm0", "tmm4", "tmm6");
            store!("tmm0", c[0][0]);
            multiply_bf16!("tmm1", "tmm5", "tmm6");
            store!("tmm1", c[0][1]);
            if N == 2 {
                multiply_bf16!("tmm2", "tmm4", "tmm7");
                store!("tmm2", c[1][0]);
                multiply_bf16!("tmm3", "tmm5", "tmm7");
                store!("tmm3", c[1][1]);
            }
        }
    }
}

impl Unit {
    /// Loads the tiles of the first product of bytes.
    ///
    /// # Safety
    /// Each has 1024 readable bytes.
    #[inline(always)]
    pub(super) unsafe fn load_bytes(&self, operands: &ByteOperands) {
        let ByteOperands { a, b } = operands;
        // SAFETY: the caller's promise.
        unsafe {
            load!("tileloaddt1", "tmm4", a[0]);
            load!("tileloadd", "tmm6", b[0]);
            load!("tileloadd", "tmm7", b[1]);
            load!("tileloaddt1", "tmm5", a[1]);
        }
    }

    /// A piece of `C[2 · i + j] += A[i] · B[j]`, for one or two tiles of A and two of B, which have been loaded; loads what is
    /// `next` right after the last products that need what it replaces. The bytes of A are signed and come from the second
    /// level of cache, those of B are unsigned if `UNSIGNED`. With `STORE`, C begins at zero and the sums of the last step are
    /// stored before: the first two tiles with the first piece, each of the others with its own. A store that waits for the last
    /// product costs the unit nothing when the next product on other tiles is under way.
    ///
    /// # Safety
    /// Each tile has 1024 readable bytes.
    #[inline(always)]
    pub(super) unsafe fn multiply_bytes<const M: usize, const UNSIGNED: bool, const STORE: bool, const PIECE: usize>(
        &self,
        next: Option<&ByteOperands>,
        c: &Stored,
    ) {
        const { assert!((M == 1 || M == 2) && PIECE < PIECES) };
        // SAFETY: the caller's promise.
        unsafe {
            match PIECE {
                0 => {
                    if STORE {
                        store_and_clear!("tmm0", c.tile(0));
                        store_and_clear!("tmm1", c.tile(1));
                    }
                    multiply_bytes!(UNSIGNED, "tmm0", "tmm4", "tmm6");
                }
                1 => {
                    multiply_bytes!(UNSIGNED, "tmm1", "tmm4", "tmm7");
                    if let Some(ByteOperands { a, .. }) = next {
                        load!("tileloaddt1", "tmm4", a[0]);
                    }
                }
                2 => {
                    if STORE {
                        store_and_clear!("tmm2", c.tile(2));
                    }
                    if M == 2 {
                        multiply_bytes!(UNSIGNED, "tmm2", "tmm5", "tmm6");
                    }
                    if let Some(ByteOperands { b, .. }) = next {
                        load!("tileloadd", "tmm6", b[0]);
                    }
                }
                _ => {
                    if STORE {
                        store_and_clear!("tmm3", c.tile(3));
                    }
                    if M == 2 {
                        multiply_bytes!(UNSIGNED, "tmm3", "tmm5", "tmm7");
                    }
                    if let Some(ByteOperands { a, b }) = next {
                        if M == 2 {
                            load!("tileloaddt1", "tmm5", a[1]);
                        }
                        load!("tileloadd", "tmm7", b[1]);
                    }
                }
            }
        }
    }

    /// Stores C.
    pub(super) fn store(&self, c: &Stored) {
        // SAFETY: a tile has as many bytes as a `Sums`.
        unsafe {
            store!("tmm0", c.tile(0));
            store!("tmm1", c.tile(1));
            store!("tmm2", c.tile(2));
            store!("tmm3", c.tile(3));
        }
    }
}

impl Unit {
    /// `c[i][j] += a[i] · b[j]`, or, where nothing `precedes`, `=`: the sum of the products of all parts. Of `a` a tile is
    /// [rows, 32 elements], of `b` [elements / 2, columns, 2].
    #[inline(always)]
    pub(in crate::kernel) fn multiply_split(
        &self,
        a: [&[SplitTile]; 2],
        b: [&[SplitTile]; 2],
        c: &mut [[FloatTile; 2]; 2],
        precedes: bool,
    ) {
        let n_steps = a[0].len();
        assert!(n_steps > 0 && [a[1], b[0], b[1]].iter().all(|tiles| tiles.len() == n_steps), "steps differ");
        let near = |tiles: &[SplitTile], step: usize| (&raw const tiles[step].near).cast::<u8>();
        let rest = |tiles: &[SplitTile], step: usize| (&raw const tiles[step].rest).cast::<u8>();
        let [[c00, c01], [c10, c11]] = c.each_mut().map(|row| row.each_mut().map(|tile| &raw mut *tile));
        // SAFETY: a tile of sums is sixteen rows of sixteen floats, one of an operand sixteen lines of 64 bytes.
        unsafe {
            load!("tileloadd", "tmm4", near(a[0], 0));
            load!("tileloadd", "tmm6", rest(b[0], 0));
            begin!("tmm0", c00, precedes);
            load!("tileloadd", "tmm5", near(a[1], 0));
            begin!("tmm2", c10, precedes);
            load!("tileloadd", "tmm7", rest(b[1], 0));
            begin!("tmm1", c01, precedes);
            begin!("tmm3", c11, precedes);
            for step in 0..n_steps {
                multiply_bf16!("tmm0", "tmm4", "tmm6");
                multiply_bf16!("tmm2", "tmm5", "tmm6");
                load!("tileloadd", "tmm6", near(b[0], step));
                multiply_bf16!("tmm1", "tmm4", "tmm7");
                multiply_bf16!("tmm3", "tmm5", "tmm7");
                load!("tileloadd", "tmm7", near(b[1], step));
                multiply_bf16!("tmm0", "tmm4", "tmm6");
                multiply_bf16!("tmm1", "tmm4", "tmm7");
                load!("tileloadd", "tmm4", rest(a[0], step));
                multiply_bf16!("tmm2", "tmm5", "tmm6");
                multiply_bf16!("tmm3", "tmm5", "tmm7");
                load!("tileloadd", "tmm5", rest(a[1], step));
                multiply_bf16!("tmm0", "tmm4", "tmm6");
                multiply_bf16!("tmm1", "tmm4", "tmm7");
                multiply_bf16!("tmm2", "tmm5", "tmm6");
                load!("tileloadd", "tmm6", rest(b[0], step));
                multiply_bf16!("tmm3", "tmm5", "tmm7");
                load!("tileloadd", "tmm7", rest(b[1], step));
                multiply_bf16!("tmm0", "tmm4", "tmm6");
                multiply_bf16!("tmm1", "tmm4", "tmm7");
                let next = step + 1;
                if next == n_steps {
                    break;
                }
                load!("tileloadd", "tmm4", near(a[0], next));
                multiply_bf16!("tmm2", "tmm5", "tmm6");
                load!("tileloadd", "tmm6", rest(b[0], next));
                multiply_bf16!("tmm3", "tmm5", "tmm7");
                load!("tileloadd", "tmm5", near(a[1], next));
                load!("tileloadd", "tmm7", rest(b[1], next));
            }
            store!("tmm0", c00);
            multiply_bf16!("tmm2", "tmm5", "tmm6");
            store!("tmm1", c01);
            multiply_bf16!("tmm3", "tmm5", "tmm7");
            store!("tmm2", c10);
            store!("tmm3", c11);
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: the instruction gives up this thread's tiles, whose user is gone.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
