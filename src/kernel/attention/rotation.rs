//! The rotation of heads before they are quantized: signs, then the Walsh-Hadamard transform (QuaRot, Ashkboos and others
//! 2024). It spreads channels that are always large over all elements, so that no block of 32 has one that sets the
//! others' step. Products of rotated queries and keys are those of plain ones; sums of rotated values are rotated back.

/// Rotates one head in place, in parts of the largest power of two that divides its length.
pub(super) fn rotate(head: &mut [f32]) {
    let n = part(head);
    let scale = 1.0 / (n as f32).sqrt();
    head.iter_mut().enumerate().for_each(|(i, x)| *x *= sign(i) * scale);
    head.chunks_exact_mut(n).for_each(transform);
}

/// Undoes [`rotate`].
pub(super) fn rotate_back(head: &mut [f32]) {
    let n = part(head);
    let scale = 1.0 / (n as f32).sqrt();
    head.chunks_exact_mut(n).for_each(transform);
    head.iter_mut().enumerate().for_each(|(i, x)| *x *= sign(i) * scale);
}

fn part(head: &[f32]) -> usize {
    1 << head.len().trailing_zeros()
}

/// A sign for each element that looks random: a channel's neighbours do not cancel the same ones.
fn sign(i: usize) -> f32 {
    let mixed = (i as u32).wrapping_mul(0x9E37_79B1).wrapping_add(12_345);
    if mixed & 1 << 16 == 0 { 1.0 } else { -1.0 }
}

/// The Walsh-Hadamard transform without its scale; its own inverse but for a factor of the length.
fn transform(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (first, second) = pair.split_at_mut(half);
            for (a, b) in first.iter_mut().zip(second) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_keeps_products_spreads_an_outlier_and_is_undone() {
        for dim in [32, 64, 96, 128, 160] {
            let of = |seed: usize| (0..dim).map(|i| ((i * seed % 17) as f32 - 8.0) / 4.0).collect::<Vec<f32>>();
            let (a, mut b) = (of(5), of(11));
            b[dim / 2] = 500.0;
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (mut turned_a, mut turned_b) = (a.clone(), b.clone());
            rotate(&mut turned_a);
            rotate(&mut turned_b);
            assert!((dot(&turned_a, &turned_b) - dot(&a, &b)).abs() < 1e-2, "{dim}");
            assert!(turned_b.iter().all(|x| x.abs() < 120.0), "{dim}");
            rotate_back(&mut turned_b);
            assert!(turned_b.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-3), "{dim}");
        }
    }
}
