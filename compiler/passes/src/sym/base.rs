//! What elements are loaded from.
//!
//! A constant tensor folds where it can: at constant indices to a number, and an integer tensor that is an affine function of its
//! free indices (a table of positions, a vector of equal numbers) to that function.
//!
//! Of elements that are not known it may be known that they are indices below some extent ([`Arena::bound_base`]), or that two vectors of
//! them are permutations of which one undoes the other ([`Arena::invert_base`]).

use super::{Arena, Id, Node};
use q35_graph::{DType, Elements};

/// Identity of a [`Base`] in an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseId(u32);

/// What values a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Integers.
    Integer,
    /// Truth values.
    Truth,
    /// Real numbers.
    Real,
}

impl Kind {
    /// The kind of a tensor's elements.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::Bool => Self::Truth,
            other if other.is_float() => Self::Real,
            _ => Self::Integer,
        }
    }
}

/// Something that has elements.
#[derive(Clone, Debug)]
pub enum Base {
    /// A constant, by its name in the model.
    Constant(String, Elements),
    /// A value that is not known: an input of the model, or something already recognised.
    Opaque(String, Kind),
}

impl Base {
    /// What it holds.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Constant(_, tensor) => Kind::of(tensor.dtype()),
            Self::Opaque(_, kind) => *kind,
        }
    }
}

/// Integer tensors above this many elements are not looked through for a formula.
const LARGEST_TABLE: u64 = 1 << 22;

impl Arena {
    /// Adds something to load from.
    pub fn add_base(&mut self, base: Base) -> BaseId {
        self.bases.push(base);
        BaseId(self.bases.len() as u32 - 1)
    }

    /// What is behind an id.
    pub fn base(&self, id: BaseId) -> &Base {
        &self.bases[id.0 as usize]
    }

    /// From now on, the elements of a base are integers from 0 to below `extent`.
    pub fn bound_base(&mut self, base: BaseId, extent: Id) {
        self.below.insert(base, extent);
    }

    /// From now on, `base[inverse[i]]` is `i`.
    pub fn invert_base(&mut self, base: BaseId, inverse: BaseId) {
        self.inverses.insert(base, inverse);
    }

    /// What the elements of a base are below, if they are indices.
    pub(super) fn base_bound(&self, base: BaseId) -> Option<Id> {
        self.below.get(&base).copied()
    }

    /// An element.
    pub fn load(&mut self, base: BaseId, index: &[Id]) -> Id {
        if let Base::Constant(_, tensor) = self.base(base) {
            let tensor = tensor.clone();
            if let Some(value) = self.fold_constant(base, &tensor, index) {
                return value;
            }
        }
        if let (Some(inverse), [at]) = (self.inverses.get(&base), index)
            && let Node::Load(inner, at) = self.node(*at)
            && inner == inverse
        {
            return at[0];
        }
        self.intern(Node::Load(base, index.into()))
    }

    fn fold_constant(&mut self, base: BaseId, tensor: &Elements, index: &[Id]) -> Option<Id> {
        if index.len() != tensor.dims().len() {
            return None;
        }
        let mut fixed = Vec::with_capacity(index.len());
        for (&at, &dim) in index.iter().zip(tensor.dims()) {
            match self.as_int(at) {
                Some(at) if (0..dim as i64).contains(&at) => fixed.push(Some(at as u64)),
                Some(_) => return None,
                None => fixed.push(if dim == 1 { Some(0) } else { None }),
            }
        }
        let key = (base, fixed.into_boxed_slice());
        if !self.affine.contains_key(&key) {
            let affine = Affine::of(tensor, &key.1);
            self.affine.insert(key.clone(), affine);
        }
        let affine = self.affine[&key].clone()?;
        let free = index.iter().zip(&key.1).filter(|(_, fixed)| fixed.is_none()).map(|(at, _)| *at);
        let terms: Vec<(Id, f64)> = free.zip(affine.slopes).collect();
        Some(self.linear(&terms, affine.first))
    }
}

/// A constant tensor with some of its indices given.
pub(super) type Fixed = (BaseId, Box<[Option<u64>]>);

/// `first + sum of slope * index`, over the free indices.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    first: f64,
    slopes: Vec<f64>,
}

impl Affine {
    /// The function that a tensor is of those indices that are not fixed. A table of real numbers is one only if none is free.
    fn of(tensor: &Elements, fixed: &[Option<u64>]) -> Option<Self> {
        let (mut offset, mut stride, mut free) = (0u64, 1u64, Vec::new());
        for (at, &dim) in fixed.iter().zip(tensor.dims()).rev() {
            match at {
                Some(at) => offset += at * stride,
                None => free.push((dim, stride)),
            }
            stride = stride.checked_mul(dim)?;
        }
        free.reverse();
        if free.iter().any(|(dim, _)| *dim == 0)
            || !free.is_empty() && (tensor.dtype().is_float() || tensor.count() > LARGEST_TABLE)
        {
            return None;
        }
        let first = tensor.number(offset);
        let slopes: Vec<f64> = free.iter().map(|(_, stride)| tensor.number(offset + stride) - first).collect();
        let mut at = vec![0u64; free.len()];
        loop {
            let flat: u64 = offset + at.iter().zip(&free).map(|(i, f)| i * f.1).sum::<u64>();
            let want: f64 = first + at.iter().zip(&slopes).map(|(i, s)| *i as f64 * s).sum::<f64>();
            if tensor.number(flat) != want {
                return None;
            }
            let Some(next) = (0..free.len()).rev().find(|&i| at[i] + 1 < free[i].0) else { break };
            at[next] += 1;
            at[next + 1..].fill(0);
        }
        Some(Self { first, slopes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_undoes_its_inverse() {
        let mut a = Arena::default();
        let [order, back] = ["order", "back"].map(|name| a.add_base(Base::Opaque(name.into(), Kind::Integer)));
        let n = a.dim(super::super::Dim::Tokens);
        a.invert_base(order, back);
        let (i, j) = (a.var("i", n), a.var("j", n));
        let at = a.load(back, &[i]);
        assert_eq!(a.load(order, &[at]), i);
        let at_order = a.load(order, &[j]);
        assert_ne!(a.load(back, &[at_order]), j, "nothing is said about the other way round");
        // What is put in is looked at too.
        assert_eq!(a.subst(at_order, &std::collections::HashMap::from([(j, at)])), i);
    }

    #[test]
    fn an_integer_table_folds_to_its_formula() {
        let mut a = Arena::default();
        let table = q35_graph::Tensor::from_i64(vec![2, 3, 2], &[5, 0, 6, 0, 7, 0, 15, 0, 16, 0, 17, 1]);
        let base = a.add_base(Base::Constant("t".into(), table.into()));
        let (two, three) = (a.int(2), a.int(3));
        let (i, j, zero, one) = (a.var("i", two), a.var("j", three), a.int(0), a.int(1));
        let want = a.linear(&[(i, 10.0), (j, 1.0)], 5.0);
        assert_eq!(a.load(base, &[i, j, zero]), want);
        let irregular = a.load(base, &[i, j, one]);
        assert!(matches!(a.node(irregular), Node::Load(..)));
        let one_row = a.load(base, &[zero, j, one]);
        assert_eq!(one_row, zero);
    }
}
