//! Root-mean-square normalization.

use crate::attr::ParamName;
use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, vector};
use crate::ty::Ty;

op! {
    /// Per row, and per group of `group` columns: `y = x / sqrt(mean(x^2) + eps) * weight`. The reference computes in f64 and rounds once.
    RmsNorm = "rms_norm"(x: Act) -> Act {
        /// Factors: `group` of them, shared by the groups, or one per column. Absent: 1.
        weight: Option<ParamName>,
        /// Added to the mean square.
        eps: f32,
        /// Columns that are normalized together: the width, or the columns of a head.
        group: u64,
    }
}

impl Semantics for RmsNorm {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (_, width) = matrix(&operands[0]);
        ensure(self.group > 0 && width.is_multiple_of(self.group), || {
            format!("groups of {} columns do not divide the {width} columns of 'x'", self.group)
        })?;
        if let Some(weight) = &self.weight {
            let wanted = format!("{} (group) or {width} (width)", self.group);
            vector(params, weight, &wanted, |len| len == self.group || len == width)?;
        }
        Ok(same_rows(&operands[0], width))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 4).reading(&self.weight, params)
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let x = operands[0].act();
        let weight = self.weight.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0));
        let group = self.group as usize;
        let y = x.map_rows(x.width, |_, x, y| {
            for (at, (x, y)) in x.chunks_exact(group).zip(y.chunks_exact_mut(group)).enumerate() {
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / group as f64;
                let norm = (mean + f64::from(self.eps)).sqrt();
                for (i, (x, y)) in x.iter().zip(y).enumerate() {
                    let factor = weight.as_ref().map_or(1.0, |w| w[(at * group + i) % w.len()]);
                    *y = (f64::from(*x) / norm * f64::from(factor)) as f32;
                }
            }
        });
        Ok(Data::Act(y))
    }
}
