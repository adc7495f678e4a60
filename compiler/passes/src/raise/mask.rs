//! Which cache entries a token sees.
//!
//! A mask is a truth value at (sequence `b`, token `s`, entry `t`). In normal form it is a conjunction of comparisons of polynomials and of
//! loads from the attention mask input; tests that always hold have vanished. Recognised are `t <= past + s` (causal), `t > past + s - W`
//! (a window of W) and `mask[b, t] != 0` (padding, which a ragged batch does not have).

use super::activation::{Ask, Made};
use super::{Raiser, Res};
use crate::sym::{Base, Id, Kind, Node};
use q35_graph::Tensor;

/// Constant masks larger than this are not looked through.
const LARGEST_MASK: u64 = 1 << 26;

/// What a mask says beyond causality.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mask {
    /// Entries a token sees, itself included.
    pub window: Option<u64>,
}

impl Raiser<'_> {
    /// Recognises a mask.
    pub(super) fn mask(&mut self, truth: Id, t: Id) -> Res<Mask> {
        let (mut causal, mut mask) = (false, Mask::default());
        for part in self.eval.sym.conjuncts(truth) {
            if self.is_padding(part, t) {
                self.masked = true;
                continue;
            }
            let bounds = match self.table_of_truths(part, t)? {
                Some(bounds) => bounds,
                None => self.bound(part, t).into_iter().collect(),
            };
            if bounds.is_empty() {
                return self.strange(part);
            }
            for bound in bounds {
                match bound {
                    Bound::UpTo(0) => causal = true,
                    Bound::Window(w) if mask.window.is_none_or(|x| x == w) => mask.window = Some(w),
                    _ => return self.strange(part),
                }
            }
        }
        if causal { Ok(mask) } else { self.fault("lets tokens see tokens that come after them") }
    }

    fn strange<T>(&self, part: Id) -> Res<T> {
        let text = self.eval.sym.show(part);
        self.fault(format!("has a mask that is neither causal, nor a window, nor padding: {text}"))
    }

    /// A comparison of `t` with the token's own index.
    fn bound(&mut self, part: Id, t: Id) -> Option<Bound> {
        let Node::NonNegative(gap) = *self.eval.sym.node(part) else { return None };
        let own = self.grid.column(&mut self.eval.sym);
        // own - t + c >= 0
        let ahead = self.eval.sym.linear(&[(gap, 1.0), (own, -1.0), (t, 1.0)], 0.0);
        if let Some(c) = self.eval.sym.as_int(ahead) {
            return Some(Bound::UpTo(c));
        }
        // t - own + w - 1 >= 0
        let behind = self.eval.sym.linear(&[(gap, 1.0), (own, 1.0), (t, -1.0)], 1.0);
        self.eval.sym.as_int(behind).filter(|w| *w > 0).map(|w| Bound::Window(w as u64))
    }

    /// `mask[b, t] != 0`.
    fn is_padding(&self, part: Id, t: Id) -> bool {
        let loads_mask = |id: Id| match self.eval.sym.node(id) {
            Node::Load(base, index) => {
                self.grid.mask.is_some() && self.eval.value_of(*base) == self.grid.mask && **index == [self.grid.b, t]
            }
            _ => false,
        };
        match *self.eval.sym.node(part) {
            Node::Not(inner) => matches!(*self.eval.sym.node(inner), Node::Zero(x) if loads_mask(x)),
            _ => loads_mask(part),
        }
    }

    /// A constant table of truth values at (`s`, `t`) that is causal, with a window if it shows one.
    fn table_of_truths(&mut self, part: Id, t: Id) -> Res<Option<Vec<Bound>>> {
        let Node::Load(base, index) = self.eval.sym.node(part).clone() else { return Ok(None) };
        let Base::Constant(name, tensor) = self.eval.sym.base(base).clone() else { return Ok(None) };
        if Kind::of(tensor.dtype()) == Kind::Real {
            return Ok(None);
        }
        let s = self.grid.s;
        let (Some(row), Some(column)) = (index.iter().position(|i| *i == s), index.iter().position(|i| *i == t)) else {
            return Ok(None);
        };
        if tensor.count() > LARGEST_MASK {
            return self.fault(format!("has a constant mask '{name}' of {} elements", tensor.count()));
        }
        let fixed =
            index.iter().enumerate().all(|(i, at)| i == row || i == column || self.eval.sym.as_number(*at) == Some(0.0));
        match fixed.then(|| triangle(tensor.tensor(), row, column)).flatten() {
            Some(window) => Ok(Some([Bound::UpTo(0)].into_iter().chain(window.map(Bound::Window)).collect())),
            None => self.fault(format!("has a constant mask '{name}' that is not causal")),
        }
    }

    /// Whether a row sees nothing at all, so that whoever reads it gets padding: `sum over t of the mask < 1`.
    pub(super) fn sees_nothing(&mut self, condition: Id) -> bool {
        let mut mask = None;
        self.eval.sym.visit(condition, |id, node| {
            if let Node::Fold(_, bound, body) = node {
                mask = Some((id, *bound, *body));
            }
            true
        });
        let Some((fold, t, body)) = mask else { return false };
        let entries = self.grid.total(&mut self.eval.sym);
        let one = self.eval.sym.int(1);
        let empty = self.eval.sym.less(fold, one);
        let truth = self.eval.sym.as_truth(body);
        condition == empty && self.eval.sym.bound_extent(t) == Some(entries) && self.mask(truth, t).is_ok()
    }

    /// The branch of a selection that rows which see something take, if the other is 0.
    pub(super) fn guarded_part(&self, a: Id, b: Id) -> Option<Id> {
        match (self.eval.sym.as_number(a), self.eval.sym.as_number(b)) {
            (Some(0.0), None) => Some(b),
            (None, Some(0.0)) => Some(a),
            _ => None,
        }
    }

    /// An activation that is set to 0 where its row sees nothing.
    pub(super) fn guarded(&mut self, ask: Ask) -> Res<Option<Made>> {
        let Node::Select(condition, a, b) = *self.eval.sym.node(ask.expr) else { return Ok(None) };
        let Some(part) = self.guarded_part(a, b) else { return Ok(None) };
        let when = if part == b { condition } else { self.eval.sym.not(condition) };
        if !self.sees_nothing(when) {
            return Ok(None);
        }
        Ok(Some(self.activation(part, ask.column, ask.width)?))
    }
}

