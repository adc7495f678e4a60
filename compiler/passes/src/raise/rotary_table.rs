//! Tables of cosines and sines by position, as static exports and some fused ops have them: the frequencies are fitted, and the
//! table is checked against them entry by entry.

use super::{Raiser, Res};
use crate::sym::{Base, Id, Node};
use q35_dialects::{Param, ParamName, ParamRole};
use q35_graph::{DType, Tensor, WeightView};
use std::f64::consts::TAU;

/// Numbers of a table, one row per position.
pub(super) struct Table {
    /// The expression that picks the row, less the first row's position.
    pub position: Id,
    /// The first row's position.
    first: u64,
    /// Row-major, one column per pair.
    pub numbers: Vec<f64>,
    name: String,
    dtype: DType,
}

impl Raiser<'_> {
    /// The table behind an element that is a function of a position and of the pair `i`.
    pub(super) fn table(&mut self, load: Id, i: Id, half: u64) -> Res<Table> {
        let Node::Load(base, index) = self.eval.sym.node(load).clone() else { return self.consequence() };
        let Base::Constant(name, tensor) = self.eval.sym.base(base).clone() else { return self.consequence() };
        let strange = "rotates by a table of no known layout";
        let mut strides = vec![1u64; index.len()];
        for at in (1..index.len()).rev() {
            strides[at - 1] = strides[at] * tensor.dims()[at];
        }
        let (mut offset, mut row, mut column) = (0u64, None, None);
        for (at, &expr) in index.iter().enumerate() {
            // Pairs may lie apart: their index is a multiple of `i` and a constant.
            let (terms, start) = self.eval.sym.terms(expr);
            let step = terms.iter().find(|(term, _)| *term == i).map(|(_, step)| *step);
            match (self.eval.sym.as_int(expr), step) {
                (Some(fixed), _) if fixed >= 0 => offset += fixed as u64 * strides[at],
                (_, Some(step)) if terms.len() == 1 && step >= 1.0 && start >= 0.0 && column.is_none() => {
                    let (start, step) = (start as u64, step as u64);
                    offset += start * strides[at];
                    column = Some((strides[at] * step, start + step * half.saturating_sub(1) < tensor.dims()[at]));
                }
                _ if row.is_none() => row = Some((expr, tensor.dims()[at], strides[at])),
                _ => return self.fault(strange),
            }
        }
        let (Some((position, rows, row_stride)), Some((stride, true))) = (row, column) else { return self.fault(strange) };
        if offset + (rows.max(1) - 1) * row_stride + (half.max(1) - 1) * stride >= tensor.count() {
            return self.fault(strange);
        }
        let numbers = (0..rows)
            .flat_map(|r| (0..half).map(move |c| (r, c)))
            .map(|(r, c)| tensor.number(offset + r * row_stride + c * stride))
            .collect();
        // Where so many tokens are always cached, a table may have rows for the new ones alone.
        let cached = self.grid.past.and_then(|past| self.eval.sym.as_int(past)).filter(|_| position == self.grid.s);
        let (position, first) = match cached {
            Some(first) => (self.grid.column(&mut self.eval.sym), first as u64),
            None => (position, 0),
        };
        Ok(Table { position, first, numbers, name, dtype: tensor.dtype() })
    }

    /// Frequencies behind tables of cosines and of sines, which are to be multiplied by a sign, and the length of what they rotate by.
    pub(super) fn table_frequencies(&mut self, tables: [Id; 2], sign: f64, i: Id, half: u64) -> Res<(ParamName, f64)> {
        let (cos, mut sin) = (self.table(tables[0], i, half)?, self.table(tables[1], i, half)?);
        sin.numbers.iter_mut().for_each(|number| *number *= sign);
        if cos.position != sin.position {
            return self.fault("takes cosine and sine of different positions");
        }
        self.counts(cos.position)?;
        self.fitted(&cos, &sin, half)
    }

    /// As [`Raiser::table_frequencies`], for tables whose rows are the positions.
    pub(super) fn fitted(&mut self, cos: &Table, sin: &Table, half: u64) -> Res<(ParamName, f64)> {
        if cos.first > 0 {
            return self.fault(format!("rotates by tables '{}' and '{}' that lack the first positions", cos.name, sin.name));
        }
        let Some((frequencies, length)) = fit(&cos.numbers, &sin.numbers, half as usize, precision(cos.dtype)) else {
            return self.fault(format!(
                "rotates by tables '{}' and '{}' that are no cosines and sines of positions",
                cos.name, sin.name
            ));
        };
        Ok((self.frequencies_of(cos, &frequencies), length))
    }

    /// Frequencies behind a table of angles, of which `factor` times is rotated by.
    pub(super) fn angle_frequencies(&mut self, load: Id, factor: f64, i: Id, half: u64) -> Res<ParamName> {
        let table = self.table(load, i, half)?;
        self.counts(table.position)?;
        let Some(frequencies) = multiples(&table.numbers, table.first, factor, half as usize, precision(table.dtype)) else {
            return self.fault(format!("rotates by a table '{}' that holds no angles of positions", table.name));
        };
        Ok(self.frequencies_of(&table, &frequencies))
    }

    /// The parameter with the frequencies of a table, which says nothing of longer texts than it has rows.
    fn frequencies_of(&mut self, table: &Table, frequencies: &[f32]) -> ParamName {
        let half = frequencies.len() as u64;
        self.context = self.context.min(table.first + table.numbers.len() as u64 / half.max(1));
        let identity: Vec<u32> = frequencies.iter().map(|f| f.to_bits()).collect();
        if let Some((_, name)) = self.tables.iter().find(|(numbers, _)| *numbers == identity) {
            return name.clone();
        }
        let view = WeightView::vector(Tensor::from_f32(vec![half], frequencies));
        let name = self.param(Param::new(view, ParamRole::Vector, table.name.clone()));
        self.tables.push((identity, name.clone()));
        name
    }
}

