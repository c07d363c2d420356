//! The search for scales that weight formats share: values and how much each one counts in, the scale (and minimum) of
//! least weighted squared error out. For codes that stand, the best scale has a closed form; for a scale that stands, the
//! best codes are the nearest ones. Both are alternated from a number of starts. Nothing here depends on a thread or an
//! instruction set: a model is quantized to the same bytes everywhere.

use super::block::Half;

/// Starts tried on each side of the scale that just reaches the largest value.
const STARTS: i32 = 9;
/// Rounds of codes, then scale, then codes, after the best start.
const ROUNDS: usize = 3;

/// How much each value counts: its magnitude and the block's root mean square, since large weights do more to a result.
pub(super) fn importance<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let [squares] = sums::<N, 1>(|i| [x[i] * x[i]]);
    let rms = (squares / N as f64).sqrt() as f32;
    x.map(|v| rms + v.abs())
}

/// Rounds half to even; for magnitudes below 2^22, which codes are.
pub(super) fn round(v: f32) -> f32 {
    const INTEGERS_ONLY: f32 = 12_582_912.0;
    (v + INTEGERS_ONLY) - INTEGERS_ONLY
}

/// The nearest of the codes `low..=high`; a NaN becomes one of them too.
pub(super) fn nearest_code(v: f32, low: f32, high: f32) -> f32 {
    round(v.max(low).min(high))
}

/// The factor that divides by `scale`, 0 for a scale that has none.
pub(super) fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// `K` sums over `0..N` at once, in eight lanes that a compiler makes vectors of.
fn sums<const N: usize, const K: usize>(terms: impl Fn(usize) -> [f32; K]) -> [f64; K] {
    const LANES: usize = 8;
    let mut lanes = [[0f32; LANES]; K];
    for base in (0..N).step_by(LANES) {
        for lane in 0..LANES {
            let terms = terms(base + lane);
            for k in 0..K {
                lanes[k][lane] += terms[k];
            }
        }
    }
    lanes.map(|lanes| lanes.iter().map(|&x| f64::from(x)).sum())
}

/// The levels of a format without minimum: a value is `scale · level`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels<F> {
    /// The level that is farthest from zero; the largest value is put near it.
    pub(super) farthest: f32,
    /// How far apart the starts are, in levels.
    pub(super) step: f32,
    /// The level nearest to a value divided by the scale.
    pub(super) nearest: F,
}

impl<F: Fn(f32) -> f32> Levels<F> {
    /// Σ w·x·level and Σ w·level² of the levels nearest to `x · inverse`.
    fn products<const N: usize>(&self, x: &[f32; N], w: &[f32; N], inverse: f32) -> [f64; 2] {
        sums::<N, 2>(|i| {
            let level = (self.nearest)(x[i] * inverse);
            [w[i] * x[i] * level, w[i] * level * level]
        })
    }

    /// Σ w·(x - scale·level)².
    fn error<const N: usize>(&self, x: &[f32; N], w: &[f32; N], scale: f32) -> f64 {
        let inverse = inverse(scale);
        let [error] = sums::<N, 1>(|i| {
            let miss = x[i] - scale * (self.nearest)(x[i] * inverse);
            [w[i] * miss * miss]
        });
        error
    }

    /// The scale of least weighted squared error over `x`; 0 where all of `x` is 0 or it cannot be told.
    pub(super) fn fit<const N: usize>(&self, x: &[f32; N], w: &[f32; N]) -> f32 {
        let largest = x.iter().copied().fold(0.0, |a: f32, b| if b.abs() > a.abs() { b } else { a });
        let (mut best, mut scale) = (0.0, 0.0);
        // What a scale takes away from the error is (Σ w·x·level)² / Σ w·level².
        let mut attempt = |inverse: f32| {
            let [xl, ll] = self.products(x, w, inverse);
            let gain = xl * xl / ll;
            if gain > best {
                (best, scale) = (gain, (xl / ll) as f32);
            }
            scale
        };
        for start in -STARTS..=STARTS {
            attempt((self.farthest + self.step * start as f32) / largest);
        }
        for _ in 0..ROUNDS {
            let scale = attempt(0.0);
            attempt(inverse(scale));
        }
        scale
    }

