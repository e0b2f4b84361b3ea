//! Central differences, with an error bar of their own.

use crate::error::Result;

/// Steps to try, relative to the size of what is moved.
const STEPS: [f64; 4] = [1e-4, 1e-5, 1e-6, 1e-7];

/// Once two step sizes agree so well, no other is tried.
const SETTLED: f64 = 1e-8;

/// A derivative and how far the differences at two step sizes are apart.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub value: Vec<f64>,
    pub error: f64,
}

impl Difference {
    /// `(f(t) − f(−t)) / 2t` at `t` and `t/2`, extrapolated to 0 (Richardson). A kink between the points shows as an error: then
    /// a smaller step is tried, and the best is kept.
    pub fn of(mut f: impl FnMut(f64) -> Result<Vec<f64>>) -> Result<Difference> {
        let mut best: Option<Difference> = None;
        for step in STEPS {
            let mut slope = |t: f64| -> Result<Vec<f64>> {
                let (above, below) = (f(t)?, f(-t)?);
                Ok(above.iter().zip(&below).map(|(a, b)| (a - b) / (2.0 * t)).collect())
            };
            let (wide, narrow) = (slope(step)?, slope(step / 2.0)?);
            let gap: Vec<f64> = wide.iter().zip(&narrow).map(|(w, n)| n - w).collect();
            let found = Difference {
                value: narrow.iter().zip(&gap).map(|(n, gap)| n + gap / 3.0).collect(),
                error: norm(&gap),
            };
            let settled = found.error <= SETTLED * norm(&found.value);
            if best.as_ref().is_none_or(|best| found.error < best.error || best.error.is_nan()) {
                best = Some(found);
            }
            if settled {
                break;
            }
        }
        Ok(best.unwrap_or(Difference { value: Vec::new(), error: f64::NAN }))
    }
}

pub(super) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
