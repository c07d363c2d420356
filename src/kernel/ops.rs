//! The small vector steps between matrix products: norm, activation, softmax, weighted sums.

/// RMS norm (Zhang and Sennrich 2019): `out = x / sqrt(mean(x²) + eps) · weight`. The mean is taken in f64, as ggml does.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "norm of {} by {}", x.len(), weight.len());
    let scale = rms_scale(x, eps);
    for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

/// As [`rms_norm`], in place.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len(), "norm weights differ in length");
    let scale = rms_scale(x, eps);
    for (x, &w) in x.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}

fn rms_scale(x: &[f32], eps: f32) -> f32 {
    let sum: f64 = x.iter().map(|&v| f64::from(v * v)).sum();
    let mean = (sum / x.len() as f64) as f32;
    1.0 / (mean + eps).sqrt()
}

/// SwiGLU (Shazeer 2020): `gate = silu(gate) · up`, in place.
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up differ in length");
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + (-*g).exp()) * u;
    }
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "sum of different lengths");
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `acc += scale · y`.
pub fn add_scaled(acc: &mut [f32], scale: f32, y: &[f32]) {
    assert_eq!(acc.len(), y.len(), "sum of different lengths");
    for (a, &y) in acc.iter_mut().zip(y) {
        *a += scale * y;
    }
}

/// Softmax in place, shifted by the maximum; the sum is taken in f64, as ggml does.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for v in x.iter_mut() {
        *v = (*v - max).exp();
        sum += f64::from(*v);
    }
    let scale = (1.0 / sum) as f32;
    for v in x.iter_mut() {
        *v *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_norm_gives_unit_mean_square_times_the_weight() {
        let x: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
        let w = vec![2.0; 64];
        let mut out = vec![0.0; 64];
        rms_norm(&x, &w, 0.0, &mut out);
        let mean_square = out.iter().map(|v| v * v).sum::<f32>() / 64.0;
        assert!((mean_square - 4.0).abs() < 1e-5, "{mean_square}");
        let mut in_place = x.clone();
        rms_norm_in_place(&mut in_place, &w, 0.0);
        assert_eq!(in_place, out);
    }

    #[test]
    fn softmax_sums_to_one_and_survives_large_logits() {
        let mut x = vec![1000.0, 1001.0, -1e30];
        softmax(&mut x);
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((x[1] / x[0] - std::f32::consts::E).abs() < 1e-5);
        assert_eq!(x[2], 0.0);
    }

    #[test]
    fn swiglu_is_silu_times_up() {
        let mut gate = vec![0.0, 1.0, -100.0];
        swiglu(&mut gate, &[3.0, 2.0, 1.0]);
        assert_eq!(gate[0], 0.0);
        assert!((gate[1] - 2.0 * 0.731_058_6).abs() < 1e-6);
        assert!(gate[2].abs() < 1e-30);
    }
}
