//! Least squares of weights on integers.
//!
//! The moments of a group say all that a scale and an offset need: `sum (w - scale q - offset)^2` is a polynomial in
//! scale and offset whose coefficients they are. Sums are f64 in column order.

use crate::trellis::{LANES, Lane};

/// Sums over the columns of one group, for each lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    n: f64,
    w: Lane<f64>,
    ww: Lane<f64>,
    q: Lane<f64>,
    qq: Lane<f64>,
    wq: Lane<f64>,
}

/// A scale and an offset.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) offset: f32,
}

impl Moments {
    /// Adds a column.
    pub(super) fn add(&mut self, w: &Lane<f32>, q: &Lane<f32>) {
        self.n += 1.0;
        for lane in 0..LANES {
            let (w, q) = (f64::from(w[lane]), f64::from(q[lane]));
            self.w[lane] += w;
            self.ww[lane] += w * w;
            self.q[lane] += q;
            self.qq[lane] += q * q;
            self.wq[lane] += w * q;
        }
    }

    /// Mean of the weights.
    pub(super) fn mean(&self, lane: usize) -> f64 {
        self.w[lane] / self.n
    }

    /// Root mean square of the weights about `center`.
    pub(super) fn spread(&self, lane: usize, center: f64) -> f64 {
        let square = self.ww[lane] - 2.0 * center * self.w[lane] + center * center * self.n;
        (square / self.n).max(0.0).sqrt()
    }

    /// Sum of the squared errors under a line.
    pub(super) fn error(&self, lane: usize, line: Line) -> f64 {
        let (s, o) = (f64::from(line.scale), f64::from(line.offset));
        self.ww[lane] - 2.0 * (s * self.wq[lane] + o * self.w[lane])
            + s * s * self.qq[lane]
            + 2.0 * s * o * self.q[lane]
            + o * o * self.n
    }

    /// The least-squares line, through the origin unless `with_offset`; `None` where the integers do not determine a
    /// positive scale.
    pub(super) fn fit(&self, lane: usize, with_offset: bool) -> Option<Line> {
        let (qm, wm) = if with_offset { (self.q[lane] / self.n, self.mean(lane)) } else { (0.0, 0.0) };
        let scale = (self.wq[lane] - self.n * qm * wm) / (self.qq[lane] - self.n * qm * qm);
        (scale.is_finite() && scale > 0.0).then_some(Line { scale: scale as f32, offset: (wm - scale * qm) as f32 })
    }
}
