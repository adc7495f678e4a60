//! Which cache entries a token sees.
//!
//! A mask is a truth value at (sequence `b`, token `s`, entry `t`). In normal form it is a conjunction of comparisons of polynomials and of
//! loads from the attention mask input; tests that always hold have vanished. Recognised are `t <= past + s` (causal), `t > past + s - W`
//! (a window of W) and `mask[b, t] != 0` (padding, which a ragged batch does not have).
//!
//! A graph without that input may compare positions that are given. Its rows have no padding, so their positions rise by one from token to
//! token: then differences of positions are differences of indices, and no token belongs to another sequence than the one before it. (Several
//! sequences packed into one row are several slots here.)

use super::activation::{Ask, Made};
use super::attention::UNSEEN;
use super::{Raiser, Res};
use crate::sym::{Base, Id, Kind, Node};
use q35_graph::{DType, Elements, Tensor};

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
        let truth = self.in_one_sequence(truth);
        for part in self.eval.sym.conjuncts(truth) {
            if self.is_padding(part, t) {
                self.masked = true;
                continue;
            }
            let bounds = match (self.table_of_truths(part, t)?, self.bound(part, t)) {
                (Some(bounds), _) => bounds,
                (None, Some(bound)) => vec![bound],
                (None, None) => return self.strange(part),
            };
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

    /// A mask by positions that are given, as one by indices.
    fn in_one_sequence(&mut self, truth: Id) -> Id {
        let (Some(positions), None) = (self.grid.positions, self.grid.mask) else { return truth };
        let mut given = None;
        self.eval.sym.visit(truth, |_, node| {
            if let Node::Load(base, _) = node
                && self.eval.value_of(*base) == Some(positions)
            {
                given = Some(*base);
            }
            true
        });
        let Some(given) = given else { return truth };
        let first = self.eval.sym.add_base(Base::Opaque("the first position".to_owned(), Kind::Integer));
        self.eval.sym.rewrite(truth, &mut |sym, id| match *sym.node(id) {
            Node::Load(base, ref index) if base == given && index.len() == 2 => {
                let [b, s] = [index[0], index[1]];
                let first = sym.load(first, &[b]);
                Some(sym.add(first, s))
            }
            _ => None,
        })
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

    /// What a constant table at (`s`, `t`) says, if it is one: truth values, or numbers that are not 0, or at least some other.
    fn table_of_truths(&mut self, part: Id, t: Id) -> Res<Option<Vec<Bound>>> {
        let (inner, not) = match *self.eval.sym.node(part) {
            Node::Not(inner) => (inner, true),
            _ => (part, false),
        };
        let (compared, test): (Id, fn(f64) -> bool) = match *self.eval.sym.node(inner) {
            Node::Zero(x) => (x, |x| x == 0.0),
            Node::NonNegative(x) => (x, |x| x >= 0.0),
            _ => (inner, |x| x != 0.0),
        };
        let (terms, constant) = self.eval.sym.terms(compared);
        let [(load, factor)] = terms[..] else { return Ok(None) };
        let Some(Table { name, tensor, rows, columns, batch, first }) = self.constant_mask(load, t) else { return Ok(None) };
        if tensor.count() > LARGEST_MASK {
            return self.fault(format!("has a constant mask '{name}' of {} elements", tensor.count()));
        }
        let at =
            |b: u64, r: u64, c: u64| test(factor * tensor.number(b * batch.1 + r * rows.1 + c * columns.1) + constant) != not;
        let each = || (0..rows.0).flat_map(|r| (0..columns.0).map(move |c| (r, c)));
        let alike = (1..batch.0).all(|b| each().all(|(r, c)| at(b, r, c) == at(0, r, c)));
        match band([rows.0, columns.0], first, |r, c| at(0, r, c)) {
            Some(bounds) if alike => {
                self.context = self.context.min(columns.0);
                Ok(Some(bounds))
            }
            _ => self.fault(format!("has a constant mask '{name}' that is neither causal nor a window")),
        }
    }

    /// The constant behind an element at (token, entry `t`), and may be the sequence, all its other indices being 0.
    fn constant_mask(&mut self, load: Id, t: Id) -> Option<Table> {
        let Node::Load(base, index) = self.eval.sym.node(load).clone() else { return None };
        let Base::Constant(name, tensor) = self.eval.sym.base(base).clone() else { return None };
        let own = self.grid.column(&mut self.eval.sym);
        let cached = self.grid.past.map_or(Some(0), |past| self.eval.sym.as_int(past));
        let (mut rows, mut columns, mut batch, mut stride) = (None, None, (1, 0), 1);
        for (at, &dim) in index.into_iter().zip(tensor.dims()).rev() {
            if at == t {
                columns = Some((dim, stride));
            } else if at == self.grid.b {
                batch = (dim, stride);
            } else if at == own {
                rows = Some(((dim, stride), 0));
            } else if at == self.grid.s {
                rows = Some(((dim, stride), cached?));
            } else if self.eval.sym.as_number(at) != Some(0.0) && dim != 1 {
                return None;
            }
            stride *= dim;
        }
        let ((rows, first), columns) = (rows?, columns?);
        Some(Table { name, tensor, rows, columns, batch, first })
    }

    /// A constant that is added to scores, 0 where an entry is seen and less than any score where it is not, as truth values at the same index.
    pub(super) fn added_table(&mut self, load: Id, factor: f64) -> Option<Id> {
        let Node::Load(base, index) = self.eval.sym.node(load).clone() else { return None };
        let Base::Constant(name, tensor) = self.eval.sym.base(base).clone() else { return None };
        let key = (base, factor.to_bits());
        let seen = match self.truths.get(&key) {
            Some(seen) => *seen,
            None => {
                if !index.iter().any(|at| self.eval.sym.contains(*at, self.grid.s)) || tensor.count() > LARGEST_MASK {
                    return None;
                }
                let shown = |at: u64| match factor * tensor.number(at) {
                    0.0 => Some(1),
                    low if low <= UNSEEN => Some(0),
                    _ => None,
                };
                let truths: Vec<u8> = (0..tensor.count()).map(shown).collect::<Option<_>>()?;
                let table = Tensor::new(DType::Bool, tensor.dims().to_vec(), truths.into(), 0).ok()?;
                let seen = self.eval.sym.add_base(Base::Constant(name, table.into()));
                self.truths.insert(key, seen);
                seen
            }
        };
        Some(self.eval.sym.load(seen, &index))
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

/// A constant by token and entry.
struct Table {
    name: String,
    tensor: Elements,
    /// How many tokens it has, and how far apart they lie.
    rows: (u64, u64),
    /// The same for entries.
    columns: (u64, u64),
    /// The same for sequences, which are all to be alike.
    batch: (u64, u64),
    /// The entry that the first row's token is.
    first: i64,
}

/// What a table of some rows and columns says that is true in a band of diagonals and nowhere else. A bound that the table is too small to show
/// is none.
fn band([rows, columns]: [u64; 2], first: i64, seen: impl Fn(u64, u64) -> bool) -> Option<Vec<Bound>> {
    // How far behind the token of a row the entry of a column is.
    let behind = |r: u64, c: u64| first + r as i64 - c as i64;
    let all = || (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
    let mut shown = all().filter(|(r, c)| seen(*r, *c)).map(|(r, c)| behind(r, c));
    let one = shown.next()?;
    let (least, most) = shown.fold((one, one), |(least, most), d| (least.min(d), most.max(d)));
    if all().any(|(r, c)| seen(r, c) != (least..=most).contains(&behind(r, c))) {
        return None;
    }
    let ahead = (least > behind(0, columns - 1)).then_some(Bound::UpTo(-least));
    let window = (most < behind(rows - 1, 0)).then_some(most + 1).filter(|w| *w > 0).map(|w| Bound::Window(w as u64));
    Some([ahead, window].into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::{Bound, band};

    #[test]
    fn tables_show_their_bounds() {
        let table = |f: fn(i64, i64) -> bool| band([5, 5], 0, |r, c| f(r as i64, c as i64));
        assert_eq!(table(|r, c| c <= r), Some(vec![Bound::UpTo(0)]));
        assert_eq!(table(|r, c| c <= r && c > r - 2), Some(vec![Bound::UpTo(0), Bound::Window(2)]));
        assert_eq!(table(|r, c| c > r - 3), Some(vec![Bound::Window(3)]));
        assert_eq!(table(|r, c| c <= r + 1), Some(vec![Bound::UpTo(1)]));
        assert_eq!(table(|_, _| true), Some(vec![]));
        assert_eq!(table(|_, _| false), None);
        assert_eq!(table(|r, c| c <= r && (r, c) != (3, 1)), None);
        // Two new tokens behind three cached ones.
        assert_eq!(band([2, 5], 3, |r, c| c <= r + 3), Some(vec![Bound::UpTo(0)]));
        assert_eq!(band([2, 5], 3, |r, c| c <= r + 3 && c > r), Some(vec![Bound::UpTo(0), Bound::Window(3)]));
    }
}
