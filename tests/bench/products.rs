//! Operations a second of each matrix product on one core, beside the peak in the same run, that of the matrix unit or
//! of the products of bytes that the set has: `cargo bench --bench products -- [FORMAT] [ISA]`. A line is a format and an instruction set, a
//! column a number of rows of activations; the figure is the share of the peak, in percent. Each is the best of many short
//! runs, so that neighbours on the machine hardly count.
#![allow(unsafe_code, reason = "the peak is measured with the unit's own instructions")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::{Duration, Instant};

use wayinfer::kernel::{ActivationScratch, Activations, Isa, Kernels, Matrix, Rows};
use wayinfer::pool::Pool;
use wayinfer::quant::GgmlType;

/// Elements of a row, and rows of weights: what fits the second level of cache.
const N_COLS: usize = 2048;
const N_ROWS: usize = 256;
/// Rows of activations.
const ROWS: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512];
/// How long one figure may take.
const PATIENCE: Duration = Duration::from_millis(250);

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        let of_kind = |isa: bool| filters.iter().filter(move |f| f.parse::<Isa>().is_ok() == isa);
        let is_isa = name.parse::<Isa>().is_ok();
        of_kind(is_isa).count() == 0 || of_kind(is_isa).any(|f| f.eq_ignore_ascii_case(name))
    };
    let pool = Pool::new(Some(1)).expect("one thread");
    let (unit, avx512, avx2) = (peak_of_unit(), peak_of_avx512(), peak_of_avx2());
    println!(
        "peak {:.3} TOPS on the matrix unit, {:.3} on AVX-512, {:.3} on AVX2",
        unit / 1e12,
        avx512 / 1e12,
        avx2 / 1e12
    );
    println!("{:<16}{}", "percent", ROWS.map(|n| format!("{n:>7}")).concat());
    for ty in GgmlType::ALL.into_iter().filter(|ty| ty.is_computable() && wanted(ty.name())) {
        for kernels in [Isa::Avx2, Isa::Avx512, Isa::Amx].into_iter().filter_map(Kernels::new) {
            if wanted(kernels.isa().name()) {
                let peak = match kernels.isa() {
                    Isa::Avx2 => avx2,
                    Isa::Avx512 => avx512,
                    _ => unit,
                };
                let shares = ROWS.map(|n| format!("{:>7.2}", speed(ty, &kernels, &pool, n) / peak * 100.0));
                println!("{:<16}{}", format!("{} {}", ty.name().to_lowercase(), kernels.isa()), shares.concat());
            }
        }
    }
}

/// The shortest of many runs.
fn best(mut run: impl FnMut()) -> f64 {
    let (began, mut best) = (Instant::now(), f64::MAX);
    while began.elapsed() < PATIENCE {
        let began = Instant::now();
        run();
        best = best.min(began.elapsed().as_secs_f64());
    }
    best
}

