//! Rotary position embeddings, in any spelling.
//!
//! An element of a query or key is asked for at a symbolic column. Where its expression branches on the column, it is asked for again,
//! piece by piece. A rotated piece reads `x(j) cos(p f_i) -+ x(k) sin(p f_i)`, or with the signs the other way round, which is a rotation by negative
//! frequencies; from the columns `j` and `k` of all pieces follow style, width
//! and the unrotated element `x`. Rotated columns come first in it; where the graph had them elsewhere, or paired them otherwise, `x` is one
//! formula per piece, and whoever makes it puts its columns in that order.

use super::activation::{Ask, Made, is_one};
use super::{Raiser, Res};
use crate::sym::{Base, Combine, Func, Id, Kind, Node, Power};
use q35_bundle::PositionRule;
use q35_dialects::ParamName;
use q35_dialects::q35::{Positions, RopeStyle, Rotary};
use q35_graph::Value;
use std::collections::BTreeSet;

/// A rotation that was seen.
pub(super) struct Rotation {
    /// Angle per position of each pair.
    pub inv_freq: ParamName,
    /// Pairing.
    pub style: RopeStyle,
    /// Factor of rotated columns relative to those that pass, or to the length of the rotation.
    pub ratio: f64,
}

/// An element before its rotation.
pub(super) struct Turned {
    /// The element, rotated.
    pub whole: Id,
    /// The element as a function of `column`.
    pub before: Id,
    /// The column variable.
    pub column: Id,
    /// Constant factor that `before` lacks.
    pub factor: f64,
    /// The rotation, if there is one.
    pub rotation: Option<Rotation>,
    /// Whether some columns are not rotated.
    pub passes: bool,
    /// First of the columns that are rotated, if any are; in `before` they come first.
    pub rotated_from: Option<u64>,
    /// The norm of what the rotation gives, if it is the last.
    pub norm: Option<NormAfter>,
}

/// A root mean square norm of rotated columns.
pub(super) struct NormAfter {
    /// One factor per column, if they are not all the same.
    pub weight: Option<ParamName>,
    /// Added to the mean square.
    pub eps: f32,
}

/// A cosine or sine of an angle, or an element of a table of them.
#[derive(Clone, Copy, PartialEq)]
enum Trig {
    Cos(Id),
    Sin(Id),
    Table(Id),
}

/// One piece of columns: `own cos + partner sin`, or one that is not rotated. A sum has no coefficient of its own that would stay the same from
/// column to column, so coefficients are left where they are.
enum Piece {
    Passing(Id),
    Rotated { own: Id, partner: Id, cos: Trig, sin: Trig },
}

/// Columns of one piece.
struct Stretch {
    start: u64,
    len: u64,
    /// The column within it.
    i: Id,
    piece: Piece,
}

/// A rotation, proved to be one for all pairs.
struct Seen {
    before: Id,
    column: Id,
    factor: f64,
    /// Factor of the columns that are not rotated, if there are any.
    passing: Option<f64>,
    style: RopeStyle,
    cos: Trig,
    sin: Trig,
    /// 1, or -1 for a rotation the other way round.
    sign: f64,
    pair: Id,
    half: u64,
}

/// The stretches that are not rotated: variable, width, element.
fn passing(pieces: &[Stretch]) -> impl Iterator<Item = (Id, u64, Id)> + '_ {
    pieces.iter().filter_map(|s| match s.piece {
        Piece::Passing(whole) => Some((s.i, s.len, whole)),
        Piece::Rotated { .. } => None,
    })
}

type At<'a> = &'a dyn Fn(&mut Raiser, Id) -> Res<Id>;

