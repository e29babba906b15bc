//! Eight single-precision numbers at a time, on every processor with the same bits.
//!
//! A loop is written once, generic over [`Simd`], and compiled twice: with AVX2 and with plain arrays. Which one runs is decided
//! when it runs. Both do the same operations in the same order, and products are fused into sums only where [`Simd::mul_add`] says
//! so, which rounds once on every processor. So results are equal bit for bit. Where memory is the limit, the fused instruction would
//! not make a loop faster; it is for products of matrices. Without it in the processor it is a function, and slow.
#![allow(unsafe_code, reason = "vector intrinsics, whose only condition is that the processor has them")]

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;

/// Arithmetic on vectors of [`LANES`] numbers. Implementations are values of no size that prove the processor can do it.
pub(crate) trait Simd: Copy {
    type F: Copy;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32; LANES]) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a` where a > b, else `b`, also where one of them is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a` where a < b, else `b`, also where one of them is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// The magnitude of `a` with the sign of `sign`.
    fn copysign(self, a: Self::F, sign: Self::F) -> Self::F;
    /// `yes` where a < b, else `no`.
    fn if_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// `yes` where a is not a number, else `no`.
    fn if_nan(self, a: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// 2^n of a whole number between -126 and 127.
    fn power_of_two(self, n: Self::F) -> Self::F;
    /// Rounds to the nearest whole number, ties to even; numbers of magnitude at most 2^22.
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        // Adding 1.5 * 2^23 leaves no bits for a fraction.
        let shift = self.splat(12_582_912.0);
        self.sub(self.add(a, shift), shift)
    }
    /// Sum of the lanes: lanes four apart, then two, then one.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    /// The largest lane; not a number where a lane is not one.
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, |most, lane| if lane > most || lane.is_nan() { lane } else { most })
    }
    /// The first `count` lanes from a shorter slice, the others `fill`.
    #[inline(always)]
    fn load_part(self, from: &[f32], fill: f32) -> Self::F {
        let mut lanes = [fill; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }
    /// As many lanes as the slice has elements.
    #[inline(always)]
    fn store_part(self, value: Self::F, to: &mut [f32]) {
        let mut lanes = [0.0; LANES];
        self.store(value, &mut lanes);
        let count = to.len();
        to.copy_from_slice(&lanes[..count]);
    }
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    /// Lane i of vector j becomes lane j of vector i.
    #[inline(always)]
    fn transpose(self, vectors: [Self::F; LANES]) -> [Self::F; LANES] {
        let mut rows = [[0.0; LANES]; LANES];
        for (vector, row) in vectors.into_iter().zip(&mut rows) {
            self.store(vector, row);
        }
        std::array::from_fn(|i| self.load(&std::array::from_fn(|j| rows[j][i])))
    }
}

/// Plain arrays, for any processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Simd for Plain {
    type F = [f32; LANES];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        *from
    }
    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        *to = value;
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        each(|i| a[i].sqrt())
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        each(|i| a[i].abs())
    }
    #[inline(always)]
    fn copysign(self, a: Self::F, sign: Self::F) -> Self::F {
        each(|i| a[i].copysign(sign[i]))
    }
    #[inline(always)]
    fn if_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn if_nan(self, a: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        each(|i| if a[i].is_nan() { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::F) -> Self::F {
        each(|i| f32::from_bits(((n[i] as i32).wrapping_add(127) as u32) << 23))
    }
}

#[cfg(test)]
thread_local! {
    /// Whether this thread does without vector instructions, to compare.
    pub(crate) static PLAIN_ONLY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Simd};
    use std::arch::x86_64::*;

    /// AVX2 with fused multiplication, which every processor with AVX2 has. A value exists only where the processor has both.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        pub(crate) fn new() -> Option<Self> {
            #[cfg(test)]
            if super::PLAIN_ONLY.get() {
                return None;
            }
            (std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")).then_some(Self(()))
        }
    }

    // SAFETY of all that follows: a value of `Avx2` exists only where the processor has AVX2 and FMA, and arrays have eight elements.
    impl Simd for Avx2 {
        type F = __m256;

        #[inline(always)]
        fn splat(self, value: f32) -> Self::F {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> Self::F {
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, value: Self::F, to: &mut [f32; LANES]) {
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
        }
        #[inline(always)]
        fn add(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        fn sqrt(self, a: Self::F) -> Self::F {
            unsafe { _mm256_sqrt_ps(a) }
        }
        #[inline(always)]
        fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        fn abs(self, a: Self::F) -> Self::F {
            unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
        }
        #[inline(always)]
        fn copysign(self, a: Self::F, sign: Self::F) -> Self::F {
            unsafe {
                let bit = _mm256_set1_ps(-0.0);
                _mm256_or_ps(_mm256_andnot_ps(bit, a), _mm256_and_ps(bit, sign))
            }
        }
        #[inline(always)]
        fn if_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
        }
        #[inline(always)]
        fn if_nan(self, a: Self::F, yes: Self::F, no: Self::F) -> Self::F {
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) }
        }
        #[inline(always)]
        fn power_of_two(self, n: Self::F) -> Self::F {
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            }
        }
        #[inline(always)]
        fn transpose(self, vectors: [Self::F; LANES]) -> [Self::F; LANES] {
            let [a, b, c, d, e, f, g, h] = vectors;
            unsafe {
                // Pairs of rows, then fours, within each half of the vectors; then the halves.
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                let (ef, gh) = (_mm256_unpacklo_ps(e, f), _mm256_unpacklo_ps(g, h));
                let (ef_high, gh_high) = (_mm256_unpackhi_ps(e, f), _mm256_unpackhi_ps(g, h));
                let first = [
                    _mm256_shuffle_ps::<0x44>(ab, cd),
                    _mm256_shuffle_ps::<0xee>(ab, cd),
                    _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                    _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
                ];
                let second = [
                    _mm256_shuffle_ps::<0x44>(ef, gh),
                    _mm256_shuffle_ps::<0xee>(ef, gh),
                    _mm256_shuffle_ps::<0x44>(ef_high, gh_high),
                    _mm256_shuffle_ps::<0xee>(ef_high, gh_high),
                ];
                std::array::from_fn(|i| {
                    if i < 4 {
                        _mm256_permute2f128_ps::<0x20>(first[i], second[i])
                    } else {
                        _mm256_permute2f128_ps::<0x31>(first[i - 4], second[i - 4])
                    }
                })
            }
        }
    }
}

