//! Elementary functions on vectors, to about single precision.

use crate::simd::Simd;

/// Below it, powers of e are denormal, and count as 0.
const LOWEST: f32 = -87.33;

/// e^x: relative error below 3e-7, and below 4e-7 above 88.3; 0 below -87.33, where numbers become denormal.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    const HIGHEST: f32 = 88.722_84;
    // Of two operands of which one is not a number, these take the second.
    let clamped = simd.min(simd.splat(HIGHEST), simd.max(simd.splat(LOWEST), x));
    let n = simd.min(simd.splat(127.0), whole_powers(simd, clamped));
    let y = power(simd, clamped, n);
    let y = simd.if_less(x, simd.splat(LOWEST), simd.zero(), y);
    simd.if_less(simd.splat(HIGHEST), x, simd.splat(f32::INFINITY), y)
}

/// The same of numbers that are not above 0, or not numbers.
#[inline(always)]
pub(crate) fn exp_of_negative<S: Simd>(simd: S, x: S::F) -> S::F {
    let clamped = simd.max(simd.splat(LOWEST), x);
    let y = power(simd, clamped, whole_powers(simd, clamped));
    simd.if_less(x, simd.splat(LOWEST), simd.zero(), y)
}

/// The whole number next to x / ln 2.
#[inline(always)]
fn whole_powers<S: Simd>(simd: S, x: S::F) -> S::F {
    simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)))
}

/// e^x as 2^n e^r, where x = n ln 2 + r: e^r by a polynomial (Cephes `expf`), 2^n by its exponent bits. ln 2 is subtracted in two
/// parts, the first of few enough bits that n times it is exact.
#[inline(always)]
fn power<S: Simd>(simd: S, x: S::F, n: S::F) -> S::F {
    let r = simd.mul_add(n, simd.splat(-0.693_359_4), x);
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), r);
    let mut p = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let power = simd.add(simd.mul_add(p, simd.mul(r, r), r), simd.splat(1.0));
    simd.mul(power, simd.power_of_two(n))
}

/// 2^x: relative error below 2e-7; 0 below -126, where numbers become denormal, and infinity above 127.5.
///
/// x = n + r with a whole n; 2^r by the polynomial of degree five of least relative error that is 1 at 0.
#[allow(clippy::approx_constant, reason = "the polynomial's coefficient, which is not the logarithm of 2")]
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::F) -> S::F {
    let lowest = simd.splat(-126.0);
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

/// The distribution function of the standard normal distribution, with an absolute error below 3e-7, and e^(-x²/2), of which its density
/// is 1/√(2π) times. Abramowitz and Stegun 7.1.26.
#[inline(always)]
pub(crate) fn normal<S: Simd>(simd: S, x: S::F) -> (S::F, S::F) {
    let one = simd.splat(1.0);
    let bell = exp_of_negative(simd, simd.mul(simd.splat(-0.5), simd.mul(x, x)));
    // 0.3275911 of x / √2.
    let t = simd.div(one, simd.mul_add(simd.splat(0.231_641_9), simd.abs(x), one));
    let mut p = simd.splat(0.530_702_7);
    for coefficient in [-0.726_576, 0.710_706_85, -0.142_248_37, 0.127_414_8] {
        p = simd.mul_add(p, t, simd.splat(coefficient));
    }
    // What is beyond |x| on one side.
    let tail = simd.mul(simd.mul(p, t), bell);
    (simd.if_less(x, simd.zero(), tail, simd.sub(one, tail)), bell)
}

#[cfg(test)]
mod tests {
    use crate::simd::{LANES, Plain, Simd, dispatch, eight, eight_mut};

    dispatch!(fn exps(x: &[f32], y: &mut [f32]) = exps_on);
    dispatch!(fn exp2s(x: &[f32], y: &mut [f32]) = exp2s_on);
    dispatch!(fn normals(x: &[f32], y: &mut [f32]) = normals_on);
    dispatch!(fn negative_exps(x: &[f32], y: &mut [f32]) = negative_exps_on);

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

    fn negative_exps_on<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
        for start in (0..x.len()).step_by(LANES) {
            simd.store(super::exp_of_negative(simd, simd.load(eight(x, start))), eight_mut(y, start));
        }
    }

    fn normals_on<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
        for start in (0..x.len()).step_by(LANES) {
            simd.store(super::normal(simd, simd.load(eight(x, start))).0, eight_mut(y, start));
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
                (f64::from(y) - exact).abs() <= if x < 88.3 { 3e-7 } else { 4e-7 } * exact + 1.2e-38
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
    fn exp_of_negative_is_exp() {
        let x: Vec<f32> = special(800_000, -90.0, 0.0).into_iter().map(|x| if x > 0.0 { -x } else { x }).collect();
        let (mut y, mut plain, mut full) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]);
        negative_exps(&x, &mut y);
        negative_exps_on(Plain, &x, &mut plain);
        exps(&x, &mut full);
        for (i, &x) in x.iter().enumerate() {
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(same(y[i], plain[i]) && same(y[i], full[i]), "{x}: {} {} {}", y[i], plain[i], full[i]);
        }
    }

    #[test]
    fn the_normal_distribution_is_near_and_the_same_without_vectors() {
        let x = special(80_000, -9.0, 9.0);
        let (mut y, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        normals(&x, &mut y);
        normals_on(Plain, &x, &mut plain);
        for ((&x, &y), &plain) in x.iter().zip(&y).zip(&plain) {
            assert!(y.to_bits() == plain.to_bits() || y.is_nan() && plain.is_nan(), "{x}: {y} {plain}");
            let exact = 0.5 * (1.0 + crate::glu::exact_erf(f64::from(x) / 2_f64.sqrt()));
            assert!((f64::from(y) - exact).abs() <= 3e-7 || x.is_nan() && y.is_nan(), "{x}: {y} {exact}");
        }
    }
}
