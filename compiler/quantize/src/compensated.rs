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

use crate::aim::{Aim, Observed};
use crate::hessian::{Factor, Hessian};
use crate::survivors::{STRIP, Search};
use q35_diag::Result;
use q35_format::encode::Encoder;
use q35_format::trellis::{LANES, Lane};
use q35_format::{Group, Packed, PackedSpec, stream, table};

/// Searches per row.
const SWEEPS: usize = 2;
/// Rounds over the column groups of a fit.
const ROUNDS: usize = 8;

/// Encodes the rows of one parameter.
pub(crate) struct Compensator<'a> {
    hessian: &'a Hessian,
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

/// Sixteen rows as they would be stored.
struct Candidate {
    containers: Vec<Lane<u8>>,
    /// By group.
    scales: Vec<Lane<f32>>,
    error: Lane<f64>,
}

impl<'a> Compensator<'a> {
    /// For rows of `spec`, a symmetric one of a pair codec, of the layer that was observed. `origin` is the weight in the model's words.
    pub(crate) fn new(spec: PackedSpec, observed: Observed<'a>, origin: &str) -> Result<Self> {
        let hessian = observed.hessian;
        assert_eq!(spec.cols(), hessian.cols(), "'{origin}' reads what was observed");
        assert!(spec.codec().window().is_some() && !spec.asymmetric(), "'{origin}' has a pair codec");
        let factor = hessian.factor(origin)?;
        let aim = Aim::new(observed, &factor);
        Ok(Self { hessian, factor, aim, search: Search::new(table::pairs(spec.codec())), nearest: Encoder::new(spec) })
    }

    /// Share of the mean diagonal that was added to `H`.
    pub(crate) fn damping(&self) -> f64 {
        self.factor.damping
    }

    /// Encodes at most [`LANES`] rows, the first of which is row `first` of the parameter.
    pub(crate) fn rows(&self, first: usize, rows: &[f32]) -> (Packed, Vec<Weighted>) {
        let rows = &self.aim.rows(first, rows);
        // Whole rows always encode.
        let nearest = self.nearest.rows(rows).unwrap_or_else(|error| panic!("whole rows: {error}"));
        let spec = nearest.spec;
        let columns = self.columns(rows, spec.cols());
        let form = Form::new(self.hessian, &columns, self.nearest.spec());
        let mut best = self.decode(&nearest, &form);
        let mut scales = best.scales.clone();
        for _ in 0..SWEEPS {
            let scale = |strip: usize| match spec.group() {
                Group::Row => scales[0],
                Group::Columns(columns) => scales[strip * STRIP / columns as usize],
            };
            let containers = self.search.run(&self.factor, &columns, &scale);
            let found = form.candidate(&self.search, containers, &scales);
            scales.clone_from(&found.scales);
            best.improve(&found);
        }
        let mut packed = Packed { codes: Vec::new(), scales: Vec::new(), ..nearest };
        for lane in 0..spec.rows() {
            let start = packed.codes.len();
            packed.codes.resize(start + spec.row_bytes(), 0);
            stream::write(best.containers.iter().map(|containers| containers[lane]), &mut packed.codes[start..]);
            best.scales.iter().for_each(|scales| spec.scale().push(&mut packed.scales, scales[lane]));
        }
        let weighted =
            (0..spec.rows()).map(|lane| Weighted { error: best.error[lane].max(0.0), size: form.size[lane] }).collect();
        (packed, weighted)
    }

    /// Rows as columns of lanes, padded to an even number.
    fn columns(&self, rows: &[f32], cols: usize) -> Vec<Lane<f32>> {
        let mut columns = vec![[0.0; LANES]; self.factor.cols()];
        for (lane, row) in rows.chunks_exact(cols).enumerate() {
            columns.iter_mut().zip(row).for_each(|(column, w)| column[lane] = *w);
        }
        columns
    }

