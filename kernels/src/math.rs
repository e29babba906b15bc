//! Elementary functions on vectors, to about single precision.

use crate::simd::Simd;

/// e^x: relative error below 3e-7; 0 below -87.33, where numbers become denormal.
///
/// x = n ln 2 + r with a whole n; e^r by a polynomial (Cephes `expf`), 2^n by its exponent bits. ln 2 is subtracted in two parts,
/// the first of few enough bits that n times it is exact.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    const LOWEST: f32 = -87.33;
    const HIGHEST: f32 = 88.722_84;
    let clamped = simd.min(simd.max(x, simd.splat(LOWEST)), simd.splat(HIGHEST));
    let whole = simd.round(simd.mul(clamped, simd.splat(std::f32::consts::LOG2_E)));
    let n = simd.min(whole, simd.splat(127.0));
    let r = simd.sub(clamped, simd.mul(n, simd.splat(0.693_359_4)));
    let r = simd.sub(r, simd.mul(n, simd.splat(-2.121_944_4e-4)));
    let mut p = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = simd.add(simd.mul(p, r), simd.splat(coefficient));
    }
    let power = simd.add(simd.add(simd.mul(p, simd.mul(r, r)), r), simd.splat(1.0));
    let y = simd.mul(power, simd.power_of_two(n));
    let y = simd.if_less(x, simd.splat(LOWEST), simd.zero(), y);
    let y = simd.if_less(simd.splat(HIGHEST), x, simd.splat(f32::INFINITY), y);
    simd.if_nan(x, x, y)
}

/// 2^x: relative error below 2e-7; 0 below -126, where numbers become denormal, and infinity above 127.5.
///
/// x = n + r with a whole n; 2^r by the polynomial of degree five of least relative error that is 1 at 0.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::F) -> S::F {
    const LOWEST: f32 = -126.0;
    let lowest = simd.splat(LOWEST);
    // A value that is not a number passes: it is the second operand.
    let clamped = simd.min(simd.splat(128.0), simd.max(lowest, x));
    let n = simd.round(clamped);
    let r = simd.sub(clamped, n);
    let mut p = simd.splat(1.326_472_6e-3);
    for coefficient in [9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    simd.if_less(x, lowest, simd.zero(), simd.mul(p, simd.power_of_two(n)))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn logistic<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    simd.div(one, simd.add(one, exp(simd, simd.sub(simd.zero(), x))))
}

/// The error function: absolute error below 4e-7, relative below 4e-7 near zero.
///
/// Up to 0.9 its power series; beyond, Abramowitz and Stegun 7.1.26.
#[inline(always)]
pub(crate) fn erf<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    let (magnitude, square) = (simd.abs(x), simd.mul(x, x));
    let mut series = simd.splat(-1.636_584_4e-7);
    for coefficient in [
        1.646_211_4e-6,
        -1.492_565e-5,
        1.205_533_26e-4,
        -8.548_327e-4,
        5.223_978e-3,
        -2.686_617_2e-2,
        1.128_379_2e-1,
        -3.761_263_8e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ] {
        series = simd.add(simd.mul(series, square), simd.splat(coefficient));
    }
    let t = simd.div(one, simd.add(one, simd.mul(simd.splat(0.327_591_1), magnitude)));
    let mut p = simd.splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = simd.add(simd.mul(p, t), simd.splat(coefficient));
    }
    let tail = exp(simd, simd.sub(simd.zero(), square));
    let far = simd.copysign(simd.sub(one, simd.mul(simd.mul(p, t), tail)), x);
    let y = simd.if_less(magnitude, simd.splat(0.9), simd.mul(x, series), far);
    simd.if_nan(x, x, y)
}

#[cfg(test)]
mod tests {
    use crate::simd::{LANES, Plain, Simd, dispatch, eight, eight_mut};

    dispatch!(fn exps(x: &[f32], y: &mut [f32]) = exps_on);
    dispatch!(fn exp2s(x: &[f32], y: &mut [f32]) = exp2s_on);
    dispatch!(fn erfs(x: &[f32], y: &mut [f32]) = erfs_on);

    fn exps_on<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
        for start in (0..x.len()).step_by(LANES) {
            simd.store(super::exp(simd, simd.load(eight(x, start))), eight_mut(y, start));
        }
    }

    fn exp2s_on<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
        for start in (0..x.len()).step_by(LANES) {
            simd.store(super::exp2(simd, simd.load(eight(x, start))), eight_mut(y, start));
        }
    }

    fn erfs_on<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
        for start in (0..x.len()).step_by(LANES) {
            simd.store(super::erf(simd, simd.load(eight(x, start))), eight_mut(y, start));
        }
    }

    fn special(count: usize, from: f32, to: f32) -> Vec<f32> {
        let mut x: Vec<f32> = (0..count).map(|i| from + (to - from) * i as f32 / count as f32).collect();
        x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30, -1e30, 1e30]);
        x
    }

    #[test]
    fn exp_is_near_and_the_same_without_vectors() {
        let x = special(800_000, -90.0, 90.0);
        let (mut y, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        exps(&x, &mut y);
        exps_on(Plain, &x, &mut plain);
        for ((&x, &y), &plain) in x.iter().zip(&y).zip(&plain) {
            assert!(y.to_bits() == plain.to_bits() || y.is_nan() && plain.is_nan(), "{x}: {y} {plain}");
            let exact = f64::from(x).exp();
            let fine = if exact > f64::from(f32::MAX) {
                y == f32::INFINITY
            } else {
                (f64::from(y) - exact).abs() <= 3e-7 * exact + 1.2e-38
            };
            assert!(fine || x.is_nan() && y.is_nan(), "{x}: {y} {exact}");
        }
    }

    #[test]
    fn exp2_is_near_and_the_same_without_vectors() {
        let x = special(80_000, -130.0, 127.4);
        let (mut y, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        exp2s(&x, &mut y);
        exp2s_on(Plain, &x, &mut plain);
        for ((&x, &y), &plain) in x.iter().zip(&y).zip(&plain) {
            assert!(y.to_bits() == plain.to_bits() || y.is_nan() && plain.is_nan(), "{x}: {y} {plain}");
            let exact = f64::from(x).exp2();
            let fine = if exact > f64::from(f32::MAX) {
                y == f32::INFINITY
            } else {
                (f64::from(y) - exact).abs() <= 2e-7 * exact + 1.2e-38
            };
            assert!(fine || x.is_nan() && y.is_nan(), "{x}: {y} {exact}");
        }
    }

    #[test]
    fn erf_is_near_and_the_same_without_vectors() {
        let x = special(80_000, -6.0, 6.0);
        let (mut y, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        erfs(&x, &mut y);
        erfs_on(Plain, &x, &mut plain);
        for ((&x, &y), &plain) in x.iter().zip(&y).zip(&plain) {
            assert!(y.to_bits() == plain.to_bits() || y.is_nan() && plain.is_nan(), "{x}: {y} {plain}");
            let exact = crate::glu::exact_erf(f64::from(x));
            assert!(
                (f64::from(y) - exact).abs() <= 4e-7 * exact.abs().min(1.0) || x.is_nan() && y.is_nan(),
                "{x}: {y} {exact}"
            );
        }
    }
}
