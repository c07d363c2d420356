//! The matrix unit itself: whether it may be used, its configuration, and the instructions on tiles.
//!
//! Tile registers hold C in 0..4, A in 4 and 5, B in 4.. up to 7; each block of assembly names those it changes, and the
//! compiler touches none of them.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv};
use std::sync::OnceLock;

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

/// How the bytes of B are read; those of A are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    Signed,
    Unsigned,
}

/// Sixteen rows of sixteen doublewords.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[i32; 16]; 16]);

/// A tile of A or B in memory, its rows one after the other.
type Tile = *const u8;

/// What happens to C before a product is added to it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Before {
    Nothing,
    /// The sums of the last step are stored, four [`Sums`], and C begins at zero. A store that waits for the last product
    /// costs the unit nothing when the next product on other tiles is under way.
    StoreAndClear(*mut Sums),
}

/// Runs a step's assembly, which is a macro of the name of the product, what precedes the product on each of the tiles
/// of C, and the place for stores.
macro_rules! run {
    ($step:ident, $codes:expr, $before:expr) => {
        match ($codes, $before) {
            (Codes::Signed, Before::Nothing) => $step!("tdpbssd", ["", "", "", ""], std::ptr::null_mut::<Sums>()),
            (Codes::Unsigned, Before::Nothing) => $step!("tdpbsud", ["", "", "", ""], std::ptr::null_mut::<Sums>()),
            (Codes::Signed, Before::StoreAndClear(c)) => run!(@swap $step, "tdpbssd", c),
            (Codes::Unsigned, Before::StoreAndClear(c)) => run!(@swap $step, "tdpbsud", c),
        }
    };
    (@swap $step:ident, $tdp:literal, $c:expr) => {
        $step!(
            $tdp,
            [
                "tilestored [{c} + {stride}*1], tmm0\ntilezero tmm0",
                "tilestored [{c} + {stride}*1 + 1024], tmm1\ntilezero tmm1",
                "tilestored [{c} + {stride}*1 + 2048], tmm2\ntilezero tmm2",
                "tilestored [{c} + {stride}*1 + 3072], tmm3\ntilezero tmm3"
            ],
            $c
        )
    };
}

