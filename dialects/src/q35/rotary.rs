//! Angles of rotary position embedding.

use crate::attr::ParamName;
use crate::data::{Data, Matrix};
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, shape};
use crate::ty::{Rows, Ty};

op! {
    /// Per token the cosines, then the sines, of `angle[i] = f32(position) * inv_freq[i]`, times `scale`. The product that is
    /// the angle is rounded to f32; cosine and sine of that angle are computed in f64, rounded to f32, and multiplied by
    /// `scale` in f32.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, infer, near};

    #[test]
    fn angles_are_positions_times_frequencies() {
        let mut bench = Bench::with_params(&[("f", 2, &[1.0, 0.25])]);
        let op = Rotary { inv_freq: "f".into(), scale: 2.0 };
        let y = bench.eval(op, &[&Data::Ids(vec![0, 3])]);
        let expected = [2.0, 2.0, 0.0, 0.0, -1.9799849932008908, 1.4633777377476418, 0.2822400161197344, 1.3632775200466682];
        near(&y.rotary().data, &expected, 1e-6);
    }

    /// The angle is rounded to f32 before its cosine is taken: at position 16777217 the position itself is rounded.
    #[test]
    fn positions_are_f32() {
        let mut bench = Bench::with_params(&[("f", 1, &[1.0])]);
        let y = bench.eval(Rotary { inv_freq: "f".into(), scale: 1.0 }, &[&Data::Ids(vec![16_777_217])]);
        near(&y.rotary().data, &[16_777_216f64.cos(), 16_777_216f64.sin()], 1e-7);
    }

    #[test]
    fn frequencies_are_a_vector() {
        let (op, ids) = (Rotary { inv_freq: "f".into(), scale: 1.0 }, |rows| Ty::Ids { rows });
        assert_eq!(infer(op.clone(), &[ids(Rows::Tokens)], &[("f", 1, 8)]), Ok(Ty::Rotary { half: 8 }));
        assert_eq!(infer(op.clone(), &[ids(Rows::Tokens)], &[("f", 2, 8)]), Err("@f is a 2x8 matrix, not a vector".into()));
        assert!(infer(op, &[ids(Rows::Logits)], &[("f", 1, 8)]).is_err());
    }
}
