//! Answers, and how far off a result may be.

use super::HostBuffer;
use crate::launch::DType;

/// How far off a value may be: `absolute + relative * max(|expected|, scale)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Whatever the magnitude.
    pub absolute: f64,
    /// By the magnitude of the value, or the scale given with it.
    pub relative: f64,
    /// Why so much.
    pub reason: &'static str,
}

impl Tolerance {
    /// Equal.
    pub const EXACT: Self = Self { absolute: 0.0, relative: 0.0, reason: "the result is exact" };

    /// Of a value computed in single precision with a relative error of `relative`, and then rounded to `dtype`.
    pub const fn rounded(dtype: DType, relative: f64, reason: &'static str) -> Self {
        // Half a unit in the last place, and half the smallest number below which places are no longer relative.
        let (rounding, smallest) = match dtype {
            DType::Bf16 => (1.0 / 256.0, 1e-40),
            DType::F16 => (1.0 / 2048.0, 3e-8),
            _ => (0.0, 1e-38),
        };
        Self { absolute: smallest, relative: relative + rounding, reason }
    }

    /// With a larger absolute part.
    #[must_use]
    pub const fn with_absolute(self, absolute: f64) -> Self {
        Self { absolute: self.absolute + absolute, ..self }
    }
}

/// What an output must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    values: Option<Vec<f64>>,
    scale: Option<Vec<f64>>,
    tolerance: Tolerance,
}

impl Expected {
    /// These values.
    pub const fn values(values: Vec<f64>, tolerance: Tolerance) -> Self {
        Self { values: Some(values), scale: None, tolerance }
    }

    /// These values, with the magnitude of what each was added up from: where terms cancel, errors do not.
    pub const fn scaled(values: Vec<f64>, scale: Vec<f64>, tolerance: Tolerance) -> Self {
        Self { values: Some(values), scale: Some(scale), tolerance }
    }

    /// Anything: memory that is worked in.
    pub const fn anything() -> Self {
        Self { values: None, scale: None, tolerance: Tolerance::EXACT }
    }

    /// Compares: not a number agrees with not a number, and an infinity with the same infinity.
    ///
    /// # Errors
    /// What is wrong first, and how many values are.
    pub fn compare(&self, result: &HostBuffer) -> Result<(), String> {
        let Some(values) = &self.values else { return Ok(()) };
        let result = result.to_f64();
        if result.len() != values.len() {
            return Err(format!("{} values, and {} are expected", result.len(), values.len()));
        }
        let Tolerance { absolute, relative, reason } = self.tolerance;
        let mut wrong = 0;
        let mut first = None;
        for (i, (&got, &want)) in result.iter().zip(values).enumerate() {
            let magnitude = self.scale.as_ref().map_or(0.0, |scale| scale[i].abs()).max(want.abs());
            let allowed = absolute + relative * magnitude;
            let right =
                got == want || (got.is_nan() && want.is_nan()) || (want.is_finite() && (got - want).abs() <= allowed);
            if !right {
                wrong += 1;
                first.get_or_insert_with(|| {
                    format!("at {i}: {got:e}, and {want:e} is expected within {allowed:e} ({reason})")
                });
            }
        }
        match first {
            None => Ok(()),
            Some(first) => Err(format!("{wrong} of {} values are wrong, first {first}", values.len())),
        }
    }
}
