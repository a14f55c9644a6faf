//! Order statistics of measured values. No averages: they hide the spread.

/// Measured values, sorted.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Of values in any order.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// How many values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The nearest-rank quantile: a value that was measured, never one between two. NaN of an empty sample.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share.clamp(0.0, 1.0) * self.0.len() as f64).ceil() as usize;
        self.0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// `median (min to max)` with so many decimals.
    pub fn spread(&self, decimals: usize) -> String {
        let (min, median, max) = (self.min(), self.median(), self.max());
        format!("{median:.decimals$} ({min:.decimals$} to {max:.decimals$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let sample = Sample::new((1..=100).rev().map(f64::from));
        assert_eq!(
            (
                sample.min(),
                sample.median(),
                sample.quantile(0.99),
                sample.max()
            ),
            (1.0, 50.0, 99.0, 100.0)
        );
        assert_eq!(Sample::new([3.0]).quantile(0.99), 3.0);
        assert!(Sample::default().median().is_nan());
        assert_eq!(Sample::new([3.0, 1.0, 2.0]).spread(1), "2.0 (1.0 to 3.0)");
    }
}