    /// A scale for all of a block, and a signed code `-limit..limit` for each of its `S` sub-blocks of `N`, near the
    /// sub-blocks' own `scales`: `d · code` is what a sub-block is scaled by.
    pub(super) fn share<const N: usize, const S: usize>(
        &self,
        x: &[[f32; N]; S],
        w: &[[f32; N]; S],
        scales: [f32; S],
        limit: f32,
    ) -> (Half, [i8; S]) {
        let largest = scales.iter().copied().fold(0.0, |a: f32, b| if b.abs() > a.abs() { b } else { a });
        let mut d = Half::from_f32(-largest / limit);
        let mut best = (f64::INFINITY, d, [0; S]);
        for _ in 0..2 {
            let step = d.to_f32();
            let mut total = 0.0;
            let codes: [f32; S] = std::array::from_fn(|s| {
                let middle = scales[s] * inverse(step);
                let near = [-1.0, 0.0, 1.0].map(|by| nearest_code(middle + by, -limit, limit - 1.0));
                let (code, error) = least(near, |code| self.error(&x[s], &w[s], step * code));
                total += error;
                code
            });
            if total < best.0 {
                best = (total, d, codes.map(|code| code as i8));
            }
            // The best d for these codes.
            let (mut xl, mut ll) = (0.0, 0.0);
            for (s, &code) in codes.iter().enumerate() {
                let [own_xl, own_ll] = self.products(&x[s], &w[s], inverse(step * code));
                xl += own_xl * f64::from(code);
                ll += own_ll * f64::from(code * code);
            }
            d = Half::from_f32(if ll > 0.0 { (xl / ll) as f32 } else { 0.0 });
        }
        (best.1, best.2)
    }
}

/// The candidate of least error, and its error.
fn least<const C: usize, T: Copy>(candidates: [T; C], error: impl Fn(T) -> f64) -> (T, f64) {
    let mut best = (candidates[0], f64::INFINITY);
    for candidate in candidates {
        let error = error(candidate);
        if error < best.1 {
            best = (candidate, error);
        }
    }
    best
}

/// A format with a minimum: a value is `scale · code - min`, codes from 0 to `top`, `min` not negative.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine {
    pub(super) top: f32,
}

/// What the closed form of the best scale and minimum is made of.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    w: f64,
    x: f64,
    xx: f64,
    q: f64,
    qq: f64,
    qx: f64,
}

impl Moments {
    /// The best scale and minimum for these codes, and their weighted squared error.
    fn solve(&self) -> (f64, f64, f64) {
        let determinant = self.w * self.qq - self.q * self.q;
        let mut scale = (self.w * self.qx - self.x * self.q) / determinant;
        let mut min = (self.q * self.qx - self.qq * self.x) / determinant;
        if determinant <= 0.0 || min < 0.0 {
            (scale, min) = (if self.qq > 0.0 { self.qx / self.qq } else { 0.0 }, 0.0);
        }
        (scale, min, self.error(scale, min))
    }

    fn error(&self, scale: f64, min: f64) -> f64 {
        scale * scale * self.qq + min * min * self.w + self.xx - 2.0 * scale * min * self.q - 2.0 * scale * self.qx
            + 2.0 * min * self.x
    }
}

impl Affine {
    /// The moments of the codes nearest to `(x + min) · inverse`.
    fn moments<const N: usize>(self, x: &[f32; N], w: &[f32; N], inverse: f32, min: f32) -> Moments {
        let [sum_w, sum_x, sum_xx] = sums::<N, 3>(|i| [w[i], w[i] * x[i], w[i] * x[i] * x[i]]);
        let [q, qq, qx] = sums::<N, 3>(|i| {
            let code = nearest_code((x[i] + min) * inverse, 0.0, self.top);
            [w[i] * code, w[i] * code * code, w[i] * code * x[i]]
        });
        Moments { w: sum_w, x: sum_x, xx: sum_xx, q, qq, qx }
    }

    /// Σ w·(x + min - scale·code)².
    fn error<const N: usize>(self, x: &[f32; N], w: &[f32; N], scale: f32, min: f32) -> f64 {
        let inverse = inverse(scale);
        let [error] = sums::<N, 1>(|i| {
            let raised = x[i] + min;
            let miss = raised - scale * nearest_code(raised * inverse, 0.0, self.top);
            [w[i] * miss * miss]
        });
        error
    }

