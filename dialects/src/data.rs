//! Values of the reference evaluation.

use q35_format::{Group, PackedView};

/// A row-major matrix of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Columns.
    pub width: usize,
    /// `rows * width` numbers.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of `width` columns.
    ///
    /// # Panics
    /// If `data` holds no whole number of rows.
    pub fn new(width: usize, data: Vec<f32>) -> Self {
        assert!(width > 0 && data.len().is_multiple_of(width), "{} numbers in rows of {width}", data.len());
        Self { width, data }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.width
    }

    /// Row `at`.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.data[at * self.width..][..self.width]
    }

    /// The matrix whose row `r` is `f(row r, out)`, `width` columns wide.
    pub(crate) fn map_rows(&self, width: usize, mut f: impl FnMut(usize, &[f32], &mut [f32])) -> Self {
        let mut data = vec![0.0; self.rows() * width];
        for (at, out) in data.chunks_exact_mut(width).enumerate() {
            f(at, self.row(at), out);
        }
        Self { width, data }
    }
}

/// Activations rounded to int8.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantMatrix {
    /// Columns.
    pub width: usize,
    /// `rows * width` integers.
    pub data: Vec<i8>,
    /// One scale per row.
    pub scales: Vec<f32>,
}

/// Which experts rows go to, and with what weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// Experts to choose from.
    pub experts: usize,
    /// Experts per row.
    pub choices: usize,
    /// Per row `choices` experts, the best first.
    pub chosen: Vec<u32>,
    /// Their weights.
    pub weights: Vec<f32>,
}

impl QuantMatrix {
    /// Row `at`.
    pub fn row(&self, at: usize) -> &[i8] {
        &self.data[at * self.width..][..self.width]
    }
}

/// A layer of the cache and its layout; the entries are in the interpreter's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRef {
    /// Layer, from 0.
    pub layer: u32,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Columns of a key of one head.
    pub key_dim: usize,
    /// Columns of a value of one head.
    pub value_dim: usize,
}

/// A value of any type.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// One number per row.
    Ids(Vec<u32>),
    /// Activations.
    Act(Matrix),
    /// Rounded activations.
    Quant(QuantMatrix),
    /// Cosines, then sines.
    Rotary(Matrix),
    /// A layer of the cache.
    Cache(CacheRef),
    /// Experts and weights.
    Routing(Routing),
}

/// Unwraps the variant that the types guarantee.
macro_rules! unwrap {
    ($($(#[doc = $doc:literal])* $name:ident: $variant:ident -> $ty:ty;)*) => { $(
        $(#[doc = $doc])*
        ///
        /// # Panics
        /// If the value is of another kind.
        pub fn $name(&self) -> &$ty {
            match self {
                Data::$variant(value) => value,
                other => panic!("a value of kind {} expected, not {other:?}", stringify!($name)),
            }
        }
    )* };
}

impl Data {
    unwrap! {
        /// Token ids or positions.
        ids: Ids -> [u32];
        /// Activations.
        act: Act -> Matrix;
        /// Rounded activations.
        quant: Quant -> QuantMatrix;
        /// A table of cosines and sines.
        rotary: Rotary -> Matrix;
        /// A layer of the cache.
        cache: Cache -> CacheRef;
        /// Experts and weights.
        routing: Routing -> Routing;
    }
}

/// The integers of a quantized parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// Input columns.
    pub cols: usize,
    /// Which columns share a scale.
    pub group: Group,
    /// `rows * cols` integers.
    pub q: Vec<i8>,
    /// One scale per row and group.
    pub scales: Vec<f32>,
    /// One offset per row and group, where the codec has them.
    pub offsets: Option<Vec<f32>>,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamValue {
    /// Numbers.
    Float(Matrix),
    /// Integers with scales.
    Integers(Integers),
}

impl ParamValue {
    /// Decodes a packed matrix.
    pub fn decode(packed: &PackedView<'_>) -> Self {
        let spec = packed.spec();
        let (rows, cols, groups) = (spec.rows(), spec.cols(), spec.groups());
        if !spec.codec().has_scales() {
            return Self::Float(Matrix::new(cols, packed.all_weights()));
        }
        let mut q = vec![0; rows * cols];
        for (row, out) in q.chunks_exact_mut(cols).enumerate() {
            packed.integers(row, out).unwrap_or_else(|| unreachable!("a codec with scales has integers"));
        }
        let per_group = |f: &dyn Fn(usize, usize) -> f32| (0..rows * groups).map(|i| f(i / groups, i % groups)).collect();
        let scales = per_group(&|row, group| packed.scale(row, group));
        let offsets = spec.asymmetric().then(|| per_group(&|row, group| packed.offset(row, group)));
        Self::Integers(Integers { cols, group: spec.group(), q, scales, offsets })
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Float(m) => (m.rows(), m.width),
            Self::Integers(i) => (i.q.len() / i.cols, i.cols),
        }
    }

    /// Row `at` as numbers: `scale * q`, plus the offset where there is one, each operation rounded to f32.
    pub fn row(&self, at: usize) -> Vec<f32> {
        let i = match self {
            Self::Float(m) => return m.row(at).to_vec(),
            Self::Integers(i) => i,
        };
        let mut out: Vec<f32> = i.q[at * i.cols..][..i.cols].iter().map(|q| f32::from(*q)).collect();
        let groups = i.group.count(i.cols);
        for group in 0..groups {
            for x in &mut out[i.group.columns(i.cols, group)] {
                *x *= i.scales[at * groups + group];
                if let Some(offsets) = &i.offsets {
                    *x += offsets[at * groups + group];
                }
            }
        }
        out
    }

    /// All rows as numbers, see [`ParamValue::row`].
    pub fn matrix(&self) -> Matrix {
        let (rows, cols) = self.shape();
        Matrix::new(cols, (0..rows).flat_map(|row| self.row(row)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_format::encode::encode;
    use q35_format::{Codec, PackedSpec};

    /// The format crate's own decoding is the other side.
    #[test]
    fn decoded_parameters_are_the_numbers_of_the_format() {
        let weights: Vec<f32> = (0..3 * 70).map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0).collect();
        for codec in Codec::all() {
            let groups: &[Group] = if codec.has_scales() { &[Group::Row, Group::Columns(64)] } else { &[Group::Row] };
            for group in groups {
                let symmetric = PackedSpec::new(3, 70, codec, *group).unwrap();
                for spec in std::iter::once(symmetric).chain(symmetric.with_offsets().ok()) {
                    let packed = encode(spec, &weights).unwrap();
                    let view = packed.view().unwrap();
                    let value = ParamValue::decode(&view);
                    assert_eq!(value.shape(), (3, 70));
                    assert_eq!(matches!(value, ParamValue::Integers(_)), codec.has_scales());
                    assert_eq!(value.matrix().data, view.all_weights(), "{codec} per {group}");
                }
            }
        }
    }
}
