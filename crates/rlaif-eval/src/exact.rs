//! Sums that do not depend on the order of what is added, so that rows may be counted as they are
//! finished and a report is the same whichever came first.

/// Sum of numbers below 2²⁰ in absolute value, each to 2⁻⁶⁴, of at most 2⁴² of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exact(i128);

/// 2⁶⁴.
const SCALE: f64 = 18_446_744_073_709_551_616.0;

impl Exact {
    pub(crate) fn add(&mut self, x: f64) {
        // A power of two changes no digit of x; what lies below 2⁻⁶⁴ is cut off.
        self.0 += (x * SCALE) as i128;
    }

    pub(crate) fn value(self) -> f64 {
        self.0 as f64 / SCALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_changes_nothing() {
        let xs: Vec<f64> = (0..1000)
            .map(|i| f64::from(i).sin() * 13.0 + 1e-9)
            .collect();
        let sum = |xs: &mut dyn Iterator<Item = &f64>| {
            let mut sum = Exact::default();
            xs.for_each(|x| sum.add(*x));
            sum.value()
        };
        assert_eq!(sum(&mut xs.iter()), sum(&mut xs.iter().rev()));
        // As the usual sum, but for what that rounds away.
        assert!((sum(&mut xs.iter()) - xs.iter().sum::<f64>()).abs() < 1e-10);
    }
}
