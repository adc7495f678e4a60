//! Error-compensated rounding of rows: containers by the search of [`crate::survivors`], scales by least squares under `H`.
//!
//! For given integers `q_g` of the column groups the error `e H e^T` is a quadratic form in their scales `s`,
//!
//! ```text
//! w H w^T - 2 sum_g s_g b_g + sum_gh s_g s_h M_gh       b_g = q_g H w^T,  M_gh = q_g H q_h^T
//! ```
//!
//! whose minimum is closed for one group, and found by going round the groups for more. The encoder starts from what
//! round-to-nearest leaves, and then goes [`SWEEPS`] times from scales to containers and back. The best of all of these is taken, by the
//! undamped `H` and the scales as they are stored, so that a row is never worse than rounded to nearest.
//!
//! A block of rows goes through each of these steps together: what multiplies `H` is one product of matrices for all of them.

use crate::aim::{Aim, Observed};
use crate::dense::{Part, View, add_product};
use crate::hessian::Factor;
use crate::survivors::{STRIP, Search};
use q35_diag::Result;
use q35_format::encode::Encoder;
use q35_format::trellis::{LANES, Lane};
use q35_format::{Group, Packed, PackedSpec, stream, table};
use rayon::prelude::*;

/// Searches per row.
const SWEEPS: usize = 2;
/// Rounds over the column groups of a fit.
const ROUNDS: usize = 8;

/// Encodes the rows of one parameter.
pub(crate) struct Compensator {
    /// `H`, `[cols, cols]`.
    hessian: Vec<f64>,
    factor: Factor,
    aim: Aim,
    search: Search,
    nearest: Encoder,
}

/// `e H e^T` and `w H w^T` of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weighted {
    pub(crate) error: f64,
    pub(crate) size: f64,
}

/// A block of rows as they would be stored.
struct Candidate {
    /// By [`LANES`] rows, then by container.
    containers: Vec<Vec<Lane<u8>>>,
    /// `[rows, groups]`.
    scales: Vec<f32>,
    /// By row.
    errors: Vec<f64>,
}

impl Compensator {
    /// For rows of `spec`, a symmetric one of a pair codec, of the layer that was observed. `origin` is the weight in the model's words.
    pub(crate) fn new(spec: PackedSpec, observed: Observed<'_>, origin: &str) -> Result<Self> {
        let hessian = observed.hessian;
        assert_eq!(spec.cols(), hessian.cols(), "'{origin}' reads what was observed");
        assert!(spec.codec().window().is_some() && !spec.asymmetric(), "'{origin}' has a pair codec");
        let factor = hessian.factor(origin)?;
        let aim = Aim::new(observed, &factor);
        let search = Search::new(table::pairs(spec.codec()));
        Ok(Self { hessian: hessian.whole(), factor, aim, search, nearest: Encoder::new(spec) })
    }

    /// Share of the mean diagonal that was added to `H`.
    pub(crate) fn damping(&self) -> f64 {
        self.factor.damping
    }

    /// Encodes rows, the first of which is row `first` of the parameter, on all cores. Gives them in pieces of [`LANES`] rows.
    pub(crate) fn block(&self, first: usize, rows: &[f32]) -> Vec<(Packed, Vec<Weighted>)> {
        let cols = self.nearest.spec().cols();
        let rows = self.aim.rows(first, rows);
        let form = Form::new(self, &rows);
        let lanes: Vec<Vec<Lane<f32>>> = rows.par_chunks(LANES * cols).map(|rows| self.columns(rows)).collect();
        let mut best = self.to_nearest(&rows, &form);
        let mut scales = best.scales.clone();
        for _ in 0..SWEEPS {
            let search = |(at, columns): (usize, &Vec<Lane<f32>>)| {
                self.search.run(&self.factor, columns, &|strip| self.scales_of(&scales, at, strip))
            };
            let containers = lanes.par_iter().enumerate().map(search).collect();
            let found = form.candidate(containers, &scales);
            scales.clone_from(&found.scales);
            best.improve(&found);
        }
        let size = rows.len() / cols;
        (0..best.containers.len()).into_par_iter().map(|at| best.pack(&form, at, (size - at * LANES).min(LANES))).collect()
    }