impl Raiser<'_> {
    /// Takes an element, a function of the column of a head, out of its rotation.
    pub(super) fn unrotate(&mut self, element: At, width: u64) -> Res<Turned> {
        let element: At = &|r, d| element(r, d).and_then(|x| r.for_context(x));
        let columns = self.eval.sym.number(width as f64);
        let d = self.eval.sym.var("d", columns);
        let whole = element(self, d)?;
        if self.is_poisoned(whole) {
            return self.consequence();
        }
        let (breaks, parity) = self.breaks(whole, d, width);
        if breaks.is_empty() && !parity {
            if self.has_trig(whole) {
                return self.fault("rotates columns in no regular way");
            }
            let (factor, before) = self.content(whole);
            return Ok(Turned {
                whole,
                before,
                column: d,
                factor,
                rotation: None,
                passes: true,
                rotated_from: None,
                norm: None,
            });
        }
        if let Some(turned) = self.normed_after(whole, d, width)? {
            return Ok(turned);
        }
        self.on_behalf(&[whole], |r| {
            let edges: Vec<u64> = [0].into_iter().chain(breaks).chain([width]).collect();
            if parity { r.interleaved(element, d, &edges) } else { r.halves(element, d, &edges) }
        })
        .map(|turned| Turned { whole, ..turned })
    }

    /// Where the expression branches on `d`, and whether it tells even from odd.
    pub(super) fn breaks(&self, whole: Id, d: Id, width: u64) -> (BTreeSet<u64>, bool) {
        let (mut breaks, mut parity) = (BTreeSet::new(), false);
        self.eval.sym.visit(whole, |_, node| {
            match node {
                Node::NonNegative(gap) => {
                    let (terms, c) = self.eval.sym.terms(*gap);
                    let at = match terms[..] {
                        [(x, 1.0)] if x == d => -c,
                        [(x, -1.0)] if x == d => c + 1.0,
                        _ => return true,
                    };
                    if at > 0.0 && at < width as f64 {
                        breaks.insert(at as u64);
                    }
                }
                Node::Div(x, n) | Node::Mod(x, n) if *x == d && self.eval.sym.as_int(*n) == Some(2) => parity = true,
                _ => {}
            }
            true
        });
        (breaks, parity)
    }

    pub(super) fn has_trig(&self, expr: Id) -> bool {
        !self.eval.sym.visit(expr, |id, _| self.trig(id).is_none())
    }

    /// A cosine, a sine, or an element of a constant table that depends on the token.
    fn trig(&self, id: Id) -> Option<Trig> {
        match self.eval.sym.node(id) {
            Node::Apply(Func::Cos, angle) => Some(Trig::Cos(*angle)),
            Node::Apply(Func::Sin, angle) => Some(Trig::Sin(*angle)),
            Node::Load(base, index) => {
                let table =
                    matches!(self.eval.sym.base(*base), Base::Constant(..)) && self.eval.sym.base(*base).kind() == Kind::Real;
                // What belongs to a choice of experts is not a token's by its position.
                let by_position = |at: &Id| {
                    self.eval.sym.contains(*at, self.grid.s) && self.eval.sym.visit(*at, |id, _| self.chosen(id).is_none())
                };
                (table && index.iter().any(by_position)).then_some(Trig::Table(id))
            }
            _ => None,
        }
    }

    /// Reads a piece.
    fn piece(&mut self, expr: Id, i: Id) -> Res<Piece> {
        if !self.has_trig(expr) {
            return Ok(Piece::Passing(expr));
        }
        let (terms, constant) = self.eval.sym.terms(expr);
        let mut parts = Vec::new();
        for &(term, c) in &terms {
            let factors = self.eval.sym.factors(term);
            let found = factors
                .iter()
                .enumerate()
                .find_map(|(at, (f, p))| (*p == Power::ONE).then(|| Some((at, self.trig(*f)?))).flatten());
            let Some((at, trig)) = found else { return self.fault("rotates only a part of its columns' terms") };
            let rest: Vec<(Id, Power)> = factors.into_iter().enumerate().filter(|(j, _)| *j != at).map(|(_, f)| f).collect();
            let rest = self.eval.sym.powers(&rest);
            parts.push((trig, self.eval.sym.scaled(rest, c)));
        }
        let &[first, second] = &parts[..] else { return self.fault("rotates columns in no regular way") };
        if constant != 0.0 {
            return self.fault("rotates columns in no regular way");
        }
        let first_is_cos = match first.0 {
            Trig::Cos(_) => true,
            Trig::Sin(_) => false,
            Trig::Table(load) => self.starts_at_one(load, i),
        };
        let (cos, sin) = if first_is_cos { (first, second) } else { (second, first) };
        Ok(Piece::Rotated { own: cos.1, partner: sin.1, cos: cos.0, sin: sin.0 })
    }

    /// Pairs are columns `start + i` and `start + half + i`; all others pass.
    fn halves(&mut self, element: At, d: Id, edges: &[u64]) -> Res<Turned> {
        const IRREGULAR: &str = "rotates columns in no regular way";
        let mut pieces = Vec::new();
        for pair in edges.windows(2) {
            let extent = self.eval.sym.number((pair[1] - pair[0]) as f64);
            let i = self.eval.sym.var("i", extent);
            let at = self.eval.sym.plus(i, pair[0] as f64);
            let expr = element(self, at)?;
            pieces.push(Stretch { start: pair[0], len: pair[1] - pair[0], i, piece: self.piece(expr, i)? });
        }
        let rotated: Vec<usize> = (0..pieces.len()).filter(|p| matches!(pieces[*p].piece, Piece::Rotated { .. })).collect();
        let &[low, high] = &rotated[..] else { return self.fault(IRREGULAR) };
        let (start, half, i0) = (pieces[low].start, pieces[low].len, pieces[low].i);
        if high != low + 1 || pieces[high].len != half {
            return self.fault("rotates halves of different width");
        }
        let (
            Piece::Rotated { own: own0, partner: partner0, cos, sin },
            Piece::Rotated { own: own1, partner: partner1, cos: cos1, sin: sin1 },
        ) = (&pieces[low].piece, &pieces[high].piece)
        else {
            return self.fault(IRREGULAR);
        };
        let same_angles = self.same_table(*cos1, *cos, i0, half)? && self.same_table(*sin1, *sin, i0, half)?;
        let (own0, own1, cos, sin, partners) = (*own0, *own1, *cos, *sin, [*partner0, *partner1]);
        let Some(sign) = self.turns([own0, own1], partners).filter(|_| same_angles) else { return self.fault(IRREGULAR) };
        let (factor, own) = self.shared_factor([own0, own1]);
        let passing = self.passing_factor(&mut pieces, own[0], i0, start)?;
        let before = self.before_halves(&pieces, own, i0, half, d);
        let seen = Seen { before, column: d, factor, passing, style: RopeStyle::Halves, cos, sin, sign, pair: i0, half };
        Ok(Turned { rotated_from: Some(start), ..self.finished(seen)? })
    }

    /// The element before its rotation, with the rotated columns first.
    fn before_halves(&mut self, pieces: &[Stretch], own: [Id; 2], i0: Id, half: u64, d: Id) -> Id {
        let rotated = [(i0, half, own[0]), (i0, half, own[1])];
        let parts: Vec<(Id, u64, Id)> = rotated.into_iter().chain(passing(pieces)).collect();
        self.piecewise(&parts, d)
    }

    /// Elements of neighbouring stretches of columns, each with its variable and width: one formula of `d` where they are one, else one per
    /// stretch.
    fn piecewise(&mut self, parts: &[(Id, u64, Id)], d: Id) -> Id {
        let Some(&(i0, _, own)) = parts.first() else { return d };
        let one_formula = self.moved(own, i0, d);
        let mut start = 0;
        let mut moved = Vec::with_capacity(parts.len());
        let mut same = true;
        for &(i, len, rest) in parts {
            let at = self.eval.sym.plus(i, start as f64);
            same &= self.moved(one_formula, d, at) == rest;
            let own = self.eval.sym.plus(d, -(start as f64));
            moved.push((start + len, self.moved(rest, i, own)));
            start += len;
        }
        if same {
            return one_formula;
        }
        let mut cases = moved.into_iter().rev();
        let Some((_, mut before)) = cases.next() else { return one_formula };
        for (end, part) in cases {
            let end = self.eval.sym.number(end as f64);
            let inside = self.eval.sym.less(d, end);
            before = self.eval.sym.select(inside, part, before);
        }
        before
    }

    /// Pairs are columns `start + 2i` and `start + 2i + 1` of one stretch; all others pass.
    fn interleaved(&mut self, element: At, d: Id, edges: &[u64]) -> Res<Turned> {
        const IRREGULAR: &str = "rotates columns in no regular way";
        let (mut pieces, mut rotated) = (Vec::new(), None);
        for pair in edges.windows(2) {
            let (start, len) = (pair[0], pair[1] - pair[0]);
            let extent = self.eval.sym.number(len as f64);
            let i = self.eval.sym.var("i", extent);
            let at = self.eval.sym.plus(i, start as f64);
            let expr = element(self, at)?;
            if self.has_trig(expr) {
                if rotated.replace((start, len)).is_some() || !len.is_multiple_of(2) {
                    return self.fault(IRREGULAR);
                }
            } else {
                pieces.push(Stretch { start, len, i, piece: self.piece(expr, i)? });
            }
        }
        let Some((start, width)) = rotated else { return self.fault(IRREGULAR) };
        let half = width / 2;
        let extent = self.eval.sym.number(half as f64);
        let i = self.eval.sym.var("i", extent);
        let mut sides = Vec::new();
        for offset in [0.0, 1.0] {
            let at = self.eval.sym.linear(&[(i, 2.0)], start as f64 + offset);
            let expr = element(self, at)?;
            sides.push(self.piece(expr, i)?);
        }
        let [
            Piece::Rotated { own: own0, partner: partner0, cos, sin },
            Piece::Rotated { own: own1, partner: partner1, cos: cos1, sin: sin1 },
        ] = &sides[..]
        else {
            return self.fault(IRREGULAR);
        };
        let (own0, own1, cos, sin, partners) = (*own0, *own1, *cos, *sin, [*partner0, *partner1]);
        let (cos1, sin1) = (*cos1, *sin1);
        let same_angles = self.same_table(cos1, cos, i, half)? && self.same_table(sin1, sin, i, half)?;
        let Some(sign) = self.turns([own0, own1], partners).filter(|_| same_angles) else { return self.fault(IRREGULAR) };
        let columns = self.eval.sym.number(width as f64);
        let column = self.eval.sym.var("turned", columns);
        let (odd, halved) = (self.eval.sym.linear(&[(i, 2.0)], 1.0), self.eval.sym.scaled(column, 0.5));
        let (factor, [own0, own1]) = self.shared_factor([own0, own1]);
        let own = self.moved(own0, i, halved);
        let at_odd = self.moved(own, column, odd);
        if !self.eval.sym.is_similar(at_odd, own1) {
            return self.fault(IRREGULAR);
        }
        let passing_factor = self.passing_factor(&mut pieces, own, column, start)?;
        let parts: Vec<(Id, u64, Id)> = [(column, width, own)].into_iter().chain(passing(&pieces)).collect();
        let before = self.piecewise(&parts, d);
        let style = RopeStyle::Interleaved;
        let seen = Seen { before, column: d, factor, passing: passing_factor, style, cos, sin, sign, pair: i, half };
        Ok(Turned { rotated_from: Some(start), ..self.finished(seen)? })
    }

    /// The way round that two columns turn whose partners are each other, one with the other sign.
    fn turns(&mut self, own: [Id; 2], partners: [Id; 2]) -> Option<f64> {
        [1.0, -1.0].into_iter().find(|sign| {
            let [first, second] = [self.eval.sym.scaled(own[1], -sign), self.eval.sym.scaled(own[0], *sign)];
            self.eval.sym.is_similar(partners[0], first) && self.eval.sym.is_similar(partners[1], second)
        })
    }

    /// A factor of two elements, and what is left of them.
    fn shared_factor(&mut self, own: [Id; 2]) -> (f64, [Id; 2]) {
        let (factor, first) = self.content(own[0]);
        let second = match self.content(own[1]) {
            (other, rest) if is_one(other / factor) => rest,
            _ => self.eval.sym.scaled(own[1], 1.0 / factor),
        };
        (factor, [first, second])
    }

    /// Takes the one factor of the columns that are not rotated, if there are any, out of them. The rotated ones are `own`, a function of `column`
    /// counted from `start`, times one of theirs.
    fn passing_factor(&mut self, pieces: &mut [Stretch], own: Id, column: Id, start: u64) -> Res<Option<f64>> {
        let mut passing = None;
        for stretch in pieces {
            let Piece::Passing(whole) = stretch.piece else { continue };
            let at = self.eval.sym.plus(stretch.i, stretch.start as f64 - start as f64);
            let expected = self.moved(own, column, at);
            let ((factor, rest), (by, same)) = (self.content(whole), self.content(expected));
            let (factor, rest) = if rest == same { (factor / by, expected) } else { (factor, rest) };
            if passing.is_some_and(|p: f64| !is_one(p / factor)) {
                return self.fault("scales columns that are not rotated differently");
            }
            passing = Some(factor);
            stretch.piece = Piece::Passing(rest);
        }
        Ok(passing)
    }

    /// Reads the frequencies behind a rotation that was seen, and says whose the constant factors are.
    fn finished(&mut self, seen: Seen) -> Res<Turned> {
        let (inv_freq, length) = match (seen.cos, seen.sin) {
            (Trig::Cos(a), Trig::Sin(b)) if self.same_table(Trig::Cos(a), Trig::Cos(b), seen.pair, seen.half)? => {
                let angle = self.eval.sym.scaled(a, seen.sign);
                (self.frequencies(angle, seen.pair, seen.half)?, 1.0)
            }
            (Trig::Table(cos), Trig::Table(sin)) => self.table_frequencies([cos, sin], seen.sign, seen.pair, seen.half)?,
            _ => return self.fault("takes cosine and sine of different angles"),
        };
        let (factor, ratio) = match seen.passing {
            Some(passing) => (passing, seen.factor / passing * length),
            None => (seen.factor * length, 1.0),
        };
        let rotation = Rotation { inv_freq, style: seen.style, ratio };
        Ok(Turned {
            whole: seen.before,
            before: seen.before,
            column: seen.column,
            factor,
            rotation: Some(rotation),
            passes: seen.passing.is_some(),
            rotated_from: Some(0),
            norm: None,
        })
    }

    /// Rotated heads that are no part of an attention spelled out.
    pub(super) fn rotated(&mut self, ask: Ask) -> Res<Option<Made>> {
        if !self.has_trig(ask.expr) {
            return Ok(None);
        }
        let mut head_dim = 0;
        self.eval.sym.visit(ask.expr, |_, node| {
            if let Node::Div(x, n) | Node::Mod(x, n) = node
                && *x == ask.column
                && let Some(n) = self.eval.sym.as_int(*n)
            {
                head_dim = head_dim.max(n as u64);
            }
            true
        });
        // The columns of one head have no number of their head, only, may be, of their pair.
        let head_dim = if head_dim <= 2 { ask.width } else { head_dim };
        if !ask.width.is_multiple_of(head_dim) {
            return Ok(None);
        }
        let heads = ask.width / head_dim;
        let count = self.eval.sym.number(heads as f64);
        let h = self.eval.sym.var("h", count);
        let columns = self.eval.sym.number(head_dim as f64);
        let d = self.eval.sym.var("d", columns);
        let at = self.eval.sym.linear(&[(h, head_dim as f64), (d, 1.0)], 0.0);
        let head = self.moved(ask.expr, ask.column, at);
        let (breaks, parity) = self.breaks(head, d, head_dim);
        if breaks.is_empty() && !parity {
            return Ok(None);
        }
        let mut turned = self.unrotate(
            &|r, d| {
                let at = r.eval.sym.linear(&[(h, head_dim as f64), (d, 1.0)], 0.0);
                Ok(r.moved(ask.expr, ask.column, at))
            },
            head_dim,
        )?;
        if turned.rotation.is_none() || turned.rotated_from.is_some_and(|start| start > 0) {
            return self.fault("rotates columns in no regular way");
        }
        let (value, factor) = self.flat_activation(turned.before, h, turned.column, heads, head_dim)?;
        let (value, factor) = self.normed(value, factor, &mut turned, head_dim)?;
        let value = self.turned(value, &turned, head_dim, 1.0)?;
        Ok(Some((value, factor * turned.factor)))
    }

    /// A product of rotated columns, the norm of all of them, and a constant vector.
    fn normed_after(&mut self, whole: Id, d: Id, width: u64) -> Res<Option<Turned>> {
        let (factor, rest) = self.eval.sym.coefficient(whole);
        let factors = self.eval.sym.factors(rest);
        let turns = |r: &Self, (f, p): &(Id, Power)| *p == Power::ONE && r.eval.sym.contains(*f, d) && r.has_trig(*f);
        let Some(&(inner, _)) = factors.iter().find(|f| turns(self, f)) else { return Ok(None) };
        let found = factors.iter().find_map(|(f, p)| {
            let squares = if *p == Power::MINUS_HALF && self.has_trig(*f) { self.squares(*f) } else { None };
            squares.filter(|squares| squares.group == width).map(|squares| (*f, squares))
        });
        let Some((norm, squares)) = found else { return Ok(None) };
        let others: Vec<(Id, Power)> = factors.into_iter().filter(|(f, _)| ![inner, norm].contains(f)).collect();
        let weight = self.eval.sym.powers(&others);
        let columns = self.eval.sym.number(width as f64);
        let square = self.eval.sym.pow(inner, Power::integer(2));
        let wanted = self.eval.sym.fold(Combine::Sum, d, columns, square);
        let summed = self.eval.sym.scaled(wanted, squares.scale);
        let summed = self.eval.sym.plus(summed, squares.offset);
        if summed != norm || self.is_varying(weight) {
            return self.fault("scales rotated columns by a norm of something else");
        }
        let turned = self.unrotate(&|r, at| Ok(r.moved(inner, d, at)), width)?;
        if turned.norm.is_some() || turned.rotated_from.is_some_and(|start| start > 0) {
            return self.fault("normalizes rotated columns in no regular way");
        }
        // scale sum(x^2) + e = scale n (mean(x^2) + eps); the norm of `factor` times a rotation is that of the rotation, but for eps.
        let n = width as f64;
        let (inside, weight) = self.eval.sym.coefficient(weight);
        let constant = self.eval.sym.as_number(weight);
        let outside = factor * inside * constant.unwrap_or(1.0) / (squares.scale * n).sqrt() * turned.factor.signum();
        let weight = match constant {
            Some(_) => None,
            None => Some(self.vector(weight, d, width, "a norm's weight")?),
        };
        let eps = (squares.offset / (squares.scale * n * turned.factor * turned.factor)) as f32;
        Ok(Some(Turned { factor: outside, norm: Some(NormAfter { weight, eps }), ..turned }))
    }

    /// An angle is a position times a frequency per pair.
    fn frequencies(&mut self, angle: Id, i: Id, half: u64) -> Res<ParamName> {
        let (c, term) = self.eval.sym.coefficient(angle);
        if let Some(Trig::Table(load)) = self.trig(term) {
            return self.angle_frequencies(load, c, i, half);
        }
        let (of_pair, others): (Vec<_>, Vec<_>) =
            self.eval.sym.factors(term).into_iter().partition(|(f, _)| self.eval.sym.contains(*f, i));
        let (frequency, position) = (self.eval.sym.powers(&of_pair), self.eval.sym.powers(&others));
        let frequency = self.eval.sym.scaled(frequency, c);
        self.counts(position)?;
        self.vector(frequency, i, half, "rotary frequencies")
    }

    /// Notes how the graph counts positions.
    pub(super) fn counts(&mut self, position: Id) -> Res<()> {
        let own = self.grid.column(&mut self.eval.sym);
        let given = match self.eval.sym.node(position) {
            Node::Load(base, index) => {
                self.grid.positions.is_some()
                    && self.eval.value_of(*base) == self.grid.positions
                    && **index == [self.grid.b, self.grid.s]
            }
            _ => false,
        };
        let rule = if given {
            PositionRule::Given
        } else if position == own {
            PositionRule::Column
        } else if self.counts_unmasked(position)? {
            self.masked = true;
            PositionRule::Unmasked
        } else {
            let text = self.eval.sym.show(position);
            return self.fault(format!("rotates by positions of no known form: {text}"));
        };
        self.position_rule(rule)
    }

    /// The rule is one for the whole graph.
    pub(super) fn position_rule(&mut self, rule: PositionRule) -> Res<()> {
        match self.positions.replace(rule) {
            Some(other) if other != rule => self.fault("counts positions in another way than the layers before"),
            _ => Ok(()),
        }
    }

    /// `sum of mask[b, j] over j up to the token, less 1`; at padding it may be anything.
    fn counts_unmasked(&mut self, position: Id) -> Res<bool> {
        let Some(mask) = self.grid.mask else { return Ok(false) };
        let own = self.grid.column(&mut self.eval.sym);
        let here = self.eval.element(mask, &[self.grid.b, own])?;
        let padding = self.eval.sym.zero(here);
        let no_padding = self.eval.sym.not(padding);
        let count = match *self.eval.sym.node(position) {
            Node::Select(condition, at_padding, count) if condition == padding && !self.is_varying(at_padding) => count,
            Node::Select(condition, count, at_padding) if condition == no_padding && !self.is_varying(at_padding) => count,
            _ => position,
        };
        let upto = self.eval.sym.plus(own, 1.0);
        let (terms, less_one) = self.eval.sym.terms(count);
        let [(fold, 1.0)] = terms[..] else { return Ok(false) };
        let Node::Fold(Combine::Sum, bound, body) = *self.eval.sym.node(fold) else { return Ok(false) };
        let element = self.eval.element(mask, &[self.grid.b, bound])?;
        Ok(less_one == -1.0 && self.eval.sym.bound_extent(bound) == Some(upto) && body == element)
    }

    /// The rotary of some frequencies, one for the whole step.
    pub(super) fn rotary(&mut self, rotation: &Rotation, scale: f64) -> Res<Value> {
        let positions = self.once("positions", Positions {}, &[])?;
        let scale = if is_one(scale) { 1.0 } else { scale as f32 };
        let key = format!("rotary {} {scale:?}", rotation.inv_freq);
        self.once(&key, Rotary { inv_freq: rotation.inv_freq.clone(), scale }, &[positions])
    }

    /// Whether two angles, or two stretches of a table, are the same for every pair.
    fn same_table(&mut self, a: Trig, b: Trig, i: Id, half: u64) -> Res<bool> {
        let (a, b) = match (a, b) {
            _ if a == b => return Ok(true),
            (Trig::Table(a), Trig::Table(b)) | (Trig::Cos(a), Trig::Cos(b)) | (Trig::Sin(a), Trig::Sin(b)) => (a, b),
            _ => return Ok(false),
        };
        let ((c, a), (d, b)) = (self.eval.sym.coefficient(a), self.eval.sym.coefficient(b));
        match (self.trig(a), self.trig(b)) {
            (Some(Trig::Table(a)), Some(Trig::Table(b))) if c == d => {
                Ok(self.table(a, i, half)?.numbers == self.table(b, i, half)?.numbers)
            }
            _ => Ok(false),
        }
    }

    /// Whether an element of a table is not 0 at position 0: then it is a cosine.
    fn starts_at_one(&mut self, load: Id, i: Id) -> bool {
        let Node::Load(base, index) = self.eval.sym.node(load).clone() else { return false };
        let (s, zero) = (self.grid.s, self.eval.sym.int(0));
        let first: Vec<Id> = index.iter().map(|at| if self.eval.sym.contains(*at, s) { zero } else { *at }).collect();
        let first = self.eval.sym.load(base, &first);
        let first = self.moved(first, i, zero);
        self.eval.sym.as_number(first).is_some_and(|x| x != 0.0)
    }
}
