//! Numbers from samples.
//!
//! In: samples in any order. Out: percentiles, each of them a value that was measured.

/// Samples in ascending order.
#[derive(Debug, Clone)]
pub(super) struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts. Without samples every percentile is not a number.
    pub(super) fn new(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    /// The smallest sample that `percent` of all samples do not exceed.
    pub(super) fn percentile(&self, percent: u32) -> f64 {
        let rank = (self.0.len() * percent as usize).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    /// The median.
    pub(super) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// Width of the middle half.
    pub(super) fn spread(&self) -> f64 {
        self.percentile(75) - self.percentile(25)
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let sorted = Sorted::new((1..=100).rev().map(f64::from).collect());
        for percent in [1, 25, 50, 75, 99, 100] {
            let error = sorted.percentile(percent) - f64::from(percent);
            assert!(error.abs() < f64::EPSILON, "{percent}");
        }
        assert!((sorted.median() - sorted.spread()).abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_measured_is_not_a_number() {
        assert!(Sorted::new(Vec::new()).median().is_nan());
    }
}