    /// Scale and minimum of least weighted squared error over `x`.
    pub(super) fn fit<const N: usize>(self, x: &[f32; N], w: &[f32; N]) -> (f32, f32) {
        let lowest = x.iter().copied().fold(0.0, f32::min);
        let highest = x.iter().copied().fold(lowest, f32::max);
        let (mut best, mut scale, mut min) = (f64::INFINITY, 0.0, -lowest);
        let mut attempt = |inverse: f32, from_min: f32| {
            let (own_scale, own_min, error) = self.moments(x, w, inverse, from_min).solve();
            if error < best && own_scale.is_finite() {
                (best, scale, min) = (error, own_scale as f32, own_min as f32);
            }
            (scale, min)
        };
        for start in -STARTS..=STARTS {
            attempt(inverse((highest - lowest) / (self.top + 0.1 * start as f32)), -lowest);
        }
        let mut state = attempt(0.0, -lowest);
        for _ in 0..ROUNDS {
            state = attempt(inverse(state.0), state.1);
        }
        state
    }

    /// Steps of scales and of minima for all of a block, and codes `0..=limit` of both for each of its `S` sub-blocks of
    /// `N`, near the sub-blocks' own.
    pub(super) fn share<const N: usize, const S: usize>(
        self,
        x: &[[f32; N]; S],
        w: &[[f32; N]; S],
        own: [(f32, f32); S],
        limit: f32,
    ) -> SharedScales<S> {
        let largest = |of: fn(&(f32, f32)) -> f32| own.iter().map(of).fold(0.0, f32::max);
        let (mut d, mut dmin) =
            (Half::from_f32(largest(|own| own.0) / limit), Half::from_f32(largest(|own| own.1) / limit));
        let mut best = (f64::INFINITY, SharedScales { d, dmin, scales: [0; S], mins: [0; S] });
        for _ in 0..2 {
            let (step, min_step) = (d.to_f32(), dmin.to_f32());
            let mut total = 0.0;
            let codes: [(f32, f32); S] = std::array::from_fn(|s| {
                let near = |middle: f32| [0.0, -1.0, 1.0].map(|by| nearest_code(middle + by, 0.0, limit));
                let (scales, mins) = (near(own[s].0 * inverse(step)), near(own[s].1 * inverse(min_step)));
                let pairs: [(f32, f32); 9] = std::array::from_fn(|i| (scales[i / 3], mins[i % 3]));
                let error = |(scale, min): (f32, f32)| self.error(&x[s], &w[s], step * scale, min_step * min);
                let (pair, error) = least(pairs, error);
                total += error;
                pair
            });
            if total < best.0 {
                let (scales, mins) = (codes.map(|c| c.0 as u8), codes.map(|c| c.1 as u8));
                best = (total, SharedScales { d, dmin, scales, mins });
            }
            // The best steps for these codes: the same closed form, with `scale code · code` and `min code` in the
            // places of the code and of 1.
            let mut sum = Moments::default();
            for (s, &(scale, min)) in codes.iter().enumerate() {
                let own = self.moments(&x[s], &w[s], inverse(step * scale), min_step * min);
                let (scale, min) = (f64::from(scale), f64::from(min));
                sum.w += min * min * own.w;
                sum.x += min * own.x;
                sum.xx += own.xx;
                sum.q += scale * min * own.q;
                sum.qq += scale * scale * own.qq;
                sum.qx += scale * own.qx;
            }
            let (scale, min, _) = sum.solve();
            (d, dmin) = (Half::from_f32(scale as f32), Half::from_f32(min as f32));
        }
        best.1
    }

    /// The codes of the values of a sub-block.
    fn codes<const N: usize>(self, x: &[f32; N], scale: f32, min: f32) -> [u8; N] {
        let inverse = inverse(scale);
        x.map(|v| nearest_code((v + min) * inverse, 0.0, self.top) as u8)
    }
}

/// Scales and minima of a block: sub-block `i` has `d · scales[i]` and `dmin · mins[i]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharedScales<const S: usize> {
    pub(super) d: Half,
    pub(super) dmin: Half,
    pub(super) scales: [u8; S],
    pub(super) mins: [u8; S],
}

impl<const S: usize> SharedScales<S> {
    /// The codes of all values, in their order.
    pub(super) fn codes<const N: usize>(&self, codes: Affine, x: &[[f32; N]; S]) -> [u8; 256] {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let mut out = [0; 256];
        for (s, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            *out = codes.codes(&x[s], d * f32::from(self.scales[s]), dmin * f32::from(self.mins[s]));
        }
        out
    }
}

/// The 256 values of a block as `S` sub-blocks of `N`.
pub(super) fn sub_blocks<const N: usize, const S: usize>(x: &[f32; 256]) -> &[[f32; N]; S] {
    let (subs, _) = x.as_chunks::<N>();
    subs.try_into().expect("S sub-blocks of N are 256 values")
}