/// Half a unit in the last place, relative.
fn precision(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    }
}

/// Frequencies `f` and a length `a` such that `cos[p][i] = a cos(p f_i)` and `sin[p][i] = a sin(p f_i)` to the tables' precision, the
/// angle itself having been rounded to f32.
fn fit(cos: &[f64], sin: &[f64], half: usize, precision: f64) -> Option<(Vec<f32>, f64)> {
    if half == 0 || cos.len() != sin.len() || cos.len() < 2 * half {
        return None;
    }
    let rows = cos.len() / half;
    let length = cos[0];
    let mut frequencies = Vec::with_capacity(half);
    for i in 0..half {
        let angle = |p: usize| sin[p * half + i].atan2(cos[p * half + i]);
        let mut f = angle(1);
        // Whole turns are counted with the frequency known so far; all angles then vote, the late ones with more weight.
        let (mut votes, mut weight) = (0.0, 0.0);
        for p in 1..rows {
            let turns = ((f * p as f64 - angle(p)) / TAU).round();
            votes += p as f64 * (angle(p) + turns * TAU);
            weight += (p * p) as f64;
            f = votes / weight;
        }
        let f = f as f32;
        for p in 0..rows {
            let exact = p as f64 * f64::from(f);
            let room = 2.0 * length.abs() * (precision + (exact.abs() + 1.0) * 2f64.powi(-23));
            if (cos[p * half + i] - length * exact.cos()).abs() > room
                || (sin[p * half + i] - length * exact.sin()).abs() > room
            {
                return None;
            }
        }
        frequencies.push(f);
    }
    Some((frequencies, length))
}

/// Frequencies `f` such that `factor angles[p][i] = (first + p) f_i` to the table's precision.
fn multiples(angles: &[f64], first: u64, factor: f64, half: usize, precision: f64) -> Option<Vec<f32>> {
    if half == 0 || angles.len() < 2 * half {
        return None;
    }
    // The last row says most.
    let position = |at: usize| first as f64 + (at / half) as f64;
    let last = angles.len() - half;
    let frequency = |i: usize| factor * angles[last + i] / position(last);
    let frequencies: Vec<f32> = (0..half).map(|i| frequency(i) as f32).collect();
    let fits = angles.iter().enumerate().all(|(at, angle)| {
        let exact = position(at) * frequency(at % half);
        (factor * angle - exact).abs() <= 4.0 * precision * exact.abs()
    });
    fits.then_some(frequencies)
}

#[cfg(test)]
mod tests {
    use super::{fit, multiples};

    #[test]
    fn frequencies_come_back_from_angles() {
        let wanted: Vec<f32> = (0..8).map(|i| 10000f32.powf(-(i as f32) / 8.0)).collect();
        let mut angles: Vec<f64> = (0..7).flat_map(|p| wanted.iter().map(move |f| f64::from(p as f32 * f))).collect();
        let got = multiples(&angles, 0, 1.0, 8, 2f64.powi(-24)).unwrap();
        assert!(got.iter().zip(&wanted).all(|(got, wanted)| (got / wanted - 1.0).abs() < 1e-7));
        let halved = multiples(&angles, 0, 0.5, 8, 2f64.powi(-24)).unwrap();
        assert!(halved.iter().zip(&wanted).all(|(got, wanted)| (2.0 * got / wanted - 1.0).abs() < 1e-7));
        // From position 1 on.
        assert_eq!(multiples(&angles[8..], 1, 1.0, 8, 2f64.powi(-24)).unwrap(), got);
        assert!(multiples(&angles[8..], 0, 1.0, 8, 2f64.powi(-24)).is_none());
        angles[3 * 8 + 2] += 1e-5;
        assert!(multiples(&angles, 0, 1.0, 8, 2f64.powi(-24)).is_none());
    }

    #[test]
    fn frequencies_come_back_from_their_tables() {
        let wanted: Vec<f32> = (0..8).map(|i| 10000f32.powf(-(i as f32) / 8.0)).collect();
        for rows in [7usize, 256] {
            let angles: Vec<f64> = (0..rows).flat_map(|p| wanted.iter().map(move |f| f64::from(p as f32 * f))).collect();
            let of = |g: fn(f64) -> f64| angles.iter().map(|a| f64::from((g(*a) * 1.25) as f32)).collect::<Vec<f64>>();
            let (cos, sin) = (of(f64::cos), of(f64::sin));
            let (got, length) = fit(&cos, &sin, 8, 2f64.powi(-24)).unwrap();
            assert!((length - 1.25).abs() < 1e-6);
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!((got / wanted - 1.0).abs() < 3e-7, "{got} {wanted}");
            }
            let mut broken = sin.clone();
            broken[3 * 8 + 2] += 1e-4;
            assert!(fit(&cos, &broken, 8, 2f64.powi(-24)).is_none());
            assert!(fit(&sin, &cos, 8, 2f64.powi(-24)).is_none());
        }
    }
}