impl Unit {
    /// `C[2i + j] += A[i] · B[j]`.
    ///
    /// # Safety
    /// The unit is configured for 64 bytes; each tile has 1024 readable bytes, and the place for stores 4096 writable ones.
    #[inline(always)]
    pub(super) unsafe fn two_by_two(&self, codes: Codes, a: [Tile; 2], b: [Tile; 2], before: Before) {
        macro_rules! step {
            ($tdp:literal, [$c0:literal, $c1:literal, $c2:literal, $c3:literal], $c:expr) => {
                asm!(
                    "// {c}",
                    "tileloadd tmm4, [{a0} + {stride}*1]",
                    "tileloadd tmm6, [{b0} + {stride}*1]",
                    $c0,
                    concat!($tdp, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b1} + {stride}*1]",
                    $c1,
                    concat!($tdp, " tmm1, tmm4, tmm7"),
                    "tileloadd tmm5, [{a1} + {stride}*1]",
                    $c2,
                    concat!($tdp, " tmm2, tmm5, tmm6"),
                    $c3,
                    concat!($tdp, " tmm3, tmm5, tmm7"),
                    a0 = in(reg) a[0], a1 = in(reg) a[1], b0 = in(reg) b[0], b1 = in(reg) b[1],
                    c = in(reg) $c, stride = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags),
                )
            };
        }
        // SAFETY: the caller's promise.
        unsafe { run!(step, codes, before) }
    }

    /// `C[j] += A · B[j]`.
    ///
    /// # Safety
    /// As [`Unit::two_by_two`].
    #[inline(always)]
    pub(super) unsafe fn one_by_four(&self, codes: Codes, a: Tile, b: [Tile; 4], before: Before) {
        macro_rules! step {
            ($tdp:literal, [$c0:literal, $c1:literal, $c2:literal, $c3:literal], $c:expr) => {
                asm!(
                    "// {c}",
                    "tileloadd tmm4, [{a} + {stride}*1]",
                    "tileloadd tmm6, [{b0} + {stride}*1]",
                    $c0,
                    concat!($tdp, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b1} + {stride}*1]",
                    $c1,
                    concat!($tdp, " tmm1, tmm4, tmm7"),
                    "tileloadd tmm5, [{b2} + {stride}*1]",
                    $c2,
                    concat!($tdp, " tmm2, tmm4, tmm5"),
                    "tileloadd tmm6, [{b3} + {stride}*1]",
                    $c3,
                    concat!($tdp, " tmm3, tmm4, tmm6"),
                    a = in(reg) a, b0 = in(reg) b[0], b1 = in(reg) b[1], b2 = in(reg) b[2], b3 = in(reg) b[3],
                    c = in(reg) $c, stride = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags),
                )
            };
        }
        // SAFETY: the caller's promise.
        unsafe { run!(step, codes, before) }
    }

    /// `C[j] += A · B[j]` for two tiles of B; what is stored of the other two of C is of no meaning.
    ///
    /// # Safety
    /// As [`Unit::two_by_two`].
    #[inline(always)]
    pub(super) unsafe fn one_by_two(&self, codes: Codes, a: Tile, b: [Tile; 2], before: Before) {
        macro_rules! step {
            ($tdp:literal, [$c0:literal, $c1:literal, $c2:literal, $c3:literal], $c:expr) => {
                asm!(
                    "// {c}",
                    "tileloadd tmm4, [{a} + {stride}*1]",
                    "tileloadd tmm6, [{b0} + {stride}*1]",
                    $c0,
                    concat!($tdp, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{b1} + {stride}*1]",
                    $c1,
                    concat!($tdp, " tmm1, tmm4, tmm7"),
                    $c2,
                    $c3,
                    a = in(reg) a, b0 = in(reg) b[0], b1 = in(reg) b[1], c = in(reg) $c, stride = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags),
                )
            };
        }
        // SAFETY: the caller's promise.
        unsafe { run!(step, codes, before) }
    }

    /// `C[2i + j] = A[i] · B[i][j]` after the sums of the last step have been stored; `B[i]` is two tiles, one after the other.
    ///
    /// # Safety
    /// The unit is configured for 32 bytes; each tile of A has 512 readable bytes, each two of B
    /// 1024, and the place for stores 4096 writable ones.
    #[inline(always)]
    pub(super) unsafe fn two_by_pairs(&self, a: [Tile; 2], b: [Tile; 2], c: *mut Sums) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tileloadd tmm4, [{a0} + {half}*1]",
                "tileloadd tmm6, [{b0} + {stride}*1]",
                "tilestored [{c} + {stride}*1], tmm0",
                "tilezero tmm0",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b0} + {stride}*1 + 512]",
                "tilestored [{c} + {stride}*1 + 1024], tmm1",
                "tilezero tmm1",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {half}*1]",
                "tileloadd tmm6, [{b1} + {stride}*1]",
                "tilestored [{c} + {stride}*1 + 2048], tmm2",
                "tilezero tmm2",
                "tdpbssd tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {stride}*1 + 512]",
                "tilestored [{c} + {stride}*1 + 3072], tmm3",
                "tilezero tmm3",
                "tdpbssd tmm3, tmm5, tmm7",
                a0 = in(reg) a[0], a1 = in(reg) a[1], b0 = in(reg) b[0], b1 = in(reg) b[1], c = in(reg) c,
                stride = in(reg) 64usize, half = in(reg) 32usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Stores C.
    #[inline(always)]
    pub(super) fn store(&self, c: &mut [Sums; 4]) {
        // SAFETY: a tile has as many bytes as a `Sums`.
        unsafe {
            asm!(
                "tilestored [{c} + {stride}*1], tmm0",
                "tilestored [{c} + {stride}*1 + 1024], tmm1",
                "tilestored [{c} + {stride}*1 + 2048], tmm2",
                "tilestored [{c} + {stride}*1 + 3072], tmm3",
                c = in(reg) c.as_mut_ptr(), stride = in(reg) 64usize,
                options(nostack, preserves_flags),
            );
        }
    }
}
