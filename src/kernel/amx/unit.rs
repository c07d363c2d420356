//! The matrix unit itself: whether it may be used, its configuration, and the instructions on tiles.
//!
//! Tile registers hold C in 0..4, A in 4 and 5, B in 4.. up to 7; each block of assembly names those it changes, and the
//! compiler touches none of them.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, __m512i, _xgetbv};
use std::cell::UnsafeCell;
use std::sync::OnceLock;

use super::super::avx512::registers::load_i32x16;

/// Whether this CPU has AMX with products of bytes, the operating system saves its tiles, and this process may use them.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_amx_int8() && may_use_tiles())
}

fn has_amx_int8() -> bool {
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("xsave") || __get_cpuid_max(0).0 < 7 {
        return false;
    }
    // SAFETY: the CPU has `xsave`, and AVX's detection has found that the operating system enabled it.
    let enabled = is_x86_feature_detected!("avx") && unsafe { _xgetbv(0) } & TILE_STATE == TILE_STATE;
    enabled && __cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8
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
pub(super) struct Unit(());

impl Unit {
    /// Tiles for products of `K` bytes: C is 16 × 16 doublewords, A is 16 rows of `K` bytes, B `K` / 4 rows of 16 fours.
    ///
    /// # Safety
    /// [`is_available`] has said so, and no other `Unit` of this thread is alive.
    pub(super) unsafe fn configured<const K: usize>() -> Unit {
        const { assert!(K == 32 || K == 64) };
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            let (rows, bytes) = match tile {
                0..4 => (16, 64),
                4 | 5 => (16, K),
                _ => (K / 4, 64),
            };
            configuration.rows[tile] = rows as u8;
            configuration.row_bytes[tile] = bytes as u16;
        }
        // SAFETY: the configuration is one that palette 1 allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Unit(())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: the instruction gives up this thread's tiles, whose user is gone.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
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

/// A tile of A or B in memory, its rows one after the other.
pub(super) type Tile = *const u8;

/// Loads a tile whose rows are so many bytes apart.
macro_rules! load {
    ($tile:tt, $from:expr, $stride:expr) => {
        asm!(concat!("tileloadd ", $tile, ", [{from} + {stride}*1]"), from = in(reg) $from, stride = in(reg) $stride,
             out($tile) _, options(nostack, readonly, preserves_flags))
    };
}

/// Stores a tile of C and clears it.
macro_rules! store_and_clear {
    ($tile:tt, $to:expr) => {
        asm!(concat!("tilestored [{to} + {stride}*1], ", $tile), concat!("tilezero ", $tile),
             to = in(reg) $to, stride = in(reg) 64usize, out($tile) _, options(nostack, preserves_flags))
    };
}

/// Adds the product of two tiles to a third.
macro_rules! multiply {
    ($unsigned:expr, $c:tt, $a:tt, $b:tt) => {
        if $unsigned {
            asm!(concat!("tdpbsud ", $c, ", ", $a, ", ", $b), out($c) _, options(nostack, nomem, preserves_flags));
        } else {
            asm!(concat!("tdpbssd ", $c, ", ", $a, ", ", $b), out($c) _, options(nostack, nomem, preserves_flags));
        }
    };
}

/// Pieces in which a product is made, so that other work can be put between them.
pub(super) const PIECES: usize = 4;

impl Unit {
    /// A piece of `C[N · i + j] += A[i] · B[j]`, for one or two tiles of A and two or four of B, four of C at the most. The bytes
    /// of A are signed, those of B unsigned if `UNSIGNED`. With `STORE`, C begins at zero and the sums of the last
    /// step are stored before: the first two tiles with the first piece, each of the others with its own. A store that
    /// waits for the last product costs the unit nothing when the next product on other tiles is under way.
    ///
    /// # Safety
    /// The unit is configured for 64 bytes; each tile has 1024 readable bytes; the pieces before this one were of the same
    /// operands.
    #[inline(always)]
    pub(super) unsafe fn multiply<
        const M: usize,
        const N: usize,
        const UNSIGNED: bool,
        const STORE: bool,
        const PIECE: usize,
    >(
        &self,
        a: [Tile; M],
        b: [Tile; N],
        c: &Stored,
    ) {
        const { assert!(matches!((M, N), (1 | 2, 2) | (1, 4)) && PIECE < PIECES) };
        // SAFETY: the caller's promise.
        unsafe {
            match PIECE {
                0 => {
                    load!("tmm4", a[0], 64usize);
                    load!("tmm6", b[0], 64usize);
                    if STORE {
                        store_and_clear!("tmm0", c.tile(0));
                        store_and_clear!("tmm1", c.tile(1));
                    }
                    multiply!(UNSIGNED, "tmm0", "tmm4", "tmm6");
                }
                1 => {
                    load!("tmm7", b[1], 64usize);
                    multiply!(UNSIGNED, "tmm1", "tmm4", "tmm7");
                }
                2 => {
                    if STORE {
                        store_and_clear!("tmm2", c.tile(2));
                    }
                    if M == 2 {
                        load!("tmm5", a[M - 1], 64usize);
                        multiply!(UNSIGNED, "tmm2", "tmm5", "tmm6");
                    } else if N == 4 {
                        load!("tmm5", b[N - 2], 64usize);
                        multiply!(UNSIGNED, "tmm2", "tmm4", "tmm5");
                    }
                }
                _ => {
                    if STORE {
                        store_and_clear!("tmm3", c.tile(3));
                    }
                    if M == 2 {
                        multiply!(UNSIGNED, "tmm3", "tmm5", "tmm7");
                    } else if N == 4 {
                        load!("tmm6", b[N - 1], 64usize);
                        multiply!(UNSIGNED, "tmm3", "tmm4", "tmm6");
                    }
                }
            }
        }
    }

    /// A piece of `C[2j + i] = A[i] · B[i][j]`; the sums of the last step, where `C[2j]` and `C[2j + 1]` are tiles 2j and 2j + 1,
    /// are stored before: those of `j = 0` with the first piece, the others with the third. `B[i]` is two tiles, one after
    /// the other.
    ///
    /// # Safety
    /// The unit is configured for 32 bytes; each tile of A has 512 readable bytes, each two of B 1024; the pieces before this
    /// one were of the same operands.
    #[inline(always)]
    pub(super) unsafe fn multiply_pairs<const PIECE: usize>(&self, a: [Tile; 2], b: [Tile; 2], c: &Stored) {
        const { assert!(PIECE < PIECES) };
        // SAFETY: the caller's promise.
        unsafe {
            match PIECE {
                0 => {
                    load!("tmm4", a[0], 32usize);
                    load!("tmm6", b[0], 64usize);
                    store_and_clear!("tmm0", c.tile(0));
                    store_and_clear!("tmm1", c.tile(1));
                    multiply!(false, "tmm0", "tmm4", "tmm6");
                }
                1 => {
                    load!("tmm5", a[1], 32usize);
                    load!("tmm7", b[1], 64usize);
                    multiply!(false, "tmm1", "tmm5", "tmm7");
                }
                2 => {
                    load!("tmm6", b[0].add(512), 64usize);
                    store_and_clear!("tmm2", c.tile(2));
                    store_and_clear!("tmm3", c.tile(3));
                    multiply!(false, "tmm2", "tmm4", "tmm6");
                }
                _ => {
                    load!("tmm7", b[1].add(512), 64usize);
                    multiply!(false, "tmm3", "tmm5", "tmm7");
                }
            }
        }
    }

    /// Stores C.
    #[inline(always)]
    pub(super) fn store(&self, c: &Stored) {
        // SAFETY: a tile has as many bytes as a `Sums`.
        unsafe {
            asm!(
                "tilestored [{c} + {stride}*1], tmm0",
                "tilestored [{c} + {stride}*1 + 1024], tmm1",
                "tilestored [{c} + {stride}*1 + 2048], tmm2",
                "tilestored [{c} + {stride}*1 + 3072], tmm3",
                c = in(reg) c.tile(0), stride = in(reg) 64usize,
                options(nostack, preserves_flags),
            );
        }
    }
}