/// A comparison in a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// `t <= own + c`.
    UpTo(i64),
    /// `t > own - w`.
    Window(u64),
}

/// Whether a table is true exactly where `column <= row` and, with a window `w`, `column > row - w`; the window, if it shows.
fn triangle(tensor: &Tensor, row: usize, column: usize) -> Option<Option<u64>> {
    let dims = tensor.dims();
    let stride = |axis: usize| dims[axis + 1..].iter().product::<u64>();
    let (rows, columns) = (dims[row], dims[column]);
    let at = |r: u64, c: u64| tensor.number(r * stride(row) + c * stride(column)) != 0.0;
    let shows = |r: u64| (0..columns).filter(|c| at(r, *c)).count() as u64;
    let last = rows.checked_sub(1)?;
    let window = (shows(last) < rows.min(columns)).then(|| shows(last));
    let right = (0..rows).all(|r| (0..columns).all(|c| at(r, c) == (c <= r && window.is_none_or(|w| c + w > r))));
    right.then_some(window)
}

#[cfg(test)]
mod tests {
    use super::triangle;
    use q35_graph::Tensor;

    #[test]
    fn tables_show_their_window() {
        let table = |f: fn(i64, i64) -> bool| {
            let values: Vec<i64> = (0..25).map(|i| i64::from(f(i / 5, i % 5))).collect();
            triangle(&Tensor::from_i64(vec![1, 5, 1, 5], &values), 1, 3)
        };
        assert_eq!(table(|r, c| c <= r), Some(None));
        assert_eq!(table(|r, c| c <= r && c > r - 2), Some(Some(2)));
        assert_eq!(table(|r, c| c <= r + 1), None);
        assert_eq!(table(|_, _| true), None);
    }
}