    /// The scales of a strip of the columns of the rows from `at * LANES` on; 0 where there is no row.
    fn scales_of(&self, scales: &[f32], at: usize, strip: usize) -> Lane<f32> {
        let spec = self.nearest.spec();
        let group = match spec.group() {
            Group::Row => 0,
            Group::Columns(columns) => strip * STRIP / columns as usize,
        };
        std::array::from_fn(|lane| scales.get((at * LANES + lane) * spec.groups() + group).copied().unwrap_or(0.0))
    }

    /// At most [`LANES`] rows as columns of lanes, padded to an even number.
    fn columns(&self, rows: &[f32]) -> Vec<Lane<f32>> {
        let mut columns = vec![[0.0; LANES]; self.factor.cols()];
        for (lane, row) in rows.chunks_exact(self.nearest.spec().cols()).enumerate() {
            columns.iter_mut().zip(row).for_each(|(column, w)| column[lane] = *w);
        }
        columns
    }

    /// What round-to-nearest makes of the rows.
    fn to_nearest(&self, rows: &[f32], form: &Form<'_>) -> Candidate {
        let spec = self.nearest.spec();
        let encode = |rows: &[f32]| {
            // Whole rows always encode, and what was just encoded passes its own checks.
            let packed = self.nearest.rows(rows).unwrap_or_else(|error| panic!("whole rows: {error}"));
            let view = packed.view().unwrap_or_else(|error| panic!("fresh sections: {error}"));
            let mut containers = vec![[0; LANES]; stream::containers(spec.cols())];
            let mut scales = Vec::new();
            for lane in 0..packed.spec.rows() {
                let row = stream::windows(view.row(lane), containers.len(), 7);
                containers.iter_mut().zip(row).for_each(|(containers, code)| containers[lane] = code as u8);
                scales.extend((0..spec.groups()).map(|group| view.scale(lane, group)));
            }
            (containers, scales)
        };
        let (containers, scales): (Vec<_>, Vec<_>) = rows.par_chunks(LANES * spec.cols()).map(encode).unzip();
        form.candidate(containers, &scales.concat())
    }
}

impl Candidate {
    /// Takes the rows in which `other` is better.
    fn improve(&mut self, other: &Candidate) {
        let groups = self.scales.len() / self.errors.len();
        for row in (0..self.errors.len()).filter(|&row| other.errors[row] < self.errors[row]).collect::<Vec<_>>() {
            let (at, lane) = (row / LANES, row % LANES);
            self.errors[row] = other.errors[row];
            self.containers[at].iter_mut().zip(&other.containers[at]).for_each(|(mine, other)| mine[lane] = other[lane]);
            let range = row * groups..(row + 1) * groups;
            self.scales[range.clone()].copy_from_slice(&other.scales[range]);
        }
    }

    /// The bytes of `rows` rows from `at * LANES` on.
    fn pack(&self, form: &Form<'_>, at: usize, rows: usize) -> (Packed, Vec<Weighted>) {
        let spec = form.spec.with_rows(rows).unwrap_or_else(|error| panic!("fewer rows of the same kind: {error}"));
        let mut packed = Packed { spec, codes: vec![0; spec.codes_bytes()], scales: Vec::new(), offsets: Vec::new() };
        for (lane, row) in packed.codes.chunks_exact_mut(spec.row_bytes()).enumerate() {
            stream::write(self.containers[at].iter().map(|containers| containers[lane]), row);
        }
        let scales = &self.scales[at * LANES * spec.groups()..][..rows * spec.groups()];
        scales.iter().for_each(|scale| spec.scale().push(&mut packed.scales, *scale));
        let weighted =
            (at * LANES..at * LANES + rows).map(|row| Weighted { error: self.errors[row].max(0.0), size: form.size[row] });
        (packed, weighted.collect())
    }
}

/// The quadratic form of a block of rows.
struct Form<'a> {
    compensator: &'a Compensator,
    spec: PackedSpec,
    /// `W H`, `[rows, cols]`.
    image: Vec<f64>,
    /// `w H w^T`, by row.
    size: Vec<f64>,
}

impl<'a> Form<'a> {
    fn new(compensator: &'a Compensator, rows: &[f32]) -> Self {
        let spec = compensator.nearest.spec();
        let cols = spec.cols();
        let mut image = vec![0.0; rows.len()];
        let hessian = View::matrix(&compensator.hessian, cols);
        add_product(&mut image, cols, 1.0f64, View::matrix(rows, cols), hessian, Part::Whole);
        let size = rows.par_chunks(cols).zip(image.par_chunks(cols)).map(|(w, image)| dot(w, image)).collect();
        Self { compensator, spec, image, size }
    }