/// Makes `fn name(arguments)` out of a generic `fn name_on<S: Simd>(simd: S, arguments)`: the widest form the processor has.
macro_rules! dispatch {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $generic:ident) => {
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments, unsafe_code, reason = "a function of a processor's instructions")]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = $crate::simd::Avx2::new() {
                #[target_feature(enable = "avx2,fma")]
                fn wide(simd: $crate::simd::Avx2, $($argument: $type),*) $(-> $result)? {
                    $generic(simd, $($argument),*)
                }
                // SAFETY: the value `simd` exists, so the processor has AVX2 and FMA.
                return unsafe { wide(simd, $($argument),*) };
            }
            $generic($crate::simd::Plain, $($argument),*)
        }
    };
}
pub(crate) use dispatch;

/// Calls `whole` with each eight elements of a range of `len`, then `part` with what is left, if anything is.
#[inline(always)]
pub(crate) fn blocks(len: usize) -> (std::iter::StepBy<std::ops::Range<usize>>, std::ops::Range<usize>) {
    let whole = len - len % LANES;
    ((0..whole).step_by(LANES), whole..len)
}

/// The eight elements that begin at `start`.
#[inline(always)]
pub(crate) fn eight(slice: &[f32], start: usize) -> &[f32; LANES] {
    // SAFETY: a slice of eight elements is an array of eight; the range is checked.
    unsafe { &*slice[start..start + LANES].as_ptr().cast() }
}

/// The eight elements that begin at `start`, to be written.
#[inline(always)]
pub(crate) fn eight_mut(slice: &mut [f32], start: usize) -> &mut [f32; LANES] {
    // SAFETY: as above.
    unsafe { &mut *slice[start..start + LANES].as_mut_ptr().cast() }
}

/// Adds up a term over blocks of eight, in four sums in turn that do not wait for one another. `part` gives what is left, padded with
/// terms of zero.
#[inline(always)]
pub(crate) fn add_up<S: Simd>(
    simd: S,
    len: usize,
    whole: impl Fn(usize) -> S::F,
    part: impl Fn(std::ops::Range<usize>) -> S::F,
) -> f32 {
    // One term in each place of the source: a closure is then inlined for certain, without which it would lose the vectors.
    let mut sums = [simd.zero(); 4];
    let unrolled = len - len % (4 * LANES);
    for start in (0..len - len % LANES).step_by(LANES) {
        let term = whole(start);
        if start < unrolled {
            let [a, b, c, d] = sums;
            sums = [b, c, d, simd.add(a, term)];
        } else {
            sums[0] = simd.add(sums[0], term);
        }
    }
    let rest = len - len % LANES;
    if rest < len {
        sums[1] = simd.add(sums[1], part(rest..len));
    }
    let [a, b, c, d] = sums;
    simd.sum(simd.add(simd.add(a, b), simd.add(c, d)))
}

/// Adds up two terms over blocks of eight, as [`add_up`] does one, with two sums in turn for each.
#[inline(always)]
pub(crate) fn add_up_both<S: Simd>(
    simd: S,
    len: usize,
    whole: impl Fn(usize) -> (S::F, S::F),
    part: impl Fn(std::ops::Range<usize>) -> (S::F, S::F),
) -> (f32, f32) {
    let mut sums = [(simd.zero(), simd.zero()); 2];
    let rest = len - len % LANES;
    for start in (0..rest).step_by(LANES) {
        let terms = whole(start);
        let [(first, second), next] = sums;
        sums = [next, (simd.add(first, terms.0), simd.add(second, terms.1))];
    }
    if rest < len {
        let terms = part(rest..len);
        sums[0] = (simd.add(sums[0].0, terms.0), simd.add(sums[0].1, terms.1));
    }
    let [(first, second), (other_first, other_second)] = sums;
    (simd.sum(simd.add(first, other_first)), simd.sum(simd.add(second, other_second)))
}
