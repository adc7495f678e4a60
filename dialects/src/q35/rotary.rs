//! Angles of rotary position embedding.

use crate::attr::ParamName;
use crate::data::{Data, Matrix};
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, shape};
use crate::ty::{Rows, Ty};

op! {
    /// Per token the cosines, then the sines, of `angle[i] = f32(position) * inv_freq[i]`, times `scale`. The product that is the angle is rounded to f32;
    /// cosine and sine of that angle are computed in f64, rounded to f32, and multiplied by `scale` in f32.
    Rotary = "rotary"(positions: Ids) -> Rotary {
        /// Angle per position, one for each pair of rotated columns.
        inv_freq: ParamName,
        /// Factor of cosines and sines.
        scale: f32,
    }
}

impl Semantics for Rotary {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        ensure(operands[0] == Ty::Ids { rows: Rows::Tokens }, || "operand 'positions' has not one row per token".to_owned())?;
        match shape(params, &self.inv_freq)? {
            (1, half) => Ok(Ty::Rotary { half }),
            (rows, cols) => Err(format!("@{} is a {rows}x{cols} matrix, not a vector", self.inv_freq)),
        }
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 3).reading([&self.inv_freq], params)
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let inv_freq = env.params.value(&self.inv_freq)?.row(0);
        let mut data = Vec::with_capacity(operands[0].ids().len() * 2 * inv_freq.len());
        for &position in operands[0].ids() {
            let angles: Vec<f64> = inv_freq.iter().map(|f| f64::from(position as f32 * f)).collect();
            data.extend(angles.iter().map(|a| a.cos() as f32 * self.scale));
            data.extend(angles.iter().map(|a| a.sin() as f32 * self.scale));
        }
        Ok(Data::Rotary(Matrix::new(2 * inv_freq.len(), data)))
    }
}