    /// What round-to-nearest made of the rows.
    fn decode(&self, nearest: &Packed, form: &Form) -> Candidate {
        let spec = nearest.spec;
        let view = nearest.view().unwrap_or_else(|error| panic!("fresh sections: {error}"));
        let mut containers = vec![[0; LANES]; stream::containers(spec.cols())];
        let mut scales = vec![[0.0; LANES]; spec.groups()];
        for lane in 0..spec.rows() {
            let row = stream::windows(view.row(lane), containers.len(), 7);
            containers.iter_mut().zip(row).for_each(|(containers, code)| containers[lane] = code as u8);
            scales.iter_mut().enumerate().for_each(|(group, scales)| scales[lane] = view.scale(lane, group));
        }
        form.candidate(&self.search, containers, &scales)
    }
}

impl Candidate {
    /// Takes the lanes in which `other` is better.
    fn improve(&mut self, other: &Candidate) {
        let better: Lane<bool> = std::array::from_fn(|lane| other.error[lane] < self.error[lane]);
        for lane in (0..LANES).filter(|&lane| better[lane]) {
            self.error[lane] = other.error[lane];
            self.containers.iter_mut().zip(&other.containers).for_each(|(mine, other)| mine[lane] = other[lane]);
            self.scales.iter_mut().zip(&other.scales).for_each(|(mine, other)| mine[lane] = other[lane]);
        }
    }
}

/// The quadratic form of sixteen rows.
struct Form<'a> {
    hessian: &'a Hessian,
    spec: PackedSpec,
    /// `H w^T`, by column.
    image: Vec<Lane<f64>>,
    /// `w H w^T`.
    size: Lane<f64>,
}

impl<'a> Form<'a> {
    fn new(hessian: &'a Hessian, columns: &[Lane<f32>], spec: PackedSpec) -> Self {
        let image: Vec<_> = (0..hessian.cols()).map(|k| dot(hessian.row(k), columns)).collect();
        let mut size = [0.0; LANES];
        for (column, image) in columns.iter().zip(&image) {
            (0..LANES).for_each(|lane| size[lane] += f64::from(column[lane]) * image[lane]);
        }
        Self { hessian, spec, image, size }
    }

    /// Containers with the better of the scales given and those that fit.
    fn candidate(&self, search: &Search, containers: Vec<Lane<u8>>, scales: &[Lane<f32>]) -> Candidate {
        let groups = scales.len();
        let integers = search.integers(&containers);
        let columns = |group| self.spec.group().columns(self.spec.cols(), group);
        let mut b = vec![[0.0; LANES]; groups];
        let mut m = vec![[0.0; LANES]; groups * groups];
        for g in 0..groups {
            for k in columns(g) {
                let q = integers[k].map(f64::from);
                (0..LANES).for_each(|lane| b[g][lane] += q[lane] * self.image[k][lane]);
                for h in 0..groups {
                    let partial = dot(&self.hessian.row(k)[columns(h)], &integers[columns(h)]);
                    (0..LANES).for_each(|lane| m[g * groups + h][lane] += q[lane] * partial[lane]);
                }
            }
        }
        let mut best = Candidate { containers, scales: scales.to_vec(), error: [0.0; LANES] };
        for lane in 0..LANES {
            let b: Vec<f64> = b.iter().map(|b| b[lane]).collect();
            let m: Vec<f64> = m.iter().map(|m| m[lane]).collect();
            let error = |s: &[f64]| {
                let row = |g: usize| -> f64 { (0..groups).map(|h| m[g * groups + h] * s[h]).sum() };
                self.size[lane] + (0..groups).map(|g| s[g] * (row(g) - 2.0 * b[g])).sum::<f64>()
            };
            let given: Vec<f64> = scales.iter().map(|scales| f64::from(scales[lane])).collect();
            let round = |s: f64| f64::from(self.spec.scale().round(s as f32));
            let fit: Vec<f64> = fit(&m, &b, &given).into_iter().map(round).collect();
            let take = if error(&fit) < error(&given) { fit } else { given };
            best.error[lane] = error(&take);
            best.scales.iter_mut().zip(&take).for_each(|(scales, s)| scales[lane] = *s as f32);
        }
        best
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
fn dot(row: &[f64], columns: &[Lane<f32>]) -> Lane<f64> {
    let mut sums = [0.0; LANES];
    for (h, column) in row.iter().zip(columns) {
        (0..LANES).for_each(|lane| sums[lane] += h * f64::from(column[lane]));
    }
    sums
}