    /// Containers with the better of the scales given and those that fit.
    fn candidate(&self, containers: Vec<Vec<Lane<u8>>>, scales: &[f32]) -> Candidate {
        let (cols, groups) = (self.spec.cols(), self.spec.groups());
        let integers = self.integers(&containers);
        let columns = |group| self.spec.group().columns(cols, group);
        // By row, then by the two groups.
        let mut m = vec![0.0; self.size.len() * groups * groups];
        let mut partial = vec![0.0; integers.len()];
        for h in 0..groups {
            let from = columns(h);
            partial.fill(0.0);
            let q = View::rows(&integers[from.start..], self.size.len(), from.len(), cols);
            let hessian = View::matrix(&self.compensator.hessian[from.start * cols..from.end * cols], cols);
            add_product(&mut partial, cols, 1.0f64, q, hessian, Part::Whole);
            let rows = integers.par_chunks(cols).zip(partial.par_chunks(cols));
            m.par_chunks_mut(groups * groups).zip(rows).for_each(|(m, (q, partial))| {
                (0..groups).for_each(|g| m[g * groups + h] = dot(&q[columns(g)], &partial[columns(g)]));
            });
        }
        let fit_row = |row: usize| {
            let (q, image) = (&integers[row * cols..][..cols], &self.image[row * cols..][..cols]);
            let b: Vec<f64> = (0..groups).map(|g| dot(&q[columns(g)], &image[columns(g)])).collect();
            let given: Vec<f64> = scales[row * groups..][..groups].iter().map(|scale| f64::from(*scale)).collect();
            self.better(row, &m[row * groups * groups..][..groups * groups], &b, given)
        };
        let (scales, errors): (Vec<_>, Vec<_>) = (0..self.size.len()).into_par_iter().map(fit_row).unzip();
        Candidate { containers, scales: scales.concat(), errors }
    }

    /// The better of the scales given and those that fit, and their error.
    fn better(&self, row: usize, m: &[f64], b: &[f64], given: Vec<f64>) -> (Vec<f32>, f64) {
        let groups = b.len();
        let error = |s: &[f64]| {
            let row_of = |g: usize| -> f64 { (0..groups).map(|h| m[g * groups + h] * s[h]).sum() };
            self.size[row] + (0..groups).map(|g| s[g] * (row_of(g) - 2.0 * b[g])).sum::<f64>()
        };
        let round = |s: f64| f64::from(self.spec.scale().round(s as f32));
        let fit: Vec<f64> = fit(m, b, &given).into_iter().map(round).collect();
        let take = if error(&fit) < error(&given) { fit } else { given };
        let least = error(&take);
        (take.into_iter().map(|s| s as f32).collect(), least)
    }

    /// The integers that containers mean, `[rows, cols]`.
    fn integers(&self, containers: &[Vec<Lane<u8>>]) -> Vec<f32> {
        let cols = self.spec.cols();
        let mut out = vec![0.0; self.image.len()];
        out.par_chunks_mut(LANES * cols).zip(containers).for_each(|(out, containers)| {
            let integers = self.compensator.search.integers(containers);
            for (lane, out) in out.chunks_exact_mut(cols).enumerate() {
                out.iter_mut().zip(&integers).for_each(|(out, q)| *out = q[lane]);
            }
        });
        out
    }
}

/// Scales of least error, from `start`: each in turn at its best for the others. A scale that would not be positive stays as it is.
fn fit(m: &[f64], b: &[f64], start: &[f64]) -> Vec<f64> {
    let mut s = start.to_vec();
    for _ in 0..if s.len() == 1 { 1 } else { ROUNDS } {
        for g in 0..s.len() {
            let others: f64 = (0..s.len()).filter(|&h| h != g).map(|h| m[g * s.len() + h] * s[h]).sum();
            let best = (b[g] - others) / m[g * s.len() + g];
            if best.is_finite() && best > 0.0 {
                s[g] = best;
            }
        }
    }
    s
}

/// Sum over columns, in order.
fn dot(row: &[f32], image: &[f64]) -> f64 {
    row.iter().zip(image).map(|(x, y)| f64::from(*x) * y).sum()
}