/// Operations a second, two for each product of a weight and an activation.
fn speed(ty: GgmlType, kernels: &Kernels, pool: &Pool, n: usize) -> f64 {
    // One value everywhere: speed does not depend on data, but a subnormal float would cost an assist.
    let bytes = vec![0x2C; ty.row_bytes(N_COLS as u64).expect("whole blocks") as usize * N_ROWS];
    let x: Vec<f32> = (0..n * N_COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    let matrix = Matrix::new(ty, N_ROWS, N_COLS, &bytes);
    let (mut scratch, mut out) = (ActivationScratch::default(), vec![0.0; n * N_ROWS]);
    let mut x = Activations::new(&x, N_COLS, &mut scratch);
    let seconds = best(|| kernels.matmul(pool, &matrix, &mut x, Rows::All, &mut out));
    2.0 * (n * N_COLS * N_ROWS) as f64 / seconds
}

/// Operations a second of products of bytes, summed in pairs to 16 bits, on registers of AVX2; `NaN` where there are none.
#[cfg(target_arch = "x86_64")]
fn peak_of_avx2() -> f64 {
    use std::arch::asm;

    const PRODUCTS: usize = 80_000;

    // Holding the kernels is the proof that AVX2 is there.
    if Kernels::new(Isa::Avx2).is_none() {
        return f64::NAN;
    }
    let seconds = best(|| {
        for _ in 0..PRODUCTS / 8 {
            // SAFETY: AVX2 is there; the registers are named.
            unsafe {
                asm!("vpmaddubsw ymm0, ymm8, ymm9", "vpmaddubsw ymm1, ymm8, ymm9", "vpmaddubsw ymm2, ymm8, ymm9",
                     "vpmaddubsw ymm3, ymm8, ymm9", "vpmaddubsw ymm4, ymm8, ymm9", "vpmaddubsw ymm5, ymm8, ymm9",
                     "vpmaddubsw ymm6, ymm8, ymm9", "vpmaddubsw ymm7, ymm8, ymm9",
                     out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                     out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _);
            }
        }
    });
    2.0 * (32 * PRODUCTS) as f64 / seconds
}

#[cfg(not(target_arch = "x86_64"))]
fn peak_of_avx2() -> f64 {
    f64::NAN
}

/// Operations a second of products of bytes, summed in fours to 32 bits, on registers of AVX-512; `NaN` where there are none.
#[cfg(target_arch = "x86_64")]
fn peak_of_avx512() -> f64 {
    use std::arch::asm;

    const PRODUCTS: usize = 80_000;

    // Holding the kernels is the proof that AVX-512 is there, with VNNI.
    if Kernels::new(Isa::Avx512).is_none() {
        return f64::NAN;
    }
    let seconds = best(|| {
        for _ in 0..PRODUCTS / 16 {
            // SAFETY: AVX-512 is there; the registers are named.
            unsafe {
                asm!("vpdpbusd zmm0, zmm16, zmm17", "vpdpbusd zmm1, zmm16, zmm17", "vpdpbusd zmm2, zmm16, zmm17",
                     "vpdpbusd zmm3, zmm16, zmm17", "vpdpbusd zmm4, zmm16, zmm17", "vpdpbusd zmm5, zmm16, zmm17",
                     "vpdpbusd zmm6, zmm16, zmm17", "vpdpbusd zmm7, zmm16, zmm17", "vpdpbusd zmm8, zmm16, zmm17",
                     "vpdpbusd zmm9, zmm16, zmm17", "vpdpbusd zmm10, zmm16, zmm17", "vpdpbusd zmm11, zmm16, zmm17",
                     "vpdpbusd zmm12, zmm16, zmm17", "vpdpbusd zmm13, zmm16, zmm17", "vpdpbusd zmm14, zmm16, zmm17",
                     "vpdpbusd zmm15, zmm16, zmm17",
                     out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                     out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                     out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                     out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _);
            }
        }
    });
    2.0 * (64 * PRODUCTS) as f64 / seconds
}

#[cfg(not(target_arch = "x86_64"))]
fn peak_of_avx512() -> f64 {
    f64::NAN
}

/// Operations a second of the matrix unit on bytes that are in its tiles; `NaN` where there is none.
#[cfg(target_arch = "x86_64")]
fn peak_of_unit() -> f64 {
    use std::arch::asm;

    #[repr(C, align(64))]
    struct Configuration([u8; 64]);
    const PRODUCTS: usize = 4000;

    // Holding the kernels is the proof that the unit is there and that this process may use it.
    if Kernels::new(Isa::Amx).is_none() {
        return f64::NAN;
    }
    let mut configuration = Configuration([0; 64]);
    configuration.0[0] = 1;
    for tile in 0..8 {
        configuration.0[16 + 2 * tile] = 64;
        configuration.0[48 + tile] = 16;
    }
    let seconds = best(|| {
        // SAFETY: the unit is there; the tiles are configured before their use and released after it.
        unsafe {
            asm!("ldtilecfg [{}]", "tilezero tmm4", "tilezero tmm5", in(reg) &raw const configuration,
                 out("tmm4") _, out("tmm5") _);
            for _ in 0..PRODUCTS / 4 {
                asm!("tdpbssd tmm0, tmm4, tmm5", "tdpbssd tmm1, tmm4, tmm5",
                     "tdpbssd tmm2, tmm4, tmm5", "tdpbssd tmm3, tmm4, tmm5",
                     out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _);
            }
            asm!("tilerelease");
        }
    });
    2.0 * (16 * 16 * 64 * PRODUCTS) as f64 / seconds
}

#[cfg(not(target_arch = "x86_64"))]
fn peak_of_unit() -> f64 {
    f64::NAN
}
