//! The numbers of a constant: as they are stored, or integers that stand for others.

use crate::{DType, Tensor};
use std::sync::Arc;

/// Integers with scales: `w = (q - zero) * scale`, as `DequantizeLinear` defines it. One scale for all, one per index of an axis, or one
/// per block of an axis.
#[derive(Clone, Debug)]
pub struct Dequantized {
    data: Tensor,
    scales: Tensor,
    zero_points: Option<Tensor>,
    /// Elements between neighbours along the axis, and how many there are along it.
    inner: u64,
    len: u64,
    /// Neighbours along the axis that share a scale, and how many scales there are along it; `None` where one serves all other axes.
    blocks: Option<(u64, u64)>,
}

impl Dequantized {
    /// `None` if scales or zero points do not fit the integers: they are scalars, or as many as the axis is long, or of the integers' shape
    /// with the axis divided by `block`, rounded up.
    pub fn new(data: Tensor, scales: Tensor, zero_points: Option<Tensor>, axis: usize, block: u64) -> Option<Self> {
        let (inner, len, blocks) = if scales.count() == 1 {
            (1, 1, None)
        } else {
            let len = *data.dims().get(axis)?;
            let inner = data.dims()[axis + 1..].iter().product::<u64>();
            if block == 0 {
                (scales.dims() == [len]).then_some((inner, len, None))?
            } else {
                let mut wanted = data.dims().to_vec();
                wanted[axis] = len.div_ceil(block);
                (scales.dims() == wanted).then_some((inner, len, Some((block, wanted[axis]))))?
            }
        };
        let whole = !data.dtype().is_float() && data.dtype() != DType::Bool && data.count() > 0;
        let fits = zero_points.as_ref().is_none_or(|z| z.count() == scales.count() && z.dtype() == data.dtype());
        (whole && fits && scales.dtype().is_float()).then_some(Self { data, scales, zero_points, inner, len, blocks })
    }

    /// The element at a row-major place.
    fn number(&self, at: u64) -> f64 {
        let along = at / self.inner % self.len;
        let scale = match self.blocks {
            None => along,
            Some((block, count)) => (at / self.inner / self.len * count + along / block) * self.inner + at % self.inner,
        };
        let zero = self.zero_points.as_ref().map_or(0.0, |z| z.number(scale));
        (self.data.number(at) - zero) * self.scales.number(scale)
    }
}

/// What a constant holds, element by element in row-major order.
#[derive(Clone, Debug)]
pub enum Elements {
    /// As stored.
    Plain(Tensor),
    /// What integers stand for.
    Dequantized(Arc<Dequantized>),
}

impl Elements {
    /// The tensor that is stored: the numbers themselves, or the integers.
    pub fn tensor(&self) -> &Tensor {
        match self {
            Self::Plain(tensor) => tensor,
            Self::Dequantized(of) => &of.data,
        }
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(tensor) => tensor.dtype(),
            Self::Dequantized(of) => of.scales.dtype(),
        }
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &[u64] {
        self.tensor().dims()
    }

    /// Number of elements.
    pub fn count(&self) -> u64 {
        self.tensor().count()
    }

    /// The element at a row-major place.
    ///
    /// # Panics
    /// If there is none.
    pub fn number(&self, at: u64) -> f64 {
        match self {
            Self::Plain(tensor) => tensor.number(at),
            Self::Dequantized(of) => of.number(at),
        }
    }
}

impl From<Tensor> for Elements {
    fn from(tensor: Tensor) -> Self {
        Self::Plain(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(dims: &[u64], values: &[u8]) -> Tensor {
        Tensor::new(DType::U8, dims.to_vec(), values.to_vec().into(), 0).unwrap()
    }

    fn scales(dims: &[u64], values: &[f32]) -> Tensor {
        Tensor::from_f32(dims.to_vec(), values)
    }

    fn numbers(of: Option<Dequantized>) -> Vec<f64> {
        let of = of.unwrap();
        (0..of.data.count()).map(|at| of.number(at)).collect()
    }

    #[test]
    fn scales_follow_their_axis() {
        let data = ints(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let all = Dequantized::new(data.clone(), scales(&[], &[2.0]), Some(ints(&[], &[1])), 7, 0);
        assert_eq!(numbers(all), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let rows = Dequantized::new(data.clone(), scales(&[2], &[1.0, 10.0]), Some(ints(&[2], &[0, 4])), 0, 0);
        assert_eq!(numbers(rows), [1.0, 2.0, 3.0, 0.0, 10.0, 20.0]);
        let columns = Dequantized::new(data.clone(), scales(&[3], &[1.0, 10.0, 100.0]), None, 1, 0);
        assert_eq!(numbers(columns), [1.0, 20.0, 300.0, 4.0, 50.0, 600.0]);
        let blocks = Dequantized::new(data.clone(), scales(&[2, 2], &[1.0, 10.0, 100.0, 1000.0]), None, 1, 2);
        assert_eq!(numbers(blocks), [1.0, 2.0, 30.0, 400.0, 500.0, 6000.0]);
        let down =
            Dequantized::new(ints(&[3, 1, 2], &[1, 2, 3, 4, 5, 6]), scales(&[2, 1, 2], &[1.0, 10.0, 2.0, 20.0]), None, 0, 2);
        assert_eq!(numbers(down), [1.0, 20.0, 3.0, 40.0, 10.0, 120.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = ints(&[2, 3], &[0; 6]);
        let two = scales(&[2], &[1.0; 2]);
        assert!(Dequantized::new(data.clone(), two.clone(), None, 1, 0).is_none());
        assert!(Dequantized::new(data.clone(), two.clone(), None, 2, 0).is_none());
        assert!(Dequantized::new(data.clone(), two.clone(), None, 1, 2).is_none());
        assert!(Dequantized::new(data.clone(), two.clone(), Some(ints(&[3], &[0; 3])), 0, 0).is_none());
        assert!(Dequantized::new(two.clone(), two.clone(), None, 0, 0).is_none());
        assert!(Dequantized::new(data.clone(), ints(&[2], &[1, 1]), None, 0, 0).is_none());
    }
}
